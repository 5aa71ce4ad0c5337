"""Kernels for Blackwell that tests build, compile and emulate; the specs are the ones that Hopper's come from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from ir_texts import spec_of

from gemmgen import compiler
from gemmgen.emulator import Report
from gemmgen.emulator.plan import emulate_plan
from gemmgen.reference import gemm_reference, relative_difference
from gemmgen.runtime import nvrtc
from gemmgen.runtime.dtypes import numpy_dtype
from gemmgen.schedule import Schedule
from gemmgen.spec.model import GemmSpec, Warps
from gemmgen.verification import dequantized, random_operands

TARGET = "sm_100a"
NUM_SMS = 2
"""SMs that the emulated grids are made for: so few that a CTA visits several tiles."""


@dataclass(frozen=True)
class Case:
    """A spec whose hints decide the schedule, and the rows of a problem."""

    spec: GemmSpec
    m: int


def case(m: int, n: int, k: int, name: str = "fp8_gemm_nt", **hints: Any) -> Case:
    return Case(spec_of(n, k, name, **hints), m)


def with_f32(found: Case) -> Case:
    """The case with D in FP32."""
    operands = found.spec.operands
    wide = replace(operands, d=replace(operands.d, dtype="f32"))
    return Case(replace(found.spec, operands=wide), found.m)


CASES: dict[str, Case] = {
    "plain": case(130, 256, 384, tile=(128, 128, 128), stages=3),
    "wide": case(130, 296, 272, tile=(128, 256, 128)),
    "ragged": case(200, 200, 400, tile=(128, 96, 128), stages=4),
    "one_block": case(128, 64, 128, tile=(128, 64, 128)),
    "many_tiles": case(300, 264, 144, tile=(128, 64, 128), stages=3),
    "one_group": case(130, 136, 272, tile=(128, 64, 128), warps=Warps(math=1)),
    "one_row": case(1, 264, 528, tile=(16, 128, 128), swap_ab=True),
    "swapped": case(70, 264, 272, tile=(64, 128, 128), swap_ab=True),
    "direct_store": case(130, 100, 272, tile=(128, 128, 128)),
    "direct_swapped": case(5, 100, 272, tile=(16, 128, 128), swap_ab=True),
    "rowwise": case(130, 264, 272, "fp8_gemm_nt_rowwise", tile=(128, 128, 128), pdl=True),
    "rowwise_swapped": case(20, 264, 272, "fp8_gemm_nt_rowwise", tile=(32, 128, 128), swap_ab=True),
    "no_promotion": case(130, 264, 272, "fp8_gemm_nt_no_promotion", tile=(128, 128, 128)),
    "bf16_nt": case(130, 264, 272, "bf16_gemm_nt", tile=(128, 128, 64), stages=3),
    "bf16_nn": case(130, 264, 272, "bf16_gemm_nn", tile=(128, 96, 64)),
    "bf16_tn": case(136, 264, 272, "bf16_gemm_tn", tile=(128, 256, 64)),
    "bf16_tt": case(136, 264, 80, "bf16_gemm_tt", tile=(128, 64, 64)),
    "f16_direct": case(130, 100, 272, "f16_gemm_nt", tile=(128, 64, 64)),
    "bf16_f32": with_f32(case(130, 136, 272, "bf16_gemm_nt", tile=(128, 128, 64))),
    "bf16_one_row": case(1, 264, 520, "bf16_gemm_nt", tile=(16, 128, 64), swap_ab=True),
    "bf16_tn_swapped": case(40, 264, 272, "bf16_gemm_tn", tile=(32, 128, 64), swap_ab=True),
    "fp8_nn": case(130, 272, 272, "fp8_gemm_nn", tile=(128, 96, 128)),
    "fp8_tn": case(144, 272, 272, "fp8_gemm_tn", tile=(128, 128, 128), stages=3),
    "fp8_tt": case(144, 264, 144, "fp8_gemm_tt", tile=(128, 64, 128)),
    "fp8_tn_swapped": case(48, 272, 272, "fp8_gemm_tn", tile=(32, 128, 128), swap_ab=True),
    "cluster": case(300, 136, 400, tile=(128, 64, 128), stages=2, cluster=(2, 1)),
    "cluster_along_n": case(200, 264, 400, "bf16_gemm_nn", tile=(128, 64, 64), stages=3, cluster=(1, 2)),
    "sums": case(136, 136, 272, "bf16_gemm_tn", tile=(128, 64, 64), stages=3, warps=Warps(math=1)),
    "short": case(130, 128, 528, tile=(128, 64, 128), stages=2, warps=Warps(math=1)),
}
"""Tails in M, N and K, one block of K, one row, several tiles per CTA; every way that a tile leaves."""


@cache
def schedule_of(name: str, target: str = TARGET) -> Schedule:
    (only,) = compiler.plan(CASES[name].spec, target)
    return only.schedule


@cache
def built(name: str, target: str = TARGET) -> compiler.Artifact:
    return compiler.build(CASES[name].spec, target, schedule_of(name, target))


@cache
def ptx_of(source: str, kernel: str) -> str:
    ptx = nvrtc.compile_cuda(source, kernel, TARGET).ptx
    assert ptx is not None
    return ptx


def emulated(
    artifact: compiler.Artifact, name: str, *, seed: int = 0, schedule: str = "fifo", source: str | None = None
) -> tuple[Report, float]:
    """Launch a case; returns the report and the difference from the FP32 reference.

    Args:
        artifact: its kernel.
        name: the case, which gives the operands.
        seed: of operands and scheduler.
        schedule: the emulator's scheduler.
        source: CUDA to run instead of the artifact's.
    """
    spec, m = CASES[name].spec, CASES[name].m
    n, k = (int(spec.problem.dims[dim]) for dim in ("N", "K"))
    (a, sa), (b, sb) = random_operands(spec, (m, n, k), seed)
    d = np.full((m, n), np.nan, np.float32).astype(numpy_dtype(spec.operands.d.dtype))
    text = source or artifact.source
    operands = {"a": a, "b": b, "d": d} | ({} if sa is None else {"sa": sa, "sb": sb})
    report = emulate_plan(
        artifact.launch, ptx_of(text, artifact.name), operands, (m, n, k), num_sms=NUM_SMS, seed=seed,
        schedule=schedule, source=text,
    )  # fmt: skip
    expected = gemm_reference(dequantized(spec, "a", a, sa), dequantized(spec, "b", b, sb), spec.problem.layout)
    return report, relative_difference(d.astype(np.float32), expected)
