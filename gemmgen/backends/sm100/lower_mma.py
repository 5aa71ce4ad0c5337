"""Lowering of the products: one thread waits, starts them into tensor memory, and commits them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gemmgen.backends.sm90.hardware import GROUP_WARPS, swizzle_span
from gemmgen.backends.sm90.lower_loads import extents_of
from gemmgen.backends.sm90.ops import AdvanceOp, WaitOp
from gemmgen.backends.sm100 import hardware as hw
from gemmgen.backends.sm100.ops import CommitOp, FenceOp, MmaOp, ScaledMmaOp, ScaleFactorsOp
from gemmgen.errors import IRError
from gemmgen.ir import async_ops
from gemmgen.ir.builder import Builder
from gemmgen.ir.core import Op, Value
from gemmgen.ir.tile_ops import ForKOp, extents, mem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gemmgen.backends.sm90.lowering import Context


@dataclass(frozen=True)
class Sums:
    """The ring of accumulators as one role sees it.

    Attributes:
        ring: its declaration.
        tmem: the address of the allocation.
        cursor: the role's place in the ring.
        full: barriers that say that a partial sum is complete; ``empty``: that it has been read.
        by_step: sums are handed over in every step of K, not once per tile.
    """

    ring: async_ops.RingOp
    tmem: Value
    cursor: Value
    full: Value
    empty: Value
    by_step: bool

    @property
    def first(self) -> int:
        """The first column of stage 0."""
        return self.ring.buffers[0].offset

    @property
    def shape(self) -> tuple[int, int]:
        """Lanes and columns of a partial sum."""
        rows, columns = self.ring.buffers[0].type.shape
        return int(rows), int(columns)  # pyright: ignore[reportArgumentType]


class MmaLowering:
    """Lowers the role whose one thread starts the products."""

    def __init__(self, ir: Builder, ctx: Context, sums: Sums) -> None:
        self.ir, self.ctx, self.sums = ir, ctx, sums

    def step(self, loop: ForKOp, ops: Sequence[Op], cursors: Mapping[Value, Value]) -> None:
        """One step: wait for operands and a free accumulator, multiply, and tell both rings when it is done."""
        ring = self.ctx.operands
        cursor = cursors[ring.ring.result]
        kinds = [type(op) for op in ops if not isinstance(op, async_ops.ReadOp)]
        handed = [async_ops.AcquireOp, async_ops.AsyncMmaOp, async_ops.CommitOp]
        expected = [async_ops.WaitOp, *(handed if self.sums.by_step else handed[1:2]), async_ops.ReleaseOp]
        if kinds != expected:
            refuse_step(kinds, expected)
        read = {op.result: op.buffer for op in ops if isinstance(op, async_ops.ReadOp)}
        mma = next(op for op in ops if isinstance(op, async_ops.AsyncMmaOp))
        self.ir.add(WaitOp, barriers=ring.full, cursor=cursor, flip=False)
        if self.sums.by_step:
            self._acquire()
        self._multiply(mma, read, cursor, loop.body.args[0] if mma.accumulate else None)
        # In this order: whoever waits for the sum then knows that the stage was released, too.
        together = self.sums.ring.ctas
        self.ir.add(CommitOp, barriers=ring.empty, cursor=cursor, cluster=ring.ring.cluster * together, ctas=together)
        if self.sums.by_step:
            self._announce()

    def tile_op(self, op: Op) -> None:
        """Where a sum runs over all of K: take a free accumulator before the steps, announce it behind them."""
        if isinstance(op, async_ops.AcquireOp):
            self._acquire()
        elif isinstance(op, async_ops.CommitOp):
            self._announce()
            self.ir.add(AdvanceOp, cursor=self.sums.cursor, stages=self.sums.ring.stages)
        else:
            raise IRError(f"sm_100a has no lowering for {op.NAME} here", got=op.NAME)

    def _acquire(self) -> None:
        self.ir.add(WaitOp, barriers=self.sums.empty, cursor=self.sums.cursor, flip=True)
        self.ir.add(FenceOp, side="after")

    def _announce(self) -> None:
        sums, together = self.sums, self.sums.ring.ctas
        self.ir.add(CommitOp, barriers=sums.full, cursor=sums.cursor, cluster=together, ctas=together)

    def _multiply(self, mma: async_ops.AsyncMmaOp, read: dict[Value, str], cursor: Value, k: Value | None) -> None:
        sums, a, b = self.sums, mem(mma.a), mem(mma.b)
        rows, columns = sums.shape
        hw.check_mma_tile(rows, columns, self.ctx.math_warps // GROUP_WARPS)
        item = a.dtype.bits // 8
        row_bytes = extents(mma.a)[0 if mma.trans_a else 1] * item
        spans = {
            name: swizzle_span(extents(value)[1] * item) if transposed else 0
            for name, value, transposed in (("a_span", mma.a, mma.trans_a), ("b_span", mma.b, mma.trans_b))
        }
        fields = dict(
            tmem=sums.tmem, cursor=cursor, parts=sums.cursor, k=k, a=read[mma.a], b=read[mma.b], a_dtype=a.dtype.name,
            b_dtype=b.dtype.name, rows=rows, columns=columns, first=sums.first, steps=row_bytes // hw.MMA_K_BYTES,
            row_bytes=row_bytes, item_bytes=item, ctas=mma.ctas, **spans,
        )  # fmt: skip
        with self.ir.at(mma.origin):
            if mma.scale_a is None or mma.scale_b is None:
                self.ir.add(MmaOp, **fields)
                return
            first_b = self._scale_factors(mma, read[mma.scale_a], cursor, mma.scale_offset)
            self._scale_factors(mma, read[mma.scale_b], cursor, first_b)
            self.ir.add(
                ScaledMmaOp, **fields, scale_a=mma.scale_offset, scale_b=first_b, scale_columns=mma.scale_columns,
                vector_a=mma.vector_a, vector_b=mma.vector_b,
            )  # fmt: skip

    def _scale_factors(self, mma: async_ops.AsyncMmaOp, buffer: str, cursor: Value, first: int) -> int:
        """Copy an operand's scales to tensor memory; returns the column behind them at stage 0."""
        (words,) = extents_of(self.ctx.operands.ring.buffer(buffer))
        groups = words // hw.SCALE_GROUP_ROWS
        self.ir.add(ScaleFactorsOp, tmem=self.sums.tmem, cursor=cursor, area=buffer, groups=groups, first=first,
                    columns=mma.scale_columns, ctas=mma.ctas)  # fmt: skip
        return first + groups * hw.SCALE_GROUP_COLUMNS


def refuse_step(kinds: Sequence[type[Op]], expected: Sequence[type[Op]]) -> None:
    """Raise IRError for a step of K whose ops are not the expected ones."""
    raise IRError(
        "a step of K on sm_100a",
        got=", ".join(kind.NAME for kind in kinds),
        need=", ".join(kind.NAME for kind in expected),
        fix="run promotion and pipelining, and warp-specialization with accumulators",
    )
