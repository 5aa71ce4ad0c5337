"""Which M a tuned schedule serves."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from test_tuning_file import entry, tuned_file

from gemmgen import compiler
from gemmgen.backends.m_ranges import MRanges
from gemmgen.backends.sm90 import heuristics
from gemmgen.schedule import Schedule
from gemmgen.spec import load_spec
from gemmgen.tuning.file import TunedEntry
from gemmgen.tuning.ranges import MAX_KERNELS, PlanEntry, with_tuned, with_tuned_m

RANGES = MRanges((8, 16, 64), large=256)
A, B, X, Y = (Schedule((128, 128, 128), stages) for stages in (2, 3, 5, 6))
ROWS = [(0, 16, A), (17, None, B)]


def shown(served: list[PlanEntry]) -> list[tuple[int, int | None, Schedule]]:
    return [(row.m_min, row.m_max, row.schedule) for row in served]


def tuned(*pairs: tuple[int, Schedule]) -> list[TunedEntry]:
    return [entry(m, schedule=schedule) for m, schedule in pairs]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], [(0, 16, A), (17, None, B)]),
        ([(3, X)], [(0, 8, X), (9, 16, A), (17, None, B)]),
        ([(16, X)], [(0, 8, A), (9, 16, X), (17, None, B)]),
        ([(17, X)], [(0, 16, A), (17, 64, X), (65, None, B)]),
        ([(9000, X)], [(0, 16, A), (17, 64, B), (65, None, X)]),
        ([(20, X), (40, Y)], [(0, 16, A), (17, 20, X), (21, 64, Y), (65, None, B)]),
        ([(40, Y), (20, X)], [(0, 16, A), (17, 20, X), (21, 64, Y), (65, None, B)]),
        ([(20, X), (64, Y)], [(0, 16, A), (17, 20, X), (21, 64, Y), (65, None, B)]),
        ([(8, X), (9, X)], [(0, 16, X), (17, None, B)]),
        ([(3, A)], [(0, 16, A), (17, None, B)]),
        ([(3, X), (12, X), (30, X), (70, X)], [(0, None, X)]),
    ],
)
def test_an_entry_serves_its_range(
    entries: list[tuple[int, Schedule]], expected: list[tuple[int, int | None, Schedule]]
) -> None:
    assert shown(with_tuned(ROWS, RANGES, tuned(*entries))) == expected


def test_rows_say_which_measurements_they_come_from() -> None:
    first, second, third = tuned((3, X), (12, X), (30, B))
    rows = with_tuned(ROWS, RANGES, [first, second, third])
    assert [row.tuned for row in rows] == [(first, second), (third,)]


def test_a_fixed_m_takes_the_entry_that_serves_it() -> None:
    entries = tuned((20, X), (40, Y))
    assert [with_tuned_m(m, A, RANGES, entries)[0].schedule for m in (16, 17, 20, 21, 64, 65)] == [A, X, X, Y, Y, A]


def test_there_are_never_more_than_20_kernels_and_the_least_gains_go_first() -> None:
    dice = random.Random(5)
    ranges = heuristics.M_RANGES
    rows = [(low, high, A if index % 2 else B) for index, (low, high) in enumerate(ranges.spans())]
    sizes = sorted(dice.sample(range(1, 9000), 30))
    entries = [entry(m, us=dice.uniform(5, 10), schedule=X.replace(raster_group=i + 1)) for i, m in enumerate(sizes)]
    served = with_tuned(rows, ranges, entries)
    assert len(served) <= MAX_KERNELS
    assert (served[0].m_min, served[-1].m_max) == (0, None)
    assert all(low.m_max is not None and high.m_min == low.m_max + 1 for low, high in pairwise(served))
    kept = {e.m for row in served for e in row.tuned}
    largest = {max(inside) for low, high in ranges.spans() if (inside := [m for m in sizes if low <= m <= (high or m)])}
    assert kept == largest


def test_a_split_that_gains_more_stays() -> None:
    spans = heuristics.M_RANGES.spans()
    rows = [(low, high, A if index % 2 else B) for index, (low, high) in enumerate(spans[:-2])]
    rows.append((spans[-2][0], None, X))
    little, much, last = entry(5000, us=9.9, schedule=Y), entry(5500, us=5.0, schedule=A), entry(6000, schedule=B)
    served = with_tuned(rows, heuristics.M_RANGES, [little, much, last])
    assert {e.m for row in served for e in row.tuned} == {5500, 6000}
    assert len(served) == MAX_KERNELS


def test_plans_of_every_entry_serve_every_m() -> None:
    spec = load_spec("fp8_gemm_nt").bind(N=576, K=7168)
    plain = compiler.plan(spec, "sm_90a")
    schedules = [row.schedule for row in plain]
    dice = random.Random(9)
    for _ in range(20):
        entries = [entry(m, schedule=dice.choice(schedules)) for m in dice.sample(range(1, 9000), dice.randint(1, 12))]
        plan = compiler.plan(spec, "sm_90a", "bulk", tuned_file(*entries).for_plan(576, 7168, "bulk"))
        assert 1 <= len(plan) <= MAX_KERNELS
        assert (plan[0].m_min, plan[-1].m_max) == (0, None)
        for low, high in pairwise(plan):
            assert high.m_min == (low.m_max or 0) + 1
            assert low.schedule != high.schedule
