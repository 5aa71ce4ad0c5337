"""mbarrier instructions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.machine.access import WINDOWS, cluster_cta, note_remote
from gemmgen.emulator.machine.mbarrier import MAX_COUNT, BarrierFault, MBarrier
from gemmgen.emulator.machine.memory import GRANULE, RANK_SHIFT, SHARED_RESERVED, WINDOW_BYTES, MemoryFault
from gemmgen.emulator.machine.unit import Dissolve, Thread, Wait
from gemmgen.emulator.ops.builder import Builder, Step, builds, type_id
from gemmgen.emulator.ptx.operands import Mem
from gemmgen.emulator.report import Kind

if TYPE_CHECKING:
    from gemmgen.emulator.machine.cta import Cta
    from gemmgen.emulator.machine.unit import Unit

BARRIER_BYTES = 8


def shared_place(x: Unit, space: str, address: int) -> tuple[Cta, int]:
    """The CTA and offset that a shared address names.

    Args:
        x: the unit that uses it.
        address: the address.
        space: ``shared``, ``shared::cta`` or ``shared::cluster``; ``generic`` for an address without a space.

    Raises:
        MemoryFault: it is not an address of that space.
    """
    if space == "generic":
        base = WINDOWS["shared"]
        if not base <= address < base + WINDOW_BYTES:
            raise MemoryFault(Kind.OUT_OF_BOUNDS, f"generic address 0x{address:x} is not in shared memory")
        address -= base
        space = "shared::cluster"
    rank, offset = address >> RANK_SHIFT, address & ((1 << RANK_SHIFT) - 1)
    if rank != x.cta.rank and space != "shared::cluster":
        raise MemoryFault(
            Kind.OUT_OF_BOUNDS, f"an address of CTA rank {rank} in a shared::cta operation by rank {x.cta.rank}"
        )
    owner = cluster_cta(x.cta, rank)
    owner.shared.check(offset, offset + 1)
    return owner, offset


def find_barrier(
    b: Builder, x: Unit, space: str, address: int, thread: Thread | None, *, by_transfer: bool = False
) -> tuple[Cta, MBarrier]:
    """The mbarrier at an address, which must be initialised and whose initialisation the thread must know of.

    ``by_transfer``: not the thread uses it, but a transfer that it starts. Who waits for the barrier knows when that is
    over, whatever he knows of the thread.
    """
    try:
        owner, offset = shared_place(x, space, address)
    except MemoryFault as fault:
        raise b.fault(x, fault.kind, f"mbarrier operand: {fault}") from None
    if offset % BARRIER_BYTES:
        raise b.fault(x, Kind.MISALIGNED, f"mbarrier address 0x{address:x} is not a multiple of 8")
    barrier = owner.mbarriers.get(offset)
    if barrier is None:
        raise b.fault(
            x,
            Kind.MBARRIER,
            f"there is no initialised mbarrier at shared byte {offset - SHARED_RESERVED} of cta {owner.index}",
        )
    if thread is not None:
        clocks = x.cta.machine.clocks
        own = thread.agent == barrier.init_agent or barrier.init_agent in thread.warp.siblings
        if not own and clocks.order[thread.row, barrier.init_agent] < barrier.init_epoch:
            b.finding(
                x,
                Kind.RACE,
                f"{barrier.name} is used and nothing orders that after its initialisation",
                barrier.init_pc,
            )
        if not by_transfer:
            note_remote(x, owner, x.access(thread, b.pc), b.pc)
    return owner, barrier


def finish_phase(b: Builder, x: Unit | None, barrier: MBarrier, owner: Cta) -> None:
    """End the barrier's phase if it is complete, and check that nothing still flies towards it."""
    machine = owner.machine
    announced = barrier.expected_bytes
    if not barrier.try_complete():
        return
    machine.progress += 1
    machine.count("mbarrier phases")
    if barrier.in_flight:
        flying = f"{barrier.in_flight} transfers are in flight"
        text = f"{barrier.name} completes its phase ({announced} bytes expected) while {flying}"
        machine.recorder.add(Kind.TRANSACTION, text, b.pc, x.name if x else "")


def _space(b: Builder) -> str:
    return b.modifiers.get("space", "generic")


def per_address(x: Unit, addresses: NDArray[np.int64]) -> Iterator[tuple[Thread, int, NDArray[np.intp]]]:
    """Each thread's distinct active addresses, with the unit's lanes that use each."""
    for thread in list(x.threads()):
        lanes = x.thread_lanes(thread)
        active = np.flatnonzero(x.mask[lanes]) + lanes.start
        values = addresses[active]
        for address in dict.fromkeys(values.tolist()):
            yield thread, address, active[values == address]


@builds("mbar.init")
def _init(b: Builder) -> Step:
    b.expect(2)
    address, count, t, space = b.address(0), b.source(1, "u32"), type_id("u32"), _space(b)

    def step(x: Unit) -> None:
        counts = np.broadcast_to(x.views[t][count], (x.width,))
        for thread, where, lanes in per_address(x, address(x)):
            try:
                owner, offset = shared_place(x, space, where)
                owner.shared.check(offset, offset + BARRIER_BYTES)
            except MemoryFault as fault:
                raise b.fault(x, fault.kind, str(fault)) from None
            expected = int(counts[lanes[0]])
            _check_init(b, x, owner, offset, expected)
            access = x.access(thread, b.pc)
            granule = offset // GRANULE
            owner.shared.shadow.write(access, slice(granule, granule + 2))
            owner.shared.written[offset : offset + BARRIER_BYTES] = True
            owner.shared.barriers[granule : granule + 2] = True
            owner.shared.has_barriers = True
            name = f"mbarrier at shared byte {offset - SHARED_RESERVED} of cta {owner.index}"
            owner.mbarriers[offset] = MBarrier(name, expected, x.cta.machine.clocks, access.agent, access.epoch, b.pc)
        x.cta.machine.progress += 1

    return step


def _check_init(b: Builder, x: Unit, owner: Cta, offset: int, expected: int) -> None:
    if offset % BARRIER_BYTES:
        raise b.fault(x, Kind.MISALIGNED, f"mbarrier at shared byte {offset - SHARED_RESERVED} is not 8-byte aligned")
    if not 1 <= expected <= MAX_COUNT:
        raise b.fault(x, Kind.MBARRIER, f"an arrival count of {expected}: need 1 to {MAX_COUNT}")
    if offset in owner.mbarriers:
        b.finding(x, Kind.MBARRIER, f"{owner.mbarriers[offset].name} is initialised again without mbarrier.inval")


@builds("mbar.inval")
def _inval(b: Builder) -> Step:
    b.expect(1)
    address, space = b.address(0), _space(b)

    def step(x: Unit) -> None:
        for thread, where, _ in per_address(x, address(x)):
            owner, barrier = find_barrier(b, x, space, where, thread)
            offset = where & ((1 << RANK_SHIFT) - 1)
            if barrier.in_flight or barrier.transactions:
                b.finding(x, Kind.MBARRIER, f"{barrier.name} is invalidated while transfers use it")
            del owner.mbarriers[offset]
            granule = offset // GRANULE
            owner.shared.barriers[granule : granule + 2] = False
            owner.shared.written[offset : offset + BARRIER_BYTES] = False

    return step


def arrive_lanes(
    b: Builder, x: Unit, thread: Thread, found: tuple[Cta, MBarrier], count: int, expected: int | None, release: bool
) -> None:
    """Some lanes of a thread arrive, after announcing transaction bytes where there are any."""
    owner, barrier = found
    clocks = x.cta.machine.clocks
    if release:
        if x.full:
            thread.warp.gather()
        clocks.release(thread.row, barrier.arriving)
        clocks.tick(thread.row, thread.agent)
    try:
        if expected is not None:
            barrier.expect(expected)
        barrier.arrive(count, x.name, b.pc)
    except BarrierFault as fault:
        raise b.fault(x, fault.kind, str(fault)) from None
    x.cta.machine.progress += 1
    finish_phase(b, x, barrier, owner)


@builds("mbar.arrive")
def _arrive(b: Builder) -> Step:
    position = _address_position(b)
    expecting = "expect" in b.modifiers
    b.expect(position + 1 + (1 if expecting else 0), position + 2)
    state = b.destination(0, "b64") if position and not b.is_sink(0) else None
    address, space = b.address(position), _space(b)
    extra = b.source(position + 1, "u32") if len(b.operands) == position + 2 else None
    release = b.modifiers.get("sem", "release") == "release"
    drop = b.modifiers["op"] == "arrive_drop"
    t = type_id("u32")

    def step(x: Unit) -> None:
        values = None if extra is None else np.broadcast_to(x.views[t][extra], (x.width,))
        for thread, where, lanes in per_address(x, address(x)):
            found = find_barrier(b, x, space, where, thread)
            if state is not None:
                x.views[type_id("u64")][state][lanes] = found[1].phase
            arrivals, expected = _amounts(values, lanes, expecting)
            if drop:
                found[1].count -= len(lanes)
            arrive_lanes(b, x, thread, found, arrivals, expected, release)

    return step


def _address_position(b: Builder) -> int:
    for position, operand in enumerate(b.operands[:2]):
        if isinstance(operand, Mem):
            return position
    raise b.error("no [barrier] operand")


def _amounts(values: NDArray | None, lanes: NDArray[np.intp], expecting: bool) -> tuple[int, int | None]:
    """Arrivals and announced bytes of some lanes."""
    if expecting and values is not None:
        return len(lanes), int(values[lanes].astype(np.int64).sum())
    if values is not None:
        return int(values[lanes].astype(np.int64).sum()), None
    return len(lanes), None


@builds("mbar.tx")
def _tx(b: Builder) -> Step:
    b.expect(2)
    address, space, amount, t = b.address(0), _space(b), b.source(1, "u32"), type_id("u32")
    complete = b.modifiers["op"] == "complete_tx"

    def step(x: Unit) -> None:
        values = np.broadcast_to(x.views[t][amount], (x.width,))
        for thread, where, lanes in per_address(x, address(x)):
            owner, barrier = find_barrier(b, x, space, where, thread)
            total = int(values[lanes].astype(np.int64).sum())
            try:
                if complete:
                    barrier.complete(total)
                else:
                    barrier.expect(total)
            except BarrierFault as fault:
                raise b.fault(x, fault.kind, str(fault)) from None
            x.cta.machine.progress += 1
            finish_phase(b, x, barrier, owner)

    return step


@builds("mbar.wait")
def _wait(b: Builder) -> Step:
    b.expect(3, 4)
    if b.modifiers["op"] == "test_wait":
        b.expect(3)
    flag, address, space = b.destination(0, "pred"), b.address(1), _space(b)
    parity_form = "parity" in b.modifiers
    key, t = (b.source(2, "u32"), type_id("u32")) if parity_form else (b.source(2, "u64"), type_id("u64"))
    if len(b.operands) == 4:
        b.source(3, "u32")
    blocking = b.modifiers["op"] == "try_wait"
    acquire = b.modifiers.get("sem", "acquire") == "acquire"

    def step(x: Unit) -> Wait | None:
        wanted = np.broadcast_to(x.views[t][key], (x.width,))
        passed = np.zeros(x.width, np.bool_)
        waits: list[tuple[MBarrier, int]] = []
        reached: list[tuple[Thread, MBarrier]] = []
        for thread, where, lanes in per_address(x, address(x)):
            _, barrier = find_barrier(b, x, space, where, thread)
            for value in dict.fromkeys(wanted[lanes].tolist()):
                if parity_form and value not in (0, 1):
                    raise b.fault(x, Kind.MBARRIER, f"a parity of {value}: need 0 or 1")
                if barrier.done(value) if parity_form else barrier.phase > value:
                    passed[lanes[wanted[lanes] == value]] = True
                    reached.append((thread, barrier))
                else:
                    waits.append((barrier, value))
        if waits and blocking and not reached and not _gives_up(x, waits):
            return _blocked(b, waits, parity_form)
        if waits and reached and len(x.warps) > 1:
            raise Dissolve
        for thread, barrier in reached:
            if acquire:
                x.cta.machine.clocks.acquire(thread.row, barrier.completed)
        np.copyto(x.pred[flag], passed, where=x.where)
        return None

    return step


def _gives_up(x: Unit, waits: list[tuple[MBarrier, int]]) -> bool:
    """try_wait may return false early: a hostile scheduler does so once per wait, and callers must loop."""
    if not x.cta.machine.policy.gives_up_waits:
        return False
    barrier = waits[0][0]
    key = (x.warps[0].index, barrier.phase)
    if key in barrier.gave_up:
        return False
    barrier.gave_up.add(key)
    return True


def _blocked(b: Builder, waits: list[tuple[MBarrier, int]], parity_form: bool) -> Wait:
    def ready() -> bool:
        return any(barrier.done(value) if parity_form else barrier.phase > value for barrier, value in waits)

    def describe() -> str:
        barrier, value = waits[0]
        return f"{barrier.name} for parity {value}; {barrier.state()}"

    return Wait(ready, describe, "mbarrier", b.pc)
