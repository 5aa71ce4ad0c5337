"""Illegal target IR: Hopper modules that lowering would never write, each with one number or one order wrong."""

from __future__ import annotations

import pytest
from ir_texts import ASYNC, PROMOTED, edited, opt, rejected

from gemmgen.errors import IRError
from gemmgen.ir import parse_module, verify

ROLES = "epilogue-staging,warp-specialization"
LOWER = "shared-memory-allocation,lower-sm90{warpgroups=2}"
LANES = opt(ASYNC, f"{ROLES},register-reallocation{{producer=40,math=232}},{LOWER}")
BULK = opt(PROMOTED, f"pipelining{{stages=3}},{ROLES},{LOWER}")
CLUSTER = opt(
    PROMOTED, f"pipelining{{stages=3}},epilogue-staging,cluster-multicast{{cluster=[2, 1]}},warp-specialization,{LOWER}"
)
SPLIT = opt(PROMOTED, f"split-k{{parts=2}},pipelining{{stages=3}},{ROLES},{LOWER}")
ALONE = opt(ASYNC, f"epilogue-staging,{LOWER}")

Change = tuple[str, str]
Mistakes = dict[str, tuple[str, tuple[Change, ...], tuple[str, ...]]]


def line(text: str, start: str, nth: int = 0) -> str:
    """The ``nth`` line of ``text`` that starts with ``start`` once indentation and results are cut off."""
    found = [row for row in text.splitlines(keepends=True) if row.strip().split(" = ")[-1].startswith(start)]
    return found[nth]


def without(text: str, start: str, nth: int = 0) -> Change:
    return (line(text, start, nth), "")


def after(text: str, start: str, other: str) -> tuple[Change, ...]:
    """Changes that move the first ``start`` line behind the first ``other`` line."""
    moved, anchor = line(text, start), line(text, other)
    return ((moved, ""), (anchor, anchor + moved))


@pytest.mark.parametrize("text", [LANES, BULK, CLUSTER, SPLIT, ALONE])
def test_what_lowering_writes_is_legal_and_reads_back(text: str):
    verify(parse_module(text))
    assert opt(text) == text


LAUNCH: Mistakes = {
    "threads": (BULK, (("threads=288", "threads=300"),), ("launch: threads per CTA", "got: 300", "multiple of 32")),
    "too many threads": (BULK, (("threads=288", "threads=1056"),), ("launch: threads per CTA", "up to 1024")),
    "shared memory": (BULK, (("smem_bytes=91696", "smem_bytes=232449"),), ("launch: bytes of shared memory", "232448")),
    "cluster": (BULK, (("threads=288, cluster=1", "threads=288, cluster=9"),), ("launch: CTAs per cluster", "1 to 8")),
    "another tile": (
        BULK,
        (("tile=[128, 64], ctas_per_tile", "tile=[128, 128], ctas_per_tile"),),
        ("loop and launch disagree", "got: 128 x 64 for 1 CTAs", "need: 128 x 128 for 1 CTAs"),
    ),
    "CTAs per tile": (SPLIT, (("ctas_per_tile=2", "ctas_per_tile=1"),), ("loop and launch disagree", "for 1 CTAs")),
    "cluster of the launch": (CLUSTER, (("threads=288, cluster=2", "threads=288, cluster=4"),), ("in clusters of 4",)),
    "warps beyond the launch": (
        BULK,
        (("threads=288", "threads=256"),),
        ("warps of 'load'", "got: 8 to 8", "need: within 0 to 7"),
    ),
    "warps outside of their group": (
        LANES,
        (('{label="scales", first=9, count=1}', '{label="scales", first=12, count=1}'),),
        ("warps of 'scales'", "got: 12 to 12", "need: within 8 to 11"),
    ),
    "areas of another kind": (
        BULK,
        ((BULK[BULK.index("areas=[") : BULK.index("]} (")], "areas=[1"),),
        ("attribute 'areas'",),
    ),
    "two areas of a name": (BULK, (('#area{name="sa"', '#area{name="a"'),), ("names of areas and maps are unique",)),
}

MEMORY: Mistakes = {
    "unknown area": (BULK, (('{area="sa", waves', '{area="sc", waves'),), ("no area 'sc'", "need: a, sa, b, staging")),
    "areas overlap": (
        BULK,
        (('name="b", offset=49152', 'name="b", offset=48128'),),
        ("areas 'a' and 'b' overlap", "bytes 48128 to 72704 and 0 to 49152"),
    ),
    "staging over a stage": (
        BULK,
        (('name="staging", offset=73728', 'name="staging", offset=72704'),),
        ("areas 'b' and 'staging' overlap",),
    ),
    "exchange over barriers": (
        SPLIT,
        (('name="exchange", offset=0, stage_bytes=36864', 'name="exchange", offset=73728, stage_bytes=1568'),),
        ("areas",),
    ),
    "outside": (
        BULK,
        (('name="empty", offset=91672', 'name="empty", offset=91680'),),
        ("area 'empty' lies outside of shared memory", "bytes 91680 to 91704", "0 to 91696"),
    ),
    "scales too long": (
        LANES,
        (("count=128, block", "count=132, block"),),
        ("a stage of area 'sa' is too small", "at least 528"),
    ),
    "exchange too small": (
        SPLIT,
        (("pitch=72, parts", "pitch=80, parts"),),
        ("a stage of area 'exchange'", "at least 40960"),
    ),
    "unaligned operand": (
        BULK,
        (
            ('name="a", offset=0', 'name="a", offset=512'),
            ('name="b", offset=49152', 'name="b", offset=50176'),
            ('name="staging", offset=73728', 'name="staging", offset=74752'),
            ('name="sa", offset=90112', 'name="sa", offset=91136'),
            ("offset=91648", "offset=92672"),
            ("offset=91672", "offset=92696"),
            ("smem_bytes=91696", "smem_bytes=92720"),
        ),
        ("swizzled areas consist of whole atoms: the offset of 'a'", "got: 512", "a multiple of 1024"),
    ),
    "unaligned scales": (
        BULK,
        (
            ('name="sa", offset=90112', 'name="sa", offset=90096'),
            ('name="staging", offset=73728, stage_bytes=16384', 'name="staging", offset=73728, stage_bytes=16368'),
        ),
        ("area 'sa' is filled by TMA", "offset 90096", "multiples of 128"),
    ),
}

COPIES: Mistakes = {
    "box": (
        BULK,
        (('dtype="e4m3", box=[128, 64]', 'dtype="e4m3", box=[128, 32]'),),
        ("a load and its tensor map", "a box of 32 rows of 128 bytes", "64 rows of 128 bytes over 1 CTAs"),
    ),
    "share of a box": (
        CLUSTER,
        (("box=[128, 32], swizzle", "box=[128, 64], swizzle"),),
        ("64 rows of 128 bytes over 2 CTAs",),
    ),
    "swizzle": (
        BULK,
        (('box=[128, 64], swizzle="128B"', 'box=[128, 64], swizzle="64B"'),),
        ("a box row is one swizzle span", "128 bytes with swizzle 64B"),
    ),
    "no swizzle": (
        BULK,
        (('box=[128, 64], swizzle="128B"', 'box=[128, 64], swizzle="none"'),),
        ("a load and its tensor map", "swizzle none", "swizzle 128B"),
    ),
    "too large a box": (
        BULK,
        (('dtype="e4m3", box=[128, 128]', 'dtype="e4m3", box=[128, 257]'),),
        ("1 to 256 elements",),
    ),
    "row of 8 bytes": (
        BULK,
        (("box=[128, 1], swizzle", "box=[2, 1], swizzle"),),
        ("bytes of a box row", "got: 8", "of 16"),
    ),
    "not a map": (BULK, (("tma_load(map=%tma_a", "tma_load(map=%M"),), ("%M is not a tensor map of the launch",)),
    "unknown element type": (
        BULK,
        (('operand="b", dtype="e4m3"', 'operand="b", dtype="e5m6"'),),
        ("0 bytes with swizzle",),
    ),
    "half a stage": (
        BULK,
        (("rows=64, row_bytes", "rows=32, row_bytes"), ('dtype="e4m3", box=[128, 64]', 'dtype="e4m3", box=[128, 32]')),
        ("a load fills a stage of area 'b'", "got: 4096 bytes", "8192"),
    ),
    "part of the cluster": (
        CLUSTER,
        (("multicast=2", "multicast=4"),),
        ("a box is shared by the whole cluster", "1 or 2"),
    ),
    "all threads load": (
        BULK,
        ((", count=1, elect=true}", ", count=1}"),),
        ("one thread starts a bulk load", "32 threads"),
    ),
    "scales of other rows": (BULK, (('area="sa", count=128', 'area="sa", count=64'),), ("need: [64, 1], transposed",)),
    "scales row by row": (
        BULK,
        ((', swizzle="none", transposed=true', ', swizzle="none"'),),
        ("need: [128, 1], transposed",),
    ),
    "box of a store": (
        BULK,
        (('area="staging", box=[64, 64]', 'area="staging", box=[32, 64]'),),
        ("a store and its tensor map", "need: [64, 32]"),
    ),
    "slabs of a store": (
        BULK,
        (("slabs=1", "slabs=2"),),
        ("stores empty area 'staging'", "got: 32768 bytes", "need: 16384"),
    ),
    "slab as written": (
        BULK,
        (("slab=64, waves", "slab=32, waves"),),
        ("fragments are written as they are stored", "slabs of 32"),
    ),
    "wgmma of half a swizzle span": (
        BULK,
        (("steps=4, row_bytes=128", "steps=2, row_bytes=64"),),
        ("steps of a wgmma cover one swizzle span", "2 of 32 bytes"),
    ),
    "wgmma waves": (
        BULK,
        (("row_bytes=128, waves=1", "row_bytes=128, waves=2"),),
        ("wgmma reads all of area 'a'", "256 rows"),
    ),
    "wgmma columns": (
        BULK,
        (("%part = sm90.zero() : frag<f32, [64, 64]>", "%part = sm90.zero() : frag<f32, [64, 60]>"),),
        ("shape of a wgmma", "8 to 256 columns in steps of 8"),
    ),
    "wgmma by part of a warpgroup": (
        BULK,
        (('label="math", first=0, count=8', 'label="math", first=0, count=7'),),
        ("run by whole warpgroups", "warps 0 to 6"),
    ),
}

REGISTERS: Mistakes = {
    "not a multiple of 8": (
        LANES,
        (("count=232, grow", "count=236, grow"),),
        ("setmaxnreg", "got: 236", "multiple of 8"),
    ),
    "too few": (LANES, (("count=40, grow", "count=16, grow"),), ("setmaxnreg", "got: 16", "from 24 to 256")),
    "too many in all": (
        LANES,
        (("count=232, grow", "count=240, grow"),),
        ("want more registers than the launch gives", "[240, 240, 40] = 520", "at most 504"),
    ),
    "growing downwards": (
        LANES,
        (("count=232, grow", "count=160, grow"),),
        ("registers grow", "got: 160", "at least 168"),
    ),
    "shrinking upwards": (
        LANES,
        (("count=40, grow", "count=176, grow"), ("count=232, grow", "count=160, grow")),
        ("registers",),
    ),
    "twice": (
        LANES,
        ((line(LANES, "sm90.set_registers"), 2 * line(LANES, "sm90.set_registers")),),
        ("a warpgroup changes its registers once", "warpgroup 0 twice"),
    ),
    "not by all": (
        LANES,
        (without(LANES, "sm90.set_registers"),),
        ("every warpgroup sets its registers", "1 warpgroups of 384"),
    ),
    "by one warp": (
        LANES,
        (
            (
                line(LANES, "sm90.cursor", 1),
                "          sm90.set_registers() {count=40, grow=false}\n" + line(LANES, "sm90.cursor", 1),
            ),
        ),
        ("sm90.set_registers is run by whole warpgroups", "one thread"),
    ),
}

BARRIERS: Mistakes = {
    "full arrivals": (
        LANES,
        (("arrivals=33", "arrivals=32"),),
        ("arrivals at %full in a phase", "got: 32", "need: 33"),
    ),
    "full arrivals by bulk": (BULK, (("arrivals=1}", "arrivals=33}"),), ("arrivals at %full in a phase", "need: 1,")),
    "empty arrivals": (LANES, (("arrivals=8", "arrivals=4"),), ("arrivals at %empty in a phase", "got: 4", "need: 8")),
    "empty arrivals of a cluster": (CLUSTER, (("arrivals=16", "arrivals=8"),), ("arrivals at %empty", "need: 16")),
    "met arrivals": (SPLIT, (("arrivals=2", "arrivals=1"),), ("arrivals at %met in a phase", "need: 2")),
    "more warps arrive": (
        LANES,
        (('{label="scales", first=9, count=1}', '{label="scales", first=9, count=2}'),),
        ("got: 33", "need: 65"),
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
        ((line(BULK, "sm90.expect"), 2 * line(BULK, "sm90.expect")), ("arrivals=1}", "arrivals=2}")),
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
        (('name="full", offset=91648, stage_bytes=8, stages=3', 'name="full", offset=91648, stage_bytes=8, stages=2'),),
        ("area 'full' holds %full", "2 × 8 bytes", "need: 3 × 8 bytes"),
    ),
    "not a barrier": (
        BULK,
        (("sm90.wait(barriers=%full, cursor=%cursor)", "sm90.wait(barriers=%M, cursor=%cursor)"),),
        ("%M is not a barrier", "got: i32"),
    ),
    "no sync at the start": (
        BULK,
        (without(BULK, "sm90.sync"),),
        ("barriers are used after all threads have met", "scope cta"),
    ),
    "sync of one CTA": (
        CLUSTER,
        (('scope="cluster"', 'scope="cta"'),),
        ("barriers are used after all threads have met",),
    ),
    "no sync at the end": (
        CLUSTER,
        ((CLUSTER[CLUSTER.rindex("  sm90.sync()") :], "}\n"),),
        ("shared memory lives until its cluster is done",),
    ),
    "unknown scope": (BULK, (('scope="cta"', 'scope="gpu"'),), ("scope of a sync", "cta or cluster")),
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
        ("area 'sa' is read before its stage is loaded", "for %full"),
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
            *(without(BULK, f"sm90.{op}") for op in ("row_scales", "wgmma(", "promote")),
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
    "announced too early": (
        SPLIT,
        ((line(SPLIT, "sm90.write_partial") + line(SPLIT, "sm90.group_sync"), line(SPLIT, "sm90.write_partial")),),
        ("partial sums are announced when all are written",),
    ),
    "read before the CTAs met": (
        SPLIT,
        (without(SPLIT, "sm90.meet"), ("arrivals=2", "arrivals=0")),
        ("partial sums are read when all CTAs have met",),
    ),
    "met in every tile": (SPLIT, (("persistent=false", "persistent=true"),), ("CTAs meet once, in phase 0",)),
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


def test_a_module_needs_a_launch():
    start, end = BULK.index("launch=#launch"), BULK.index("maps=[")
    with pytest.raises(IRError, match="needs one Launch attribute"):
        verify(parse_module(BULK[:start] + BULK[end:]))


CORPUS = {
    f"{group} {name}": mistake
    for group, mistakes in {
        "launch": LAUNCH,
        "memory": MEMORY,
        "copies": COPIES,
        "registers": REGISTERS,
        "barriers": BARRIERS,
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
