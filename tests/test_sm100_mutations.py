"""Mistakes in a Blackwell kernel that the emulator must find: each is one change to generated CUDA.

A mutant is caught when the emulator reports something (a race, a missing fence, a deadlock, a leak) or the values are
wrong, under at least one of its schedulers.
"""

from __future__ import annotations

import pytest
from sm100_cases import CASES, TARGET, built, emulated, schedule_of

from gemmgen import compiler
from gemmgen.verification import SCHEDULES, TOLERANCE

CASE = "short"
ARTIFACT = compiler.build(CASES[CASE].spec, TARGET, schedule_of(CASE).replace(stages=4, accumulators=2))
"""Fewer accumulators than stages: else the stages would keep products from running ahead, and hide a missing wait."""
SOURCE = ARTIFACT.source


SUMS_CASE = "sums"
SUMS = built(SUMS_CASE).source
"""A kernel whose sums run over all of K, with both operands transposed."""


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
    "stores not drained": dropped("if (threadIdx.x % 128 == 0) tma_store_drain"),
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


@pytest.mark.parametrize(("artifact", "case"), [(ARTIFACT, CASE), (built(SUMS_CASE), SUMS_CASE)])
def test_the_kernels_themselves_are_right(artifact: compiler.Artifact, case: str):
    for schedule in SCHEDULES:
        report, difference = emulated(artifact, case, schedule=schedule)
        assert report.ok, str(report)
        assert difference < TOLERANCE


@pytest.mark.parametrize("mutant", SUMS_MUTANTS)
def test_caught_in_sums_over_all_of_k(mutant: str):
    check_caught(built(SUMS_CASE), SUMS_CASE, SUMS_MUTANTS[mutant], mutant)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_caught(mutant: str):
    check_caught(ARTIFACT, CASE, MUTANTS[mutant], mutant)


def check_caught(artifact: compiler.Artifact, case: str, source: str, mutant: str) -> None:
    assert source != artifact.source
    for schedule in ("fifo", "adversarial", "random"):
        report, difference = emulated(artifact, case, source=source, schedule=schedule)
        if not report.ok or not difference < TOLERANCE:
            return
    pytest.fail(f"nothing was found in: {mutant}")
