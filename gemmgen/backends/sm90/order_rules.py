"""Laws of Hopper's barriers: who arrives how often, how many bytes are expected, and what must be waited for first.

A wrong count is a deadlock or a race that shows only on the GPU, so all of it is proved on the module here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from gemmgen.backends.sm90 import hardware as hw
from gemmgen.backends.sm90 import math_ops
from gemmgen.backends.sm90.lookahead_rules import check_lookahead
from gemmgen.backends.sm90.ops import (
    AdvanceOp,
    BarriersOp,
    CopyArriveOp,
    CopyScalesOp,
    CursorOp,
    ExpectOp,
    InitBarriersOp,
    KLoopOp,
    KOverlapOp,
    ReleaseOp,
    RunStepOp,
    SyncOp,
    TileLoopOp,
    TmaLoadOp,
    TmaLoadScalesOp,
    WaitOp,
    WarpsOp,
)
from gemmgen.backends.sm90.overlap_rules import check_overlap, check_places
from gemmgen.backends.sm90.sites import READS_STAGE, Program, Site, area_names, landing_bytes
from gemmgen.backends.sm90.sync_rules import check_syncs
from gemmgen.ir.core import Op, Region, Value
from gemmgen.ir.rewrite import walk
from gemmgen.ir.types import BarrierType
from gemmgen.ir.verifier import fail

MAX_TRANSFER_BYTES = (1 << 20) - 1
NAMED_BARRIERS = 16


def check_order(program: Program) -> None:
    """Check barriers, cursors, the order within a step of K, and the way a tile leaves.

    Raises:
        IRError: the first law that is broken.
    """
    filled_by = check_barriers(program, Counter())
    check_runs(program)
    for site, op in program.all(KLoopOp):
        step = _Step(program, filled_by, site)
        step.run(op.body, frozenset((barriers, False) for barriers in held_for_tile(site)))
        step.end(op)
    check_places(program)
    check_lookahead(program)
    for site, op in program.all(KOverlapOp):
        check_overlap(program, filled_by, op, held_for_tile(site))
    for site, op in program.all(TileLoopOp):
        _check_epilogue(program, site, op)


def check_barriers(program: Program, others: Counter[Value], own: frozenset[Value] = frozenset()) -> dict[str, Value]:
    """Check barriers and cursors, for every target that has Hopper's.

    Args:
        program: the module.
        others: arrivals per phase that ops of the target's own add, by barrier.
        own: barriers of stages that no other CTA writes into.

    Returns:
        The barrier that says that an area's stage is loaded, by area.

    Raises:
        IRError: the first law that is broken.
    """
    declared = _declared_barriers(program)
    check_syncs(program)
    for barriers in declared.values():
        _check_arrivals(program, barriers, others[barriers.result], shared=barriers.result not in own)
    filled_by = _filled_by(program)
    for _, op in program.all(KLoopOp, KOverlapOp):
        for region in op.all_regions:
            _check_cursors(program, region)
    return filled_by


def _declared_barriers(program: Program) -> dict[Value, BarriersOp]:
    """Every group of barriers has its area, is initialised once, and is used by barrier ops only if it exists."""
    declared = {op.result: op for _, op in program.all(BarriersOp)}
    initialised = Counter(value for _, op in program.all(InitBarriersOp) for value in op.barriers)
    for value, op in declared.items():
        area = program.area(op, op.area)
        stages = value.type.count if isinstance(value.type, BarrierType) else 0
        if (area.stages, area.stage_bytes, area.offset % 8) != (stages, 8, 0):
            got = f"{area.stages} × {area.stage_bytes} bytes at {area.offset}"
            fail(op, f"area '{op.area}' holds {value}", got=got, need=f"{stages} × 8 bytes, aligned to 8")
        if initialised[value] != 1:
            fail(op, f"{value} is initialised once", got=initialised[value], need=1)
    for site in program.sites:
        held = getattr(site.op, "barriers", ())
        for value in held if isinstance(held, tuple) else (held,):
            if value not in declared:
                fail(site.op, f"{value} is not a barrier", got=value.type, need=f"the result of {BarriersOp.NAME}")
    return declared


def _check_arrivals(program: Program, declared: BarriersOp, others: int, *, shared: bool) -> None:
    """A phase ends after exactly the arrivals that happen in a step, and the bytes that land in this CTA's stage.

    At a barrier of the cluster's first CTA all of them arrive, and all their bytes are counted; that CTA expects them.
    """
    value, arrivals = declared.result, others
    ctas = program.launch.cluster if declared.leader else 1
    for site, op in program.all(ExpectOp, CopyArriveOp, ReleaseOp):
        if op.barriers != value:
            continue
        if isinstance(op, ReleaseOp) and op.lanes and site.elect:
            fail(op, "every lane of a warp releases", got="one thread", need="sm90.warps without elect")
        if isinstance(op, ExpectOp):
            arrivals += site.threads
        elif isinstance(op, CopyArriveOp):
            arrivals += site.warps * op.lanes * ctas
        else:
            arrivals += site.warps * op.arrivals * ctas
    if arrivals != declared.arrivals:
        fail(
            declared,
            f"arrivals at {value} in a phase",
            got=declared.arrivals,
            need=f"{arrivals}, which the ops add up to",
        )
    expects = [op for _, op in program.all(ExpectOp) if op.barriers == value]
    loads = [op for _, op in program.all(TmaLoadOp, TmaLoadScalesOp) if op.barriers == value]
    landing = sum(landing_bytes(op) for op in loads) * ctas
    if loads and len(expects) != 1:
        fail(loads[0], f"bytes that arrive at {value} are expected once", got=f"{len(expects)} sm90.expect", need=1)
    for op in expects:
        if op.transfer_bytes != landing or landing > MAX_TRANSFER_BYTES:
            fail(
                op,
                f"bytes expected at {value} in a phase",
                got=op.transfer_bytes,
                need=f"{landing}, which the loads deliver, below 1 MiB",
            )
    filling = {site.first for site, op in program.all(WaitOp) if op.flip and op.barriers == value}
    multicasts = [op.multicast for site, op in program.all(TmaLoadOp) if site.first in filling]
    writers = max(multicasts, default=1) if shared else 1
    for _, op in program.all(ReleaseOp):
        if op.barriers == value and op.cluster != writers:
            fail(op, "a stage is released to every CTA that writes into it", got=op.cluster, need=writers)


def _filled_by(program: Program) -> dict[str, Value]:
    """The barrier that says that an area's stage is loaded."""
    filled: dict[str, Value] = {}
    open_areas: dict[int, list[CopyScalesOp]] = {}
    for site, op in program.all(TmaLoadOp, TmaLoadScalesOp, CopyScalesOp, CopyArriveOp):
        copies = open_areas.setdefault(site.first, [])
        if isinstance(op, TmaLoadOp | TmaLoadScalesOp):
            filled[op.area] = op.barriers
        elif isinstance(op, CopyScalesOp):
            copies.append(op)
        else:
            if not copies:
                fail(op, "lanes arrive for their copies", got="no copies before it", need=CopyScalesOp.NAME)
            copying = hw.copying_lanes([copy.count * max(1, copy.run) for copy in copies])
            if not copying <= op.lanes <= hw.WARP_THREADS or site.elect:
                got = "one thread" if site.elect else f"{op.lanes} lanes"
                fail(op, "every lane that copies arrives", got=got, need=f"{copying} to {hw.WARP_THREADS} lanes")
            filled.update((copy.area, op.barriers) for copy in copies)
            copies.clear()
    for copies in open_areas.values():
        if copies:
            fail(
                copies[0],
                "nobody learns that these copies have landed",
                got="no arrival",
                need=f"{CopyArriveOp.NAME} after them",
            )
    return filled


def _check_cursors(program: Program, steps: Region) -> None:
    """Every cursor that a step uses starts before the loops, and moves on once, as the step's last use of it."""
    moved: dict[Value, AdvanceOp | RunStepOp] = {}
    inside = {op.result for site, op in program.all(CursorOp) if site.tiles is not None or site.steps is not None}
    for op in steps.ops:
        for cursor in (value for inner in walk(op) if (value := getattr(inner, "cursor", None)) is not None):
            if cursor in moved:
                what = (
                    "a cursor moves once in a step"
                    if isinstance(op, AdvanceOp | RunStepOp)
                    else "a cursor moves after its last use"
                )
                fail(
                    op,
                    f"{what}: {cursor}",
                    got=f"{op.NAME} after {AdvanceOp.NAME}",
                    need=f"one {AdvanceOp.NAME} at the end",
                )
        if isinstance(op, AdvanceOp | RunStepOp):
            moved[op.cursor] = op
    for op in walk(steps):
        cursor = getattr(op, "cursor", None)
        if cursor is None:
            continue
        if cursor in inside:
            fail(
                op,
                f"{cursor} goes on from tile to tile",
                got="a cursor made inside of a loop",
                need="one before the loops",
            )
        if cursor not in moved:
            fail(op, f"{cursor} stays where it is", got=f"no {AdvanceOp.NAME} in the step", need=1)
        move = moved[cursor]
        for name in (*area_names(op), *_barrier_areas(program, op)):
            if isinstance(move, AdvanceOp) and program.area(op, name).stages != move.stages:
                fail(
                    move,
                    f"{cursor} moves through area '{name}'",
                    got=f"{move.stages} stages",
                    need=program.area(op, name).stages,
                )


def held_for_tile(site: Site) -> set[Value]:
    """The barriers that the threads of a loop over K have waited for before it: of stages for all steps of a tile."""
    tiles = site.tiles.body.ops if site.tiles is not None else ()
    before = tiles[: tiles.index(site.op)] if site.op in tiles else ()
    waits = {op.barriers for op in before if isinstance(op, WaitOp) and not op.flip}
    return waits - {op.barriers for op in before if isinstance(op, ReleaseOp)}


def check_runs(program: Program) -> None:
    """Check stages that hold all steps of a tile: who reads them counts the steps, and takes one stage per tile.

    Raises:
        IRError: the first law that is broken.
    """
    counting = {op.result for _, op in program.all(CursorOp) if op.steps}
    runs = {op.area: op.run for _, op in program.all(CopyScalesOp)}
    for site, op in program.all(CopyScalesOp):
        _check_run(op, site.steps)
    for site, op in program.all(WaitOp, ReleaseOp, AdvanceOp, RunStepOp):
        if op.cursor in counting and isinstance(op, RunStepOp) != (site.steps is not None):
            fail(op, f"{op.cursor} is in one stage for all steps of a tile",
                 got=f"{op.NAME} {'in' if site.steps is not None else 'outside of'} a step",
                 need=f"{RunStepOp.NAME} in a step, all else around the loop")  # fmt: skip
    for _, op in program.all(RunStepOp, math_ops.BlockScalesOp):
        counts = isinstance(op, RunStepOp) or op.run > 0
        if counts != (op.cursor in counting):
            fail(op, f"{op.cursor} counts the steps of a stage", got="a cursor that does not" if counts else "a cursor "
                 "that does", need=f"{CursorOp.NAME} with steps={str(counts).lower()}")  # fmt: skip
        if isinstance(op, math_ops.BlockScalesOp) and op.run != runs.get(op.area, 0):
            fail(op, f"area '{op.area}' is read as it was loaded", got=f"{op.run} steps in a stage",
                 need=runs.get(op.area, 0))  # fmt: skip
    for site, op in program.all(KLoopOp, KOverlapOp):
        for barriers in held_for_tile(site):
            _check_held(site, op, barriers)


def _check_run(op: CopyScalesOp, loop: KLoopOp | KOverlapOp | None) -> None:
    """A loop loads what its stages hold: one step at a time, or all of a tile's at once."""
    run = max(1, op.run)
    if not isinstance(loop, KLoopOp) or run != loop.run:
        got = f"{loop.run} in a turn" if isinstance(loop, KLoopOp) else "another loop"
        fail(op, "a loop takes as many steps at a time as its copies", got=got, need=run)
    most = -(-loop.extent // (loop.step * loop.parts)) if isinstance(loop.extent, int) else "K to be known"
    if op.run and op.run != most:
        fail(op, "a stage holds all steps of a tile", got=op.run, need=most)


def _check_held(site: Site, loop: KLoopOp | KOverlapOp, barriers: Value) -> None:
    """What was waited for before a loop over K is released after it, and its cursor goes on to the next stage."""
    tiles = site.tiles.body.ops if site.tiles is not None else ()
    waits = [op for op in tiles if isinstance(op, WaitOp) and op.barriers == barriers]
    cursor, after = waits[0].cursor, tiles[tiles.index(loop) :]
    kinds = [type(op) for op in after if getattr(op, "cursor", None) == cursor]
    if len(waits) != 1 or kinds != [ReleaseOp, AdvanceOp]:
        fail(loop, "a stage for a whole tile is waited for once, released after the last step, and left behind",
             got=", ".join(kind.NAME for kind in kinds) or "nothing after the steps",
             need=f"{ReleaseOp.NAME}, {AdvanceOp.NAME}")  # fmt: skip
    stages = barriers.type.count if isinstance(barriers.type, BarrierType) else 0
    for move in after:
        if isinstance(move, AdvanceOp) and move.cursor == cursor and move.stages != stages:
            fail(move, f"{cursor} moves through its ring", got=f"{move.stages} stages", need=stages)


def _barrier_areas(program: Program, op: Op) -> tuple[str, ...]:
    value = getattr(op, "barriers", None)
    return tuple(declared.area for _, declared in program.all(BarriersOp) if declared.result == value)


@dataclass
class _Step:
    """One step of K as its threads run it: what has been waited for, and which products are under way."""

    program: Program
    filled_by: dict[str, Value]
    site: Site
    pending: dict[Value, Op] = field(default_factory=dict)
    waits: int = 0
    releases: int = 0

    def run(self, region: Region, waited: frozenset[tuple[Value, bool]]) -> None:
        """Follow ``region``; what a branch waits for is known to its own threads only."""
        expected: set[Value] = set()
        for op in region.ops:
            self._check_pending(op)
            if isinstance(op, WarpsOp):
                self.run(op.body, waited)
            elif isinstance(op, WaitOp):
                waited |= {(op.barriers, op.flip)}
                self.waits += not op.flip
            elif isinstance(op, ExpectOp):
                expected.add(op.barriers)
            elif isinstance(op, READS_STAGE):
                self._check_read(op, waited)
            elif isinstance(op, TmaLoadOp | TmaLoadScalesOp | CopyScalesOp):
                if not any(flip for _, flip in waited):
                    fail(op, "a load needs a free stage", got="no wait before it", need=f"{WaitOp.NAME} with flip")
                if isinstance(op, TmaLoadOp | TmaLoadScalesOp) and op.barriers not in expected:
                    fail(op, "bytes are expected before they are sent", got="no expect before it", need=ExpectOp.NAME)
            elif isinstance(op, ReleaseOp):
                self._release(op, waited)

    def end(self, loop: KLoopOp) -> None:
        """The step is over."""
        for value, op in self.pending.items():
            fail(
                op,
                f"{value} belongs to the tensor core until a wait",
                got="the end of the step",
                need=math_ops.WgmmaWaitOp.NAME,
            )
        if self.waits != self.releases:
            fail(
                loop, "every stage that is waited for is released", got=f"{self.waits} waits, {self.releases} releases"
            )

    def _check_pending(self, op: Op) -> None:
        """No thread touches registers that a wgmma under way reads or writes."""
        if isinstance(op, math_ops.WgmmaWaitOp):
            if op.pending == 0:
                self.pending.clear()
            return
        for value in op.all_operands:
            if value in self.pending and not (isinstance(op, math_ops.WgmmaOp) and op.accumulate):
                fail(
                    op,
                    f"{value} belongs to the tensor core until a wait",
                    got=f"{op.NAME} before it",
                    need=math_ops.WgmmaWaitOp.NAME,
                )
        if isinstance(op, math_ops.WgmmaOp):
            self.pending[op.part] = op

    def _check_read(self, op: Op, waited: frozenset[tuple[Value, bool]]) -> None:
        for name in area_names(op):
            barriers = self.filled_by.get(name)
            if barriers is None:
                fail(op, f"nobody loads area '{name}'", got=name, need=", ".join(self.filled_by))
            if (barriers, False) not in waited:
                fail(
                    op,
                    f"area '{name}' is read before its stage is loaded",
                    got="no wait before it",
                    need=f"{WaitOp.NAME} for {barriers}",
                )
        if self.releases:
            fail(op, "a stage is not read after its release", got=f"{op.NAME} after {ReleaseOp.NAME}")

    def _release(self, op: ReleaseOp, waited: frozenset[tuple[Value, bool]]) -> None:
        if all(flip for _, flip in waited):
            fail(op, "a stage is released by those who waited for it", got="no wait before it", need=WaitOp.NAME)
        if self.pending:
            fail(
                op,
                "a stage is released while a wgmma reads it",
                got=f"{len(self.pending)} under way",
                need=math_ops.WgmmaWaitOp.NAME,
            )
        self.releases += 1


def _check_epilogue(program: Program, site: Site, loop: TileLoopOp) -> None:
    """A tile leaves through shared memory that is free, is published before it is read, and drained at the end."""
    state = "busy"
    written = met = stored = False
    for op in loop.body.ops:
        match op:
            case math_ops.StagingWaitOp():
                state = "free"
            case math_ops.StoreRowsOp() | math_ops.StoreColumnsOp():
                _need(
                    op,
                    state == "free",
                    "a staging tile is written when its last stores have read it",
                    math_ops.StagingWaitOp,
                )
            case math_ops.StagingPublishOp():
                state = "published"
            case math_ops.TmaStoreOp():
                _need(op, state == "published", "the copy engine sees what was published", math_ops.StagingPublishOp)
                stored = True
            case math_ops.StoreCommitOp():
                state, stored = "busy", False
            case math_ops.GroupSyncOp():
                _check_named_barrier(program, site, op)
                state = "together"
            case math_ops.WritePartialOp():
                _need(
                    op,
                    state == "together",
                    "partial sums go over stages that all warps are done with",
                    math_ops.GroupSyncOp,
                )
                written, met = True, False
            case SyncOp(scope="cluster"):
                met = written
            case math_ops.ReduceStoreOp():
                _need(op, met, "partial sums are read when all CTAs have written theirs and met", SyncOp)
                if op.parts != loop.split:
                    fail(op, "all partial sums of a tile are added", got=op.parts, need=loop.split)
    if stored:
        fail(loop, "stores of a tile are one group", got="no commit after them", need=math_ops.StoreCommitOp.NAME)
    stores = any(isinstance(op, math_ops.TmaStoreOp) for op in loop.body.ops)
    role = site.role.body.ops if site.role is not None else ()
    if stores and not any(
        isinstance(op, math_ops.StoreDrainOp) for op in role[role.index(loop) if loop in role else 0 :]
    ):
        fail(
            loop,
            "shared memory lives until all stores are done",
            got="no drain behind the tiles",
            need=math_ops.StoreDrainOp.NAME,
        )


def _check_named_barrier(program: Program, site: Site, op: math_ops.GroupSyncOp) -> None:
    """Ids up to the number of warpgroups belong to the warpgroups themselves, 0 to the CTA."""
    if op.threads != site.threads:
        fail(op, "all threads of the role meet", got=op.threads, need=site.threads)
    if not site.groups < op.id < NAMED_BARRIERS:
        fail(op, "id of a named barrier", got=op.id, need=f"{site.groups + 1} to {NAMED_BARRIERS - 1}")


def _need(op: Op, holds: bool, what: str, before: type[Op]) -> None:
    if not holds:
        fail(op, what, got=f"no {before.NAME} before it", need=before.NAME)
