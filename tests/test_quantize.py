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
        ({"scale_format": "ue8m0"}, "scale_format"),
        ({"scale_major": "row"}, "scale_major"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], where: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        quantize(**{"x": np.zeros((4, 4), np.float32), **arguments})  # type: ignore[arg-type]
    assert caught.value.where == where
    assert caught.value.got
