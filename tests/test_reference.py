"""The reference product and the error measure."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gemmgen import reference
from gemmgen.errors import ArgumentError
from gemmgen.quantization import quantize
from gemmgen.reference import gemm_reference, relative_difference


def _operands(m: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.standard_normal((m, k), np.float32), generator.standard_normal((n, k), np.float32)


def test_reference_multiplies_dequantised_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_CHUNK_BYTES", 4 * 200 * 130)  # forces several chunks of rows
    a, b = _operands(300, 270, 200)
    qa, qb = quantize(a), quantize(b, (128, 128))
    exact = qa.dequantize().astype(np.float64) @ qb.dequantize().astype(np.float64).T
    assert relative_difference(gemm_reference(qa, qb), exact) < 1e-12
    on_torch = gemm_reference(qa.to("cpu"), qb.to("cpu"))
    assert on_torch.dtype == torch.float32
    assert relative_difference(on_torch.numpy(), exact) < 1e-12


def test_reference_of_plain_and_empty_matrices() -> None:
    a, b = _operands(3, 4, 8)
    assert np.allclose(gemm_reference(a, b), a @ b.T)
    assert gemm_reference(a[:0], b).shape == (0, 4)
    assert (gemm_reference(torch.zeros(2, 0), torch.zeros(3, 0)) == torch.zeros(2, 3)).all()


def test_reference_keeps_torch_matmul_precision() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        gemm_reference(torch.ones(2, 3), torch.ones(4, 3))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_relative_difference_by_hand() -> None:
    x, y = np.array([3.0, 4.0]), np.array([3.0, 0.0])
    assert relative_difference(x, y) == pytest.approx(1 - 2 * 9 / (25 + 9))
    assert relative_difference(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(1 - 2 * 9 / (25 + 9))
    assert relative_difference(x, x) == 0
    assert relative_difference(0 * x, 0 * x) == 0
    assert relative_difference(x, -x) == 2
    assert math.isnan(relative_difference(np.array([1.0, math.nan]), np.ones(2)))


def test_disagreeing_shapes_are_named() -> None:
    with pytest.raises(ArgumentError, match="K differs"):
        gemm_reference(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ArgumentError, match="shapes differ"):
        relative_difference(np.ones(2), np.ones(3))


@pytest.mark.parametrize(("layout", "turned"), [("NT", ()), ("NN", ("b",)), ("TN", ("a", "b")), ("TT", ("a",))])
def test_scales_do_not_turn_with_the_data(layout: str, turned: tuple[str, ...]) -> None:
    """In every layout the scales of an FP8 operand belong to blocks of its rows and K."""
    rng = np.random.default_rng(0)
    sides = {"a": quantize(rng.normal(size=(24, 272)).astype(np.float32), block=(1, 128)),
             "b": quantize(rng.normal(size=(144, 272)).astype(np.float32), block=(128, 128))}  # fmt: skip
    expected = gemm_reference(sides["a"], sides["b"])
    for name in turned:
        sides[name] = replace(sides[name], data=sides[name].data.T)
    np.testing.assert_array_equal(gemm_reference(sides["a"], sides["b"], layout), expected)
