"""Laws of syncs: all threads of the CTA, or of the cluster, join each one, wherever in the program they stand.

A warp that stays away, or comes too early, is a deadlock; one that comes for the wrong sync lets others read too early.
"""

from __future__ import annotations

from gemmgen.backends.sm90 import hardware as hw
from gemmgen.backends.sm90.ops import InitBarriersOp, KLoopOp, KOverlapOp, SyncOp, TileLoopOp
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
    _check_joined(program)


def _check_start_and_end(program: Program) -> None:
    """All threads meet between the initialisation and the roles; a cluster meets again before any CTA ends."""
    scope = "cluster" if program.launch.cluster > 1 else "cta"
    ops = program.module.body.ops
    first = next((index for index, op in enumerate(ops) if op.all_regions), len(ops))
    inits = [index for index, op in enumerate(ops) if isinstance(op, InitBarriersOp)]
    syncs = [index for index, op in enumerate(ops) if isinstance(op, SyncOp) and op.scope == scope]
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


def _check_joined(program: Program) -> None:
    """Every warp comes to as many syncs, of the same scopes in the same order."""
    syncs = program.all(SyncOp)
    partial: list[Op] = [op for site, op in syncs if not _all_warps(program, site)]
    joined = [[op.scope for site, op in syncs if site.first <= warp < site.first + site.warps]
              for warp in range(_num_warps(program))]  # fmt: skip
    for warp, scopes in enumerate(joined):
        if scopes != joined[0]:
            fail(partial[0], "every warp of the CTA joins a sync", got=f"warp {warp} comes to {_text(scopes)}",
                 need=f"{_text(joined[0])}, as warp 0")  # fmt: skip


def _text(scopes: list[str]) -> str:
    return f"{len(scopes)} ({', '.join(scopes)})"


def _num_warps(program: Program) -> int:
    return program.launch.threads // hw.WARP_THREADS


def _all_warps(program: Program, site: Site) -> bool:
    return site.warps == _num_warps(program)


def _share_warps(one: Site, other: Site) -> bool:
    return one.first < other.first + other.warps and other.first < one.first + one.warps
