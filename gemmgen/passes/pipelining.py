"""Pipelining: loads go through a ring of shared-memory stages instead of happening where they are used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gemmgen.errors import IRError
from gemmgen.ir.async_ops import (
    AcquireOp,
    AsyncLoadOp,
    AsyncLoadScalesOp,
    Buffer,
    CommitOp,
    Engine,
    ReadOp,
    ReleaseOp,
    RingOp,
    WaitOp,
    tile_bytes,
)
from gemmgen.ir.builder import Builder
from gemmgen.ir.core import Level, Module, Op, Region, Value
from gemmgen.ir.rewrite import NameSupply, map_ops, walk
from gemmgen.ir.tile_ops import ForKOp, LoadOp, LoadScalesOp, mem
from gemmgen.ir.types import RingType
from gemmgen.passes.base import Pass
from gemmgen.passes.registry import register_pass


@register_pass
@dataclass(frozen=True)
class PipeliningPass(Pass):
    """Put the loads of the K loop into a ring.

    Before: a tile-level module whose K loop loads what it uses.
    After: an async-level module. Each step acquires a stage, starts its loads into it and commits it, then waits for
    it, reads it, computes, and releases it. One ring serves the loop; ``stages`` steps may be under way at once.
    ``scale_copy`` says how one scale per row gets there; lanes copy the few scales of blocks.
    """

    stages: int = 4
    scale_copy: Engine = Engine.BULK
    bulk_pitch_bytes: int = 128
    lanes_pitch_bytes: int = 16

    name: ClassVar[str] = "pipelining"
    levels: ClassVar[frozenset[Level]] = frozenset({Level.TILE})

    def apply(self, module: Module) -> Module:
        """The module at the async level."""
        loops = [op for op in walk(module) if isinstance(op, ForKOp)]
        if len(loops) != 1:
            raise IRError("pipelining needs one loop over K", got=len(loops), need=1)
        b = Builder(NameSupply.of(module))
        buffers = [self._buffer(op) for op in loops[0].body.ops if isinstance(op, LoadOp | LoadScalesOp)]
        ring = b.add(RingOp, buffers=buffers, result=("ring", RingType(self.stages)))
        pipelined = map_ops(module, lambda op: self._through_ring(op, ring.result) if isinstance(op, ForKOp) else None)
        return pipelined.replace(level=Level.ASYNC, body=Region((), (*b.take(), *pipelined.body.ops)))

    def _engine(self, op: LoadScalesOp) -> Engine:
        """Lanes copy the few scales of a block's tile; for one scale per row it is a choice."""
        return self.scale_copy if op.block[0] == 1 else Engine.LANES

    def _buffer(self, op: LoadOp | LoadScalesOp) -> Buffer:
        kind = mem(op.result)
        if isinstance(op, LoadOp):
            return Buffer(op.source.name, kind, Engine.BULK, tile_bytes(kind))
        engine = self._engine(op)
        pitch = self.bulk_pitch_bytes if engine is Engine.BULK else self.lanes_pitch_bytes
        return Buffer(op.source.name, kind, engine, -(-tile_bytes(kind) // pitch) * pitch)

    def _through_ring(self, loop: ForKOp, ring: Value) -> ForKOp:
        """The loop with its loads in a ring stage, and everything else between wait and release."""
        b = Builder(origin=loop.origin)
        loads = [op for op in loop.body.ops if isinstance(op, LoadOp | LoadScalesOp)]
        b.add(AcquireOp, ring=ring)
        b.extend([self._start(op, ring) for op in loads])
        b.add(CommitOp, ring=ring)
        b.add(WaitOp, ring=ring)
        for op in loads:
            with b.at(op.origin):
                b.add(ReadOp, ring=ring, buffer=op.source.name, result=op.result)
        rest = [op for op in loop.body.ops if not isinstance(op, LoadOp | LoadScalesOp)]
        b.extend(rest[:-1])
        b.add(ReleaseOp, ring=ring)
        b.append(rest[-1])
        return loop.replace(body=Region(loop.body.args, b.take()))

    def _start(self, op: LoadOp | LoadScalesOp, ring: Value) -> Op:
        place = {"ring": ring, "source": op.source, "row": op.row, "col": op.col, "buffer": op.source.name}
        if isinstance(op, LoadOp):
            return AsyncLoadOp(**place, origin=op.origin)
        return AsyncLoadScalesOp(**place, block=op.block, engine=self._engine(op), origin=op.origin)
