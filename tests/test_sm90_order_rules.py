"""Illegal target IR: barrier counts, cursors and orders of ops that would be a race or a deadlock on the GPU."""

from __future__ import annotations

import pytest
from ir_texts import edited, rejected
from target_texts import ALONE, BULK, CLUSTER, LANES, SPLIT, Mistakes, after, line, without

BARRIERS: Mistakes = {
    "full arrivals": (
        LANES,
        (("arrivals=33", "arrivals=32"),),
        ("arrivals at %full in a phase", "got: 32", "need: 33"),
    ),
    "full arrivals by bulk": (BULK, (("arrivals=2}", "arrivals=33}"),), ("arrivals at %full in a phase", "need: 2,")),
    "empty arrivals": (LANES, (("arrivals=8", "arrivals=4"),), ("arrivals at %empty in a phase", "got: 4", "need: 8")),
    "empty arrivals of a cluster": (CLUSTER, (("arrivals=16", "arrivals=8"),), ("arrivals at %empty", "need: 16")),
    "more warps arrive": (
        LANES,
        (('{label="scales", first=9, count=1}', '{label="scales", first=9, count=2}'),),
        ("got: 33", "need: 65"),
    ),
    "fewer lanes arrive than copy": (
        LANES,
        (("{lanes=32}", "{lanes=16}"), ("arrivals=33", "arrivals=17")),
        ("every lane that copies arrives", "got: 16 lanes", "need: 32 to 32 lanes"),
    ),
    "more lanes arrive than a warp has": (
        BULK,
        (("{lanes=1}", "{lanes=33}"), ("arrivals=2}", "arrivals=34}")),
        ("every lane that copies arrives", "got: 33 lanes", "need: 1 to 32 lanes"),
    ),
    "one thread copies": (
        LANES,
        (('{label="scales", first=9, count=1}', '{label="scales", first=9, count=1, elect=true}'),),
        ("every lane that copies arrives", "got: one thread"),
    ),
    "expected bytes": (
        BULK,
        (("transfer_bytes=25088", "transfer_bytes=24576"),),
        ("bytes expected at %full in a phase", "got: 24576", "need: 25088, which the loads deliver"),
    ),
    "bytes of the own share": (
        CLUSTER,
        (("transfer_bytes=25088", "transfer_bytes=20992"),),
        ("got: 20992", "need: 25088"),
    ),
    "expected twice": (
        BULK,
        ((line(BULK, "sm90.expect"), 2 * line(BULK, "sm90.expect")), ("arrivals=2}", "arrivals=3}")),
        ("bytes that arrive at %full are expected once", "2 sm90.expect"),
    ),
    "released to this CTA only": (
        CLUSTER,
        (("{cluster=2}", "{cluster=1}"), ("arrivals=16", "arrivals=8")),
        ("a stage is released to every CTA that writes into it", "got: 1", "need: 2"),
    ),
    "not initialised": (BULK, (("[%full, %empty]", "[%full]"),), ("%empty is initialised once", "got: 0")),
    "initialised twice": (
        BULK,
        (("[%full, %empty]", "[%full, %empty, %full]"),),
        ("%full is initialised once", "got: 2"),
    ),
    "too few of them": (
        BULK,
        ((": barrier<3>", ": barrier<2>"),),
        ("area 'full' holds %full", "3 × 8 bytes", "need: 2 × 8 bytes"),
    ),
    "area of another length": (
        BULK,
        (('name="full", offset=91696, stage_bytes=8, stages=3', 'name="full", offset=91696, stage_bytes=8, stages=2'),),
        ("area 'full' holds %full", "2 × 8 bytes", "need: 3 × 8 bytes"),
    ),
    "not a barrier": (
        BULK,
        (("sm90.wait(barriers=%full, cursor=%cursor)", "sm90.wait(barriers=%M, cursor=%cursor)"),),
        ("%M is not a barrier", "got: i32"),
    ),
}

SYNC = line(SPLIT, "sm90.sync", 1)
"""Where the multiplying warps meet their partners."""
MEET = 'sm90.warps() {label="meet", first=8, count=2}'
"""Where all other warps do."""
OTHERS = SPLIT[SPLIT.index(f"  {MEET}") : SPLIT.rindex("  sm90.sync()")]

SYNCS: Mistakes = {
    "none at the start": (
        BULK,
        (without(BULK, "sm90.sync"),),
        ("barriers are used after all threads have met", "scope cta"),
    ),
    "of one CTA": (
        CLUSTER,
        (('scope="cluster"', 'scope="cta"'),),
        ("barriers are used after all threads have met",),
    ),
    "none at the end": (
        CLUSTER,
        ((CLUSTER[CLUSTER.rindex("  sm90.sync()") :], "}\n"),),
        ("shared memory lives until its cluster is done",),
    ),
    "unknown scope": (BULK, (('scope="cta"', 'scope="gpu"'),), ("scope of a sync", "cta or cluster")),
    "loading warps stay away": (
        SPLIT,
        ((OTHERS, ""),),
        ("every warp of the CTA joins a sync", "warp 8 comes to 2 (cluster, cluster)", "need: 3"),
    ),
    "one loading warp stays away": (
        SPLIT,
        ((MEET, MEET.replace("first=8, count=2", "first=8, count=1")),),
        ("every warp of the CTA joins a sync", "warp 9 comes to 2"),
    ),
    "multiplying warps stay away": (
        SPLIT,
        ((SYNC, ""), without(SPLIT, "sm90.reduce_store")),
        ("every warp of the CTA joins a sync", "warp 8 comes to 3", "need: 2"),
    ),
    "one thread joins": (
        SPLIT,
        ((MEET, MEET.replace("count=2", "count=1, elect=true")),),
        ("all threads join a sync", "one thread of a warp"),
    ),
    "the role of one thread joins": (
        SPLIT,
        (
            (OTHERS, ""),
            (line(SPLIT, "sm90.advance", 1) + 8 * " " + "}\n", line(SPLIT, "sm90.advance", 1) + 8 * " " + "}\n" + SYNC),
        ),
        ("all threads join a sync", "one thread of a warp"),
    ),
    "the first CTA joins": (
        SPLIT,
        ((MEET, MEET.replace("count=2", "count=2, leader=true")),),
        ("all threads join a sync", "warps of the first CTA"),
    ),
    "in a loop over K": (
        SPLIT,
        ((line(SPLIT, "sm90.promote_rows"), line(SPLIT, "sm90.promote_rows") + SYNC),),
        ("a thread joins a sync once", "one in a loop over K"),
    ),
    "in every tile": (
        SPLIT,
        (("persistent=false", "persistent=true"),),
        ("a thread joins a sync once", "one for each tile of a persistent launch"),
    ),
    "the others come before they load": (
        SPLIT,
        ((OTHERS, ""), ("  sm90.dispatch()", f"{OTHERS}  sm90.dispatch()")),
        ("the others wait for what these warps do", "sm90.tile_loop behind the sync"),
    ),
    "before the products": (
        SPLIT,
        ((SYNC, ""), (line(SPLIT, "sm90.k_loop"), SYNC + line(SPLIT, "sm90.k_loop"))),
        ("the others wait for what these warps do", "sm90.k_loop behind the sync"),
    ),
}

CURSORS: Mistakes = {
    "not advanced": (BULK, (without(BULK, "sm90.advance"),), ("%cursor stays where it is", "no sm90.advance")),
    "advanced twice": (
        BULK,
        ((line(BULK, "sm90.advance"), 2 * line(BULK, "sm90.advance")),),
        ("a cursor moves once in a step: %cursor",),
    ),
    "used after it": (
        BULK,
        after(BULK, "sm90.release", "sm90.advance"),
        ("a cursor moves after its last use: %cursor",),
    ),
    "other stages": (BULK, (("{stages=3}", "{stages=2}"),), ("%cursor moves through area", "got: 2 stages", "need: 3")),
    "begun for each tile": (
        BULK,
        (without(BULK, "sm90.cursor"), (line(BULK, "sm90.zero"), line(BULK, "sm90.cursor") + line(BULK, "sm90.zero"))),
        ("%cursor goes on from tile to tile",),
    ),
}

ORDER: Mistakes = {
    "read before the wait": (
        BULK,
        after(BULK, "sm90.wait", "sm90.row_scales"),
        ("area 'sb' is read before its stage is loaded", "for %full"),
    ),
    "no wait": (LANES, (without(LANES, "sm90.wait"),), ("area 'sb' is read before its stage is loaded",)),
    "wait for the other phase": (BULK, (("{flip=false}", "{flip=true}"),), ("is read before its stage is loaded",)),
    "wait for the other barrier": (
        BULK,
        (("sm90.wait(barriers=%full, cursor=%cursor)", "sm90.wait(barriers=%empty, cursor=%cursor)"),),
        ("is read before its stage is loaded",),
    ),
    "load without a free stage": (BULK, (without(BULK, "sm90.wait", 1),), ("a load needs a free stage", "with flip")),
    "copy without a free stage": (LANES, (without(LANES, "sm90.wait", 2),), ("a load needs a free stage",)),
    "load before expecting": (
        BULK,
        after(BULK, "sm90.expect", "sm90.tma_load("),
        ("bytes are expected before they are sent",),
    ),
    "wait known to another branch only": (
        ALONE,
        (without(ALONE, "sm90.wait", 1),),
        ("a load needs a free stage", "no wait before it"),
    ),
    "copies nobody hears of": (
        LANES,
        (without(LANES, "sm90.copy_arrive"), ("arrivals=33", "arrivals=1")),
        ("nobody learns that these copies have landed",),
    ),
    "arrival without copies": (
        LANES,
        (*after(LANES, "sm90.copy_arrive", "sm90.wait(barriers=%empty, cursor=%cursor_2)"),),
        ("lanes arrive for their copies", "no copies before it"),
    ),
    "area that nobody loads": (
        LANES,
        ((line(LANES, "sm90.copy_scales", 1), ""),),
        ("nobody loads area 'sb'",),
    ),
    "sum touched too early": (
        BULK,
        (*after(BULK, "sm90.wgmma_wait", "sm90.promote_rows"),),
        ("a stage is released while a wgmma reads it",),
    ),
    "promotion before the wait": (
        BULK,
        (
            *after(BULK, "sm90.wgmma_wait", "sm90.promote_rows"),
            without(BULK, "sm90.release"),
            ("arrivals=8", "arrivals=0"),
        ),
        ("%part belongs to the tensor core until a wait", "sm90.promote_rows before it"),
    ),
    "wait for all but one group": (
        BULK,
        (("{pending=0}", "{pending=1}"),),
        ("a stage is released while a wgmma reads it",),
    ),
    "released before it is read": (
        BULK,
        after(BULK, "sm90.row_scales", "sm90.release"),
        ("a stage is not read after its release",),
    ),
    "released without waiting": (
        BULK,
        (
            *after(BULK, "sm90.wait", "sm90.release"),
            *(without(BULK, f"sm90.{op}") for op in ("block_scales", "row_scales", "wgmma(", "promote")),
        ),
        ("a stage is released by those who waited for it",),
    ),
    "never released": (
        BULK,
        (without(BULK, "sm90.release"), ("arrivals=8", "arrivals=0")),
        ("every stage that is waited for is released",),
    ),
    "product left under way": (
        BULK,
        (
            without(BULK, "sm90.wgmma_wait"),
            without(BULK, "sm90.release"),
            without(BULK, "sm90.promote_rows"),
            ("arrivals=8", "arrivals=0"),
        ),
        ("%part belongs to the tensor core until a wait", "the end of the step"),
    ),
}

EPILOGUE: Mistakes = {
    "staging not free": (
        BULK,
        (without(BULK, "sm90.staging_wait"),),
        ("a staging tile is written when", "sm90.staging_wait"),
    ),
    "not published": (BULK, (without(BULK, "sm90.staging_publish"),), ("the copy engine sees what was published",)),
    "not committed": (
        BULK,
        (without(BULK, "sm90.store_commit"),),
        ("stores of a tile are one group", "sm90.store_commit"),
    ),
    "not drained": (BULK, (without(BULK, "sm90.store_drain"),), ("shared memory lives until all stores are done",)),
    "partial sums over live stages": (
        SPLIT,
        (without(SPLIT, "sm90.group_sync"),),
        ("partial sums go over stages that all warps are done with",),
    ),
    "read without a meeting": (
        SPLIT,
        ((SYNC, ""), (OTHERS, "")),
        ("partial sums are read when all CTAs have written theirs and met", "no sm90.sync before it"),
    ),
    "read before the meeting": (
        SPLIT,
        ((SYNC, ""), (line(SPLIT, "sm90.reduce_store"), line(SPLIT, "sm90.reduce_store") + SYNC)),
        ("partial sums are read when all CTAs have written theirs and met",),
    ),
    "written after the meeting": (
        SPLIT,
        ((SYNC, ""), (line(SPLIT, "sm90.write_partial"), SYNC + line(SPLIT, "sm90.write_partial"))),
        ("partial sums are read when all CTAs have written theirs and met",),
    ),
    "only the CTA's own threads meet": (
        SPLIT,
        ((SYNC, SYNC.replace("cluster", "cta")), (OTHERS, OTHERS.replace("cluster", "cta"))),
        ("partial sums are read when all CTAs have written theirs and met",),
    ),
    "a partner's sums left out": (
        SPLIT,
        (("pitch=72, parts=2", "pitch=72, parts=1"),),
        ("all partial sums of a tile are added", "got: 1", "need: 2"),
    ),
    "named barrier of a warpgroup": (SPLIT, (("{id=3,", "{id=2,"),), ("id of a named barrier", "got: 2", "3 to 15")),
    "part of the role meets": (
        SPLIT,
        (("{id=3, threads=256}", "{id=3, threads=128}"),),
        ("all threads of the role meet",),
    ),
    "branches out of order": (
        LANES,
        (('{label="scales", first=9, count=1}', '{label="scales", first=8, count=1}'),),
        ("branches of a dispatch",),
    ),
    "elect in two warps": (BULK, (("count=1, elect=true", "count=2, elect=true"),), ("elect.sync elects one thread",)),
}

CORPUS = {
    f"{group} {name}": mistake
    for group, mistakes in {
        "barriers": BARRIERS,
        "syncs": SYNCS,
        "cursors": CURSORS,
        "order": ORDER,
        "epilogue": EPILOGUE,
    }.items()
    for name, mistake in mistakes.items()
}


@pytest.mark.parametrize("name", CORPUS)
def test_mistake(name: str):
    text, changes, parts = CORPUS[name]
    rejected(edited(text, *changes), *parts)
