"""One run on the GPU: random inputs, the result against an FP32 reference, and the time of a launch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gemmgen
from gemmgen.cli.build import Request
from gemmgen.cli.output import console
from gemmgen.gpu_problem import problem_bytes, random_sets
from gemmgen.reference import tolerance
from gemmgen.runtime import driver
from gemmgen.timing import time_launches_us


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
    spec = asked.spec
    m, n, k = (int(asked.dims[name]) for name in ("M", "N", "K"))
    kernel = gemmgen.compile(spec, target, tuned=asked.tuned)
    num_bytes = problem_bytes(spec, m, n, k)
    with console(stderr=True).status("running"):
        sets = random_sets(spec, m, n, k, seed, device)
        a, b, out = sets[0]
        out.fill_(math.nan)
        kernel(a, b, out=out)
        error = gemmgen.relative_difference(out, gemmgen.gemm_reference(a, b, spec.problem.layout))
        empty = not (m and n and k)
        time_us = None if empty else time_launches_us([kernel.bind(a, b, out=out) for a, b, out in sets])
    return Measurement(
        device=driver.device_properties(0).name,
        error=error,
        tolerance=tolerance(spec, target),
        time_us=time_us,
        tflops=time_us and 2 * m * n * k / time_us / 1e6,
        gbytes_per_s=time_us and num_bytes / time_us / 1e3,
    )
