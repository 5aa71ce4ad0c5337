"""Tensor-memory allocation: every accumulator gets its columns, and the module says how many to allocate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from gemmgen.backends.capability import MIN_TENSOR_MEMORY_COLUMNS, TENSOR_MEMORY_COLUMNS
from gemmgen.errors import ScheduleError
from gemmgen.ir.async_memory_rules import tensor_columns
from gemmgen.ir.async_ops import AsyncMmaOp, ReadOp, RingOp
from gemmgen.ir.core import Level, Module, Op
from gemmgen.ir.rewrite import map_ops, walk
from gemmgen.passes.base import Pass
from gemmgen.passes.registry import register_pass


@register_pass
@dataclass(frozen=True)
class TensorMemoryAllocationPass(Pass):
    """Lay out tensor memory: the stages of one ring after another, then scales for every stage that loads fill.

    Before: rings in tensor memory have no columns.
    After: each of their buffers has its first column, products with scales have columns for these, and module attribute
    ``tmem_columns`` is what the kernel allocates: a power of two from ``least`` on, at most ``columns``. A module
    without such rings stays as it is.
    """

    columns: int = TENSOR_MEMORY_COLUMNS
    least: int = MIN_TENSOR_MEMORY_COLUMNS

    name: ClassVar[str] = "tensor-memory-allocation"
    levels: ClassVar[frozenset[Level]] = frozenset({Level.ASYNC})

    def apply(self, module: Module) -> Module:
        """The module with columns.

        Raises:
            ScheduleError: more tensor memory is needed than a CTA has.
        """
        end = 0
        rings = {op.result: op.stages for op in module.body.ops if isinstance(op, RingOp)}

        def place(op: Op) -> Op | None:
            nonlocal end
            if not isinstance(op, RingOp) or not op.in_tensor_memory:
                return None
            placed = []
            for buffer in op.buffers:
                placed.append(replace(buffer, offset=end))
                end += op.stages * tensor_columns(buffer.type)
            return op.replace(buffers=tuple(placed))

        stages = {op.result: rings[op.ring] for op in walk(module) if isinstance(op, ReadOp)}

        def place_scales(op: Op) -> Op | None:
            nonlocal end
            if not isinstance(op, AsyncMmaOp) or op.scale_a is None:
                return None
            placed = op.replace(scale_offset=end)
            end += stages[op.scale_a] * op.scale_columns
            return placed

        laid_out = map_ops(map_ops(module, place), place_scales)
        if not end:
            return module
        if end > self.columns:
            raise ScheduleError(
                "the schedule needs more tensor memory than a CTA has",
                where=f"module @{module.name}",
                got=f"{end} columns",
                need=f"at most {self.columns}",
                fix="use fewer accumulators or a narrower tile, or with scales in tensor memory fewer stages",
            )
        return laid_out.with_attrs(tmem_columns=self.allocated(end))

    def allocated(self, needed: int) -> int:
        """Columns to allocate for ``needed``: the next power of two."""
        return max(self.least, 1 << (needed - 1).bit_length())
