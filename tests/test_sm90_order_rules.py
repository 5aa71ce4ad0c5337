"""Illegal target IR: barrier counts, cursors and orders of ops that would be a race or a deadlock on the GPU."""

from __future__ import annotations

import pytest
from ir_texts import edited, rejected
from target_texts import ALONE, BULK, CLUSTER, LANES, LEADER, RUNS, SPLIT, Change, Mistakes, after, line, without

from gemmgen.ir import parse_module, verify

RELEASE_OF_LANES = line(LEADER, "sm90.release")

BARRIERS: Mistakes = {
    "full arrivals": (
        LANES,
        (("arrivals=33", "arrivals=32"),),
        ("arrivals at %full in a phase", "got: 32", "need: 33"),
    ),
    "full arrivals by bulk": (BULK, (("arrivals=2}", "arrivals=33}"),), ("arrivals at %full in a phase", "need: 2,")),
    "empty arrivals": (LANES, (("arrivals=8", "arrivals=4"),), ("arrivals at %empty in a phase", "got: 4", "need: 8")),
    "empty arrivals of a cluster": (CLUSTER, (("arrivals=16", "arrivals=8"),), ("arrivals at %empty", "need: 16")),
    "empty arrivals of a warp's lane": (
        LEADER,
        (("arrivals=264", "arrivals=16"),),
        ("arrivals at %empty in a phase", "got: 16", "need: 264"),
    ),
    "empty arrivals of both CTAs' lanes": (
        LEADER,
        (("arrivals=264", "arrivals=512"),),
        ("arrivals at %empty in a phase", "got: 512", "need: 264"),
    ),
    "released by one lane of each warp": (
        LEADER,
        ((", lanes=true}", "}"),),
        ("arrivals at %empty in a phase", "got: 264", "need: 16"),
    ),
    "released by every lane": (
        BULK,
        (("{cluster=1}", "{cluster=1, lanes=true}"),),
        ("arrivals at %empty in a phase", "got: 8", "need: 256"),
    ),
    "every lane of one thread releases": (
        LEADER,
        (
            (
                RELEASE_OF_LANES,
                f'sm90.warps() {{label="one", first=0, count=1, elect=true}} do {{\n{RELEASE_OF_LANES}}}\n',
            ),
        ),
        ("every lane of a warp releases", "got: one thread", "need: sm90.warps without elect"),
    ),
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
    "released to the leader's cluster only in part": (
        LEADER,
        (("{cluster=2, lanes=true}", "{cluster=1, lanes=true}"), ("arrivals=264", "arrivals=256")),
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

END = LEADER[LEADER.index('  sm90.warps() {label="end"') : LEADER.rindex("}\n")]
"""Where the multiplying warps of a cluster meet once more, and no others."""
OF_ALL = SPLIT[SPLIT.rindex("  sm90.sync()") : SPLIT.rindex("}\n")]
"""Where all warps do."""
CTA_SYNC = '  sm90.sync() {scope="cta"}\n'
LATE_RELEASE = (
    '  sm90.warps() {label="late", first=0, count=8} do {\n    %late = sm90.cursor() : index\n'
    + RELEASE_OF_LANES.replace("%cursor", "%late")
    + "  }\n"
)
LIVES = "a CTA's shared memory lives until its cluster is done"


def ending(*rows: str) -> tuple[Change, ...]:
    """Another end of the module."""
    return ((END, "".join(rows)),)


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
    "none at the end but of one CTA's": (
        LEADER,
        ending(END.replace("cluster", "cta")),
        (LIVES, "got: no sync at the end"),
    ),
    "none at the end of a cluster that shares nothing": (
        LEADER,
        (
            *ending(),
            ("{cluster=2, lanes=true}", "{cluster=1, lanes=true}"),
            ("multicast=2, leader=true}", "multicast=1}"),
            ("block=[1, 128], multicast=2}", "block=[1, 128]}"),
            ("arrivals=264", "arrivals=256"),
        ),
        (LIVES, "got: no sync at the end"),
    ),
    "those who load meet at the end": (
        LEADER,
        ending(END.replace("first=0, count=8", "first=8, count=2")),
        (LIVES, "got: no sync at the end"),
    ),
    "a warpgroup that releases ends early": (
        LEADER,
        ending(END.replace("count=8", "count=4")),
        ("sm90.release", LIVES, "got: no sync behind it", "need: sm90.sync of scope cluster, for the same warps"),
    ),
    "a warpgroup that reads partial sums ends early": (
        SPLIT,
        ((OTHERS + OF_ALL, OTHERS + END.replace("count=8", "count=4")),),
        ("sm90.reduce_store", LIVES, "got: no sync behind it"),
    ),
    "a release behind the end": (
        LEADER,
        ((END, END + LATE_RELEASE), ("arrivals=264", "arrivals=528")),
        ("sm90.release", LIVES, "got: no sync behind it"),
    ),
    "those who load stay longer": (
        LEADER,
        ending(END.replace("count=8", "count=10"), END.replace("first=0, count=8", "first=8, count=2")),
        ("every warp of the CTA joins a sync", "warp 8 comes to 3 (cluster, cluster, cluster)", "need: 2"),
    ),
    "those who end early miss a sync of their CTA": (
        LEADER,
        ending(END.replace("    sm90.sync", f"  {CTA_SYNC}    sm90.sync")),
        ("every warp of the CTA joins a sync", "warp 8 comes to 1 (cluster)", "need: 3 (cluster, cta, cluster)"),
    ),
    "those who end early miss their CTA's last sync": (
        LEADER,
        ending(END, END.replace("cluster", "cta")),
        ("every warp of the CTA joins a sync", "warp 8 comes to 1 (cluster)", "need: 3 (cluster, cluster, cta)"),
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

RUN_WAIT, RUN_STEP = line(RUNS, "sm90.wait(barriers=%runs_full"), line(RUNS, "sm90.run_step")
RUN_RELEASE, RUN_ADVANCE = line(RUNS, "sm90.release(barriers=%runs_empty"), line(RUNS, "sm90.advance(cursor=%runs)")
FULL_WAIT = line(RUNS, "sm90.wait(barriers=%full")
WHOLE_TILE = "a stage for a whole tile is waited for once, released after the last step, and left behind"

RUN_RING: Mistakes = {
    "not waited for": (
        RUNS,
        ((RUN_WAIT, ""),),
        ("area 'sb' is read before its stage is loaded", "for %runs_full"),
    ),
    "waited for twice": (RUNS, ((RUN_WAIT, 2 * RUN_WAIT),), (WHOLE_TILE,)),
    "waited for in every step": (
        RUNS,
        ((RUN_WAIT, ""), (FULL_WAIT, FULL_WAIT + RUN_WAIT)),
        ("%runs is in one stage for all steps of a tile", "got: sm90.wait in a step"),
    ),
    "waited for and released in every step": (
        RUNS,
        ((RUN_WAIT, ""), (FULL_WAIT, FULL_WAIT + RUN_WAIT), (RUN_RELEASE, ""), (RUN_STEP, RUN_RELEASE + RUN_STEP)),
        ("%runs is in one stage for all steps of a tile", "got: sm90.wait in a step"),
    ),
    "not released": (
        RUNS,
        ((RUN_RELEASE, ""), ('area="runs_empty", arrivals=8', 'area="runs_empty", arrivals=0')),
        (WHOLE_TILE, "got: sm90.advance", "need: sm90.release, sm90.advance"),
    ),
    "released twice": (
        RUNS,
        ((RUN_RELEASE, 2 * RUN_RELEASE), ('area="runs_empty", arrivals=8', 'area="runs_empty", arrivals=16')),
        (WHOLE_TILE, "got: sm90.release, sm90.release, sm90.advance"),
    ),
    "released in every step": (
        RUNS,
        ((RUN_RELEASE, ""), (RUN_STEP, RUN_RELEASE + RUN_STEP)),
        ("%runs is in one stage for all steps of a tile", "got: sm90.release in a step"),
    ),
    "released before its steps": (
        RUNS,
        ((RUN_RELEASE, ""), (RUN_WAIT, RUN_WAIT + RUN_RELEASE)),
        (WHOLE_TILE, "got: sm90.advance"),
    ),
    "released to a cluster that does not write into it": (
        RUNS,
        (
            (RUN_RELEASE, RUN_RELEASE.replace("cluster=1", "cluster=2")),
            ('area="runs_empty", arrivals=8', 'area="runs_empty", arrivals=16'),
        ),
        ("a stage is released to every CTA that writes into it", "got: 2", "need: 1"),
    ),
    "cursor not advanced": (
        RUNS,
        ((RUN_ADVANCE, ""),),
        (WHOLE_TILE, "got: sm90.release", "need: sm90.release, sm90.adv"),
    ),
    "cursor advanced before the release": (
        RUNS,
        ((RUN_RELEASE + RUN_ADVANCE, RUN_ADVANCE + RUN_RELEASE),),
        (WHOLE_TILE, "got: sm90.advance, sm90.release"),
    ),
    "cursor advanced through another ring": (
        RUNS,
        ((RUN_ADVANCE, RUN_ADVANCE.replace("stages=2", "stages=3")),),
        ("%runs moves through its ring", "got: 3 stages", "need: 2"),
    ),
    "cursor advanced in every step": (
        RUNS,
        ((RUN_STEP, RUN_ADVANCE),),
        ("%runs is in one stage for all steps of a tile", "got: sm90.advance in a step"),
    ),
    "step not counted": (RUNS, ((RUN_STEP, ""),), ("%runs stays where it is",)),
    "step counted twice": (RUNS, ((RUN_STEP, 2 * RUN_STEP),), ("a cursor moves once in a step: %runs",)),
    "step counted before the scales are read": (
        RUNS,
        ((RUN_STEP, ""), (FULL_WAIT, RUN_STEP + FULL_WAIT)),
        ("a cursor moves after its last use: %runs",),
    ),
    "step counted behind the loop": (
        RUNS,
        ((RUN_RELEASE, RUN_STEP + RUN_RELEASE),),
        ("%runs is in one stage for all steps of a tile", "got: sm90.run_step outside of a step"),
    ),
    "steps counted by a cursor that does not": (
        RUNS,
        (("%runs = sm90.cursor() {steps=true}", "%runs = sm90.cursor()"),),
        ("%runs counts the steps of a stage", "got: a cursor that does not", "need: sm90.cursor with steps=true"),
    ),
    "scales of every step read by a cursor that counts": (
        RUNS,
        (('{area="sb", run=2}', '{area="sb"}'),),
        ("%runs counts the steps of a stage", "got: a cursor that does", "need: sm90.cursor with steps=false"),
    ),
    "scales read at the other ring's cursor": (
        RUNS,
        (("sm90.block_scales(cursor=%runs)", "sm90.block_scales(cursor=%cursor)"),),
        ("%cursor moves through area 'sb'", "got: 3 stages", "need: 2"),
    ),
    "read with more steps than were copied": (
        RUNS,
        (('{area="sb", run=2}', '{area="sb", run=4}'),),
        ("area 'sb' is read as it was loaded", "got: 4 steps in a stage", "need: 2"),
    ),
    "copies of one step in a loop over two": (
        RUNS,
        (
            ("limit=2, run=2, columns=2}", "limit=2}"),
            ("%runs = sm90.cursor() {steps=true}", "%runs = sm90.cursor()"),
            ('{area="sb", run=2}', '{area="sb"}'),
            (RUN_STEP, RUN_ADVANCE),
        ),
        ("a loop takes as many steps at a time as its copies", "got: 2 in a turn", "need: 1"),
    ),
    "copies of two steps in a loop over one": (
        RUNS,
        (("parts=1, run=2}", "parts=1}"),),
        ("a loop takes as many steps at a time as its copies", "got: 1 in a turn", "need: 2"),
    ),
    "half of a tile's steps": (
        RUNS,
        (
            ("{extent=256, step=128, parts=1, run=2}", "{extent=512, step=128, parts=1, run=2}"),
            ("{extent=256, step=128, parts=1}", "{extent=512, step=128, parts=1}"),
        ),
        ("a stage holds all steps of a tile", "got: 2", "need: 4"),
    ),
    "steps of a K that is not known": (
        RUNS,
        (("{extent=256, step=128, parts=1, run=2}", "{extent=M, step=128, parts=1, run=2}"),),
        ("a stage holds all steps of a tile", "need: K to be known"),
    ),
    "area for one step": (
        RUNS,
        (("count=1, block=[128, 128], limit=2, run=2", "count=3, block=[128, 128], limit=2, run=2"),),
        ("a stage of area 'sb' is too small", "at least 24"),
    ),
    "fewer lanes arrive than copy": (
        RUNS,
        (("{lanes=2}", "{lanes=1}"), ('area="runs_full", arrivals=2', 'area="runs_full", arrivals=1')),
        ("every lane that copies arrives", "got: 1 lanes", "need: 2 to 32 lanes"),
    ),
    "copies into a stage in use": (RUNS, (without(RUNS, "sm90.wait", 3),), ("a load needs a free stage",)),
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
        "run ring": RUN_RING,
        "epilogue": EPILOGUE,
    }.items()
    for name, mistake in mistakes.items()
}


def test_who_has_ended_need_not_meet():
    """Warps that load have done all they can for the others, who wait for what they have loaded."""
    verify(parse_module(LEADER))
    verify(parse_module(edited(SPLIT, (OTHERS + OF_ALL, OTHERS + END))))
    verify(parse_module(edited(SPLIT, (OTHERS + OF_ALL, END))))


@pytest.mark.parametrize("name", CORPUS)
def test_mistake(name: str):
    text, changes, parts = CORPUS[name]
    rejected(edited(text, *changes), *parts)
