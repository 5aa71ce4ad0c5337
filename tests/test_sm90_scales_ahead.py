"""Hopper kernels that copy the scales of B's blocks for all steps of a tile at once: values, races, mistakes.

Each kernel runs with them and without, in the emulator, on as many tiles per CTA as wrap the ring of two stages.
Mutants are one change to generated CUDA; the emulator must report something or the values must be wrong.
"""

from __future__ import annotations

from functools import cache, partial

import pytest
import sm90_cases
from sm90_cases import NUM_SMS, Kernel
from sm100_cases import Case, case, sizes_of

from gemmgen.spec.model import Warps

CASES: dict[str, Case] = {
    "tiles": case(300, 72, 400, tile=(64, 64, 128), stages=3),
    "one_step": case(300, 72, 80, tile=(64, 64, 128), stages=3),
    "two_groups": case(300, 136, 272, tile=(128, 64, 128), stages=3),
    "no_overlap": case(200, 136, 400, tile=(64, 64, 128), stages=2, promotion_overlap=False),
    "two_waves": case(300, 136, 272, tile=(128, 64, 128), stages=2, warps=Warps(math=1)),
    "blocks_96": case(200, 200, 272, tile=(64, 96, 128), stages=3),
    "blocks_144": case(200, 456, 272, tile=(64, 144, 128), stages=2),
    "blocks_192": case(200, 400, 272, tile=(128, 192, 128), stages=2),
    "swapped": case(40, 264, 272, tile=(16, 64, 128), stages=3, swap_ab=True),
    "cluster_m": case(300, 136, 272, tile=(128, 64, 128), stages=2, cluster=(2, 1)),
    "cluster_n": case(200, 264, 272, tile=(128, 64, 128), stages=2, cluster=(1, 2)),
    "split": case(70, 72, 1168, tile=(64, 64, 128), stages=3, split_k=3),
    "split_swapped": case(20, 136, 1168, tile=(32, 64, 128), stages=3, swap_ab=True, split_k=4),
}  # fmt: skip
"""Tails in M, N and K; blocks that end within a tile; ten steps that three or four CTAs share."""


@cache
def built(name: str, ahead: bool) -> Kernel:
    found = sm90_cases.kernel(CASES[name], scales_ahead=ahead)
    assert found.artifact.schedule.scales_ahead == ahead
    return found


@pytest.mark.parametrize("name", CASES)
def test_values_with_and_without(name: str):
    """The scales are the same, and so is every bit of D."""
    sm90_cases.check_same_bits(built(name, ahead) for ahead in (True, False))


def test_a_ring_of_two_stages_wraps():
    """What the cases rely on: a CTA of the first makes five tiles, which is two turns of the ring and one stage."""
    module = built("tiles", True).artifact.result.module
    rows, cols, _ = sizes_of(CASES["tiles"])
    tiles = -(-rows // 64) * -(-cols // 64)
    assert tiles // NUM_SMS == 5
    assert "advance<2>" in SOURCE
    assert {area.name: area.stages for area in module.attr("areas")}["sb"] == 2


SOURCE = built("tiles", True).artifact.source
changed, dropped = partial(sm90_cases.changed, source=SOURCE), partial(sm90_cases.dropped, source=SOURCE)

MUTANTS: dict[str, str] = {
    "no wait for the scales": dropped("mbarrier_wait(runs_full"),
    "a wait for the other phase": changed("runs.phase);", "runs.phase ^ 1);"),
    "copies into a stage in use": dropped("mbarrier_wait(runs_empty"),
    "a stage never released": dropped("mbarrier_arrive(runs_empty"),
    "a stage released by one lane": changed("mbarrier_arrive(runs_", "if (lane == 0) mbarrier_arrive(runs_"),
    "operands released by every lane": changed("if (lane == 0) mbarrier_arrive(empty", "mbarrier_arrive(empty"),
    "the reader's stage stays": dropped("runs.advance<2>();"),
    "the copies' stage stays": dropped("runs_1.advance<2>();"),
    "steps not counted": dropped("++runs.step;"),
    "steps of the tile before": changed("        step = 0;\n", ""),
    "one scale fewer": changed("i < 4; i += 32) {\n", "i < 3; i += 32) {\n"),
    "scales of one step for all": changed("+ 4 * runs.step", "+ 0 * runs.step"),
    "the next block's scales": changed("n0_2 / 128 + i / 4", "n0_2 / 128 + 1 + i / 4"),
    "scales from one step on": changed("k0_2 / 128 + i % 4", "k0_2 / 128 + (i + 1) % 4"),
    "copied with every step": changed("k0_2 += 512", "k0_2 += 128"),
    "descriptors of stage 0": changed("desc_a + cursor.stage", "desc_a + 0 * cursor.stage"),
    "descriptors in bytes": changed("* (kStageBytesB >> 4)", "* kStageBytesB"),
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS)
def test_caught(mutant: str):
    assert sm90_cases.caught(built("tiles", True), MUTANTS[mutant])
