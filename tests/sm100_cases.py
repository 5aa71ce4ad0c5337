"""Kernels for Blackwell that tests build, compile and emulate; the specs are the ones that Hopper's come from."""

from __future__ import annotations

from collections.abc import Callable
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
Change = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Case:
    """A spec whose hints decide the schedule, the rows of a problem, and the order of its scales (``mn`` or ``k``)."""

    spec: GemmSpec
    m: int
    scales: str = "mn"


def case(m: int, n: int, k: int, name: str = "fp8_gemm_nt", **hints: Any) -> Case:
    return Case(spec_of(n, k, name, **hints), m)


def with_scales_along_k(found: Case) -> Case:
    """The case with scales that a warp gathers, as they do not lie as the copy engine needs them."""
    return replace(found, scales="k")


def with_scale_blocks(found: Case, a: int, b: int) -> Case:
    """The case with so many elements of K per scale of A and of B."""
    operands = found.spec.operands
    blocks = {
        name: replace(operand, scale=replace(operand.scale, block=(1, block)))
        for name, operand, block in (("a", operands.a, a), ("b", operands.b, b))
    }
    return replace(found, spec=replace(found.spec, operands=replace(operands, **blocks)))


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
    "row_scales": case(130, 264, 272, "fp8_gemm_nt_1d1d", tile=(128, 96, 128), stages=3),
    "row_scales_swapped": case(20, 264, 272, "fp8_gemm_nt_1d1d", tile=(32, 128, 128), swap_ab=True),
    "row_scales_gathered": with_scales_along_k(case(130, 136, 272, "fp8_gemm_nt_1d1d", tile=(128, 64, 128))),
    "mx": case(130, 264, 400, "mxfp8_gemm_nt", tile=(128, 192, 128), stages=3),
    "mx_swapped": case(40, 264, 272, "mxfp8_gemm_nt", tile=(32, 128, 128), swap_ab=True),
    "mx_gathered": with_scales_along_k(case(130, 136, 400, "mxfp8_gemm_nt", tile=(128, 64, 128), stages=2)),
    "mx_nn": case(130, 272, 288, "mxfp8_gemm_nn", tile=(128, 96, 128)),
    "mx_tn": case(144, 272, 272, "mxfp8_gemm_tn", tile=(128, 128, 128)),
    "mx_tt_cluster": case(272, 136, 400, "mxfp8_gemm_tt", tile=(128, 64, 128), stages=2, cluster=(2, 1)),
    "packed": case(130, 264, 1296, "fp8_gemm_nt_ue8m0", tile=(128, 128, 128)),
    "packed_32_128": with_scale_blocks(case(130, 136, 912, "fp8_gemm_nt_ue8m0", tile=(128, 64, 128)), 32, 128),
    "packed_128_32": with_scale_blocks(
        case(5, 264, 912, "fp8_gemm_nt_ue8m0", tile=(16, 128, 128), swap_ab=True), 128, 32
    ),
    "pair": case(300, 264, 400, tile=(128, 64, 128), stages=3, cta_group=2),
    "pair_one_row": case(1, 264, 528, tile=(32, 128, 128), swap_ab=True, cta_group=2),
    "pair_rowwise": case(130, 264, 272, "fp8_gemm_nt_rowwise", tile=(128, 128, 128), cta_group=2, pdl=True),
    "pair_row_scales": case(300, 136, 272, "fp8_gemm_nt_1d1d", tile=(128, 64, 128), cta_group=2),
    "pair_bf16_nn": case(300, 264, 272, "bf16_gemm_nn", tile=(128, 128, 64), stages=3, cta_group=2),
    "pair_bf16_tt": case(136, 264, 80, "bf16_gemm_tt", tile=(128, 64, 64), cta_group=2),
    "pair_fp8_tn": case(304, 272, 272, "fp8_gemm_tn", tile=(128, 128, 128), cta_group=2),
    "pair_direct": case(130, 100, 272, tile=(128, 64, 128), cta_group=2),
    "pair_mx": case(300, 264, 400, "mxfp8_gemm_nt", tile=(128, 192, 128), stages=2, cta_group=2),
    "pair_mx_gathered": with_scales_along_k(case(130, 136, 400, "mxfp8_gemm_nt", tile=(128, 64, 128), cta_group=2)),
    "pair_mx_nn": case(130, 272, 272, "mxfp8_gemm_nn", tile=(128, 128, 128), cta_group=2),
    "pair_packed_swapped": case(40, 264, 784, "fp8_gemm_nt_ue8m0", tile=(64, 128, 128), swap_ab=True, cta_group=2),
    "fp8_f32": with_f32(case(130, 136, 272, tile=(128, 128, 128))),
    "fp8_f32_swapped": with_f32(case(20, 100, 272, tile=(32, 128, 128), swap_ab=True)),
    "pair_mx_f32": with_f32(case(130, 100, 272, "mxfp8_gemm_nt", tile=(128, 256, 128), cta_group=2)),
    "one_stage": case(130, 128, 272, tile=(128, 64, 128), stages=1),
    "short": case(130, 128, 528, tile=(128, 64, 128), stages=2, warps=Warps(math=1)),
}
"""Tails in M, N and K, one block of K, one row, several tiles per CTA; every way that a tile leaves."""


@cache
def schedule_of(name: str, target: str = TARGET) -> Schedule:
    scale_copy = "bulk" if CASES[name].scales == "mn" else "lanes"
    (only,) = compiler.plan(CASES[name].spec, target, scale_copy)
    return only.schedule


def with_schedule(found: Case, **numbers: Any) -> compiler.Artifact:
    """A case's kernel, with numbers of its schedule that no hint sets."""
    (only,) = compiler.plan(found.spec, TARGET, "bulk" if found.scales == "mn" else "lanes")
    return compiler.build(found.spec, TARGET, only.schedule.replace(**numbers))


@cache
def built(name: str, target: str = TARGET) -> compiler.Artifact:
    return compiler.build(CASES[name].spec, target, schedule_of(name, target))


@cache
def ptx_of(source: str, kernel: str) -> str:
    ptx = nvrtc.compile_cuda(source, kernel, TARGET).ptx
    assert ptx is not None
    return ptx


def operands_of(found: Case, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Random operands of a case, D not written yet, and the FP32 reference."""
    spec, sizes = found.spec, sizes_of(found)
    (a, sa), (b, sb) = random_operands(spec, sizes, seed, found.scales)
    d = np.full(sizes[:2], np.nan, np.float32).astype(numpy_dtype(spec.operands.d.dtype))
    operands = {"a": a, "b": b, "d": d} | ({} if sa is None or sb is None else {"sa": sa, "sb": sb})
    return operands, gemm_reference(dequantized(spec, "a", a, sa), dequantized(spec, "b", b, sb), spec.problem.layout)


def with_nan_around(found: Case) -> Change:
    """NaN in all that lies beside a call's scales: in their last word behind K, in rows behind, in words behind."""
    blocks = {name: getattr(found.spec.operands, name[1]).scale.block[1] for name in ("sa", "sb")}
    k = sizes_of(found)[2]
    return lambda operands: (
        operands | {name: _among_nan(operands[name], -(-k // block), found.scales) for name, block in blocks.items()}
    )


def _among_nan(words: np.ndarray, scales: int, order: str) -> np.ndarray:
    """A copy of ``scales`` scales per row in words, in a larger array of NaN (0xFF)."""
    (rows, count), pad = words.shape, 128
    shape = (-(-rows // 4) * 4 + pad, count + 1)
    around = np.full(shape[::-1] if order == "mn" else shape, 0xFFFFFFFF, np.uint32)
    inside = (around.T if order == "mn" else around)[:rows, :count]
    inside[...] = words.view(np.uint32)
    inside[:, -1] |= np.uint32(0xFFFFFFFF << 8 * ((scales - 1) % 4 + 1) & 0xFFFFFFFF)
    return inside.view(words.dtype)


def sizes_of(found: Case) -> tuple[int, int, int]:
    """M, N and K."""
    n, k = (int(found.spec.problem.dims[dim]) for dim in ("N", "K"))
    return found.m, n, k


def emulated(
    artifact: compiler.Artifact,
    name: str | Case,
    *,
    seed: int = 0,
    schedule: str = "fifo",
    source: str | None = None,
    change: Change | None = None,
) -> tuple[Report, float]:
    """Launch a case; returns the report and the difference from the FP32 reference.

    Args:
        artifact: its kernel.
        name: the case, which gives the operands.
        seed: of operands and scheduler.
        schedule: the emulator's scheduler.
        source: CUDA to run instead of the artifact's.
        change: what to put in the operands' place; the reference stays that of the operands.
    """
    found = CASES[name] if isinstance(name, str) else name
    operands, expected = operands_of(found, seed)
    report = launched(artifact, found, operands if change is None else change(operands), seed, schedule, source)
    return report, relative_difference(operands["d"].astype(np.float32), expected)


def launched(
    artifact: compiler.Artifact,
    found: Case,
    operands: dict[str, np.ndarray],
    seed: int = 0,
    schedule: str = "fifo",
    source: str | None = None,
) -> Report:
    """Launch a case's kernel with these operands; D is written in its place."""
    text = source or artifact.source
    return emulate_plan(
        artifact.launch, ptx_of(text, artifact.name), operands, sizes_of(found), num_sms=NUM_SMS, seed=seed,
        schedule=schedule, source=text,
    )  # fmt: skip
