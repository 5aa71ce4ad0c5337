"""Single instructions on the emulator against Python's integers, fractions and numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemmgen.emulator import Uninitialized, emulate
from gemmgen.errors import EmulationError

LANES = 32
_TYPES = {"32": ("b32", np.uint32, 4), "64": ("b64", np.uint64, 8), "16": ("b16", np.uint16, 2)}


def run(body: str, inputs: list[np.ndarray], out_dtype: type, registers: str = "") -> np.ndarray:
    """Run ``body`` per lane on registers a, b, c (of the inputs' widths); it leaves its result in d."""
    names = "abc"[: len(inputs)]
    lines = [".version 9.0", ".target sm_100a", ".address_size 64"]
    lines.append(f".visible .entry k({', '.join(f'.param .u64 p{n}' for n in [*names, 'd'])}) {{")
    lines.append(f".reg .b64 g, o; .reg .b32 t; .reg .pred p, q; {registers}")
    out = np.zeros(LANES, out_dtype)
    for name, array in zip([*names, "d"], [*inputs, out], strict=True):
        lines.append(f".reg .b{8 * array.itemsize} {name};")
    lines.append("mov.u32 t, %tid.x;")
    for name, array in zip(names, inputs, strict=True):
        lines.append(f"ld.param.u64 g, [p{name}]; mul.wide.u32 o, t, {array.itemsize}; add.u64 g, g, o;")
        lines.append(f"ld.global.b{8 * array.itemsize} {name}, [g];")
    lines.append(body)
    lines.append(f"ld.param.u64 g, [pd]; mul.wide.u32 o, t, {out.itemsize}; add.u64 g, g, o;")
    lines.append(f"st.global.b{8 * out.itemsize} [g], d; ret; }}")
    report = emulate("\n".join(lines), "k", 1, LANES, 1, 0, [*inputs, Uninitialized(out)])
    assert report.ok, str(report)
    return out


def integers(bits: int) -> st.SearchStrategy[np.ndarray]:
    special = [0, 1, 2, 31, 32, 33, (1 << bits) - 1, 1 << (bits - 1), (1 << (bits - 1)) - 1]
    one = st.one_of(st.sampled_from(special), st.integers(0, (1 << bits) - 1))
    return st.lists(one, min_size=LANES, max_size=LANES).map(lambda v: np.array(v, f"u{bits // 8}"))


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _truncated(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


_BINARY: dict[str, Callable[[int, int], int]] = {
    "add.u32": lambda a, b: a + b,
    "sub.s32": lambda a, b: a - b,
    "mul.lo.u32": lambda a, b: a * b,
    "mul.hi.u32": lambda a, b: a * b >> 32,
    "mul.hi.s32": lambda a, b: _signed(a, 32) * _signed(b, 32) >> 32,
    "div.u32": lambda a, b: a // b if b else -1,
    "div.s32": lambda a, b: _truncated(_signed(a, 32), _signed(b, 32)) if b else -1,
    "rem.u32": lambda a, b: a % b if b else a,
    "rem.s32": lambda a, b: _signed(a, 32) - _truncated(_signed(a, 32), _signed(b, 32)) * _signed(b, 32) if b else a,
    "min.s32": lambda a, b: min(_signed(a, 32), _signed(b, 32)),
    "max.u32": max,
    "and.b32": lambda a, b: a & b,
    "xor.b32": lambda a, b: a ^ b,
    "shl.b32": lambda a, b: a << b if b < 32 else 0,
    "shr.u32": lambda a, b: a >> min(b, 32),
    "shr.s32": lambda a, b: _signed(a, 32) >> min(b, 31),
}


@pytest.mark.parametrize("op", _BINARY)
@settings(max_examples=8, deadline=None)
@given(a=integers(32), b=integers(32))
def test_binary_integer(op: str, a: np.ndarray, b: np.ndarray) -> None:
    got = run(f"{op} d, a, b;", [a, b], np.uint32)
    assert [int(v) for v in got] == [_BINARY[op](int(x), int(y)) & 0xFFFFFFFF for x, y in zip(a, b, strict=True)]


@settings(max_examples=8, deadline=None)
@given(a=integers(64), b=integers(64))
def test_high_product_of_64_bits(a: np.ndarray, b: np.ndarray) -> None:
    unsigned = run("mul.hi.u64 d, a, b;", [a, b], np.uint64)
    signed = run("mul.hi.s64 d, a, b;", [a, b], np.uint64)
    mask = (1 << 64) - 1
    assert [int(v) for v in unsigned] == [int(x) * int(y) >> 64 for x, y in zip(a, b, strict=True)]
    expected = [(_signed(int(x), 64) * _signed(int(y), 64) >> 64) & mask for x, y in zip(a, b, strict=True)]
    assert [int(v) for v in signed] == expected


@settings(max_examples=8, deadline=None)
@given(a=integers(32), b=integers(32), c=integers(32))
def test_bit_field_instructions(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    position, length = b & 0x1F, c & 0x1F
    got = run("bfe.u32 d, a, b, c;", [a, position, length], np.uint32)
    assert [int(v) for v in got] == [
        int(x) >> int(p) & ((1 << int(n)) - 1) for x, p, n in zip(a, position, length, strict=True)
    ]
    got = run("bfi.b32 d, a, 0xFFFFFFFF, b, c;", [a, position, length], np.uint32)
    for value, x, p, n in zip(got, a, position, length, strict=True):
        field = ((1 << int(n)) - 1) << int(p) & 0xFFFFFFFF
        assert int(value) == (0xFFFFFFFF & ~field) | (int(x) << int(p) & field)
    got = run("lop3.b32 d, a, b, c, 0x96;", [a, b, c], np.uint32)
    assert (got == a ^ b ^ c).all()
    got = run("prmt.b32 d, a, b, 0x6240;", [a, b], np.uint32)
    for value, x, y in zip(got, a, b, strict=True):
        whole = int(x).to_bytes(4, "little") + int(y).to_bytes(4, "little")
        assert int(value).to_bytes(4, "little") == bytes(whole[i] for i in (0, 4, 2, 6))
    got = run("shf.l.wrap.b32 d, a, b, c;", [a, b, c], np.uint32)
    expected = [((int(y) << 32 | int(x)) << (int(n) & 31)) >> 32 & 0xFFFFFFFF for x, y, n in zip(a, b, c, strict=True)]
    assert [int(v) for v in got] == expected


@settings(max_examples=8, deadline=None)
@given(a=integers(32))
def test_unary_bits(a: np.ndarray) -> None:
    assert [int(v) for v in run("popc.b32 d, a;", [a], np.uint32)] == [int(x).bit_count() for x in a]
    assert [int(v) for v in run("clz.b32 d, a;", [a], np.uint32)] == [32 - int(x).bit_length() for x in a]
    assert [int(v) for v in run("brev.b32 d, a;", [a], np.uint32)] == [int(f"{int(x):032b}"[::-1], 2) for x in a]
    expected = [(int(x).bit_length() - 1) & 0xFFFFFFFF for x in a]
    assert [int(v) for v in run("bfind.u32 d, a;", [a], np.uint32)] == expected


def floats() -> st.SearchStrategy[np.ndarray]:
    one = st.floats(width=32, allow_nan=False, allow_infinity=False)
    return st.lists(one, min_size=LANES, max_size=LANES).map(lambda v: np.array(v, np.float32))


def _rounded(exact: Fraction, zero: float) -> np.float32:
    """An exact value rounded to FP32, nearest even, by the definition."""
    if exact == 0:
        return np.float32(zero)
    exponent = max(math.floor(math.log2(abs(exact))) if abs(exact) >= Fraction(1, 2**1000) else -149, -126)
    while abs(exact) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while exponent > -126 and abs(exact) < Fraction(2) ** exponent:
        exponent -= 1
    units = round(exact / Fraction(2) ** (exponent - 23))
    value = Fraction(units) * Fraction(2) ** (exponent - 23)
    if abs(value) >= Fraction(2) ** 128:
        return np.float32(np.inf if value > 0 else -np.inf)
    return np.float32(float(value))


@settings(max_examples=12, deadline=None)
@given(a=floats(), b=floats(), c=floats())
def test_fma_rounds_once(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    got = run("fma.rn.f32 d, a, b, c;", [a, b, c], np.float32)
    for value, x, y, z in zip(got, a, b, c, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        expected = _rounded(exact, float(value))
        assert value == expected, (x, y, z)


def test_fma_at_a_rounding_tie() -> None:
    a = np.full(LANES, 1 + 2.0**-12, np.float32)
    b = np.full(LANES, 1 + 2.0**-12, np.float32)
    c = np.full(LANES, np.float32(2.0**-60), np.float32)
    got = run("fma.rn.f32 d, a, b, c;", [a, b, c], np.float32)
    exact = Fraction(float(a[0])) ** 2 + Fraction(float(c[0]))
    assert got[0] == _rounded(exact, 0.0)
    assert got[0] == np.float32(1 + 2.0**-11 + 2.0**-23)


@pytest.mark.parametrize(("op", "function"), [("add.rn.f32", lambda x, y: x + y), ("mul.rn.f32", lambda x, y: x * y)])
@settings(max_examples=8, deadline=None)
@given(a=floats(), b=floats())
def test_float_arithmetic(op: str, function: Callable, a: np.ndarray, b: np.ndarray) -> None:
    got = run(f"{op} d, a, b;", [a, b], np.float32)
    for value, x, y in zip(got, a, b, strict=True):
        assert value == _rounded(function(Fraction(float(x)), Fraction(float(y))), float(value))


def test_float_specials() -> None:
    nan, inf = np.float32(np.nan), np.float32(np.inf)
    a = np.array(([nan, inf, -inf, 0.0, -0.0, 1e-40, 3.0, -3.0] * 4), np.float32)
    b = np.array(([1.0, -inf, -inf, -0.0, 0.0, 1e-40, nan, 5.0] * 4), np.float32)
    assert run("add.f32 d, a, b;", [a, b], np.uint32)[0] == 0x7FFFFFFF
    assert run("add.f32 d, a, b;", [a, b], np.uint32)[1] == 0x7FFFFFFF
    assert run("add.ftz.f32 d, a, b;", [a, b], np.float32)[5] == 0
    smallest = run("min.f32 d, a, b;", [a, b], np.float32)
    assert smallest[0] == 1.0
    assert smallest[6] == 3.0
    assert np.signbit(smallest[3])
    assert np.signbit(smallest[4])
    largest = run("max.NaN.f32 d, a, b;", [a, b], np.uint32)
    assert largest[0] == 0x7FFFFFFF
    assert run("abs.f32 d, a;", [a], np.float32)[7] == 3.0
    assert run("setp.lt.f32 p, a, b; selp.u32 d, 1, 0, p;", [a, b], np.uint32)[0] == 0
    assert run("setp.ltu.f32 p, a, b; selp.u32 d, 1, 0, p;", [a, b], np.uint32)[0] == 1


@pytest.mark.parametrize(
    ("op", "value", "expected"),
    [
        ("cvt.rzi.s32.f32", -2.7, -2),
        ("cvt.rni.s32.f32", 2.5, 2),
        ("cvt.rpi.s32.f32", 2.1, 3),
        ("cvt.rzi.s32.f32", 1e20, 2**31 - 1),
        ("cvt.rzi.s32.f32", float("nan"), 0),
        ("cvt.rzi.u32.f32", -5.0, 0),
        ("cvt.rzi.u32.f32", 4e9, 4_000_000_000),
    ],
)
def test_float_to_integer(op: str, value: float, expected: int) -> None:
    got = run(f"{op} d, a;", [np.full(LANES, value, np.float32)], np.uint32)
    assert int(got[0]) == expected & 0xFFFFFFFF


@settings(max_examples=8, deadline=None)
@given(a=integers(32))
def test_integer_conversions(a: np.ndarray) -> None:
    assert (run("cvt.rn.f32.u32 d, a;", [a], np.float32) == a.astype(np.float32)).all()
    assert (run("cvt.rn.f32.s32 d, a;", [a], np.float32) == a.view(np.int32).astype(np.float32)).all()
    assert (run("cvt.s64.s32 d, a;", [a], np.int64) == a.view(np.int32).astype(np.int64)).all()
    assert (run("cvt.u32.u8 d, a;", [a], np.uint32) == (a & 0xFF)).all()
    assert (run("cvt.s32.s8 d, a;", [a], np.int32) == a.astype(np.uint8).view(np.int8).astype(np.int32)).all()
    assert (run("cvt.sat.u8.u32 d, a;", [a], np.uint32) == np.minimum(a, 255)).all()


def test_packed_conversions() -> None:
    import ml_dtypes

    rng = np.random.default_rng(3)
    a, b = (rng.normal(size=LANES).astype(np.float32) * 100 for _ in range(2))
    halves = run("cvt.rn.bf16x2.f32 d, a, b;", [a, b], np.uint32).view(ml_dtypes.bfloat16).reshape(-1, 2)
    assert (halves[:, 1] == a.astype(ml_dtypes.bfloat16)).all()
    assert (halves[:, 0] == b.astype(ml_dtypes.bfloat16)).all()
    bytes_ = run("cvt.rn.satfinite.e4m3x2.f32 d, a, b;", [a, b], np.uint16).view(ml_dtypes.float8_e4m3fn).reshape(-1, 2)
    assert (bytes_[:, 1] == np.clip(a, -448, 448).astype(ml_dtypes.float8_e4m3fn)).all()
    sums = run(
        "fma.rn.bf16x2 d, a, b, a;",
        [np.full(LANES, 0x3F803F80, np.uint32), np.full(LANES, 0x40004000, np.uint32)],
        np.uint32,
    )
    assert sums[0] == 0x40404040


def test_warp_instructions() -> None:
    a = np.arange(LANES, dtype=np.uint32) * 3
    assert (run("shfl.sync.bfly.b32 d, a, 1, 31, -1;", [a], np.uint32) == a[np.arange(LANES) ^ 1]).all()
    assert (run("shfl.sync.idx.b32 d, a, 5, 31, -1;", [a], np.uint32) == 15).all()
    up = run("shfl.sync.up.b32 d|p, a, 2, 0, -1; @!p mov.u32 d, 99;", [a], np.uint32)
    assert list(up) == [99, 99, *(a[:-2])]
    down = run("shfl.sync.down.b32 d, a, 1, 0x1c03, -1;", [a], np.uint32)
    assert list(down[:4]) == [3, 6, 9, 9]
    ballot = run("setp.gt.u32 p, a, 45; vote.sync.ballot.b32 d, p, -1;", [a], np.uint32)
    assert ballot[0] == 0xFFFF0000
    assert (run("redux.sync.max.u32 d, a, -1;", [a], np.uint32) == 93).all()
    elected = run("elect.sync d|p, 0xfffffff0; @p mov.u32 d, 1000;", [a], np.uint32)
    assert list(elected[:6]) == [4, 4, 4, 4, 1000, 4]
    assert (run("match.any.sync.b32 d, a, -1;", [a // 6], np.uint32)[:2] == 3).all()


def test_diverged_loop_meets_again() -> None:
    body = """mov.u32 d, 0; mov.u32 t, a;
    LOOP: setp.eq.u32 p, t, 0; @p bra OUT; add.u32 d, d, 2; sub.u32 t, t, 1; bra LOOP;
    OUT: shfl.sync.idx.b32 d, d, 31, 31, -1; mov.u32 t, %tid.x;"""
    a = np.arange(LANES, dtype=np.uint32)
    assert (run(body, [a], np.uint32) == 62).all()


def test_nested_branches_and_early_exit() -> None:
    body = """and.b32 d, a, 1; setp.ne.u32 p, d, 0; @p bra ODD;
    setp.lt.u32 q, a, 8; @q bra SMALL; mov.u32 d, 3; bra JOIN; SMALL: mov.u32 d, 4; bra JOIN;
    ODD: setp.gt.u32 q, a, 20; @q bra BIG; mov.u32 d, 5; bra JOIN; BIG: mov.u32 d, 6; JOIN: add.u32 d, d, 10;"""
    a = np.arange(LANES, dtype=np.uint32)
    expected = [(16 if x > 20 else 15) if x % 2 else (14 if x < 8 else 13) for x in range(LANES)]
    assert list(run(body, [a], np.uint32)) == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("add.u32.sat d, a, a;", "unknown modifier"),
        ("addd.u32 d, a, a;", "did you mean add"),
        ("add.u32 d, a;", "2 operands"),
        ("add.u64 d, a, a;", "another width"),
        ("add.f32 d, a, 1;", "another kind"),
        ("mov.u32 d, %nosuch;", "unknown register"),
        ("bra NOWHERE;", "unknown label"),
        ("mov.u32 d, 0f3F800000, a;", "3 operands"),
        ("ld.global.u32 d, a;", "not an address"),
        ("setp.lt.u32 d, a, a;", "not a predicate"),
        ("cvt.rn.u32.f32 d, a;", "needs .rni"),
        ("setmaxnreg.inc.sync.aligned.u32 44;", "register count"),
        ("@a add.u32 d, a, a;", "not a predicate"),
    ],
)
def test_malformed_instructions_are_refused(body: str, message: str) -> None:
    with pytest.raises(EmulationError, match=message) as raised:
        run(body, [np.zeros(LANES, np.uint32)], np.uint32)
    assert "PTX line" in str(raised.value)
