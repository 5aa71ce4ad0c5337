"""One run on the GPU: random inputs, the result against an FP32 reference, and the time of a launch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import gemmgen
from gemmgen.cli.build import Request
from gemmgen.cli.output import console
from gemmgen.cli.timing import COLD_BYTES, MAX_SETS, time_launches_us
from gemmgen.runtime import driver
from gemmgen.runtime.tensormap import ALIGN_BYTES
from gemmgen.spec import GemmSpec
from gemmgen.spec.vocabulary import DTYPES, NARROW_DTYPES, rows_contiguous

TOLERANCE = 5e-6
TOLERANCE_WITHOUT_PROMOTION = 1e-2


@dataclass(frozen=True)
class Measurement:
    """What one run on the GPU showed.

    Attributes:
        device: the GPU's name.
        error: 1 - 2<x,y>/(|x|²+|y|²) against an FP32 reference of the dequantised inputs.
        tolerance: the largest error that passes.
        time_us: median time of one launch with cold L2, in microseconds; None for an empty problem.
        tflops: multiplications and additions per picosecond.
        gbytes_per_s: bytes of A, B, D and scales, each moved once, per nanosecond.
    """

    device: str
    error: float
    tolerance: float
    time_us: float | None
    tflops: float | None
    gbytes_per_s: float | None

    @property
    def passed(self) -> bool:
        """Whether the result is right; a NaN is not."""
        return self.error <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values; an error that is not a number is null."""
        return {**vars(self), "error": self.error if math.isfinite(self.error) else None}


def measure(asked: Request, target: str, seed: int, device: str = "cuda") -> Measurement:
    """Run the kernel on random inputs, compare it with the reference, and time it."""
    import torch

    spec = asked.spec
    m, n, k = (int(asked.dims[name]) for name in ("M", "N", "K"))
    kernel = gemmgen.compile(spec, target)
    generator = torch.Generator(device).manual_seed(seed)
    num_bytes = problem_bytes(spec, m, n, k)
    sets = []
    with console(stderr=True).status("running"):
        for _ in range(min(MAX_SETS, COLD_BYTES // max(1, num_bytes) + 1)):
            a, b = (_operand(spec, name, rows, k, generator) for name, rows in (("a", m), ("b", n)))
            sets.append((a, b, kernel(a, b)))
        a, b, out = sets[0]
        out.fill_(math.nan)
        kernel(a, b, out=out)
        error = gemmgen.relative_difference(out, gemmgen.gemm_reference(a, b, spec.problem.layout))
        empty = not (m and n and k)
        time_us = None if empty else time_launches_us([kernel.bind(a, b, out=out) for a, b, out in sets])
    return Measurement(
        device=driver.device_properties(0).name,
        error=error,
        tolerance=tolerance(spec),
        time_us=time_us,
        tflops=time_us and 2 * m * n * k / time_us / 1e6,
        gbytes_per_s=time_us and num_bytes / time_us / 1e3,
    )


def tolerance(spec: GemmSpec) -> float:
    """The largest error of a right result: FP8 products that are never promoted lose bits in the tensor core."""
    exact = spec.accumulate.promote_every or spec.operands.a.dtype not in NARROW_DTYPES
    return TOLERANCE if exact else TOLERANCE_WITHOUT_PROMOTION


def problem_bytes(spec: GemmSpec, m: int, n: int, k: int) -> int:
    """Bytes of A, B, D and their scales, each moved once."""
    total = 0
    for name, rows, cols in (("a", m, k), ("b", n, k), ("d", m, n)):
        operand = getattr(spec.operands, name)
        total += rows * cols * DTYPES[operand.dtype].bits // 8
        if operand.scale is not None:
            block_rows, block_cols = operand.scale.block_extents(rows, cols)
            scales = -(-rows // max(1, block_rows)) * -(-cols // max(1, block_cols))
            total += scales * (4 if operand.scale.format == "f32" else 1)
    return total


def _operand(spec: GemmSpec, name: str, rows: int, cols: int, generator: Any) -> Any:
    """Random numbers, quantised as the spec says, and laid out as its layout does."""
    import torch

    from gemmgen.runtime.dtypes import TORCH_ATTRIBUTES

    operand = getattr(spec.operands, name)
    x = torch.randn(rows, cols, device=generator.device, generator=generator, dtype=torch.float32).bfloat16()
    turned = rows_contiguous(spec.problem.layout, name)
    if operand.scale is None:
        return _padded((x.T if turned else x).to(getattr(torch, TORCH_ATTRIBUTES[operand.dtype])))
    quantized = gemmgen.quantize(x, block=operand.scale.block_extents(rows, cols), dtype=operand.dtype)
    return replace(quantized, data=_padded(quantized.data.T)) if turned else quantized


def _padded(data: Any) -> Any:
    """A copy whose rows lie a multiple of 16 bytes apart, as TMA needs."""
    per_line = ALIGN_BYTES // data.element_size()
    padded = data.new_empty(data.shape[0], -(-data.shape[1] // per_line) * per_line)[:, : data.shape[1]]
    return padded.copy_(data)
