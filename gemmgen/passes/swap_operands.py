"""Swap A and B, so that the rows of D lie on the tensor core's N side, whose extent can be as small as 8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gemmgen.ir.core import Level, Module, Op, Value
from gemmgen.ir.rewrite import map_ops, substitute, walk
from gemmgen.ir.tile_ops import ForKOp, MapOp, MmaOp, PromoteOp, ReducePartsOp, ScaleOp, StoreOp, ZerosOp, extents, mem
from gemmgen.ir.types import MemType
from gemmgen.passes.base import Pass
from gemmgen.passes.registry import register_pass

MAKERS = ZerosOp | MmaOp | PromoteOp | ScaleOp | ReducePartsOp | MapOp
"""Ops whose one result is a fragment."""


@register_pass
@dataclass(frozen=True)
class SwapOperandsPass(Pass):
    """Compute the transpose of every output tile.

    Before: fragments are [rows of D, columns of D].
    After: products are B · Aᵀ, fragments are [columns of D, rows of D], scales follow their operand, and stores are
    marked ``transposed``. The values stored are the same.
    """

    name: ClassVar[str] = "swap-operands"
    levels: ClassVar[frozenset[Level]] = frozenset({Level.TILE})

    def apply(self, module: Module) -> Module:
        """The module with every product and its fragments transposed."""
        turned = {value: _turn(value) for value in _fragments(module)}
        swapped = map_ops(module, _swap)
        return substitute(map_ops(swapped, lambda op: _retype(op, turned)), turned)


def _fragments(module: Module) -> list[Value]:
    ops = [op for op in walk(module) if isinstance(op, ForKOp | MAKERS)]
    values = [value for op in ops for value in (*op.all_results, *(arg for r in op.all_regions for arg in r.args))]
    return [value for value in values if isinstance(value.type, MemType) and value.type.space == "frag"]


def _turn(value: Value) -> Value:
    rows, cols = extents(value)
    return Value(value.name, MemType("frag", mem(value).dtype, (cols, rows)))


def _swap(op: Op) -> Op | None:
    match op:
        case MmaOp():
            return op.replace(
                a=op.b, b=op.a, trans_a=op.trans_b, trans_b=op.trans_a, scale_a=op.scale_b, scale_b=op.scale_a,
                vector_a=op.vector_b, vector_b=op.vector_a,
            )  # fmt: skip
        case PromoteOp():
            return op.replace(
                row_scale=op.col_scale, col_scale=op.row_scale, row=op.col, col=op.row,
                row_block=op.col_block, col_block=op.row_block,
            )  # fmt: skip
        case ScaleOp():
            return op.replace(row_scale=op.col_scale, col_scale=op.row_scale, row=op.col, col=op.row)
        case StoreOp() | ReducePartsOp():
            return op.replace(transposed=not op.transposed)
        case _:
            return None


def _retype(op: Op, turned: dict[Value, Value]) -> Op | None:
    """Give the fragments that ``op`` defines their transposed types."""
    if isinstance(op, ForKOp):
        body = op.body
        args = tuple(turned.get(arg, arg) for arg in body.args)
        return op.replace(results=tuple(turned.get(v, v) for v in op.results), body=type(body)(args, body.ops))
    if isinstance(op, MAKERS):
        return op.replace(result=turned[op.result])
    return None
