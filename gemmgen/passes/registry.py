"""Passes by name, and the ``-p`` text that selects them: ``promote{every=128},pipeline``."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
import typing
from difflib import get_close_matches
from functools import cache
from typing import TypeVar

from gemmgen.errors import IRError
from gemmgen.ir import syntax
from gemmgen.ir.attributes import entries_text, field_default, is_default
from gemmgen.ir.codecs import codec_for, read_fields
from gemmgen.ir.reading import ReadError
from gemmgen.passes.base import Pass

PassClass = TypeVar("PassClass", bound="type[Pass]")
BACKEND_PASS_MODULES = ("lowering", "passes")
"""Modules of a backend that register passes."""

_PASSES: dict[str, type[Pass]] = {}
_KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def register_pass(cls: PassClass) -> PassClass:
    """Class decorator, above ``@dataclass(frozen=True)``: makes a pass selectable by name.

    Raises:
        IRError: the name is taken or not kebab-case, or the docstring does not say what holds before and after.
    """
    name = cls.__dict__.get("name", "")
    if not _KEBAB.fullmatch(name):
        raise IRError(f"pass {cls.__name__} needs a kebab-case name", got=repr(name), need='name = "warp-specialize"')
    documentation = cls.__doc__ or ""
    if "Before:" not in documentation or "After:" not in documentation:
        raise IRError(f"pass {name} must document its contract", need="'Before:' and 'After:' in the docstring")
    if _PASSES.setdefault(name, cls) is not cls:
        raise IRError(f"pass {name} is declared twice", got=cls.__qualname__, need="one class per name")
    return cls


def registered_passes() -> dict[str, type[Pass]]:
    """Every pass class by name, with all modules that register passes imported."""
    _load_passes()
    return dict(sorted(_PASSES.items()))


def find_pass(name: str) -> type[Pass]:
    """The pass class called ``name``.

    Raises:
        IRError: unknown pass; names the nearest one.
    """
    if name not in _PASSES:
        _load_passes()
    if name not in _PASSES:
        close = get_close_matches(name, _PASSES, n=1)
        fix = f"did you mean '{close[0]}'?" if close else None
        raise IRError("unknown pass", got=name, need=", ".join(sorted(_PASSES)), fix=fix)
    return _PASSES[name]


def parse_passes(text: str, source: str = "-p") -> tuple[Pass, ...]:
    """The passes that ``text`` selects, for example ``promote{every=128},pipeline``.

    Args:
        text: pass names separated by commas, options in braces, written like attributes.
        source: how error messages call the text.

    Raises:
        IRError: a syntax error, an unknown pass or option, or an option of the wrong type; with source:line:column.
    """
    nodes: tuple[syntax.PassNode, ...] = syntax.parse_syntax(text, "passes", source)
    return tuple(_read_pass(node, source) for node in nodes)


def pass_text(step: Pass) -> str:
    """The text that ``parse_passes`` reads back as ``step``; options with default values stay out."""
    options = [
        (field.name, value)
        for field in dataclasses.fields(step)
        if not is_default(value := getattr(step, field.name), field_default(field))
    ]
    return step.name + (entries_text(options) if options else "")


def _read_pass(node: syntax.PassNode, source: str) -> Pass:
    try:
        cls = find_pass(node.name)
    except IRError as error:
        where = f"{source}:{node.line}:{node.column}"
        raise IRError(error.what, where=where, got=error.got, need=error.need, fix=error.fix) from None
    hints = typing.get_type_hints(cls)
    options = {field.name: (codec_for(hints[field.name]), field_default(field)) for field in dataclasses.fields(cls)}
    try:
        return cls(**read_fields(f"pass {node.name}", node, node.options, options))
    except ReadError as error:
        raise error.as_ir_error(source) from None


@cache
def _load_passes() -> None:
    """Import every module of gemmgen.passes, and of each backend the modules that register passes."""
    passes = importlib.import_module("gemmgen.passes")
    for module in pkgutil.iter_modules(passes.__path__, "gemmgen.passes."):
        importlib.import_module(module.name)
    backends = importlib.import_module("gemmgen.backends")
    for backend in pkgutil.iter_modules(backends.__path__, "gemmgen.backends."):
        if not backend.ispkg:
            continue
        for module in pkgutil.iter_modules(importlib.import_module(backend.name).__path__, f"{backend.name}."):
            if module.name.rpartition(".")[2] in BACKEND_PASS_MODULES:
                importlib.import_module(module.name)
