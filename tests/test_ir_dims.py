from __future__ import annotations

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from gemmgen.errors import IRError
from gemmgen.ir import ceildiv, dim_symbol, floordiv, parse_dim
from gemmgen.ir.dims import dim_text, is_dim
from gemmgen.spec import dims as spec_dims

M, K, S = dim_symbol("M"), dim_symbol("K"), dim_symbol("S")

BINARY = [
    lambda a, b: a + b,
    lambda a, b: a - b,
    lambda a, b: a * b,
    lambda a, b: a / b,
    lambda a, b: sympy.Min(a, b),
    lambda a, b: sympy.Max(a, b),
    ceildiv,
    floordiv,
]


@st.composite
def dim_expressions(draw, depth=3):
    """A dimension of at most 2**depth leaves, without division by zero."""
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from([M, K, S])) if draw(st.booleans()) else sympy.Integer(draw(st.integers(1, 40)))
    left, right = draw(dim_expressions(depth - 1)), draw(dim_expressions(depth - 1))
    operator = draw(st.sampled_from(BINARY))
    value = sympy.sympify(operator(left, right if right != 0 else sympy.Integer(1)))
    return value if value.is_finite is not False and not value.has(sympy.zoo, sympy.nan) else left


@settings(max_examples=100, deadline=None)
@given(dim_expressions())
def test_text_reads_back_as_an_equal_expression(expr):
    assert is_dim(expr)
    assert parse_dim(dim_text(expr)) == expr


@pytest.mark.parametrize(
    ("expr", "text"),
    [
        (7, "7"),
        (-7, "-7"),
        (M, "M"),
        (ceildiv(K, 128), "ceildiv(K, 128)"),
        (2 * ceildiv(K, 128) + M - 5, "M + 2*ceildiv(K, 128) - 5"),
        (M * floordiv(K, 2), "M*floordiv(K, 2)"),
        (M * (K + 1), "M*(K + 1)"),
        (K * K / S**2, "(K*K)/(S*S)"),
        (sympy.Min(M, K, 3), "min(min(3, K), M)"),
        (K / 128, "K/128"),
        (1 / S, "1/S"),
        (2 * ((M + 2) / M), "2*((M + 2)/M)"),
        (K - (M + 2) * (K + 1), "K - ((K + 1)*(M + 2))"),
        (-2 * K * (M + 1) / 3, "-2*(K*(M + 1))/3"),
        (K / (2 * M + 2) / 3, "(K/(2*M + 2))/3"),
        (-K * M, "-K*M"),
        (sympy.ceiling(K / S + sympy.Rational(1, 2)), "ceildiv(K/S + 1/2, 1)"),
    ],
)
def test_text(expr, text):
    assert dim_text(expr) == text
    assert parse_dim(text) == expr


@pytest.mark.parametrize("text", ["ceildiv(K, 128)", "2*M + K", "align(M, 64)", "max(M, K)", "(M + 1)*K"])
def test_means_the_same_in_a_spec(text):
    assert parse_dim(text) == spec_dims.parse_dim(text)


def test_known_integers_become_ints():
    assert type(ceildiv(300, 128)) is int
    assert ceildiv(300, 128) == 3
    assert floordiv(300, 128) == 2
    assert type(parse_dim("4*32")) is int


@pytest.mark.parametrize("name", ["true", "none", "inf", "2M", "M N", "µ", ""])
def test_unusable_symbol_names(name):
    with pytest.raises(IRError, match="usable name"):
        dim_symbol(name)


@pytest.mark.parametrize(
    "expr",
    [
        sympy.sin(M),
        sympy.sqrt(M),
        sympy.Symbol("M"),
        sympy.Symbol("a b", integer=True, positive=True),
        sympy.pi,
        sympy.factor(2 * M + 2),
        M % 128,
    ],
)
def test_expressions_without_text_are_refused(expr):
    assert not is_dim(expr)
    with pytest.raises(IRError, match="no textual form") as error:
        dim_text(expr)
    assert "dim_symbol" in (error.value.fix or "")


@pytest.mark.parametrize(
    ("text", "what", "where"),
    [
        ("ceildiv(K, 0)", "division by zero", "<dim>:1:1"),
        ("1 + K/0", "division by zero", "<dim>:1:1"),
        ("cieldiv(K, 128)", "unknown dimension function cieldiv", "<dim>:1:1"),
        ("ceildiv(K)", "wrong number of arguments", "<dim>:1:1"),
        ("K +", "syntax error", "<dim>:1:4"),
        ("1.5*K", "wrong type", "<dim>:1:1"),
        ("true", "wrong type", "<dim>:1:1"),
    ],
)
def test_errors(text, what, where):
    with pytest.raises(IRError) as error:
        parse_dim(text)
    assert what in error.value.what
    assert error.value.where == where
