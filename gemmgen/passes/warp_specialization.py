"""Warp specialisation: some warps only load, others only multiply, and rings keep them apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from gemmgen.errors import IRError
from gemmgen.ir.async_ops import (
    AcquireOp,
    ArrangeOp,
    AsyncLoadOp,
    AsyncLoadScalesOp,
    CommitOp,
    Engine,
    ReadOp,
    ReleaseOp,
    RingOp,
    RingStepOp,
    RoleOp,
    StagingOp,
    WaitOp,
)
from gemmgen.ir.core import Level, Module, Op, Region, Value
from gemmgen.ir.rewrite import NameSupply, clone_with_fresh_names, walk
from gemmgen.ir.tile_ops import ForKOp, ForTilesOp, YieldOp
from gemmgen.passes.accumulator_ring import AccumulatorRing
from gemmgen.passes.base import Pass
from gemmgen.passes.registry import register_pass

DECLARATIONS = (RingOp, StagingOp)
WARPS_PER_GROUP = 4


@register_pass
@dataclass(frozen=True)
class WarpSpecializationPass(Pass):
    """Give loading and computing to different warps.

    Before: all warps of the CTA run the loop nest, loads and products in turn.
    After: role ``math`` (``math_warpgroups`` of 4 warps) keeps everything but the loads; role ``load`` keeps the bulk
    loads and role ``scales`` what lanes copy or arrange, one warp each, if there are any. Every role runs the same
    tiles and the same steps of K; acquire and commit stay with those who fill a ring, wait and release with those who
    read it.

    With ``accumulators`` > 0 the tensor core writes into tensor memory, so role ``mma``, one warp, starts the products
    and a ring of that many accumulators lies between it and role ``math``, which adds them up and stores them.
    """

    math_warpgroups: int = 2
    accumulators: int = 0

    name: ClassVar[str] = "warp-specialization"
    levels: ClassVar[frozenset[Level]] = frozenset({Level.ASYNC})

    def apply(self, module: Module) -> Module:
        """The module with roles."""
        if any(isinstance(op, RoleOp) for op in walk(module)):
            raise IRError("the module has roles already", where=f"module @{module.name}", fix="run the pass once")
        if not any(isinstance(op, RingOp) for op in walk(module)):
            raise IRError(
                "no ring to put between the roles", where=f"module @{module.name}", fix="run pipelining first"
            )
        shared = tuple(op for op in module.body.ops if isinstance(op, DECLARATIONS))
        work = Region((), tuple(op for op in module.body.ops if not isinstance(op, DECLARATIONS)))
        names = NameSupply.of(module)
        computing = products = _without(work, _is_loading)
        parts = AccumulatorRing.of(computing, self.accumulators, names) if self.accumulators else None
        if parts is not None:
            shared, computing = (*shared, parts.ring), parts.reading(computing)
        roles = [_role("math", self.math_warpgroups * WARPS_PER_GROUP, _reading(computing))]
        for name, mine in (("load", _by_engine), ("scales", _by_lanes)):
            if any(mine(op) for op in walk(work)):
                roles.append(_role(name, 1, _clone(_only_loading(work, mine), names)))
        if parts is not None:
            roles.append(_role("mma", 1, _clone(_reading(parts.filling(products)), names)))
        return module.replace(body=Region((), (*shared, *roles)))


def _role(name: str, warps: int, body: Region) -> RoleOp:
    return RoleOp(name=name, warps=warps, body=body)


def _is_loading(op: Op) -> bool:
    return isinstance(op, AcquireOp | CommitOp | AsyncLoadOp | AsyncLoadScalesOp | ArrangeOp)


def _without(region: Region, drop: Callable[[Op], bool]) -> Region:
    kept = tuple(_inside(op, lambda body: _without(body, drop)) for op in region.ops if not drop(op))
    return Region(region.args, kept)


def _reading(region: Region) -> Region:
    """The region without reads that nothing in it uses, and without the turns of rings that it then does not read."""
    used = {value for op in walk(region) for value in op.all_operands}
    read = _rings_read(region, used)
    return _without(region, lambda op: (isinstance(op, ReadOp) and op.result not in used)
                    or (isinstance(op, WaitOp | ReleaseOp) and op.ring not in read))  # fmt: skip


def _by_lanes(op: Op) -> bool:
    return isinstance(op, ArrangeOp) or (isinstance(op, AsyncLoadScalesOp) and op.engine is Engine.LANES)


def _by_engine(op: Op) -> bool:
    return isinstance(op, AsyncLoadOp | AsyncLoadScalesOp) and not _by_lanes(op)


def _only_loading(region: Region, mine: Callable[[Op], bool]) -> Region:
    """The loops of the region, with nothing in them but some of the loads, what these read, and their ring steps."""
    used = {value for op in walk(region) if mine(op) for value in op.all_operands}
    read = _rings_read(region, used)

    def kept(op: Op) -> bool:
        if isinstance(op, RingStepOp):
            return op.ring in (used if isinstance(op, AcquireOp | CommitOp) else read)
        return mine(op) or (isinstance(op, ReadOp) and op.result in used)

    return _only_loops(region, kept)


def _rings_read(region: Region, used: set[Value]) -> set[Value]:
    """The rings of whose stages something in the region uses a tile."""
    return {op.ring for op in walk(region) if isinstance(op, ReadOp) and op.result in used}


def _only_loops(region: Region, kept: Callable[[Op], bool]) -> Region:
    """The loops of the region, with nothing else in them but the ops kept."""
    ops: list[Op] = []
    for op in region.ops:
        if isinstance(op, ForTilesOp):
            ops.append(op.replace(body=_only_loops(op.body, kept)))
        elif isinstance(op, ForKOp):
            body = _only_loops(op.body, kept)
            step = Region(body.args[:1], (*body.ops, YieldOp(origin=op.origin)))
            ops.append(op.replace(inits=(), results=(), body=step))
        elif kept(op):
            ops.append(op)
    return Region(region.args, tuple(ops))


def _inside(op: Op, change: Callable[[Region], Region]) -> Op:
    return op.replace(body=change(op.body)) if isinstance(op, ForTilesOp | ForKOp) else op


def _clone(region: Region, names: NameSupply) -> Region:
    return clone_with_fresh_names(region, names)[0]
