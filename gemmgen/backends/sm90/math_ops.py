"""Ops of the Hopper target level that compute and store: wgmma, promotion, stmatrix, TMA stores, cluster reduction.

Fragments here are per warpgroup: frag<f32, [64, columns]>. A tile taller than 64 rows per warpgroup is several
``waves``; warpgroup g owns rows (g · waves + wave) · 64 … + 63 of the tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gemmgen.backends.sm90 import hardware as hw
from gemmgen.backends.sm90.ops import Sm90Op
from gemmgen.ir.core import Effect, Value
from gemmgen.ir.dims import Dim
from gemmgen.ir.schema import attr, operand, operands, optional_operand, register_op, result
from gemmgen.ir.types import SCALAR_BITS


@register_op
@dataclass(frozen=True)
class ThreadPositionOp(Sm90Op):
    """Where this thread sits in its warpgroup's fragments: its warpgroup, first row, and place in a quad."""

    NAME: ClassVar[str] = "sm90.thread_position"


@register_op
@dataclass(frozen=True)
class ZeroOp(Sm90Op):
    """A fragment of zeros."""

    NAME: ClassVar[str] = "sm90.zero"

    result: Value = result()


@register_op
@dataclass(frozen=True)
class DescriptorOp(Sm90Op):
    """The shared-memory descriptor of area ``area`` in stage 0, as wgmma takes it.

    ``waves``, ``wave`` and the warpgroup choose 64 of its rows; with ``waves`` 0 it is used whole. ``row_bytes``,
    ``span`` and ``dtype`` are those of ``sm90.wgmma``.
    """

    NAME: ClassVar[str] = "sm90.descriptor"

    area: str = attr()
    dtype: str = attr()
    row_bytes: int = attr()
    span: int = attr(default=0)
    waves: int = attr(default=0)
    wave: int = attr(default=0)
    result: Value = result()


@register_op
@dataclass(frozen=True)
class PlaceOp(Sm90Op):
    """Where something of area ``area`` is in the stage of the step to come, at first in stage 0.

    That is the low word of descriptor ``base``, or else the address of this thread's row scales of a wave.
    ``sm90.look_ahead`` moves it from stage to stage.
    """

    NAME: ClassVar[str] = "sm90.place"

    base: Value | None = optional_operand()
    area: str = attr()
    waves: int = attr(default=0)
    wave: int = attr(default=0)
    result: Value = result()


@register_op
@dataclass(frozen=True)
class StageDescriptorOp(Sm90Op):
    """A descriptor of area ``area`` moved to the cursor's stage, before a wait: it does not need what is loaded.

    With ``place`` that has been worked out in the step before.
    """

    NAME: ClassVar[str] = "sm90.stage_descriptor"

    base: Value = operand()
    cursor: Value = operand()
    place: Value | None = optional_operand()
    area: str = attr()
    result: Value = result()


@register_op
@dataclass(frozen=True)
class WgmmaOp(Sm90Op):
    """Start ``part = a · bᵀ`` of the cursor's stage: ``steps`` wgmma of 32 bytes of K, one group.

    ``waves``, ``wave`` and the warpgroup choose 64 rows of a; b is used whole; ``desc_a`` and ``desc_b`` say where both
    are. Rows are ``row_bytes`` long, swizzled.
    ``a_span`` > 0: rows of a follow each other along K, in slabs of so many bytes of M; ``b_span`` likewise.
    ``part`` is overwritten; waves share its registers, since one fragment more would not fit. With ``accumulate``
    the products are added to it instead, as the tensor core adds.
    """

    NAME: ClassVar[str] = "sm90.wgmma"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_SMEM})

    part: Value = operand()
    cursor: Value = operand()
    desc_a: Value = operand()
    desc_b: Value = operand()
    a: str = attr()
    b: str = attr()
    a_dtype: str = attr()
    b_dtype: str = attr()
    steps: int = attr()
    row_bytes: int = attr()
    waves: int = attr()
    wave: int = attr()
    accumulate: bool = attr(default=False)
    a_span: int = attr(default=0)
    b_span: int = attr(default=0)

    @property
    def item_bytes(self) -> int:
        """Bytes of an element of a and b."""
        return SCALAR_BITS[self.a_dtype] // 8

    @property
    def k(self) -> int:
        """Elements of K that one wgmma takes."""
        return hw.MMA_K_BYTES // self.item_bytes


@register_op
@dataclass(frozen=True)
class WgmmaWaitOp(Sm90Op):
    """Wait until at most ``pending`` groups are under way; ``values`` may then be touched."""

    NAME: ClassVar[str] = "sm90.wgmma_wait"

    values: tuple[Value, ...] = operands()
    pending: int = attr()


@register_op
@dataclass(frozen=True)
class WgmmaWaitOlderOp(Sm90Op):
    """Wait until no group is under way but the one started after ``values``; there is none behind the last step."""

    NAME: ClassVar[str] = "sm90.wgmma_wait_older"

    values: tuple[Value, ...] = operands()


@register_op
@dataclass(frozen=True)
class KeepOp(Sm90Op):
    """Copy ``value`` to registers that outlive the region."""

    NAME: ClassVar[str] = "sm90.keep"

    value: Value = operand()
    kept: Value = operand()


@register_op
@dataclass(frozen=True)
class RowScalesOp(Sm90Op):
    """This thread's two row scales of the wave, from the cursor's stage; one scale per row.

    With ``place`` their address has been worked out in the step before.
    """

    NAME: ClassVar[str] = "sm90.row_scales"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_SMEM})

    cursor: Value = operand()
    place: Value | None = optional_operand()
    area: str = attr()
    waves: int = attr()
    wave: int = attr()
    result: Value = result()


@register_op
@dataclass(frozen=True)
class ColumnScalesOp(Sm90Op):
    """This thread's column scales, two for every 8 columns of the tile; one scale per column."""

    NAME: ClassVar[str] = "sm90.column_scales"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_SMEM})

    cursor: Value = operand()
    area: str = attr()
    result: Value = result()


@register_op
@dataclass(frozen=True)
class BlockScalesOp(Sm90Op):
    """The scales of the blocks that the tile touches along one axis; of the cursor's step, if a stage holds ``run``."""

    NAME: ClassVar[str] = "sm90.block_scales"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_SMEM})

    cursor: Value = operand()
    area: str = attr()
    run: int = attr(default=0)
    result: Value = result()


@register_op
@dataclass(frozen=True)
class PromoteRowsOp(Sm90Op):
    """``acc += part · row scale · block scale``: a scale per row, and one per block of ``block`` columns.

    With ``runs`` the columns are dealt in runs of such widths, and each has one of the block scales.
    """

    NAME: ClassVar[str] = "sm90.promote_rows"

    acc: Value = operand()
    part: Value = operand()
    rows: Value = operand()
    blocks: Value = operand()
    first: Value = operand()
    block: int = attr()
    runs: tuple[int, ...] = attr(default=())


@register_op
@dataclass(frozen=True)
class PromoteColumnsOp(Sm90Op):
    """``acc += part · block scale · column scale``: one block scale for all rows, and a scale per column."""

    NAME: ClassVar[str] = "sm90.promote_columns"

    acc: Value = operand()
    part: Value = operand()
    blocks: Value = operand()
    columns: Value = operand()


@register_op
@dataclass(frozen=True)
class AddPartOp(Sm90Op):
    """``acc += part`` in FP32."""

    NAME: ClassVar[str] = "sm90.add_part"

    acc: Value = operand()
    part: Value = operand()


@register_op
@dataclass(frozen=True)
class ScaleOp(Sm90Op):
    """Multiply a fragment by a scale per row and a scale per column, read from global memory.

    Row i of the fragment has scale ``row_scale[(row + i) · row_stride]`` if that lies below ``rows``, else zero;
    columns likewise.
    """

    NAME: ClassVar[str] = "sm90.scale"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_GMEM})

    value: Value = operand()
    row_scale: Value = operand()
    row_stride: Value = operand()
    col_scale: Value = operand()
    col_stride: Value = operand()
    row: Value = operand()
    col: Value = operand()
    rows: Dim = attr()
    cols: Dim = attr()
    waves: int = attr()
    wave: int = attr()


@register_op
@dataclass(frozen=True)
class StagingWaitOp(Sm90Op):
    """The warpgroup waits until its earlier TMA stores have read the staging tile."""

    NAME: ClassVar[str] = "sm90.staging_wait"


@register_op
@dataclass(frozen=True)
class StoreRowsOp(Sm90Op):
    """Round a fragment to ``dtype`` and write it to the staging tile, slab by slab of ``slab`` swizzled columns."""

    NAME: ClassVar[str] = "sm90.store_rows"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.WRITES_SMEM})

    value: Value = operand()
    area: str = attr()
    slab: int = attr()
    waves: int = attr()
    wave: int = attr()
    dtype: str = attr(default="bf16")


@register_op
@dataclass(frozen=True)
class StoreColumnsOp(Sm90Op):
    """Round a fragment to ``dtype`` and write its transpose to the staging tile, a slab of 64 columns of D per wave."""

    NAME: ClassVar[str] = "sm90.store_columns"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.WRITES_SMEM})

    value: Value = operand()
    area: str = attr()
    waves: int = attr()
    wave: int = attr()
    dtype: str = attr(default="bf16")


@register_op
@dataclass(frozen=True)
class StagingPublishOp(Sm90Op):
    """Make the warpgroup's writes to the staging tile visible to the copy engine."""

    NAME: ClassVar[str] = "sm90.staging_publish"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.CONTROL})


@register_op
@dataclass(frozen=True)
class TmaStoreOp(Sm90Op):
    """One thread stores the warpgroup's slabs of one wave: ``slabs`` boxes of ``box`` = [rows, columns] of D.

    Boxes follow each other along D's columns (``transposed``: there is one box, at the wave's 64 columns), or along
    the ``runs`` in which the tile's columns are dealt.
    """

    NAME: ClassVar[str] = "sm90.tma_store"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_SMEM, Effect.WRITES_GMEM})

    map: Value = operand()
    row: Value = operand()
    col: Value = operand()
    area: str = attr()
    box: tuple[int, ...] = attr()
    slabs: int = attr()
    waves: int = attr()
    wave: int = attr()
    transposed: bool = attr()
    runs: tuple[int, ...] = attr(default=())


@register_op
@dataclass(frozen=True)
class StoreCommitOp(Sm90Op):
    """Close the group of TMA stores that the warpgroup has started."""

    NAME: ClassVar[str] = "sm90.store_commit"


@register_op
@dataclass(frozen=True)
class StoreDrainOp(Sm90Op):
    """Wait until every TMA store of this warpgroup has read shared memory, which must live until then.

    What they write is there when the launch ends, for all who wait for it.
    """

    NAME: ClassVar[str] = "sm90.store_drain"


@register_op
@dataclass(frozen=True)
class StoreDirectOp(Sm90Op):
    """Round a fragment to D's type and store it element by element; ``transposed``: its rows are columns of D."""

    NAME: ClassVar[str] = "sm90.store_direct"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.WRITES_GMEM})

    value: Value = operand()
    dest: Value = operand()
    stride: Value = operand()
    row: Value = operand()
    col: Value = operand()
    rows: Dim = attr()
    cols: Dim = attr()
    waves: int = attr()
    wave: int = attr()
    transposed: bool = attr(default=False)


@register_op
@dataclass(frozen=True)
class GroupSyncOp(Sm90Op):
    """The ``threads`` multiplying threads of the CTA meet at named barrier ``id``."""

    NAME: ClassVar[str] = "sm90.group_sync"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.CONTROL})

    id: int = attr()
    threads: int = attr()


@register_op
@dataclass(frozen=True)
class WritePartialOp(Sm90Op):
    """Write a fragment to the exchange tile: element (row, column) at float row · row_pitch + column · col_pitch."""

    NAME: ClassVar[str] = "sm90.write_partial"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.WRITES_SMEM})

    value: Value = operand()
    area: str = attr()
    row_pitch: int = attr()
    col_pitch: int = attr()
    waves: int = attr()
    wave: int = attr()


@register_op
@dataclass(frozen=True)
class ReduceStoreOp(Sm90Op):
    """Add the exchange tiles of ``parts`` CTAs in order of rank, round, and store this CTA's slice of D directly."""

    NAME: ClassVar[str] = "sm90.reduce_store"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_SMEM, Effect.WRITES_GMEM})

    dest: Value = operand()
    stride: Value = operand()
    row: Value = operand()
    col: Value = operand()
    area: str = attr()
    tile: tuple[int, ...] = attr()
    pitch: int = attr()
    parts: int = attr()
    threads: int = attr()
    rows: Dim = attr()
    cols: Dim = attr()
