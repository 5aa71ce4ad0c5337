"""16-bit kernels for the tests: specs with chosen schedules, what they compile to, and launches on the emulator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
from ir_texts import SPECS, TARGET

from gemmgen import compiler
from gemmgen.emulator import Report, emulate_plan
from gemmgen.reference import gemm_reference, relative_difference
from gemmgen.runtime import nvrtc
from gemmgen.spec.loader import load_spec
from gemmgen.spec.model import GemmSpec, ScheduleHints
from gemmgen.spec.vocabulary import rows_contiguous

NUMPY = {"bf16": ml_dtypes.bfloat16, "f16": np.float16, "f32": np.float32}
PITCH_ELEMENTS = 8
NUM_SMS = 4


@dataclass(frozen=True)
class Case:
    """One 16-bit product: layout, types, sizes, and the schedule's hints.

    ``padding`` elements follow each row of A, B and D beyond what 16-byte pitches ask for.
    """

    layout: str
    sizes: tuple[int, int, int]
    dtype: str = "bf16"
    out: str = ""
    padding: int = 0
    hints: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        sizes = "x".join(map(str, self.sizes))
        hints = [f"{name}={value}".replace(" ", "") for name, value in self.hints]
        return "-".join([self.layout, self.dtype, *([self.out] if self.out else []), sizes, *hints])

    @property
    def spec(self) -> GemmSpec:
        """The spec, N and K fixed."""
        _, n, k = self.sizes
        spec = load_spec(SPECS / "bf16_gemm_nt.yaml").bind(N=n, K=k)
        a, b, d = (replace(getattr(spec.operands, name), dtype=self.dtype) for name in "abd")
        operands = replace(spec.operands, a=a, b=b, d=replace(d, dtype=self.out or self.dtype))
        problem = replace(spec.problem, layout=self.layout)
        name = f"{self.dtype}_gemm_{self.layout.lower()}"
        hints = ScheduleHints(**dict(self.hints))
        return replace(spec, name=name, problem=problem, operands=operands, schedule=hints)

    @property
    def artifact(self) -> compiler.Artifact:
        """Everything generated for the schedule that serves M."""
        return _built(self)


@cache
def _built(case: Case) -> compiler.Artifact:
    m, spec = case.sizes[0], case.spec
    entries = compiler.plan(spec, TARGET)
    entry = next(entry for entry in entries if entry.m_max is None or m <= entry.m_max)
    return compiler.build(spec, TARGET, entry.schedule)


@cache
def compiled(source: str, name: str) -> nvrtc.Compiled:
    """What NVRTC makes of a source."""
    return nvrtc.compile_cuda(source, name, TARGET)


def case(
    layout: str, sizes: tuple[int, int, int], dtype: str = "bf16", out: str = "", padding: int = 0, **hints: Any
) -> Case:
    """A case with its hints as keywords."""
    return Case(layout, sizes, dtype, out, padding, tuple(hints.items()))


def matrix(shape: tuple[int, int], dtype: str, padding: int, seed: int | None) -> tuple[np.ndarray, np.ndarray]:
    """A matrix of random numbers (NaN without a seed), and the buffer of NaN that it lies in."""
    rows, cols = shape
    pitch = -(-cols // PITCH_ELEMENTS) * PITCH_ELEMENTS + padding
    buffer = np.full((rows, pitch), np.nan, NUMPY[dtype])
    if seed is not None:
        buffer[:, :cols] = np.random.default_rng(seed).normal(size=shape).astype(NUMPY[dtype])
    return buffer[:, :cols], buffer


@dataclass(frozen=True)
class Run:
    """An emulated launch: what was found, the error of D, and how many elements beside D were written."""

    report: Report
    difference: float
    strays: int


def run(case: Case, source: str | None = None, schedule: str = "random", seed: int = 1) -> Run:
    """Emulate a case, or another source for it, on inputs between NaN."""
    artifact, (m, n, k) = case.artifact, case.sizes
    shapes = {"a": (m, k), "b": (n, k)}
    inputs = {
        name: matrix(shape[::-1] if rows_contiguous(case.layout, name) else shape, case.dtype, case.padding, seed)[0]
        for seed, (name, shape) in enumerate(shapes.items(), start=seed)
    }
    d, buffer = matrix((m, n), case.out or case.dtype, case.padding, None)
    source = source or artifact.source
    report = emulate_plan(
        artifact.launch, compiled(source, artifact.name).ptx, {**inputs, "d": d}, case.sizes,
        num_sms=NUM_SMS, seed=seed, schedule=schedule, source=source,
    )  # fmt: skip
    expected = gemm_reference(*inputs.values(), case.layout)
    strays = int((~np.isnan(buffer[:, n:].astype(np.float32))).sum())
    return Run(report, relative_difference(d.astype(np.float32), expected), strays)
