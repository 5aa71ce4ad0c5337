"""Turning a tensor with FP32 scales into one with packed powers of two, exactly or at a price that is reported."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from gemmgen.errors import ArgumentError
from gemmgen.quantization import PACKED_BLOCK_UNIT, QuantizedTensor, block_counts, to_f32, to_fp8
from gemmgen.runtime.tensors import is_torch_tensor
from gemmgen.scales import MAX_POWER, MIN_POWER, UE8M0, expand_blocks, next_powers, pack_exponents, powers_of_two


def pack_scales(quantized: QuantizedTensor, *, requantize: bool = False) -> QuantizedTensor:
    """The same tensor with packed UE8M0 scales, one per row and block of K, as block-scaled tensor cores read them.

    Scales that are powers of two stay what they are, and so does the data, which is shared. Others are refused, unless
    ``requantize`` replaces them by the next power of two and rounds the data again, to the nearest, ties to even.
    Looks at the scales on the CPU, so it waits for a GPU that holds them; a tensor packed already is returned as it is.

    Args:
        quantized: f32 scales of blocks ``(rows, cols)``, cols a multiple of 32; rows above 1 are given a scale each.
        requantize: whether data may change where scales do; ``packing_error`` of the result says by how much.

    Raises:
        ArgumentError: a scale is no power of two between 2^-127 and 2^127; names the first.
    """
    if quantized.scale_format == UE8M0:
        return quantized
    _check_blocks(quantized)
    in_torch = is_torch_tensor(quantized.scale)
    old: np.ndarray = quantized.scale.detach().cpu().numpy() if in_torch else quantized.scale
    old = np.ascontiguousarray(old)
    codes = next_powers(old)
    new = powers_of_two(codes)
    _check_scales(old, new, quantized.block[1], requantize)
    per_row = codes.repeat(quantized.block[0], 0)[: quantized.shape[0]]
    packed = replace(
        quantized,
        scale=pack_exponents(_beside(quantized.scale, per_row), quantized.layout),
        block=(1, quantized.block[1]),
        scale_format=UE8M0,
    )
    if (new == old).all():
        return packed
    data, error = _rounded_again(quantized, _beside(quantized.scale, old / new))
    return replace(packed, data=data, packing_error=error)


def _check_blocks(quantized: QuantizedTensor) -> None:
    if quantized.block[1] % PACKED_BLOCK_UNIT:
        raise ArgumentError(
            "scales of these blocks cannot be packed",
            where="quantized.block",
            got=quantized.block,
            need=f"blocks of a multiple of {PACKED_BLOCK_UNIT} along K",
            fix='quantise the matrix with block=(1, 32) or (1, 128), scale_format="ue8m0"',
        )
    counts = block_counts(quantized.shape, quantized.block)
    if tuple(quantized.scale.shape) != counts:
        raise ArgumentError(
            "the scales do not fit the data",
            where="quantized.scale",
            got=f"shape {tuple(quantized.scale.shape)}",
            need=f"{counts}, one per block {quantized.block} of {quantized.shape} elements",
            fix="pack the scales before transposing the data",
        )
    if str(quantized.scale.dtype).removeprefix("torch.") != "float32":
        raise ArgumentError(
            "only f32 scales can be packed",
            where="quantized.scale",
            got=quantized.scale.dtype,
            need="float32",
            fix="pass exponents to gemmgen.pack_exponents",
        )


def _check_scales(old: np.ndarray, new: np.ndarray, block_cols: int, requantize: bool) -> None:
    """Refuse the first scale, in the order of rows, that has no power of two or must not have another one."""
    outside = ~((old >= MIN_POWER) & (old <= MAX_POWER))
    refused = outside if requantize else outside | (new != old)
    places = np.argwhere(refused)
    if not len(places):
        return
    row, col = (int(index) for index in places[0])
    others = f", and {len(places) - 1} more of {old.size}" if len(places) > 1 else ""
    again = f'gemmgen.quantize(x, block=(1, {block_cols}), scale_format="ue8m0")'
    if outside[row, col]:
        what, need, fix = "has no UE8M0 code", "a number from 2^-127 to 2^127", f"quantise the matrix: {again}"
    else:
        what, need = "is no power of two", "powers of two, which UE8M0 holds exactly"
        fix = (
            f"pass requantize=True, which rounds the data again and reports the error, or quantise the matrix: {again}"
        )
    raise ArgumentError(
        f"this scale {what}",
        where=f"quantized.scale[{row}, {col}]",
        got=f"{old[row, col]}{others}",
        need=need,
        fix=fix,
    )


def _rounded_again(quantized: QuantizedTensor, ratio: Any) -> tuple[Any, float]:
    """The data for scales that are larger by ``1 / ratio``, and the largest relative change of an element."""
    wanted = to_f32(quantized.data) * expand_blocks(ratio, quantized.block, quantized.shape)
    data = to_fp8(wanted, quantized.dtype)
    counted = (wanted != 0) & (abs(wanted) < np.inf)
    wanted = wanted[counted]
    changes = abs(to_f32(data)[counted] - wanted) / abs(wanted)
    return data, float(changes.max()) if len(changes) else 0.0


def _beside(scale: Any, array: np.ndarray) -> Any:
    """An array in the framework and on the device of ``scale``."""
    if not is_torch_tensor(scale):
        return array
    import torch

    return torch.from_numpy(array).to(scale.device)
