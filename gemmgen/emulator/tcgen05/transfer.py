"""``tcgen05.ld`` and ``tcgen05.st``: between registers and tensor memory.

Both take effect when they are issued; what was not waited for, or not fenced, is found by their ordering.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from gemmgen.emulator.machine.memory import MemoryFault
from gemmgen.emulator.machine.shadow import Conflict
from gemmgen.emulator.numerics.fragments import tmem_lanes, tmem_load
from gemmgen.emulator.ops.builder import Builder, Step, builds, type_id
from gemmgen.emulator.ops.warp import require_converged
from gemmgen.emulator.report import Kind
from gemmgen.emulator.tcgen05.management import uniform, whole_warps
from gemmgen.emulator.tcgen05.order import LOAD, STORE
from gemmgen.emulator.tcgen05.state import TensorCores, tensor_cores
from gemmgen.emulator.tcgen05.tensor_memory import TensorMemory, Where

if TYPE_CHECKING:
    from gemmgen.emulator.machine.unit import Thread, Unit, Wait, Warp

_PARTITION = 32  # lanes of tensor memory that one warp of a warpgroup reaches
_LOW_HALF = np.uint32(0xFFFF)
_HALF_BITS = np.uint32(16)


class _Shape:
    """Which cells a load or store touches, relative to its address."""

    def __init__(self, b: Builder, half_split: int, packed: bool) -> None:
        self.name = b.modifiers["shape"]
        self.lane, self.column = tmem_load(self.name, int(b.modifiers["count"][1:]), half_split)
        self.registers = self.lane.shape[1]
        self.packed = packed

    def words(self, memory: TensorMemory, warp: Warp, address: int) -> list[Where]:
        """Word numbers [32, registers]: one array, or two (low and high halves) when packed."""
        lane, partition = address >> 16, _PARTITION * (warp.index % 4)
        starts = (partition,) if tmem_lanes(self.name) == _PARTITION else (partition, partition + 16)
        if lane not in starts:
            raise MemoryFault(
                Kind.TMEM_ACCESS,
                f"{warp.label} accesses tensor memory at lane {lane}; it reaches lanes {partition}..{partition + 31}, "
                f"so a .{self.name} access starts at lane {' or '.join(map(str, starts))}",
            )
        if self.packed:
            return [memory.locate(address, self.lane, 2 * self.column + half) for half in (0, 1)]
        return [memory.locate(address, self.lane, self.column)]


def _accesses(
    b: Builder, x: Unit, shape: _Shape, address: Any
) -> Iterator[tuple[Warp, slice, TensorMemory, list[Where]]]:
    """Per warp: its lanes in the unit, the CTA's tensor memory and the words."""
    memory = tensor_cores(b.machine).memory(x.cta)
    addresses = address(x)
    for warp, lanes in whole_warps(b, x):
        start = uniform(b, x, addresses, lanes, "the tensor memory address")
        try:
            yield warp, lanes, memory, shape.words(memory, warp, start)
        except MemoryFault as fault:
            raise b.fault(x, fault.kind, str(fault)) from None


def report_conflict(
    b: Builder, x: Unit, cores: TensorCores, thread: Thread, conflict: Conflict | None, what: str
) -> None:
    """Turn an ordering conflict on tensor memory into a finding."""
    if conflict is None:
        return
    label = b.machine.clocks.labels[conflict.agent]
    text = f"{what} tensor memory that a {conflict.what} by {label} may still use"
    b.finding(x, Kind.TCGEN05_ORDER, f"{text}: {cores.order.explain(thread, conflict)}", conflict.pc)


@builds("tcgen05.ld")
def _load(b: Builder) -> Step:
    two_halves = b.modifiers["shape"] == "16x32bx2"
    b.expect(3 if two_halves else 2)
    shape = _Shape(b, b.immediate(2) if two_halves else 0, "pack" in b.modifiers)
    cores, address, b32 = tensor_cores(b.machine), b.address(1), type_id("b32")
    destinations = [b.destination(item, "b32") for item in b.vector(0, shape.registers)]

    def step(x: Unit) -> Wait | None:
        waiting = require_converged(b, x)
        if waiting is not None:
            return waiting
        for warp, lanes, memory, words in _accesses(b, x, shape, address):
            source = cores.order.stream(warp, LOAD)
            access = cores.order.access(warp.thread, source, b.pc)
            try:
                halves = []
                for where in words:
                    conflict = memory.shadow.read(access, where.reshape(-1))
                    report_conflict(b, x, cores, warp.thread, conflict, "it reads")
                    halves.append(memory.read(where))
            except MemoryFault as fault:
                raise b.fault(x, fault.kind, str(fault)) from None
            values = halves[0] if len(halves) == 1 else halves[0] & _LOW_HALF | halves[1] << _HALF_BITS
            view = x.views[b32]
            for register, key in enumerate(destinations):
                view[key][lanes] = values[:, register]
            b.machine.count(LOAD)
        return None

    return step


@builds("tcgen05.st")
def _store(b: Builder) -> Step:
    two_halves = b.modifiers["shape"] == "16x32bx2"
    b.expect(3 if two_halves else 2)
    shape = _Shape(b, b.immediate(1) if two_halves else 0, "unpack" in b.modifiers)
    cores, address, b32 = tensor_cores(b.machine), b.address(0), type_id("b32")
    sources = [b.source(item, "b32") for item in b.vector(2 if two_halves else 1, shape.registers)]

    def step(x: Unit) -> Wait | None:
        waiting = require_converged(b, x)
        if waiting is not None:
            return waiting
        for warp, lanes, memory, words in _accesses(b, x, shape, address):
            view = x.views[b32]
            values = np.stack([np.broadcast_to(view[key], (x.width,))[lanes] for key in sources], axis=1)
            access = cores.order.access(warp.thread, cores.order.stream(warp, STORE), b.pc)
            parts = [values] if len(words) == 1 else [values & _LOW_HALF, values >> _HALF_BITS]
            for where, part in zip(words, parts, strict=True):
                conflict = memory.shadow.write(access, where.reshape(-1))
                report_conflict(b, x, cores, warp.thread, conflict, "it overwrites")
                memory.write(where, part)
                memory.accumulator[where] = 0
            b.machine.count(STORE)
        return None

    return step
