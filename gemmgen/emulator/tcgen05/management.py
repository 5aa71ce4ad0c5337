"""``tcgen05.alloc``, ``dealloc``, ``relinquish_alloc_permit``, ``fence`` and ``wait``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.machine.access import store
from gemmgen.emulator.machine.memory import MemoryFault
from gemmgen.emulator.machine.unit import Dissolve, Wait
from gemmgen.emulator.ops.builder import Builder, Step, builds, type_id
from gemmgen.emulator.ops.warp import require_converged
from gemmgen.emulator.report import Kind
from gemmgen.emulator.tcgen05.order import LOAD, STORE
from gemmgen.emulator.tcgen05.state import PairCall, TensorCores, tensor_cores

if TYPE_CHECKING:
    from gemmgen.emulator.machine.unit import Thread, Unit, Warp


def whole_warps(b: Builder, x: Unit) -> Iterator[tuple[Warp, slice]]:
    """The warps that execute a ``.sync.aligned`` instruction, with their lanes in the unit."""
    for position, warp in enumerate(x.warps):
        lanes = slice(32 * position, 32 * position + 32)
        if not x.mask[lanes].all():
            raise b.fault(x, Kind.DIVERGENCE, f"lanes of {warp.label} have exited; all 32 must execute it")
        yield warp, lanes


def uniform(b: Builder, x: Unit, values: NDArray | np.generic, lanes: slice, what: str) -> int:
    """The one value that all lanes of a warp give."""
    mine = np.broadcast_to(values, (x.width,))[lanes]
    if not (mine == mine[0]).all():
        raise b.fault(x, Kind.TMEM_ACCESS, f"{what} differs between the lanes of a warp")
    return int(mine[0])


def cta_group(b: Builder) -> int:
    """The instruction's CTA group, of which a kernel has one.

    Raises:
        EmulationError: the kernel uses both, which ptxas refuses.
    """
    group, cores = int(b.modifiers["group"][-1]), tensor_cores(b.machine)
    if cores.cta_group not in (0, group):
        raise b.error("a kernel with cta_group::1 and cta_group::2", need="one of them in all tcgen05 instructions")
    cores.cta_group = group
    return group


@builds("tcgen05.alloc")
def _alloc(b: Builder) -> Step:
    b.expect(2)
    cores, group = tensor_cores(b.machine), cta_group(b)
    address, columns, u32 = b.address(0), b.source(1, "u32"), type_id("u32")
    space = b.modifiers.get("space", "generic")

    def step(x: Unit) -> Wait | None:
        if len(x.warps) > 1:
            raise Dissolve
        waiting = require_converged(b, x)
        if waiting is not None:
            return waiting
        for warp, lanes in whole_warps(b, x):
            count = uniform(b, x, x.views[u32][columns], lanes, "the number of columns")
            place = uniform(b, x, address(x), lanes, "the destination address")
            try:
                allocated = _meet_allocation(b, x, cores, group, warp, count)
                if isinstance(allocated, Wait):
                    return allocated
                word = np.full((x.width, 1), allocated, np.uint32).view(np.uint8)
                store(x, space, np.full(x.width, place, np.int64), word, b.pc)
            except MemoryFault as fault:
                raise b.fault(x, fault.kind, str(fault)) from None
            b.machine.count("tcgen05.alloc")
        return None

    return step


def _meet_allocation(b: Builder, x: Unit, cores: TensorCores, group: int, warp: Warp, count: int) -> int | Wait:
    """The allocated address, or what to wait for."""
    memory = cores.memory(x.cta)
    if group == 1:
        address = memory.allocate(count, b.pc)
        if address is not None:
            return address
        describe = f"tcgen05.alloc of {count} columns; too few are free"
        return Wait(lambda: memory.has_room(count), lambda: describe, "tmem", b.pc)
    call = _pair_call(x, cores, warp, "alloc", PairCall(memory, count, 0, b.pc))
    return call if isinstance(call, Wait) else call.address


def _pair_call(x: Unit, cores: TensorCores, warp: Warp, kind: str, call: PairCall) -> PairCall | Wait:
    """Make or continue a call that the peer CTA must make too."""
    assert x.fragment is not None
    tokens, cta = x.fragment.tokens, x.cta
    if warp.index not in tokens:
        cores.group(cta, 2)
        tokens[warp.index] = call
        cores.meet(kind, cta, call)
    made: PairCall = tokens[warp.index]
    if not made.done:
        cores.advance(kind, cta)
    if made.done:
        del tokens[warp.index]
        return made
    return Wait(
        lambda: made.done or cores.can_advance(kind, cta),
        lambda: f"tcgen05.{kind}.cta_group::2 of {call.columns} columns; the peer CTA or free columns are missing",
        "tmem",
        call.pc,
    )


@builds("tcgen05.dealloc")
def _dealloc(b: Builder) -> Step:
    b.expect(2)
    cores, group, u32 = tensor_cores(b.machine), cta_group(b), type_id("u32")
    address, columns = b.source(0, "u32"), b.source(1, "u32")

    def step(x: Unit) -> Wait | None:
        if len(x.warps) > 1:
            raise Dissolve
        waiting = require_converged(b, x)
        if waiting is not None:
            return waiting
        for warp, lanes in whole_warps(b, x):
            count = uniform(b, x, x.views[u32][columns], lanes, "the number of columns")
            first = uniform(b, x, x.views[u32][address], lanes, "the address")
            memory = cores.memory(x.cta)
            assert x.fragment is not None
            try:
                if warp.index not in x.fragment.tokens:
                    memory.check_allocation(first, count)
                    _check_unused(b, x, cores, group, warp.thread, memory.words_of(first, count))
                if group == 1:
                    memory.release(first, count)
                else:
                    call = _pair_call(x, cores, warp, "dealloc", PairCall(memory, count, first, b.pc))
                    if isinstance(call, Wait):
                        return call
            except MemoryFault as fault:
                raise b.fault(x, fault.kind, str(fault)) from None
        return None

    return step


def _check_unused(
    b: Builder, x: Unit, cores: TensorCores, group: int, thread: Thread, words: NDArray[np.int64]
) -> None:
    """Whoever used the columns, in either CTA of a pair, must be done before they are freed."""
    access = cores.order.deallocation(thread, b.pc)
    for cta in cores.group(x.cta, group):
        shadow = cores.memory(cta).shadow
        conflict = shadow.write(access, words) if cta is x.cta else shadow.check_write(access, words)
        if conflict is None:
            continue
        label = b.machine.clocks.labels[conflict.agent]
        text = f"{cores.memory(cta).name} is freed while a {conflict.what} by {label} may not be over"
        b.finding(x, Kind.TCGEN05_ORDER, f"{text}: {cores.order.explain(thread, conflict)}", conflict.pc)


@builds("tcgen05.relinquish")
def _relinquish(b: Builder) -> Step:
    b.expect(0)
    cores, _ = tensor_cores(b.machine), cta_group(b)

    def step(x: Unit) -> Wait | None:
        waiting = require_converged(b, x)
        if waiting is None:
            cores.memory(x.cta).relinquished = b.pc
        return waiting

    return step


@builds("tcgen05.fence")
def _fence(b: Builder) -> Step:
    b.expect(0)
    order = tensor_cores(b.machine).order
    before = b.modifiers["op"] == "fence::before_thread_sync"
    fence: Callable[[Thread], None] = order.before_thread_sync if before else order.after_thread_sync

    def step(x: Unit) -> None:
        for thread in x.threads():
            fence(thread)

    return step


@builds("tcgen05.wait")
def _wait(b: Builder) -> Step:
    b.expect(0)
    order = tensor_cores(b.machine).order
    kind = LOAD if b.modifiers["op"] == "wait::ld" else STORE

    def step(x: Unit) -> Wait | None:
        waiting = require_converged(b, x)
        if waiting is None:
            for warp, _ in whole_warps(b, x):
                order.wait(warp.thread, kind)
        return waiting

    return step
