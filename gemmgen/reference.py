"""What a GEMM should have computed, and how far a result is from it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gemmgen.backends.capability import capability
from gemmgen.errors import ArgumentError
from gemmgen.quantization import QuantizedTensor
from gemmgen.runtime.tensors import is_torch_tensor
from gemmgen.spec.vocabulary import NARROW_DTYPES, rows_contiguous

if TYPE_CHECKING:
    from gemmgen.spec import GemmSpec

_CHUNK_BYTES = 1 << 30
TOLERANCE, TOLERANCE_WITHOUT_PROMOTION = 5e-6, 1e-2
ENOUGH_BITS = 20
"""Fraction bits of a product sum from which on a tensor core may add up all of K."""


def gemm_reference(a: Any, b: Any, layout: str = "NT") -> Any:
    """``a @ bᵀ`` in FP32 from the dequantised inputs.

    Args:
        a: ``[M, K]``, quantised or plain; torch or NumPy. ``[K, M]`` in layouts TN and TT.
        b: ``[N, K]``, in the same framework. ``[K, N]`` in layouts NN and TN.
        layout: how they lie, as a spec says it.

    Returns:
        f32 ``[M, N]``. TF32 is off while it is computed; rows of A and B are dequantised in chunks of at most 1 GiB.
    """
    a, b = (_k_last(x) if rows_contiguous(layout, name) else x for name, x in (("a", a), ("b", b)))
    if a.shape[1] != b.shape[1]:
        raise ArgumentError("K differs", where="a, b", got=f"{a.shape[1]} and {b.shape[1]}", need="equal K")
    (m, k), n = a.shape, b.shape[0]
    unit = math.lcm(_block_rows(a), _block_rows(b))
    step = max(1, _CHUNK_BYTES // (4 * max(k, 1)) // unit) * unit
    if is_torch_tensor(_data(a)):
        return _torch_product(a, b, m, n, step)
    result = np.empty((m, n), np.float32)
    for col in range(0, n, step):
        right = _rows(b, col, step).astype(np.float32, copy=False).T
        for row in range(0, m, step):
            result[row : row + step, col : col + step] = _rows(a, row, step).astype(np.float32, copy=False) @ right
    return result


def relative_difference(x: Any, y: Any) -> float:
    """``1 - 2<x, y> / (|x|² + |y|²)`` in float64: 0 for equal arrays, NaN if either holds a NaN.

    Raises:
        ArgumentError: the shapes differ.
    """
    if tuple(x.shape) != tuple(y.shape):
        raise ArgumentError("shapes differ", where="x, y", got=f"{tuple(x.shape)} and {tuple(y.shape)}")
    if is_torch_tensor(x):
        sums = [_torch_dots(x[start : start + 4096], y[start : start + 4096]) for start in range(0, x.shape[0], 4096)]
    else:
        sums = [_numpy_dots(x, y)]
    dot = sum(pair[0] for pair in sums)
    norms = sum(pair[1] for pair in sums)
    return 0.0 if norms == 0 else 1.0 - 2.0 * dot / norms


def tolerance(spec: GemmSpec, target: str) -> float:
    """The largest difference of a right result of a spec's kernels on a target.

    It is larger only where FP8 products are summed over all of K by a tensor core that keeps few bits.
    """
    promoted = spec.operands.a.dtype not in NARROW_DTYPES or spec.accumulate.promote_every is not None
    exact = promoted or capability(target).tensor_core_bits >= ENOUGH_BITS
    return TOLERANCE if exact else TOLERANCE_WITHOUT_PROMOTION


def _torch_product(a: Any, b: Any, m: int, n: int, step: int) -> Any:
    import torch

    result = torch.empty((m, n), dtype=torch.float32, device=_data(a).device)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        for col in range(0, n, step):
            right = _rows(b, col, step).float().T
            for row in range(0, m, step):
                result[row : row + step, col : col + step] = _rows(a, row, step).float() @ right
    finally:
        torch.set_float32_matmul_precision(precision)
    return result


def _k_last(x: Any) -> Any:
    """The transpose of a matrix, dequantised if need be: scales belong to blocks of [rows, K] however the data lies."""
    return replace(x, data=x.data.T).dequantize() if isinstance(x, QuantizedTensor) else x.T


def _data(x: Any) -> Any:
    return x.data if isinstance(x, QuantizedTensor) else x


def _block_rows(x: Any) -> int:
    return x.block[0] if isinstance(x, QuantizedTensor) else 1


def _rows(x: Any, start: int, count: int) -> Any:
    """Rows of a matrix, dequantised if need be; ``start`` and ``count`` are multiples of the block's rows."""
    if not isinstance(x, QuantizedTensor):
        return x[start : start + count]
    block_rows = x.block[0]
    first = start // block_rows
    part = replace(x, data=x.data[start : start + count], scale=x.scale[first : first + -(-count // block_rows)])
    return part.dequantize()


def _torch_dots(x: Any, y: Any) -> tuple[float, float]:
    x, y = x.double(), y.double()
    return (x * y).sum().item(), (x * x + y * y).sum().item()


def _numpy_dots(x: Any, y: Any) -> tuple[float, float]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return float((x * y).sum()), float((x * x + y * y).sum())
