"""Lowering of the role that puts scale words in the order in which the tensor core takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from gemmgen.backends.sm90.lower_loads import extents_of
from gemmgen.backends.sm90.ops import ReleaseOp, WaitOp
from gemmgen.backends.sm100 import hardware as hw
from gemmgen.backends.sm100.ops import ArrangeScalesOp, GatherScalesOp, PublishScalesOp
from gemmgen.ir.async_ops import ArrangeOp, AsyncLoadScalesOp, AsyncMmaOp, Buffer, ReadOp
from gemmgen.ir.builder import Builder
from gemmgen.ir.core import Op, Value
from gemmgen.ir.rewrite import walk
from gemmgen.ir.tile_ops import ForKOp, mem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gemmgen.backends.sm90.lowering import Context, Handle


def arranges(op: Op) -> TypeGuard[ArrangeOp | AsyncLoadScalesOp]:
    """Whether ``op`` writes words in the tensor core's order."""
    return isinstance(op, ArrangeOp) or (isinstance(op, AsyncLoadScalesOp) and op.arranged)


class ScaleLowering:
    """Lowers the steps of that role: words come from another ring's stage, or from global memory."""

    def __init__(self, ir: Builder, ctx: Context) -> None:
        self.ir, self.ctx = ir, ctx
        products = [op for op in walk(ctx.module) if isinstance(op, AsyncMmaOp)]
        read = {op.result: op.buffer for op in walk(ctx.module) if isinstance(op, ReadOp)}
        scales = [pair for op in products for pair in ((op.scale_a, op.vector_a), (op.scale_b, op.vector_b))]
        self.vectors = {read[value]: vector for value, vector in scales if value is not None}

    def step(self, loop: ForKOp, ops: Sequence[Op], cursors: Mapping[Value, Value]) -> None:
        """One step: wait for the words and for a free stage, write them into it, and say so."""
        ir, ctx = self.ir, self.ctx
        mine = [op for op in ops if arranges(op)]
        to = ctx.rings[mine[0].ring]
        read = {op.result: op for op in ops if isinstance(op, ReadOp)}
        landed = {ring: ctx.rings[ring] for ring in dict.fromkeys(op.ring for op in read.values())}
        for ring, handle in landed.items():
            ir.add(WaitOp, barriers=handle.full, cursor=cursors[ring], flip=False)
        cursor = cursors[to.ring.result]
        ir.add(WaitOp, barriers=to.empty, cursor=cursor, flip=True)
        for op in mine:
            with ir.at(op.origin):
                if isinstance(op, ArrangeOp):
                    self._arrange(op, read[op.source], loop, to, cursors)
                else:
                    self._gather(op, loop, to, cursor)
        for ring, handle in landed.items():
            ir.add(ReleaseOp, barriers=handle.empty, cursor=cursors[ring], cluster=1)
        ir.add(PublishScalesOp, barriers=to.full, cursor=cursor)

    def _arrange(self, op: ArrangeOp, read: ReadOp, loop: ForKOp, to: Handle, cursors: Mapping[Value, Value]) -> None:
        self.ir.add(
            ArrangeScalesOp, landed=cursors[read.ring], cursor=cursors[op.ring], area=read.buffer, to=op.buffer,
            groups=_groups(to.ring.buffer(op.buffer)), **self._end_of_k(op.buffer, loop),
        )  # fmt: skip

    def _gather(self, op: AsyncLoadScalesOp, loop: ForKOp, to: Handle, cursor: Value) -> None:
        ctx = self.ctx
        self.ir.add(
            GatherScalesOp, source=ctx.pointer(op.source), row_stride=ctx.stride(op.source, 0),
            col_stride=ctx.stride(op.source, 1), cursor=cursor, row=op.row, col=op.col, to=op.buffer,
            groups=_groups(to.ring.buffer(op.buffer)), block=op.block, limit=mem(op.source).shape[0],
            **self._end_of_k(op.buffer, loop),
        )  # fmt: skip

    def _end_of_k(self, buffer: str, loop: ForKOp) -> dict[str, Value | int]:
        """What of a word to drop where a step hangs over the end of K: no operand there, but bytes that may be NaN."""
        extent = int(loop.extent)  # pyright: ignore[reportArgumentType]
        mask = hw.scales_within(extent, loop.step, self.vectors[buffer])
        last = (extent - 1) // loop.step * loop.step
        return {"k": loop.body.args[0], "last": last, "mask": mask} if mask != hw.WHOLE_WORD else {}


def _groups(buffer: Buffer) -> int:
    return extents_of(buffer)[0] // hw.SCALE_GROUP_ROWS
