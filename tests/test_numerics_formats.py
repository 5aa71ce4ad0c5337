"""Number formats: every code, the measured conversions of docs/hardware.md §10, and packing."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import ml_dtypes
import numerics_oracle as oracle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemmgen.emulator.numerics import formats
from gemmgen.errors import EmulationError

SMALL_FORMATS = ["e4m3", "e5m2", "e2m1", "e2m3", "e3m2", "ue8m0", "ue4m3"]
ML_DTYPES = {
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "bf16": ml_dtypes.bfloat16,
    "f16": np.float16,
}
# docs/hardware.md §6
RANGES = {
    "e4m3": (448, 2**-6, 2**-9),
    "e5m2": (57344, 2**-14, 2**-16),
    "e2m1": (6, 1, 0.5),
    "ue4m3": (448, 2**-6, 2**-9),
}


def codes_of(name: str) -> np.ndarray:
    form = formats.FORMATS[name]
    return np.arange(1 << min(form.bits, 16), dtype=form.code_dtype)


@pytest.mark.parametrize("name", [*SMALL_FORMATS, "bf16", "f16"])
def test_every_code_decodes_to_the_value_its_fields_say(name: str) -> None:
    codes = codes_of(name)[:: 1 if name in SMALL_FORMATS else 37]
    values = formats.decode(codes, name)
    for code, value in zip(codes.tolist(), values.tolist(), strict=True):
        want = oracle.number(code, name)
        if want.special == "nan":
            assert math.isnan(value)
        elif want.special:
            assert value == float(want.special)
        else:
            assert Fraction(value) == want.value
            exponent = formats.leading_exponent(value, name)
            assert exponent == (2.0**want.exponent if want.value else 0)


@pytest.mark.parametrize("name", list(RANGES))
def test_ranges_are_those_of_the_table(name: str) -> None:
    values = formats.decode(codes_of(name), name)
    positive = values[np.isfinite(values) & (values > 0)]
    largest, min_normal, min_subnormal = RANGES[name]
    assert positive.max() == largest
    assert positive.min() == min_subnormal
    assert min_normal == 2.0 ** formats.FORMATS[name].min_exponent


def test_e2m1_and_ue8m0_values() -> None:
    assert formats.decode(np.arange(8), "e2m1").tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert formats.decode([0, 127, 254], "ue8m0").tolist() == [2.0**-127, 1.0, 2.0**127]
    assert np.isnan(formats.decode([255], "ue8m0")).all()


@pytest.mark.parametrize("name", ["e4m3", "e5m2", "e2m1", "e2m3", "e3m2", "bf16", "f16"])
def test_encode_inverts_decode_for_every_finite_code(name: str) -> None:
    codes = codes_of(name)
    values = formats.decode(codes, name)
    finite = np.isfinite(values)
    np.testing.assert_array_equal(formats.encode(values[finite], name), codes[finite])


@pytest.mark.parametrize("name", list(ML_DTYPES))
def test_nearest_even_agrees_with_ml_dtypes_in_the_finite_range(name: str) -> None:
    rng = np.random.default_rng(len(name))
    form = formats.FORMATS[name]
    finite = np.sort(formats.decode(np.arange(form.max_code + 1, dtype=form.code_dtype), name))
    ties = (finite[:-1] + finite[1:]) / 2
    scattered = rng.normal(size=20000) * 2.0 ** rng.integers(form.min_exponent - 5, form.min_exponent + 6, 20000)
    values = np.concatenate([ties, -ties, scattered]).astype(np.float32)
    values = values[np.abs(values) <= formats.decode([form.max_code], name)[0]]
    want = values.astype(ML_DTYPES[name]).view(form.code_dtype)
    np.testing.assert_array_equal(formats.encode(values, name), want)


@pytest.mark.parametrize(("name", "nan", "largest"), [
    ("e4m3", 0x7F, 0x7E), ("e5m2", 0x7F, 0x7B), ("bf16", 0x7FFF, 0x7F7F), ("f16", 0x7FFF, 0x7BFF),
    ("e2m1", 0x7, 0x7), ("e2m3", 0x1F, 0x1F), ("e3m2", 0x1F, 0x1F),
])  # fmt: skip
def test_satfinite_specials_as_measured(name: str, nan: int, largest: int) -> None:
    """NaN of either sign has one code, infinities and overflow saturate, and -0 keeps its sign."""
    sign = formats.FORMATS[name].sign_code
    values = np.array([np.nan, -np.nan, np.inf, -np.inf, 3e38, -3e38, -0.0])
    large = 0x7F62 if name == "bf16" else largest  # 3e38 is in bf16's range
    want = [nan, nan, largest, largest | sign, large, large | sign, sign]
    assert formats.encode(values, name).tolist() == want


def test_464_rounds_to_448_and_465_saturates() -> None:
    assert formats.encode([464.0, 465.0, 1e9], "e4m3").tolist() == [0x7E] * 3
    assert formats.encode([61440.0, 61439.0], "e5m2").tolist() == [0x7B, 0x7B]


def test_bf16_and_f16_without_satfinite_overflow_by_rounding_mode() -> None:
    values = [3.4028235e38, np.inf, -3.4028235e38]
    assert formats.encode(values, "bf16", "rn", saturate=False).tolist() == [0x7F80, 0x7F80, 0xFF80]
    assert formats.encode(values, "bf16", "rz", saturate=False).tolist() == [0x7F7F, 0x7F80, 0xFF7F]
    assert formats.encode([65520.0, 65519.0], "f16", "rn", saturate=False).tolist() == [0x7C00, 0x7BFF]


def test_bf16_rz_drops_the_low_half() -> None:
    words = np.random.default_rng(0).integers(0, 0x7F800000, 10000).astype(np.uint32)
    words[::2] |= np.uint32(0x80000000)
    want = (words >> np.uint32(16)).astype(np.uint16)
    np.testing.assert_array_equal(formats.encode(words.view(np.float32), "bf16", "rz"), want)


def test_directed_roundings() -> None:
    values = [1.1, -1.1]
    below, above = 0x38, 0x39  # 1.0 and 1.125
    assert formats.encode(values, "e4m3", "rp").tolist() == [above, below | 0x80]
    assert formats.encode(values, "e4m3", "rm").tolist() == [below, above | 0x80]


def test_tf32_rounds_ties_away_and_clears_the_low_bits() -> None:
    words = np.array([0x3F800FFF, 0x3F801000, 0xBF801000, 0x7F7FFFFF], np.uint32)
    got = formats.f32_to_tf32_rna(words.view(np.float32)).view(np.uint32)
    assert [hex(x) for x in got] == ["0x3f800000", "0x3f802000", "0xbf802000", "0x7f800000"]
    assert formats.decode(np.array([0x3F801FFF], np.uint32), "tf32")[0] == 1.0


def test_relu_clears_negatives() -> None:
    assert formats.encode([-3.0, -0.0, 3.0, np.nan], "e4m3", relu=True).tolist() == [0, 0, 0x44, 0x7F]


def test_ue8m0_rounds_down_or_up_to_powers_of_two() -> None:
    values = [1.0, 1.5, 2.0, 0.0, 2.0**-127, 1.1 * 2.0**-127, 3.4e38, np.inf, np.nan, -4.0]
    assert formats.encode(values, "ue8m0", "rz").tolist() == [127, 127, 128, 0, 0, 0, 254, 254, 255, 129]
    assert formats.encode(values, "ue8m0", "rp").tolist() == [127, 128, 128, 0, 0, 1, 254, 254, 255, 129]
    assert formats.encode([3.4e38, np.inf], "ue8m0", "rp", saturate=False).tolist() == [255, 255]
    powers = 2.0 ** np.arange(-126, 128)
    np.testing.assert_array_equal(
        formats.encode(powers, "ue8m0", "rz"), powers.astype(np.float32).view(np.uint32) >> 23
    )


def test_pairs_put_the_first_source_high() -> None:
    assert formats.cvt_pack([1.0], [2.0], "e4m3").tolist() == [0x3840]
    assert formats.cvt_pack([1.0], [2.0], "bf16").tolist() == [0x3F804000]
    assert formats.cvt_pack([1.0], [-6.0], "e2m1").tolist() == [0x2F]
    assert formats.cvt_pack([1.0], [2.0], "e3m2").dtype == np.uint16
    high, low = formats.cvt_unpack(np.array([0x2F], np.uint8), "e2m1")
    assert (high.tolist(), low.tolist()) == ([0x2], [0xF])
    high, low = formats.cvt_unpack(np.array([0x3F804000], np.uint32), "bf16")
    assert (high.tolist(), low.tolist()) == ([0x3F80], [0x4000])


@given(st.lists(st.integers(0, 15), min_size=2, max_size=64).filter(lambda x: len(x) % 2 == 0))
def test_dense_packing_round_trips_low_nibble_first(codes: list[int]) -> None:
    array = np.array(codes, np.uint8)
    packed = formats.pack_dense(array, 4)
    assert packed[0] == codes[0] | codes[1] << 4
    np.testing.assert_array_equal(formats.unpack_dense(packed, 4), array)


@given(st.sampled_from([4, 6]), st.lists(st.integers(0, 63), min_size=32, max_size=32))
def test_padded_packing_round_trips(width: int, codes: list[int]) -> None:
    array = np.array(codes, np.uint8) & np.uint8((1 << width) - 1)
    packed = formats.pack_padded(array, width)
    assert packed.shape == array.shape
    stream = sum(int(code) << (width * i) for i, code in enumerate(array[:16]))
    assert bytes(packed[:16]) == stream.to_bytes(16, "little")
    np.testing.assert_array_equal(formats.unpack_padded(packed, width), array)


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(EmulationError, match="unknown number format"):
        formats.decode([0], "e8m7")
    with pytest.raises(EmulationError, match=re.escape("cvt.rn to ue8m0")):
        formats.encode([1.0], "ue8m0", "rn")
    with pytest.raises(EmulationError, match="no such conversion"):
        formats.encode([1.0], "s8")
    with pytest.raises(EmulationError, match="no packed pair"):
        formats.cvt_pack([1.0], [1.0], "tf32")
    with pytest.raises(EmulationError, match="dense packing"):
        formats.unpack_dense(np.zeros(4, np.uint8), 6)
