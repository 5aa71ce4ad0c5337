"""What the tcgen05 instructions share: tensor memory of a CTA, pipelines, access checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.machine.shadow import Access, Conflict
from gemmgen.emulator.machine.tmem import COLUMNS, LANES, Pipeline, TensorMemory, TmemPort, words
from gemmgen.emulator.machine.unit import Thread, Warp
from gemmgen.emulator.ops.builder import Builder
from gemmgen.emulator.report import Kind

if TYPE_CHECKING:
    from gemmgen.emulator.machine.clocks import Clock
    from gemmgen.emulator.machine.cta import Cta
    from gemmgen.emulator.machine.unit import Unit


def tensor_memory(cta: Cta) -> TensorMemory:
    """The CTA's tensor memory, made at its first use."""
    if cta.tmem is None:
        cta.tmem = TensorMemory(cta)
    return cta.tmem


def pipeline(x: Unit, thread: Thread) -> Pipeline:
    """The pipeline of an issuing thread."""
    key = thread.agent
    found = x.cta.pipelines.get(key)
    if found is None:
        agent = x.cta.machine.clocks.new_agent(f"tcgen05 operations of {x.cta.machine.clocks.labels[thread.agent]}")
        found = x.cta.pipelines[key] = Pipeline(agent)
    return found


def port(cta: Cta, warp: Warp) -> TmemPort:
    """A warp's loads and stores of tensor memory."""
    if warp.index not in cta.tmem_ports:
        clocks = cta.machine.clocks
        agents = (clocks.new_agent(f"{warp.label} tcgen05.ld"), clocks.new_agent(f"{warp.label} tcgen05.st"))
        cta.tmem_ports[warp.index] = TmemPort(*agents)
    return cta.tmem_ports[warp.index]


def group_of(b: Builder) -> int:
    """1 or 2 of ``.cta_group::G``."""
    return int(b.modifiers["group"][-1])


def pair(b: Builder, x: Unit) -> list[Cta]:
    """The CTAs an operation works on: its own, or the pair with the even rank first."""
    if group_of(b) == 1:
        return [x.cta]
    if x.cta.machine.cluster_size < 2:
        raise b.fault(x, Kind.TMEM_ACCESS, "cta_group::2 needs a cluster with an even number of CTAs")
    even = x.cta.rank & ~1
    return [x.cta if x.cta.rank == rank else x.cta.peer(rank) for rank in (even, even + 1)]


def check_columns(b: Builder, x: Unit, cta: Cta, first: int, last: int, what: str) -> None:
    """Columns ``first`` to ``last`` (inclusive) must exist and be allocated."""
    if not 0 <= first <= last < COLUMNS:
        raise b.fault(x, Kind.TMEM_ACCESS, f"{what} covers tensor memory columns {first}..{last} of {COLUMNS}")
    memory = tensor_memory(cta)
    if not memory.allocated[first : last + 1].all():
        column = first + int(np.argmin(memory.allocated[first : last + 1]))
        b.finding(x, Kind.TMEM_ALLOCATION, f"{what} uses tensor memory column {column} of cta {cta.index}, which is not allocated")


def check_lanes(b: Builder, x: Unit, lanes: NDArray, what: str) -> None:
    """Lanes must exist."""
    if int(lanes.min()) < 0 or int(lanes.max()) >= LANES:
        raise b.fault(x, Kind.TMEM_ACCESS, f"{what} covers tensor memory lanes {int(lanes.min())}..{int(lanes.max())}")


def tensor_access(agent: int, epoch: int, order: Clock, pc: int, siblings: frozenset[int]) -> Access:
    """An access of tensor memory, which knows no proxies."""
    return Access(agent, epoch, order, order, pc, False, siblings)


def padded(order: Clock, count: int) -> Clock:
    """A clock with an entry for every agent."""
    return order if len(order) >= count else np.concatenate([order, np.zeros(count - len(order), np.int32)])


def read_words(b: Builder, x: Unit, cta: Cta, access: Access, lanes: NDArray, columns: NDArray, what: str) -> None:
    """Check and record reads of tensor memory words."""
    memory = tensor_memory(cta)
    check_lanes(b, x, lanes, what)
    check_columns(b, x, cta, int(columns.min()), int(columns.max()), what)
    if not memory.written[lanes, columns].all():
        missing = np.argwhere(~np.broadcast_to(memory.written[lanes, columns], np.broadcast(lanes, columns).shape))[0]
        lane = np.broadcast_to(lanes, np.broadcast(lanes, columns).shape)[tuple(missing)]
        column = np.broadcast_to(columns, np.broadcast(lanes, columns).shape)[tuple(missing)]
        text = f"{what} reads tensor memory lane {lane} column {column} of cta {cta.index} and nothing has written it"
        b.finding(x, Kind.UNINITIALIZED_MEMORY, text)
    _report(b, x, cta, memory.shadow.read(access, words(lanes, columns)), what, "reads")


def write_words(b: Builder, x: Unit, cta: Cta, access: Access, lanes: NDArray, columns: NDArray, what: str) -> None:
    """Check and record writes of tensor memory words."""
    memory = tensor_memory(cta)
    check_lanes(b, x, lanes, what)
    check_columns(b, x, cta, int(columns.min()), int(columns.max()), what)
    _report(b, x, cta, memory.shadow.write(access, words(lanes, columns)), what, "writes")
    memory.written[lanes, columns] = True


def _report(b: Builder, x: Unit, cta: Cta, conflict: Conflict | None, what: str, verb: str) -> None:
    if conflict is None:
        return
    lane, column = divmod(conflict.granule, COLUMNS)
    theirs = "wrote" if conflict.what == "write" else "read"
    label = cta.machine.clocks.labels[conflict.agent]
    text = f"{what} {verb} tensor memory lane {lane} column {column} of cta {cta.index}, which {label} {theirs}; nothing orders the two"
    b.finding(x, Kind.TCGEN05_ORDER, text, conflict.pc)
