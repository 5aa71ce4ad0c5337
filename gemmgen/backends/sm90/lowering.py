"""Lowering to Hopper: roles become warps, rings become barriers and stages, boxes become tensor maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import sympy

from gemmgen.backends.sm90 import hardware as hw
from gemmgen.backends.sm90.lower_loads import EVICTED, LoadLowering, copied_by_lanes, copying_lanes
from gemmgen.backends.sm90.lower_math import MathLowering
from gemmgen.backends.sm90.ops import (
    AdvanceOp,
    Area,
    BarriersOp,
    CursorOp,
    DispatchOp,
    EvictFirstOp,
    GridLaunchOp,
    GridWaitOp,
    InitBarriersOp,
    KLoopOp,
    Launch,
    SetRegistersOp,
    SyncOp,
    TensorMap,
    TileLoopOp,
    WarpsOp,
)
from gemmgen.errors import IRError
from gemmgen.ir.async_ops import (
    BARRIER_BYTES,
    AcquireOp,
    ArrangeOp,
    AsyncLoadOp,
    AsyncLoadScalesOp,
    AsyncStoreOp,
    CommitOp,
    Engine,
    RingOp,
    RingStepOp,
    RoleOp,
    StagingOp,
    tile_bytes,
)
from gemmgen.ir.builder import Builder
from gemmgen.ir.core import Level, Module, Op, Region, Value
from gemmgen.ir.rewrite import NameSupply, walk
from gemmgen.ir.tile_ops import ForKOp, ForTilesOp, StoreOp, YieldOp, mem
from gemmgen.ir.types import I32, I64, INDEX, MAP, BarrierType, MemType
from gemmgen.passes.base import Pass
from gemmgen.passes.registry import register_pass
from gemmgen.schedule import Schedule

LOADING = (AcquireOp, AsyncLoadOp, AsyncLoadScalesOp, CommitOp)
Cursors = Mapping[Value, Value]
"""A role's place in each ring that it fills or reads."""


@register_pass
@dataclass(frozen=True)
class LowerSm90Pass(Pass):
    """Translate an async-level module into Hopper's instructions.

    Before: rings and staging tiles have offsets (``shared-memory-allocation``); roles are optional. Without roles,
    ``warpgroups`` warpgroups do everything, loads included. ``lookahead`` and ``unroll`` are for loops over K that
    multiply and do not overlap. ``evict_first``: B's lines leave L2 before others.
    After: a target-level module of ``sm90.*`` ops whose arguments are the kernel's parameters.
    """

    warpgroups: int = 1
    pdl: bool = False
    lookahead: bool = False
    unroll: int = 0
    evict_first: bool = False

    name: ClassVar[str] = "lower-sm90"
    levels: ClassVar[frozenset[Level]] = frozenset({Level.ASYNC})

    def apply(self, module: Module) -> Module:
        """The module at the target level."""
        return Lowering(module, self.warpgroups, self.pdl, self.lookahead, self.unroll, self.evict_first).run()


@dataclass(frozen=True)
class Handle:
    """A ring in shared memory with its barriers: ``full`` says that a stage is loaded, ``empty`` that it is free."""

    ring: RingOp
    full: Value
    empty: Value

    @property
    def areas(self) -> tuple[str, str]:
        """The areas of its barriers."""
        return self.full.name, self.empty.name


@dataclass
class Context:
    """What the parts of the lowering share.

    Attributes:
        module: the async-level module.
        rings: its rings in shared memory; the first one holds the operands. On Hopper a second one may hold the scales
            of all steps of a tile.
        math_warps: warps that multiply.
        stagings: its staging tiles.
        lookahead: multiplying warps look for the next step's operands before they promote a step.
        args: the kernel's parameters by name.
        maps: the tensor maps among them.
        policy: how long L2 keeps what the role at hand loads of B, if that is said.
    """

    module: Module
    rings: dict[Value, Handle]
    math_warps: int
    stagings: dict[Value, StagingOp]
    lookahead: bool = False
    args: dict[str, Value] = field(default_factory=dict)
    maps: list[TensorMap] = field(default_factory=list)
    policy: Value | None = None

    @cached_property
    def runs(self) -> dict[Value, tuple[int, ...]]:
        """The runs in which the columns of tiles are dealt, by the value that says where a tile starts."""
        loops = [op for op in walk(self.module) if isinstance(op, ForTilesOp)]
        return {op.body.args[1]: op.runs for op in loops if op.runs}

    @property
    def operands(self) -> Handle:
        """The ring that holds the operands."""
        return next(iter(self.rings.values()))

    def ring_of(self, buffer: str) -> Handle:
        """The ring that holds a buffer."""
        return next(h for h in self.rings.values() if any(each.name == buffer for each in h.ring.buffers))

    def map(
        self, operand: Value, box: tuple[int, ...], swizzle: str, *, transposed: bool = False, run: int = 0
    ) -> Value:
        """The tensor map of ``operand`` with this box (innermost first), made a parameter on first use.

        ``run``: the number of the run that it is for, where rows are dealt in runs.
        """
        name = f"tma_{operand.name}" + (f"_run{run}" if run else "")
        found = TensorMap(name, operand.name, mem(operand).dtype.name, box, swizzle, transposed)
        if name not in self.args:
            self.maps.append(found)
        elif found not in self.maps:
            raise IRError(f"{operand} would need two tensor maps", got=str(box), need="one box per operand")
        return self.args.setdefault(name, Value(name, MAP))

    def pointer(self, operand: Value) -> Value:
        """The operand's data pointer as a parameter."""
        return self.args.setdefault(operand.name, Value(operand.name, operand.type))

    def stride(self, operand: Value, axis: int) -> Value:
        """The operand's stride along ``axis`` (elements) as a parameter."""
        name = f"{operand.name}_stride_{'row' if axis == 0 else 'col'}"
        return self.args.setdefault(name, Value(name, I64))


class Lowering:
    """Lowers one module. Blackwell's lowering derives from it: loads, loops, roles and barriers are the same there.

    ``MAX_RINGS`` in shared memory is what its roles can go through side by side.

    Args:
        module: an async-level module.
        warpgroups: warpgroups of a CTA without roles.
        pdl: the launch overlaps with its neighbours.
        lookahead: the multiplying warps look for the next step's operands before they promote a step.
        unroll: steps of K in a row in the code of a loop that multiplies; 0 leaves it to the compiler.
        evict_first: B's lines leave L2 before others.
    """

    MAX_RINGS: ClassVar[int] = 2

    def __init__(
        self, module: Module, warpgroups: int, pdl: bool, lookahead: bool = False, unroll: int = 0,
        evict_first: bool = False,
    ) -> None:  # fmt: skip
        rings = [op for op in module.body.ops if isinstance(op, RingOp) and not op.in_tensor_memory]
        if not 1 <= len(rings) <= self.MAX_RINGS or rings[0].offset < 0:
            raise IRError("lowering needs one ring that has its place", where=f"module @{module.name}",
                          got=f"{len(rings)} rings", fix="run pipelining and shared-memory-allocation")  # fmt: skip
        self.warpgroups, self.pdl, self.unroll, self.evict_first = warpgroups, pdl, unroll, evict_first
        self.ir = Builder(NameSupply(_kept_names(module)))
        self.roles = [op for op in module.body.ops if isinstance(op, RoleOp)] or [self._only_role(module)]
        self.ctx = Context(
            module, {op.result: self._handle(op, first=op is rings[0]) for op in rings}, self.roles[0].warps,
            {op.result: op for op in module.body.ops if isinstance(op, StagingOp)}, lookahead,
        )  # fmt: skip
        self.tiles = next(op for op in walk(module) if isinstance(op, ForTilesOp))
        self.inside = _movable_axes(module)
        self.cluster = self.tiles.cluster[0] * self.tiles.cluster[1] * self.tiles.split

    def _handle(self, ring: RingOp, first: bool) -> Handle:
        kind, prefix = BarrierType(ring.stages), "" if first else f"{ring.result.name}_"
        return Handle(ring, self.ir.value(f"{prefix}full", kind), self.ir.value(f"{prefix}empty", kind))

    def run(self) -> Module:
        """The module at the target level."""
        ir = self.ir
        ir.add(InitBarriersOp, barriers=self._barriers())
        self._set_up()
        if self.pdl:
            ir.add(GridWaitOp)
            ir.add(GridLaunchOp)  # early: the next kernel waits for all of this one, whenever it is launched
        with ir.region() as branches:
            first = 0
            for group in self._warpgroups():
                self._group(group, first)
                first += sum(role.warps for role in group)
        ir.add(DispatchOp, body=branches.region)
        self._meet(first)
        self._finish(first)
        return self._module(first * hw.WARP_THREADS)

    def _barriers(self) -> list[Value]:
        """Declare the barriers."""
        ir, ctx, declared = self.ir, self.ctx, []
        for handle in ctx.rings.values():
            full, empty = handle.areas
            ir.add(BarriersOp, area=full, arrivals=self._full_arrivals(handle.ring), leader=handle.ring.ctas > 1,
                   result=handle.full)  # fmt: skip
            ir.add(BarriersOp, area=empty, arrivals=self._empty_arrivals(handle.ring), result=handle.empty)
            declared += [handle.full, handle.empty]
        return declared

    def _full_arrivals(self, ring: RingOp) -> int:
        """How often those who fill a stage arrive."""
        engines = {buffer.engine for buffer in ring.buffers}
        return hw.full_arrivals(Engine.BULK in engines, copying_lanes(ring))

    def _empty_arrivals(self, ring: RingOp) -> int:
        """How often a stage is released."""
        return self.ctx.math_warps * hw.warp_arrivals(ring.cluster, copied_by_lanes(ring))

    def _set_up(self) -> None:
        """Between the barriers' initialisation and the roles: all threads meet."""
        self.ir.add(SyncOp, scope="cluster" if self.cluster > 1 else "cta")

    def _meet(self, warps: int) -> None:
        """Where CTAs share a tile, they meet in the midst of role ``math``; all other warps do so after their roles."""
        others = warps - self.ctx.math_warps
        if self.tiles.split == 1 or not others:
            return
        with self.ir.region() as body:
            self.ir.add(SyncOp, scope="cluster")
        self.ir.add(WarpsOp, label="meet", first=self.ctx.math_warps, count=others, body=body.region)

    def _finish(self, warps: int) -> None:
        """After the roles: no CTA ends while another may reach its shared memory.

        The multiplying warps see to that; the others end when they are done, for a warp that waits at a cluster's
        barrier polls it.
        """
        if self.cluster == 1:
            return
        if warps == self.ctx.math_warps:
            self.ir.add(SyncOp, scope="cluster")
            return
        with self.ir.region() as body:
            self.ir.add(SyncOp, scope="cluster")
        self.ir.add(WarpsOp, label="end", first=0, count=self.ctx.math_warps, body=body.region)

    def _only_role(self, module: Module) -> RoleOp:
        """The whole module as one role, when warps are not specialised."""
        work = tuple(op for op in module.body.ops if not isinstance(op, RingOp | StagingOp))
        return RoleOp(name="all", warps=self.warpgroups * hw.GROUP_WARPS, body=Region((), work))

    def _warpgroups(self) -> list[list[RoleOp]]:
        """Roles that must change registers together, in order; without reallocation each role stands alone."""
        groups: list[list[RoleOp]] = []
        for role in self.roles:
            if groups and role.registers and groups[-1][-1].registers == role.registers:
                groups[-1].append(role)
            else:
                groups.append([role])
        return groups

    def _group(self, group: list[RoleOp], first: int) -> None:
        registers = group[0].registers
        if len(group) == 1:
            self._role(group[0], first, registers)
            return
        with self.ir.region() as body:
            self.ir.add(SetRegistersOp, count=registers, grow=False)
            with self.ir.region() as branches:
                start = first
                for role in group:
                    if role.body.ops:
                        self._role(role, start, 0)
                    start += role.warps
            self.ir.add(DispatchOp, body=branches.region)
        label = " and ".join(role.name for role in group if role.body.ops)
        self.ir.add(WarpsOp, label=label, first=first, count=sum(role.warps for role in group), body=body.region)

    def _role(self, role: RoleOp, first: int, registers: int) -> None:
        ir = self.ir
        bulk_only = role.warps == 1 and not any(_by_lanes(op) for op in walk(role.body))
        with ir.at(role.origin), ir.region() as body:
            if registers:
                ir.add(SetRegistersOp, count=registers, grow=role.name == "math")
            self._body(role)
        ir.add(WarpsOp, label=role.name, first=first, count=role.warps, elect=bulk_only, leader=self._leads(role),
               body=body.region)  # fmt: skip

    def _leads(self, role: RoleOp) -> bool:
        """Whether only the cluster's first CTA plays the role."""
        return False

    def _body(self, role: RoleOp) -> None:
        """What the role does with the registers it has."""
        math = MathLowering(self.ir, self.ctx) if stores(role) else None
        if math:
            math.prologue(role)
        evicted = any(isinstance(op, AsyncLoadOp) and op.source.name == EVICTED for op in walk(role))
        if self.evict_first and evicted:
            self.ctx.policy = self.ir.add(EvictFirstOp, result=("policy", I64)).result
        cursors = {ring: self._cursor_in(ring, reads=bool(math)) for ring in self._rings_of(role)}
        self._tiles(role, cursors, math)
        if math:
            math.epilogue()

    def _rings_of(self, role: RoleOp) -> list[Value]:
        """The rings that the role fills or reads, that of the operands first."""
        turned = {op.ring for op in walk(role) if isinstance(op, RingStepOp)}
        return [ring for ring in self.ctx.rings if ring in turned]

    def _cursor_in(self, ring: Value, *, reads: bool) -> Value:
        """A role's place in a ring; those who read stages that hold all steps of a tile count these."""
        handle = self.ctx.rings[ring]
        name = "cursor" if handle is self.ctx.operands else ring.name
        return self.ir.add(CursorOp, steps=reads and handle.ring.steps > 0, result=(name, INDEX)).result

    def _tiles(self, role: RoleOp, cursors: Cursors, math: MathLowering | None) -> None:
        for op in role.body.ops:
            if not isinstance(op, ForTilesOp):
                raise IRError("a role runs loops over tiles", got=op.NAME, need=ForTilesOp.NAME)
            with self.ir.region() as body:
                for inner in op.body.ops:
                    if isinstance(inner, ForKOp):
                        self._steps(inner, cursors, math)
                    elif math:
                        math.tile_op(inner)
            self.ir.add(
                TileLoopOp, rows=op.rows, cols=op.cols, tile=op.tile, cluster=op.cluster, split=op.split,
                raster_group=op.raster_group, raster_along=op.raster_along, inside_m=self.inside[0],
                inside_n=self.inside[1], runs=op.runs, body=Region(op.body.args, body.region.ops),
            )  # fmt: skip

    def _steps(self, loop: ForKOp, cursors: Cursors, math: MathLowering | None) -> None:
        if loop.ahead:
            self._overlapped(loop, cursors, math)
            return
        loads = LoadLowering(self.ir, self.ctx, leader=True)
        if math and any(isinstance(op, CommitOp) and self.ctx.rings[op.ring].ring.steps for op in loop.body.ops):
            raise IRError("scales of all steps of a tile are loaded by a role of their own",
                          got="one role that loads and multiplies", need="roles",
                          fix="run warp-specialization, or leave schedule.scales_ahead auto")  # fmt: skip
        mine = [op for op in loop.body.ops if isinstance(op, LOADING)]
        others = [op for op in loop.body.ops if not isinstance(op, (*LOADING, YieldOp))]
        if math:
            math.begin_loop(loop, cursors)
        with self.ir.region() as body:
            if mine:
                loads.step(mine, cursors, alone=not math)
            if math:
                math.step(others, cursors)
            else:
                for ring, cursor in cursors.items():
                    self.ir.add(AdvanceOp, cursor=cursor, stages=self.ctx.rings[ring].ring.stages)
        run, unroll = (1, self.unroll) if math else (self._run(cursors), 0)
        self.ir.add(KLoopOp, extent=loop.extent, step=loop.step, parts=loop.parts, run=run, unroll=unroll,
                    body=Region(loop.body.args[:1], body.region.ops))  # fmt: skip
        if math:
            math.end_loop(cursors)

    def _run(self, cursors: Cursors) -> int:
        """Steps of K that a loading role takes at a time."""
        runs = {max(1, self.ctx.rings[ring].ring.steps) for ring in cursors}
        if len(runs) != 1:
            raise IRError("a role loads for as many steps of K into every ring", got=sorted(runs), need="one number",
                          fix="leave schedule.scales_ahead auto")  # fmt: skip
        return runs.pop()

    def _overlapped(self, loop: ForKOp, cursors: Cursors, math: MathLowering | None) -> None:
        ops = [op for op in loop.body.ops if not isinstance(op, YieldOp)]
        if loop.ahead != 1 or math is None or any(isinstance(op, LOADING) for op in ops):
            raise IRError("sm_90a overlaps promotion with the products of one step, in a role that does not load",
                          got=f"ahead={loop.ahead}", fix="run promotion-overlap after warp-specialization")  # fmt: skip
        if self.ctx.lookahead or self.unroll:
            raise IRError("steps that overlap neither look ahead nor are unrolled",
                          got=f"lookahead={self.ctx.lookahead}, unroll={self.unroll}", need="neither of them",
                          fix="leave both out, or promotion-overlap")  # fmt: skip
        math.begin_loop(loop, cursors)
        math.overlapped_steps(loop, ops, cursors)
        math.end_loop(cursors)

    def _module(self, threads: int) -> Module:
        ctx, module = self.ctx, self.ctx.module
        dims = sorted({str(s) for v in module.args for s in _symbols(mem(v))})
        params = sorted(ctx.args.values(), key=lambda value: value.type != MAP)
        params += [Value(name, I32) for name in dims]
        ctas = self.tiles.cluster[0] * self.tiles.cluster[1] * self.tiles.split
        tile = tuple(extent * count for extent, count in zip(self.tiles.tile, self.tiles.cluster, strict=True))
        smem_bytes = int(module.attr("smem_bytes"))
        launch = Launch(threads, self.cluster, smem_bytes, tile, ctas, self.tiles.persistent, self.pdl)
        attrs = (("launch", launch), ("maps", tuple(ctx.maps)), ("areas", tuple(self._areas())))
        return Module(module.name, Level.TARGET, module.target, tuple(params), attrs, Region((), self.ir.take()))

    def _areas(self) -> list[Area]:
        """What lies where in shared memory."""
        handles, stagings = self.ctx.rings.values(), self.ctx.stagings
        areas = [Area(b.name, b.offset, b.stage_bytes, h.ring.stages) for h in handles for b in h.ring.buffers]
        areas += [Area(v.name, op.offset, tile_bytes(mem(v))) for v, op in stagings.items()]
        areas += [Area(name, h.ring.offset + index * BARRIER_BYTES * h.ring.stages, BARRIER_BYTES, h.ring.stages)
                  for h in handles for index, name in enumerate(h.areas)]  # fmt: skip
        return areas


def _movable_axes(module: Module) -> tuple[bool, bool]:
    """Whether tiles may start anywhere along M and along N: where scales hold for blocks, they start with a block."""
    blocked = {op.row for op in walk(module) if isinstance(op, AsyncLoadScalesOp) and op.block[0] > 1}
    starts = [op.body.args for op in walk(module) if isinstance(op, ForTilesOp)]
    return not any(m0 in blocked for m0, _ in starts), not any(n0 in blocked for _, n0 in starts)


def _by_lanes(op: Op) -> bool:
    return isinstance(op, ArrangeOp) or (isinstance(op, AsyncLoadScalesOp) and op.engine is Engine.LANES)


def stores(role: RoleOp) -> bool:
    """Whether the role stores tiles, and so computes them."""
    return any(isinstance(op, StoreOp | AsyncStoreOp) for op in walk(role.body))


def _kept_names(module: Module) -> list[str]:
    """Names that the lowered module keeps: those of arguments and of loop variables."""
    loops = [op for op in walk(module) if isinstance(op, ForTilesOp | ForKOp)]
    return [value.name for value in (*module.args, *(arg for op in loops for arg in op.body.args))]


def _symbols(kind: MemType) -> set[sympy.Symbol]:
    return {s for extent in kind.shape if isinstance(extent, sympy.Expr) for s in extent.free_symbols}  # pyright: ignore


def lowering_pass(schedule: Schedule) -> LowerSm90Pass:
    """The lowering for a schedule."""
    return LowerSm90Pass(schedule.math_warpgroups, schedule.pdl, schedule.lookahead, schedule.unroll,
                         schedule.evict_first)  # fmt: skip
