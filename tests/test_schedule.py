from __future__ import annotations

import json

import pytest

from gemmgen.errors import ScheduleError
from gemmgen.schedule import Schedule

PLAIN = Schedule((128, 128, 128), 5)
EVERYTHING = Schedule((32, 64, 128), 6, (2, 1), 4, True, 1, 40, 232, 4, "n", "lanes", False, True, True)


@pytest.mark.parametrize("schedule", [PLAIN, EVERYTHING])
def test_round_trip_through_json(schedule: Schedule):
    assert Schedule.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule


@pytest.mark.parametrize(
    ("fields", "fix"),
    [({"tile": [128, 128, 128]}, "stages"), ({**PLAIN.to_dict(), "warps": 3}, "warps"), ({}, "tile")],
)
def test_what_is_not_a_schedule(fields: dict[str, object], fix: str):
    with pytest.raises(ScheduleError, match="not a schedule") as caught:
        Schedule.from_dict(fields)
    assert fix in (caught.value.fix or "")


def test_text():
    assert str(PLAIN) == "128x128x128 stages=5 warpgroups=2"
    assert str(EVERYTHING) == (
        "32x64x128 stages=6 warpgroups=1 cluster=2x1 split_k=4 swap_ab scales=lanes promotion_overlap pdl"
    )


def test_text_of_bursts():
    overlapped = PLAIN.replace(promotion_overlap=True, promotion_burst=8)
    assert str(overlapped) == f"{PLAIN} promotion_overlap promotion_burst=8"
    assert Schedule.from_dict(overlapped.to_dict()) == overlapped
    older = {name: value for name, value in PLAIN.to_dict().items() if name != "promotion_burst"}
    assert Schedule.from_dict(older) == PLAIN, "what a version without bursts measured had none"


def test_text_of_steps_that_do_not_overlap():
    alone = PLAIN.replace(promotion_burst=4, lookahead=True, unroll=2)
    assert str(alone) == f"{PLAIN} promotion_burst=4 lookahead unroll=2"
    assert Schedule.from_dict(json.loads(json.dumps(alone.to_dict()))) == alone
    older = {name: value for name, value in PLAIN.to_dict().items() if name not in ("lookahead", "unroll")}
    assert Schedule.from_dict(older) == PLAIN, "what a version without them measured had none"


def test_text_of_scales_ahead():
    ahead = PLAIN.replace(scales_ahead=True, promotion_overlap=True)
    assert str(ahead) == f"{PLAIN} scales_ahead promotion_overlap"
    assert Schedule.from_dict(ahead.to_dict()) == ahead
    older = {name: value for name, value in PLAIN.to_dict().items() if name != "scales_ahead"}
    assert Schedule.from_dict(older) == PLAIN, "what a version without them measured had none"


def test_cluster_and_scheduler():
    assert (PLAIN.cluster_size, PLAIN.scheduler) == (1, "persistent")
    assert (EVERYTHING.cluster_size, EVERYTHING.scheduler) == (8, "split_k")
    assert PLAIN.replace(cluster=(1, 2)).cluster_size == 2


def test_schedules_are_values():
    assert len({PLAIN, PLAIN.replace(stages=5), PLAIN.replace(stages=4)}) == 2
    with pytest.raises(AttributeError):
        PLAIN.stages = 3  # type: ignore[misc]
