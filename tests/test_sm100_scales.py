"""Words of scales at the edges of a problem: what lies beside the scales is never used, a NaN among them is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sm100_cases import (
    CASES,
    Case,
    built,
    emulated,
    launched,
    operands_of,
    schedule_of,
    sizes_of,
    with_nan_around,
    with_schedule,
)

from gemmgen.reference import TOLERANCE, relative_difference

WORDS = [name for name, found in CASES.items() if getattr(found.spec.operands.a.scale, "format", None) == "ue8m0"]
NAN = 0xFF
"""The scale that is no number."""


def scales_per_row(found: Case, name: str) -> int:
    """Scales of ``sa`` or ``sb`` along K."""
    scale = getattr(found.spec.operands, name[1]).scale
    return -(-sizes_of(found)[2] // scale.block[1])


def test_nan_is_everywhere_but_among_the_scales():
    """Else the tests below would show nothing."""
    found = CASES["mx"]
    operands, _ = operands_of(found, 0)
    around = with_nan_around(found)(operands)
    for name in ("sa", "sb"):
        words, count = around[name], scales_per_row(found, name)
        base = words
        while isinstance(base.base, np.ndarray):
            base = base.base
        given = np.ascontiguousarray(operands[name]).view(np.uint8)[:, :count]
        inside = np.ascontiguousarray(words).view(np.uint8)
        assert np.array_equal(inside[:, :count], given)
        assert inside.shape[1] > count
        assert (inside[:, count:] == NAN).all()
        assert (given != NAN).all()
        assert (base.view(np.uint8) == NAN).sum() == base.nbytes - given.size


@pytest.mark.parametrize("name", WORDS)
def test_what_lies_beside_the_scales_is_never_used(name: str):
    """K is no multiple of a word's elements, M and N are none of a group's rows; bulk copies and gathered words."""
    report, difference = emulated(built(name), name, schedule="random", change=with_nan_around(CASES[name]))
    assert report.ok, str(report)
    assert difference < TOLERANCE


@pytest.mark.parametrize("scales", ["mn", "k"])
@pytest.mark.parametrize("k", [16, 48, 112, 144, 208, 256])
def test_every_tail_of_k(k: int, scales: str):
    """From one scale of the only word to whole words."""
    found = with_sizes(CASES["mx_gathered"], 5, 64, k, scales)
    report, difference = emulated(with_schedule(found), found, change=with_nan_around(found))
    assert report.ok, str(report)
    assert difference < TOLERANCE


def with_sizes(found: Case, m: int, n: int, k: int, scales: str) -> Case:
    """The case with another problem."""
    problem = replace(found.spec.problem, dims={"M": found.spec.problem.dims["M"], "N": n, "K": k})
    return Case(replace(found.spec, problem=problem), m, scales)


PLACES = {"the first": (0, 0), "the last": (-1, -1), "one in a later step": (17, 5)}
"""Row and scale."""


@pytest.mark.parametrize("operand", ["sa", "sb"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["mx", "mx_gathered", "packed_32_128", "pair_mx", "packed_128_32"])
def test_a_nan_among_the_scales_shows_in_its_row_alone(name: str, place: str, operand: str):
    found = CASES[name]
    operands, expected = operands_of(found, 3)
    row, scale = PLACES[place]
    row = row % len(operands[operand])
    codes = np.ascontiguousarray(operands[operand]).view(np.uint8)
    codes[row, scale % scales_per_row(found, operand)] = NAN
    operands[operand][...] = codes.view(operands[operand].dtype)
    report = launched(built(name), found, operands, 3)
    assert report.ok, str(report)
    d = operands["d"].astype(np.float32)
    lost = np.zeros(d.shape, bool)
    lost[(row, slice(None)) if operand == "sa" else (slice(None), row)] = True
    assert np.isnan(d[lost]).all()
    assert not np.isnan(d[~lost]).any()
    assert relative_difference(np.where(lost, 0, d), np.where(lost, 0, expected)) < TOLERANCE


def test_both_ways_that_words_arrive_are_here():
    copies = {schedule_of(name).scale_copy for name in WORDS}
    assert copies == {"bulk", "lanes"}
    assert {schedule_of(name).cta_group for name in WORDS} == {1, 2}
