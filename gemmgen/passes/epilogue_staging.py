"""Epilogue staging: output tiles leave through shared memory, so that the copy engine stores them in the background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gemmgen.ir.async_ops import AsyncStoreOp, StagingOp
from gemmgen.ir.builder import Builder
from gemmgen.ir.core import Level, Module, Op, Region
from gemmgen.ir.rewrite import NameSupply, map_ops, walk
from gemmgen.ir.tile_ops import ReducePartsOp, StoreOp, extents, mem
from gemmgen.ir.types import smem
from gemmgen.passes.base import Pass
from gemmgen.passes.registry import register_pass


@register_pass
@dataclass(frozen=True)
class EpilogueStagingPass(Pass):
    """Give every tile that leaves the CTA its shared memory.

    Before: ``tile.store`` writes a fragment to global memory.
    After: a fragment is stored by ``async.store`` through a staging tile. A fragment reduced over CTAs meets its
    partners in an exchange tile that lies over the ring, with rows padded by ``exchange_pad`` elements (a transposed
    one by ``exchange_pad_transposed``) against bank conflicts, and is stored straight from the sum. So is a fragment of
    a matrix whose rows do not end on ``store_granule_bytes``, in units of which the copy engine clips, and one of
    elements of more than ``staged_bits``, whose fragments fill whole 32-byte sectors of global memory anyway.
    """

    exchange_pad: int = 8
    exchange_pad_transposed: int = 4
    store_granule_bytes: int = 16
    staged_bits: int = 16

    name: ClassVar[str] = "epilogue-staging"
    levels: ClassVar[frozenset[Level]] = frozenset({Level.ASYNC})

    def apply(self, module: Module) -> Module:
        """The module with staging and exchange tiles."""
        names = NameSupply.of(module)
        tiles = Builder(names)
        reduced = any(isinstance(op, ReducePartsOp) for op in walk(module))

        def stage(op: Op) -> Op | None:
            if isinstance(op, ReducePartsOp):
                rows, cols = reversed(extents(op.value)) if op.transposed else extents(op.value)
                pad = self.exchange_pad_transposed if op.transposed else self.exchange_pad
                kind = smem(mem(op.value).dtype, rows, cols + pad)
                return op.replace(exchange=tiles.add(StagingOp, overlay=True, result=("exchange", kind)).result)
            if isinstance(op, StoreOp) and not reduced and self._stages(op):
                kind = smem(mem(op.value).dtype, *extents(op.value))
                staging = tiles.add(StagingOp, result=("staging", kind)).result
                return AsyncStoreOp(value=op.value, staging=staging, dest=op.dest, row=op.row, col=op.col,
                                    transposed=op.transposed, origin=op.origin)  # fmt: skip
            return None

        staged = map_ops(module, stage)
        return staged.replace(body=Region((), (*tiles.take(), *staged.body.ops)))

    def stages_rows(self, columns: int, bits: int) -> bool:
        """Whether the copy engine should store rows of so many elements, and its clipping keeps within them."""
        return bits <= self.staged_bits and columns * bits % (8 * self.store_granule_bytes) == 0

    def _stages(self, op: StoreOp) -> bool:
        dest = mem(op.dest)
        columns = dest.shape[1]
        return isinstance(columns, int) and self.stages_rows(columns, dest.dtype.bits)
