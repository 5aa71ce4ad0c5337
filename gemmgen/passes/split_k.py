"""Split-K: the CTAs of a cluster share one output tile, each sums a part of K, and they reduce in a fixed order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gemmgen.errors import IRError
from gemmgen.ir.builder import Builder
from gemmgen.ir.core import Level, Module, Op, Value
from gemmgen.ir.rewrite import NameSupply, map_ops, substitute
from gemmgen.ir.tile_ops import ForKOp, ForTilesOp, MapOp, ReducePartsOp
from gemmgen.passes.base import Pass
from gemmgen.passes.registry import register_pass


@register_pass
@dataclass(frozen=True)
class SplitKPass(Pass):
    """Deal the steps of K out to ``parts`` CTAs and sum their results before the epilogue.

    Before: one CTA steps through all of K for a tile and maps its accumulator.
    After: ``tile.for_k`` has ``parts``, ``tile.reduce_parts`` stands between it and ``tile.map``, and
    ``tile.for_tiles`` gives every tile to ``parts`` CTAs that stop after it. Sums are taken in order of rank, so reruns
    are bit-equal.
    """

    parts: int = 1

    name: ClassVar[str] = "split-k"
    levels: ClassVar[frozenset[Level]] = frozenset({Level.TILE})

    def apply(self, module: Module) -> Module:
        """The module with K split; unchanged for one part."""
        if self.parts < 1:
            raise IRError("split-k needs at least one part", got=self.parts, need=">= 1")
        if self.parts == 1:
            return module
        names = NameSupply.of(module)

        def split(op: Op) -> Op | tuple[Op, ...] | None:
            if isinstance(op, ForTilesOp):
                return op.replace(split=self.parts, persistent=False)
            if isinstance(op, ForKOp):
                return op.replace(parts=self.parts)
            if isinstance(op, MapOp):
                return _reduce_before(op, names, self.parts)
            return None

        return map_ops(module, split)


def _reduce_before(op: MapOp, names: NameSupply, parts: int) -> tuple[Op, ...]:
    b = Builder(names, op.origin)
    total: Value = b.add(ReducePartsOp, value=op.acc, parts=parts, result=("total", op.acc.type)).result
    return (*b.take(), substitute(op, {op.acc: total}))
