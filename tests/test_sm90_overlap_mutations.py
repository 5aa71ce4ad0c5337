"""Mistakes in Hopper kernels whose promotion overlaps, each one change to generated CUDA that the emulator must find.

A mutant is caught when the emulator reports something (a race, a deadlock, registers that a product under way owns) or
the values are wrong, under at least one of its schedulers.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import sm90_cases
from sm90_cases import Kernel, emulated
from sm100_cases import case

from gemmgen.reference import TOLERANCE
from gemmgen.verification import SCHEDULES


def kernel(m: int, n: int, k: int, **hints: Any) -> Kernel:
    found = sm90_cases.kernel(case(m, n, k, **hints))
    assert found.artifact.schedule.promotion_overlap
    return found


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


changed, dropped, moved = (
    partial(change, source=EVEN) for change in (sm90_cases.changed, sm90_cases.dropped, sm90_cases.moved)
)

MUTANTS: dict[str, str] = {
    "no wait for the products": dropped("wgmma_wait_older(done_part"),
    "a wait that leaves this step's products too": changed("wgmma_wait<1>(values)", "wgmma_wait<2>(values)"),
    "the last products not waited for": changed("done_block_scale_turns[1], 0)", "done_block_scale_turns[1], 1)"),
    "waited for behind the promotion": moved("behind.advance<3>();", "wgmma_wait_older(done_part").replace(
        "wgmma_wait_older(done_part, younger);", "", 1),
    "a stage released before its products are done": moved("mbarrier_arrive(empty",
                                                           "wgmma_wait_older(done_part"),
    "the next step's stage released": changed("empty + 8 * behind.stage", "empty + 8 * cursor.stage"),
    "a stage never released": dropped("mbarrier_arrive(empty"),
    "a stage released by one lane": changed("mbarrier_arrive(empty", "if (lane == 0) mbarrier_arrive(empty"),
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
    "steps started out of order": moved("start(part, done", "finish(part, done", source=ODD),
    "a stage released before its products are done": moved("mbarrier_arrive(empty",
                                                           "wgmma_wait_older(done_part", source=ODD),
    "the tail of K missing": changed("(528u + 127u) / 128u", "528u / 128u", source=ODD),
}  # fmt: skip

ONE_STEP_MUTANTS: dict[str, str] = {
    "the only products not waited for": changed("done_block_scale_turns[0], 0)", "done_block_scale_turns[0], 1)",
                                                source=ONE_STEP),
    "the only step not promoted": dropped(FINISH_THIS, 2, source=ONE_STEP),
    "a second step": changed("(80u + 127u) / 128u", "(80u + 255u) / 128u", source=ONE_STEP),
}  # fmt: skip

SPLIT_MUTANTS: dict[str, str] = {
    "no wait for the products": dropped("wgmma_wait_older(done_part", source=SPLIT),
    "the last products not waited for": changed("done_col_scale_turns[0], 0)", "done_col_scale_turns[0], 1)",
                                                source=SPLIT),
    "as many steps in every CTA": changed("128u * (rank + 1) / 3 - (1168u + 127u) / 128u * rank / 3", "128u / 3",
                                          source=SPLIT),
    "partial sums read before the CTAs have met": dropped("cluster_sync();", 1, source=SPLIT),
    "columns' scales of one step for both": SPLIT.replace("done_col_scale_turns[1]", "done_col_scale_turns[0]"),
    "a stage released before its products are done": moved("mbarrier_arrive(empty",
                                                           "wgmma_wait_older(done_part", source=SPLIT),
}  # fmt: skip

ALL_MUTANTS = {
    (name, what): source
    for name, mutants in zip(KERNELS, (MUTANTS, ODD_MUTANTS, ONE_STEP_MUTANTS, SPLIT_MUTANTS), strict=True)
    for what, source in mutants.items()
}


@pytest.mark.parametrize(("name", "mutant"), ALL_MUTANTS)
def test_caught(name: str, mutant: str):
    assert sm90_cases.caught(KERNELS[name], ALL_MUTANTS[name, mutant])


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_kernels_are_clean(name: str, schedule: str):
    for seed in range(2):
        report, _, difference = emulated(KERNELS[name], schedule, seed=seed)
        assert report.ok, str(report)
        assert difference < TOLERANCE
