"""Laws of the order on Blackwell: what a product, a promotion and a store must come after, and what must follow them.

Barriers and cursors obey Hopper's laws. On top of them, tensor memory is ordered by fences beside the barriers
(docs/hardware.md §5.8), and a mistake there is a race that no count shows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from gemmgen.backends.sm90 import math_ops as hopper_math
from gemmgen.backends.sm90 import ops as hopper
from gemmgen.backends.sm90.order_rules import check_barriers
from gemmgen.backends.sm90.sites import Program, Site, area_names
from gemmgen.backends.sm100 import hardware as hw
from gemmgen.backends.sm100.math_ops import FetchOp, PromoteOp, RowScaleOp, StoreColumnsOp, StoreRowsOp, TmaStoreOp
from gemmgen.backends.sm100.ops import (
    ArrangeScalesOp,
    CommitOp,
    FenceOp,
    GatherScalesOp,
    MmaOp,
    PublishScalesOp,
    ScaledMmaOp,
    ScaleFactorsOp,
    TmemAddressOp,
    TmemAllocOp,
    TmemFreeOp,
)
from gemmgen.errors import IRError
from gemmgen.ir.core import Op, Region, Value
from gemmgen.ir.verifier import fail

Loads = hopper.TmaLoadOp | hopper.TmaLoadScalesOp | hopper.CopyScalesOp
OfEveryCta = (
    hopper.ExpectOp, hopper.TmaLoadOp, hopper.TmaLoadScalesOp, hopper.CopyScalesOp, hopper.ReleaseOp, ArrangeScalesOp,
    GatherScalesOp, PublishScalesOp,
)  # fmt: skip
"""What each CTA of a pair does for itself; its share of barriers' arrivals and bytes is counted."""
ReadsStage = (
    MmaOp | RowScaleOp | PromoteOp | FetchOp | ScaleFactorsOp | ArrangeScalesOp | hopper_math.BlockScalesOp
)  # fmt: skip


def check_order(program: Program) -> None:
    """Check barriers, fences, the order within a step of K, and the way a tile leaves.

    Raises:
        IRError: the first law that is broken.
    """
    _check_hopper_only(program)
    arrivals = Counter[Value]()
    for site, op in program.all(CommitOp):
        if not site.elect:
            fail(op, "one thread commits its products", got=f"{site.threads} threads", need="sm100.warps with elect")
        arrivals[op.barriers] += op.cluster // op.ctas
    led = _check_leader(program)
    for site, op in program.all(PublishScalesOp):
        arrivals[op.barriers] += site.warps * (program.launch.cluster if op.barriers in led else 1)
    sums, shared = _Sums.of(program), _shared(program)
    own = frozenset(op.result for _, op in program.all(hopper.BarriersOp)) - shared
    filled_by = check_barriers(program, arrivals, own) | _arranged(program)
    writers = max((op.multicast for _, op in program.all(hopper.TmaLoadOp)), default=1)
    for _, op in program.all(CommitOp):
        wanted = (writers if op.barriers in shared else 1) * op.ctas
        if op.cluster != wanted:
            fail(op, "a commit tells every CTA that writes into the stage", got=op.cluster, need=wanted)
    for site, op in program.all(hopper.TileLoopOp):
        step = _Step(program, filled_by, sums)
        step.run(op.body)
        step.end(op)
        _check_epilogue(site, op)
    _check_life(program)


def _check_hopper_only(program: Program) -> None:
    """What Hopper's ops can say and Blackwell's emitters do not."""
    for _, op in program.all(hopper.ReleaseOp):
        if op.lanes:
            fail(op, "a warp releases once here", got="lanes=true", need="lanes=false")
    for _, op in program.all(hopper.WaitOp):
        if op.unless is not None:
            fail(op, "steps do not look ahead here", got=f"unless={op.unless}", need="a wait without it")


def _shared(program: Program) -> frozenset[Value]:
    """The barriers that say that stages are free into which other CTAs write, too."""
    cursors = {op.cursor for _, op in program.all(hopper.TmaLoadOp) if op.multicast > 1}
    return frozenset(op.barriers for _, op in program.all(hopper.WaitOp) if op.flip and op.cursor in cursors)


def _check_leader(program: Program) -> frozenset[Value]:
    """A pair's products, and waits for what both CTAs do, are its first CTA's; returns the barriers of the latter."""
    led = frozenset(op.result for _, op in program.all(hopper.BarriersOp) if op.leader)
    for site, op in program.all(MmaOp, CommitOp, ScaleFactorsOp, hopper.WaitOp):
        pair = op.barriers in led if isinstance(op, hopper.WaitOp) else op.ctas > 1
        if pair != site.leader and not (site.leader and isinstance(op, hopper.WaitOp)):
            fail(op, "what a pair does together its first CTA does, and nothing else", got=f"leader={site.leader}",
                 need=f"sm100.warps with leader={pair}")  # fmt: skip
    for site, op in program.all(*OfEveryCta):
        if site.leader:
            fail(op, "each CTA of a pair loads and reads for itself", got="the first CTA alone",
                 need="sm100.warps with leader=False")  # fmt: skip
    counts = {op.ctas for _, op in program.all(MmaOp, CommitOp, ScaleFactorsOp, TmemAllocOp, TmemFreeOp)}
    if (
        len(counts) > 1
        or not counts <= {1, program.launch.cluster, hw.PAIR}
        or (hw.PAIR in counts and program.launch.cluster != hw.PAIR)
    ):
        raise IRError("a kernel's products are one CTA's or a pair's", where=f"module @{program.module.name}",
                      got=f"ctas={sorted(counts)} in clusters of {program.launch.cluster}",
                      need=f"1, or {hw.PAIR} in clusters of {hw.PAIR}")  # fmt: skip
    return led


def _arranged(program: Program) -> dict[str, Value]:
    """The barrier that says that an area's scales are in the tensor core's order."""
    published = {site.role: op.barriers for site, op in program.all(PublishScalesOp)}
    filled: dict[str, Value] = {}
    for site, op in program.all(ArrangeScalesOp, GatherScalesOp):
        if site.role not in published or site.elect:
            fail(op, "a warp arranges scales, and says so", got="nobody learns of it", need=PublishScalesOp.NAME)
        filled[op.to] = published[site.role]
    return filled


@dataclass(frozen=True)
class _Sums:
    """The barriers of the accumulators: ``full`` say that a partial sum is complete, ``empty`` that it was read."""

    full: frozenset[Value]
    empty: frozenset[Value]

    @classmethod
    def of(cls, program: Program) -> _Sums:
        cursors = {op.parts for _, op in program.all(MmaOp)}
        full = {op.barriers for _, op in program.all(CommitOp) if op.cursor in cursors}
        empty = {op.barriers for _, op in program.all(hopper.WaitOp) if op.cursor in cursors and op.flip}
        return cls(frozenset(full), frozenset(empty))


@dataclass
class _Step:
    """One tile as its threads run it, with one step of K.

    ``fenced`` and ``closed``: the last op about tensor memory's order was a fence after, or before, a barrier.
    """

    program: Program
    filled_by: dict[str, Value]
    sums: _Sums
    waited: set[tuple[Value, bool]] = field(default_factory=set)
    expected: set[Value] = field(default_factory=set)
    released: set[Value] = field(default_factory=set)
    committed: set[Value] = field(default_factory=set)
    fenced: bool = False
    closed: bool = False
    published: bool = False
    touched: list[Op] = field(default_factory=list)
    scales: set[tuple[int, int]] = field(default_factory=set)

    def run(self, region: Region) -> None:
        """Follow the ops of a region."""
        for op in region.ops:
            match op:
                case hopper.WarpsOp() | hopper.KLoopOp():
                    self.run(op.body)
                case hopper.WaitOp():
                    self.waited.add((op.barriers, op.flip))
                    self.fenced = self.fenced and op.barriers not in self.sums.full | self.sums.empty
                case FenceOp():
                    self.fenced, self.closed = op.side == "after", op.side == "before"
                case hopper.ExpectOp():
                    self.expected.add(op.barriers)
                case hopper.TmaLoadOp() | hopper.TmaLoadScalesOp() | hopper.CopyScalesOp():
                    self._load(op)
                case GatherScalesOp():
                    self._arrange(op)
                case PublishScalesOp():
                    self.published = True
                case (
                    MmaOp() | RowScaleOp() | PromoteOp() | FetchOp() | ScaleFactorsOp() | ArrangeScalesOp()
                    | hopper_math.BlockScalesOp()
                ):  # fmt: skip
                    self._read(op)
                case CommitOp():
                    self._commit(op)
                case hopper.ReleaseOp():
                    self._release(op)

    def end(self, loop: Op) -> None:
        """The tile is over: whatever was waited for has been handed back."""
        promotes = any(isinstance(op, PromoteOp) for op in self.touched)
        if any(isinstance(op, MmaOp) for op in self.touched) and len(self.committed) < 2:
            fail(loop, "a product is committed to its operands' stage and to its accumulator",
                 got=f"{len(self.committed)} of them", need=2)  # fmt: skip
        held = {value for value, flip in self.waited if not flip} - self.committed
        if promotes and len(self.released) < len(held):
            fail(loop, "a promoting role releases the stage and the accumulator", got=f"{len(self.released)} of them",
                 need=len(held))  # fmt: skip
        if any(isinstance(op, FetchOp) for op in self.touched) and not self.released:
            fail(loop, "a sum that was read is released", got="no release behind it", need="sm100.release")

    def _need_free_stage(self, op: Op) -> None:
        if not any(flip for _, flip in self.waited):
            fail(op, "a load needs a free stage", got="no wait before it", need="sm100.wait with flip")

    def _arrange(self, op: ArrangeScalesOp | GatherScalesOp) -> None:
        self._need_free_stage(op)
        if self.published:
            fail(op, "words are written before they are announced", got=f"{op.NAME} after {PublishScalesOp.NAME}")

    def _load(self, op: Loads) -> None:
        self._need_free_stage(op)
        if not isinstance(op, hopper.CopyScalesOp) and op.barriers not in self.expected:
            fail(op, "bytes are expected before they are sent", got="no expect before it", need="sm100.expect")

    def _read(self, op: ReadsStage) -> None:
        for name in area_names(op):
            barriers = self.filled_by.get(name)
            if barriers is None:
                fail(op, f"nobody loads area '{name}'", got=name, need=", ".join(self.filled_by))
            if (barriers, False) not in self.waited:
                fail(op, f"area '{name}' is read before its stage is loaded", got="no wait before it",
                     need=f"sm100.wait for {barriers}")  # fmt: skip
            if self.released - self.sums.empty:
                fail(op, "a stage is not read after its release", got=f"{op.NAME} after sm100.release")
        if isinstance(op, ArrangeScalesOp):
            self._arrange(op)
        if isinstance(op, ScaleFactorsOp):
            self.scales.add((op.first, op.columns))
        if (
            isinstance(op, ScaledMmaOp)
            and not {(op.scale_a, op.scale_columns), (op.scale_b, op.scale_columns)} <= self.scales
        ):
            fail(op, "scales are copied to tensor memory before they are multiplied with", got=sorted(self.scales),
                 need=f"columns {op.scale_a} and {op.scale_b}, {op.scale_columns} per stage")  # fmt: skip
        if isinstance(op, MmaOp | PromoteOp | FetchOp):
            self._touch(op)

    def _touch(self, op: MmaOp | PromoteOp | FetchOp) -> None:
        """Tensor memory is used behind a barrier and the fence after it."""
        multiplies = isinstance(op, MmaOp)
        wanted = {(value, multiplies) for value in (self.sums.empty if multiplies else self.sums.full)}
        what = ("an accumulator is overwritten when its last sum has been read" if multiplies
                else "a partial sum is read when it is complete")  # fmt: skip
        if not wanted & self.waited:
            fail(op, what, got="no wait before it", need="sm100.wait for the accumulator's barrier")
        if not self.fenced:
            fail(op, what, got="no fence between the wait and it", need='sm100.fence {side="after"}')
        if not multiplies and self.released & self.sums.empty:
            fail(op, "a partial sum is not read after its release", got=f"{op.NAME} after sm100.release")
        self.touched.append(op)

    def _commit(self, op: CommitOp) -> None:
        if not any(isinstance(done, MmaOp) for done in self.touched):
            fail(op, "a commit follows the product that it announces", got="no product before it", need=MmaOp.NAME)
        self.committed.add(op.barriers)

    def _release(self, op: hopper.ReleaseOp) -> None:
        promoted = any(isinstance(done, PromoteOp | FetchOp) for done in self.touched)
        if op.barriers in self.sums.empty:
            if not promoted:
                fail(op, "a partial sum is released by those who read it", got="no promotion before it")
            if not self.closed:
                fail(op, "reads of tensor memory end before the release", got="no fence between them",
                     need='sm100.fence {side="before"}')  # fmt: skip
        elif all(flip for _, flip in self.waited):
            fail(op, "a stage is released by those who waited for it", got="no wait before it", need="sm100.wait")
        self.released.add(op.barriers)


def _check_epilogue(site: Site, loop: hopper.TileLoopOp) -> None:
    """A tile leaves through shared memory that is free, is published before it is read, and drained at the end."""
    state, stored = "busy", False
    for op in loop.body.ops:
        match op:
            case hopper_math.StagingWaitOp():
                state = "free"
            case StoreRowsOp() | StoreColumnsOp():
                if state != "free":
                    fail(op, "a staging tile is written when its last stores have read it", got=state,
                         need="sm100.staging_wait")  # fmt: skip
            case hopper_math.StagingPublishOp():
                state = "published"
            case TmaStoreOp():
                if state != "published":
                    fail(op, "the copy engine sees what was published", got=state, need="sm100.staging_publish")
                stored = True
            case hopper_math.StoreCommitOp():
                state = "busy"
    if stored and state != "busy":
        fail(loop, "stores of a tile are one group", got="no commit after them", need="sm100.store_commit")
    role = site.role.body.ops if site.role is not None else ()
    after = role[role.index(loop) :] if loop in role else ()
    if stored and not any(isinstance(op, hopper_math.StoreDrainOp) for op in after):
        fail(loop, "shared memory lives until all stores are done", got="no drain behind the tiles",
             need="sm100.store_drain")  # fmt: skip


def _check_life(program: Program) -> None:
    """Allocate, meet, learn the address, work, meet between two fences, free; a pair meets before it allocates."""
    order: list[str] = []
    pair = any(op.ctas > 1 for _, op in program.all(TmemAllocOp))
    names = {TmemAllocOp: "alloc", TmemAddressOp: "address", TmemFreeOp: "free", hopper.DispatchOp: "roles"}
    for op in program.module.body.ops:
        if isinstance(op, FenceOp):
            order.append(f"fence {op.side}")
        elif isinstance(op, hopper.SyncOp):
            order.append("sync")
        else:
            order += [name for kind, name in names.items() if isinstance(op, kind)]
    expected = [
        *(["sync"] if pair else []),
        "alloc",
        "sync",
        "address",
        "roles",
        "fence before",
        "sync",
        "fence after",
        "free",
    ]
    if order != expected:
        last = program.module.body.ops[-1]
        fail(last, "the life of tensor memory", got=", ".join(order), need=", ".join(expected))
