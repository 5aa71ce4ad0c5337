"""Mistakes in Hopper kernels whose promotion overlaps, each one change to generated CUDA that the emulator must find.

A mutant is caught when the emulator reports something (a race, a deadlock, registers that a product under way owns) or
the values are wrong, under at least one of its schedulers.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from sm100_cases import Case, case, operands_of, sizes_of

from gemmgen import compiler
from gemmgen.emulator import Report
from gemmgen.emulator.plan import emulate_plan
from gemmgen.reference import TOLERANCE, relative_difference
from gemmgen.runtime import nvrtc
from gemmgen.verification import SCHEDULES

TARGET = "sm_90a"
NUM_SMS = 2
"""SMs that the emulated grids are made for: so few that a CTA goes from tile to tile."""


class Kernel(NamedTuple):
    """A kernel to break and the problem that it is run on."""

    case: Case
    artifact: compiler.Artifact


def kernel(m: int, n: int, k: int, **hints: Any) -> Kernel:
    found = case(m, n, k, **hints)
    (only,) = compiler.plan(found.spec, TARGET)
    assert only.schedule.promotion_overlap
    return Kernel(found, compiler.build(found.spec, TARGET, only.schedule))


KERNELS = {
    "even": kernel(100, 72, 400, tile=(64, 64, 128), stages=3),
    "odd": kernel(70, 64, 528, tile=(64, 64, 128), stages=2),
    "one_step": kernel(70, 72, 80, tile=(64, 64, 128), stages=3),
    "split": kernel(20, 136, 1168, tile=(32, 64, 128), stages=3, swap_ab=True, split_k=3),
}
"""Four steps of K, five, and one, of which the last has 16 or 80 elements; swapped operands, whose ten steps three CTAs
share: three, three and four. The ring of the five steps has no more stages than two steps hold."""
EVEN, ODD, ONE_STEP, SPLIT = (found.artifact.source for found in KERNELS.values())
FINISH_THIS, FINISH_OTHER = "finish(part, done_row_scale", "finish(part_1, done_row_scale"


def changed(old: str, new: str, nth: int = 0, source: str = EVEN) -> str:
    """The source with the ``nth`` ``old`` replaced."""
    parts = source.split(old)
    assert len(parts) > nth + 1, f"{old!r} does not occur {nth + 1} times"
    return old.join(parts[: nth + 1]) + new + old.join(parts[nth + 1 :])


def dropped(start: str, nth: int = 0, source: str = EVEN) -> str:
    """The source without the ``nth`` line that starts so."""
    rows = source.splitlines(keepends=True)
    index = [index for index, row in enumerate(rows) if row.strip().startswith(start)][nth]
    return "".join(rows[:index] + rows[index + 1 :])


def moved(start: str, before: str, source: str = EVEN) -> str:
    """The source with the first line that starts so put in front of the first line that starts with ``before``."""
    rows = source.splitlines(keepends=True)
    row, anchor = (next(row for row in rows if row.strip().startswith(text)) for text in (start, before))
    return source.replace(row, "", 1).replace(anchor, row + anchor, 1)


MUTANTS: dict[str, str] = {
    "no wait for the products": dropped("wgmma_wait_older(done_part"),
    "a wait that leaves this step's products too": changed("wgmma_wait<1>(values)", "wgmma_wait<2>(values)"),
    "the last products not waited for": changed("done_block_scale_turns[1], 0)", "done_block_scale_turns[1], 1)"),
    "waited for behind the promotion": moved("behind.advance<3>();", "wgmma_wait_older(done_part").replace(
        "wgmma_wait_older(done_part, younger);", "", 1),
    "a stage released before its products are done": moved("if (lane == 0) mbarrier_arrive(empty",
                                                           "wgmma_wait_older(done_part"),
    "the next step's stage released": changed("empty + 8 * behind.stage", "empty + 8 * cursor.stage"),
    "a stage never released": dropped("if (lane == 0) mbarrier_arrive(empty"),
    "a stage released by every lane": changed("if (lane == 0) mbarrier_arrive(empty", "mbarrier_arrive(empty"),
    "the older step's place stays": dropped("behind.advance<3>();"),
    "the older step's place in another ring": changed("behind.advance<3>();", "behind.advance<2>();"),
    "the step's place stays": dropped("cursor.advance<3>();"),
    "no wait for the stage": dropped("mbarrier_wait(full"),
    "a wait for the other phase": changed("cursor.phase);", "cursor.phase ^ 1);"),
    "loads into a stage in use": dropped("mbarrier_wait(empty"),
    "the younger partial sum promoted": changed(FINISH_THIS, FINISH_OTHER),
    "the older partial sum promoted twice": changed(FINISH_OTHER, FINISH_THIS),
    "products into the sum that is promoted": changed("start(part_1, ", "start(part, "),
    "the younger step's scales": changed(f"{FINISH_THIS}_turns[0]", f"{FINISH_THIS}_turns[1]"),
    "scales of one step for both": EVEN.replace("_turns[1]", "_turns[0]"),
    "scales read behind the release": changed("high = done_row_scale[1] * done_block_scale[0]",
                                              "high = done_row_scale[1] * load_shared(smem + kOffsetSb + "
                                              "behind.stage * kStageBytesSb)"),
    "scales that are not kept": dropped("for (uint32_t i = 0; i < 2; ++i) next_row_scale"),
    "the first products add": changed("wgmma_start_m64n64k32_e4m3_e4m3(next_part",
                                      "wgmma_add_m64n64k32_e4m3_e4m3(next_part"),
    "products without their commit": dropped("wgmma_commit();"),
    "the tail of K missing": changed("uint32_t steps = (400u + 127u) / 128u", "uint32_t steps = 400u / 128u"),
    "a step too many": changed("uint32_t steps = (400u + 127u) / 128u", "uint32_t steps = 400u / 128u + 2"),
    "two turns too few": changed("for (; steps > 2;", "for (; steps > 4;"),
    "one step's end missing": dropped(FINISH_OTHER, 1),
}  # fmt: skip

ODD_MUTANTS: dict[str, str] = {
    "no wait for the products": dropped("wgmma_wait_older(done_part", source=ODD),
    "steps started out of order": moved("start(part, done", "finish(part, done", ODD),
    "a stage released before its products are done": moved("if (lane == 0) mbarrier_arrive(empty",
                                                           "wgmma_wait_older(done_part", ODD),
    "the tail of K missing": changed("(528u + 127u) / 128u", "528u / 128u", source=ODD),
}  # fmt: skip

ONE_STEP_MUTANTS: dict[str, str] = {
    "the only products not waited for": changed("done_block_scale_turns[0], 0)", "done_block_scale_turns[0], 1)",
                                                source=ONE_STEP),
    "the only step not promoted": dropped(FINISH_THIS, 2, ONE_STEP),
    "a second step": changed("(80u + 127u) / 128u", "(80u + 255u) / 128u", source=ONE_STEP),
}  # fmt: skip

SPLIT_MUTANTS: dict[str, str] = {
    "no wait for the products": dropped("wgmma_wait_older(done_part", source=SPLIT),
    "the last products not waited for": changed("done_col_scale_turns[0], 0)", "done_col_scale_turns[0], 1)",
                                                source=SPLIT),
    "as many steps in every CTA": changed("128u * (rank + 1) / 3 - (1168u + 127u) / 128u * rank / 3", "128u / 3",
                                          source=SPLIT),
    "partial sums read before the CTAs have met": dropped("cluster_sync();", 1, SPLIT),
    "columns' scales of one step for both": SPLIT.replace("done_col_scale_turns[1]", "done_col_scale_turns[0]"),
    "a stage released before its products are done": moved("if (lane == 0) mbarrier_arrive(empty",
                                                           "wgmma_wait_older(done_part", SPLIT),
}  # fmt: skip

ALL_MUTANTS = {
    (name, what): source
    for name, mutants in zip(KERNELS, (MUTANTS, ODD_MUTANTS, ONE_STEP_MUTANTS, SPLIT_MUTANTS), strict=True)
    for what, source in mutants.items()
}


@cache
def ptx_of(source: str, name: str) -> str:
    ptx = nvrtc.compile_cuda(source, name, TARGET).ptx
    assert ptx is not None
    return ptx


def emulated(name: str, schedule: str, source: str | None = None, seed: int = 0) -> tuple[Report, float]:
    """Launch a kernel, or a mutant of it; returns the report and the difference from the FP32 reference."""
    found, artifact = KERNELS[name]
    text = source or artifact.source
    operands, expected = operands_of(found, seed)
    report = emulate_plan(
        artifact.launch, ptx_of(text, artifact.name), operands, sizes_of(found), num_sms=NUM_SMS, seed=seed,
        schedule=schedule, source=text,
    )  # fmt: skip
    return report, relative_difference(operands["d"].astype(np.float32), expected)


@pytest.mark.parametrize(("name", "mutant"), ALL_MUTANTS)
def test_caught(name: str, mutant: str):
    source = ALL_MUTANTS[name, mutant]
    assert source != KERNELS[name].artifact.source
    for schedule in SCHEDULES:
        report, difference = emulated(name, schedule, source)
        if not report.ok or not difference < TOLERANCE:
            return
    pytest.fail(f"nothing was found in: {mutant}")


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_kernels_are_clean(name: str, schedule: str):
    for seed in range(2):
        report, difference = emulated(name, schedule, seed=seed)
        assert report.ok, str(report)
        assert difference < TOLERANCE
