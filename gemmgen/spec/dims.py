"""Dimensions as sympy expressions over positive integer symbols, and the text forms they are written in.

A dimension of 0 makes an empty problem, which launches nothing; so the symbols may be positive, as in the IR.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import sympy

from gemmgen.errors import SpecError
from gemmgen.spec.expr import Binary, Call, Expr, ExprError, Name, Neg, Number, locate, parse_expr
from gemmgen.spec.expr_rules import check_dim


def symbol(name: str) -> sympy.Symbol:
    """The symbol of a dimension: a positive integer."""
    return sympy.Symbol(name, integer=True, positive=True)


def ceildiv(a: Any, b: Any) -> Any:
    """``a / b`` rounded up, exactly; ints or sympy expressions."""
    return sympy.ceiling(sympy.sympify(a) / sympy.sympify(b))


def parse_dim(text: str, *, names: Collection[str] | None = None, where: str = "<dimension>") -> sympy.Expr:
    """Parse a dimension expression such as ``"ceildiv(K, 128)"``.

    Args:
        text: the expression.
        names: the dimensions it may refer to; None allows any name.
        where: what errors name as the place of the text.

    Raises:
        SpecError: outside the grammar, an unknown name, or a division by zero; with ``where:line:column``.
    """
    expr = parse_expr(text, where=where)
    try:
        check_dim(expr, names)
        return to_sympy(expr)
    except ExprError as error:
        raise locate(error, text, where) from None


def to_sympy(expr: Expr) -> sympy.Expr:
    """The sympy expression of a parsed dimension.

    Raises:
        ExprError: a division by zero.
    """
    match expr:
        case Number(value=value):
            return sympy.Integer(value)
        case Name(name=name):
            return symbol(name)
        case Neg(operand=operand):
            return -to_sympy(operand)
        case Binary(op=op, left=left, right=right):
            divisor = to_sympy(right)
            if op in ("/", "//", "%") and divisor.is_zero:
                raise ExprError(
                    "division by zero",
                    offset=right.offset,
                    got="0",
                    need="a divisor of at least 1",
                    fix="divide by something else",
                )
            return _BINARY[op](to_sympy(left), divisor)
        case Call(function=function, args=args):
            values = [to_sympy(arg) for arg in args]
            if function in ("ceildiv", "align") and values[1].is_zero:
                raise ExprError(
                    "division by zero",
                    offset=args[1].offset,
                    got="0",
                    need="a divisor of at least 1",
                    fix="divide by something else",
                )
            return _CALLS[function](*values)
    raise TypeError(f"not a dimension: {expr!r}")


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: sympy.floor(a / b),
    "%": lambda a, b: a - b * sympy.floor(a / b),
}

_CALLS: dict[str, Callable[..., Any]] = {
    "ceildiv": ceildiv,
    "align": lambda a, b: b * sympy.ceiling(a / b),
    "max": sympy.Max,
    "min": sympy.Min,
}


def evaluate(expr: Any, bindings: Mapping[str, int]) -> int:
    """The value of a dimension expression for given dimensions.

    Args:
        expr: an int or a sympy expression.
        bindings: a value for every symbol that occurs in it.

    Raises:
        SpecError: a symbol without a value, a division by zero, or a result that is not an integer.
    """
    expr = sympy.sympify(expr)
    missing = sorted(s.name for s in expr.free_symbols if s.name not in bindings)
    if missing:
        raise SpecError(
            f"{to_text(expr)} needs a value for {', '.join(missing)}",
            where=missing[0],
            got=", ".join(bindings) or "no values",
            need=", ".join(missing),
            fix=f"bind {missing[0]}",
        )
    value = expr.subs({s: bindings[s.name] for s in expr.free_symbols})
    if not value.is_Integer:
        given = ", ".join(f"{s.name}={bindings[s.name]}" for s in sorted(expr.free_symbols, key=str))
        raise SpecError(
            f"{to_text(expr)} is not an integer",
            where=to_text(expr),
            got=f"{value} for {given}",
            need="an integer",
            fix="use // or ceildiv, or other dimensions",
        )
    return int(value)


def is_multiple_of(expr: Any, n: int) -> bool:
    """Whether ``expr`` is provably a multiple of ``n`` for every value of its symbols."""
    for term in sympy.Add.make_args(sympy.expand(sympy.sympify(expr))):
        factor, rest = term.as_coeff_Mul()
        if not (rest.is_integer and sympy.Mod(factor, n) == 0):
            return False
    return True


def to_text(expr: Any) -> str:
    """Text in the spec's grammar, with ``ceildiv`` and ``//``; ``parse_dim`` reads it back as an equal expression."""
    return _SpecWriter().write(sympy.sympify(expr))


def to_cuda(expr: Any) -> str:
    """C++ integer expression text; ``/`` truncates as C++ does. Ceiling division is ``(x + n - 1) / n``.

    Raises:
        SpecError: a divisor that may be zero or negative.
    """
    return _CudaWriter().write(sympy.sympify(expr))


class _Writer:
    """Turns the sympy nodes that ``to_sympy`` can build into text; subclasses say how to write a division."""

    def write(self, expr: Any) -> str:
        return self._write(expr)[0]

    def floor(self, numerator: Any, denominator: Any) -> tuple[str, int]:
        raise NotImplementedError

    def ceil(self, numerator: Any, denominator: Any) -> tuple[str, int]:
        raise NotImplementedError

    def exact(self, expr: Any) -> tuple[str, int]:
        raise NotImplementedError

    def wrapped(self, expr: Any, at_least: int) -> str:
        text, rank = self._write(expr)
        return text if rank >= at_least else f"({text})"

    def _write(self, expr: Any) -> tuple[str, int]:
        """Text and precedence: 1 sum, 2 product, 3 unary minus, 4 atom."""
        if expr.is_Symbol:
            return expr.name, 4
        if expr.is_Integer:
            return (str(expr), 4) if expr >= 0 else (str(expr), 3)
        if isinstance(expr, sympy.floor):
            return self.floor(*_fraction(expr.args[0]))
        if isinstance(expr, sympy.ceiling):
            return self.ceil(*_fraction(expr.args[0]))
        if isinstance(expr, sympy.Max | sympy.Min):
            return self._extremum("max" if isinstance(expr, sympy.Max) else "min", expr)
        if expr.is_Add and not _has_fraction(expr):
            return self._sum(expr), 1
        if sympy.fraction(sympy.together(expr))[1] != 1:
            return self.exact(expr)
        if expr.is_Mul:
            return self._product(expr)
        if expr.is_Pow:
            return " * ".join([self.wrapped(expr.base, 3)] * int(expr.exp)), 2
        return self._sum(expr), 1

    def _sum(self, expr: Any) -> str:
        first, *rest = expr.as_ordered_terms()
        text = self.wrapped(first, 1)
        for term in rest:
            negative = term.could_extract_minus_sign()
            text += f" - {self.wrapped(-term, 2)}" if negative else f" + {self.wrapped(term, 2)}"
        return text

    def _product(self, expr: Any) -> tuple[str, int]:
        if expr.could_extract_minus_sign() and -1 in expr.args:
            return "-" + self.wrapped(-expr, 3), 3
        return " * ".join(self.wrapped(factor, 3) for factor in expr.as_ordered_factors()), 2

    def _extremum(self, name: str, expr: Any) -> tuple[str, int]:
        # sympy keeps the arguments of Max and Min in a set: sort them, so that the text is the same in every process.
        first, *rest = sorted(expr.args, key=sympy.default_sort_key)
        text = self.write(first)
        for arg in rest:
            text = f"{name}({text}, {self.write(arg)})"
        return text, 4


class _SpecWriter(_Writer):
    def floor(self, numerator: Any, denominator: Any) -> tuple[str, int]:
        return f"{self.wrapped(numerator, 2)} // {self.wrapped(denominator, 3)}", 2

    def ceil(self, numerator: Any, denominator: Any) -> tuple[str, int]:
        return f"ceildiv({self.write(numerator)}, {self.write(denominator)})", 4

    def exact(self, expr: Any) -> tuple[str, int]:
        numerator, denominator = _fraction(expr)
        return f"{self.wrapped(numerator, 2)} / {self.wrapped(denominator, 3)}", 2


class _CudaWriter(_Writer):
    def floor(self, numerator: Any, denominator: Any) -> tuple[str, int]:
        divisor = self._divisor(denominator)
        if numerator.is_nonnegative:
            return f"{self.wrapped(numerator, 2)} / {divisor}", 2
        # C++ rounds towards zero: make the dividend a multiple of the divisor first.
        top = self.wrapped(numerator, 3)
        return f"({top} - ({top} % {divisor} + {divisor}) % {divisor}) / {divisor}", 2

    def ceil(self, numerator: Any, denominator: Any) -> tuple[str, int]:
        divisor = self._divisor(denominator)
        if numerator.is_nonnegative:
            add = str(denominator - 1) if denominator.is_Integer else f"{self.wrapped(denominator, 2)} - 1"
            return f"({self.wrapped(numerator, 1)} + {add}) / {divisor}", 2
        top, negated = self.wrapped(numerator, 3), self.wrapped(-numerator, 3)
        return f"({top} + ({negated} % {divisor} + {divisor}) % {divisor}) / {divisor}", 2

    def exact(self, expr: Any) -> tuple[str, int]:
        numerator, denominator = _fraction(expr)
        return f"{self.wrapped(numerator, 2)} / {self._divisor(denominator)}", 2

    def _divisor(self, denominator: Any) -> str:
        if not denominator.is_positive:
            raise SpecError(
                "a divisor may be zero or negative",
                where=to_text(denominator),
                got=to_text(denominator),
                need="a divisor that is positive for every size",
                fix="divide by a dimension or a number",
            )
        return self.wrapped(denominator, 3)


def _fraction(expr: Any) -> tuple[Any, Any]:
    """Integer numerator and denominator of ``expr``; the denominator carries no sign."""
    numerator, denominator = sympy.fraction(sympy.together(expr))
    if denominator.could_extract_minus_sign():
        return -numerator, -denominator
    return numerator, denominator


def _has_fraction(expr: Any) -> bool:
    return any(sympy.fraction(term)[1] != 1 for term in expr.args)
