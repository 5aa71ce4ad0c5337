"""Ops of the Blackwell target level that promote and store.

A fragment is what a warpgroup holds of a tile: frag<f32, [128, columns]>, its share of the columns. Thread t of the
warpgroup has row t, one lane of tensor memory; warpgroup g has columns g · columns … of the tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gemmgen.backends.sm100.ops import Sm100Op
from gemmgen.ir.core import Effect, Value
from gemmgen.ir.dims import Dim
from gemmgen.ir.schema import attr, operand, register_op, result


@register_op
@dataclass(frozen=True)
class ThreadPositionOp(Sm100Op):
    """Which warpgroup this thread is in, its row of the tile, and its warp's lanes of ``tmem``."""

    NAME: ClassVar[str] = "sm100.thread_position"

    tmem: Value = operand()
    result: Value = result()


@register_op
@dataclass(frozen=True)
class ZeroOp(Sm100Op):
    """A fragment of zeros."""

    NAME: ClassVar[str] = "sm100.zero"

    result: Value = result()


@register_op
@dataclass(frozen=True)
class RowScaleOp(Sm100Op):
    """The scale of this thread's row, from the cursor's stage."""

    NAME: ClassVar[str] = "sm100.row_scale"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_SMEM})

    cursor: Value = operand()
    area: str = attr()
    result: Value = result()


@dataclass(frozen=True)
class PromoteOp(Sm100Op):
    """Base of the ops that read a partial sum from tensor memory and add it to ``acc`` in FP32.

    ``lanes`` is the warp's part of tensor memory; the partial sum of ``parts``' stage is ``columns`` columns of the
    tile wide, from ``first`` + ``columns`` · stage on, read ``width`` columns at a time.
    """

    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_TMEM})

    acc: Value = operand()
    lanes: Value = operand()
    parts: Value = operand()
    columns: int = attr()
    first: int = attr()
    width: int = attr()


@register_op
@dataclass(frozen=True)
class PromoteRowsOp(PromoteOp):
    """``acc += part · row scale · block scale``: a scale per row, and one per block of ``block`` columns.

    ``col`` is the tile's first column in the problem, which says where blocks end.
    """

    NAME: ClassVar[str] = "sm100.promote_rows"

    row: Value = operand()
    blocks: Value = operand()
    col: Value = operand()
    block: int = attr()


@register_op
@dataclass(frozen=True)
class PromoteColumnsOp(PromoteOp):
    """``acc += part · factor · column scale``: column scales are read from ``area`` of the cursor's stage.

    ``factor`` is the scale of this thread's row, or of the one block that the tile's rows are in.
    """

    NAME: ClassVar[str] = "sm100.promote_columns"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_TMEM, Effect.READS_SMEM})

    factor: Value = operand()
    cursor: Value = operand()
    area: str = attr()


@register_op
@dataclass(frozen=True)
class AddPartOp(PromoteOp):
    """``acc += part``."""

    NAME: ClassVar[str] = "sm100.add_part"


@register_op
@dataclass(frozen=True)
class FetchOp(Sm100Op):
    """This warpgroup's share of a complete sum, read into registers; the attributes as for a promotion."""

    NAME: ClassVar[str] = "sm100.fetch"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_TMEM})

    lanes: Value = operand()
    parts: Value = operand()
    columns: int = attr()
    first: int = attr()
    width: int = attr()
    result: Value = result()


@register_op
@dataclass(frozen=True)
class ScaleOp(Sm100Op):
    """Multiply a fragment by a scale per row and a scale per column, read from global memory.

    Row i of the tile has scale ``row_scale[(row + i) · row_stride]`` if that lies below ``rows``, else zero; columns
    likewise.
    """

    NAME: ClassVar[str] = "sm100.scale"
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


@register_op
@dataclass(frozen=True)
class StoreRowsOp(Sm100Op):
    """Round a fragment to ``dtype`` and write it to the staging tile, slab by slab of ``slab`` swizzled columns."""

    NAME: ClassVar[str] = "sm100.store_rows"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.WRITES_SMEM})

    value: Value = operand()
    area: str = attr()
    slab: int = attr()
    dtype: str = attr()


@register_op
@dataclass(frozen=True)
class StoreColumnsOp(Sm100Op):
    """Round a fragment to ``dtype`` and write its transpose to the staging tile, in slabs of ``slab`` columns of D.

    ``lines`` is how many rows of D the tile has.
    """

    NAME: ClassVar[str] = "sm100.store_columns"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.WRITES_SMEM})

    value: Value = operand()
    area: str = attr()
    slab: int = attr()
    lines: int = attr()
    dtype: str = attr()


@register_op
@dataclass(frozen=True)
class TmaStoreOp(Sm100Op):
    """One thread stores the warpgroup's ``slabs`` boxes of ``box`` = [rows, columns] of D.

    They follow each other along D's columns, ``slab_bytes`` apart in ``area``. Warpgroups share out columns of D, or
    with ``transposed`` its rows; a warpgroup's part of ``area`` starts ``group_bytes`` behind the one before.
    """

    NAME: ClassVar[str] = "sm100.tma_store"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_SMEM, Effect.WRITES_GMEM})

    map: Value = operand()
    row: Value = operand()
    col: Value = operand()
    area: str = attr()
    box: tuple[int, ...] = attr()
    slabs: int = attr()
    slab_bytes: int = attr()
    group_bytes: int = attr()
    transposed: bool = attr()


@register_op
@dataclass(frozen=True)
class StoreDirectOp(Sm100Op):
    """Round a fragment to D's type and store it element by element; ``transposed``: its rows are columns of D."""

    NAME: ClassVar[str] = "sm100.store_direct"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.WRITES_GMEM})

    value: Value = operand()
    dest: Value = operand()
    stride: Value = operand()
    row: Value = operand()
    col: Value = operand()
    rows: Dim = attr()
    cols: Dim = attr()
    transposed: bool = attr(default=False)
