"""Frozen dataclasses whose fields carry their own rules: the base of every mapping in the spec language."""

# ruff: noqa: D102 — the methods of fields are documented once, in Field

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from gemmgen.spec.fields import Field, FieldError, nearest, shown
from gemmgen.spec.vocabulary import AUTO

REQUIRED: Any = object()
"""Default of a field that must be given."""


@dataclass(frozen=True)
class Entry:
    """One key of a mapping: its name in Python and in YAML, what it may hold, what it is for, and its default."""

    name: str
    key: str
    field: Field
    doc: str
    default: Any

    @property
    def required(self) -> bool:
        """Whether the key must be given."""
        return self.default is REQUIRED


def entry(field: Field, doc: str, *, default: Any = REQUIRED, key: str | None = None) -> Any:
    """Declare a dataclass field that is part of the spec language.

    Args:
        field: what it may hold.
        doc: one line for the reference.
        default: its stored value when left out; without one, the key is required.
        key: its name in YAML where that differs from the Python name.
    """
    return dataclasses.field(default=default, metadata={"field": field, "doc": doc, "key": key})


@cache
def entries(part: type[SpecPart]) -> tuple[Entry, ...]:
    """The keys of a mapping, in order of declaration."""
    return tuple(
        Entry(f.name, f.metadata["key"] or f.name, f.metadata["field"], f.metadata["doc"], f.default)
        for f in dataclasses.fields(part)
        if "field" in f.metadata
    )


@dataclass(frozen=True, kw_only=True)
class SpecPart:
    """Base of the model's classes: coerces and checks every field, whether it comes from YAML or from Python."""

    def __post_init__(self) -> None:
        for item in entries(type(self)):
            value = getattr(self, item.name)
            if value is REQUIRED:
                raise FieldError(
                    f"missing key {item.key}",
                    got="nothing",
                    need=f"{item.key}: {item.field.describe()}",
                    fix=f"add {item.key}",
                )
            if value is item.default:
                continue
            try:
                object.__setattr__(self, item.name, item.field.coerce(value))
            except FieldError as error:
                raise error.under(item.key) from None

    @classmethod
    def from_dict(cls, values: Mapping[Any, Any], **others: Any) -> Any:
        """Build from plain values, as they stand in YAML; ``others`` are further constructor arguments.

        Raises:
            FieldError: an unknown or missing key, or a value that a field refuses.
        """
        by_key = {item.key: item.name for item in entries(cls)}
        for key in values:
            if key not in by_key:
                raise unknown_key(key, [other for other in by_key if other not in values] or list(by_key))
        return cls(**{by_key[key]: value for key, value in values.items()}, **others)

    def to_dict(self) -> dict[str, Any]:
        """Plain values of every key, defaults included; ``from_dict`` reads them back as an equal object."""
        return {item.key: item.field.plain(getattr(self, item.name)) for item in entries(type(self))}


@dataclass(frozen=True)
class Nested(Field):
    """A mapping with keys of its own, or ``auto`` for all its defaults where that is allowed."""

    part: type[SpecPart]
    may_be_auto: bool = False

    def coerce(self, value: object) -> SpecPart:
        if isinstance(value, self.part):
            return value
        if self.may_be_auto and value == AUTO:
            return self.part()
        if isinstance(value, Mapping):
            return self.part.from_dict(value)
        keys = ", ".join(item.key for item in entries(self.part))
        raise FieldError("not a mapping", got=shown(value), need=self.describe(), fix=f"write {{{keys}}}")

    def plain(self, value: Any) -> dict[str, Any]:
        return value.to_dict()

    def schema(self) -> dict[str, Any]:
        mapping = {"$ref": f"#/$defs/{self.part.__name__}"}
        return {"anyOf": [{"enum": [AUTO]}, mapping]} if self.may_be_auto else mapping

    def describe(self) -> str:
        return (
            "auto | " if self.may_be_auto else ""
        ) + f"mapping with {', '.join(item.key for item in entries(self.part))}"


def unknown_key(key: object, legal: list[str]) -> FieldError:
    """The error for a key that does not exist, naming the nearest one that could be meant."""
    close = nearest(key, legal)
    fix = f"did you mean {close}?" if close else f"remove {shown(key)}"
    name = shown(key)
    return FieldError(f"unknown key {name}", path=(name,), at_key=True, got=name, need=" | ".join(legal), fix=fix)
