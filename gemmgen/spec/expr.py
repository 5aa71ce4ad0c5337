"""Expressions of the spec language: one Lark grammar, a small tree, and its canonical text.

The same grammar serves dimensions (integers, see ``dims.py``) and epilogues (what is stored for an accumulator);
``expr_rules.py`` says which words may stand in which. Nothing is ever handed to Python's ``eval``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from gemmgen.errors import SpecError

MAX_LENGTH_CHARS = 1000
MAX_DEPTH = 60


class ExprError(SpecError):
    """An expression is wrong.

    Args:
        offset: index of the offending character in the expression's text.
    """

    def __init__(self, what: str, *, offset: int, where: str | None = None, **details: Any) -> None:
        self.offset = offset
        super().__init__(what, where=where, **details)


@dataclass(frozen=True)
class Expr:
    """Base of all nodes. ``offset`` is the node's first character, ``depth`` its height; neither counts in equality."""

    offset: int = field(default=0, compare=False, repr=False, kw_only=True)
    depth: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", 1 + max((child.depth for child in self.children), default=0))

    @property
    def children(self) -> tuple[Expr, ...]:
        """Operands, left to right."""
        return ()


@dataclass(frozen=True)
class Number(Expr):
    """A literal: an int, or a float (epilogues only)."""

    value: int | float


@dataclass(frozen=True)
class Name(Expr):
    """A dimension, an operand of the epilogue, or a dtype word."""

    name: str


@dataclass(frozen=True)
class Index(Expr):
    """``name[index]``: ``acc[gate]``, ``bias[n]``."""

    name: str
    index: str


@dataclass(frozen=True)
class Block(Expr):
    """A block shape ``1x128``."""

    mn: int
    k: int


@dataclass(frozen=True)
class Neg(Expr):
    """``-operand``."""

    operand: Expr

    @property
    def children(self) -> tuple[Expr, ...]:
        """The operand."""
        return (self.operand,)


@dataclass(frozen=True)
class Binary(Expr):
    """``left op right`` with op one of ``+ - * / // %``."""

    op: str
    left: Expr
    right: Expr

    @property
    def children(self) -> tuple[Expr, ...]:
        """Both operands."""
        return (self.left, self.right)


@dataclass(frozen=True)
class Call(Expr):
    """``function(args...)`` with a function of the closed table."""

    function: str
    args: tuple[Expr, ...]

    @property
    def children(self) -> tuple[Expr, ...]:
        """The arguments."""
        return self.args


_OPERATORS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%"}
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "%": 2}
_UNARY_PRECEDENCE = 3
_TERMINALS = {
    "INT": "number",
    "FLOAT": "number",
    "BLOCK": "block",
    "NAME": "name",
    "$END": "end",
    "LPAR": "'('",
    "RPAR": "')'",
    "LSQB": "'['",
    "RSQB": "']'",
    "COMMA": "','",
    "PLUS": "'+'",
    "MINUS": "'-'",
    "STAR": "'*'",
    "SLASH": "'/'",
    "__ANON_0": "'//'",
    "PERCENT": "'%'",
}


def parse_expr(text: str, *, where: str = "<expression>") -> Expr:
    """Parse one expression by the grammar alone; ``expr_rules.py`` checks what its words mean.

    Raises:
        ExprError: with ``where`` extended by line and column, and the offset of the offending character.
    """
    if len(text) > MAX_LENGTH_CHARS:
        raise ExprError(
            "the expression is too long",
            offset=0,
            where=f"{where}:1:1",
            got=f"{len(text)} characters",
            need=f"at most {MAX_LENGTH_CHARS} characters",
            fix="split it over several dimensions",
        )
    try:
        return _parse(text)
    except ExprError as error:
        raise locate(error, text, where) from None


def locate(error: ExprError, text: str, where: str) -> ExprError:
    """The same error with ``where:line:column``, computed from its offset in ``text``."""
    line = text.count("\n", 0, error.offset) + 1
    column = error.offset - (text.rfind("\n", 0, error.offset) + 1) + 1
    return ExprError(
        error.what, offset=error.offset, where=f"{where}:{line}:{column}", got=error.got, need=error.need, fix=error.fix
    )


def to_text(expr: Expr) -> str:
    """Canonical text with the fewest parentheses; ``parse_expr(to_text(e)) == e``."""
    return _text(expr)[0]


def walk(expr: Expr) -> Iterator[Expr]:
    """The node and everything below it."""
    yield expr
    for child in expr.children:
        yield from walk(child)


def _text(expr: Expr) -> tuple[str, int]:
    """Text and precedence of a node (4 is an atom)."""
    match expr:
        case Number(value=value):
            return repr(value), 4
        case Name(name=name):
            return name, 4
        case Index(name=name, index=index):
            return f"{name}[{index}]", 4
        case Block(mn=mn, k=k):
            return f"{mn}x{k}", 4
        case Call(function=function, args=args):
            return f"{function}({', '.join(to_text(arg) for arg in args)})", 4
        case Neg(operand=operand):
            return "-" + _wrapped(operand, _UNARY_PRECEDENCE), _UNARY_PRECEDENCE
        case Binary(op=op, left=left, right=right):
            rank = _PRECEDENCE[op]
            return f"{_wrapped(left, rank)} {op} {_wrapped(right, rank + 1)}", rank
    raise TypeError(f"not an expression: {expr!r}")


def _wrapped(expr: Expr, at_least: int) -> str:
    text, rank = _text(expr)
    return text if rank >= at_least else f"({text})"


def _bounded(node: Expr) -> Expr:
    """Refuse a tree too high for recursive readers."""
    if node.depth > MAX_DEPTH:
        raise ExprError(
            "the expression is nested too deeply",
            offset=node.offset,
            got=f"{node.depth} levels",
            need=f"at most {MAX_DEPTH} levels",
            fix="split it over several dimensions",
        )
    return node


def _parse(text: str) -> Expr:
    from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

    try:
        return _parser().parse(text)
    except UnexpectedCharacters as error:
        offset, got = error.pos_in_stream or 0, repr(text[error.pos_in_stream or 0])
        expected: Collection[str] = error.allowed or ()
    except UnexpectedToken as error:
        at_end = error.token.type == "$END"
        offset, got = (len(text), "the end") if at_end else (error.token.start_pos or 0, repr(str(error.token)))
        expected = error.accepts or error.expected
    except UnexpectedInput as error:
        offset, got, expected = error.pos_in_stream or 0, "this text", ()
    need = " | ".join(sorted({_TERMINALS.get(word, word) for word in expected})) or "an expression"
    raise ExprError(
        "the expression is not in the grammar",
        offset=offset,
        got=got,
        need=need,
        fix="see the expression grammar in docs/spec.md",
    )


@cache
def _parser() -> Any:
    from lark import Lark

    grammar = Path(__file__).with_name("expr.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", transformer=_tree_builder())


def _tree_builder() -> Any:
    """A Lark transformer that builds nodes bottom-up while parsing, so depth never meets Python's recursion limit."""
    from lark import Transformer, v_args

    def binary(op: str) -> Any:
        def build(_: object, left: Expr, right: Expr) -> Expr:
            return _bounded(Binary(op, left, right, offset=left.offset))

        return build

    class Builder(Transformer):
        def integer(self, token: Any) -> Expr:
            if len(token) > 18:
                raise ExprError(
                    "the number is too large",
                    offset=token.start_pos,
                    got=f"{len(token)} digits",
                    need="at most 18 digits",
                    fix="use a smaller number",
                )
            return Number(int(token), offset=token.start_pos)

        def real(self, token: Any) -> Expr:
            value = float(token)
            if not math.isfinite(value):
                raise ExprError(
                    "the number is too large",
                    offset=token.start_pos,
                    got=str(token),
                    need="a finite number",
                    fix="use a smaller exponent",
                )
            return Number(value, offset=token.start_pos)

        def block(self, token: Any) -> Expr:
            mn, k = token.split("x")
            if len(token) > 18:
                raise ExprError(
                    "the block is too large",
                    offset=token.start_pos,
                    got=str(token),
                    need="e.g. 1x128",
                    fix="use a smaller block",
                )
            return Block(int(mn), int(k), offset=token.start_pos)

        def name(self, token: Any) -> Expr:
            return Name(str(token), offset=token.start_pos)

        def index(self, name: Any, index: str) -> Expr:
            return Index(str(name), str(index), offset=name.start_pos)

        def call(self, function: Any, *args: Expr) -> Expr:
            return _bounded(Call(str(function), args, offset=function.start_pos))

        def neg(self, operand: Expr) -> Expr:
            return _bounded(Neg(operand, offset=operand.offset))

    for rule, op in _OPERATORS.items():
        setattr(Builder, rule, binary(op))
    return v_args(inline=True)(Builder)()
