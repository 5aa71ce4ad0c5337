"""Blackwell's kernels on the emulator: right values, and nothing unordered, unwaited for or leaked."""

from __future__ import annotations

import pytest
from ir_texts import spec_of
from sm100_cases import CASES, NUM_SMS, TARGET, built, emulated

from gemmgen import compiler
from gemmgen.reference import TOLERANCE
from gemmgen.verification import SCHEDULES, verify


@pytest.mark.parametrize("schedule", ["random", "adversarial"])
@pytest.mark.parametrize("name", CASES)
def test_case(name: str, schedule: str):
    report, difference = emulated(built(name), name, schedule=schedule, seed=1)
    assert report.ok, str(report)
    assert difference < TOLERANCE


@pytest.mark.parametrize("name", ["one_row", "one_group"])
def test_more_seeds(name: str):
    for seed in range(2, 5):
        for schedule in SCHEDULES:
            report, difference = emulated(built(name), name, schedule=schedule, seed=seed)
            assert report.ok, str(report)
            assert difference < TOLERANCE


@pytest.mark.parametrize("m", [1, 40, 200])
@pytest.mark.parametrize("layout", ["mn", "k"])
def test_the_schedules_that_heuristics_choose(m: int, layout: str):
    """Scales column by column go through the copy engine, others through the lanes of a warp."""
    for done in verify(spec_of(200, 464), m, TARGET, schedules=("random",), scale_layout=layout):
        assert done.ok, str(done.checks[-1].report)


def test_blackwell_ultra():
    """sm_103a takes the same kernels."""
    for done in verify(spec_of(136, 272), 40, "sm_103a", schedules=("random",)):
        assert done.ok, str(done.checks[-1].report)


def test_a_cta_visits_several_tiles():
    """Both rings go on from one tile to the next, in whatever stage they are."""
    launch = built("many_tiles").launch
    assert launch.persistent
    assert launch.grid(300, 264, NUM_SMS) == NUM_SMS
    tiles = -(-300 // 128) * -(-264 // 64)
    assert tiles > 3 * NUM_SMS


def test_partial_sums_are_double_buffered():
    """The tensor core may be a partial sum ahead of promotion; with one accumulator it is not, and all still holds."""
    found = {stages: compiler.build(CASES["plain"].spec, TARGET, built("plain").schedule.replace(accumulators=stages))
             for stages in (1, 2)}  # fmt: skip
    for stages, artifact in found.items():
        assert f"parts.advance<{stages}>();" in artifact.source
        report, difference = emulated(artifact, "plain", schedule="adversarial")
        assert report.ok, str(report)
        assert difference < TOLERANCE
