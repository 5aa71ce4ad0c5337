"""Lowering to Blackwell: Hopper's roles, loops, loads and barriers, with tensor memory and its ring of accumulators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gemmgen.backends.sm90 import lowering as hopper
from gemmgen.backends.sm90.lower_loads import LoadLowering
from gemmgen.backends.sm90.ops import AdvanceOp, Area, BarriersOp, CursorOp, KLoopOp, SyncOp
from gemmgen.backends.sm100 import hardware as hw
from gemmgen.backends.sm100.lower_math import MathLowering, MmaLowering, Sums
from gemmgen.backends.sm100.ops import FenceOp, TmemAddressOp, TmemAllocOp, TmemFreeOp, renamed
from gemmgen.errors import IRError
from gemmgen.ir import async_ops
from gemmgen.ir.async_ops import AsyncMmaOp, RingOp, RoleOp
from gemmgen.ir.core import Level, Module, Op, Region, Value
from gemmgen.ir.rewrite import walk
from gemmgen.ir.tile_ops import ForKOp, ForTilesOp, YieldOp
from gemmgen.ir.types import INDEX, U32, BarrierType
from gemmgen.passes.base import Pass
from gemmgen.passes.registry import register_pass
from gemmgen.schedule import Schedule

Work = MathLowering | MmaLowering


@register_pass
@dataclass(frozen=True)
class LowerSm100Pass(Pass):
    """Translate an async-level module into Blackwell's instructions.

    Before: rings and staging tiles have offsets and columns (``tensor-memory-allocation``,
    ``shared-memory-allocation``); role ``mma`` hands partial sums to role ``math`` through a ring in tensor memory.
    After: a target-level module of ``sm100.*`` ops whose arguments are the kernel's parameters.
    """

    pdl: bool = False

    name: ClassVar[str] = "lower-sm100"
    levels: ClassVar[frozenset[Level]] = frozenset({Level.ASYNC})

    def apply(self, module: Module) -> Module:
        """The module at the target level."""
        return renamed(Lowering(module, self.pdl).run())


class Lowering(hopper.Lowering):
    """Lowers one module, in Hopper's ops where Blackwell has the same; see ``ops.renamed``."""

    def __init__(self, module: Module, pdl: bool) -> None:
        found = [op for op in module.body.ops if isinstance(op, RingOp) and op.in_tensor_memory]
        issuers = [op for op in module.body.ops if isinstance(op, RoleOp) and _issues(op)]
        if len(found) != 1 or len(issuers) != 1 or found[0].buffers[0].offset < 0:
            raise IRError(
                "products go through one ring of accumulators in tensor memory",
                where=f"module @{module.name}",
                got=f"{len(found)} rings, {len(issuers)} roles that multiply",
                need="one of each, with columns",
                fix="run warp-specialization with accumulators, then tensor-memory-allocation",
            )
        super().__init__(module, 0, pdl)
        self.ring_of_sums = found[0]
        self.by_step = not any(isinstance(op, AsyncMmaOp) and op.accumulate for op in walk(module))
        self.columns = int(module.attr("tmem_columns"))
        stages = found[0].stages
        self.part_full = self.ir.value("part_full", BarrierType(stages))
        self.part_empty = self.ir.value("part_empty", BarrierType(stages))
        self.tmem = self.ir.value("tmem", U32)
        self.alloc_warp = sum(role.warps for role in self.roles[: self.roles.index(issuers[0])])

    def _empty_arrivals(self) -> int:
        warps = self.ctx.math_warps if self._uses_ring(self.roles[0]) else 0
        return hw.empty_arrivals(warps, self.ctx.ring.cluster)

    def _uses_ring(self, role: RoleOp) -> bool:
        """Whether the role fills or reads stages in shared memory; one that takes whole sums does not."""
        steps = [op.ring for op in walk(role.body) if isinstance(op, async_ops.RingStepOp)]
        return self.ctx.ring.result in steps

    def _barriers(self) -> list[Value]:
        barriers = super()._barriers()
        self.ir.add(BarriersOp, area="part_full", arrivals=1, result=self.part_full)
        self.ir.add(BarriersOp, area="part_empty", arrivals=self.ctx.math_warps, result=self.part_empty)
        return [*barriers, self.part_full, self.part_empty]

    def _set_up(self) -> None:
        """Tensor memory is allocated before all threads meet, and everybody learns its address afterwards."""
        self.ir.add(TmemAllocOp, area="tmem_address", columns=self.columns, warp=self.alloc_warp)
        super()._set_up()
        self.ir.add(TmemAddressOp, area="tmem_address", result=self.tmem)

    def _finish(self) -> None:
        """Everybody is done with tensor memory when all threads have met again."""
        self.ir.add(FenceOp, side="before")
        self.ir.add(SyncOp, scope="cluster" if self.cluster > 1 else "cta")
        self.ir.add(FenceOp, side="after")
        self.ir.add(TmemFreeOp, tmem=self.tmem, columns=self.columns, warp=self.alloc_warp)

    def _body(self, role: RoleOp) -> None:
        ir = self.ir
        cursor = ir.add(CursorOp, result=("cursor", INDEX)).result if self._uses_ring(role) else None
        if not hopper.stores(role) and not _issues(role):
            self._visit(role, cursor, None, None)
            return
        parts = ir.add(CursorOp, result=("parts", INDEX)).result
        sums = Sums(self.ring_of_sums, self.tmem, parts, self.part_full, self.part_empty, self.by_step)
        if _issues(role):
            self._visit(role, cursor, parts, MmaLowering(ir, self.ctx, sums))
            return
        math = MathLowering(ir, self.ctx, sums)
        math.prologue()
        self._visit(role, cursor, parts, math)
        math.epilogue()

    def _visit(self, role: RoleOp, cursor: Value | None, parts: Value | None, work: Work | None) -> None:
        """The role's loops over tiles and over K."""
        for op in role.body.ops:
            if not isinstance(op, ForTilesOp):
                raise IRError("a role runs loops over tiles", got=op.NAME, need=ForTilesOp.NAME)
            with self.ir.region() as body:
                for inner in op.body.ops:
                    if isinstance(inner, ForKOp) and cursor is not None:
                        self._step(inner, cursor, parts, work)
                    elif work is not None:
                        work.tile_op(inner)
            self.ir.add(hopper.TileLoopOp, **self._tile_loop(op), body=Region(op.body.args, body.region.ops))

    def _tile_loop(self, op: ForTilesOp) -> dict[str, object]:
        names = ("rows", "cols", "tile", "cluster", "split", "raster_group", "raster_along")
        return {name: getattr(op, name) for name in names}

    def _step(self, loop: ForKOp, cursor: Value, parts: Value | None, work: Work | None) -> None:
        ops: list[Op] = [op for op in loop.body.ops if not isinstance(op, YieldOp)]
        with self.ir.region() as body:
            if work is None:
                LoadLowering(self.ir, self.ctx).step(ops, cursor, alone=True)
            else:
                work.step(loop, ops, cursor)
            self.ir.add(AdvanceOp, cursor=cursor, stages=self.ctx.ring.stages)
            if parts is not None and self.by_step:
                self.ir.add(AdvanceOp, cursor=parts, stages=self.ring_of_sums.stages)
        self.ir.add(KLoopOp, extent=loop.extent, step=loop.step, parts=loop.parts,
                    body=Region(loop.body.args[:1], body.region.ops))  # fmt: skip

    def _areas(self) -> list[Area]:
        ring = self.ring_of_sums
        bytes_ = async_ops.BARRIER_BYTES
        places = [Area(name, ring.offset + index * bytes_ * ring.stages, bytes_, ring.stages)
                  for index, name in enumerate(("part_full", "part_empty"))]  # fmt: skip
        address = ring.offset + ring.control_bytes - bytes_
        return [*super()._areas(), *places, Area("tmem_address", address, bytes_)]


def _issues(role: RoleOp) -> bool:
    return any(isinstance(op, AsyncMmaOp) for op in walk(role.body))


def lowering_pass(schedule: Schedule) -> LowerSm100Pass:
    """The lowering for a schedule."""
    return LowerSm100Pass(schedule.pdl)
