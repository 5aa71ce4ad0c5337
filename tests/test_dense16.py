"""16-bit products on the emulator: every layout, types, tails and ways of sharing the work; values and findings."""

from __future__ import annotations

import re

import pytest
from dense16_support import Case, case, run

LAYOUTS = ("NT", "NN", "TN", "TT")
SCHEDULES = ("fifo", "random", "adversarial")
LIMITS = {"bf16": 5e-6, "f16": 1e-7, "f32": 1e-12}
"""What rounding D leaves, with some air; a wrong element costs more."""

TAILS = [
    case(layout, sizes, padding=padding, tile=(128, 64, 64))
    for layout in LAYOUTS
    for sizes, padding in (((150, 83, 101), 8), ((257, 200, 64), 0), ((1, 8, 8), 0))
]
"""Tails in every dimension, D's rows on and off 16 bytes, padded rows, less than one step."""
WIDE = [
    case("NT", (300, 264, 136), tile=(128, 256, 64)),
    case("NN", (130, 200, 136), tile=(128, 192, 64)),
    case("TN", (300, 136, 200), tile=(256, 128, 64)),
    case("TT", (300, 80, 72), tile=(256, 80, 64)),
    case("NN", (130, 120, 72), tile=(128, 80, 64)),
    case("TN", (130, 120, 72), tile=(64, 48, 64)),
]
"""Several rows of 64 per warpgroup, and tiles of B whose rows are cut into slabs of 128, 64 and 32 bytes."""
CLUSTERS = [
    case(layout, (280, 200, 136), tile=(128, 96, 64), cluster=cluster)
    for layout in LAYOUTS
    for cluster in ((2, 1), (1, 2))
]
SMALL_M = [
    *(case(layout, (m, 136, 200), tile=(tile_m, 64, 64), swap_ab=True)
      for layout in LAYOUTS for m, tile_m in ((3, 16), (40, 32))),
    *(case(layout, (20, 136, 460), tile=(32, 128, 64), swap_ab=True, split_k=3) for layout in LAYOUTS),
    case("NT", (7, 72, 200), tile=(8, 64, 64), swap_ab=True),
    case("NT", (23, 72, 200), tile=(24, 64, 64), swap_ab=True, split_k=2),
    case("TN", (130, 136, 330), tile=(128, 64, 64), split_k=4),
]  # fmt: skip
"""Tokens on the tensor core's N side, and K shared by the CTAs of a cluster."""
TYPES = [
    case("NT", (150, 100, 136), "f16", tile=(128, 96, 64)),
    case("TN", (150, 104, 136), "f16", tile=(128, 96, 64)),
    case("NN", (20, 104, 200), "f16", tile=(32, 64, 64), swap_ab=True, split_k=2),
    case("TT", (40, 104, 200), "f16", tile=(48, 64, 64), swap_ab=True),
    case("TN", (150, 99, 136), out="f32", padding=8, tile=(128, 96, 64)),
    case("NT", (20, 99, 330), "f16", "f32", tile=(32, 64, 64), swap_ab=True, split_k=2),
    case("TN", (20, 99, 136), out="f32", tile=(32, 128, 64), swap_ab=True),
    case("NN", (150, 132, 330), out="f32", tile=(128, 64, 64), split_k=2),
]


CASES = [*TAILS, *WIDE, *CLUSTERS, *SMALL_M, *TYPES]
ALL = [(what, SCHEDULES[index % len(SCHEDULES)]) for index, what in enumerate(CASES)]
"""Each case meets one of the schedulers."""


@pytest.mark.parametrize(("what", "schedule"), ALL, ids=str)
def test_values_and_findings(what: Case, schedule: str):
    found = run(what, schedule=schedule)
    assert found.report.ok, str(found.report)
    assert found.difference < LIMITS[what.out or what.dtype]
    assert found.strays == 0


def test_a_planned_kernel_without_hints():
    what = case("TN", (70, 72, 200))
    assert what.artifact.schedule.tile[2] == 64
    found = run(what)
    assert found.report.ok, str(found.report)
    assert found.difference < LIMITS["bf16"]


TRANSPOSED = case("TN", (150, 200, 136), tile=(128, 96, 64))
MISTAKES = {
    "operands not transposed": (r"accumulate, 1, 1, 1, 1;", "accumulate, 1, 1, 0, 0;"),
    "strides of the descriptor exchanged": (
        r"\((\d+) >> 4\) << 32 \| uint64_t\((\d+) >> 4\)",
        r"(\2 >> 4) << 32 | uint64_t(\1 >> 4)",
    ),
    "K advances too little": (r"b_at \+ 64\b", "b_at + 32"),
    "a slab loaded twice": (r"m0_1 \+ 64", "m0_1"),
    "a slab in another's place": (r"kStageBytesA \+ 8192", "kStageBytesA"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_wrong_addresses_are_noticed(mistake: str):
    """The same checks fail when one detail of transposed operands is wrong."""
    pattern, replacement = MISTAKES[mistake]
    source, count = re.subn(pattern, replacement, TRANSPOSED.artifact.source)
    assert count
    found = run(TRANSPOSED, source)
    assert not found.report.ok or not found.difference < 1e-3
