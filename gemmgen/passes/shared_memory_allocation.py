"""Shared-memory allocation: every ring buffer, staging tile and barrier gets its byte offset in the CTA."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from gemmgen.backends.capability import Capability
from gemmgen.errors import ScheduleError
from gemmgen.ir.async_ops import BARRIER_BYTES, Buffer, Engine, RingOp, StagingOp, tile_bytes
from gemmgen.ir.core import Level, Module, Op, Region
from gemmgen.ir.tile_ops import mem
from gemmgen.passes.base import Pass
from gemmgen.passes.registry import register_pass


@register_pass
@dataclass(frozen=True)
class SharedMemoryAllocationPass(Pass):
    """Lay out shared memory: tiles that the copy engine moves first, then the rest, then barriers.

    Before: buffers and staging tiles have no place.
    After: each has a byte offset, aligned to ``tile_align`` for swizzled tiles, to ``bulk_align`` for other copies of
    the copy engine, and to ``align`` elsewhere; module attribute ``smem_bytes`` is the total, at most ``budget_bytes``.
    """

    budget_bytes: int = Capability.smem_per_cta
    tile_align: int = Capability.swizzle_atom_bytes
    bulk_align: int = Capability.bulk_align_bytes
    align: int = 16

    name: ClassVar[str] = "shared-memory-allocation"
    levels: ClassVar[frozenset[Level]] = frozenset({Level.ASYNC})

    def apply(self, module: Module) -> Module:
        """The module with offsets.

        Raises:
            ScheduleError: more shared memory is needed than a CTA has.
        """
        cursor = _Cursor()
        rings = {op.result: op for op in module.body.ops if isinstance(op, RingOp)}
        shared = {value: ring for value, ring in rings.items() if not ring.in_tensor_memory}
        stagings = {op.result: op for op in module.body.ops if isinstance(op, StagingOp)}
        for align in (self.tile_align, self.bulk_align, self.align):
            for value in shared:
                ring = rings[value]
                placed = [self._place(cursor, b, ring.stages, align) if self._align(b) == align else b
                          for b in ring.buffers]  # fmt: skip
                rings[value] = ring.replace(buffers=tuple(placed))
            if align == self.tile_align:
                for value, staging in stagings.items():
                    offset = 0 if staging.overlay else cursor.take(tile_bytes(mem(value)), self.tile_align)
                    stagings[value] = staging.replace(offset=offset)
        # Barriers are in use while an overlay is written, so they lie behind the longest one.
        cursor.end = max([cursor.end, *(tile_bytes(mem(value)) for value, op in stagings.items() if op.overlay)])
        for value, ring in rings.items():
            rings[value] = ring.replace(offset=cursor.take(ring.control_bytes, BARRIER_BYTES))
        self._check(module, cursor.end, shared)
        ops: list[Op] = [rings.get(v, stagings.get(v, op)) if (v := getattr(op, "result", None)) else op
                         for op in module.body.ops]  # fmt: skip
        return module.replace(body=Region((), tuple(ops))).with_attrs(smem_bytes=cursor.end)

    def _align(self, buffer: Buffer) -> int:
        if buffer.engine is Engine.LANES:
            return self.align
        return self.tile_align if len(buffer.type.shape) > 1 else self.bulk_align

    def _place(self, cursor: _Cursor, buffer: Buffer, stages: int, align: int) -> Buffer:
        return replace(buffer, offset=cursor.take(stages * buffer.stage_bytes, align))

    def _check(self, module: Module, total: int, rings: dict) -> None:
        if total <= self.budget_bytes:
            return
        rings = {value: ring for value, ring in rings.items() if not ring.steps}
        per_stage = sum(b.stage_bytes for ring in rings.values() for b in ring.buffers)
        stages = sum(ring.stages for ring in rings.values())
        fits = stages - -(-(total - self.budget_bytes) // max(per_stage, 1))
        raise ScheduleError(
            "the schedule needs more shared memory than a CTA has",
            where=f"module @{module.name}",
            got=f"{total} bytes with {stages} stages of {per_stage} bytes",
            need=f"at most {self.budget_bytes} bytes",
            fix=f"use {fits} stages" if fits > 0 else "use a smaller tile",
        )


@dataclass
class _Cursor:
    end: int = 0

    def take(self, size: int, align: int) -> int:
        start = -(-self.end // align) * align
        self.end = start + size
        return start
