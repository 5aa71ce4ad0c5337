"""Ranges of M: complete, merged where the choice agrees, and decided by their largest M."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemmgen.backends.m_ranges import MRanges
from gemmgen.schedule import Schedule

RANGES = MRanges((8, 16, 64), large=256)


@pytest.mark.parametrize(("m", "deciding"), [(0, 8), (8, 8), (9, 16), (64, 64), (65, 256), (10**6, 256)])
def test_the_largest_m_of_a_range_decides(m: int, deciding: int):
    assert RANGES.deciding(m) == deciding


@given(st.lists(st.sampled_from((2, 3)), min_size=4, max_size=4), st.integers(0, 300))
def test_a_plan_serves_every_m_once_with_the_kernel_of_its_deciding_m(depths: list[int], m: int):
    depth_of = dict(zip((*RANGES.bounds, RANGES.large), depths, strict=True))
    plan = RANGES.plan(lambda rows: Schedule((128, 128, 128), stages=depth_of[rows]))
    serving = [schedule for low, high, schedule in plan if low <= m and (high is None or m <= high)]
    assert [schedule.stages for schedule in serving] == [depth_of[RANGES.deciding(m)]]
    assert all(left[2] != right[2] for left, right in pairwise(plan))
