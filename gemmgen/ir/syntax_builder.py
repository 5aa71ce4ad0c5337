"""Lark's callbacks for ``ir.lark``: one method per rule, each returning the syntax node of its text."""

from __future__ import annotations

import json
from typing import Any

from lark import Token, Transformer, v_args
from lark.tree import Meta

from gemmgen.ir import syntax


def _at(meta: Meta) -> tuple[int, int]:
    # An empty rule has no position; the nodes that keep one always contain a token.
    return (meta.line, meta.column) if not meta.empty else (1, 1)


def _operation(operator: str) -> Any:
    def build(self: Any, meta: Meta, children: list[Any]) -> syntax.Operation:
        return syntax.Operation(*_at(meta), operator, tuple(children))

    return build


@v_args(meta=True)
class SyntaxBuilder(Transformer):
    """Builds syntax nodes while the LALR parser reduces."""

    add, sub, mul, div = _operation("+"), _operation("-"), _operation("*"), _operation("/")
    neg = _operation("neg")

    def module(self, meta: Meta, children: list[Any]) -> syntax.ModuleNode:
        """``module @name level=tile target=sm_90a {attrs} (params) { ops }``."""
        symbol, level, target, *rest = children
        attrs = rest.pop(0) if isinstance(rest[0], _Entries) else _Entries()
        params, *ops = rest
        level_name = syntax.Name(level.line, level.column, str(level))
        return syntax.ModuleNode(*_at(meta), symbol[1:], level_name, str(target), attrs, params, tuple(ops))

    def op(self, meta: Meta, children: list[Any]) -> syntax.OpNode:
        """One op with its optional parts, told apart by their classes."""
        parts: dict[type, Any] = {_Results: (), _Entries: (), _Types: (), _Location: None}
        operands: list[syntax.Entry] = []
        regions: list[syntax.RegionNode] = []
        name = ""
        for child in children:
            if isinstance(child, Token):
                name = str(child)
            elif isinstance(child, syntax.Entry):
                operands.append(child)
            elif isinstance(child, syntax.RegionNode):
                regions.append(child)
            else:
                parts[type(child)] = child
        return syntax.OpNode(
            *_at(meta),
            name,
            tuple(parts[_Results]),
            tuple(operands),
            tuple(parts[_Entries]),
            tuple(parts[_Types]),
            tuple(regions),
            parts[_Location],
        )

    def results(self, meta: Meta, children: list[Token]) -> _Results:
        """``%a, %b =``."""
        return _Results(syntax.ValueName(token.line or 1, token.column or 1, token[1:]) for token in children)

    def operand(self, meta: Meta, children: list[Any]) -> syntax.Entry:
        """``name=%a``."""
        return syntax.Entry(*_at(meta), str(children[0]), children[1])

    def value_name(self, meta: Meta, children: list[Token]) -> syntax.ValueName:
        """``%a``."""
        return syntax.ValueName(*_at(meta), children[0][1:])

    def value_list(self, meta: Meta, children: list[Any]) -> syntax.Items:
        """``[%a, %b]``."""
        return syntax.Items(*_at(meta), tuple(children))

    def types(self, meta: Meta, children: list[Any]) -> _Types:
        """``: t1, t2``."""
        return _Types(children)

    def region(self, meta: Meta, children: list[Any]) -> syntax.RegionNode:
        """``do name (params) { ops }``."""
        name = str(children.pop(0)) if children and isinstance(children[0], Token) else ""
        params = children.pop(0) if children and isinstance(children[0], _Params) else _Params()
        return syntax.RegionNode(*_at(meta), name, params, tuple(children))

    def location(self, meta: Meta, children: list[Token]) -> _Location:
        """``loc("…")``."""
        return _Location(json.loads(children[0]))

    def params(self, meta: Meta, children: list[Any]) -> _Params:
        """``(%a: t, …)``."""
        return _Params(children)

    def param(self, meta: Meta, children: list[Any]) -> syntax.Param:
        """``%a: t``."""
        return syntax.Param(*_at(meta), children[0][1:], children[1])

    def entries(self, meta: Meta, children: list[Any]) -> _Entries:
        """``{a=1, …}``."""
        return _Entries(children)

    def entry(self, meta: Meta, children: list[Any]) -> syntax.Entry:
        """``a=1``."""
        return syntax.Entry(*_at(meta), str(children[0]), children[1])

    def string(self, meta: Meta, children: list[Token]) -> syntax.String:
        """A quoted string."""
        return syntax.String(*_at(meta), json.loads(children[0]))

    def items(self, meta: Meta, children: list[Any]) -> syntax.Items:
        """``[a, b]``."""
        return syntax.Items(*_at(meta), tuple(children))

    def record(self, meta: Meta, children: list[Any]) -> syntax.Record:
        """``#name{…}``."""
        return syntax.Record(*_at(meta), children[0][1:], children[1])

    def type_call(self, meta: Meta, children: list[Any]) -> syntax.TypeCall:
        """``name<…>``."""
        return syntax.TypeCall(*_at(meta), str(children[0]), tuple(children[1:]))

    def call(self, meta: Meta, children: list[Any]) -> syntax.Operation:
        """``name(a, b)``."""
        return syntax.Operation(*_at(meta), str(children[0]), tuple(children[1:]))

    def number(self, meta: Meta, children: list[Token]) -> syntax.Number:
        """An unsigned number."""
        return syntax.Number(*_at(meta), str(children[0]))

    def name(self, meta: Meta, children: list[Token]) -> syntax.Name:
        """A bare word."""
        return syntax.Name(*_at(meta), str(children[0]))

    def passes(self, meta: Meta, children: list[Any]) -> tuple[syntax.PassNode, ...]:
        """``a{x=1},b``."""
        return tuple(children)

    def pass_item(self, meta: Meta, children: list[Any]) -> syntax.PassNode:
        """``a{x=1}``."""
        return syntax.PassNode(*_at(meta), str(children[0]), tuple(children[1]) if len(children) > 1 else ())


class _Results(tuple[syntax.ValueName, ...]):
    """The names before the equals sign."""


class _Types(tuple[Any, ...]):
    """The types after the colon."""


class _Params(tuple[syntax.Param, ...]):
    """A parenthesised parameter list."""


class _Entries(tuple[syntax.Entry, ...]):
    """A braced attribute list."""


class _Location(str):
    """The text of ``loc``."""
