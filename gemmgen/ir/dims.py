"""Dimension expressions: plain ints, or sympy expressions of named dimensions such as ``ceildiv(K, 128)``.

Symbols, operators and functions are those of the spec (``gemmgen.spec.dims``), and so is the text, except that the
IR writes ``floordiv(a, b)`` for ``a // b``.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, TypeAlias

import sympy
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.str import StrPrinter

from gemmgen.errors import IRError
from gemmgen.spec import dims as spec_dims

Dim: TypeAlias = int | sympy.Expr
"""A number of elements, tiles, bytes…: an int when it is known, else a sympy expression of dimension symbols."""

RESERVED_NAMES = frozenset({"true", "false", "none", "inf", "nan"})
"""Words of the textual form that can therefore not name a dimension."""

_PRINTABLE = (sympy.Symbol, sympy.Rational, sympy.Add, sympy.Mul, sympy.Pow, sympy.ceiling, sympy.floor, sympy.Min,
              sympy.Max)  # fmt: skip


@cache
def dim_symbol(name: str) -> sympy.Symbol:
    """The symbol of a named dimension: a positive integer.

    Raises:
        IRError: when the name is not an identifier, or is a word of the textual form.
    """
    if not (name.isascii() and name.isidentifier()) or name in RESERVED_NAMES:
        raise IRError("a dimension needs a usable name", got=name, need="an identifier", fix="rename the dimension")
    return spec_dims.symbol(name)


def ceildiv(a: Dim, b: Dim) -> Dim:
    """``a / b`` rounded up, exactly."""
    return canonical(spec_dims.ceildiv(a, b))


def floordiv(a: Dim, b: Dim) -> Dim:
    """``a / b`` rounded down, exactly."""
    return canonical(sympy.floor(sympy.sympify(a) / sympy.sympify(b)))


def canonical(value: Dim) -> Dim:
    """``value`` with every known integer as a plain ``int``, so that equal dimensions print equal."""
    return int(value) if isinstance(value, sympy.Integer) else value


def is_dim(value: object) -> bool:
    """Whether ``value`` is a dimension that has a textual form."""
    if isinstance(value, int):
        return not isinstance(value, bool)
    return isinstance(value, sympy.Expr) and _is_printable(value)


def dim_text(value: Dim) -> str:
    """The text of a dimension, for example ``ceildiv(K, 128)``; the parser reads it back as an equal expression.

    Raises:
        IRError: the expression has functions or symbols that the text cannot express.
    """
    return str(value) if isinstance(value, int) else _expr_text(value)


@lru_cache(maxsize=4096)
def _is_printable(expr: sympy.Expr) -> bool:
    return all(isinstance(node, _PRINTABLE) and _is_plain(node) for node in sympy.preorder_traversal(expr))


def _is_plain(node: Any) -> bool:
    """Whether a symbol is a dimension's, an exponent is an integer, and a number times a sum is multiplied out."""
    if node.is_Mul and len(node.args) == 2:
        return not (node.args[0].is_Rational and node.args[1].is_Add)
    if isinstance(node, sympy.Symbol):
        usable = node.name.isascii() and node.name.isidentifier() and node.name not in RESERVED_NAMES
        return usable and node == dim_symbol(node.name)
    return not isinstance(node, sympy.Pow) or bool(node.exp.is_Integer)


@lru_cache(maxsize=4096)
def _expr_text(expr: sympy.Expr) -> str:
    if not _is_printable(expr):
        raise IRError(
            "this expression has no textual form in the IR",
            got=expr,
            need="+ - * / ** floor ceiling Min Max over symbols of gemmgen.ir.dims.dim_symbol",
            fix="make the symbols with dim_symbol; expand products; write a - b*floordiv(a, b) for a remainder",
        )
    return _DimPrinter().doprint(expr)


class _DimPrinter(StrPrinter):
    """sympy's printer with the functions of the spec's grammar; keeps the structure of the expression."""

    def _print_ceiling(self, expr: Any) -> str:
        numerator, denominator = _fraction(expr.args[0])
        return f"ceildiv({self.doprint(numerator)}, {self.doprint(denominator)})"

    def _print_floor(self, expr: Any) -> str:
        # Not the spec's `//`, which starts a comment here.
        numerator, denominator = _fraction(expr.args[0])
        return f"floordiv({self.doprint(numerator)}, {self.doprint(denominator)})"

    def _print_Mul(self, expr: Any) -> str:
        number, rest = expr.as_coeff_Mul()
        if number == 1 or not any(factor.as_base_exp()[0].is_Add for factor in expr.args):
            return super()._print_Mul(expr)
        # sympy multiplies a number into a sum as soon as they meet: keep the other factors between them.
        sign, numerator = ("-" if number < 0 else ""), abs(number.p)
        text = f"{sign}{'' if numerator == 1 else f'{numerator}*'}({self.doprint(rest)})"
        return text if number.q == 1 else f"{text}/{number.q}"

    def _print_Pow(self, expr: Any, rational: bool = False) -> str:
        exponent = int(expr.exp)
        product = "*".join([self.parenthesize(expr.base, PRECEDENCE["Func"])] * abs(exponent))
        product = product if abs(exponent) == 1 else f"({product})"
        return product if exponent > 0 else f"1/{product}"

    def _print_Min(self, expr: Any) -> str:
        return self._extremum("min", expr)

    def _print_Max(self, expr: Any) -> str:
        return self._extremum("max", expr)

    def _extremum(self, name: str, expr: Any) -> str:
        # sympy keeps these arguments in a set: sorted, so that the text is the same in every process.
        text, *rest = (self.doprint(arg) for arg in sorted(expr.args, key=sympy.default_sort_key))
        for arg in rest:
            text = f"{name}({text}, {arg})"
        return text


def _fraction(expr: Any) -> tuple[Any, Any]:
    """Numerator and denominator whose quotient is ``expr`` exactly as sympy holds it."""
    numerator, denominator = expr.as_numer_denom()
    return (numerator, denominator) if numerator / denominator == expr else (expr, sympy.Integer(1))
