"""Lowering of what follows a product: promotion out of tensor memory, and the epilogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gemmgen.backends.sm90.hardware import GROUP_WARPS, MAX_BOX, store_slab_columns
from gemmgen.backends.sm90.math_ops import BlockScalesOp, StagingPublishOp, StagingWaitOp, StoreCommitOp, StoreDrainOp
from gemmgen.backends.sm90.ops import AdvanceOp, ReleaseOp, WaitOp
from gemmgen.backends.sm100 import hardware as hw
from gemmgen.backends.sm100.lower_mma import Sums, refuse_step
from gemmgen.backends.sm100.math_ops import (
    AddPartOp,
    FetchOp,
    PromoteColumnsOp,
    PromoteRowsOp,
    RowScaleOp,
    ScaleOp,
    StoreColumnsOp,
    StoreDirectOp,
    StoreRowsOp,
    ThreadPositionOp,
    TmaStoreOp,
    ZeroOp,
)
from gemmgen.backends.sm100.ops import FenceOp
from gemmgen.errors import IRError
from gemmgen.ir import async_ops, tile_ops
from gemmgen.ir.builder import Builder
from gemmgen.ir.core import Op, Value
from gemmgen.ir.rewrite import walk
from gemmgen.ir.tile_ops import ForKOp, MapOp, PromoteOp, extents, mem
from gemmgen.ir.types import F32, U32, frag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gemmgen.backends.sm90.lowering import Context, Handle

SLAB_COLUMNS = 64
"""Columns of D in a slab of a transposed tile: one swizzle span of bf16."""


class MathLowering:
    """Lowers the role that promotes and stores; every warpgroup has a share of the tile's columns."""

    def __init__(self, ir: Builder, ctx: Context, sums: Sums) -> None:
        self.ir, self.ctx, self.sums = ir, ctx, sums
        self.warpgroups = ctx.math_warps // GROUP_WARPS
        self.pieces: dict[Value, Value] = {}
        self.stored_in_background = any(isinstance(op, async_ops.AsyncStoreOp) for op in walk(ctx.module))

    @property
    def columns(self) -> int:
        """Columns of a tile that a warpgroup has."""
        return self.sums.shape[1] // self.warpgroups

    def prologue(self) -> None:
        """What a thread computes once."""
        self.lanes = self.ir.add(ThreadPositionOp, tmem=self.sums.tmem, result=("lanes", U32)).result

    def epilogue(self) -> None:
        """After the last tile: stores must have left shared memory before the CTA ends."""
        if self.stored_in_background:
            self.ir.add(StoreDrainOp)

    def tile_op(self, op: Op) -> None:
        """Lower an op that stands beside the K loop."""
        with self.ir.at(op.origin):
            match op:
                case tile_ops.ZerosOp():
                    kind = frag(F32, self.sums.shape[0], self.columns)
                    self.pieces[op.result] = self.ir.add(ZeroOp, result=("sum", kind)).result
                case async_ops.WaitOp():
                    self._wait_for_sum()
                case async_ops.FetchOp():
                    kind = frag(F32, self.sums.shape[0], self.columns)
                    self.pieces[op.result] = self.ir.add(
                        FetchOp, lanes=self.lanes, parts=self.sums.cursor, columns=self.sums.shape[1],
                        first=self.sums.first, width=hw.load_columns(self.columns), result=("sum", kind),
                    ).result  # fmt: skip
                case async_ops.ReleaseOp():
                    self._release_sum()
                    self.ir.add(AdvanceOp, cursor=self.sums.cursor, stages=self.sums.ring.stages)
                case async_ops.ReadOp():
                    pass  # the fetch behind it says what is read
                case tile_ops.ScaleOp():
                    self._scale(op)
                case MapOp():
                    if op.expression != "acc" or mem(op.result).dtype.name not in hw.STORED_DTYPES:
                        got = f"{op.expression} as {mem(op.result).dtype}"
                        raise IRError("sm_100a's epilogue", got=got, need=f"acc as {' or '.join(hw.STORED_DTYPES)}")
                    self.pieces[op.result] = self.pieces[op.acc]
                case async_ops.AsyncStoreOp():
                    self._store_in_background(op)
                case tile_ops.StoreOp():
                    self._store_directly(op)
                case _:
                    raise IRError(f"sm_100a has no lowering for {op.NAME} here", got=op.NAME)

    def step(self, loop: ForKOp, ops: Sequence[Op], cursors: Mapping[Value, Value]) -> None:
        """One step of K: read the scales, wait for the partial sum, promote it and hand its columns back."""
        for init, arg, result in zip(loop.inits, loop.body.args[1:], loop.results, strict=True):
            self.pieces[arg] = self.pieces[result] = self.pieces[init]
        kinds = [type(op) for op in ops if not isinstance(op, async_ops.ReadOp)]
        turns = 1 + len(cursors)
        expected = [*[async_ops.WaitOp] * turns, PromoteOp, *[async_ops.ReleaseOp] * turns]
        if kinds != expected or len(cursors) > 1:
            refuse_step(kinds, expected)
        read = {op.result: op.buffer for op in ops if isinstance(op, async_ops.ReadOp)}
        promote = next(op for op in ops if isinstance(op, PromoteOp))
        with self.ir.at(promote.origin):
            if promote.row_scale is None or promote.col_scale is None:
                self._wait_for_sum()
                self.ir.add(AddPartOp, **self._place(promote), width=hw.load_columns(self.columns))
            else:
                ((ring, cursor),) = cursors.items()
                self._promote(promote, read, self.ctx.rings[ring], cursor)
            self._release_sum()
        self.pieces[promote.result] = self.pieces[promote.acc]

    def _place(self, op: PromoteOp) -> dict[str, Value | int]:
        """Where a partial sum and the registers that it is added to are."""
        sums = self.sums
        return {"acc": self.pieces[op.acc], "lanes": self.lanes, "parts": sums.cursor, "columns": sums.shape[1],
                "first": sums.first}  # fmt: skip

    def _promote(self, op: PromoteOp, read: dict[Value, str], ring: Handle, cursor: Value) -> None:
        ir, place = self.ir, self._place(op)
        assert op.row_scale is not None
        assert op.col_scale is not None
        ir.add(WaitOp, barriers=ring.full, cursor=cursor, flip=False)
        if op.row_block == 1:
            factor = ir.add(RowScaleOp, cursor=cursor, area=read[op.row_scale], result=("row_scale", F32)).result
        elif extents(op.row_scale) == (1,):
            factor = self._blocks(op.row_scale, read, cursor)
        else:
            factor = None
        if factor is not None and op.row_block == 1 and op.col_block > 1:
            blocks = self._blocks(op.col_scale, read, cursor)
            self._release_stage(ring, cursor)
            self._wait_for_sum()
            ir.add(PromoteRowsOp, **place, width=hw.load_columns(self.columns, op.col_block), row=factor, blocks=blocks,
                   col=op.col, block=op.col_block)  # fmt: skip
        elif factor is not None and op.col_block == 1:
            self._wait_for_sum()
            ir.add(PromoteColumnsOp, **place, width=hw.load_columns(self.columns), factor=factor, cursor=cursor,
                   area=read[op.col_scale])  # fmt: skip
            self._release_stage(ring, cursor)
        else:
            raise IRError("sm_100a cannot promote with these scale blocks yet",
                          got=f"{op.row_block} rows, {op.col_block} columns, {op.row_scale.type} scales per tile",
                          need="a scale per row, or one block of rows with a scale per column",
                          fix="choose tile rows that divide the scale block")  # fmt: skip

    def _blocks(self, scales: Value, read: dict[Value, str], cursor: Value) -> Value:
        kind = frag(F32, *extents(scales))
        return self.ir.add(BlockScalesOp, cursor=cursor, area=read[scales], result=("block_scale", kind)).result

    def _release_stage(self, ring: Handle, cursor: Value) -> None:
        """This warp needs nothing more of the stage; the tensor core releases it for itself."""
        self.ir.add(ReleaseOp, barriers=ring.empty, cursor=cursor, cluster=ring.ring.cluster)

    def _release_sum(self) -> None:
        """This warp has read its lanes; the next product may overwrite them."""
        self.ir.add(FenceOp, side="before")
        self.ir.add(ReleaseOp, barriers=self.sums.empty, cursor=self.sums.cursor, cluster=1)

    def _wait_for_sum(self) -> None:
        self.ir.add(WaitOp, barriers=self.sums.full, cursor=self.sums.cursor, flip=False)
        self.ir.add(FenceOp, side="after")

    def _scale(self, op: tile_ops.ScaleOp) -> None:
        """Scales that hold for all of K are read once per tile, straight from global memory."""
        ctx, piece = self.ctx, self.pieces[op.value]
        self.ir.add(
            ScaleOp, value=piece, row_scale=ctx.pointer(op.row_scale), row_stride=ctx.stride(op.row_scale, 0),
            col_scale=ctx.pointer(op.col_scale), col_stride=ctx.stride(op.col_scale, 0), row=op.row, col=op.col,
            rows=mem(op.row_scale).shape[0], cols=mem(op.col_scale).shape[0],
        )  # fmt: skip
        self.pieces[op.result] = piece

    def _store_in_background(self, op: async_ops.AsyncStoreOp) -> None:
        """Through shared memory: every warpgroup's share becomes boxes that one thread hands to the copy engine."""
        ir, piece, area = self.ir, self.pieces[op.value], op.staging.name
        rows, columns = self.sums.shape
        dtype = mem(op.dest).dtype
        item = dtype.bits // 8
        if op.transposed:
            slab, box = SLAB_COLUMNS, (self.columns, SLAB_COLUMNS)
            slabs, slab_bytes = rows // slab, columns * slab * item
            group_bytes = self.columns * slab * item
        else:
            slab = store_slab_columns(self.columns)
            box = (rows, slab)
            slabs, slab_bytes = self.columns // slab, rows * slab * item
            group_bytes = slabs * slab_bytes
        assert box[0] <= MAX_BOX
        tensor_map = self.ctx.map(op.dest, (box[1], box[0]), f"{slab * item}B")
        ir.add(StagingWaitOp)
        if op.transposed:
            ir.add(StoreColumnsOp, value=piece, area=area, slab=slab, lines=columns, dtype=dtype.name)
        else:
            ir.add(StoreRowsOp, value=piece, area=area, slab=slab, dtype=dtype.name)
        ir.add(StagingPublishOp)
        ir.add(TmaStoreOp, map=tensor_map, row=op.row, col=op.col, area=area, box=box, slabs=slabs,
               slab_bytes=slab_bytes, group_bytes=group_bytes, transposed=op.transposed)  # fmt: skip
        ir.add(StoreCommitOp)

    def _store_directly(self, op: tile_ops.StoreOp) -> None:
        """Without staging: element by element."""
        rows, cols = mem(op.dest).shape
        self.ir.add(StoreDirectOp, value=self.pieces[op.value], dest=self.ctx.pointer(op.dest),
                    stride=self.ctx.stride(op.dest, 0), row=op.row, col=op.col, rows=rows, cols=cols,
                    transposed=op.transposed)  # fmt: skip
