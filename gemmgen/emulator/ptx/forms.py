"""Match opcodes against the instruction forms of ``isa.txt``; what matches none is an error."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gemmgen.errors import EmulationError


@dataclass(frozen=True)
class _Slot:
    """One position of a pattern: a literal or a choice, required or optional."""

    key: str
    options: frozenset[str] | None
    optional: bool

    def accepts(self, word: str) -> bool:
        return self.options is None or word in self.options


@dataclass(frozen=True)
class Form:
    """An instruction form.

    Attributes:
        semantic: the name executors register under, such as ``int.add``.
        slots: the pattern's positions after the mnemonic.
        pattern: the line of ``isa.txt``, for messages.
    """

    semantic: str
    slots: tuple[_Slot, ...]
    pattern: str

    def match(self, words: list[str]) -> dict[str, str] | None:
        """The modifiers of an opcode by key, or None where it is of another form."""
        found: dict[str, str] = {}
        position = 0
        for slot in self.slots:
            if position < len(words) and slot.accepts(words[position]):
                found[slot.key] = words[position]
                position += 1
            elif not slot.optional:
                return None
        return found if position == len(words) else None


def match(opcode: str, where: str) -> tuple[Form, dict[str, str]]:
    """Find the form of an opcode.

    Args:
        opcode: mnemonic and modifiers, such as ``add.s32``.
        where: for the error.

    Returns:
        The form, and its modifiers by key; absent optional ones are missing.

    Raises:
        EmulationError: no form matches.
    """
    try:
        return _match(opcode)
    except KeyError:
        mnemonic = opcode.split(".")[0]
        forms = _table().get(mnemonic)
        if forms is None:
            close = difflib.get_close_matches(mnemonic, _table(), 1)
            fix = f"did you mean {close[0]}?" if close else None
            raise EmulationError("unknown instruction", where=where, got=opcode, fix=fix) from None
        need = " or ".join(form.pattern for form in forms[:6])
        raise EmulationError("unknown modifier or form", where=where, got=opcode, need=need) from None


@cache
def _match(opcode: str) -> tuple[Form, dict[str, str]]:
    mnemonic, *words = opcode.split(".")
    for form in _table()[mnemonic]:
        modifiers = form.match(words)
        if modifiers is not None:
            return form, modifiers
    raise KeyError(opcode)


@cache
def _table() -> dict[str, list[Form]]:
    table: dict[str, list[Form]] = {}
    for mnemonic, form in _read_forms():
        table.setdefault(mnemonic, []).append(form)
    return table


def _read_forms() -> Iterator[tuple[str, Form]]:
    sets: dict[str, str] = {}
    for line in Path(__file__).with_name("isa.txt").read_text().splitlines():
        if line.startswith("$"):
            name, _, options = line.partition(" = ")
            sets[name] = options
        elif line and not line.startswith("#"):
            semantic, _, pattern = line.partition(": ")
            mnemonic, *words = pattern.split()
            yield mnemonic, Form(semantic, tuple(_slot(word, sets) for word in words), pattern)


def _slot(word: str, sets: dict[str, str]) -> _Slot:
    key, equals, options = word.partition("=")
    optional = key.endswith("?")
    key = key.rstrip("?")
    if not equals:
        return _Slot(key, frozenset([key]), optional)
    if options == "*":
        return _Slot(key, None, optional)
    return _Slot(key, frozenset(sets.get(options, options).split("|")), optional)


def semantics() -> frozenset[str]:
    """The semantics of all forms, each of which needs an executor."""
    return frozenset(form.semantic for _, form in _read_forms())
