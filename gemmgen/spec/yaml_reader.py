"""Strict YAML: one document of plain mappings, lists and scalars, with the position of every key and value.

PyYAML scans (with libyaml where it is built in); this module reads its event stream, so that anchors, aliases, tags and
depth are refused as they appear, before anything is expanded. Scalars follow YAML 1.2: only ``true`` and ``false`` are
flags, so that ``no`` and ``on`` stay words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import yaml

from gemmgen.errors import SpecError
from gemmgen.spec.fields import shown

MAX_BYTES = 64 * 1024
MAX_DEPTH = 12

_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?[0-9]{1,30}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS = {"null": None, "~": None, "": None, "true": True, "false": False}


class Position(NamedTuple):
    """A place in a file; line and column count from 1, ``offset`` is the character's index in the text."""

    file: str
    line: int
    column: int
    offset: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass
class Document:
    """One file: its text, its plain value, and where each path's value and key stand."""

    file: str
    text: str
    root: Any = None
    values: dict[tuple[str | int, ...], Position] = field(default_factory=dict)
    keys: dict[tuple[str | int, ...], Position] = field(default_factory=dict)


def decode(data: bytes, file: str) -> str:
    """File contents as text.

    Raises:
        SpecError: larger than 64 KiB, or not UTF-8.
    """
    if len(data) > MAX_BYTES:
        raise SpecError(
            "the spec file is too large",
            where=f"{file}:1:1",
            got=f"more than {MAX_BYTES} bytes",
            need=f"at most {MAX_BYTES} bytes",
            fix="check that this is a spec file",
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1
        raise SpecError(
            "the spec file is not UTF-8 text",
            where=f"{file}:{line}:{column}",
            got=f"byte 0x{data[error.start]:02x}",
            need="UTF-8",
            fix="save the file as UTF-8",
        ) from None


def read_document(text: str, file: str) -> Document:
    """Parse one YAML document into plain values.

    Raises:
        SpecError: anything but one document of mappings, lists and scalars within the limits.
    """
    return _Reader(Document(file, text)).read()


class _Reader:
    """Walks the event stream of one file."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._events = self._stream()

    def read(self) -> Document:
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            self._refuse(
                event,
                "the spec is empty",
                got="no document",
                need="a mapping with gemmgen, name, problem, …",
                fix="start from a file in specs/",
            )
        self._document.root = self._value(next(self._events), ())
        next(self._events)
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            self._refuse(
                event,
                "more than one YAML document",
                got="---",
                need="one document per file",
                fix="put the second spec into a file of its own",
            )
        return self._document

    def _stream(self) -> Iterator[Any]:
        """Events after the stream's start; YAML's own errors become SpecErrors."""
        parser = None
        try:
            parser = _Parser(self._document.text)
            while (event := parser.get_event()) is not None:
                if not isinstance(event, yaml.StreamStartEvent):
                    yield event
        except yaml.reader.ReaderError as error:
            text = self._document.text
            index = (
                next((i for i, char in enumerate(text) if ord(char) == error.character), 0)
                if isinstance(error.character, int)
                else 0
            )
            self._fail(
                "a character that YAML does not allow",
                self._at(index),
                got=repr(text[index : index + 1]),
                need="printable text",
                fix="remove the character",
            )
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = self._position(mark) if mark else self._at(0)
            self._fail(
                "not valid YAML",
                where,
                got=error.problem or "a syntax error",
                need=error.context or "a YAML mapping",
                fix="check indentation, quotes and brackets near here",
            )
        finally:
            if parser is not None:
                parser.dispose()

    def _value(self, event: Any, path: tuple[str | int, ...]) -> Any:
        """The plain value that starts with ``event``."""
        self._refuse_features(event)
        if len(path) > MAX_DEPTH:
            self._refuse(
                event,
                "nested too deeply",
                got=f"{len(path)} levels",
                need=f"at most {MAX_DEPTH} levels",
                fix="a spec needs no more than five levels",
            )
        self._document.values[path] = self._position(event.start_mark)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                items.append(self._value(event, (*path, len(items))))
            return items
        return _scalar(event)

    def _mapping(self, path: tuple[str | int, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            self._refuse_features(event)
            if not isinstance(event, yaml.ScalarEvent):
                self._refuse(
                    event,
                    "a key must be a word",
                    got="a list or mapping as a key",
                    need="word: value",
                    fix="write a word before the colon; quote values that contain braces",
                )
            key = event.value
            if key == "<<":
                self._refuse(
                    event,
                    "merge keys are not part of the spec language",
                    got="<<",
                    need="plain keys",
                    fix="write the keys out, or use extends: other.yaml",
                )
            if key in values:
                first = self._document.keys[*path, key]
                self._refuse(
                    event,
                    f"key {shown(key)} is given twice",
                    got=f"{shown(key)} again",
                    need="each key once",
                    fix=f"remove this one, or the one in line {first.line}",
                )
            self._document.keys[*path, key] = self._position(event.start_mark)
            values[key] = self._value(next(self._events), (*path, key))
        return values

    def _refuse_features(self, event: Any) -> None:
        """Refuse the parts of YAML that a spec does not need and that have surprised people elsewhere."""
        if isinstance(event, yaml.AliasEvent):
            self._refuse(
                event,
                "aliases are not part of the spec language",
                got=f"*{event.anchor}",
                need="the value itself",
                fix="write the value out, or use extends: other.yaml",
            )
        if event.anchor:
            self._refuse(
                event,
                "anchors are not part of the spec language",
                got=f"&{event.anchor}",
                need="a value without an anchor",
                fix=f"remove &{event.anchor}",
            )
        if event.tag and event.tag != "!":
            self._refuse(
                event,
                "tags are not part of the spec language",
                got=event.tag,
                need="an untagged value",
                fix="remove the tag",
            )

    def _refuse(self, event: Any, what: str, **details: str) -> NoReturn:
        self._fail(what, self._position(event.start_mark), **details)

    def _fail(self, what: str, where: Position, **details: Any) -> NoReturn:
        raise SpecError(what, where=str(where), **details) from None

    def _position(self, mark: Any) -> Position:
        return Position(self._document.file, mark.line + 1, mark.column + 1, mark.index)

    def _at(self, index: int) -> Position:
        return position_at(self._document, index)


def position_at(document: Document, index: int) -> Position:
    """The position of one character."""
    text = document.text
    start = text.rfind("\n", 0, index) + 1
    return Position(document.file, text.count("\n", 0, index) + 1, index - start + 1, index)


def _scalar(event: Any) -> Any:
    """The value of a scalar: quoted ones are text, plain ones follow YAML 1.2's core words."""
    text: str = event.value
    if event.style:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
