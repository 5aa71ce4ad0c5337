"""FP32 scales to packed powers of two: exact, or asked for and measured."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gemmgen
from gemmgen.errors import ArgumentError
from gemmgen.quantization import QuantizedTensor, quantize
from gemmgen.scale_packing import pack_scales

FRAMEWORKS = pytest.mark.parametrize("to_array", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
BLOCKS = pytest.mark.parametrize("block", [(1, 32), (1, 128), (128, 128), (3, 64)])


def with_scale(block: tuple[int, int], scale: Any, shape: tuple[int, int] = (130, 300)) -> QuantizedTensor:
    """A tensor quantised from noise, whose scales are then replaced by ``scale``, one value or one per block."""
    made = quantize(np.random.default_rng(0).standard_normal(shape, np.float32), block)
    made.scale[...] = scale
    return made


def powers(block: tuple[int, int]) -> QuantizedTensor:
    exponents = np.random.default_rng(1).integers(-30, 30, with_scale(block, 1).scale.shape)
    return with_scale(block, np.ldexp(np.float32(1), exponents))


@BLOCKS
@FRAMEWORKS
def test_powers_of_two_are_packed_exactly(block: tuple[int, int], to_array: Any) -> None:
    plain = powers(block)
    plain = plain if to_array is np.asarray else plain.to("cpu")
    packed = gemmgen.pack_scales(plain)
    assert (packed.scale_format, packed.block, packed.layout) == ("ue8m0", (1, block[1]), "mn")
    assert tuple(packed.scale.shape) == (130, math.ceil(math.ceil(300 / block[1]) / 4))
    assert packed.data is plain.data
    assert packed.packing_error == 0
    assert (packed.dequantize() == plain.dequantize()).all()
    assert pack_scales(packed) is packed


def test_the_layout_of_the_scales_is_kept() -> None:
    assert pack_scales(powers((1, 32)).with_scale_layout("k")).scale.strides == (12, 4)


def test_the_smallest_and_the_largest_exponent() -> None:
    scale = np.array([[2.0**-127, 2.0**127, 1.0]], np.float32)
    packed = pack_scales(with_scale((130, 128), scale))
    assert gemmgen.unpack_exponents(packed.scale, 3)[129].tolist() == [0, 254, 127]


@FRAMEWORKS
def test_other_scales_are_refused_by_index(to_array: Any) -> None:
    plain = powers((128, 128))
    plain.scale[1, 2] = 0.3
    plain = plain if to_array is np.asarray else plain.to("cpu")
    with pytest.raises(ArgumentError, match="is no power of two") as caught:
        pack_scales(plain)
    assert caught.value.where == "quantized.scale[1, 2]"
    assert caught.value.got == "0.30000001192092896"
    assert "requantize=True" in str(caught.value.fix)
    assert 'gemmgen.quantize(x, block=(1, 128), scale_format="ue8m0")' in str(caught.value.fix)
    plain.scale[0, 1] = 0.7
    with pytest.raises(ArgumentError, match=r"scale\[0, 1\].*\n.*0.69\d+, and 1 more of 6"):
        pack_scales(plain)


@pytest.mark.parametrize("requantize", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, -1.0, -0.3, 2.0**-128, 1e-45, 2.0**127 * 1.5])
def test_scales_without_a_code_are_refused(value: float, requantize: bool) -> None:
    plain = powers((1, 128))
    plain.scale[7, 1] = value
    with pytest.raises(ArgumentError, match="has no UE8M0 code") as caught:
        pack_scales(plain, requantize=requantize)
    assert caught.value.where == "quantized.scale[7, 1]"
    assert caught.value.need == "a number from 2^-127 to 2^127"


@pytest.mark.parametrize(
    ("change", "where", "says"),
    [
        (lambda q: replace(q, block=(1, 100)), "quantized.block", "multiple of 32"),
        (lambda q: replace(q, data=q.data.T), "quantized.scale", "before transposing"),
        (lambda q: replace(q, scale=q.scale.astype(np.float64)), "quantized.scale", "float32"),
    ],
)
def test_what_cannot_be_packed(change: Any, where: str, says: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        pack_scales(change(powers((1, 128))))
    assert caught.value.where == where
    assert says in str(caught.value)


@BLOCKS
@pytest.mark.parametrize("dtype", ["e4m3", "e5m2"])
def test_requantising_rounds_to_the_nearest_and_reports_the_error(block: tuple[int, int], dtype: str) -> None:
    plain = quantize(np.random.default_rng(2).standard_normal((130, 300), np.float32), block, dtype)
    packed = pack_scales(plain, requantize=True)
    old, new = plain.dequantize(), packed.dequantize()
    changes = np.abs(new - old)[old != 0] / np.abs(old)[old != 0]
    assert packed.packing_error == pytest.approx(changes.max(), rel=1e-5)
    assert 0 < packed.packing_error <= 1
    scale = np.ldexp(1.0, gemmgen.unpack_exponents(packed.scale, -(-300 // block[1])).astype(int) - 127)
    factors = plain.scale.repeat(block[0], 0)[:130]
    assert ((scale >= factors) & (scale < 2 * factors)).all()
    wanted = (old / scale.repeat(block[1], 1)[:, :300]).astype(np.float32)
    assert np.array_equal(packed.data, wanted.astype(packed.data.dtype))


@given(factor=st.floats(2.0**-100, 2.0**100, width=32), seed=st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_requantised_elements_move_half_a_step_at_most(factor: float, seed: int) -> None:
    noise = np.random.default_rng(seed).standard_normal((3, 96), np.float32)
    plain = replace(quantize(noise, (1, 32)), scale=np.full((3, 3), factor, np.float32))
    packed = pack_scales(plain, requantize=True)
    old, new = plain.dequantize(), packed.dequantize()
    smallest_step = 2.0 ** (gemmgen.unpack_exponents(packed.scale)[0, 0] - 127.0 - 9)
    assert (np.abs(new - old) <= np.maximum(np.abs(old) * 2.0**-4, smallest_step / 2) * 1.00001).all()


def test_torch_and_numpy_requantise_alike() -> None:
    plain = quantize(np.random.default_rng(3).standard_normal((130, 300), np.float32), (128, 128))
    ours, theirs = pack_scales(plain, requantize=True), pack_scales(plain.to("cpu"), requantize=True)
    assert np.array_equal(ours.scale, theirs.scale.numpy().view(np.uint32))
    assert np.array_equal(ours.data.view(np.uint8), theirs.data.view(torch.uint8).numpy())
    assert ours.packing_error == pytest.approx(theirs.packing_error)


def test_nan_elements_stay_and_do_not_count() -> None:
    plain = with_scale((1, 128), 0.75, (2, 128))
    plain.data[0, 3] = np.nan
    packed = pack_scales(plain, requantize=True)
    assert np.isnan(packed.dequantize()[0, 3])
    assert 0 < packed.packing_error < 1


@FRAMEWORKS
@pytest.mark.parametrize("shape", [(0, 64), (5, 0), (1, 1)])
def test_empty_and_tiny_tensors(to_array: Any, shape: tuple[int, int]) -> None:
    packed = pack_scales(quantize(to_array(np.zeros(shape, np.float32)), (1, 32)), requantize=True)
    assert packed.dequantize().shape == shape
    assert packed.packing_error == 0
