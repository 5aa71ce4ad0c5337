"""Lowering of what the multiplying warps do: wgmma with promotion, and the three ways a tile leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gemmgen.backends.sm90 import hardware as hw
from gemmgen.backends.sm90.lower_loads import copied_by_lanes
from gemmgen.backends.sm90.math_ops import (
    AddPartOp,
    BlockScalesOp,
    ColumnScalesOp,
    DescriptorOp,
    GroupSyncOp,
    KeepOp,
    PlaceOp,
    PromoteColumnsOp,
    PromoteRowsOp,
    ReduceStoreOp,
    RowScalesOp,
    ScaleOp,
    StageDescriptorOp,
    StagingPublishOp,
    StagingWaitOp,
    StoreColumnsOp,
    StoreCommitOp,
    StoreDirectOp,
    StoreDrainOp,
    StoreRowsOp,
    ThreadPositionOp,
    TmaStoreOp,
    WgmmaOp,
    WgmmaWaitOlderOp,
    WgmmaWaitOp,
    WritePartialOp,
    ZeroOp,
)
from gemmgen.backends.sm90.ops import (
    AdvanceOp,
    CursorOp,
    KOverlapOp,
    LoadedOp,
    LookAheadOp,
    ReleaseOp,
    RunStepOp,
    SyncOp,
    WaitOp,
)
from gemmgen.errors import IRError
from gemmgen.ir import async_ops, tile_ops
from gemmgen.ir.builder import Builder
from gemmgen.ir.core import Op, Value
from gemmgen.ir.rewrite import walk
from gemmgen.ir.tile_ops import ForKOp, MapOp, MmaOp, PromoteOp, ReducePartsOp, extents, mem
from gemmgen.ir.types import F32, I64, INDEX, U32, Type, frag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gemmgen.backends.sm90.lowering import Context, Handle
    from gemmgen.ir.async_ops import RingOp, RoleOp


@dataclass(frozen=True)
class _Step:
    """What a step of K does: a product, a promotion of it or none, and the buffers that tiles were read from."""

    mma: MmaOp
    promote: PromoteOp | None
    read: dict[Value, str]

    @classmethod
    def of(cls, ops: Sequence[Op]) -> _Step:
        """Read a step.

        Raises:
            IRError: it does something else, or in another order.
        """
        kinds = [type(op) for op in ops if not isinstance(op, async_ops.ReadOp)]
        rings = max(1, kinds.count(async_ops.WaitOp))
        mma = next((op for op in ops if isinstance(op, MmaOp)), None)
        promote = next((op for op in ops if isinstance(op, PromoteOp)), None)
        steps = [*rings * [async_ops.WaitOp], MmaOp, *([PromoteOp] if promote else []), *rings * [async_ops.ReleaseOp]]
        if kinds != steps or mma is None or (mma.acc is None) != (promote is not None):
            raise IRError(
                "a step of K on sm_90a",
                got=", ".join(kind.NAME for kind in kinds),
                need="wait, mma, promote, release",
                fix="run promotion, and pipelining before it",
            )
        return cls(mma, promote, {op.result: op.buffer for op in ops if isinstance(op, async_ops.ReadOp)})

    @property
    def acc(self) -> Value:
        """What the step adds to."""
        return self.promote.acc if self.promote else self.mma.acc or self.mma.result

    @property
    def result(self) -> Value:
        """The sum after it."""
        return self.promote.result if self.promote else self.mma.result


class MathLowering:
    """Lowers one multiplying role; a tile's fragment becomes one fragment of 64 rows per wave."""

    def __init__(self, ir: Builder, ctx: Context) -> None:
        self.ir, self.ctx = ir, ctx
        self.warpgroups = ctx.math_warps // hw.GROUP_WARPS
        self.pieces: dict[Value, list[Value]] = {}
        self.partials: list[Value] = []
        self.descriptors: dict[tuple[str, int], Value] = {}
        self.places: dict[tuple[str, int], Value] = {}
        self.loaded: Value | None = None
        self.behind: Value | None = None
        self.reduction: ReducePartsOp | None = None
        self.stored_in_background = any(isinstance(op, async_ops.AsyncStoreOp) for op in walk(ctx.module))

    def prologue(self, role: RoleOp) -> None:
        """What a multiplying thread computes once: its position, and registers for partial sums.

        Every product overwrites its partial sum; where steps overlap there are two, and a cursor for the older step.
        """
        ir = self.ir
        ir.add(ThreadPositionOp)
        self._descriptors(role)
        if not any(isinstance(op, PromoteOp) for op in walk(role)):
            return
        ahead = max(op.ahead for op in walk(role) if isinstance(op, ForKOp))
        columns = next(extents(op.result)[1] for op in walk(role) if isinstance(op, PromoteOp))
        kind = frag(F32, hw.WGMMA_ROWS, columns)
        self.partials = [ir.add(ZeroOp, result=("part", kind)).result for _ in range(1 + ahead)]
        if self.ctx.lookahead and not ahead:
            self._look_from_the_start(role)
        if ahead:
            self.behind = ir.add(CursorOp, result=("behind", INDEX)).result

    def _descriptors(self, role: RoleOp) -> None:
        """Where stage 0 of the operands is, for every wave: a step then has one addition to make."""
        buffers = {op.result: op.buffer for op in walk(role) if isinstance(op, async_ops.ReadOp)}
        for mma in (op for op in walk(role) if isinstance(op, MmaOp)):
            waves = extents(mma.result)[0] // hw.WGMMA_ROWS // self.warpgroups
            spans = _spans(mma)
            for name, value, pieces in (("a", mma.a, waves), ("b", mma.b, 0)):
                for wave in range(max(1, pieces)):
                    made = self.ir.add(DescriptorOp, area=buffers[value], dtype=mem(value).dtype.name,
                                       row_bytes=hw.SWIZZLE_BYTES, span=spans[f"{name}_span"], waves=pieces, wave=wave,
                                       result=(f"desc_{name}", I64))  # fmt: skip
                    self.descriptors[buffers[value], wave] = made.result

    def _look_from_the_start(self, role: RoleOp) -> None:
        """Where the first step's operands and row scales are: every step then looks for those of the next one."""
        ir, waves = self.ir, max(wave for _, wave in self.descriptors) + 1
        for (area, wave), base in self.descriptors.items():
            made = ir.add(PlaceOp, base=base, area=area, result=(f"{area}_place", U32))
            self.places[area, wave] = made.result
        read = {op.result: op.buffer for op in walk(role) if isinstance(op, async_ops.ReadOp)}
        for promote in (op for op in walk(role) if isinstance(op, PromoteOp)):
            if promote.row_scale is None or "row_scale" not in self._scale_kinds(promote):
                continue
            area = read[promote.row_scale]
            for wave in range(waves):
                made = ir.add(PlaceOp, area=area, waves=waves, wave=wave, result=(f"{area}_place", U32))
                self.places[area, wave] = made.result
        self.loaded = ir.add(LoadedOp, result=("loaded", U32)).result

    def _operands(self, found: _Step, cursor: Value, waves: int) -> list[tuple[Value, Value]]:
        """The descriptors of a step's operands, by wave."""

        def here(area: str, wave: int, name: str) -> Value:
            base = self.descriptors[area, wave]
            made = self.ir.add(StageDescriptorOp, base=base, cursor=cursor, place=self.places.get((area, wave)),
                               area=area, result=(f"{name}_at", I64))  # fmt: skip
            return made.result

        a, b = (found.read[value] for value in (found.mma.a, found.mma.b))
        rows = [here(a, wave, "a") for wave in range(waves)]
        whole = here(b, 0, "b")
        return [(each, whole) for each in rows]

    def epilogue(self) -> None:
        """After the last tile: stores must have left shared memory before the CTA ends."""
        if self.stored_in_background:
            self.ir.add(StoreDrainOp)

    def tile_op(self, op: Op) -> None:
        """Lower an op that stands beside the K loop."""
        if isinstance(op, tile_ops.ScaleOp | tile_ops.StoreOp) and op.col in self.ctx.runs:
            raise IRError("sm_90a scales and stores columns that are dealt in runs with the copy engine's help only",
                          got=op.NAME, need="scales of blocks, and a tile that is staged",
                          fix="leave schedule.deal_columns auto")  # fmt: skip
        with self.ir.at(op.origin):
            match op:
                case tile_ops.ZerosOp():
                    rows, columns = extents(op.result)
                    hw.check_mma_tile(rows, columns, self.warpgroups)
                    waves = range(rows // hw.WGMMA_ROWS // self.warpgroups)
                    kind = frag(F32, hw.WGMMA_ROWS, columns)
                    self.pieces[op.result] = [self.ir.add(ZeroOp, result=("sum", kind)).result for _ in waves]
                case tile_ops.ScaleOp():
                    self._scale(op)
                case MapOp():
                    self._map(op)
                case ReducePartsOp():
                    self._write_partials(op)
                case async_ops.AsyncStoreOp():
                    self._store_in_background(op)
                case tile_ops.StoreOp():
                    self._store_directly(op)
                case _:
                    raise IRError(f"sm_90a has no lowering for {op.NAME} here", got=op.NAME)

    def begin_loop(self, loop: ForKOp, cursors: Mapping[Value, Value]) -> None:
        """Carried values live in the registers of their initial values, and so do the results.

        What is loaded for all steps of the tile is waited for here, and released in ``end_loop``.
        """
        for init, arg, result in zip(loop.inits, loop.body.args[1:], loop.results, strict=True):
            self.pieces[arg] = self.pieces[result] = self.pieces[init]
        for ring, cursor in self._whole_tiles(cursors):
            self.ir.add(WaitOp, barriers=ring.full, cursor=cursor, flip=False)

    def end_loop(self, cursors: Mapping[Value, Value]) -> None:
        """After a tile's last step."""
        for ring, cursor in self._whole_tiles(cursors):
            self.ir.add(ReleaseOp, barriers=ring.empty, cursor=cursor, **_released(ring.ring))
            self.ir.add(AdvanceOp, cursor=cursor, stages=ring.ring.stages)

    def step(self, ops: Sequence[Op], cursors: Mapping[Value, Value]) -> None:
        """One step of K: wait, then per wave multiply, release after the last product, promote.

        With look-ahead the cursors move on, and the next stage is looked at, before the last promotion.
        """
        found = _Step.of(ops)
        mma, promote = found.mma, found.promote
        ir, ring = self.ir, self.ctx.operands
        pieces = self.pieces[found.acc]
        waves = len(pieces)
        cursor = cursors[ring.ring.result]
        operands = self._operands(found, cursor, waves)
        ir.add(WaitOp, barriers=ring.full, cursor=cursor, unless=self.loaded, flip=False)
        blocks = self._block_scales(promote, found.read, cursors) if promote else None
        for wave, acc in enumerate(pieces):
            part = self.partials[0] if promote else acc
            # Scales are read before the products start: during them wgmma's operand reads keep shared memory busy.
            scales = self._scales(promote, found.read, cursor, blocks, (waves, wave)) if promote else None
            with ir.at(mma.origin):
                self._multiply(found, cursor, part, operands[wave], (waves, wave))
            with ir.at(promote.origin if promote else mma.origin):
                ir.add(WgmmaWaitOp, values=[part], pending=0)
                if wave == waves - 1:
                    ir.add(ReleaseOp, barriers=ring.empty, cursor=cursor, **_released(ring.ring))
                    self._advance(cursors)
                    if self.loaded is not None:
                        ir.add(LookAheadOp, barriers=ring.full, moved=cursor, loaded=self.loaded,
                               places=list(self.places.values()))  # fmt: skip
                if promote:
                    self._promote(promote, acc, part, scales)
        self.pieces[found.result] = pieces

    def _advance(self, cursors: Mapping[Value, Value]) -> None:
        """Go to the next step in every ring."""
        for ring, cursor in cursors.items():
            found = self.ctx.rings[ring].ring
            if found.steps:
                self.ir.add(RunStepOp, cursor=cursor)
            else:
                self.ir.add(AdvanceOp, cursor=cursor, stages=found.stages)

    def _whole_tiles(self, cursors: Mapping[Value, Value]) -> list[tuple[Handle, Value]]:
        """The rings whose stages hold all steps of a tile, with the cursors."""
        return [(self.ctx.rings[ring], at) for ring, at in cursors.items() if self.ctx.rings[ring].ring.steps]

    def overlapped_steps(self, loop: ForKOp, ops: Sequence[Op], cursors: Mapping[Value, Value]) -> None:
        """All steps of K, each promoted after the next one's products were started."""
        found = _Step.of(ops)
        mma, promote, behind = found.mma, found.promote, self.behind
        pieces = self.pieces[found.acc]
        if promote is None or behind is None or len(pieces) != 1:
            raise IRError("sm_90a overlaps promotion where a warpgroup has 64 rows of the tile",
                          got=f"{len(pieces)} fragments", need=1, fix="use a tile of fewer rows")  # fmt: skip
        ir, ring = self.ir, self.ctx.operands
        kinds = {"part": self.partials[0].type, **self._scale_kinds(promote)}
        with ir.at(mma.origin), ir.region(**{f"next_{name}": kind for name, kind in kinds.items()}) as start:
            cursor = cursors[ring.ring.result]
            (operands,) = self._operands(found, cursor, 1)
            ir.add(WaitOp, barriers=ring.full, cursor=cursor, flip=False)
            # Before the products start, as in a step that does not overlap.
            blocks = self._block_scales(promote, found.read, cursors)
            scales = self._scales(promote, found.read, cursor, blocks, (1, 0))
            for value, kept in zip(scales or (), start.args[1:], strict=True):
                ir.add(KeepOp, value=value, kept=kept)
            self._multiply(found, cursor, start.args[0], operands, (1, 0))
            self._advance(cursors)
        with ir.at(promote.origin), ir.region(**{f"done_{name}": kind for name, kind in kinds.items()}) as finish:
            part, *kept = finish.args
            ir.add(WgmmaWaitOlderOp, values=[part])
            ir.add(ReleaseOp, barriers=ring.empty, cursor=behind, **_released(ring.ring))
            self._promote(promote, pieces[0], part, (kept[0], kept[1]) if kept else None)
            ir.add(AdvanceOp, cursor=behind, stages=ring.ring.stages)
        ir.add(KOverlapOp, partials=self.partials, extent=loop.extent, step=loop.step, parts=loop.parts,
               start=start.region, finish=finish.region)  # fmt: skip

    def _multiply(
        self, found: _Step, cursor: Value, part: Value, operands: tuple[Value, Value], at: tuple[int, int]
    ) -> None:
        mma, read = found.mma, found.read
        k_bytes = extents(mma.a)[0 if mma.trans_a else 1] * _item_bytes(mma)
        if k_bytes != hw.SWIZZLE_BYTES:
            raise IRError("a K step is one swizzle span wide", got=f"{k_bytes} bytes", need=hw.SWIZZLE_BYTES,
                          fix="change the tile's K extent")  # fmt: skip
        self.ir.add(
            WgmmaOp, part=part, cursor=cursor, desc_a=operands[0], desc_b=operands[1], a=read[mma.a], b=read[mma.b],
            a_dtype=mem(mma.a).dtype.name, b_dtype=mem(mma.b).dtype.name, steps=k_bytes // hw.MMA_K_BYTES,
            row_bytes=k_bytes, waves=at[0], wave=at[1], accumulate=mma.acc is not None, **_spans(mma),
        )  # fmt: skip

    def _block_scales(self, op: PromoteOp, read: dict[Value, str], cursors: Mapping[Value, Value]) -> Value | None:
        """The scales of the tile's blocks in this step; None where a sum is promoted as it is."""
        if op.row_scale is None or op.col_scale is None:
            return None
        kinds = self._scale_kinds(op)
        area = read[op.col_scale if "row_scale" in kinds else op.row_scale]
        ring = self.ctx.ring_of(area).ring
        with self.ir.at(op.origin):
            found = self.ir.add(BlockScalesOp, cursor=cursors[ring.result], area=area, run=ring.steps,
                                result=("block_scale", kinds["block_scale"]))  # fmt: skip
        return found.result

    def _scales(
        self, op: PromoteOp, read: dict[Value, str], cursor: Value, blocks: Value | None, at: tuple[int, int]
    ) -> tuple[Value, Value] | None:
        """This thread's (row, column) scales of a wave; ``at``: of how many waves, and which."""
        if blocks is None or op.row_scale is None or op.col_scale is None:
            return None
        ir, kinds, (waves, wave) = self.ir, self._scale_kinds(op), at
        with ir.at(op.origin):
            if "row_scale" in kinds:
                area = read[op.row_scale]
                rows = ir.add(RowScalesOp, cursor=cursor, place=self.places.get((area, wave)), area=area, waves=waves,
                              wave=wave, result=("row_scale", kinds["row_scale"]))  # fmt: skip
                return rows.result, blocks
            column = ir.add(ColumnScalesOp, cursor=cursor, area=read[op.col_scale],
                            result=("col_scale", kinds["col_scale"]))  # fmt: skip
            return blocks, column.result

    def _scale_kinds(self, op: PromoteOp) -> dict[str, Type]:
        """This thread's scales of a wave, rows' before columns', by what they are: one per row or column, or per block.

        Raises:
            IRError: neither rows nor columns have scales of their own.
        """
        if op.row_scale is None or op.col_scale is None:
            return {}
        if op.row_block == 1 and op.col_block > 1:
            return {"row_scale": frag(F32, 2), "block_scale": frag(F32, *extents(op.col_scale))}
        if op.row_block > 1 and op.col_block == 1 and extents(op.row_scale) == (1,):
            columns = frag(F32, extents(op.result)[1] // hw.MATRIX_COLS, 2)
            return {"block_scale": frag(F32, *extents(op.row_scale)), "col_scale": columns}
        raise IRError("sm_90a cannot promote with these scale blocks yet",
                      got=f"{op.row_block} rows, {op.col_block} columns, {op.row_scale.type} scales per tile",
                      need="one scale per row with blocks of columns, or one block of rows with a scale per column",
                      fix="choose tile rows that divide the scale block")  # fmt: skip

    def _promote(self, op: PromoteOp, acc: Value, part: Value, scales: tuple[Value, Value] | None) -> None:
        if scales is None:
            self.ir.add(AddPartOp, acc=acc, part=part)
        elif op.row_block == 1:
            self.ir.add(PromoteRowsOp, acc=acc, part=part, rows=scales[0], blocks=scales[1], first=op.col,
                        block=op.col_block, runs=self.ctx.runs.get(op.col, ()))  # fmt: skip
        else:
            self.ir.add(PromoteColumnsOp, acc=acc, part=part, blocks=scales[0], columns=scales[1])

    def _scale(self, op: tile_ops.ScaleOp) -> None:
        """Scales that hold for all of K are read once per tile, straight from global memory."""
        ctx, pieces = self.ctx, self.pieces[op.value]
        for wave, piece in enumerate(pieces):
            self.ir.add(
                ScaleOp, value=piece, row_scale=ctx.pointer(op.row_scale), row_stride=ctx.stride(op.row_scale, 0),
                col_scale=ctx.pointer(op.col_scale), col_stride=ctx.stride(op.col_scale, 0), row=op.row, col=op.col,
                rows=mem(op.row_scale).shape[0], cols=mem(op.col_scale).shape[0], waves=len(pieces), wave=wave,
            )  # fmt: skip
        self.pieces[op.result] = pieces

    def _map(self, op: MapOp) -> None:
        kind = mem(op.result).dtype.name
        if op.expression != "acc" or kind not in hw.OUTPUT_DTYPES:
            need = f"acc as {' or '.join(hw.OUTPUT_DTYPES)}"
            raise IRError("sm_90a's epilogue", got=f"{op.expression} as {kind}", need=need)
        self.pieces[op.result] = self.pieces[op.acc]

    def _store_in_background(self, op: async_ops.AsyncStoreOp) -> None:
        """Through shared memory: every wave becomes boxes that one thread hands to the copy engine."""
        ir, pieces = self.ir, self.pieces[op.value]
        waves, area = len(pieces), op.staging.name
        columns = extents(op.value)[1]
        slab = hw.WGMMA_ROWS if op.transposed else hw.store_slab_columns(columns)
        box = (columns, slab) if op.transposed else (hw.WGMMA_ROWS, slab)
        kind = mem(op.dest).dtype
        tensor_map = self.ctx.map(op.dest, (box[1], box[0]), f"{box[1] * kind.bits // 8}B")
        ir.add(StagingWaitOp)
        for wave, piece in enumerate(pieces):
            if op.transposed:
                ir.add(StoreColumnsOp, value=piece, area=area, dtype=kind.name, waves=waves, wave=wave)
            else:
                ir.add(StoreRowsOp, value=piece, area=area, slab=slab, dtype=kind.name, waves=waves, wave=wave)
        ir.add(StagingPublishOp)
        for wave in range(waves):
            ir.add(TmaStoreOp, map=tensor_map, row=op.row, col=op.col, area=area, box=box, waves=waves, wave=wave,
                   slabs=1 if op.transposed else columns // slab, transposed=op.transposed,
                   runs=self.ctx.runs.get(op.col, ()))  # fmt: skip
        ir.add(StoreCommitOp)

    def _write_partials(self, op: ReducePartsOp) -> None:
        """Put this CTA's partial sums where its partners can read them, and meet them."""
        assert op.exchange is not None
        ir, pieces = self.ir, self.pieces[op.value]
        pitch = extents(op.exchange)[1]
        row_pitch, col_pitch = (1, pitch) if op.transposed else (pitch, 1)
        group = {"id": self.warpgroups + 1, "threads": self.ctx.math_warps * hw.WARP_THREADS}
        ir.add(GroupSyncOp, **group)
        for wave, piece in enumerate(pieces):
            ir.add(WritePartialOp, value=piece, area=op.exchange.name, row_pitch=row_pitch, col_pitch=col_pitch,
                   waves=len(pieces), wave=wave)  # fmt: skip
        ir.add(GroupSyncOp, **group)  # the cluster's barrier would do; this is the form that was timed
        ir.add(SyncOp, scope="cluster")
        self.reduction = op
        self.pieces[op.result] = pieces

    def _store_directly(self, op: tile_ops.StoreOp) -> None:
        """Without staging: the reduced slice of this CTA, or the fragment element by element."""
        rows, cols = mem(op.dest).shape
        place = {"dest": self.ctx.pointer(op.dest), "stride": self.ctx.stride(op.dest, 0), "row": op.row,
                 "col": op.col, "rows": rows, "cols": cols}  # fmt: skip
        found = self.reduction
        if found is None:
            pieces = self.pieces[op.value]
            for wave, piece in enumerate(pieces):
                self.ir.add(StoreDirectOp, value=piece, waves=len(pieces), wave=wave, transposed=op.transposed, **place)
            return
        assert found.exchange is not None
        shape = extents(op.value)
        self.ir.add(
            ReduceStoreOp, area=found.exchange.name, tile=shape[::-1] if op.transposed else shape,
            pitch=extents(found.exchange)[1], parts=found.parts, threads=self.ctx.math_warps * hw.WARP_THREADS, **place,
        )  # fmt: skip


def _released(ring: RingOp) -> dict[str, Any]:
    """To whom a stage of the ring is released, and by whom."""
    return {"cluster": ring.cluster, "lanes": copied_by_lanes(ring)}


def _item_bytes(mma: MmaOp) -> int:
    return mem(mma.a).dtype.bits // 8


def _spans(mma: MmaOp) -> dict[str, int]:
    """Bytes of the slabs of operands whose rows follow each other along K; 0 for the others."""
    return {
        name: hw.swizzle_span(extents(value)[1] * _item_bytes(mma)) if transposed else 0
        for name, value, transposed in (("a_span", mma.a, mma.trans_a), ("b_span", mma.b, mma.trans_b))
    }
