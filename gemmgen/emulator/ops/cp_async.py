"""Non-bulk ``cp.async``: per-thread copies into shared memory, their groups, and arrivals that follow them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gemmgen.emulator.machine.access import report_conflict
from gemmgen.emulator.machine.mbarrier import BarrierFault, MBarrier
from gemmgen.emulator.machine.memory import GRANULE, SHARED_RESERVED, MemoryFault, granules
from gemmgen.emulator.machine.scheduler import AsyncOperation
from gemmgen.emulator.machine.shadow import Access
from gemmgen.emulator.machine.unit import Thread, Wait
from gemmgen.emulator.ops.builder import Builder, Step, builds, type_id
from gemmgen.emulator.ops.mbarriers import find_barrier, finish_phase, per_address
from gemmgen.emulator.report import Kind

if TYPE_CHECKING:
    from gemmgen.emulator.machine.cta import Cta
    from gemmgen.emulator.machine.unit import Unit


@dataclass
class CopyGroups:
    """A warp's cp.async groups; diverged lanes share them.

    Attributes:
        agent: the copies' agent.
        epoch: epoch of copies issued now; a commit or an arrival that follows copies begins the next.
        ends: last epoch of each committed group.
    """

    agent: int
    epoch: int = 1
    ends: list[int] = field(default_factory=list)
    groups: list[list[AsyncOperation]] = field(default_factory=list)
    current: list[AsyncOperation] = field(default_factory=list)

    def finished(self, allowed: int) -> bool:
        """Whether all but the last ``allowed`` committed groups are done."""
        count = max(0, len(self.groups) - allowed)
        return all(operation.done for group in self.groups[:count] for operation in group)

    def commit(self) -> None:
        """End the current group."""
        self.groups.append(self.current)
        self.current = []
        self.ends.append(self.epoch)
        self.epoch += 1

    def pending(self) -> list[AsyncOperation]:
        """All operations that are not done."""
        return [o for group in (*self.groups, self.current) for o in group if not o.done]


def copy_groups(x: Unit, thread: Thread) -> CopyGroups:
    """The cp.async groups of a thread's warp."""
    cta, index = x.cta, thread.warp.index
    if index not in cta.copy_groups:
        agent = cta.machine.clocks.new_agent(f"{thread.warp.label} cp.async")
        cta.copy_groups[index] = CopyGroups(agent)
    return cta.copy_groups[index]


@builds("cp.async")
def _copy(b: Builder) -> Step:
    b.expect(3, 5)
    size = b.immediate(2)
    if size not in (4, 8, 16) or (b.modifiers["cache"] == "cg" and size != 16):
        raise b.error(f"a cp.async of {size} bytes", need="4, 8 or 16; 16 with .cg")
    destination, source = b.address(0), b.address(1)
    optional = len(b.operands) - 3 - ("hint" in b.modifiers)
    read_size, ignore = None, None
    if optional == 1:
        operand = b.operands[3]
        if getattr(operand, "kind", "") == "p":
            ignore = b.predicate(operand)
        else:
            read_size = b.source(3, "u32")
    t = type_id("u32")

    def step(x: Unit) -> None:
        counts = np.full(x.width, size, np.int64)
        if read_size is not None:
            counts[:] = x.views[t][read_size]
        if ignore is not None:
            counts[ignore(x)] = 0
        if (counts[x.mask] > size).any():
            raise b.fault(x, Kind.OUT_OF_BOUNDS, f"cp.async reads {int(counts[x.mask].max())} of {size} bytes")
        targets, sources = destination(x), source(x)
        for thread in list(x.threads()):
            lanes = np.flatnonzero(x.mask[x.thread_lanes(thread)]) + x.thread_lanes(thread).start
            try:
                _issue(b, x, thread, targets[lanes], sources[lanes], counts[lanes], size)
            except MemoryFault as fault:
                raise b.fault(x, fault.kind, str(fault)) from None

    return step


def _issue(
    b: Builder, x: Unit, thread: Thread, targets: np.ndarray, sources: np.ndarray, counts: np.ndarray, size: int
) -> None:
    cta, machine = x.cta, x.cta.machine
    offsets = targets - cta.shared_base
    cta.shared.check(int(offsets.min()), int(offsets.max()) + size)
    if (offsets % size).any() or (sources[counts > 0] % size).any():
        raise MemoryFault(Kind.MISALIGNED, f"cp.async addresses must be multiples of {size}")
    groups = copy_groups(x, thread)
    clocks = machine.clocks
    access = Access(groups.agent, groups.epoch, clocks.order[thread.row], clocks.visible[thread.row], b.pc)
    conflict = cta.shared.shadow.write(access, granules(offsets, size, GRANULE))
    if conflict is not None:
        report_conflict(
            x, conflict, b.pc, True, f"shared byte {conflict.granule * GRANULE - SHARED_RESERVED} of cta {cta.index}"
        )
    indices = offsets[:, None] + np.arange(size)
    cta.shared.written[indices] = True
    reads = _sources(b, x, sources, counts)

    def run() -> None:
        data = np.zeros(indices.shape, np.uint8)
        for row, read in enumerate(reads):
            if read is not None:
                data[row, : int(counts[row])] = read()
        cta.shared.data[indices] = data

    groups.current.append(machine.issue(AsyncOperation(run, f"cp.async of {thread.warp.label}", None, b.pc)))


def _sources(b: Builder, x: Unit, sources: np.ndarray, counts: np.ndarray) -> list[Callable[[], np.ndarray] | None]:
    memory = x.cta.machine.memory
    reads: list[Callable[[], np.ndarray] | None] = []
    for address, count in zip(sources.tolist(), counts.tolist(), strict=True):
        if count == 0:
            reads.append(None)
            continue
        buffer = memory.find(address)
        start = address - buffer.base
        if start + count > len(buffer.data):
            raise MemoryFault(Kind.OUT_OF_BOUNDS, f"cp.async of {count} bytes ends past {buffer.name}")
        if buffer.written is not None and not buffer.written[start : start + count].all():
            b.finding(x, Kind.UNINITIALIZED_MEMORY, f"cp.async reads bytes of {buffer.name} that nothing has written")
        reads.append(lambda buffer=buffer, start=start, count=count: buffer.data[start : start + count])
    return reads


@builds("cp.commit")
def _commit(b: Builder) -> Step:
    b.expect(0)

    def step(x: Unit) -> None:
        for thread in list(x.threads()):
            copy_groups(x, thread).commit()

    return step


@builds("cp.wait")
def _wait(b: Builder) -> Step:
    everything = b.modifiers["op"] == "wait_all"
    b.expect(0 if everything else 1)
    allowed = 0 if everything else b.immediate(0)

    def step(x: Unit) -> Wait | None:
        waiting = [(thread, copy_groups(x, thread)) for thread in list(x.threads())]
        if everything:
            for _, groups in waiting:
                groups.commit()
        if not all(groups.finished(allowed) for _, groups in waiting):
            return Wait(lambda: all(g.finished(allowed) for _, g in waiting), lambda: "cp.async groups", "group", b.pc)
        for thread, groups in waiting:
            done = len(groups.ends) - allowed
            if done > 0:
                x.cta.machine.clocks.learn(thread.row, groups.agent, groups.ends[done - 1])
        return None

    return step


@builds("cp.mbarrier")
def _arrive_after(b: Builder) -> Step:
    b.expect(1)
    address, space = b.address(0), b.modifiers.get("space", "generic")
    count_first = "noinc" not in b.modifiers

    def step(x: Unit) -> None:
        for thread, where, lanes in per_address(x, address(x)):
            owner, barrier = find_barrier(b, x, space, where, thread)
            if count_first:
                barrier.pending += len(lanes)
            groups = copy_groups(x, thread)
            _follow(b, x, owner, barrier, groups, len(lanes))

    return step


def _follow(b: Builder, x: Unit, owner: Cta, barrier: MBarrier, groups: CopyGroups, count: int) -> None:
    """Arrive once all earlier copies of the warp are done."""
    machine = x.cta.machine
    waiting = groups.pending()
    epoch = groups.epoch
    groups.epoch += 1

    def run() -> None:
        for operation in waiting:
            if not operation.done:
                machine.operations.remove(operation)
                operation.run()
                operation.done = True
        barrier.arriving.add_epoch(groups.agent, epoch)
        try:
            barrier.arrive(count, f"cp.async of {x.name}", b.pc)
        except BarrierFault as fault:
            raise machine.recorder.fatal(fault.kind, str(fault), b.pc, x.name) from None
        finish_phase(b, x, barrier, owner)

    machine.issue(AsyncOperation(run, "cp.async arrival", None, b.pc))
