"""Illegal target IR: launches, shared memory, copies and registers that lowering would never write."""

from __future__ import annotations

import pytest
from ir_texts import edited, opt, rejected
from target_texts import (
    ALONE,
    BULK,
    CLUSTER,
    LANES,
    LEADER,
    LOOKAHEAD,
    RUNS,
    RUNS_OVERLAP,
    SPLIT,
    Mistakes,
    line,
    without,
)

from gemmgen.errors import IRError
from gemmgen.ir import parse_module, verify


@pytest.mark.parametrize("text", [LANES, BULK, CLUSTER, SPLIT, ALONE, RUNS, RUNS_OVERLAP, LOOKAHEAD, LEADER])
def test_what_lowering_writes_is_legal_and_reads_back(text: str):
    verify(parse_module(text))
    assert opt(text) == text


LAUNCH: Mistakes = {
    "threads": (BULK, (("threads=320", "threads=330"),), ("launch: threads per CTA", "got: 330", "multiple of 32")),
    "too many threads": (BULK, (("threads=320", "threads=1056"),), ("launch: threads per CTA", "up to 1024")),
    "shared memory": (BULK, (("smem_bytes=91744", "smem_bytes=232449"),), ("launch: bytes of shared memory", "232448")),
    "cluster": (BULK, (("threads=320, cluster=1", "threads=320, cluster=9"),), ("launch: CTAs per cluster", "1 to 8")),
    "another tile": (
        BULK,
        (("tile=[128, 64], ctas_per_tile", "tile=[128, 128], ctas_per_tile"),),
        ("loop and launch disagree", "got: 128 x 64 for 1 CTAs", "need: 128 x 128 for 1 CTAs"),
    ),
    "CTAs per tile": (SPLIT, (("ctas_per_tile=2", "ctas_per_tile=1"),), ("loop and launch disagree", "for 1 CTAs")),
    "cluster of the launch": (CLUSTER, (("threads=320, cluster=2", "threads=320, cluster=4"),), ("in clusters of 4",)),
    "warps beyond the launch": (
        BULK,
        (("threads=320", "threads=256"),),
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
    "unknown area": (
        BULK,
        (('{area="sa", waves', '{area="sc", waves'),),
        ("no area 'sc'", "need: a, sa, b, sb, staging"),
    ),
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
        (('name="exchange", offset=0, stage_bytes=36864', 'name="exchange", offset=38464, stage_bytes=36864'),),
        ("areas 'exchange' and 'full' overlap", "38464 to 75328"),
    ),
    "outside": (
        BULK,
        (('name="empty", offset=91720', 'name="empty", offset=91728'),),
        ("area 'empty' lies outside of shared memory", "bytes 91728 to 91752", "0 to 91744"),
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
            ("offset=91696", "offset=92720"),
            ("offset=91720", "offset=92744"),
            ("smem_bytes=91744", "smem_bytes=92768"),
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
        ("a load and its tensor map", "a box of 32 rows of 128 bytes", "64 of 64 rows of 128 bytes"),
    ),
    "share of a box": (
        CLUSTER,
        (("box=[128, 32], swizzle", "box=[128, 64], swizzle"),),
        ("a box of 64 rows", "32 of 64 rows of 128 bytes"),
    ),
    "the leader's box is a share": (
        LEADER,
        (('operand="a", dtype="e4m3", box=[128, 128]', 'operand="a", dtype="e4m3", box=[128, 64]'),),
        ("a load and its tensor map", "a box of 64 rows", "128 of 128 rows of 128 bytes"),
    ),
    "a share is the leader's box": (
        LEADER,
        (("multicast=2, leader=true}", "multicast=2}"),),
        ("a load and its tensor map", "a box of 128 rows", "64 of 128 rows of 128 bytes"),
    ),
    "the leader loads for part of the cluster": (
        LEADER,
        (("multicast=2, leader=true}", "multicast=4, leader=true}"),),
        ("a box is shared by the whole cluster", "got: 4", "1 or 2"),
    ),
    "scales shared by part of the cluster": (
        LEADER,
        (("block=[1, 128], multicast=2}", "block=[1, 128], multicast=4}"),),
        ("scales are shared by CTAs that share their rows", "got: 4", "need: 2"),
    ),
    "scales shared by CTAs with rows of their own": (
        CLUSTER,
        (("block=[1, 128]}", "block=[1, 128], multicast=2}"),),
        ("scales are shared by CTAs that share their rows", "got: 2", "need: 1"),
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
        (("row_bytes=128, waves=1, wave=0", "row_bytes=128, waves=2, wave=0"),),
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

A_AT, B_AT = line(BULK, "sm90.stage_descriptor"), line(BULK, "sm90.stage_descriptor", 1)

DESCRIPTORS: Mistakes = {
    "of another area": (
        BULK,
        (("desc_a=%a_at, desc_b=%b_at", "desc_a=%b_at, desc_b=%b_at"),),
        ("%b_at is the descriptor of area 'a' in the cursor's stage", "need: sm90.stage_descriptor"),
    ),
    "of another area that is moved as this one": (
        BULK,
        ((B_AT, B_AT.replace("%desc_b", "%desc_a")),),
        ("%b_at is the descriptor of area 'b' in the cursor's stage",),
    ),
    "moved as another area": (
        BULK,
        ((B_AT, B_AT.replace('area="b"', 'area="a"')),),
        ("%b_at is the descriptor of area 'b' in the cursor's stage",),
    ),
    "of stage 0": (
        BULK,
        (("desc_b=%b_at", "desc_b=%desc_b"),),
        ("%desc_b is the descriptor of area 'b' in the cursor's stage", "got: another value"),
    ),
    "not a descriptor": (
        BULK,
        (("desc_a=%a_at", "desc_a=%sb_stride_row"),),
        ("%sb_stride_row is the descriptor of area 'a'", "got: another value"),
    ),
    "moved from something else": (
        BULK,
        ((A_AT, A_AT.replace("%desc_a", "%sb_stride_row")),),
        ("%a_at is the descriptor of area 'a' in the cursor's stage",),
    ),
    "another cursor's stage": (
        BULK,
        (
            (
                line(BULK, "sm90.cursor"),
                line(BULK, "sm90.cursor") + line(BULK, "sm90.cursor").replace("sor =", "sor_3 ="),
            ),
            (A_AT, A_AT.replace("%cursor", "%cursor_3")),
            (
                line(BULK, "sm90.advance"),
                line(BULK, "sm90.advance") + line(BULK, "sm90.advance").replace("%cursor", "%cursor_3"),
            ),
        ),
        ("%a_at is the descriptor of area 'a' in the cursor's stage",),
    ),
    "the stage before the loop": (
        BULK,
        ((A_AT, ""), (line(BULK, "sm90.zero"), A_AT + line(BULK, "sm90.zero"))),
        ("%a_at is the descriptor of area 'a' in the cursor's stage",),
    ),
    "behind the step": (
        BULK,
        (
            (A_AT, ""),
            (line(BULK, "sm90.advance"), line(BULK, "sm90.advance") + A_AT),
            ("desc_a=%a_at", "desc_a=%desc_a"),
        ),
        ("a cursor moves after its last use: %cursor", "sm90.stage_descriptor after sm90.advance"),
    ),
    "of another wave": (
        BULK,
        (("row_bytes=128, waves=1}", "row_bytes=128, waves=1, wave=1}"),),
        ("%a_at says which rows of area 'a' are multiplied", "['e4m3', 128, 0, 1, 1]", "['e4m3', 128, 0, 1, 0]"),
    ),
    "of the warpgroup's rows of B": (
        BULK,
        (('{area="b", dtype="e4m3", row_bytes=128}', '{area="b", dtype="e4m3", row_bytes=128, waves=1}'),),
        ("%b_at says which rows of area 'b' are multiplied", "['e4m3', 128, 0, 1, 0]", "['e4m3', 128, 0, 0, 0]"),
    ),
    "of rows along K": (
        BULK,
        (("row_bytes=128, waves=1}", "row_bytes=128, span=128, waves=1}"),),
        ("%a_at says which rows of area 'a' are multiplied", "['e4m3', 128, 128, 1, 0]"),
    ),
    "of longer rows": (
        BULK,
        (("row_bytes=128, waves=1}", "row_bytes=64, waves=1}"),),
        ("%a_at says which rows of area 'a' are multiplied", "['e4m3', 64, 0, 1, 0]"),
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
        "descriptors": DESCRIPTORS,
        "registers": REGISTERS,
    }.items()
    for name, mistake in mistakes.items()
}


@pytest.mark.parametrize("name", CORPUS)
def test_mistake(name: str):
    text, changes, parts = CORPUS[name]
    rejected(edited(text, *changes), *parts)
