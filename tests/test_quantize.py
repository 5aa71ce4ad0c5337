"""Quantisation: exact scales, tails, layouts, and the same result from torch and NumPy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gemmgen.errors import ArgumentError
from gemmgen.quantization import quantize
from gemmgen.runtime.dtypes import FP8_MAX
from gemmgen.scales import unpack_exponents


def test_scale_is_amax_over_448_and_the_maximum_maps_to_448() -> None:
    x = torch.zeros(2, 256)
    x[0, 5], x[0, 200], x[1, 130] = -3.5, 7.0, 896.0
    q = quantize(x)
    assert q.scale.tolist() == [
        [pytest.approx(3.5 / 448), pytest.approx(7.0 / 448)],
        [pytest.approx(1e-4 / 448), 2.0],
    ]
    assert q.data[0, 5].item() == -448
    assert q.data[1, 130].item() == 448
    assert q.dtype == "e4m3"
    assert q.data.dtype == torch.float8_e4m3fn


@pytest.mark.parametrize("block", [(1, 128), (128, 128), (1, 32), (3, 5)])
@pytest.mark.parametrize("dtype", ["e4m3", "e5m2"])
def test_torch_and_numpy_agree_bit_for_bit(block: tuple[int, int], dtype: str) -> None:
    x = np.random.default_rng(0).standard_normal((131, 200)).astype(np.float32)
    ours, theirs = quantize(x, block, dtype), quantize(torch.from_numpy(x), block, dtype)
    assert np.array_equal(ours.scale, theirs.scale.numpy())
    assert np.array_equal(ours.data.view(np.uint8), theirs.data.view(torch.uint8).numpy())
    assert np.array_equal(ours.dequantize(), theirs.dequantize().numpy())


@given(
    shape=st.tuples(st.integers(0, 40), st.integers(0, 300)),
    block=st.sampled_from([(1, 128), (128, 128), (1, 32), (7, 3)]),
    exponent=st.integers(-20, 20),
)
@settings(max_examples=40, deadline=None)
def test_dequantized_values_are_within_half_a_step(
    shape: tuple[int, int], block: tuple[int, int], exponent: int
) -> None:
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32) * np.float32(2.0**exponent)
    q = quantize(x, block)
    assert q.scale.shape == (-(-shape[0] // block[0]), -(-shape[1] // block[1]))
    step = np.maximum(np.abs(x) * 2.0**-4, q.scale.max(initial=0) * 2.0**-10)
    assert (np.abs(q.dequantize() - x) <= step * 1.001).all()


@pytest.mark.parametrize("to_tensor", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_scale_layouts_hold_the_same_values(to_tensor: object) -> None:
    x = to_tensor(np.random.default_rng(2).standard_normal((10, 384)).astype(np.float32))  # type: ignore[operator]
    by_rows = quantize(x)
    strides = by_rows.scale.stride() if isinstance(x, torch.Tensor) else [s // 4 for s in by_rows.scale.strides]
    assert tuple(strides) == (1, 12)
    by_cols = by_rows.with_scale_layout("k")
    strides = by_cols.scale.stride() if isinstance(x, torch.Tensor) else [s // 4 for s in by_cols.scale.strides]
    assert tuple(strides) == (3, 1)
    assert by_cols.data is by_rows.data
    assert (by_cols.scale == by_rows.scale).all()
    assert by_cols.with_scale_layout("k") is by_cols
    assert (by_cols.with_scale_layout("mn").dequantize() == by_rows.dequantize()).all()


def test_numpy_data_moves_to_torch_with_its_layout() -> None:
    q = quantize(np.linspace(-3, 3, 5 * 130, dtype=np.float32).reshape(5, 130))
    moved = q.to("cpu")
    assert moved.data.dtype == torch.float8_e4m3fn
    assert moved.scale.stride() == (1, 8)
    assert np.array_equal(moved.dequantize().numpy(), q.dequantize())


def test_bf16_input_is_quantised_from_its_exact_values() -> None:
    x = np.random.default_rng(3).standard_normal((4, 128)).astype(ml_dtypes.bfloat16)
    assert np.array_equal(quantize(x).dequantize(), quantize(x.astype(np.float32)).dequantize())


@given(
    shape=st.tuples(st.integers(0, 20), st.integers(0, 300)),
    length=st.sampled_from([32, 64, 128]),
    exponent=st.integers(-20, 20),
    dtype=st.sampled_from(["e4m3", "e5m2"]),
)
@settings(max_examples=60, deadline=None)
def test_packed_scales_are_the_smallest_that_do_not_saturate(
    shape: tuple[int, int], length: int, exponent: int, dtype: str
) -> None:
    x = np.random.default_rng(4).standard_normal(shape).astype(np.float32) * np.float32(2.0**exponent)
    q = quantize(x, (1, length), dtype, "ue8m0")
    blocks = -(-shape[1] // length)
    assert q.scale_format == "ue8m0"
    assert q.scale.shape == (shape[0], -(-blocks // 4))
    scale = np.ldexp(1.0, unpack_exponents(q.scale, blocks).astype(int) - 127)
    largest = FP8_MAX[dtype] * scale.repeat(length, 1)[:, : shape[1]]
    assert (np.abs(x) <= largest).all()
    starts = np.arange(0, shape[1], length)
    amax = np.maximum.reduceat(np.abs(x), starts, axis=1) if x.size else np.zeros(scale.shape)
    assert (np.maximum(amax, 1e-4) > FP8_MAX[dtype] * scale / 2).all()
    fraction_bits = 3 if dtype == "e4m3" else 2
    smallest = scale.max(initial=0) * 2.0 ** (-9 if dtype == "e4m3" else -16)
    assert (np.abs(q.dequantize() - x) <= np.maximum(np.abs(x) * 2.0 ** -(fraction_bits + 1), smallest / 2)).all()


@pytest.mark.parametrize("amax", [448.0, 448.00003, 447.99997, 1e-4, 0.0, 3e38])
def test_packed_scales_at_the_edges(amax: float) -> None:
    q = quantize(np.full((1, 32), amax, np.float32), (1, 32), scale_format="ue8m0")
    scale = 2.0 ** (int(q.scale[0, 0]) - 127)
    assert scale / 2 < max(float(np.float32(amax)), 1e-4) / 448 <= scale


@pytest.mark.parametrize("dtype", ["e4m3", "e5m2"])
@pytest.mark.parametrize("length", [32, 128])
def test_torch_and_numpy_pack_alike(length: int, dtype: str) -> None:
    x = np.random.default_rng(5).standard_normal((131, 300)).astype(np.float32)
    x *= np.ldexp(1, np.random.default_rng(6).integers(-8, 8, x.shape)).astype(np.float32)
    x[2, 3], x[4, 200] = np.nan, np.inf
    ours = quantize(x, (1, length), dtype, "ue8m0")
    theirs = quantize(torch.from_numpy(x), (1, length), dtype, "ue8m0")
    assert theirs.scale.dtype == torch.int32
    assert theirs.scale.stride() == (1, 132)
    assert np.array_equal(ours.scale, theirs.scale.numpy().view(np.uint32))
    assert np.array_equal(ours.dequantize(), theirs.dequantize().numpy(), equal_nan=True)
    moved = ours.to("cpu")
    assert torch.equal(moved.scale, theirs.scale)
    assert moved.scale_format == "ue8m0"
    bad = np.isnan(ours.dequantize())
    assert bad[2, :length].all()
    assert bad[4, 200 // length * length : (200 // length + 1) * length].all()
    assert bad.sum() == 2 * length


def test_packed_scales_change_their_layout() -> None:
    by_rows = quantize(np.random.default_rng(7).standard_normal((10, 384)).astype(np.float32), (1, 32), "e4m3", "ue8m0")
    by_k = by_rows.with_scale_layout("k")
    assert [by_rows.scale.strides, by_k.scale.strides] == [(4, 48), (12, 4)]
    assert np.array_equal(by_rows.dequantize(), by_k.dequantize())


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"x": [[1.0]]}, "x"),
        ({"x": np.zeros(4, np.float32)}, "x"),
        ({"x": np.zeros((4, 4), np.int32)}, "x"),
        ({"x": torch.zeros(4, 4, dtype=torch.int8)}, "x"),
        ({"block": (1, 0)}, "block"),
        ({"block": (1.0, 128)}, "block"),
        ({"block": 128}, "block"),
        ({"dtype": "e2m1"}, "dtype"),
        ({"scale_format": "e8m0"}, "scale_format"),
        ({"scale_format": "ue8m0", "block": (128, 128)}, "block"),
        ({"scale_format": "ue8m0", "block": (1, 48)}, "block"),
        ({"scale_major": "row"}, "scale_major"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], where: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        quantize(**{"x": np.zeros((4, 4), np.float32), **arguments})  # type: ignore[arg-type]
    assert caught.value.where == where
    assert caught.value.got
