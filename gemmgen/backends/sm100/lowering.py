"""Lowering to Blackwell: Hopper's roles, loops, loads and barriers, with tensor memory and its ring of accumulators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gemmgen.backends.sm90 import lowering as hopper
from gemmgen.backends.sm90.lower_loads import LoadLowering
from gemmgen.backends.sm90.ops import AdvanceOp, Area, BarriersOp, CursorOp, KLoopOp, SyncOp
from gemmgen.backends.sm100 import hardware as hw
from gemmgen.backends.sm100.lower_math import MathLowering
from gemmgen.backends.sm100.lower_mma import MmaLowering, Sums
from gemmgen.backends.sm100.lower_scales import ScaleLowering, arranges
from gemmgen.backends.sm100.ops import FenceOp, OwnShareOp, TmemAddressOp, TmemAllocOp, TmemFreeOp, renamed
from gemmgen.errors import IRError
from gemmgen.ir import async_ops
from gemmgen.ir.async_ops import AsyncLoadOp, AsyncMmaOp, RingOp, RoleOp
from gemmgen.ir.core import Level, Module, Op, Region, Value
from gemmgen.ir.rewrite import walk
from gemmgen.ir.tile_ops import ForKOp, ForTilesOp, YieldOp
from gemmgen.ir.types import INDEX, U32, BarrierType
from gemmgen.passes.base import Pass
from gemmgen.passes.registry import register_pass
from gemmgen.schedule import Schedule

Work = MathLowering | MmaLowering
Cursors = dict[Value, Value]
"""A role's place in each ring that it fills or reads."""


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

    MAX_RINGS: ClassVar[int] = 2

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
        self.ctas = found[0].ctas
        self.by_step = not any(isinstance(op, AsyncMmaOp) and op.accumulate for op in walk(module))
        self.columns = int(module.attr("tmem_columns"))
        stages = found[0].stages
        self.part_full = self.ir.value("part_full", BarrierType(stages))
        self.part_empty = self.ir.value("part_empty", BarrierType(stages))
        self.tmem = self.ir.value("tmem", U32)
        self.alloc_warp = sum(role.warps for role in self.roles[: self.roles.index(issuers[0])])

    def _full_arrivals(self, ring: RingOp) -> int:
        """One warp of every CTA arranges scales, if there are any."""
        arranged = {op.buffer for op in walk(self.ctx.module) if arranges(op) and op.ring == ring.result}
        rest = ring.replace(buffers=tuple(b for b in ring.buffers if b.name not in arranged))
        return super()._full_arrivals(rest) + (ring.ctas if arranged else 0)

    def _empty_arrivals(self, ring: RingOp) -> int:
        """The tensor core's commit, and every warp that reads a stage itself."""
        readers = [role for role in self.roles if _releases(role, ring.result)]
        warps = sum(role.warps for role in readers if not _issues(role))
        return hw.empty_arrivals(warps, sum(_issues(role) for role in readers), ring.cluster)

    def _rings_of(self, role: RoleOp) -> list[Value]:
        """The rings in shared memory that the role fills or reads, in order; one that takes whole sums has none."""
        turned = dict.fromkeys(op.ring for op in walk(role.body) if isinstance(op, async_ops.RingStepOp))
        return [ring for ring in turned if ring in self.ctx.rings]

    def _barriers(self) -> list[Value]:
        barriers = super()._barriers()
        self.ir.add(BarriersOp, area="part_full", arrivals=1, result=self.part_full)
        self.ir.add(BarriersOp, area="part_empty", arrivals=self.ctx.math_warps * self.ctas, leader=self.ctas > 1,
                    result=self.part_empty)  # fmt: skip
        return [*barriers, self.part_full, self.part_empty]

    def _set_up(self) -> None:
        """Tensor memory is allocated before all threads meet, and everybody learns its address afterwards.

        A pair allocates together, so that its CTAs must both be there.
        """
        if self.ctas > 1:
            self.ir.add(SyncOp, scope="cluster")
        self.ir.add(TmemAllocOp, area="tmem_address", columns=self.columns, warp=self.alloc_warp, ctas=self.ctas)
        super()._set_up()
        self.ir.add(TmemAddressOp, area="tmem_address", result=self.tmem)

    def _finish(self, warps: int) -> None:
        """Everybody is done with tensor memory when all threads have met again."""
        self.ir.add(FenceOp, side="before")
        self.ir.add(SyncOp, scope="cluster" if self.cluster > 1 else "cta")
        self.ir.add(FenceOp, side="after")
        self.ir.add(TmemFreeOp, tmem=self.tmem, columns=self.columns, warp=self.alloc_warp, ctas=self.ctas)

    def _leads(self, role: RoleOp) -> bool:
        return self.ctas > 1 and _issues(role)

    def _body(self, role: RoleOp) -> None:
        ir = self.ir
        cursors = {ring: self._cursor(ring) for ring in self._rings_of(role)}
        if not hopper.stores(role) and not _issues(role):
            self._visit(role, cursors, None, None)
            return
        parts = ir.add(CursorOp, result=("parts", INDEX)).result
        sums = Sums(self.ring_of_sums, self.tmem, parts, self.part_full, self.part_empty, self.by_step)
        if _issues(role):
            self._visit(role, cursors, parts, MmaLowering(ir, self.ctx, sums))
            return
        math = MathLowering(ir, self.ctx, sums)
        math.prologue()
        self._visit(role, cursors, parts, math)
        math.epilogue()

    def _cursor(self, ring: Value) -> Value:
        first = ring == self.ctx.operands.ring.result
        return self.ir.add(CursorOp, result=("cursor" if first else f"{ring.name}_cursor", INDEX)).result

    def _visit(self, role: RoleOp, cursors: Cursors, parts: Value | None, work: Work | None) -> None:
        """The role's loops over tiles and over K."""
        for op in role.body.ops:
            if not isinstance(op, ForTilesOp):
                raise IRError("a role runs loops over tiles", got=op.NAME, need=ForTilesOp.NAME)
            with self.ir.region() as body:
                for inner in op.body.ops:
                    if isinstance(inner, ForKOp):
                        self._step(inner, cursors, parts, work)
                    elif work is not None:
                        work.tile_op(inner)
            self.ir.add(hopper.TileLoopOp, **self._tile_loop(op), body=Region(op.body.args, body.region.ops))

    def _tile_loop(self, op: ForTilesOp) -> dict[str, object]:
        names = ("rows", "cols", "tile", "cluster", "split", "raster_group", "raster_along")
        return {name: getattr(op, name) for name in names}

    def _step(self, loop: ForKOp, cursors: Cursors, parts: Value | None, work: Work | None) -> None:
        ops: list[Op] = [op for op in loop.body.ops if not isinstance(op, YieldOp)]
        with self.ir.region() as body:
            if work is not None:
                work.step(loop, ops, cursors)
            elif any(arranges(op) for op in ops):
                ScaleLowering(self.ir, self.ctx).step(loop, ops, cursors)
            else:
                LoadLowering(self.ir, self.ctx).step(self._own_shares(ops, loop.body.args[0]), cursors, alone=True)
            for ring, cursor in cursors.items():
                self.ir.add(AdvanceOp, cursor=cursor, stages=self.ctx.rings[ring].ring.stages)
            if parts is not None and self.by_step:
                self.ir.add(AdvanceOp, cursor=parts, stages=self.ring_of_sums.stages)
        self.ir.add(KLoopOp, extent=loop.extent, step=loop.step, parts=loop.parts,
                    body=Region(loop.body.args[:1], body.region.ops))  # fmt: skip

    def _own_shares(self, ops: list[Op], k0: Value) -> list[Op]:
        """The loads, with those of an operand that CTAs share where this CTA's share of it starts."""
        return [self._own_share(op, k0) if isinstance(op, AsyncLoadOp) and op.shares > 1 else op for op in ops]

    def _own_share(self, op: AsyncLoadOp, k0: Value) -> AsyncLoadOp:
        """Shares are of rows or columns of D; every CTA loads all of K."""
        held = self.ctx.rings[op.ring].ring.buffer(op.buffer).type.shape
        axis = 1 if op.row == k0 else 0
        start = op.col if axis else op.row
        extent = int(held[axis])  # pyright: ignore[reportArgumentType]
        share = self.ir.add(OwnShareOp, start=start, extent=extent, result=(f"{start.name}_share", INDEX)).result
        return op.replace(col=share) if axis else op.replace(row=share)

    def _areas(self) -> list[Area]:
        ring = self.ring_of_sums
        bytes_ = async_ops.BARRIER_BYTES
        places = [Area(name, ring.offset + index * bytes_ * ring.stages, bytes_, ring.stages)
                  for index, name in enumerate(("part_full", "part_empty"))]  # fmt: skip
        address = ring.offset + ring.control_bytes - bytes_
        return [*super()._areas(), *places, Area("tmem_address", address, bytes_)]


def _releases(role: RoleOp, ring: Value) -> bool:
    return any(isinstance(op, async_ops.ReleaseOp) and op.ring == ring for op in walk(role.body))


def _issues(role: RoleOp) -> bool:
    return any(isinstance(op, AsyncMmaOp) for op in walk(role.body))


def lowering_pass(schedule: Schedule) -> LowerSm100Pass:
    """The lowering for a schedule."""
    return LowerSm100Pass(schedule.pdl)
