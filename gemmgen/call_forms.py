"""The forms a call may take: four tensors, pairs of data and scales, quantised tensors, and mixtures of them."""

from __future__ import annotations

from typing import Any

from gemmgen.errors import ArgumentError
from gemmgen.kernel_args import GemmSignature
from gemmgen.quantization import QuantizedTensor
from gemmgen.scale_args import Block, ScaleRule, packing_fix, quantize_call
from gemmgen.scales import UE8M0


def unpack(signature: GemmSignature, a: Any, sa: Any, b: Any, sb: Any) -> tuple[Any, Any, Any, Any]:
    """Four tensors from ``(qa, qb)``, ``((a, sa), (b, sb))``, or four arguments of which some are such pairs.

    Raises:
        ArgumentError: B is missing, or a tensor is quantised in other blocks or with other scales.
    """
    if b is None:
        a, sa, b, sb = a, None, sa, None
    if b is None:
        call = "kernel(a, b)" if signature.a_scale is None else "kernel(a, sa, b, sb) or kernel(qa, qb)"
        need = f"a matrix [{', '.join(signature.dims_of('b'))}]"
        raise ArgumentError("b is missing", where="b", got="nothing", need=need, fix=f"call {call}")
    if sa is None:
        a, sa = _pair("a", a, signature.a_scale)
    if sb is None:
        b, sb = _pair("b", b, signature.b_scale)
    return a, sa, b, sb


def _pair(name: str, value: Any, rule: ScaleRule | None) -> tuple[Any, Any]:
    """Data and scales of a quantised tensor or a pair; a bare tensor has no scales."""
    if isinstance(value, QuantizedTensor):
        if rule is not None and (value.block != rule.block or value.scale_format != rule.format):
            _check_quantized(name, value, rule)
        return value.data, value.scale
    if isinstance(value, tuple) and len(value) == 2:
        return value
    return value, None


def _check_quantized(name: str, value: QuantizedTensor, rule: ScaleRule) -> None:
    """Refuse other scales than the kernel's; a block of a whole row or matrix may be given by its extents."""
    same_block = value.block == rule.block or value.block == _block_extents(rule.block, value.shape)
    if same_block and value.scale_format == rule.format:
        return
    packable = rule.format == UE8M0 != value.scale_format and value.block[1] == rule.block[1]
    raise ArgumentError(
        "the tensor is quantised in other blocks" if not same_block else "the tensor's scales have another format",
        where=name,
        got=f"block {value.block}, {value.scale_format} scales",
        need=f"block ({rule.block[0]}, {rule.block[1]}), {rule.format} scales",
        fix=packing_fix(rule) if packable else f"pass {quantize_call(rule)}",
    )


def _block_extents(block: Block, shape: tuple[int, int]) -> tuple[int, int]:
    """A spec's block with its words (``M``, ``N``, ``K``) replaced by the matrix's extents."""
    rows, cols = (word if isinstance(word, int) else size for word, size in zip(block, shape, strict=True))
    return rows, cols
