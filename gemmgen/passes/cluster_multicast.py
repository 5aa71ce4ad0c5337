"""Cluster multicast: neighbouring CTAs load a shared operand once and write it to all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gemmgen.errors import IRError
from gemmgen.ir.async_ops import AsyncLoadOp, RingOp
from gemmgen.ir.core import Level, Module, Op
from gemmgen.ir.rewrite import map_ops, walk
from gemmgen.ir.tile_ops import ForTilesOp
from gemmgen.passes.base import Pass
from gemmgen.passes.registry import register_pass


@register_pass
@dataclass(frozen=True)
class ClusterMulticastPass(Pass):
    """Group ``cluster`` = [m, n] CTAs on neighbouring tiles and share the operand that they have in common.

    Before: every CTA loads both operands for itself.
    After: CTAs along m share boxes that do not depend on the tile's row, CTAs along n those that do not depend on its
    column; such loads say ``multicast``, and a ring stage is free only when the whole cluster has released it.
    """

    cluster: tuple[int, ...] = (1, 1)

    name: ClassVar[str] = "cluster-multicast"
    levels: ClassVar[frozenset[Level]] = frozenset({Level.ASYNC})

    def apply(self, module: Module) -> Module:
        """The module with shared loads; unchanged for a cluster of one."""
        along_m, along_n = self.cluster
        size = along_m * along_n
        if size == 1:
            return module
        if along_m > 1 and along_n > 1:
            raise IRError("operands are shared along one axis", got=list(self.cluster), need="[c, 1] or [1, c]")
        own = {op.body.args[0 if along_m > 1 else 1] for op in walk(module) if isinstance(op, ForTilesOp)}
        shared = {op.ring for op in walk(module) if isinstance(op, AsyncLoadOp) and not own & {op.row, op.col}}

        def share(op: Op) -> Op | None:
            if isinstance(op, ForTilesOp):
                return op.replace(cluster=self.cluster)
            if isinstance(op, RingOp) and op.result in shared:
                return op.replace(cluster=size)
            if isinstance(op, AsyncLoadOp) and not own & {op.row, op.col}:
                return op.replace(multicast=size)
            return None

        return map_ops(module, share)
