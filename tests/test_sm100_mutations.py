"""Mistakes in a Blackwell kernel that the emulator must find: each is one change to generated CUDA.

A mutant is caught when the emulator reports something (a race, a missing fence, a deadlock, a leak) or the values are
wrong, under at least one of its schedulers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from sm100_cases import (
    CASES,
    Case,
    Change,
    case,
    emulated,
    with_nan_around,
    with_scale_blocks,
    with_scales_along_k,
    with_schedule,
)

from gemmgen import compiler
from gemmgen.reference import TOLERANCE
from gemmgen.spec.model import Warps
from gemmgen.verification import SCHEDULES


class Kernel(NamedTuple):
    """A kernel to break, the problem that it is run on, and what lies around the problem's operands."""

    case: Case
    artifact: compiler.Artifact
    change: Change | None = None


def small(name: str, **hints: Any) -> Case:
    """Two rows of tiles of 64 columns; the last step of K has 16 elements."""
    return case(130, 128, 400, name, tile=(128, 64, 128), warps=Warps(math=1), **hints)


PLAIN_CASE, SUMS_CASE = CASES["short"], CASES["sums"]
SCALED_CASE, PAIR_CASE = small("mxfp8_gemm_nt", stages=2), small("fp8_gemm_nt", stages=3, cta_group=2)
SCALED_PAIR_CASE = small("mxfp8_gemm_nt", stages=2, cta_group=2)
GATHERED_CASE = with_scales_along_k(
    with_scale_blocks(
        case(130, 64, 912, "fp8_gemm_nt_ue8m0", tile=(128, 64, 128), stages=2, warps=Warps(math=1)), 32, 128
    )
)
"""A scale for 32 of A's elements, four to a step; one for 128 of B's, a word for four steps."""
KERNELS = {
    "plain": Kernel(PLAIN_CASE, with_schedule(PLAIN_CASE, stages=4, accumulators=2)),
    "sums": Kernel(SUMS_CASE, with_schedule(SUMS_CASE)),
    "scaled": Kernel(SCALED_CASE, with_schedule(SCALED_CASE, accumulators=1), with_nan_around(SCALED_CASE)),
    "pair": Kernel(PAIR_CASE, with_schedule(PAIR_CASE, accumulators=2)),
    "scaled_pair": Kernel(
        SCALED_PAIR_CASE, with_schedule(SCALED_PAIR_CASE, accumulators=1), with_nan_around(SCALED_PAIR_CASE)
    ),
    "gathered": Kernel(GATHERED_CASE, with_schedule(GATHERED_CASE), with_nan_around(GATHERED_CASE)),
}
"""Promotion with FP32 scales, by one CTA and by two; sums over all of K, with both operands transposed; scales that the
tensor core applies, with NaN where no scales are, by one CTA and by two, and gathered by a warp.

Fewer accumulators than stages: else the stages would keep products from running ahead, and hide a missing wait.
"""
SOURCE, SUMS, SCALED, PAIR, SCALED_PAIR, GATHERED = (kernel.artifact.source for kernel in KERNELS.values())


def lines(start: str, source: str) -> list[str]:
    """The lines that start so, indentation included."""
    return [row for row in source.splitlines(keepends=True) if row.strip().startswith(start)]


def changed(old: str, new: str, nth: int = 0, source: str = SOURCE) -> str:
    """The source with the ``nth`` ``old`` replaced."""
    parts = source.split(old)
    assert len(parts) > nth + 1, f"{old!r} does not occur {nth + 1} times"
    return old.join(parts[: nth + 1]) + new + old.join(parts[nth + 1 :])


def dropped(start: str, nth: int = 0, source: str = SOURCE) -> str:
    """The source without the ``nth`` line that starts so; equal lines count."""
    rows, seen = source.splitlines(keepends=True), -1
    for index, row in enumerate(rows):
        seen += row.strip().startswith(start)
        if seen == nth:
            return "".join(rows[:index] + rows[index + 1 :])
    raise AssertionError(f"{start!r} does not occur {nth + 1} times")


def moved(start: str, before: str, source: str = SOURCE) -> str:
    """The source with the first line that starts so put in front of the first line that starts with ``before``."""
    (row, *_), (anchor, *_) = lines(start, source), lines(before, source)
    without = source.replace(row, "", 1)
    return without.replace(anchor, row + anchor, 1)


MUTANTS: dict[str, str] = {
    "promotion without the fence behind its wait": dropped("tmem_fence_after();"),
    "a product without the fence behind its wait": dropped("tmem_fence_after();", 1),
    "reads released without a fence": dropped("tmem_fence_before();"),
    "columns freed before the roles are done": dropped("__syncthreads();", 1),
    "columns leaked": dropped("if (warp == 6) tmem_free"),
    "half of the columns freed": changed("tmem_free<128>(tmem)", "tmem_free<64>(tmem)"),
    "half of the columns allocated": changed("tmem_alloc<128>(smem", "tmem_alloc<64>(smem"),
    "the address read before the allocation": moved("const uint32_t tmem = ", "if (warp == 6) tmem_alloc"),
    "promotion without waiting for the sum": dropped("mbarrier_wait(part_full"),
    "a product without waiting for an accumulator": dropped("mbarrier_wait(part_empty"),
    "a product without waiting for its operands": dropped("mbarrier_wait(full", 1),
    "scales read without waiting for them": dropped("mbarrier_wait(full"),
    "loads into a stage in use": dropped("mbarrier_wait(empty"),
    "scales copied into a stage in use": dropped("mbarrier_wait(empty", 1),
    "a sum that nobody announces": dropped("mma_commit(part_full"),
    "a stage that the tensor core keeps": dropped("mma_commit(empty"),
    "a sum announced before its products": moved("mma_commit(part_full", "mma_f8f6f4(sum, desc_a, desc_b"),
    "a sum released before it is read": moved("if (lane == 0) mbarrier_arrive(part_empty", "tmem_fence_after();"),
    "a stage released before its scales are read": moved("if (lane == 0) mbarrier_arrive(empty",
                                                         "const float row_scale"),
    "a load from tensor memory not waited for": changed("tcgen05.wait::ld.sync.aligned;", ""),
    "accumulators that overlap": changed("const uint32_t sum = tmem + parts_1.stage * 64",
                                         "const uint32_t sum = tmem + parts_1.stage * 32"),
    "products of half the columns": changed("0x08100010, false", "0x08080010, false"),
    "a step of K repeated": changed("desc_a + 4, desc_b + 4", "desc_a + 2, desc_b + 2"),
    "operands of different steps": changed("desc_a + 4, desc_b + 4", "desc_a + 2, desc_b + 4"),
    "another swizzle": changed("0x4000404000010000ull", "0x8000404000010000ull"),
    "the first product adds": changed("0x08100010, false", "0x08100010, true"),
    "one reader too few is waited for": changed("mbarrier_init(part_empty + 8 * stage, 4)",
                                                "mbarrier_init(part_empty + 8 * stage, 3)"),
    "one release too few is waited for": changed("mbarrier_init(empty + 8 * stage, 5)",
                                                 "mbarrier_init(empty + 8 * stage, 4)"),
    "one commit too many is waited for": changed("mbarrier_init(part_full + 8 * stage, 1)",
                                                 "mbarrier_init(part_full + 8 * stage, 2)"),
    "all warps read the same lanes": changed("tmem + (warp % 4 * 32 << 16)", "tmem"),
    "the wrong phase of an accumulator": changed("parts_1.phase ^ 1", "parts_1.phase"),
    "a product of another stage": changed("tmem + parts_1.stage * 64", "tmem + (1 - parts_1.stage) * 64"),
    "staging overwritten while it is stored": dropped("if (threadIdx.x % 128 == 0) tma_store_wait_read"),
    "staging not published": dropped("fence_async_shared();"),
    "stores not drained": dropped("if (threadIdx.x % 128 == 0) tma_store_wait_read", 1),
}  # fmt: skip

SUMS_MUTANTS: dict[str, str] = {
    "a sum read before it is complete": dropped("mbarrier_wait(part_full", source=SUMS),
    "a sum read without the fence behind its wait": dropped("tmem_fence_after();", source=SUMS),
    "a tile started in an accumulator in use": dropped("mbarrier_wait(part_empty", source=SUMS),
    "a tile started without the fence behind its wait": dropped("tmem_fence_after();", 1, SUMS),
    "a sum released without a fence": dropped("tmem_fence_before();", source=SUMS),
    "a sum announced before its products": moved("mma_commit(part_full", "mma_f16(sum, desc_a, desc_b", SUMS),
    "a stage that nobody releases": dropped("mma_commit(empty", source=SUMS),
    "every step starts anew": changed("> 0);", "> 999);", source=SUMS),
    "a tile that adds to the one before": changed("> 0);", ">= 0);", source=SUMS),
    "slabs of another pitch": changed("0x4000404002000000ull", "0x4000404001000000ull", source=SUMS),
    "steps of another pitch": changed("desc_a + 128, ", "desc_a + 64, ", source=SUMS),
    "an operand taken as it does not lie": changed("0x08118490", "0x08110490", source=SUMS),
    "promoting warps waited for at a stage": changed("mbarrier_init(empty + 8 * stage, 1)",
                                                     "mbarrier_init(empty + 8 * stage, 5)", source=SUMS),
}  # fmt: skip

SCALED_MUTANTS: dict[str, str] = {
    "a's scales not copied to tensor memory": dropped("copy_scale_factors(tmem + 64", source=SCALED),
    "b's scales not copied to tensor memory": dropped("copy_scale_factors(tmem + 68", source=SCALED),
    "scales copied behind the first product": moved("copy_scale_factors(tmem + 68", "mma_mxf8f6f4(sum, desc_a + 2",
                                                    SCALED),
    "a's scales in b's place": changed("scale_descriptor(smem + kOffsetSb", "scale_descriptor(smem + kOffsetSa",
                                       source=SCALED),
    "scales of another stage": changed("tmem + 68 + cursor_2.stage * 8, scale", "tmem + 68 + cursor_2.stage * 4, scale",
                                       source=SCALED),
    "scale columns over the sums": SCALED.replace("tmem + 64 + cursor_2", "tmem + 60 + cursor_2"),
    "the first scale of a word for all of a step": changed("instruction + 0x20000010", "instruction", source=SCALED),
    "another scale of a's": changed("0x40000020", "0x20000020", source=SCALED),
    "another scale of b's": changed("0x60000030", "0x60000020", source=SCALED),
    "words in the order of rows": changed("4 * (32 * i + lane)", "4 * (4 * lane + i)", source=SCALED),
    "words of neighbouring lanes overlap": changed("16 * lane, words", "4 * lane, words", source=SCALED),
    "words at another pitch": changed("0x400800000000ull", "0x400400000000ull", source=SCALED),
    "words of another format": changed("0x08900000", "0x08100000", source=SCALED),
    "words of the step before": changed("m0_1, k0_1 / 128", "m0_1, k0_1 / 256", source=SCALED),
    "words read before they land": dropped("mbarrier_wait(words_full", source=SCALED),
    "words landing over those in use": dropped("mbarrier_wait(words_empty", source=SCALED),
    "words given back before they are read": moved("if (lane == 0) mbarrier_arrive(words_empty", "const uint32_t kept",
                                                   SCALED),
    "words arranged in a stage in use": dropped("mbarrier_wait(empty", 1, SCALED),
    "words not shown to the tensor core": dropped("fence_async_shared();", 1, SCALED),
    "words announced before they are written": moved("if (lane == 0) mbarrier_arrive(full", "const uint32_t kept",
                                                     SCALED),
    "a stage full without its scales": changed("init(full + 8 * stage, 2)", "init(full + 8 * stage, 1)", source=SCALED),
    "half of the words expected": changed("words_cursor.stage, 1024)", "words_cursor.stage, 512)", source=SCALED),
    "a's scales behind K": changed("0x000000ff", "0xffffffff", source=SCALED),
    "b's scales behind K": changed("0x000000ff", "0xffffffff", 1, SCALED),
    "all scales of the last step dropped": changed("0x000000ff", "0x00000000", source=SCALED),
}  # fmt: skip

PAIR_MUTANTS: dict[str, str] = {
    "one CTA's bytes expected": changed("cursor.stage, 40960)", "cursor.stage, 20480)", source=PAIR),
    "both CTAs expect the bytes": changed("if (rank == 0) mbarrier_expect", "mbarrier_expect", source=PAIR),
    "the odd CTA expects the bytes": changed("if (rank == 0) mbarrier_expect", "if (rank == 1) mbarrier_expect",
                                             source=PAIR),
    "loads counted at each CTA's own barrier": changed("mapa.shared::cluster.u32 first, %2, 0;", "mov.b32 first, %2;",
                                                       source=PAIR),
    "loads of one CTA alone": changed("2d.cta_group::2.shared", "2d.shared", source=PAIR),
    "a stage free in one CTA only": changed("mma_commit_cluster(empty + 8 * cursor_1.stage, 0x3)",
                                            "mma_commit_cluster(empty + 8 * cursor_1.stage, 0x1)", source=PAIR),
    "a sum announced in one CTA only": changed("mma_commit_cluster(part_full + 8 * parts_1.stage, 0x3)",
                                               "mma_commit_cluster(part_full + 8 * parts_1.stage, 0x1)", source=PAIR),
    "sums released at each CTA's own barrier": changed("mbarrier_arrive_cluster(part_empty + 8 * parts.stage, 0)",
                                                       "mbarrier_arrive_cluster(part_empty + 8 * parts.stage, rank)",
                                                       source=PAIR),
    "one CTA's readers waited for": changed("mbarrier_init(part_empty + 8 * stage, 8)",
                                            "mbarrier_init(part_empty + 8 * stage, 4)", source=PAIR),
    "sums released without a fence": dropped("tmem_fence_before();", source=PAIR),
    "products that nobody lets start": dropped("mbarrier_wait(part_empty", source=PAIR),
    "the other CTA's half": changed("n0_1 + rank * 32", "n0_1 + (1 - rank) * 32", source=PAIR),
    "the same half twice": changed("n0_1 + rank * 32", "n0_1", source=PAIR),
    "the same rows twice": changed(
        "m0_1 = (position.along * 2 + rank) * 128", "m0_1 = position.along * 256", source=PAIR),
    "the rows of one CTA": PAIR.replace("0x10100010", "0x08100010"),
    "both CTAs multiply": changed("warp == 6 && rank == 0 && elect", "warp == 6 && elect", source=PAIR),
    "the odd CTA multiplies": changed(
        "warp == 6 && rank == 0 && elect", "warp == 6 && rank == 1 && elect", source=PAIR),
    "operands that the odd CTA loads too early": changed("mbarrier_wait(empty", "if (rank == 0) mbarrier_wait(empty",
                                                         source=PAIR),
    "scales read without waiting for them": dropped("mbarrier_wait(scales_full", source=PAIR),
    "scales loaded over those in use": dropped("mbarrier_wait(scales_empty", source=PAIR),
    "scales copied over those in use": dropped("mbarrier_wait(scales_empty", 1, PAIR),
    "operands sent before the pair has met": PAIR.replace("cluster_sync();", "__syncthreads();", 2),
    "roles that start before columns are allocated": dropped("cluster_sync();", 1, PAIR),
    "columns allocated by one CTA": changed("if (warp == 6) tmem_alloc", "if (warp == 6 && rank == 0) tmem_alloc",
                                            source=PAIR),
    "columns freed while the other CTA multiplies": changed("cluster_sync();", "__syncthreads();", 2, PAIR),
    "columns freed by one CTA": changed(
        "if (warp == 6) tmem_free", "if (warp == 6 && rank == 0) tmem_free", source=PAIR),
}  # fmt: skip

SCALED_PAIR_MUTANTS: dict[str, str] = {
    "one CTA's arranging warp waited for": changed("mbarrier_init(full + 8 * stage, 3)",
                                                   "mbarrier_init(full + 8 * stage, 2)", source=SCALED_PAIR),
    "words announced at each CTA's own barrier": changed("mbarrier_arrive_cluster(full + 8 * cursor_1.stage, 0)",
                                                         "mbarrier_arrive_cluster(full + 8 * cursor_1.stage, rank)",
                                                         source=SCALED_PAIR),
    "words that the odd CTA keeps to itself": changed("if (lane == 0) mbarrier_arrive_cluster(full",
                                                      "if (lane == 0 && rank == 0) mbarrier_arrive_cluster(full",
                                                      source=SCALED_PAIR),
    "words that the odd CTA does not show": changed("fence_async_shared();", "if (rank == 0) fence_async_shared();", 1,
                                                    SCALED_PAIR),
    "words that the odd CTA reads too early": changed(
        "mbarrier_wait(words_full", "if (rank == 0) mbarrier_wait(words_full",
                                                      source=SCALED_PAIR),
    "words that the odd CTA arranges too early": changed("mbarrier_wait(empty + 8 * cursor_1",
                                                         "if (rank == 0) mbarrier_wait(empty + 8 * cursor_1",
                                                         source=SCALED_PAIR),
    "half of b's scales in each CTA": changed("stage, n0_1, k0_1 / 128", "stage, n0_1_share, k0_1 / 128",
                                              source=SCALED_PAIR),
    "the same rows' scales twice": changed("stage, m0_1, k0_1 / 128", "stage, position.along * 256, k0_1 / 128",
                                           source=SCALED_PAIR),
    "scales behind K in the odd CTA": changed("0x000000ff", "(rank ? 0xffffffff : 0x000000ff)", source=SCALED_PAIR),
    "a's scales not copied": dropped("copy_scale_factors(tmem + 64", source=SCALED_PAIR),
    "scale columns over the sums": SCALED_PAIR.replace("tmem + 64 + cursor_2", "tmem + 60 + cursor_2"),
    "the rows of one CTA": changed("0x10900000", "0x08900000", source=SCALED_PAIR),
    "another scale of a's": changed("0x20000010", "0x00000010", source=SCALED_PAIR),
    "a stage free in one CTA only": changed("mma_commit_cluster(empty + 8 * cursor_2.stage, 0x3)",
                                            "mma_commit_cluster(empty + 8 * cursor_2.stage, 0x1)", source=SCALED_PAIR),
}  # fmt: skip

GATHERED_MUTANTS: dict[str, str] = {
    "rows beyond the matrix": changed("line < M ?", "true ?", source=GATHERED),
    "words of another column": changed("k0_2 / 512", "k0_2 / 128", source=GATHERED),
    "words of the first column": changed("k0_2 / 128", "k0_2 / 1024", source=GATHERED),
    "the first scale of b's words in all steps": changed(" | k0_3 / 128 % 4 << 4", "", source=GATHERED),
    "b's scales as if for 256 elements": changed("k0_3 / 128 % 4 << 4", "k0_3 / 256 % 4 << 4", source=GATHERED),
    "b's scales as if for 32 elements": changed("+ 0x20000000", "+ 0x20000010", source=GATHERED),
    "a's scales as if for 128 elements": changed("instruction + 0x20000000", "instruction", source=GATHERED),
    "a's scales behind K": changed("0x000000ff", "0xffffffff", source=GATHERED),
    "words in the order of rows": changed("32 * i + lane", "4 * lane + i", source=GATHERED),
    "words gathered into a stage in use": dropped("mbarrier_wait(empty", 1, GATHERED),
    "words not shown to the tensor core": dropped("fence_async_shared();", 1, GATHERED),
    "words announced by the first lane to be done": dropped("__syncwarp();", 1, GATHERED),
}  # fmt: skip

ALL_MUTANTS = {
    (kernel, name): source
    for kernel, mutants in zip(
        KERNELS,
        (MUTANTS, SUMS_MUTANTS, SCALED_MUTANTS, PAIR_MUTANTS, SCALED_PAIR_MUTANTS, GATHERED_MUTANTS),
        strict=True,
    )
    for name, source in mutants.items()
}


@pytest.mark.parametrize("name", KERNELS)
def test_the_kernels_themselves_are_right(name: str):
    kernel = KERNELS[name]
    for schedule in SCHEDULES:
        report, difference = emulated(kernel.artifact, kernel.case, schedule=schedule, change=kernel.change)
        assert report.ok, str(report)
        assert difference < TOLERANCE


@pytest.mark.parametrize(("name", "mutant"), ALL_MUTANTS)
def test_caught(name: str, mutant: str):
    kernel, source = KERNELS[name], ALL_MUTANTS[name, mutant]
    assert source != kernel.artifact.source
    for schedule in ("fifo", "adversarial", "random"):
        report, difference = emulated(
            kernel.artifact, kernel.case, source=source, schedule=schedule, change=kernel.change
        )
        if not report.ok or not difference < TOLERANCE:
            return
    pytest.fail(f"nothing was found in: {mutant}")
