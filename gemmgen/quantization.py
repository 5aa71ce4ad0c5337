"""Fine-grained FP8 quantisation of torch tensors and NumPy arrays, and the tensor type that carries its scales."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from gemmgen.errors import ArgumentError
from gemmgen.runtime.dtypes import FP8_MAX, NUMPY_ATTRIBUTES, TORCH_ATTRIBUTES
from gemmgen.runtime.tensors import is_torch_tensor

MIN_AMAX = 1e-4
SCALE_FORMATS = ("f32",)
SCALE_MAJORS = ("mn", "k")
_INPUT_DTYPES = ("bfloat16", "float16", "float32", "float64")
_SCALE_ALIGN_ELEMS = 4


@dataclass(frozen=True)
class QuantizedTensor:
    """A matrix as FP8 data and one FP32 scale per block: ``value ≈ data * scale``.

    It is accepted wherever a pair of data and scales is.

    Attributes:
        data: FP8 elements, ``[rows, cols]``, row-major.
        scale: f32, ``[ceil(rows / block[0]), ceil(cols / block[1])]``.
        block: elements that share a scale, ``(rows, cols)``.
        dtype: ``e4m3`` or ``e5m2``.
        layout: which index of ``scale`` has stride 1: ``mn`` (rows; columns 16-byte aligned) or ``k`` (columns).
    """

    data: Any
    scale: Any
    block: tuple[int, int]
    dtype: str
    layout: str

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""
        rows, cols = self.data.shape
        return rows, cols

    @property
    def scale_format(self) -> str:
        """How a scale is stored."""
        return "f32"

    def dequantize(self) -> Any:
        """The f32 matrix ``data * scale``, in the data's own framework and on its device."""
        rows, cols = self.shape
        if is_torch_tensor(self.data):
            factors = self.scale.repeat_interleave(self.block[0], 0).repeat_interleave(self.block[1], 1)
            return self.data.float() * factors[:rows, :cols]
        factors = self.scale.repeat(self.block[0], 0).repeat(self.block[1], 1)
        return self.data.astype(np.float32) * factors[:rows, :cols]

    def with_scale_layout(self, layout: str) -> QuantizedTensor:
        """The same tensor with its scales in the layout ``mn`` or ``k``; the data is shared, not copied."""
        _one_of("layout", layout, SCALE_MAJORS)
        if layout == self.layout:
            return self
        return replace(self, scale=lay_out_scale(self.scale, layout), layout=layout)

    def to(self, device: Any) -> QuantizedTensor:
        """The same tensor on another torch device; NumPy data becomes torch tensors.

        Raises:
            ArgumentError: torch is not installed.
        """
        torch = _torch()
        data, scale = self.data, self.scale
        if not is_torch_tensor(data):
            data = torch.from_numpy(data.view(np.uint8)).view(getattr(torch, TORCH_ATTRIBUTES[self.dtype]))
            scale = torch.from_numpy(np.ascontiguousarray(scale))
        return replace(self, data=data.to(device), scale=lay_out_scale(scale.to(device), self.layout))


def quantize(
    x: Any,
    block: tuple[int, int] = (1, 128),
    dtype: str = "e4m3",
    scale_format: str = "f32",
    scale_major: str = "mn",
) -> QuantizedTensor:
    """Quantise a matrix to FP8 with one scale per block.

    The scale is the block's largest magnitude (at least 1e-4) over the largest FP8 value, so no element saturates.

    Args:
        x: a 2-D floating-point torch tensor (on any device) or NumPy array.
        block: elements that share a scale, ``(rows, cols)``; blocks at the edges are cut.
        dtype: ``e4m3`` or ``e5m2``.
        scale_format: ``f32``.
        scale_major: ``mn`` lays scales out with stride 1 along rows, which kernels read fastest; ``k`` along columns.

    Raises:
        ArgumentError: an argument is not one of the above.
    """
    _one_of("dtype", dtype, tuple(FP8_MAX))
    _one_of("scale_format", scale_format, SCALE_FORMATS)
    _one_of("scale_major", scale_major, SCALE_MAJORS)
    block = _check_block(block)
    _check_input(x)
    data, scale = (_quantize_torch if is_torch_tensor(x) else _quantize_numpy)(x, block, dtype)
    return QuantizedTensor(data, lay_out_scale(scale, scale_major), block, dtype, scale_major)


def lay_out_scale(scale: Any, layout: str) -> Any:
    """A copy of a 2-D scale array in the layout ``mn`` (columns contiguous, 16-byte aligned) or ``k`` (rows)."""
    rows, cols = scale.shape
    pitch = -(-rows // _SCALE_ALIGN_ELEMS) * _SCALE_ALIGN_ELEMS
    if is_torch_tensor(scale):
        laid_out = scale.new_empty(cols, pitch).T[:rows] if layout == "mn" else scale.new_empty(rows, cols)
        return laid_out.copy_(scale)
    laid_out = np.empty((cols, pitch), np.float32).T[:rows] if layout == "mn" else np.empty((rows, cols), np.float32)
    laid_out[...] = scale
    return laid_out


def _quantize_torch(x: Any, block: tuple[int, int], dtype: str) -> tuple[Any, Any]:
    torch = _torch()
    rows, cols = x.shape
    block_rows, block_cols = _block_counts(x.shape, block)
    padded = x.new_zeros((block_rows * block[0], block_cols * block[1]), dtype=torch.float32)
    padded[:rows, :cols] = x
    blocks = padded.view(block_rows, block[0], block_cols, block[1])
    scale = blocks.abs().amax(dim=(1, 3)).clamp_(min=MIN_AMAX) / FP8_MAX[dtype]
    blocks *= scale.reciprocal()[:, None, :, None]
    return padded[:rows, :cols].to(getattr(torch, TORCH_ATTRIBUTES[dtype])).contiguous(), scale


def _quantize_numpy(x: Any, block: tuple[int, int], dtype: str) -> tuple[Any, Any]:
    import ml_dtypes

    rows, cols = x.shape
    block_rows, block_cols = _block_counts(x.shape, block)
    padded = np.zeros((block_rows * block[0], block_cols * block[1]), np.float32)
    padded[:rows, :cols] = x
    blocks = padded.reshape(block_rows, block[0], block_cols, block[1])
    amax = np.abs(blocks).max(axis=(1, 3), initial=np.float32(MIN_AMAX))
    scale = amax / np.float32(FP8_MAX[dtype])
    blocks *= (np.float32(1) / scale)[:, None, :, None]
    data = padded[:rows, :cols].astype(getattr(ml_dtypes, NUMPY_ATTRIBUTES[dtype]))
    return np.ascontiguousarray(data), scale


def _block_counts(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, int]:
    return -(-shape[0] // block[0]), -(-shape[1] // block[1])


def _check_input(x: Any) -> None:
    if not is_torch_tensor(x) and not isinstance(x, np.ndarray):
        raise ArgumentError(
            "cannot quantise this", where="x", got=type(x).__name__, need="a torch tensor or a NumPy array"
        )
    if x.ndim != 2:
        raise ArgumentError(
            "only matrices can be quantised",
            where="x",
            got=f"shape {tuple(x.shape)}",
            need="2 dimensions",
            fix="flatten the leading dimensions: x.reshape(-1, x.shape[-1])",
        )
    if str(x.dtype).removeprefix("torch.") not in _INPUT_DTYPES:
        raise ArgumentError("only floating-point matrices can be quantised", where="x", got=x.dtype, fix="x.float()")


def _check_block(block: Any) -> tuple[int, int]:
    extents = tuple(block) if isinstance(block, tuple | list) else ()
    if len(extents) != 2 or any(type(extent) is not int or extent < 1 for extent in extents):
        raise ArgumentError("this is no block", where="block", got=repr(block), need="two positive integers, (1, 128)")
    return extents[0], extents[1]


def _one_of(where: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ArgumentError("not supported", where=where, got=repr(value), need=" or ".join(allowed))


def _torch() -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise ArgumentError("torch is not installed", need="torch", fix="pip install 'gemmgen[torch]'") from error
    return torch
