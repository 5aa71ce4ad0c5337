"""Which tcgen05 operations are ordered: pipes, waits, commits and the two thread-sync fences (docs/hardware.md §5.8).

Tensor memory has a happens-before of its own. A warp *sees* what a fence::after_thread_sync took from its ordinary
clock, and its own loads and stores once it has waited for them. Every source of accesses has two agents: ``done``,
recorded in tensor memory's shadow, and ``told``, which travels without the tcgen05 fences:

* a warp's loads and stores: ``told`` at tcgen05.wait, ``done`` in the ordinary clock only at fence::before_thread_sync;
* a thread's mma/cp pipe: ``told`` at fence::before_thread_sync, enough for another thread's mma that pipelines behind
  it; ``done`` when the mbarrier of a tcgen05.commit completes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gemmgen.emulator.machine.clocks import Clock, Clocks
from gemmgen.emulator.machine.shadow import Access, Conflict
from gemmgen.emulator.machine.unit import Thread, Warp


@dataclass
class Source:
    """A stream of accesses to tensor memory.

    Attributes:
        kind: ``tcgen05.ld``, ``tcgen05.st`` or ``tcgen05.mma/cp``.
        done: agent whose epochs the shadow records.
        told: agent whose epochs travel without tcgen05 fences.
        epoch: the last one issued.
        pc: its instruction.
        follows: for a pipe, the epochs of other pipes that its operations come after, and so complete after.
    """

    kind: str
    done: int
    told: int
    epoch: int = 0
    pc: int = -1
    follows: dict[int, int] = field(default_factory=dict)

    @property
    def pipelined(self) -> bool:
        """Whether it is a thread's mma/cp pipe."""
        return self.kind == PIPE


LOAD, STORE, PIPE = "tcgen05.ld", "tcgen05.st", "tcgen05.mma/cp"

_BARRIER = "tcgen05.fence::before_thread_sync, a barrier and tcgen05.fence::after_thread_sync"
_REMEDY = {
    LOAD: f"tcgen05.wait::ld, {_BARRIER}",
    STORE: f"tcgen05.wait::st, {_BARRIER}",
    PIPE: "tcgen05.commit, a wait on its mbarrier and tcgen05.fence::after_thread_sync",
}


class TensorOrder:
    """The tcgen05 ordering state of a launch."""

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks
        self._seen: dict[int, Clock] = {}
        self._streams: dict[tuple[int, str], Source] = {}
        self._pipes: dict[tuple[int, int], Source] = {}
        self._by_agent: dict[int, Source] = {}

    def stream(self, warp: Warp, kind: str) -> Source:
        """The loads or the stores of a warp."""
        key = (warp.agent, kind)
        if key not in self._streams:
            self._streams[key] = self._new_source(kind, f"{kind} of {warp.label}")
        return self._streams[key]

    def pipe(self, warp: Warp, lane: int) -> Source:
        """The mma and cp operations that one thread issues."""
        key = (warp.agent, lane)
        if key not in self._pipes:
            self._pipes[key] = self._new_source(PIPE, f"{PIPE} of {warp.label} lane {lane}")
        return self._pipes[key]

    def pipes_of(self, warp: Warp) -> list[Source]:
        """The pipes of all threads of a warp."""
        return [source for (agent, _), source in self._pipes.items() if agent == warp.agent]

    def before_thread_sync(self, thread: Thread) -> None:
        """``tcgen05.fence::before_thread_sync``: what the thread does next hands its earlier operations over."""
        for kind in (LOAD, STORE):
            source = self._streams.get((thread.warp.agent, kind))
            if source is not None:
                self._clocks.learn(thread.row, source.done, int(self._clocks.order[thread.row, source.told]))
        for source in self.pipes_of(thread.warp):
            self._clocks.learn(thread.row, source.told, source.epoch)

    def after_thread_sync(self, thread: Thread) -> None:
        """``tcgen05.fence::after_thread_sync``: later operations come after all that the thread has waited for."""
        seen = self._seen_by(thread.warp)
        np.maximum(seen, self._clocks.order[thread.row], out=seen)

    def wait(self, thread: Thread, kind: str) -> None:
        """``tcgen05.wait``: the warp's own loads or stores are done."""
        source = self.stream(thread.warp, kind)
        self._seen_by(thread.warp)[source.done] = source.epoch
        self._clocks.learn(thread.row, source.told, source.epoch)

    def access(self, thread: Thread, source: Source, pc: int) -> Access:
        """A new operation of a source, for tensor memory's shadow.

        Its ``order`` counts what it pipelines behind as done; its ``visible`` only what is known to be complete.
        """
        source.epoch += 1
        source.pc = pc
        complete = self._seen_by(thread.warp).copy()
        order = complete
        if source.pipelined:
            order = complete.copy()
            for other in self._pipes.values():
                order[other.done] = max(order[other.done], order[other.told])
                source.follows[other.done] = int(order[other.done])
            order[source.done] = source.epoch
        return Access(source.done, source.epoch, order, complete, pc)

    def deallocation(self, thread: Thread, pc: int) -> Access:
        """A deallocation, which needs loads and stores waited for and handed over, but no tcgen05 fence."""
        order = np.maximum(self._seen_by(thread.warp), self._clocks.order[thread.row])
        for source in self._streams.values():
            order[source.done] = max(order[source.done], order[source.told])
        return Access(thread.agent, 0, order, order, pc)

    def explain(self, thread: Thread, conflict: Conflict) -> str:
        """What is missing between a conflicting access and the thread's."""
        source = self._by_agent.get(conflict.agent)
        if source is None:
            return "nothing orders the two"
        seen = self._seen_by(thread.warp)
        if self._clocks.order[thread.row, source.done] > seen[source.done]:
            return "tcgen05.fence::after_thread_sync is missing before it"
        if not source.pipelined and self._clocks.order[thread.row, source.told] > seen[source.done]:
            return "tcgen05.fence::before_thread_sync is missing after the earlier access's tcgen05.wait"
        return f"between them must come {_REMEDY[source.kind]}"

    def _new_source(self, kind: str, label: str) -> Source:
        source = Source(kind, self._clocks.new_agent(label), self._clocks.new_agent(f"{label}, issued"))
        self._by_agent[source.done] = source
        return source

    def _seen_by(self, warp: Warp) -> Clock:
        """The warp's tensor clock, at least as long as the number of agents."""
        size = self._clocks.order.shape[1]
        seen = self._seen.get(warp.agent)
        if seen is None or len(seen) < size:
            grown = np.zeros(size, np.int32)
            if seen is not None:
                grown[: len(seen)] = seen
            self._seen[warp.agent] = seen = grown
        return seen
