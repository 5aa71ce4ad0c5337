"""How an annotation checks a Python value and reads a syntax node.

Supported annotations: ``int``, ``bool``, ``float``, ``str``, ``None``, string-valued enums, ``tuple[X, ...]`` and
``tuple[X, Y]``, unions, ``sympy.Expr`` (a dimension), ``Type`` and its subclasses, registered records and their base
classes, and ``Any``. Text under ``Any`` must say what it is, so enums and scalar types are not legal there.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from functools import cache
from typing import Any

import sympy

from gemmgen.ir import syntax
from gemmgen.ir.attributes import attr_text, field_default, record_name, records
from gemmgen.ir.dims import is_dim
from gemmgen.ir.reading import ReadError, read_dim, read_type, refuse
from gemmgen.ir.types import ScalarType, Type


@dataclass(frozen=True)
class Codec:
    """``need`` says in words what is accepted; ``read`` raises ReadError for a node that spells something else."""

    need: str
    accepts: Callable[[Any], bool]
    read: Callable[[syntax.Node], Any]


@cache
def codec_for(hint: Any) -> Codec:
    """The codec of an annotation.

    Raises:
        TypeError: when attributes of this type are not supported.
    """
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _union_codec(tuple(codec_for(option) for option in typing.get_args(hint)))
    if origin is tuple:
        return _tuple_codec(typing.get_args(hint))
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enum_codec(hint)
    if isinstance(hint, type) and issubclass(hint, Type):
        return _type_codec(hint)
    if isinstance(hint, type) and issubclass(hint, sympy.Expr):
        return _DIM
    if isinstance(hint, type) and hint.__module__ != "builtins":
        return _record_codec(hint)
    raise TypeError(f"an attribute cannot be annotated {hint!r}")


def read_fields(
    owner: str, node: syntax.Node, entries: tuple[syntax.Entry, ...], fields: dict[str, tuple[Codec, object]]
) -> dict[str, Any]:
    """The values of ``entries``; ``fields`` maps each allowed name to its codec and default.

    Args:
        owner: what has the fields, for messages.
        node: where to point when a field is missing.
        entries: the given ``name=value`` pairs.
        fields: codec and default by name; ``dataclasses.MISSING`` marks a required field.

    Raises:
        ReadError: an entry is unknown, given twice, missing or of the wrong type.
    """
    found: dict[str, Any] = {}
    for entry in entries:
        if entry.name not in fields:
            close = get_close_matches(entry.name, fields, n=1)
            fix = f"did you mean '{close[0]}'?" if close else None
            raise ReadError(entry, f"{owner} has no '{entry.name}'", entry.name, ", ".join(fields) or "none", fix)
        if entry.name in found:
            raise ReadError(entry, f"{owner} is given '{entry.name}' twice", entry.name, "each name once")
        try:
            found[entry.name] = fields[entry.name][0].read(entry.value)
        except ReadError as error:
            # Keep the innermost message when it is about a record's field or a type of its own.
            if error.what != "wrong type":
                raise
            need = fields[entry.name][0].need
            raise ReadError(error.node, f"wrong type for '{entry.name}' of {owner}", error.got, need) from None
    for name, (codec, default) in fields.items():
        if name not in found and default is dataclasses.MISSING:
            raise ReadError(node, f"{owner} lacks '{name}'", "no value", codec.need, f"add {name}=…")
    return found


def read_record(node: syntax.Record) -> Any:
    """The registered record that ``node`` spells.

    Raises:
        ReadError: the record is unknown, or one of its fields is wrong.
    """
    cls = records().get(node.name)
    if cls is None:
        close = get_close_matches(node.name, records(), n=1)
        fix = f"did you mean #{close[0]}?" if close else None
        raise ReadError(node, "unknown record", f"#{node.name}", ", ".join(f"#{name}" for name in records()), fix)
    fields = {name: (codec, field_default(field)) for name, (field, codec) in _record_fields(cls).items()}
    return cls(**read_fields(f"record #{node.name}", node, node.entries, fields))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool | Enum)


def _read_int(node: syntax.Node) -> int:
    if isinstance(node, syntax.Number | syntax.Operation):
        value = read_dim(node)
        if _is_int(value):
            return value
    raise refuse(node)


def _is_float(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool | Enum) and value == value


def _read_float(node: syntax.Node) -> float:
    if isinstance(node, syntax.Operation) and node.operator == "neg":
        return -_read_float(node.operands[0])
    if isinstance(node, syntax.Number) or (isinstance(node, syntax.Name) and node.name == "inf"):
        return float(syntax.node_text(node))
    raise refuse(node)


def _read_bool(node: syntax.Node) -> bool:
    if isinstance(node, syntax.Name) and node.name in ("true", "false"):
        return node.name == "true"
    raise refuse(node)


def _is_str(value: object) -> bool:
    return isinstance(value, str) and not isinstance(value, Enum)


def _read_str(node: syntax.Node) -> str:
    if isinstance(node, syntax.String):
        return node.value
    raise refuse(node)


def _read_none(node: syntax.Node) -> None:
    if not (isinstance(node, syntax.Name) and node.name == "none"):
        raise refuse(node)


def _is_self_describing(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_self_describing(item) for item in value)
    if isinstance(value, Enum | ScalarType) or (isinstance(value, Type) and "<" not in str(value)):
        return False
    if _is_float(value) or isinstance(value, bool | str | Type) or value is None or is_dim(value):
        return True
    return _is_record(value)


def _read_any(node: syntax.Node) -> Any:
    match node:
        case syntax.Items():
            return tuple(_read_any(item) for item in node.items)
        case syntax.Record():
            return read_record(node)
        case syntax.String():
            return node.value
        case syntax.TypeCall():
            return read_type(node)
        case syntax.Name(name="true" | "false"):
            return _read_bool(node)
        case syntax.Name(name="none"):
            return None
    try:
        return read_dim(node)
    except ReadError:
        return _read_float(node)


def _is_record(value: object) -> bool:
    if record_name(type(value)) is None:
        return False
    return all(codec.accepts(getattr(value, name)) for name, (_, codec) in _record_fields(type(value)).items())


@cache
def _record_fields(cls: type) -> dict[str, tuple[dataclasses.Field[Any], Codec]]:
    hints = typing.get_type_hints(cls)
    return {field.name: (field, codec_for(hints[field.name])) for field in dataclasses.fields(cls) if field.init}


def _record_codec(cls: type) -> Codec:
    names = [f"#{name}{{…}}" for name, record in records().items() if issubclass(record, cls)]

    def read(node: syntax.Node) -> Any:
        record = read_record(node) if isinstance(node, syntax.Record) else None
        if not isinstance(record, cls):
            raise refuse(node)
        return record

    need = f"a record {' or '.join(names) or cls.__name__}"
    return Codec(need, lambda value: isinstance(value, cls) and _is_record(value), read)


def _type_codec(cls: type[Type]) -> Codec:
    def read(node: syntax.Node) -> Type:
        if not isinstance(node, syntax.Name | syntax.TypeCall) or not isinstance(found := read_type(node), cls):
            raise refuse(node)
        return found

    return Codec("a type" if cls is Type else f"a {cls.__name__}", lambda value: isinstance(value, cls), read)


def _enum_codec(cls: type[Enum]) -> Codec:
    members = {member.value: member for member in cls}
    if not all(isinstance(value, str) for value in members):
        raise TypeError(f"attribute enum {cls.__name__} must have string values")

    def read(node: syntax.Node) -> Enum:
        match node:
            case syntax.Name(name=spelled) | syntax.String(value=spelled) if spelled in members:
                return members[spelled]
        raise refuse(node)

    return Codec("one of " + ", ".join(map(attr_text, cls)), lambda value: isinstance(value, cls), read)


def _tuple_codec(args: tuple[Any, ...]) -> Codec:
    variadic = len(args) == 2 and args[1] is Ellipsis
    items = tuple(codec_for(arg) for arg in (args[:1] if variadic else args if args != ((),) else ()))

    def paired(given: tuple[Any, ...]) -> list[tuple[Codec, Any]] | None:
        """Each given item with its codec; None when the number of items is wrong."""
        codecs = items * len(given) if variadic else items
        return list(zip(codecs, given, strict=True)) if len(codecs) == len(given) else None

    def accepts(value: object) -> bool:
        pairs = paired(value) if isinstance(value, tuple) else None
        return pairs is not None and all(codec.accepts(item) for codec, item in pairs)

    def read(node: syntax.Node) -> tuple[Any, ...]:
        pairs = paired(node.items) if isinstance(node, syntax.Items) else None
        if pairs is None:
            raise refuse(node)
        return tuple(codec.read(item) for codec, item in pairs)

    inner = ", ".join(codec.need for codec in items)
    return Codec(f"a list [{inner}, …]" if variadic else f"a list [{inner}]", accepts, read)


def _union_codec(options: tuple[Codec, ...]) -> Codec:
    def read(node: syntax.Node) -> Any:
        for codec in options:
            try:
                return codec.read(node)
            except ReadError as error:
                if error.what != "wrong type":
                    raise
        raise refuse(node)

    need = " or ".join(codec.need for codec in options)
    return Codec(need, lambda value: any(codec.accepts(value) for codec in options), read)


_DIM = Codec("a dimension expression", is_dim, read_dim)
_SIMPLE: dict[Any, Codec] = {
    int: Codec("an int", _is_int, _read_int),
    bool: Codec("true or false", lambda value: isinstance(value, bool), _read_bool),
    float: Codec("a float", _is_float, _read_float),
    str: Codec("a quoted string", _is_str, _read_str),
    type(None): Codec("none", lambda value: value is None, _read_none),
    None: Codec("none", lambda value: value is None, _read_none),
    Any: Codec("an attribute", _is_self_describing, _read_any),
}
