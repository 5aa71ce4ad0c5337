"""Fine-grained FP8 quantisation of torch tensors and NumPy arrays, and the tensor type that carries its scales."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from gemmgen.errors import ArgumentError
from gemmgen.runtime.dtypes import FP8_MAX, TORCH_ATTRIBUTES, numpy_dtype
from gemmgen.runtime.tensors import is_torch_tensor
from gemmgen.scales import (
    F32,
    SCALE_FORMATS,
    SCALE_MAJORS,
    UE8M0,
    expand_blocks,
    lay_out_scale,
    next_powers,
    pack_exponents,
    powers_of_two,
    unpack_exponents,
)

MIN_AMAX = 1e-4
PACKED_BLOCK_UNIT = 32
"""The tensor core applies a scale to so many elements of K at once: packed scales are for multiples of it."""
_INPUT_DTYPES = ("bfloat16", "float16", "float32", "float64")


@dataclass(frozen=True)
class QuantizedTensor:
    """A matrix as FP8 data and one scale per block: ``value ≈ data * scale``.

    It is accepted wherever a pair of data and scales is.

    Attributes:
        data: FP8 elements, ``[rows, cols]``, row-major.
        scale: f32, ``[ceil(rows / block[0]), ceil(cols / block[1])]``; or words of four UE8M0 exponents each, torch
            int32 or NumPy uint32, ``[rows, ceil(ceil(cols / block[1]) / 4)]``, as ``pack_exponents`` makes them.
        block: elements that share a scale, ``(rows, cols)``.
        dtype: ``e4m3`` or ``e5m2``.
        layout: which index of ``scale`` has stride 1: ``mn`` (rows; columns 16-byte aligned) or ``k`` (columns).
        scale_format: ``f32`` or ``ue8m0``.
        packing_error: how far ``pack_scales`` moved an element that is not zero, at most, relative to it; 0 if nowhere.
    """

    data: Any
    scale: Any
    block: tuple[int, int]
    dtype: str
    layout: str
    scale_format: str = F32
    packing_error: float = 0.0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""
        rows, cols = self.data.shape
        return rows, cols

    def dequantize(self) -> Any:
        """The f32 matrix ``data * scale``, in the data's own framework and on its device."""
        scale = powers_of_two(unpack_exponents(self.scale)) if self.scale_format == UE8M0 else self.scale
        return to_f32(self.data) * expand_blocks(scale, self.block, self.shape)

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
            signed = scale.view(np.int32) if self.scale_format == UE8M0 else scale
            scale = torch.from_numpy(np.ascontiguousarray(signed))
        return replace(self, data=data.to(device), scale=lay_out_scale(scale.to(device), self.layout))


def quantize(
    x: Any,
    block: tuple[int, int] = (1, 128),
    dtype: str = "e4m3",
    scale_format: str = "f32",
    scale_major: str = "mn",
) -> QuantizedTensor:
    """Quantise a matrix to FP8 with one scale per block.

    The scale is the block's largest magnitude (at least 1e-4) over the largest FP8 value, so no element saturates; in
    the format ``ue8m0``, the next power of two that is not smaller. Scales of blocks with Inf or NaN are NaN then.

    Args:
        x: a 2-D floating-point torch tensor (on any device) or NumPy array.
        block: elements that share a scale, ``(rows, cols)``; blocks at the edges are cut.
        dtype: ``e4m3`` or ``e5m2``.
        scale_format: ``f32``, or ``ue8m0`` for packed powers of two, with blocks ``(1, 32)``, ``(1, 128)`` or any other
            multiple of 32 along one row.
        scale_major: ``mn`` lays scales out with stride 1 along rows, which kernels read fastest; ``k`` along columns.

    Raises:
        ArgumentError: an argument is not one of the above.
    """
    _one_of("dtype", dtype, tuple(FP8_MAX))
    _one_of("scale_format", scale_format, SCALE_FORMATS)
    _one_of("scale_major", scale_major, SCALE_MAJORS)
    block = _check_block(block)
    if scale_format == UE8M0:
        _check_packed_block(block)
    _check_input(x)
    data, scale = (_quantize_torch if is_torch_tensor(x) else _quantize_numpy)(x, block, dtype, scale_format)
    packed = scale_format == UE8M0
    stored = pack_exponents(next_powers(scale), scale_major) if packed else lay_out_scale(scale, scale_major)
    return QuantizedTensor(data, stored, block, dtype, scale_major, scale_format)


def to_f32(data: Any) -> Any:
    """FP8 data as f32."""
    return data.float() if is_torch_tensor(data) else data.astype(np.float32)


def to_fp8(x: Any, dtype: str) -> Any:
    """f32 values, none beyond the largest FP8 value, rounded to the nearest, ties to even; row-major."""
    if is_torch_tensor(x):
        return x.to(getattr(_torch(), TORCH_ATTRIBUTES[dtype])).contiguous()
    return np.ascontiguousarray(x.astype(numpy_dtype(dtype)))


def _quantize_torch(x: Any, block: tuple[int, int], dtype: str, scale_format: str) -> tuple[Any, Any]:
    torch = _torch()
    rows, cols = x.shape
    block_rows, block_cols = block_counts(x.shape, block)
    padded = x.new_zeros((block_rows * block[0], block_cols * block[1]), dtype=torch.float32)
    padded[:rows, :cols] = x
    blocks = padded.view(block_rows, block[0], block_cols, block[1])
    scale = blocks.abs().amax(dim=(1, 3)).clamp_(min=MIN_AMAX) / FP8_MAX[dtype]
    scale = powers_of_two(next_powers(scale)) if scale_format == UE8M0 else scale
    blocks *= scale.reciprocal()[:, None, :, None]
    return to_fp8(padded[:rows, :cols], dtype), scale


def _quantize_numpy(x: Any, block: tuple[int, int], dtype: str, scale_format: str) -> tuple[Any, Any]:
    rows, cols = x.shape
    block_rows, block_cols = block_counts(x.shape, block)
    padded = np.zeros((block_rows * block[0], block_cols * block[1]), np.float32)
    padded[:rows, :cols] = x
    blocks = padded.reshape(block_rows, block[0], block_cols, block[1])
    amax = np.abs(blocks).max(axis=(1, 3), initial=np.float32(MIN_AMAX))
    scale = amax / np.float32(FP8_MAX[dtype])
    scale = powers_of_two(next_powers(scale)) if scale_format == UE8M0 else scale
    blocks *= (np.float32(1) / scale)[:, None, :, None]
    return to_fp8(padded[:rows, :cols], dtype), scale


def block_counts(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, int]:
    """Blocks of a matrix along its rows and columns."""
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


def _check_packed_block(block: tuple[int, int]) -> None:
    if block[0] != 1 or block[1] % PACKED_BLOCK_UNIT:
        length = 32 if block[1] < 128 else 128
        raise ArgumentError(
            "packed scales are for blocks of one row",
            where="block",
            got=block,
            need=f"(1, a multiple of {PACKED_BLOCK_UNIT})",
            fix=f"pass block=(1, {length})",
        )


def _one_of(where: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ArgumentError("not supported", where=where, got=repr(value), need=" or ".join(allowed))


def _torch() -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise ArgumentError("torch is not installed", need="torch", fix="pip install 'gemmgen[torch]'") from error
    return torch
