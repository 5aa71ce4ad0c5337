"""Syntax to dimension expressions and types."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from gemmgen.errors import IRError
from gemmgen.ir import syntax
from gemmgen.ir.dims import RESERVED_NAMES, Dim, canonical, dim_symbol
from gemmgen.ir.types import SCALAR_BITS, SPACES, BarrierType, MapType, MemType, RingType, ScalarType, TileType, Type
from gemmgen.spec import expr as spec_expr
from gemmgen.spec.dims import to_sympy
from gemmgen.spec.expr_rules import check_dim

_HANDLES: dict[str, Type] = {"tile": TileType(), "map": MapType()}
_COUNTED: dict[str, type[RingType] | type[BarrierType]] = {"ring": RingType, "barrier": BarrierType}
_TYPE_NAMES = (*SCALAR_BITS, *SPACES, *_HANDLES, *_COUNTED)


class ReadError(Exception):
    """A syntax node that spells nothing legal; whoever knows the file turns it into an IRError."""

    def __init__(self, node: syntax.Node, what: str, got: str, need: str, fix: str | None = None) -> None:
        self.node, self.what, self.got, self.need, self.fix = node, what, got, need, fix
        super().__init__(what)

    def as_ir_error(self, filename: str) -> IRError:
        """The same failure with its place in ``filename``."""
        where = f"{filename}:{self.node.line}:{self.node.column}"
        return IRError(self.what, where=where, got=self.got, need=self.need, fix=self.fix)


def refuse(node: syntax.Node) -> ReadError:
    """The error for a node of the wrong kind; the reader of the field adds the field's name and its need."""
    return ReadError(node, "wrong type", syntax.node_text(node), "another type")


def read_dim(node: syntax.Node) -> Any:
    """The dimension that ``node`` spells: an int when it is known, else a sympy expression.

    Raises:
        ReadError: the node is not arithmetic, calls an unknown function, or divides by zero.
    """
    match node:
        case syntax.Number(literal=literal) if literal.isdecimal():
            return int(literal)
        case syntax.Name(name=name) if name not in RESERVED_NAMES:
            return dim_symbol(name)
        case syntax.Operation(operator="neg", operands=(syntax.Number(literal=literal),)) if literal.isdecimal():
            return -int(literal)
        case syntax.Operation():
            expr = _spec_expr(node)
        case _:
            raise refuse(node)
    try:
        check_dim(expr)
        return canonical(to_sympy(expr))
    except spec_expr.ExprError as error:
        raise ReadError(node, error.what, error.got or syntax.node_text(node), error.need or "", error.fix) from None


def _spec_expr(node: syntax.Node) -> spec_expr.Expr:
    """The node in the spec's expression language, which defines what operators and functions mean."""
    match node:
        case syntax.Number(literal=literal) if literal.isdecimal():
            return spec_expr.Number(int(literal))
        case syntax.Name(name=name) if name not in RESERVED_NAMES:
            return spec_expr.Name(name)
        case syntax.Operation(operator="neg"):
            return spec_expr.Neg(_spec_expr(node.operands[0]))
        case syntax.Operation(operator="floordiv", operands=(left, right)):
            return spec_expr.Binary("//", _spec_expr(left), _spec_expr(right))
        case syntax.Operation() if node.operator.isidentifier():
            return spec_expr.Call(node.operator, tuple(_spec_expr(operand) for operand in node.operands))
        case syntax.Operation():
            left, right = node.operands
            return spec_expr.Binary(node.operator, _spec_expr(left), _spec_expr(right))
    raise refuse(node)


def read_type(node: syntax.Name | syntax.TypeCall) -> Type:
    """The type that ``node`` spells.

    Raises:
        ReadError: the type is unknown or its parameters do not fit.
    """
    if isinstance(node, syntax.Name):
        return _read_plain_type(node)
    if node.name in _COUNTED:
        return _read_counted_type(node)
    if node.name not in SPACES:
        raise _unknown_type(node, node.name)
    if len(node.args) != 2 or not isinstance(node.args[0], syntax.Name) or not isinstance(node.args[1], syntax.Items):
        need = f"{node.name}<dtype, [dim, …]>"
        raise ReadError(node, f"wrong parameters of {node.name}", syntax.node_text(node), need)
    dtype = _read_plain_type(node.args[0])
    if not isinstance(dtype, ScalarType):
        raise ReadError(node.args[0], "not an element type", syntax.node_text(node.args[0]), ", ".join(SCALAR_BITS))
    return MemType(node.name, dtype, tuple(_read_shape_dim(item) for item in node.args[1].items))


def _read_shape_dim(node: syntax.Node) -> Dim:
    if not isinstance(node, syntax.Number | syntax.Name | syntax.Operation):
        need = "an int or an expression such as ceildiv(K, 128)"
        raise ReadError(node, "not a dimension", syntax.node_text(node), need)
    return read_dim(node)


def _read_plain_type(node: syntax.Name) -> Type:
    if node.name in SCALAR_BITS:
        return ScalarType(node.name)
    if node.name in _HANDLES:
        return _HANDLES[node.name]
    if node.name in SPACES or node.name in _COUNTED:
        example = f"{node.name}<5>" if node.name in _COUNTED else f"{node.name}<f32, [128, 128]>"
        raise ReadError(node, f"{node.name} needs parameters", node.name, example)
    raise _unknown_type(node, node.name)


def _read_counted_type(node: syntax.TypeCall) -> Type:
    if len(node.args) != 1 or not isinstance(node.args[0], syntax.Number) or not node.args[0].literal.isdecimal():
        raise ReadError(node, f"wrong parameters of {node.name}", syntax.node_text(node), f"{node.name}<5>")
    return _COUNTED[node.name](int(node.args[0].literal))


def _unknown_type(node: syntax.Node, name: str) -> ReadError:
    close = get_close_matches(name, _TYPE_NAMES, n=1)
    fix = f"did you mean '{close[0]}'?" if close else None
    return ReadError(node, "unknown type", name, ", ".join(_TYPE_NAMES), fix)
