"""Illegal runs of a tile's columns: loads that leave a part of a stage, and ops that do not know the runs."""

from __future__ import annotations

import pytest
from ir_texts import edited, rejected
from target_texts import DEALT, Change, line, without

from gemmgen.ir import parse_module, print_module, verify

LOADS = [line(DEALT, f"sm90.tma_load(map=%{name},") for name in ("tma_b", "tma_b_run1", "tma_b_run2")]
LOOP, PROMOTE = line(DEALT, "sm90.tile_loop"), line(DEALT, "sm90.promote_rows")
COPY, STORE = line(DEALT, "sm90.copy_scales"), line(DEALT, "sm90.tma_store")
RUNS = "runs=[64, 32, 16]"
EVERYWHERE = [
    LOOP,
    LOOP.replace("%m0", "%m0_1").replace("%n0", "%n0_1"),
    LOOP.replace("%m0", "%m0_2").replace("%n0", "%n0_2"),
]


def other_loops(change: str) -> tuple[Change, ...]:
    """Another thing said of the runs, or beside them, in the loops of all roles."""
    return tuple((loop, loop.replace(RUNS, change)) for loop in EVERYWHERE)


MISTAKES: dict[str, tuple[tuple[Change, ...], tuple[str, ...]]] = {
    "runs that are no tile": (
        other_loops("runs=[64, 32]"),
        ("sm90.tile_loop", "runs of a tile's columns", "got: [64, 32]", "112 in all"),
    ),
    "narrow runs before wide ones": (
        other_loops("runs=[16, 32, 64]"),
        ("sm90.tile_loop", "runs of a tile's columns", "got: [16, 32, 64]"),
    ),
    "runs within an atom": (
        other_loops("runs=[108, 4]"),
        ("sm90.tile_loop", "columns that are dealt in runs", "got: split=1, inside_n=False, [108, 4]"),
    ),
    "a tile that starts elsewhere": (
        other_loops("inside_n=true, runs=[64, 32, 16]"),
        ("sm90.tile_loop", "columns that are dealt in runs", "inside_n=True"),
    ),
    "a role that deals otherwise": (
        ((LOOP, LOOP.replace(f", {RUNS}", "")),),
        ("sm90.tile_loop", "every role deals columns in the same runs", "got: [64, 32, 16]", "need: []"),
    ),
    "a run that is not loaded": (
        (without(DEALT, "sm90.tma_load(map=%tma_b_run2,"),),
        ("sm90.tma_load", "a load fills a stage of area 'b'", "got: 12288 bytes in 2 loads", "need: 14336 in 3"),
    ),
    "a run loaded twice": (
        ((LOADS[2], LOADS[1]),),
        ("sm90.tma_load", "loads of area 'b' follow each other", "got: run 1: 32 rows behind 64", "need: run 2"),
    ),
    "a run behind another place": (
        ((LOADS[2], LOADS[2].replace("at=96", "at=64")),),
        ("sm90.tma_load", "loads of area 'b' follow each other", "need: run 2: 16 rows behind 96"),
    ),
    "a run of the other matrix's rows": (
        ((LOADS[1], LOADS[1].replace("row=%n0_1", "row=%m0_1")),),
        ("sm90.tma_load", "loads of area 'b' follow each other", "from one place"),
    ),
    "rows that nobody deals": (
        ((LOADS[1], ""), (LOADS[2], ""), (LOADS[0], LOADS[0].replace("rows=64", "rows=112")),
         ("box=[128, 64]", "box=[128, 112]")),
        ("sm90.tma_load", "loads of area 'b' follow each other", "got: run 0: 112 rows behind 0"),
    ),
    "promotion that knows no runs": (
        ((PROMOTE, PROMOTE.replace(f", {RUNS}", "")),),
        ("sm90.promote_rows", "columns are dealt in runs", "got: []", "need: [64, 32, 16]"),
    ),
    "promotion in other blocks": (
        ((PROMOTE, PROMOTE.replace("block=128", "block=96")),),
        ("sm90.promote_rows goes through the runs of a tile's columns",),
    ),
    "promotion of runs that start elsewhere": (
        ((PROMOTE, PROMOTE.replace("first=%n0", "first=%m0")),),
        ("sm90.promote_rows", "columns are dealt in runs", "got: [64, 32, 16]", "need: []"),
    ),
    "scales of neighbours": (
        ((COPY, COPY.replace(f", {RUNS}", "")),),
        ("sm90.copy_scales", "columns are dealt in runs", "need: [64, 32, 16]"),
    ),
    "a scale too few": (
        ((COPY, COPY.replace("count=3", "count=2")),),
        ("sm90.copy_scales",),
    ),
    "columns stored side by side": (
        ((STORE, STORE.replace(f", {RUNS}", "")),),
        ("sm90.tma_store", "columns are dealt in runs", "got: []"),
    ),
    "boxes that reach beyond a run": (
        ((STORE, STORE.replace("box=[64, 16], slabs=7", "box=[64, 56], slabs=2")),),
        ("sm90.tma_store goes through the runs of a tile's columns",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake(name: str):
    changes, parts = MISTAKES[name]
    rejected(edited(DEALT, *changes), *parts)


def test_the_text_is_legal_and_reads_back():
    module = parse_module(DEALT)
    verify(module)
    assert print_module(module) == DEALT
