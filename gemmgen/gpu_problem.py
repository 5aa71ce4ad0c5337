"""Random problems on a GPU, for commands that run or time kernels: inputs, bytes, and what is in the way."""

from __future__ import annotations

from dataclasses import replace
from importlib import util
from typing import Any

from gemmgen.kernel import capability_of
from gemmgen.quantization import quantize
from gemmgen.runtime import driver
from gemmgen.runtime.dtypes import TORCH_ATTRIBUTES
from gemmgen.runtime.tensormap import ALIGN_BYTES
from gemmgen.scales import UE8M0, words_for
from gemmgen.spec import GemmSpec
from gemmgen.spec.vocabulary import DTYPES, rows_contiguous
from gemmgen.timing import COLD_BYTES, MAX_SETS

SCALE_BYTES = 4
"""Bytes of an FP32 scale, and of a word of packed ones."""


def why_not_executed(target: str) -> str:
    """What keeps this machine from running a kernel for ``target``; empty when nothing does."""
    if not driver.device_count():
        return "this machine has no GPU"
    properties = driver.device_properties(0)
    if capability_of(target) != properties.capability:
        return f"{properties.name} has compute capability {'{}.{}'.format(*properties.capability)}, not {target}'s"
    if util.find_spec("torch") is None:
        return "torch is not installed (pip install 'gemmgen[torch]')"
    import torch

    return "" if torch.cuda.is_available() else "the installed torch has no CUDA"


def random_sets(spec: GemmSpec, m: int, n: int, k: int, seed: int, device: str = "cuda") -> list[tuple[Any, Any, Any]]:
    """Random A and B and room for D, so many sets that none is in L2 when its turn comes again.

    Args:
        spec: says element types, scale blocks and layout.
        m: rows of D.
        n: columns of D.
        k: what is summed over.
        seed: of the device's generator.
        device: torch's name of where they lie.
    """
    import torch

    generator = torch.Generator(device).manual_seed(seed)
    count = min(MAX_SETS, COLD_BYTES // max(1, problem_bytes(spec, m, n, k)) + 1)
    return [
        (_operand(spec, "a", m, k, generator), _operand(spec, "b", n, k, generator), _output(spec, m, n, device))
        for _ in range(count)
    ]


def problem_bytes(spec: GemmSpec, m: int, n: int, k: int) -> int:
    """Bytes of A, B, D and their scales, each moved once."""
    total = 0
    for name, rows, cols in (("a", m, k), ("b", n, k), ("d", m, n)):
        operand = getattr(spec.operands, name)
        total += rows * cols * DTYPES[operand.dtype].bits // 8
        if operand.scale is not None:
            block_rows, block_cols = operand.scale.block_extents(rows, cols)
            along_k = -(-cols // max(1, block_cols))
            stored = words_for(along_k) if operand.scale.format == UE8M0 else along_k
            total += SCALE_BYTES * -(-rows // max(1, block_rows)) * stored
    return total


def _operand(spec: GemmSpec, name: str, rows: int, cols: int, generator: Any) -> Any:
    """Random numbers, quantised as the spec says, and laid out as its layout does."""
    import torch

    operand = getattr(spec.operands, name)
    x = torch.randn(rows, cols, device=generator.device, generator=generator, dtype=torch.float32).bfloat16()
    turned = rows_contiguous(spec.problem.layout, name)
    if operand.scale is None:
        return _padded((x.T if turned else x).to(getattr(torch, TORCH_ATTRIBUTES[operand.dtype])))
    block = operand.scale.block_extents(rows, cols)
    quantized = quantize(x, block, operand.dtype, operand.scale.format)
    return replace(quantized, data=_padded(quantized.data.T if turned else quantized.data))


def _output(spec: GemmSpec, m: int, n: int, device: str) -> Any:
    """Room for D."""
    import torch

    return _padded(torch.empty(m, n, device=device, dtype=getattr(torch, TORCH_ATTRIBUTES[spec.operands.d.dtype])))


def _padded(data: Any) -> Any:
    """A copy whose rows lie a multiple of 16 bytes apart, as TMA needs."""
    per_line = ALIGN_BYTES // data.element_size()
    padded = data.new_empty(data.shape[0], -(-data.shape[1] // per_line) * per_line)[:, : data.shape[1]]
    return padded.copy_(data)
