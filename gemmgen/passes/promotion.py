"""Two-level accumulation: the tensor core sums one block of K, the CUDA cores scale it and add it in FP32.

Scales that are powers of two need none where the tensor core takes them itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gemmgen.errors import IRError
from gemmgen.ir.builder import Builder
from gemmgen.ir.core import Level, Module, Op
from gemmgen.ir.rewrite import NameSupply, map_ops
from gemmgen.ir.tile_ops import MmaOp, PromoteOp, ScaledMmaOp
from gemmgen.passes.base import Pass
from gemmgen.passes.registry import register_pass


@register_pass
@dataclass(frozen=True)
class PromotionPass(Pass):
    """Split scaled products into a plain product of one scale block and a promotion.

    Before: ``tile.scaled_mma`` adds scaled products to an FP32 accumulator.
    After: ``tile.mma`` starts from zero for every block of K, and ``tile.promote`` adds its scaled result to the
    accumulator; no ``tile.scaled_mma`` is left. Where scales are words of powers of two and the target multiplies with
    them (``block_scaled``), ``tile.mma`` takes them and adds to the accumulator itself.
    """

    block_scaled: bool = False

    name: ClassVar[str] = "promotion"
    levels: ClassVar[frozenset[Level]] = frozenset({Level.TILE})

    def apply(self, module: Module) -> Module:
        """The module with every scaled product split in two."""
        names = NameSupply.of(module)

        def split(op: Op) -> Op | tuple[Op, ...] | None:
            if not isinstance(op, ScaledMmaOp):
                return None
            if op.vector_a or op.vector_b:
                return self._in_tensor_core(op)
            b = Builder(names)
            with b.at(op.origin):
                part = b.add(MmaOp, a=op.a, b=op.b, trans_a=op.trans_a, trans_b=op.trans_b,
                             result=("part", op.acc.type)).result  # fmt: skip
                b.add(PromoteOp, acc=op.acc, partial=part, row_scale=op.scale_a, col_scale=op.scale_b, row=op.row,
                      col=op.col, row_block=op.block_a, col_block=op.block_b, result=op.result)  # fmt: skip
            return b.take()

        return map_ops(module, split)

    def _in_tensor_core(self, op: ScaledMmaOp) -> MmaOp:
        if not self.block_scaled:
            raise IRError(
                "the tensor core does not take scales",
                where=f"{op.NAME} ({op.origin})",
                got="scales as powers of two",
                need="FP32 scales, or a target that multiplies with them",
            )
        return MmaOp(
            a=op.a, b=op.b, acc=op.acc, scale_a=op.scale_a, scale_b=op.scale_b, trans_a=op.trans_a, trans_b=op.trans_b,
            vector_a=op.vector_a, vector_b=op.vector_b, result=op.result, origin=op.origin,
        )  # fmt: skip
