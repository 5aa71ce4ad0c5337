"""Illegal async IR: modules that parse and type-check, each with the one mistake that its rule exists for."""

from __future__ import annotations

import pytest
from ir_texts import ASYNC, PROMOTED, edited, opt, rejected

ROLES = opt(ASYNC, "epilogue-staging,warp-specialization")
PLACED = opt(ASYNC, "epilogue-staging,warp-specialization,shared-memory-allocation")
CLUSTER = opt(ASYNC, "epilogue-staging,cluster-multicast{cluster=[2, 1]}")
SPLIT = opt(PROMOTED, "split-k{parts=2},pipelining{stages=3,scale_copy=lanes},epilogue-staging")

ACQUIRE, COMMIT = "      async.acquire(ring=%ring)\n", "      async.commit(ring=%ring)\n"
WAIT, RELEASE = "      async.wait(ring=%ring)\n", "      async.release(ring=%ring)\n"
LOAD_A = '      async.load(ring=%ring, source=%a, row=%m0, col=%k0) {buffer="a"}\n'
LOAD_SB = (
    '      async.load_scales(ring=%ring, source=%sb, row=%n0, col=%k0) {buffer="sb", block=[128, 128], engine=lanes}\n'
)
READ_A = '      %at = async.read(ring=%ring) {buffer="a"} : smem<e4m3, [128, 128]>\n'
MMA = "      %part = tile.mma(a=%at, b=%bt) : frag<f32, [128, 64]>\n"
NEXT = "      %next = tile.promote("

CYCLES: dict[str, tuple[tuple[tuple[str, str], ...], tuple[str, ...]]] = {
    "no acquire": (((ACQUIRE, ""),), ("a load fills an acquired stage", "a load outside of acquire and commit")),
    "acquire twice": (((ACQUIRE, ACQUIRE + ACQUIRE),), ("one step uses one stage of %ring", "a second async.acquire")),
    "no commit": (((COMMIT, ""),), ("a stage is waited for while it is being filled", "wait before commit")),
    "commit without acquire": (
        ((ACQUIRE, COMMIT),),
        ("async.commit of a stage that this role does not hold", "no async.acquire before it"),
    ),
    "commit of nothing": (((ACQUIRE, ACQUIRE + COMMIT),), ("an empty stage is committed", "no loads since acquire")),
    "load before acquire": (
        ((ACQUIRE + LOAD_A, LOAD_A + ACQUIRE),),
        ("a load fills an acquired stage", "outside of acquire and commit"),
    ),
    "load after commit": (
        ((LOAD_SB + COMMIT, COMMIT + LOAD_SB),),
        ("a load fills an acquired stage", "outside of acquire and commit"),
    ),
    "no wait": (((WAIT, ""),), ("a read needs a stage that has been waited for", "outside of wait and release")),
    "wait twice": (((WAIT, WAIT + WAIT),), ("one step uses one stage of %ring", "a second async.wait")),
    "wait first": (
        ((WAIT, ""), (ACQUIRE, WAIT + ACQUIRE)),
        ("a stage is waited for before it is filled", "acquire after wait"),
    ),
    "read before wait": (((WAIT + READ_A, READ_A + WAIT),), ("a read needs a stage that has been waited for",)),
    "release without wait": (
        ((WAIT, RELEASE),),
        ("async.release of a stage that this role does not hold", "no async.wait before it"),
    ),
    "no release": (((RELEASE, ""),), ("role 'all' leaves a stage of %ring open", "no async.release")),
    "use after release": (
        ((RELEASE, ""), (MMA, RELEASE + MMA)),
        ("%at is used after its stage was released", "tile.mma"),
    ),
    "promotion after release": (
        ((RELEASE, ""), (NEXT, RELEASE + NEXT)),
        ("%sat is used after its stage was released", "tile.promote"),
    ),
    "missing load": (((LOAD_SB, ""),), ("buffer 'sb' of %ring", "0 loads in a step", "need: 1")),
    "double load": (((LOAD_A, LOAD_A + LOAD_A),), ("buffer 'a' of %ring", "2 loads in a step", "need: 1")),
    "unknown buffer": ((('{buffer="a"}\n', '{buffer="c"}\n'),), ("%ring has no buffer 'c'", "need: a, sa, b, sb")),
    "read of an unknown buffer": (
        (('async.read(ring=%ring) {buffer="a"}', 'async.read(ring=%ring) {buffer="at"}'),),
        ("%ring has no buffer 'at'",),
    ),
    "read of another type": (
        (('{buffer="sa"} : smem<f32, [128]>', '{buffer="sa"} : smem<f32, [64]>'),),
        ("%sat is not buffer 'sa'", "got: smem<f32, [64]>", "need: smem<f32, [128]>"),
    ),
    "bulk load of a lane buffer": (
        (("type=smem<e4m3, [128, 128]>, engine=bulk", "type=smem<e4m3, [128, 128]>, engine=lanes"),),
        ("async.load by bulk into buffer 'a'", "a buffer filled by lanes", "need: bulk"),
    ),
    "lane copy into a bulk buffer": (
        (("block=[1, 128], engine=lanes", "block=[1, 128], engine=bulk"),),
        ("async.load_scales by bulk into buffer 'sa'", "a buffer filled by lanes"),
    ),
    "not a ring": (
        ((ACQUIRE, "      async.acquire(ring=%a)\n"),),
        ("%a is not a ring", "need: the result of async.ring"),
    ),
    "wait outside of the steps": (
        (("    %out =", "    async.wait(ring=%ring)\n    %out ="),),
        ("a ring turns with the steps of K", "async.wait outside of them", "need: tile.for_k"),
    ),
    "ring inside a loop": (
        (("    %zero =", "    %inner = async.staging() : smem<bf16, [8, 8]>\n    %zero ="),),
        ("async.staging stands at the top level", "need: the module's body"),
    ),
    "too small a stage": (
        (("engine=bulk, stage_bytes=16384", "engine=bulk, stage_bytes=8192"),),
        ("buffer 'a' does not hold its tile", "8192 bytes", "at least 16384"),
    ),
    "a ring of symbolic tiles": (
        (("type=smem<f32, [1]>", "type=smem<f32, [M]>"), (": smem<f32, [1]>", ": smem<f32, [M]>")),
        ("buffer 'sb' needs a known shape", "got: smem<f32, [M]>"),
    ),
}


@pytest.mark.parametrize("mistake", CYCLES)
def test_ring_cycle(mistake: str):
    changes, parts = CYCLES[mistake]
    rejected(edited(ASYNC, *changes), *parts)


MATH, LOAD = 'async.role() {name="math", warps=8} do {', 'async.role() {name="load", warps=1} do {'
LOADER_TILES = "tile=[128, 64]} do (%m0_1: index"
LOADER_STEPS = "tile.for_k() {extent=256, step=128} do (%k0_1: index)"
ROLE_MISTAKES: dict[str, tuple[tuple[tuple[str, str], ...], tuple[str, ...]]] = {
    "two of a name": (((LOAD, LOAD.replace("load", "math")),), ("roles need names of their own: 'math'", "2 roles")),
    "no warps": (((LOAD, LOAD.replace("warps=1", "warps=0")),), ("role 'load' has no warps", "got: 0")),
    "nested": (
        ((LOAD + "\n", LOAD + '\n    async.role() {name="inner", warps=1} do {\n    }\n'),),
        ("async.role stands at the top level",),
    ),
    "work outside": (
        (("  " + MATH, "  %loose = tile.zeros() : frag<f32, [64, 8]>\n  " + MATH),),
        ("work outside the roles", "got: tile.zeros"),
    ),
    "two that compute": (
        ((LOAD + "\n", LOAD + "\n    %loose = tile.zeros() : frag<f32, [64, 8]>\n"),),
        ("one role computes", "got: math, load"),
    ),
    "other tiles": (
        ((LOADER_TILES, LOADER_TILES.replace("64", "32")),),
        ("role 'load' takes another way than role 'math'", "got: tile=(128, 32)", "need: tile=(128, 64)"),
    ),
    "another order of tiles": (
        ((LOADER_TILES, LOADER_TILES.replace("]}", '], raster_along="n"}')),),
        ("got: raster_along=n", "raster_along=m"),
    ),
    "other steps": (
        ((LOADER_STEPS, LOADER_STEPS.replace("256", "128")),),
        ("role 'load' takes another way than role 'math'", "got: extent=128", "need: extent=256"),
    ),
    "other parts": (
        ((LOADER_STEPS, LOADER_STEPS.replace("128}", "128, parts=2}")),),
        ("got: parts=2", "need: parts=1"),
    ),
    "a buffer that two roles load": (
        (('%sb, row=%n0_2, col=%k0_2) {buffer="sb"', '%sb, row=%n0_2, col=%k0_2) {buffer="sa"'),),
        ("buffer 'sa' of %ring", "2 loads in a step"),
    ),
    "a loader that does not commit": (
        (("        async.commit(ring=%ring)\n", ""),),
        ("role 'load' leaves a stage of %ring open", "no async.commit"),
    ),
}


@pytest.mark.parametrize("mistake", ROLE_MISTAKES)
def test_roles(mistake: str):
    changes, parts = ROLE_MISTAKES[mistake]
    rejected(edited(ROLES, *changes), *parts)


def test_nobody_computes():
    start, end = ROLES.index("  " + MATH), ROLES.index("  " + LOAD)
    rejected(ROLES[:start] + ROLES[end:], "one role computes", "got: none")


def test_nobody_waits():
    changes = ((WAIT, ""), (RELEASE, ""), *((line, "") for line in ASYNC.splitlines(True) if "async.read" in line))
    zeros = "".join(
        f"      %{name} = tile.zeros() : {kind}\n"
        for name, kind in (
            ("at", "smem<e4m3, [128, 128]>"),
            ("bt", "smem<e4m3, [64, 128]>"),
            ("sat", "smem<f32, [128]>"),
            ("sbt", "smem<f32, [1]>"),
        )
    )
    rejected(edited(ASYNC, *changes, (MMA, zeros + MMA)), "nobody waits for %ring", "a ring that fills up and blocks")


def test_fewer_loops():
    start = ROLES.index("      tile.for_k() {extent=256, step=128} do (%k0_1: index)")
    end = ROLES.index("    }\n  }\n", start)
    rejected(ROLES[:start] + ROLES[end:], "role 'load' takes another way", "got: 1 loops", "need: 2 loops")


def test_steps_without_tiles():
    inside = ASYNC.index("    %zero")
    start, end = ASYNC.index("  tile.for_tiles"), ASYNC.index("    %out")
    body = ASYNC[inside:end].replace("%m0", "%zero").replace("%n0", "%zero")
    rejected(ASYNC[:start] + body + "}\n", "steps of K belong to one tile", "no tile loop around them")


def test_a_ring_that_no_step_turns():
    start = ASYNC.index("  tile.for_tiles")
    rejected(ASYNC[:start] + "}\n", "a ring turns with the steps of K", "no steps")


CLUSTER_MISTAKES: dict[str, tuple[tuple[tuple[str, str], ...], tuple[str, ...]]] = {
    "ring without the cluster": (
        (("], cluster=2} : ring", "]} : ring"),),
        ("%ring and the tiles disagree about the cluster", "got: 1", "need: 2"),
    ),
    "tiles without the cluster": (
        ((", cluster=[2, 1]}", "}"),),
        ("%ring and the tiles disagree about the cluster", "got: 2", "need: 1"),
    ),
    "part of the cluster": (
        (("multicast=2", "multicast=4"),),
        ("a shared box goes to the whole cluster", "need: 1 or 2"),
    ),
    "a box of the CTA's own": (
        (('{buffer="a"}', '{buffer="a", multicast=2}'),),
        ("CTAs that share a box need the same one", "a box at %m0, which differs in the cluster"),
    ),
    "the other axis": (((", cluster=[2, 1]}", ", cluster=[1, 2]}"),), ("a box at %n0, which differs in the cluster",)),
}


@pytest.mark.parametrize("mistake", CLUSTER_MISTAKES)
def test_cluster(mistake: str):
    changes, parts = CLUSTER_MISTAKES[mistake]
    rejected(edited(CLUSTER, *changes), *parts)


STAGING = "%staging = async.staging() {offset=73728} : smem<bf16, [128, 64]>"
PLACE_MISTAKES: dict[str, tuple[tuple[tuple[str, str], ...], tuple[str, ...]]] = {
    "buffers overlap": (
        (("stage_bytes=8192, offset=49152", "stage_bytes=8192, offset=32768"),),
        ("buffer 'b' of %ring overlaps buffer 'a' of %ring", "bytes 32768 to 57344", "nothing of bytes 0 to 49152"),
    ),
    "staging overlaps": (
        ((STAGING, STAGING.replace("73728", "65536")),),
        ("%staging overlaps buffer 'b' of %ring", "bytes 65536 to 81920", "nothing of bytes 49152 to 73728"),
    ),
    "barriers overlap": (
        (("offset=91696} : ring", "offset=91648} : ring"),),
        ("the barriers of %ring overlaps buffer 'sb'",),
    ),
    "unaligned bulk buffer": (
        (("stage_bytes=8192, offset=49152", "stage_bytes=8192, offset=49168"),),
        ("buffer 'b' of %ring has no usable place", "offset 49168", "a multiple of"),
    ),
    "unaligned barriers": (
        (("offset=91696} : ring", "offset=91700} : ring"),),
        ("the barriers of %ring has no usable place", "a multiple of 8"),
    ),
    "no place": (
        (("stage_bytes=512, offset=90112", "stage_bytes=512"),),
        ("buffer 'sa' of %ring has no usable place", "offset -1"),
    ),
    "outside": (
        (("smem_bytes=91744", "smem_bytes=91743"),),
        ("the barriers of %ring lies outside of shared memory", "need: 91743"),
    ),
}


@pytest.mark.parametrize("mistake", PLACE_MISTAKES)
def test_places(mistake: str):
    changes, parts = PLACE_MISTAKES[mistake]
    rejected(edited(PLACED, *changes), *parts)


def test_an_overlay_may_lie_over_stages_only():
    placed = opt(SPLIT, "warp-specialization,shared-memory-allocation")
    assert "%exchange = async.staging() {offset=0, overlay=true}" in placed
    moved = edited(
        placed, ("{offset=0, overlay=true", "{offset=38528, overlay=true"), ("smem_bytes=75360", "smem_bytes=80000")
    )
    rejected(moved, "%exchange overlaps the barriers")


STORE_MISTAKES: dict[str, tuple[str, tuple[str, str], tuple[str, ...]]] = {
    "another shape": (
        ROLES,
        ("%staging = async.staging() : smem<bf16, [128, 64]>", "%staging = async.staging() : smem<bf16, [64, 64]>"),
        ("fragment and staging tile differ", "got: frag<bf16, [128, 64]>", "need: smem<bf16, [64, 64]>"),
    ),
    "an overlay": (
        ROLES,
        ("%staging = async.staging()", "%staging = async.staging() {overlay=true}"),
        ("%staging is no staging tile of its own", "without overlay"),
    ),
    "exchange in a place of its own": (
        SPLIT,
        ("async.staging() {overlay=true}", "async.staging()"),
        ("%exchange is no exchange tile", "with overlay"),
    ),
}


@pytest.mark.parametrize("mistake", STORE_MISTAKES)
def test_stores(mistake: str):
    text, change, parts = STORE_MISTAKES[mistake]
    rejected(edited(text, change), *parts)
