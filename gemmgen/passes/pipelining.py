"""Pipelining: loads go through a ring of shared-memory stages instead of happening where they are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from gemmgen.errors import IRError, ScheduleError
from gemmgen.ir.async_ops import (
    AcquireOp,
    ArrangeOp,
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
from gemmgen.ir.dims import Dim
from gemmgen.ir.rewrite import NameSupply, map_ops, walk
from gemmgen.ir.tile_ops import ForKOp, LoadOp, LoadScalesOp, mem
from gemmgen.ir.types import UE8M0X4, RingType
from gemmgen.passes.base import Pass
from gemmgen.passes.registry import register_pass

RUN_STAGES = 2
"""Stages of the ring for the scales of whole tiles: one is read while the next is loaded."""


def steps_of_part(extent: Dim, step: int, parts: int) -> int:
    """The most steps of K that one of the CTAs makes that share an output tile.

    Raises:
        ScheduleError: K is not known, or too short for every CTA to have a step.
    """
    steps = -(-extent // step) if isinstance(extent, int) else 0
    if steps < parts:
        raise ScheduleError("scales come for all steps of K at once", where="schedule.scales_ahead",
                            got=f"K = {extent} for {parts} CTAs", need=f"a known K of {parts} steps of {step}",
                            fix="leave scales_ahead auto")  # fmt: skip
    return -(-steps // parts)


def round_up(value: int, step: int) -> int:
    """The least multiple of ``step`` that is not below ``value``."""
    return -(-value // step) * step


@register_pass
@dataclass(frozen=True)
class PipeliningPass(Pass):
    """Put the loads of the K loop into a ring.

    Before: a tile-level module whose K loop loads what it uses.
    After: an async-level module. Each step acquires a stage, starts its loads into it and commits it, then waits for
    it, reads it, computes, and releases it. One ring serves the loop; ``stages`` steps may be under way at once.
    ``scale_copy`` says how one scale per row gets there; lanes copy the few scales of blocks. Words of scales that the
    copy engine loads go through a ring of their own first: they are arranged on their way into the stage.

    With ``scales_ahead`` a warp copies the scales of blocks for all steps of a tile at once, into a ring of their own.
    """

    stages: int = 4
    scale_copy: Engine = Engine.BULK
    scales_ahead: bool = False
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
        loads = [op for op in loops[0].body.ops if isinstance(op, LoadOp | LoadScalesOp)]
        ahead = self.ahead(loads)
        buffers = [self._buffer(op) for op in loads if op not in ahead]
        ring = b.add(RingOp, buffers=buffers, result=("ring", RingType(self.stages))).result
        runs = self._runs(b, ahead, loops[0]) if ahead else None
        landing = [self._scales(landing_name(op), op, Engine.BULK) for op in self.landing(loads)]
        words = b.add(RingOp, buffers=landing, result=("words", RingType(self.stages))).result if landing else None
        through = _Step(self, b.names, ring, words, runs).through_rings
        pipelined = map_ops(module, lambda op: through(op) if isinstance(op, ForKOp) else None)
        return pipelined.replace(level=Level.ASYNC, body=Region((), (*b.take(), *pipelined.body.ops)))

    def ahead(self, loads: Sequence[LoadOp | LoadScalesOp]) -> list[LoadScalesOp]:
        """The scales of blocks, if a warp copies them for all steps of a tile at once."""
        scales = [op for op in loads if isinstance(op, LoadScalesOp)]
        return [op for op in scales if self.scales_ahead and op.block[0] > 1]

    def _runs(self, b: Builder, loads: Sequence[LoadScalesOp], loop: ForKOp) -> Value:
        """Declare the ring for the scales of all steps of a tile; no other scales may be copied by lanes."""
        steps = steps_of_part(loop.extent, loop.step, loop.parts)
        if self.scale_copy is Engine.LANES:
            raise ScheduleError("row scales that lanes copy come with every step", where="schedule.scales_ahead",
                                got=True, need=False, fix="leave scales_ahead auto")  # fmt: skip
        buffers = [
            replace(buffer, stage_bytes=round_up(steps * tile_bytes(buffer.type), self.lanes_pitch_bytes))
            for buffer in (self._scales(op.source.name, op, Engine.LANES) for op in loads)
        ]
        return b.add(RingOp, buffers=buffers, steps=steps, result=("runs", RingType(RUN_STAGES))).result

    def landing(self, loads: Sequence[LoadOp | LoadScalesOp]) -> list[LoadScalesOp]:
        """Those whose words are arranged on their way into the stage, from where the copy engine put them."""
        scales = [op for op in loads if isinstance(op, LoadScalesOp)]
        return [op for op in scales if in_words(op) and self.engine(op) is Engine.BULK]

    def engine(self, op: LoadScalesOp) -> Engine:
        """Lanes copy the few scales of a block's tile; for one scale per row it is a choice."""
        return self.scale_copy if op.block[0] == 1 else Engine.LANES

    def _buffer(self, op: LoadOp | LoadScalesOp) -> Buffer:
        """The place of what ``op`` loads in a stage."""
        kind = mem(op.result)
        if isinstance(op, LoadOp):
            return Buffer(op.source.name, kind, Engine.BULK, tile_bytes(kind))
        return self._scales(op.source.name, op, Engine.LANES if in_words(op) else self.engine(op))

    def _scales(self, name: str, op: LoadScalesOp, engine: Engine) -> Buffer:
        kind = mem(op.result)
        pitch = self.bulk_pitch_bytes if engine is Engine.BULK else self.lanes_pitch_bytes
        return Buffer(name, kind, engine, -(-tile_bytes(kind) // pitch) * pitch)


@dataclass(frozen=True)
class _Step:
    """Puts the loads of a loop over K into ``ring``, some of them by way of ``words``."""

    options: PipeliningPass
    names: NameSupply
    ring: Value
    words: Value | None
    runs: Value | None = None

    def through_rings(self, loop: ForKOp) -> ForKOp:
        """The loop with its loads in a ring stage, and everything else between wait and release."""
        b = Builder(self.names, loop.origin)
        loads = [op for op in loop.body.ops if isinstance(op, LoadOp | LoadScalesOp)]
        landing = self.options.landing(loads)
        if self.words is not None:
            b.add(AcquireOp, ring=self.words)
            b.extend([self._start(op, self.words, landing_name(op)) for op in landing])
            b.add(CommitOp, ring=self.words)
        ahead = self.options.ahead(loads)
        b.add(AcquireOp, ring=self.ring)
        b.extend([self._start(op, self.ring, op.source.name) for op in loads if op not in (*landing, *ahead)])
        if self.words is not None:
            self._arrange(b, landing, self.words)
        b.add(CommitOp, ring=self.ring)
        if self.runs is not None:
            b.add(AcquireOp, ring=self.runs)
            b.extend([self._start(op, self.runs, op.source.name) for op in ahead])
            b.add(CommitOp, ring=self.runs)
        b.add(WaitOp, ring=self.ring)
        if self.runs is not None:
            b.add(WaitOp, ring=self.runs)
        for op in loads:
            held = self.runs if self.runs is not None and op in ahead else self.ring
            with b.at(op.origin):
                b.add(ReadOp, ring=held, buffer=op.source.name, result=op.result)
        rest = [op for op in loop.body.ops if not isinstance(op, LoadOp | LoadScalesOp)]
        b.extend(rest[:-1])
        b.add(ReleaseOp, ring=self.ring)
        if self.runs is not None:
            b.add(ReleaseOp, ring=self.runs)
        b.append(rest[-1])
        return loop.replace(body=Region(loop.body.args, b.take()))

    def _arrange(self, b: Builder, landing: list[LoadScalesOp], words: Value) -> None:
        b.add(WaitOp, ring=words)
        for op in landing:
            with b.at(op.origin):
                landed = b.add(ReadOp, ring=words, buffer=landing_name(op), result=(landing_name(op), op.result.type))
                b.add(ArrangeOp, ring=self.ring, source=landed.result, buffer=op.source.name)
        b.add(ReleaseOp, ring=words)

    def _start(self, op: LoadOp | LoadScalesOp, ring: Value, buffer: str) -> Op:
        place = {"ring": ring, "source": op.source, "row": op.row, "col": op.col, "buffer": buffer}
        if isinstance(op, LoadOp):
            return AsyncLoadOp(**place, origin=op.origin)
        engine = self.options.engine(op)
        arranged = in_words(op) and engine is Engine.LANES
        return AsyncLoadScalesOp(**place, block=op.block, engine=engine, arranged=arranged, origin=op.origin)


def in_words(op: LoadScalesOp) -> bool:
    """Whether scales are powers of two, four to a word."""
    return mem(op.result).dtype == UE8M0X4


def landing_name(op: LoadScalesOp) -> str:
    """The buffer in which words land before they are arranged."""
    return f"{op.source.name}_words"
