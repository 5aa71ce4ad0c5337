"""Ops of the Hopper target level: TMA, mbarrier, wgmma, setmaxnreg, stmatrix, distributed shared memory.

Every op is one statement or block of the generated kernel. Numbers that several ops share (stages, offsets, bytes) are
records in the module's attributes. A ``cursor`` is a role's place in a ring: a stage and the parity of its phase.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gemmgen.backends.sm90 import hardware as hw
from gemmgen.errors import IRError
from gemmgen.ir.attributes import register_record
from gemmgen.ir.core import Effect, Level, Op, Region, Value
from gemmgen.ir.dims import Dim
from gemmgen.ir.schema import attr, operand, operands, optional_operand, region, register_op, result

TARGET = frozenset({Level.TARGET})


@register_record("launch")
@dataclass(frozen=True)
class Launch:
    """Shape of the launch: threads per CTA, CTAs per cluster, shared memory, and what one scheduler tile covers."""

    threads: int
    cluster: int
    smem_bytes: int
    tile: tuple[int, ...]
    ctas_per_tile: int
    persistent: bool
    pdl: bool = False


@register_record("map")
@dataclass(frozen=True)
class TensorMap:
    """A TMA tensor map parameter: the operand it describes, its box (innermost first, elements) and its swizzle.

    ``transposed``: the operand's columns are contiguous, so its rows are the map's innermost axis.
    """

    arg: str
    operand: str
    dtype: str
    box: tuple[int, ...]
    swizzle: str
    transposed: bool = False


@register_record("area")
@dataclass(frozen=True)
class Area:
    """A named part of shared memory: ``stages`` pieces of ``stage_bytes`` from ``offset`` on."""

    name: str
    offset: int
    stage_bytes: int
    stages: int = 1


@dataclass(frozen=True)
class Sm90Op(Op):
    """Base of all ops of this target."""

    LEVELS: ClassVar[frozenset[Level]] = TARGET


@register_op
@dataclass(frozen=True)
class BarriersOp(Sm90Op):
    """One mbarrier per stage in area ``area``; a phase ends after ``arrivals`` arrivals and all expected bytes.

    ``leader``: those of the cluster's first CTA are everybody's, and only that CTA waits for them.
    """

    NAME: ClassVar[str] = "sm90.barriers"

    area: str = attr()
    arrivals: int = attr()
    leader: bool = attr(default=False)
    result: Value = result()


@register_op
@dataclass(frozen=True)
class InitBarriersOp(Sm90Op):
    """One thread initialises the barriers and makes them visible to the cluster and to the copy engine."""

    NAME: ClassVar[str] = "sm90.init_barriers"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.WRITES_BARRIER})

    barriers: tuple[Value, ...] = operands()


@register_op
@dataclass(frozen=True)
class SyncOp(Sm90Op):
    """All threads of the CTA, or of the cluster, meet; what each wrote before, all others may read afterwards.

    Warps may do so in different places: the first sync of one is the first of them all, the second the second.

    ``sm90.sync() {scope="cluster"}``
    """

    NAME: ClassVar[str] = "sm90.sync"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.CONTROL})

    scope: str = attr()

    def verify(self) -> None:
        """Scopes are cta and cluster."""
        if self.scope not in ("cta", "cluster"):
            raise IRError("scope of a sync", got=self.scope, need="cta or cluster")


@register_op
@dataclass(frozen=True)
class GridWaitOp(Sm90Op):
    """Wait until the kernels this launch depends on have finished and their writes are visible."""

    NAME: ClassVar[str] = "sm90.grid_wait"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.CONTROL})


@register_op
@dataclass(frozen=True)
class GridLaunchOp(Sm90Op):
    """Permit the kernels that depend on this launch to start."""

    NAME: ClassVar[str] = "sm90.grid_launch"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.CONTROL})


@register_op
@dataclass(frozen=True)
class DispatchOp(Sm90Op):
    """Each warp runs the one ``sm90.warps`` of the region that it belongs to."""

    NAME: ClassVar[str] = "sm90.dispatch"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.CONTROL})

    body: Region = region()

    def verify(self) -> None:
        """Branches are warps ops over warps that do not overlap."""
        end = -1
        for op in self.body.ops:
            if not isinstance(op, WarpsOp) or op.first < end:
                raise IRError("branches of a dispatch", got=op.NAME, need="sm90.warps in ascending order")
            end = op.first + op.count


@register_op
@dataclass(frozen=True)
class WarpsOp(Sm90Op):
    """Warps ``first`` … ``first + count − 1`` run the region; with ``elect`` one thread of the one warp does.

    ``leader``: only those of the cluster's first CTA.
    """

    NAME: ClassVar[str] = "sm90.warps"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.CONTROL})

    label: str = attr()
    first: int = attr()
    count: int = attr()
    elect: bool = attr(default=False)
    leader: bool = attr(default=False)
    body: Region = region()

    def verify(self) -> None:
        """Only a single warp can elect a thread."""
        if self.elect and self.count != 1:
            raise IRError("elect.sync elects one thread of one warp", got=f"{self.count} warps", need=1)


@register_op
@dataclass(frozen=True)
class SetRegistersOp(Sm90Op):
    """Change the registers per thread of this warpgroup to ``count``; ``grow`` waits for registers others gave up."""

    NAME: ClassVar[str] = "sm90.set_registers"

    count: int = attr()
    grow: bool = attr()


@register_op
@dataclass(frozen=True)
class CursorOp(Sm90Op):
    """A role's place in a ring, at stage 0: ``%at = sm90.cursor() : index``.

    ``steps``: a reader's place in stages that hold all steps of a tile; it counts them, from a stage's first.
    """

    NAME: ClassVar[str] = "sm90.cursor"

    steps: bool = attr(default=False)
    result: Value = result()


@register_op
@dataclass(frozen=True)
class AdvanceOp(Sm90Op):
    """Go to the next of ``stages`` stages; after the last one the parity turns."""

    NAME: ClassVar[str] = "sm90.advance"

    cursor: Value = operand()
    stages: int = attr()


@register_op
@dataclass(frozen=True)
class RunStepOp(Sm90Op):
    """Go to the next of the steps that the cursor's stage holds."""

    NAME: ClassVar[str] = "sm90.run_step"

    cursor: Value = operand()


@register_op
@dataclass(frozen=True)
class LoadedOp(Sm90Op):
    """Whether the stage of the step to come has been seen to be loaded; nothing has been seen yet."""

    NAME: ClassVar[str] = "sm90.loaded"

    result: Value = result()


@register_op
@dataclass(frozen=True)
class LookAheadOp(Sm90Op):
    """Point ``places`` at the stage that cursor ``moved`` has moved to; see whether it is loaded, without waiting."""

    NAME: ClassVar[str] = "sm90.look_ahead"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_BARRIER})

    barriers: Value = operand()
    moved: Value = operand()
    loaded: Value = operand()
    places: tuple[Value, ...] = operands()


@register_op
@dataclass(frozen=True)
class TileLoopOp(Sm90Op):
    """The output tiles of this CTA; see ``tile.for_tiles`` for what the attributes mean.

    ``inside_m``: where D has as many rows as a tile, the last tile starts early enough to end with D, up to 7 rows, so
    that boxes lie inside of the operands; rows that two tiles share get the same values from both. ``inside_n``
    likewise. With ``runs`` the region's column is where the tile's first run starts.
    """

    NAME: ClassVar[str] = "sm90.tile_loop"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.CONTROL})

    rows: Dim = attr()
    cols: Dim = attr()
    tile: tuple[int, ...] = attr()
    cluster: tuple[int, ...] = attr()
    split: int = attr()
    raster_group: int = attr()
    raster_along: str = attr()
    inside_m: bool = attr(default=False)
    inside_n: bool = attr(default=False)
    runs: tuple[int, ...] = attr(default=())
    body: Region = region()


@register_op
@dataclass(frozen=True)
class KLoopOp(Sm90Op):
    """The steps of K, ``run`` of them at a time; with ``parts`` > 1 those of this CTA's part.

    ``unroll`` steps follow each other in the code; 0 leaves it to the compiler.
    """

    NAME: ClassVar[str] = "sm90.k_loop"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.CONTROL})

    extent: Dim = attr()
    step: int = attr()
    parts: int = attr()
    run: int = attr(default=1)
    unroll: int = attr(default=0)
    body: Region = region()


@register_op
@dataclass(frozen=True)
class KOverlapOp(Sm90Op):
    """The steps of K, as in ``sm90.k_loop``, overlapped: a step is finished after the next one was started.

    Region ``start`` reads a step's scales and starts its products in the fragment that it is given; region ``finish``
    waits for them and promotes them. The fragments ``partials`` take turns, and so do registers for what is kept from
    one region to the other, which both get as further arguments.
    """

    NAME: ClassVar[str] = "sm90.k_overlap"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.CONTROL})

    partials: tuple[Value, ...] = operands()
    extent: Dim = attr()
    step: int = attr()
    parts: int = attr()
    start: Region = region()
    finish: Region = region()

    def verify(self) -> None:
        """Two fragments take turns, and each region gets one of them."""
        kinds = [value.type for value in self.partials]
        if len(kinds) != 2 or kinds[0] != kinds[1]:
            raise IRError("fragments that take turns", got=[str(kind) for kind in kinds], need="two of one type")
        started, finished = ([value.type for value in inner.args] for inner in self.all_regions)
        if started != finished or started[:1] != kinds[:1]:
            raise IRError("both regions get a fragment and what is kept beside it",
                          got=[str(kind) for kind in finished],
                          need=[str(kind) for kind in (*kinds[:1], *started[1:])])  # fmt: skip


@register_op
@dataclass(frozen=True)
class WaitOp(Sm90Op):
    """Wait for the cursor's phase of a barrier to end; ``flip`` waits for the phase before it (a free stage).

    ``unless``: what ``sm90.look_ahead`` saw in the step before; a phase that had ended then is not waited for.
    """

    NAME: ClassVar[str] = "sm90.wait"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_BARRIER})

    barriers: Value = operand()
    cursor: Value = operand()
    unless: Value | None = optional_operand()
    flip: bool = attr()


@register_op
@dataclass(frozen=True)
class EvictFirstOp(Sm90Op):
    """A cache policy: lines that are loaded with it leave L2 before others: ``%policy = sm90.evict_first() : i64``."""

    NAME: ClassVar[str] = "sm90.evict_first"

    result: Value = result()


@register_op
@dataclass(frozen=True)
class ExpectOp(Sm90Op):
    """Arrive, and expect ``transfer_bytes`` of bulk loads in this phase, whoever sends them."""

    NAME: ClassVar[str] = "sm90.expect"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.WRITES_BARRIER})

    barriers: Value = operand()
    cursor: Value = operand()
    transfer_bytes: int = attr()


@register_op
@dataclass(frozen=True)
class TmaLoadOp(Sm90Op):
    """Load ``rows`` rows into area ``area`` of the cursor's stage; zeros arrive where they lie outside of the operand.

    Rows wider than a swizzle span are loaded as ``slabs`` boxes of ``row_bytes`` per row, one behind the other.
    ``multicast`` > 1: this CTA loads its share of the rows and writes it to all CTAs of the cluster; with ``leader``
    the first CTA loads them all. Of rows that are dealt in runs they are those of number ``run``, and go behind the
    first ``at`` rows of the area. ``policy`` says how long L2 keeps what is read.
    """

    NAME: ClassVar[str] = "sm90.tma_load"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_GMEM, Effect.WRITES_SMEM})

    map: Value = operand()
    barriers: Value = operand()
    cursor: Value = operand()
    row: Value = operand()
    col: Value = operand()
    policy: Value | None = optional_operand()
    area: str = attr()
    rows: int = attr()
    row_bytes: int = attr()
    multicast: int = attr(default=1)
    leader: bool = attr(default=False)
    slabs: int = attr(default=1)
    run: int = attr(default=0)
    at: int = attr(default=0)

    @property
    def share_rows(self) -> int:
        """Rows that one CTA loads."""
        return self.rows if self.leader else self.rows // self.multicast


@register_op
@dataclass(frozen=True)
class TmaLoadScalesOp(Sm90Op):
    """Load the scales of ``count`` rows from ``row`` on, for the block of columns that holds ``col``, into ``area``.

    ``multicast`` > 1: the first CTA does so for all CTAs of the cluster.
    """

    NAME: ClassVar[str] = "sm90.tma_load_scales"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_GMEM, Effect.WRITES_SMEM})

    map: Value = operand()
    barriers: Value = operand()
    cursor: Value = operand()
    row: Value = operand()
    col: Value = operand()
    area: str = attr()
    count: int = attr()
    block: tuple[int, ...] = attr()
    multicast: int = attr(default=1)


@register_op
@dataclass(frozen=True)
class CopyScalesOp(Sm90Op):
    """The lanes of a warp copy ``count`` scales, from block (row / block[0], col / block[1]) on, 4 bytes each.

    ``source`` has ``limit`` rows of scales; those beyond arrive as zeros. Strides are in elements. With ``run`` > 0
    they copy those of that many steps of K from ``col`` on, which lie side by side; ``source`` has ``columns`` of them.
    With ``runs`` the rows are dealt in runs of such widths, and each has a scale.
    """

    NAME: ClassVar[str] = "sm90.copy_scales"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_GMEM, Effect.WRITES_SMEM})

    source: Value = operand()
    row_stride: Value = operand()
    col_stride: Value = operand()
    cursor: Value = operand()
    row: Value = operand()
    col: Value = operand()
    area: str = attr()
    count: int = attr()
    block: tuple[int, ...] = attr()
    limit: Dim = attr()
    run: int = attr(default=0)
    columns: Dim = attr(default=0)
    runs: tuple[int, ...] = attr(default=())


@register_op
@dataclass(frozen=True)
class CopyArriveOp(Sm90Op):
    """Each of the ``lanes`` that copy arrives at the barrier once its copies have landed."""

    NAME: ClassVar[str] = "sm90.copy_arrive"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.WRITES_BARRIER})

    barriers: Value = operand()
    cursor: Value = operand()
    lanes: int = attr()


@register_op
@dataclass(frozen=True)
class ReleaseOp(Sm90Op):
    """Each warp arrives at the barrier of every one of ``cluster`` CTAs, once.

    With ``lanes`` every lane arrives at its own CTA's, for itself, because ordinary copies fill the stage anew:
    compute-sanitizer's racecheck does not follow other lanes' reads through ``__syncwarp`` and one lane's arrival.
    """

    NAME: ClassVar[str] = "sm90.release"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.WRITES_BARRIER})

    barriers: Value = operand()
    cursor: Value = operand()
    cluster: int = attr()
    lanes: bool = attr(default=False)

    @property
    def arrivals(self) -> int:
        """How often a warp's releases arrive at one of the barriers."""
        return hw.warp_arrivals(self.cluster, self.lanes)
