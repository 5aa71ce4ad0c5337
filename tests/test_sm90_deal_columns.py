"""Hopper kernels whose tiles have their columns dealt in runs, each within one scale block: values, races, mistakes.

Each kernel runs with columns dealt and with columns that follow each other, in the emulator. Mutants are one change to
generated CUDA; the emulator must report something or the values must be wrong.
"""

from __future__ import annotations

from functools import cache, partial

import pytest
import sm90_cases
from sm90_cases import Kernel
from sm100_cases import Case, case

from gemmgen.errors import ScheduleError

CASES: dict[str, Case] = {
    "144": case(200, 456, 272, tile=(128, 144, 128), stages=2),
    "112": case(150, 424, 400, tile=(128, 112, 128), stages=3),
    "two_waves": case(300, 232, 272, tile=(256, 112, 128), stages=2),
    "unrolled": case(200, 296, 656, tile=(128, 144, 128), stages=2, unroll=4),
    "one_group": case(100, 200, 272, tile=(64, 80, 128), stages=3),
    "with_every_step": case(150, 424, 400, tile=(128, 112, 128), stages=2, scales_ahead=False),
    "alone": case(150, 200, 272, tile=(128, 112, 128), stages=2, promotion_overlap=False),
    "cluster_m": case(300, 296, 272, tile=(128, 144, 128), stages=2, cluster=(2, 1)),
    "cluster_n": case(200, 360, 272, tile=(128, 112, 128), stages=2, cluster=(1, 2)),
    "smaller_than_a_tile": case(40, 24, 144, tile=(128, 112, 128), stages=2),
    "176": case(150, 536, 272, tile=(128, 176, 128), stages=2),
    "192": case(200, 400, 272, tile=(128, 192, 128), stages=2),
    "whole_blocks": case(150, 264, 272, tile=(128, 128, 128), stages=2),
}  # fmt: skip
"""Tails in M, N and K; an odd number of tiles for pairs; one, two and three runs."""


@cache
def built(name: str, deal: bool) -> Kernel:
    found = sm90_cases.kernel(CASES[name], deal_columns=deal)
    assert found.artifact.schedule.deal_columns == deal
    return found


@pytest.mark.parametrize("name", CASES)
def test_values_with_and_without(name: str):
    """Each element of D is the same sum, and so is every bit of it."""
    sm90_cases.check_same_bits(built(name, deal) for deal in (True, False))


SOURCE = built("112", True).artifact.source
changed, dropped = partial(sm90_cases.changed, source=SOURCE), partial(sm90_cases.dropped, source=SOURCE)

MUTANTS: dict[str, str] = {
    "a run that is not loaded": dropped("tma_load(smem + kOffsetB + cursor_1.stage * kStageBytesB + 12288"),
    "rows of the next tile's run": changed("k0_1, n0_1_run1)", "k0_1, n0_1_run1 + 32)"),
    "a run loaded over another": changed("kStageBytesB + 12288", "kStageBytesB + 8192"),
    "a run stored where another belongs": changed("n0_run2, m0", "n0_run1, m0"),
    "runs that begin too late": changed("n0_2_run1 = tiles_n * 64 +", "n0_2_run1 = tiles_n * 112 +"),
    "a run's scale for another": changed("done_block_scale[2], high", "done_block_scale[1], high"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name: str):
    assert sm90_cases.caught(built("112", True), MUTANTS[name]), name


def test_every_run_has_a_tensor_map_of_its_own():
    """A map has one box; those of a tile's later runs are further parameters of the kernel."""
    artifact = built("112", True).artifact
    boxes = {found.arg: found.box[1] for found in artifact.result.module.attr("maps") if found.operand == "b"}
    assert boxes == {"tma_b": 64, "tma_b_run1": 32, "tma_b_run2": 16}
    assert "tma_b_run1" not in built("112", False).artifact.source


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (case(40, 136, 272, tile=(16, 64, 128), stages=2, swap_ab=True), "swap_ab"),
        (case(70, 72, 1168, tile=(64, 80, 128), stages=2, split_k=3), "split_k=3"),
        (case(70, 107, 272, tile=(64, 80, 128), stages=2), "107 columns of D"),
    ],
)
def test_what_cannot_be_dealt_is_refused(found: Case, why: str):
    with pytest.raises(ScheduleError, match="columns cannot be dealt in runs") as error:
        sm90_cases.kernel(found, deal_columns=True)
    assert why in str(error.value)
    assert "leave deal_columns auto" in str(error.value)
    assert not sm90_cases.kernel(found).artifact.schedule.deal_columns
