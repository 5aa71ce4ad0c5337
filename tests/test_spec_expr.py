"""The expression grammar: round trips, positions, and three ways to compute a dimension that must agree."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gemmgen.errors import SpecError
from gemmgen.spec.dims import ceildiv, evaluate, is_multiple_of, parse_dim, symbol, to_cuda
from gemmgen.spec.dims import to_text as dim_text
from gemmgen.spec.expr import Binary, Block, Call, Expr, Index, Name, Neg, Number, parse_expr, to_text
from gemmgen.spec.expr_rules import FUNCTIONS, check_dim, check_epilogue

DIMS = ("M", "N", "K")


def expressions(atoms: st.SearchStrategy[Expr], operators: list[str], functions: list[str]) -> st.SearchStrategy[Expr]:
    def extend(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
        calls = st.sampled_from(functions).flatmap(
            lambda name: st.tuples(*[inner] * FUNCTIONS[name].arity).map(lambda args: Call(name, args))
        )
        return st.one_of(
            st.builds(Binary, st.sampled_from(operators), inner, inner), st.builds(Neg, inner), calls
        )  # fmt: skip

    return st.recursive(atoms, extend, max_leaves=8)


any_expression = expressions(
    st.one_of(
        st.integers(0, 10**6).map(Number),
        st.floats(0, 1e30, allow_nan=False).map(Number),
        st.sampled_from(["acc", "M", "x9_"]).map(Name),
        st.builds(Index, st.just("acc"), st.sampled_from(["gate", "up"])),
        st.builds(Block, st.integers(1, 512), st.integers(1, 512)),
    ),
    ["+", "-", "*", "/", "//", "%"],
    list(FUNCTIONS),
)

dim_expression = expressions(
    st.one_of(st.integers(0, 300).map(Number), st.sampled_from(DIMS).map(Name)),
    ["+", "-", "*", "//", "%"],
    ["ceildiv", "align", "max", "min"],
)

bindings = st.fixed_dictionaries({name: st.integers(1, 5000) for name in DIMS})


@given(any_expression)
def test_round_trip(expr: Expr) -> None:
    assert parse_expr(to_text(expr)) == expr


@given(any_expression)
def test_canonical_text_is_a_fixed_point(expr: Expr) -> None:
    assert to_text(parse_expr(to_text(expr))) == to_text(expr)


def exact(expr: Expr, values: dict[str, int]) -> Fraction:
    """The meaning of a dimension expression, straight from its tree."""
    match expr:
        case Number(value=value):
            return Fraction(value)
        case Name(name=name):
            return Fraction(values[name])
        case Neg(operand=operand):
            return -exact(operand, values)
        case Binary(op=op, left=left, right=right):
            functions: dict[str, Callable[[Any, Any], Any]] = {
                "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
                "//": operator.floordiv, "%": operator.mod}  # fmt: skip
            return Fraction(functions[op](exact(left, values), exact(right, values)))
        case Call(function=function, args=(x, y)):
            a, b = exact(x, values), exact(y, values)
            return Fraction({"max": lambda: max(a, b), "min": lambda: min(a, b), "ceildiv": lambda: math.ceil(a / b),
                             "align": lambda: b * math.ceil(a / b)}[function]())  # fmt: skip
    raise AssertionError(expr)


def cpp(text: str, values: dict[str, int]) -> int:
    """The value of C++ integer text: ``/`` and ``%`` truncate towards zero."""

    def visit(node: ast.AST) -> int:
        match node:
            case ast.Expression(body=body):
                return visit(body)
            case ast.Constant(value=int(value)):
                return value
            case ast.Name(id=name):
                return values[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -visit(operand)
            case ast.Call(func=ast.Name(id=("max" | "min") as name), args=args):
                return (max if name == "max" else min)(visit(arg) for arg in args)
            case ast.BinOp(left=left, op=op, right=right):
                return cpp_operator(type(op), visit(left), visit(right))
        raise AssertionError(ast.dump(node))

    return visit(ast.parse(text, mode="eval"))


def cpp_operator(op: type[ast.operator], a: int, b: int) -> int:
    if op in (ast.Div, ast.Mod):
        quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        return quotient if op is ast.Div else a - b * quotient
    return {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}[op](a, b)


@settings(deadline=None)
@given(dim_expression, bindings)
def test_evaluate_follows_the_tree(expr: Expr, values: dict[str, int]) -> None:
    try:
        expected = exact(expr, values)
    except ZeroDivisionError:
        assume(False)
        raise
    try:
        parsed = parse_dim(to_text(expr))
    except SpecError as error:
        assume("division by zero" not in str(error))
        raise
    assert evaluate(parsed, values) == expected
    assert evaluate(parse_dim(dim_text(parsed)), values) == expected


@settings(deadline=None)
@given(dim_expression, bindings)
def test_cuda_text_computes_the_same(expr: Expr, values: dict[str, int]) -> None:
    try:
        parsed = parse_dim(to_text(expr))
        text = to_cuda(parsed)
        expected = exact(expr, values)
    except (SpecError, ZeroDivisionError) as error:
        assume("division by zero" not in str(error) and "may be zero" not in str(error))
        assume(not isinstance(error, ZeroDivisionError))
        raise
    assert "//" not in text  # a comment in C++
    assert cpp(text, values) == expected


@pytest.mark.parametrize(
    ("text", "cuda"),
    [
        ("ceildiv(K, 128)", "(K + 127) / 128"),
        ("ceildiv(M, N)", "(M + N - 1) / N"),
        ("2*I", "2 * I"),
        ("K / 128", "K / 128"),
        ("(M + N) / 2", "(M + N) / 2"),
        ("M // 3 * 3", "3 * (M / 3)"),
        ("align(M, 64)", "64 * ((M + 63) / 64)"),
        ("M * M", "M * M"),
        ("M - N", "M - N"),
        ("max(M, 4)", "max(4, M)"),
        ("7", "7"),
    ],
)
def test_cuda_text(text: str, cuda: str) -> None:
    assert to_cuda(parse_dim(text)) == cuda


@pytest.mark.parametrize(
    ("expr", "n", "expected"),
    [
        ("128 * K", 128, True), ("align(K, 128)", 64, True), ("K", 1, True), ("K", 2, False),
        ("256*M + 128*N", 128, True), ("256*M + 64", 128, False), ("K / 2", 1, False), ("4 * (M + N)", 4, True),
        ("128 * (M // 3)", 128, True), ("384", 128, True), ("0", 128, True),
    ],
)  # fmt: skip
def test_is_multiple_of(expr: str, n: int, expected: bool) -> None:
    assert is_multiple_of(parse_dim(expr), n) is expected


def test_ceildiv_of_ints_and_symbols() -> None:
    assert ceildiv(129, 128) == 2
    assert ceildiv(symbol("K"), 128) == parse_dim("ceildiv(K, 128)")


def test_evaluate_says_what_is_missing() -> None:
    with pytest.raises(SpecError, match="needs a value for N"):
        evaluate(parse_dim("M + N"), {"M": 1})
    with pytest.raises(SpecError, match="not an integer"):
        evaluate(parse_dim("M / 2"), {"M": 3})
    assert evaluate(12, {}) == 12


def test_one_text_in_every_order() -> None:
    assert to_cuda(parse_dim("max(N, max(K, M))")) == to_cuda(parse_dim("max(max(M, N), K)"))


BAD_TEXT: dict[str, tuple[str, str]] = {
    "empty": ("", "1:1"),
    "blank": ("  ", "1:3"),
    "unfinished": ("M +", "1:4"),
    "two_names": ("M N", "1:3"),
    "character": ("M $ N", "1:3"),
    "second_line": ("M +\n  * 2", "2:3"),
    "empty_call": ("max()", "1:5"),
    "index_number": ("acc[1]", "1:5"),
    "attribute": ("M.__class__", "1:2"),
    "unclosed": ("(M + 2", "1:7"),
    "huge_number": ("M * " + "9" * 30, "1:5"),
    "huge_float": ("1e999", "1:1"),
    "huge_block": ("1x" + "9" * 30, "1:1"),
    "deep": ("-" * 80 + "M", "1:81"),
    "long": ("M + " * 500 + "M", "1:1"),
}


@pytest.mark.parametrize("case", BAD_TEXT)
def test_bad_text(case: str) -> None:
    text, place = BAD_TEXT[case]
    with pytest.raises(SpecError) as caught:
        parse_expr(text, where="spec.yaml")
    assert caught.value.where == f"spec.yaml:{place}"
    assert caught.value.got
    assert caught.value.need
    assert caught.value.fix


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("2 * acc[n]", "1:5", "made of integers"),
        ("M + 1.5", "1:5", "made of integers"),
        ("M + 1x128", "1:5", "made of integers"),
        ("M + silu(N)", "1:5", "unknown dimension function silu"),
        ("ceildiv(M)", "1:1", "wrong number of arguments"),
        ("2 * Q", "1:5", "unknown dimension Q"),
        ("M // (3 - 3)", "1:7", "division by zero"),
        ("align(M, 0)", "1:10", "division by zero"),
        ("M % 0", "1:5", "division by zero"),
        ("99999999999", "1:1", "too large for a dimension"),
    ],
)
def test_bad_dims(text: str, place: str, what: str) -> None:
    with pytest.raises(SpecError, match=what) as caught:
        parse_dim(text, names=DIMS, where="dims")
    assert caught.value.where == f"dims:{place}"
    assert caught.value.fix


GOOD_EPILOGUES = [
    "acc", "silu(acc[gate]) * acc[up]", "acc + bias[n]", "quantize(acc, 1x128, e4m3)", "max(acc, 0.0) * 0.5 + c",
    "quantize(gelu(acc + bias[m]), 128x128, e5m2)", "-acc",
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD_EPILOGUES)
def test_good_epilogues(text: str) -> None:
    expr = parse_expr(text)
    check_epilogue(expr)
    assert to_text(expr) == text


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("1.0", "does not use the accumulator"),
        ("acc[left]", "no index left"),
        ("c[n] + acc", "no index n"),
        ("acc + bias", "needs an index"),
        ("acc // 2", "real numbers"),
        ("acc * 1x128", "only in quantize|in quantize"),
        ("1.0 + quantize(acc, 1x128, e4m3)", "outermost"),
        ("quantize(acc, 128, e4m3)", "block as its second"),
        ("quantize(acc, 1x128, bf16)", "dtype as its third"),
        ("quantize(acc)", "wrong number of arguments"),
        ("ceildiv(acc, 2)", "unknown epilogue function"),
        ("system(acc)", "unknown epilogue function"),
    ],
)
def test_bad_epilogues(text: str, what: str) -> None:
    with pytest.raises(SpecError, match=what) as caught:
        check_epilogue(parse_expr(text))
    assert caught.value.need
    assert caught.value.fix


@given(st.text(alphabet=st.one_of(st.sampled_from("MNKacc 0123456789+-*/%()[],.xe_\n"), st.characters()), max_size=60))
def test_any_text_is_an_expression_or_a_spec_error(text: str) -> None:
    refused: SpecError | None = None
    try:
        expr = parse_expr(text)
        assert parse_expr(to_text(expr)) == expr
        check_dim(expr, DIMS)
        assert isinstance(evaluate(parse_dim(text), dict.fromkeys(DIMS, 64)), int)
    except SpecError as error:
        refused = error
    if refused is not None:
        assert refused.need
        assert refused.fix
