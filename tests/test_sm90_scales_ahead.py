"""Hopper kernels that copy the scales of B's blocks for all steps of a tile at once: values, races, mistakes.

Each kernel runs with them and without, in the emulator, on as many tiles per CTA as wrap the ring of two stages.
Mutants are one change to generated CUDA; the emulator must report something or the values must be wrong.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from sm100_cases import Case, case, operands_of, sizes_of

from gemmgen import compiler
from gemmgen.emulator import Report
from gemmgen.emulator.plan import emulate_plan
from gemmgen.reference import TOLERANCE, relative_difference
from gemmgen.runtime import nvrtc
from gemmgen.spec.model import Warps
from gemmgen.verification import SCHEDULES

TARGET = "sm_90a"
NUM_SMS = 2
"""SMs that the emulated grids are made for: so few that a CTA goes from tile to tile."""

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


def hinted(found: Case, ahead: bool) -> Case:
    """The case with the hint."""
    return replace(found, spec=replace(found.spec, schedule=replace(found.spec.schedule, scales_ahead=ahead)))


@cache
def built(name: str, ahead: bool) -> compiler.Artifact:
    spec = hinted(CASES[name], ahead).spec
    (only,) = compiler.plan(spec, TARGET)
    assert only.schedule.scales_ahead == ahead
    return compiler.build(spec, TARGET, only.schedule)


@cache
def ptx_of(source: str, name: str) -> str:
    ptx = nvrtc.compile_cuda(source, name, TARGET).ptx
    assert ptx is not None
    return ptx


def emulated(
    name: str, ahead: bool, schedule: str, source: str | None = None, seed: int = 0
) -> tuple[Report, np.ndarray, float]:
    """Launch a kernel, or a mutant of it; returns the report, D, and its difference from the FP32 reference."""
    found, artifact = CASES[name], built(name, ahead)
    text = source or artifact.source
    operands, expected = operands_of(found, seed)
    report = emulate_plan(
        artifact.launch, ptx_of(text, artifact.name), operands, sizes_of(found), num_sms=NUM_SMS, seed=seed,
        schedule=schedule, source=text,
    )  # fmt: skip
    return report, operands["d"], relative_difference(operands["d"].astype(np.float32), expected)


@pytest.mark.parametrize("name", CASES)
def test_values_with_and_without(name: str):
    """The scales are the same, and so is every bit of D."""
    for schedule in SCHEDULES:
        found = [emulated(name, ahead, schedule) for ahead in (True, False)]
        for report, _, difference in found:
            assert report.ok, str(report)
            assert difference < TOLERANCE
        assert np.array_equal(found[0][1].view(np.uint16), found[1][1].view(np.uint16))


def test_a_ring_of_two_stages_wraps():
    """What the cases rely on: a CTA of the first makes five tiles, which is two turns of the ring and one stage."""
    module = built("tiles", True).result.module
    rows, cols, _ = sizes_of(CASES["tiles"])
    tiles = -(-rows // 64) * -(-cols // 64)
    assert tiles // NUM_SMS == 5
    assert "advance<2>" in built("tiles", True).source
    assert {area.name: area.stages for area in module.attr("areas")}["sb"] == 2


SOURCE = built("tiles", True).source


def changed(old: str, new: str, nth: int = 0) -> str:
    """The source with the ``nth`` ``old`` replaced."""
    parts = SOURCE.split(old)
    assert len(parts) > nth + 1, f"{old!r} does not occur {nth + 1} times"
    return old.join(parts[: nth + 1]) + new + old.join(parts[nth + 1 :])


def dropped(start: str, nth: int = 0) -> str:
    """The source without the ``nth`` line that starts so."""
    rows = SOURCE.splitlines(keepends=True)
    index = [index for index, row in enumerate(rows) if row.strip().startswith(start)][nth]
    return "".join(rows[:index] + rows[index + 1 :])


MUTANTS: dict[str, str] = {
    "no wait for the scales": dropped("mbarrier_wait(runs_full"),
    "a wait for the other phase": changed("runs.phase);", "runs.phase ^ 1);"),
    "copies into a stage in use": dropped("mbarrier_wait(runs_empty"),
    "a stage never released": dropped("if (lane == 0) mbarrier_arrive(runs_empty"),
    "a stage released by every lane": changed("if (lane == 0) mbarrier_arrive(runs_", "mbarrier_arrive(runs_"),
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
    assert MUTANTS[mutant] != SOURCE
    for schedule in SCHEDULES:
        report, _, difference = emulated("tiles", True, schedule, MUTANTS[mutant])
        if not report.ok or not difference < TOLERANCE:
            return
    pytest.fail(f"nothing was found in: {mutant}")
