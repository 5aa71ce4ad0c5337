"""Lowering of a loading step: acquire, bulk loads and scale copies, commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from gemmgen.backends.sm90 import hardware as hw
from gemmgen.backends.sm90.ops import CopyArriveOp, CopyScalesOp, ExpectOp, TmaLoadOp, TmaLoadScalesOp, WaitOp, WarpsOp
from gemmgen.errors import IRError
from gemmgen.ir.async_ops import AsyncLoadOp, AsyncLoadScalesOp, Buffer, Engine, RingOp
from gemmgen.ir.builder import Builder
from gemmgen.ir.core import Op, Value
from gemmgen.ir.tile_ops import extents, mem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gemmgen.backends.sm90.lowering import Context, Handle

EVICTED = "b"
"""The operand whose lines leave L2 first where they are loaded with a policy."""
LoadT = TypeVar("LoadT", bound=AsyncLoadOp | AsyncLoadScalesOp)
Fill = Callable[[Sequence[LoadT], "Handle", Value], None]
"""What starts loads into the stage of a ring at a cursor."""


class LoadLowering:
    """Lowers the loads of one step of K for one role.

    Args:
        ir: where to.
        ctx: what the parts of the lowering share.
        leader: the cluster's first CTA loads what all of it share; else each a part.
    """

    def __init__(self, ir: Builder, ctx: Context, *, leader: bool = False) -> None:
        self.ir, self.ctx, self.leader = ir, ctx, leader

    def step(self, ops: Sequence[Op], cursors: Mapping[Value, Value], *, alone: bool) -> None:
        """Emit the step; ``alone``: the role does nothing else, so its warp needs no guard.

        Args:
            ops: what the role does in the step.
            cursors: its place in each ring that it fills.
            alone: as above.
        """
        scales = [op for op in ops if isinstance(op, AsyncLoadScalesOp)]
        lanes = [op for op in scales if op.engine is Engine.LANES]
        bulk = [op for op in ops if isinstance(op, AsyncLoadOp)] + [op for op in scales if op.engine is Engine.BULK]
        if bulk:
            self._guarded("load", 0, not alone, lambda: self._each_ring(bulk, cursors, self._bulk), elect=True)
        if lanes:
            first = 1 if bulk else 0
            self._guarded("scales", first, not alone, lambda: self._each_ring(lanes, cursors, self._lanes), elect=False)

    def _guarded(self, label: str, warp: int, guard: bool, emit: Callable[[], None], *, elect: bool) -> None:
        if not guard:
            emit()
            return
        with self.ir.region() as body:
            emit()
        self.ir.add(WarpsOp, label=label, first=warp, count=1, elect=elect, body=body.region)

    def _each_ring(self, ops: Sequence[LoadT], cursors: Mapping[Value, Value], emit: Fill[LoadT]) -> None:
        """Fill a stage of each ring that the loads go to."""
        for ring in cursors:
            mine = [op for op in ops if op.ring == ring]
            if mine:
                emit(mine, self.ctx.rings[ring], cursors[ring])

    def _bulk(self, ops: Sequence[AsyncLoadOp | AsyncLoadScalesOp], to: Handle, cursor: Value) -> None:
        """Wait for a free stage, say how many bytes will land in it, and start the loads."""
        ir = self.ir
        ir.add(WaitOp, barriers=to.empty, cursor=cursor, flip=True)
        total = sum(b.tile_bytes for b in to.ring.buffers if b.engine is Engine.BULK)
        ir.add(ExpectOp, barriers=to.full, cursor=cursor, transfer_bytes=total * to.ring.ctas)
        shared = {op.row: op.multicast for op in ops if isinstance(op, AsyncLoadOp) and self.leader}
        for op in ops:
            with ir.at(op.origin):
                if isinstance(op, AsyncLoadOp):
                    self._load_box(op, to, cursor)
                else:
                    self._load_scales(op, to, cursor, shared.get(op.row, 1))

    def _load_box(self, op: AsyncLoadOp, to: Handle, cursor: Value) -> None:
        """The box of an operand; of rows that are dealt in runs, a box for each."""
        ctx, buffer = self.ctx, to.ring.buffer(op.buffer)
        rows, columns = extents_of(buffer)
        item = buffer.type.dtype.bits // 8
        span = hw.swizzle_span(columns * item)
        leader, at = self.leader and op.multicast > 1, 0
        for run, width in enumerate(ctx.runs.get(op.row, (rows,))):
            if width % (hw.ATOM_ROWS * op.multicast):
                raise IRError("a multicast box is split into equal shares of whole swizzle atoms", got=f"{width} rows "
                              f"over {op.multicast} CTAs", need=f"a multiple of {8 * op.multicast}")  # fmt: skip
            box = (span // item, width if leader else width // op.multicast)
            tensor_map = ctx.map(op.source, box, f"{span}B", run=run)
            self.ir.add(TmaLoadOp, map=tensor_map, barriers=to.full, cursor=cursor, row=op.row, col=op.col,
                        area=buffer.name, rows=width, row_bytes=span, slabs=columns * item // span,
                        multicast=op.multicast, leader=leader, run=run, at=at,
                        policy=ctx.policy if op.source.name == EVICTED else None)  # fmt: skip
            at += width

    def _load_scales(self, op: AsyncLoadScalesOp, to: Handle, cursor: Value, multicast: int) -> None:
        """``multicast``: CTAs that share the rows which the scales belong to."""
        ctx, buffer = self.ctx, to.ring.buffer(op.buffer)
        count = extents_of(buffer)[0]
        if op.block[0] != 1:
            raise IRError("the copy engine loads one scale per row", got=f"blocks of {op.block[0]} rows", need=1)
        tensor_map = ctx.map(op.source, (count, 1), "none", transposed=True)
        self.ir.add(TmaLoadScalesOp, map=tensor_map, barriers=to.full, cursor=cursor, row=op.row, col=op.col,
                    area=buffer.name, count=count, block=op.block, multicast=multicast)  # fmt: skip

    def _lanes(self, ops: Sequence[AsyncLoadScalesOp], to: Handle, cursor: Value) -> None:
        """Wait for a free stage, start the copies, and arrive when they have landed."""
        ir, ctx = self.ir, self.ctx
        ir.add(WaitOp, barriers=to.empty, cursor=cursor, flip=True)
        for op in ops:
            buffer = to.ring.buffer(op.buffer)
            with ir.at(op.origin):
                ir.add(CopyScalesOp, source=ctx.pointer(op.source), row_stride=ctx.stride(op.source, 0),
                       col_stride=ctx.stride(op.source, 1), cursor=cursor, row=op.row, col=op.col, area=buffer.name,
                       count=extents_of(buffer)[0], block=op.block, limit=mem(op.source).shape[0],
                       run=to.ring.steps, columns=mem(op.source).shape[1] if to.ring.steps else 0,
                       runs=ctx.runs.get(op.row, ()))  # fmt: skip
        ir.add(CopyArriveOp, barriers=to.full, cursor=cursor, lanes=copying_lanes(to.ring))


def copying_lanes(ring: RingOp) -> int:
    """Lanes that copy scales into a stage; each arrives at its barrier."""
    counts = [extents_of(buffer)[0] for buffer in ring.buffers if buffer.engine is Engine.LANES]
    return hw.copying_lanes([count * max(1, ring.steps) for count in counts])


def copied_by_lanes(ring: RingOp) -> bool:
    """Whether lanes copy a part of every stage."""
    return any(buffer.engine is Engine.LANES for buffer in ring.buffers)


def extents_of(buffer: Buffer) -> tuple[int, ...]:
    """The extents of a buffer's tile."""
    return extents(Value(buffer.name, buffer.type))
