"""The tensor-core arithmetic: H200 vectors bit for bit, an exact oracle on hostile inputs, and worked examples."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numerics_oracle as oracle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemmgen.emulator.numerics import formats, mma
from gemmgen.emulator.numerics.descriptors import InstructionDescriptor
from gemmgen.errors import EmulationError

FULL_VECTORS = Path(__file__).parents[2] / "shared" / "facts" / "wgmma_h200_vectors.npz"
# Every fourth case of the full file, which is not part of the repository: one[3::4] and chain[1::4].
SUBSET_VECTORS = Path(__file__).parent / "data" / "wgmma_h200_subset.npz"
VECTOR_TYPES = (
    "e4m3_e4m3",
    "e5m2_e5m2",
    "e4m3_e5m2",
    "e5m2_e4m3",
    "e4m3_e4m3_h",
    "bf16_bf16",
    "f16_f16",
    "f16_f16_h",
    "tf32_tf32",
)
WGMMA_CASES = [
    *[(a, b, d) for a in ("e4m3", "e5m2") for b in ("e4m3", "e5m2") for d in ("f32", "f16")],
    ("bf16", "bf16", "f32"),
    ("f16", "f16", "f32"),
    ("f16", "f16", "f16"),
    ("tf32", "tf32", "f32"),
]


def tcgen05(kind: str, a, b, c, types: tuple[str, str, str], scale_type: str | None = None, **options) -> np.ndarray:
    """``mma.tcgen05_mma`` with A, B and D types given by name; ``options`` may hold descriptor fields too."""
    fields = {name: options.pop(name) for name in ("negate_a", "negate_b", "saturate") if name in options}
    instruction = InstructionDescriptor(kind, len(a), len(b), *types, scale_type=scale_type, **fields)
    return mma.tcgen05_mma(instruction, a, b, c, **options)


def bits(values: np.ndarray) -> np.ndarray:
    return values.view(np.uint16 if values.dtype == np.float16 else np.uint32)


def load_vectors(types: str, part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    path = FULL_VECTORS if FULL_VECTORS.exists() else SUBSET_VECTORS
    with np.load(path) as data:
        a, b, c, d = (data[f"{types}.{part}.{name}"] for name in "ABCD")
    if types.startswith("tf32"):
        a, b = a << np.uint32(13), b << np.uint32(13)  # the file keeps the 19 significant bits
    return a, b, c, d


@pytest.mark.parametrize("types", VECTOR_TYPES)
def test_one_mma_equals_the_h200(types: str) -> None:
    a_type, b_type = types.split("_")[:2]
    a, b, c, d = load_vectors(types, "one")
    assert len(a) >= 10
    for i in range(len(a)):
        result = mma.wgmma(a[i], b[i], c[i].astype(d.dtype), a_type, b_type, "f16" if d.dtype == np.float16 else "f32")
        np.testing.assert_array_equal(bits(result), bits(d[i]))


@pytest.mark.parametrize("types", VECTOR_TYPES)
def test_chained_mmas_equal_the_h200_after_every_step(types: str) -> None:
    a_type, b_type = types.split("_")[:2]
    a, b, c, d = load_vectors(types, "chain")
    k = 256 // formats.FORMATS[a_type].bits
    for i in range(len(a)):
        total = c[i].astype(d.dtype)
        for step in range(4):
            part = slice(step * k, step * k + k)
            total = mma.wgmma(
                a[i][:, part], b[i][:, part], total, a_type, b_type, "f16" if d.dtype == np.float16 else "f32"
            )
            np.testing.assert_array_equal(bits(total), bits(d[i, step]))


@pytest.mark.skipif(not FULL_VECTORS.exists(), reason="the full vector file is not beside this checkout")
def test_the_committed_vectors_are_a_part_of_the_measured_ones() -> None:
    with np.load(FULL_VECTORS) as full, np.load(SUBSET_VECTORS) as subset:
        assert set(full) == set(subset)
        for key in full:
            part = full[key][3::4] if ".one." in key else full[key][1::4]
            np.testing.assert_array_equal(subset[key], part)


def random_codes(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Codes of every exponent, with runs of zeros, subnormals, infinities and NaN where the format has them."""
    form = formats.FORMATS[name]
    codes = rng.integers(0, 1 << form.bits, shape, dtype=np.uint64)
    if form.bits == 8 and name not in ("s8", "u8") and rng.random() < 0.7:
        codes = np.where(np.isfinite(formats.decode(codes.astype(np.uint8), name)), codes, 1)
    if form.bits > 8:
        ordinary = formats.encode(rng.normal(size=shape) * 2.0 ** rng.integers(-12, 12, shape), name)
        codes = np.where(rng.random(shape) < rng.choice([0.0, 0.02, 1.0], p=[0.5, 0.3, 0.2]), codes, ordinary)
    codes = np.where(rng.random(shape) < rng.choice([0.0, 0.3, 0.95]), 0, codes)
    return codes.astype(form.code_dtype)


def random_accumulator(rng: np.random.Generator, shape: tuple[int, int], d_type: str) -> np.ndarray:
    """Accumulators from far below to far above the products, some zero, subnormal, infinite or NaN."""
    dtype = np.float16 if d_type == "f16" else np.float32
    values = rng.normal(size=shape) * 2.0 ** rng.integers(-40, 40, shape)
    odd = rng.choice([0.0, -0.0, 1e-40, -3e-8, np.inf, -np.inf, np.nan, 3.4e38], shape)
    with np.errstate(over="ignore"):
        return np.where(rng.random(shape) < 0.2, odd, values).astype(dtype)


def oracle_bits(pairs: list[tuple], terms: list, c: oracle.Number, fraction_bits: int, out: tuple[str, int]) -> int:
    special = oracle.special_sum(pairs, c)
    d_type, result_bits = out
    if special:
        f32, f16 = {"nan": (0x7FFFFFFF, 0x7FFF), "inf": (0x7F800000, 0x7C00), "-inf": (0xFF800000, 0xFC00)}[special]
        return f32 if d_type == "f32" else f16
    total = oracle.accumulate(terms, c, fraction_bits)
    return oracle.f32_bits(total, result_bits) if d_type == "f32" else oracle.f16_bits(total)


@pytest.mark.parametrize(("a_type", "b_type", "d_type"), WGMMA_CASES)
@pytest.mark.parametrize("seed", range(6))
def test_wgmma_equals_the_rational_oracle(a_type: str, b_type: str, d_type: str, seed: int) -> None:
    rng = np.random.default_rng([seed, *map(ord, a_type + b_type + d_type)])
    k = 256 // formats.FORMATS[a_type].bits
    a, b = random_codes(rng, a_type, (6, k)), random_codes(rng, b_type, (8, k))
    c = random_accumulator(rng, (6, 8), d_type)
    fp8 = a_type in ("e4m3", "e5m2")
    result = bits(mma.wgmma(a, b, c, a_type, b_type, d_type))
    for m in range(6):
        for n in range(8):
            pairs = [
                (oracle.number(int(x), a_type), oracle.number(int(y), b_type)) for x, y in zip(a[m], b[n], strict=True)
            ]
            terms = [(x.value * y.value, x.exponent + y.exponent) for x, y in pairs]
            start = oracle.number(int(bits(c)[m, n]), d_type)
            want = oracle_bits(pairs, terms, start, 13 if fp8 else 25, (d_type, 13 if fp8 else 23))
            assert result[m, n] == want, (m, n, hex(result[m, n]), hex(want))


@pytest.mark.parametrize("a_type", ["e4m3", "e5m2", "e2m3", "e3m2", "e2m1"])
@pytest.mark.parametrize("b_type", ["e4m3", "e2m1", "e3m2"])
@pytest.mark.parametrize("scaled", [False, True])
def test_narrow_tcgen05_kinds_equal_the_rational_oracle(a_type: str, b_type: str, scaled: bool) -> None:
    rng = np.random.default_rng([scaled, *map(ord, a_type + b_type)])
    a, b = random_codes(rng, a_type, (4, 32)), random_codes(rng, b_type, (4, 32))
    c = random_accumulator(rng, (4, 4), "f32")
    scale_a, scale_b = (rng.integers(90, 160, (4, 1)).astype(np.uint8) for _ in "ab")
    scale_a[3] = 255
    scales = {"scale_a": scale_a, "scale_b": scale_b, "scale_type": "ue8m0"} if scaled else {}
    kind = "mxf8f6f4" if scaled else "f8f6f4"
    result = bits(tcgen05(kind, a, b, c, (a_type, b_type, "f32"), **scales))
    for m in range(4):
        for n in range(4):
            pairs = [
                (oracle.number(int(x), a_type), oracle.number(int(y), b_type)) for x, y in zip(a[m], b[n], strict=True)
            ]
            start = oracle.number(int(bits(c)[m, n]), "f32")
            shift = int(scale_a[m, 0]) + int(scale_b[n, 0]) - 254 if scaled else 0
            terms = [(x.value * y.value * Fraction(2) ** shift, x.exponent + y.exponent + shift) for x, y in pairs]
            if scaled and m == 3:
                pairs.append((oracle.number(255, "ue8m0"), oracle.number(127, "ue8m0")))
            assert result[m, n] == oracle_bits(pairs, terms, start, 25, ("f32", 23))


@pytest.mark.parametrize(("kind", "scale_type", "count"), [
    ("mxf4", "ue8m0", 2), ("mxf4nvf4", "ue8m0", 2), ("mxf4nvf4", "ue8m0", 4), ("mxf4nvf4", "ue4m3", 4),
])  # fmt: skip
def test_fp4_kinds_equal_the_rational_oracle(kind: str, scale_type: str, count: int) -> None:
    rng = np.random.default_rng([count, *map(ord, kind + scale_type)])
    a, b = (rng.integers(0, 16, (6, 64)).astype(np.uint8) for _ in "ab")
    low, high = (100, 150) if scale_type == "ue8m0" else (1, 127)
    scale_a, scale_b = (rng.integers(low, high, (6, count)).astype(np.uint8) for _ in "ab")
    scale_a[5, 1] = 255 if scale_type == "ue8m0" else 127
    c = random_accumulator(rng, (6, 6), "f32")
    result = bits(
        tcgen05(kind, a, b, c, ("e2m1", "e2m1", "f32"), scale_a=scale_a, scale_b=scale_b, scale_type=scale_type)
    )
    for m in range(6):
        for n in range(6):
            scales, terms = [], []
            for group in range(4):
                index = group * count // 4
                factors = [oracle.number(int(s), scale_type) for s in (scale_a[m, index], scale_b[n, index])]
                scales.append((factors[0], factors[1]))
                total = sum(
                    (
                        oracle.number(int(a[m, k]), "e2m1").value * oracle.number(int(b[n, k]), "e2m1").value
                        for k in range(16 * group, 16 * group + 16)
                    ),
                    Fraction(0),
                )
                terms.append((total * factors[0].value * factors[1].value, factors[0].exponent + factors[1].exponent))
            start = oracle.number(int(bits(c)[m, n]), "f32")
            special = oracle.special_sum(scales, start)
            if special:
                want = oracle_bits(scales, [], start, 35, ("f32", 23))
            else:
                exponents = [exponent for _, exponent in terms] + ([start.exponent] if start.value else [])
                unit = max(exponents) - 35
                total = sum((oracle.cut(value, unit) for value, _ in terms), oracle.cut(start.value, unit))
                want = oracle.f32_bits(total, 23)
            assert result[m, n] == want


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["e4m3", "e5m2"]),
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=32, max_size=32),
    st.floats(width=32),
)
def test_any_fp8_dot_product_equals_the_oracle(name: str, codes: list[tuple[int, int]], c: float) -> None:
    a, b = (np.array([[pair[i] for pair in codes]], np.uint8) for i in (0, 1))
    start = np.array([[c]], np.float32)
    got = int(bits(mma.wgmma(a, b, start, name, name, "f32"))[0, 0])
    pairs = [(oracle.number(x, name), oracle.number(y, name)) for x, y in codes]
    terms = [(x.value * y.value, x.exponent + y.exponent) for x, y in pairs]
    assert got == oracle_bits(pairs, terms, oracle.number(int(bits(start)[0, 0]), "f32"), 13, ("f32", 13))


def test_a_small_product_vanishes_beside_a_large_accumulator() -> None:
    """docs/hardware.md §7: C = 256 makes the quantum 2^-5, so 0.02 is lost and 1/16 is not."""
    a, b = np.zeros((1, 32), np.uint8), np.zeros((2, 32), np.uint8)
    a[0, 0], b[0, 0], b[1, 0] = formats.encode([1.0, 0.02, 0.0625], "e4m3")
    c = np.full((1, 2), 256.0, np.float32)
    assert mma.wgmma(a, b, c, "e4m3", "e4m3", "f32").tolist() == [[256.0, 256.0625]]
    assert mma.wgmma(a, b, c, "e4m3", "e4m3", "f32", exact=True)[0, 0] > 256.015


def test_measured_special_values() -> None:
    """docs/hardware.md §10: NaN is 0x7FFFFFFF, FLT_MAX passes FP8 as 0x7F7FFC00, exact zeros are +0."""
    inf, nan, one = 0x7C, 0x7F, 0x3C
    a = np.zeros((6, 32), np.uint8)
    b = np.zeros((1, 32), np.uint8)
    b[0, :2] = one, one
    a[0, 0] = nan
    a[1, 2] = inf  # times zero
    a[2, :2] = inf, inf | 0x80
    a[3, 0] = inf
    c = np.zeros((6, 1), np.float32)
    c[4, 0] = np.finfo(np.float32).max
    c[5, 0] = -0.0
    got = bits(mma.wgmma(a, b, c, "e5m2", "e5m2", "f32"))[:, 0]
    assert [hex(x) for x in got] == ["0x7fffffff", "0x7fffffff", "0x7fffffff", "0x7f800000", "0x7f7ffc00", "0x0"]


def test_fp8_keeps_thirteen_bits_of_subnormal_results_and_bf16_keeps_all() -> None:
    c = np.array([[0x003FFFFF]], np.uint32).view(np.float32)
    zero8, zero16 = np.zeros((1, 32), np.uint8), np.zeros((1, 16), np.uint16)
    assert bits(mma.wgmma(zero8, zero8, c, "e4m3", "e4m3", "f32"))[0, 0] == 0x003FFC00
    assert bits(mma.wgmma(zero16, zero16, c, "bf16", "bf16", "f32"))[0, 0] == 0x003FFFFF


def test_order_of_k_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    a, b = (rng.integers(0, 0x7E, (16, 32)).astype(np.uint8) for _ in "ab")
    order = rng.permutation(32)
    expected = mma.wgmma(a, b, None, "e4m3", "e4m3", "f32")
    np.testing.assert_array_equal(mma.wgmma(a[:, order], b[:, order], None, "e4m3", "e4m3", "f32"), expected)


def test_negation_scale_input_and_block_scales() -> None:
    a = formats.encode(np.eye(4, 32) * 2, "e4m3")
    b = formats.encode(np.arange(8 * 32).reshape(8, 32) % 7, "e4m3")
    c = np.full((4, 8), 8.0, np.float32)
    product = 2.0 * (np.arange(8 * 32).reshape(8, 32) % 7)[:, :4].T
    np.testing.assert_array_equal(mma.wgmma(a, b, c, "e4m3", "e4m3", "f32", scale_a=-1), 8 - product)
    np.testing.assert_array_equal(mma.wgmma(a, b, c, "e4m3", "e4m3", "f32", scale_a=-1, scale_b=-1), 8 + product)
    got = tcgen05("f8f6f4", a, b, c, ("e4m3", "e4m3", "f32"), negate_b=True)
    np.testing.assert_array_equal(got, 8 - product)
    scales = {
        "scale_a": np.full((4, 1), 129, np.uint8),
        "scale_b": np.full((8, 1), 126, np.uint8),
        "scale_type": "ue8m0",
    }
    np.testing.assert_array_equal(tcgen05("mxf8f6f4", a, b, c, ("e4m3", "e4m3", "f32"), **scales), 8 + product * 2)
    a16, b16 = formats.encode(np.eye(4, 16), "f16"), formats.encode(np.ones((8, 16)), "f16")
    np.testing.assert_array_equal(
        tcgen05("f16", a16, b16, c, ("f16", "f16", "f32"), scale_input_d=2), np.full((4, 8), 3.0)
    )


@pytest.mark.parametrize("saturate", [False, True])
def test_integer_mma_is_exact_and_wraps_or_saturates(saturate: bool) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(-128, 128, (64, 32)).astype(np.int8), rng.integers(0, 256, (16, 32)).astype(np.uint8)
    c = rng.integers(-(2**31), 2**31, (64, 16)).astype(np.int32)
    c[0, :] = 2**31 - 1
    want = a.astype(np.int64) @ b.T.astype(np.int64) + c
    want = np.clip(want, -(2**31), 2**31 - 1) if saturate else (want + 2**31) % 2**32 - 2**31
    np.testing.assert_array_equal(mma.wgmma(a.view(np.uint8), b, c, "s8", "u8", "s32", saturate=saturate), want)
    got = tcgen05("i8", a.view(np.uint8), b, c, ("s8", "u8", "s32"), saturate=saturate)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("a_type", "b_type", "d_type"), [
    ("e4m3", "bf16", "f32"), ("bf16", "bf16", "f16"), ("f16", "bf16", "f32"), ("e2m1", "e2m1", "f32"),
    ("s8", "s8", "f32"),
])  # fmt: skip
def test_wgmma_refuses_types_it_does_not_have(a_type: str, b_type: str, d_type: str) -> None:
    with pytest.raises(EmulationError, match="wgmma has no such types"):
        mma.wgmma(np.zeros((1, 32), np.uint8), np.zeros((1, 32), np.uint8), None, a_type, b_type, d_type)


def test_wrong_shapes_and_scales_are_refused() -> None:
    eight = np.zeros((4, 32), np.uint8)
    with pytest.raises(EmulationError, match="wrong shape"):
        mma.wgmma(eight[:, :16], eight, None, "e4m3", "e4m3", "f32")
    with pytest.raises(EmulationError, match="takes no scale factors"):
        tcgen05("f8f6f4", eight, eight, None, ("e4m3", "e4m3", "f32"), scale_a=eight, scale_b=eight)
    with pytest.raises(EmulationError, match="other scale factors"):
        tcgen05(
            "mxf8f6f4",
            eight,
            eight,
            None,
            ("e4m3", "e4m3", "f32"),
            scale_a=eight[:, :2],
            scale_b=eight[:, :2],
            scale_type="ue8m0",
        )
    with pytest.raises(EmulationError, match="unknown tcgen05"):
        tcgen05("f64", eight, eight, None, ("e4m3", "e4m3", "f32"))
