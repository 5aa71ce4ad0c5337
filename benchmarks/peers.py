"""What gemmgen is compared with: cuBLASLt and BF16 cuBLAS in the same run, and DeepGEMM's recorded times.

DeepGEMM was measured once on an H200 (``baseline/h200_peers.json``). Another machine, or the same one on another day,
is a little faster or slower; the ratio of cuBLASLt's time now to its recorded time says by how much, and DeepGEMM's
recorded time is multiplied by it.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from .harness import BLOCK, Inputs, Shape, ceil_div, geometric_mean

BASELINE = Path(__file__).parent / "baseline" / "h200_peers.json"
CUBLAS_SCALE_ALIGNMENT = 4
CUBLAS_ROWS = 16
BF16_LARGEST_M = 64
"""Up to here weights are most of what is moved, and FP8 has half as many bytes of them."""


@dataclass(frozen=True)
class Recorded:
    """One recorded dense shape; ``cublas_us`` is None where cuBLASLt refused it (M = 1)."""

    shape: Shape
    sets: int
    deepgemm_us: float
    cublas_us: float | None


@functools.cache
def recorded_dense() -> dict[Shape, Recorded]:
    """The dense FP8 shapes of the baseline, in its order."""
    rows = json.loads(BASELINE.read_text())["rows"]
    records = (
        Recorded(Shape(r["m"], r["n"], r["k"]), r["sets"], r["deepgemm_us"], r.get("cublas_us"))
        for r in rows
        if r["what"] == "dense"
    )
    return {record.shape: record for record in records}


class CublasLaunch:
    """cuBLASLt's block-scaled FP8 GEMM on the same data; every launch keeps its output, so outputs rotate as well.

    Where M is no multiple of `CUBLAS_ROWS`, it multiplies rows of zeros as well, as a caller of ``scaled_mm`` would.
    """

    def __init__(self, x: Inputs) -> None:
        from torch.nn.functional import ScalingType, scaled_mm

        pad = -x.sb.shape[1] % CUBLAS_SCALE_ALIGNMENT
        self._call = functools.partial(
            scaled_mm,
            padded_rows(x.a),
            x.b.t(),
            padded_rows(x.sa).t().contiguous().t(),
            ScalingType.BlockWise1x128,
            torch.nn.functional.pad(x.sb, (0, pad)).contiguous().t(),
            ScalingType.BlockWise128x128,
            output_dtype=torch.bfloat16,
        )
        self._rows = x.a.shape[0]
        self._out: torch.Tensor | None = None

    def __call__(self) -> None:
        """Enqueue one launch on the current stream."""
        self._out = self._call()

    def result(self) -> torch.Tensor:
        """The last launch's output, without the rows that were added."""
        assert self._out is not None, "launch first"
        return self._out[: self._rows]


def padded_rows(x: torch.Tensor) -> torch.Tensor:
    """A copy of ``x`` with rows of zeros below, up to a multiple of `CUBLAS_ROWS`."""
    rows, cols = x.shape
    padded = x.new_zeros(ceil_div(rows, CUBLAS_ROWS) * CUBLAS_ROWS, cols)
    padded[:rows] = x
    return padded


def cublas_supports(shape: Shape) -> bool:
    """Whether cuBLASLt's block-scaled kernels take the shape; the recorded run had no result for M = 1."""
    return shape.m > 1 and shape.n % 16 == 0 and shape.k % BLOCK == 0


def bf16_launch(x: Inputs) -> Callable[[], torch.Tensor]:
    """``torch.mm`` of the same elements as BF16, without their scales: the product of a layer that is not quantised."""
    a, b = x.a.to(torch.bfloat16), x.b.to(torch.bfloat16)
    out = torch.empty(x.out.shape, device=x.out.device, dtype=torch.bfloat16)
    return lambda: torch.mm(a, b.t(), out=out)


def common_drift(cublas_us: dict[Shape, float]) -> float:
    """Geometric mean over shapes of cuBLASLt's time now over its recorded time; 1 when nothing can be compared."""
    recorded = recorded_dense()
    ratios = [
        us / then
        for shape, us in cublas_us.items()
        if shape in recorded and (then := recorded[shape].cublas_us) is not None
    ]
    return geometric_mean(ratios) if ratios else 1.0


def shape_drift(shape: Shape, cublas_us: dict[Shape, float]) -> float:
    """The drift of one shape, or the common one where cuBLASLt has no figure for it."""
    record = recorded_dense().get(shape)
    if record is None or record.cublas_us is None or shape not in cublas_us:
        return common_drift(cublas_us)
    return cublas_us[shape] / record.cublas_us


def deepgemm_us(shape: Shape, cublas_us: dict[Shape, float]) -> float:
    """DeepGEMM's recorded time as this machine would have shown it today; NaN for a shape it was not recorded on."""
    record = recorded_dense().get(shape)
    return math.nan if record is None else record.deepgemm_us * shape_drift(shape, cublas_us)
