"""Attribute values: which Python values may be one, and the text of each.

``int``, ``bool``, ``float``, ``str``, ``None``, string-valued enums, tuples of attributes, dimension expressions,
types, and frozen dataclasses registered as records. ``gemmgen.ir.codecs`` checks and reads them by annotation.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from enum import Enum
from typing import TypeVar

import sympy

from gemmgen.errors import IRError
from gemmgen.ir.dims import RESERVED_NAMES, dim_text
from gemmgen.ir.types import Type

RecordClass = TypeVar("RecordClass", bound=type)
_RECORDS: dict[str, type] = {}
_RECORD_NAMES: dict[type, str] = {}


def register_record(name: str) -> Callable[[RecordClass], RecordClass]:
    """Class decorator, above ``@dataclass(frozen=True)``: makes a record printable as ``#name{field=value}``.

    Raises:
        IRError: the class is not a frozen dataclass, or the name is taken.
    """

    def decorate(cls: RecordClass) -> RecordClass:
        parameters = getattr(cls, "__dataclass_params__", None)
        if parameters is None or not parameters.frozen:
            raise IRError(f"record {cls.__name__} must be a frozen dataclass", fix="add @dataclass(frozen=True)")
        if not name.isidentifier() or _RECORDS.setdefault(name, cls) is not cls:
            raise IRError(f"record name of {cls.__name__}", got=name, need="an identifier that no other record uses")
        _RECORD_NAMES[cls] = name
        return cls

    return decorate


def record_name(cls: type) -> str | None:
    """The registered name of a record class; None when it is not registered."""
    return _RECORD_NAMES.get(cls)


def records() -> dict[str, type]:
    """Every registered record class by name."""
    return dict(sorted(_RECORDS.items()))


def attr_text(value: object) -> str:
    """The text of an attribute value.

    Raises:
        IRError: for a value that has no textual form.
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        text = str(value.value)
        return text if text.isascii() and text.isidentifier() and text not in RESERVED_NAMES else quoted(text)
    if isinstance(value, int | sympy.Expr):
        return dim_text(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, tuple):
        return f"[{', '.join(attr_text(item) for item in value)}]"
    if isinstance(value, Type):
        return str(value)
    if type(value) in _RECORD_NAMES:
        return _record_text(value)
    raise IRError(
        "this attribute value has no textual form",
        got=f"{type(value).__name__} {value!r}",
        need="int, bool, float, str, None, enum, tuple, dimension, Type or a registered record",
        fix="register the class with @register_record",
    )


def entries_text(pairs: Iterable[tuple[str, object]]) -> str:
    """``{a=1, b="x"}``."""
    return "{" + ", ".join(f"{key}={attr_text(value)}" for key, value in pairs) + "}"


def quoted(text: str) -> str:
    """``text`` as a string literal on one line."""
    return json.dumps(text, ensure_ascii=False)


def is_default(value: object, default: object) -> bool:
    """Whether a field may stay out of the text; 1, 1.0 and True are different values here."""
    return type(value) is type(default) and value == default


def _record_text(record: object) -> str:
    pairs = [
        (field.name, getattr(record, field.name))
        for field in dataclasses.fields(record)  # pyright: ignore[reportArgumentType]
        if not is_default(getattr(record, field.name), field_default(field))
    ]
    return f"#{_RECORD_NAMES[type(record)]}{entries_text(pairs)}"


def field_default(field: dataclasses.Field[object]) -> object:
    """The default of a dataclass field, ``dataclasses.MISSING`` when it must be given."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
