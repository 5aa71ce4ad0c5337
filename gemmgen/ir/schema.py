"""Declaring ops: field specifiers, the schema read off a dataclass, and the registry of op classes."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import typing
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from gemmgen.backends.capability import capabilities
from gemmgen.errors import IRError

if TYPE_CHECKING:
    from gemmgen.ir.codecs import Codec
    from gemmgen.ir.core import Op

OpClass = TypeVar("OpClass", bound="type[Op]")

TARGET_DIALECTS = frozenset(record.dialect for record in capabilities())
"""Prefixes whose ops exist at the target level only."""

DIALECT_MODULES = {
    "tile": ("gemmgen.ir.tile_ops",),
    "async": ("gemmgen.ir.async_ops", "gemmgen.ir.async_rules"),
    **{
        dialect: tuple(f"gemmgen.backends.{dialect}.{name}" for name in ("ops", "math_ops", "rules"))
        for dialect in sorted(TARGET_DIALECTS)
    },
}
"""The modules that declare the ops of each prefix and the rules about them; imported when first needed."""


class FieldKind(Enum):
    """What a field of an op is."""

    OPERAND = "operand"
    RESULT = "result"
    REGION = "region"
    ATTR = "attribute"


class Arity(Enum):
    """How many values (or regions) a field holds."""

    ONE = "one"
    MANY = "many"
    OPTIONAL = "optional"


@dataclass(frozen=True)
class FieldSpec:
    """One declared field of an op; ``default`` is ``dataclasses.MISSING`` when the field must be given."""

    name: str
    kind: FieldKind
    arity: Arity
    default: Any

    @property
    def required(self) -> bool:
        """Whether the field must be given."""
        return self.default is dataclasses.MISSING


def _field(kind: FieldKind, arity: Arity = Arity.ONE, default: Any = dataclasses.MISSING) -> Any:
    return dataclasses.field(default=default, kw_only=True, metadata={"ir": (kind, arity)})


def operand() -> Any:
    """One value that the op reads."""
    return _field(FieldKind.OPERAND)


def operands() -> Any:
    """A tuple of values that the op reads, empty by default."""
    return _field(FieldKind.OPERAND, Arity.MANY, ())


def optional_operand() -> Any:
    """A value that the op reads, or None."""
    return _field(FieldKind.OPERAND, Arity.OPTIONAL, None)


def result() -> Any:
    """One value that the op defines."""
    return _field(FieldKind.RESULT)


def results() -> Any:
    """A tuple of values that the op defines, empty by default; at most one such field per op."""
    return _field(FieldKind.RESULT, Arity.MANY, ())


def region() -> Any:
    """A nested list of ops."""
    return _field(FieldKind.REGION)


def optional_region() -> Any:
    """A nested list of ops, or None."""
    return _field(FieldKind.REGION, Arity.OPTIONAL, None)


def attr(*, default: Any = dataclasses.MISSING) -> Any:
    """A compile-time constant; the annotation says its type, see ``gemmgen.ir.codecs``."""
    return _field(FieldKind.ATTR, Arity.ONE, default)


@dataclass(frozen=True)
class OpSchema:
    """The declared fields of an op class, in order of declaration."""

    cls: type
    operands: tuple[FieldSpec, ...]
    results: tuple[FieldSpec, ...]
    regions: tuple[FieldSpec, ...]
    attrs: tuple[FieldSpec, ...]

    @cached_property
    def codecs(self) -> dict[str, Codec]:
        """How to check and read each attribute; resolves the annotations of the class on first use."""
        from gemmgen.ir.codecs import codec_for

        hints = typing.get_type_hints(self.cls)
        return {spec.name: codec_for(hints[spec.name]) for spec in self.attrs}

    @cached_property
    def checked_attrs(self) -> tuple[tuple[str, Codec], ...]:
        """Name and codec of every attribute, for the verifier's inner loop."""
        return tuple(self.codecs.items())


_SCHEMAS: dict[type, OpSchema] = {}
_OPS: dict[str, type[Op]] = {}


def register_op(cls: OpClass) -> OpClass:
    """Class decorator, above ``@dataclass(frozen=True)``: makes an op known to printer, parser and verifier.

    Raises:
        IRError: the name is taken, NAME or LEVELS is missing, a field has no specifier, or two fields hold results.
    """
    name = cls.__dict__.get("NAME", "")
    if name.count(".") < 1 or not all(part.isidentifier() for part in name.split(".")):
        raise IRError(f"op class {cls.__name__} needs a name", got=repr(name), need='NAME = "dialect.op"')
    _check_levels(cls)
    schema_of(cls)
    if _OPS.setdefault(name, cls) is not cls:
        raise IRError(f"op {name} is declared twice", got=cls.__qualname__, need="one class per NAME")
    return cls


def schema_of(cls: type[Op]) -> OpSchema:
    """The declared fields of an op class.

    Raises:
        IRError: a field has no specifier, or more than one field holds a tuple of results.
    """
    found = _SCHEMAS.get(cls)
    if found is None:
        found = _SCHEMAS[cls] = _read_schema(cls)
    return found


def find_op(name: str) -> type[Op] | None:
    """The op class called ``name``, importing its dialect if need be; None when there is none."""
    if name not in _OPS:
        load_dialect(name.partition(".")[0])
    return _OPS.get(name)


def nearest_op(name: str) -> str | None:
    """The op name closest to ``name`` among the dialects imported so far, for error messages."""
    close = get_close_matches(name, _OPS, n=1)
    return close[0] if close else None


def registered_ops() -> dict[str, type[Op]]:
    """All op classes by name, with every dialect imported."""
    load_dialects()
    return dict(sorted(_OPS.items()))


def load_dialects() -> None:
    """Import every module that declares ops."""
    for prefix in DIALECT_MODULES:
        load_dialect(prefix)


def load_dialect_of(level: str, target: str) -> None:
    """Import the ops, records and rules of a module's level, or of its target; an unknown target has none."""
    dialects = {record.name: record.dialect for record in capabilities()}
    load_dialect(dialects.get(target, "") if level == "target" else level)


@cache
def load_dialect(prefix: str) -> None:
    """Import the ops and rules of one prefix; nothing happens for a prefix that has none (yet)."""
    for name in DIALECT_MODULES.get(prefix, ()):
        package = name.rpartition(".")[0]
        if importlib.util.find_spec(package) is not None and importlib.util.find_spec(name) is not None:
            importlib.import_module(name)


def _check_levels(cls: type[Op]) -> None:
    levels = {str(level) for level in getattr(cls, "LEVELS", ())}
    prefix = cls.NAME.partition(".")[0]
    if not levels:
        raise IRError(f"op {cls.NAME} belongs to no level", need="LEVELS = frozenset({Level.…})")
    if prefix in TARGET_DIALECTS and levels != {"target"}:
        need = "LEVELS = frozenset({Level.TARGET})"
        raise IRError(f"op {cls.NAME} of a target dialect is legal elsewhere", got=sorted(levels), need=need)


def _read_schema(cls: type[Op]) -> OpSchema:
    specs: dict[FieldKind, list[FieldSpec]] = {kind: [] for kind in FieldKind}
    for field in dataclasses.fields(cls):
        if field.name == "origin":
            continue
        if "ir" not in field.metadata:
            need = "operand(), result(), attr(), region()…"
            raise IRError(f"{cls.__name__}.{field.name} has no specifier", need=need)
        kind, arity = field.metadata["ir"]
        specs[kind].append(FieldSpec(field.name, kind, arity, field.default))
    if sum(spec.arity is Arity.MANY for spec in specs[FieldKind.RESULT]) > 1:
        raise IRError(f"{cls.__name__} has two fields of results()", need="at most one, so that text can be split")
    return OpSchema(
        cls,
        tuple(specs[FieldKind.OPERAND]),
        tuple(specs[FieldKind.RESULT]),
        tuple(specs[FieldKind.REGION]),
        tuple(specs[FieldKind.ATTR]),
    )
