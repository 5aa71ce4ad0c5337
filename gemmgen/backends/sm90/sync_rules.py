"""Laws of syncs: all threads of the CTA, or of the cluster, join each one, wherever in the program they stand.

A warp that stays away, or comes too early, is a deadlock; one that comes for the wrong sync lets others read too early.
A warp that has ended is not waited for at a cluster's barrier, so that it may miss the last ones, unless it has reached
into other CTAs' shared memory: none of them may end before it has.
"""

from __future__ import annotations

from gemmgen.backends.sm90 import hardware as hw
from gemmgen.backends.sm90 import math_ops
from gemmgen.backends.sm90.ops import InitBarriersOp, KLoopOp, KOverlapOp, ReleaseOp, SyncOp, TileLoopOp, WarpsOp
from gemmgen.backends.sm90.sites import Program, Site
from gemmgen.ir.core import Op
from gemmgen.ir.verifier import fail


def check_syncs(program: Program) -> None:
    """Check where threads meet, for every target that has Hopper's barriers.

    Raises:
        IRError: the first law that is broken.
    """
    _check_start_and_end(program)
    for index, site in enumerate(program.sites):
        if isinstance(site.op, SyncOp):
            _check_once(program, site)
            _check_behind_loops(program, site, program.sites[index + 1 :])
        elif program.launch.cluster > 1 and _reaches_others(site.op):
            _check_met_afterwards(site, program.sites[index + 1 :])
    _check_joined(program)


def _check_start_and_end(program: Program) -> None:
    """All threads meet between the initialisation and the roles; a cluster meets again before any CTA ends."""
    scope = "cluster" if program.launch.cluster > 1 else "cta"
    ops = program.module.body.ops
    first = next((index for index, op in enumerate(ops) if op.all_regions), len(ops))
    inits = [index for index, op in enumerate(ops) if isinstance(op, InitBarriersOp)]
    syncs = [index for index, op in enumerate(ops) if isinstance(op, SyncOp) and op.scope == scope]
    syncs += [index for index, op in enumerate(ops) if scope == "cluster" and _ends_with_cluster(op)]
    for index in inits:
        if not any(index < sync < first for sync in syncs):
            fail(
                ops[index],
                "barriers are used after all threads have met",
                got="no sync before the roles",
                need=f"{SyncOp.NAME} of scope {scope}",
            )
    if scope == "cluster" and not any(sync > first for sync in syncs):
        fail(
            ops[-1],
            "a CTA's shared memory lives until its cluster is done",
            got="no sync at the end",
            need=f"{SyncOp.NAME} of scope cluster",
        )


def _ends_with_cluster(op: Op) -> bool:
    """Whether the warps that multiply, which are the first ones, meet those of other CTAs in a branch of their own."""
    if not isinstance(op, WarpsOp) or op.first != 0 or not op.body.ops:
        return False
    last = op.body.ops[-1]
    return isinstance(last, SyncOp) and last.scope == "cluster"


def _check_once(program: Program, site: Site) -> None:
    """Every thread of the warps that reach a sync reaches it, and reaches it once."""
    op = site.op
    if site.elect or site.leader:
        got = "one thread of a warp" if site.elect else "warps of the first CTA"
        fail(op, "all threads join a sync", got=got, need="sm90.warps without elect and leader")
    if site.steps is not None:
        fail(op, "a thread joins a sync once", got="one in a loop over K", need="one behind the loop")
    if site.tiles is not None and program.launch.persistent:
        fail(op, "a thread joins a sync once", got="one for each tile of a persistent launch", need="persistent=false")


def _check_behind_loops(program: Program, site: Site, behind: list[Site]) -> None:
    """Warps that come to a sync in a place of their own have done what the others wait for before they come."""
    if _all_warps(program, site):
        return
    for later in behind:
        if isinstance(later.op, TileLoopOp | KLoopOp | KOverlapOp) and _share_warps(site, later):
            fail(site.op, "the others wait for what these warps do", got=f"{later.op.NAME} behind the sync",
                 need="a sync behind all loops of these warps")  # fmt: skip


def _reaches_others(op: Op) -> bool:
    """Whether the threads that run the op use other CTAs' shared memory. Who is loaded into waits for that itself."""
    return (isinstance(op, ReleaseOp) and op.cluster > 1) or isinstance(op, math_ops.ReduceStoreOp)


def _check_met_afterwards(site: Site, behind: list[Site]) -> None:
    """The warps that reach other CTAs' shared memory meet these once more, and so keep them from ending."""
    for later in behind:
        if isinstance(later.op, SyncOp) and later.op.scope == "cluster" and _covers(later, site):
            return
    fail(site.op, "a CTA's shared memory lives until its cluster is done", got="no sync behind it",
         need=f"{SyncOp.NAME} of scope cluster, for the same warps")  # fmt: skip


def _check_joined(program: Program) -> None:
    """Every warp comes to as many syncs, of the same scopes in the same order, or ends before the last of a cluster.

    A sync that several warps come to in one place is each one's first, or second: else those who have ended would be
    taken for others who are there.
    """
    syncs = [site for site, _ in program.all(SyncOp)]
    partial = [site.op for site in syncs if not _all_warps(program, site)]
    joined = [[site for site in syncs if site.first <= warp < site.first + site.warps]
              for warp in range(_num_warps(program))]  # fmt: skip
    turns: dict[int, int] = {}
    for warp, sites in enumerate(joined):
        missed = _scopes(joined[0][len(sites) :])
        apart = any(turns.setdefault(id(site), turn) != turn for turn, site in enumerate(sites))
        if _scopes(sites) + missed != _scopes(joined[0]) or "cta" in missed or apart:
            fail(partial[0], "every warp of the CTA joins a sync", got=f"warp {warp} comes to {_text(_scopes(sites))}",
                 need=f"{_text(_scopes(joined[0]))}, as warp 0")  # fmt: skip


def _scopes(sites: list[Site]) -> list[str]:
    return [site.op.scope for site in sites if isinstance(site.op, SyncOp)]


def _text(scopes: list[str]) -> str:
    return f"{len(scopes)} ({', '.join(scopes)})"


def _num_warps(program: Program) -> int:
    return program.launch.threads // hw.WARP_THREADS


def _all_warps(program: Program, site: Site) -> bool:
    return site.warps == _num_warps(program)


def _covers(one: Site, other: Site) -> bool:
    return one.first <= other.first and other.first + other.warps <= one.first + one.warps


def _share_warps(one: Site, other: Site) -> bool:
    return one.first < other.first + other.warps and other.first < one.first + one.warps
