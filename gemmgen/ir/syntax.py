"""Text to syntax: the nodes that ``ir.lark`` spells, each with its place, before any name is looked up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemmgen.errors import IRError

if TYPE_CHECKING:
    from lark import Lark, UnexpectedInput

GRAMMAR_FILE = Path(__file__).with_name("ir.lark")
STARTS = ("module", "type", "value", "passes")


@dataclass(frozen=True, slots=True)
class Node:
    """Base of all syntax nodes: where the node starts, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Number(Node):
    """An unsigned int or float literal."""

    literal: str


@dataclass(frozen=True, slots=True)
class String(Node):
    """A quoted string, already unescaped."""

    value: str


@dataclass(frozen=True, slots=True)
class Name(Node):
    """A bare word: a dimension, an enum member, a type, ``true``, ``false`` or ``none``."""

    name: str


@dataclass(frozen=True, slots=True)
class Operation(Node):
    """An arithmetic operator (``neg + - * /``) or a function called by name, and its operands."""

    operator: str
    operands: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Items(Node):
    """A bracketed list."""

    items: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Entry(Node):
    """``name=value`` of an attribute list, or ``name=%a`` and ``name=[%a, %b]`` of an operand list."""

    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class Record(Node):
    """``#name{field=value}``."""

    name: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class TypeCall(Node):
    """A type with parameters, ``name<…>``."""

    name: str
    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class ValueName(Node):
    """``%name``, without the percent sign."""

    name: str


@dataclass(frozen=True, slots=True)
class Param(Node):
    """``%name: type``."""

    name: str
    type: Any


@dataclass(frozen=True, slots=True)
class RegionNode(Node):
    """``do name (%a: t, …) { ops }``; the name is empty when the op has one region."""

    name: str
    params: tuple[Param, ...]
    ops: tuple[OpNode, ...]


@dataclass(frozen=True, slots=True)
class OpNode(Node):
    """One op."""

    name: str
    results: tuple[ValueName, ...]
    operands: tuple[Entry, ...]
    attrs: tuple[Entry, ...]
    types: tuple[Any, ...]
    regions: tuple[RegionNode, ...]
    location: str | None


@dataclass(frozen=True, slots=True)
class ModuleNode(Node):
    """A whole module."""

    name: str
    level: Name
    target: str
    attrs: tuple[Entry, ...]
    params: tuple[Param, ...]
    ops: tuple[OpNode, ...]


@dataclass(frozen=True, slots=True)
class PassNode(Node):
    """One pass of a ``-p`` text: ``name{option=value}``."""

    name: str
    options: tuple[Entry, ...]


def node_text(node: Node) -> str:
    """The node as it would be written, for error messages."""
    match node:
        case Number(literal=text) | Name(name=text):
            return text
        case String():
            return f'"{node.value}"'
        case ValueName():
            return f"%{node.name}"
        case Record():
            return f"#{node.name}{{…}}"
        case Items():
            return f"[{_joined(node.items)}]"
        case TypeCall():
            return f"{node.name}<{_joined(node.args)}>"
        case Operation(operator="neg"):
            return f"-{node_text(node.operands[0])}"
        case Operation() if node.operator.isidentifier():
            return f"{node.operator}({_joined(node.operands)})"
        case Operation():
            return f" {node.operator} ".join(node_text(operand) for operand in node.operands)
    return type(node).__name__


def _joined(nodes: tuple[Node, ...]) -> str:
    return ", ".join(node_text(node) for node in nodes)


def parse_syntax(text: str, start: str, filename: str) -> Any:
    """The syntax of ``text``, which must match the grammar's rule ``start`` (one of ``STARTS``).

    Raises:
        IRError: with ``file:line:column``, what was found and what could stand there.
    """
    from lark import UnexpectedInput

    from gemmgen.ir.syntax_builder import SyntaxBuilder

    try:
        tree = _grammar().parse(text, start=start)
    except UnexpectedInput as error:
        raise _syntax_error(error, text, filename) from None
    return SyntaxBuilder().transform(tree)


@cache
def _grammar() -> Lark:
    # Imported here because lark costs 40 ms that a process which only compiles never needs.
    from lark import Lark

    return Lark(
        GRAMMAR_FILE.read_text(encoding="utf-8"),
        parser="lalr",
        start=list(STARTS),
        propagate_positions=True,
        maybe_placeholders=False,
    )


# How the grammar's terminals read in a message.
_TERMINALS: dict[str, str] = {
    "$END": "end of text",
    "VALUE": "%value",
    "SYMBOL": "@name",
    "RECORD": "#record",
    "NAME": "a name",
    "OPNAME": "an op such as tile.mma",
    "PASSNAME": "a pass name",
    "NUMBER": "a number",
    "STRING": "a quoted string",
}


def _syntax_error(error: UnexpectedInput, text: str, filename: str) -> IRError:
    token = getattr(error, "token", None)
    if token is not None and token.type == "$END":
        lines = text.split("\n")
        line, column, got = len(lines), len(lines[-1]) + 1, "end of text"
    else:
        line, column, got = error.line, error.column, repr(token or text[error.pos_in_stream or 0])
    # A stray character knows the terminals its lexer tried; a stray token knows those the parser could go on with.
    expected: Iterable[str] = getattr(error, "accepts", None) or getattr(error, "allowed", None) or ()
    literals = {terminal.name: f"'{terminal.pattern.value}'" for terminal in _grammar().terminals}
    need = " or ".join(sorted(_TERMINALS.get(name) or literals[name] for name in expected))
    return IRError("syntax error", where=f"{filename}:{line}:{column}", got=got, need=need)
