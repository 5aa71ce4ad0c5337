"""What all bulk copies share: their operands, and transfers that an mbarrier or a bulk group tracks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.machine.access import WINDOWS, report_conflict
from gemmgen.emulator.machine.bulk_groups import BulkGroups
from gemmgen.emulator.machine.mbarrier import BarrierFault, MBarrier
from gemmgen.emulator.machine.memory import GRANULE, PARAM_WINDOW, SHARED_RESERVED, WINDOW_BYTES, MemoryFault
from gemmgen.emulator.machine.scheduler import AsyncOperation
from gemmgen.emulator.machine.shadow import Access
from gemmgen.emulator.machine.unit import Thread
from gemmgen.emulator.ops.builder import Builder, type_id
from gemmgen.emulator.ops.mbarriers import find_barrier, finish_phase, shared_place
from gemmgen.emulator.ptx.operands import Symbol
from gemmgen.emulator.report import Kind
from gemmgen.emulator.tensor_map import MAP_BYTES, MapFields, decode_map
from gemmgen.errors import EmulationError

if TYPE_CHECKING:
    from gemmgen.emulator.machine.cta import Cta
    from gemmgen.emulator.machine.unit import Unit

Data = NDArray[np.uint8]
Where = NDArray[np.int64] | slice


def active_lanes(x: Unit) -> Iterator[tuple[Thread, int]]:
    """Every active lane with the thread it acts as."""
    for thread in list(x.threads()):
        lanes = x.thread_lanes(thread)
        for lane in np.flatnonzero(x.mask[lanes]):
            yield thread, int(lane) + lanes.start


def map_address(b: Builder, operand: int) -> Callable[[Unit], NDArray[np.int64]]:
    """A function that gives the generic addresses of a tensor-map operand."""
    base = b.memory(operand).base
    address = b.address(operand, coordinates=True)
    if isinstance(base, Symbol) and base.space == "param":
        return lambda x: address(x) + PARAM_WINDOW
    return address


def read_map(b: Builder, x: Unit, thread: Thread, address: int) -> MapFields:
    """The tensor map at a generic address."""
    machine = x.cta.machine
    if address % 64:
        raise b.fault(x, Kind.MISALIGNED, f"tensor map at 0x{address:x}, which is not a multiple of 64")
    try:
        if WINDOWS["shared"] <= address < WINDOWS["shared"] + WINDOW_BYTES:
            raise MemoryFault(Kind.TENSOR_MAP, "a tensor map must be in parameter, constant or global memory")
        for space, block in (("param", machine.param_block), ("const", machine.const_block)):
            if WINDOWS[space] <= address < WINDOWS[space] + WINDOW_BYTES:
                offset = address - WINDOWS[space]
                if offset + MAP_BYTES > len(block):
                    raise MemoryFault(Kind.OUT_OF_BOUNDS, f"tensor map past the end of {space} memory")
                return decode_map(block[offset : offset + MAP_BYTES].tobytes())
        buffer = machine.memory.find(address)
        offset = address - buffer.base
        if offset + MAP_BYTES > len(buffer.data):
            raise MemoryFault(Kind.OUT_OF_BOUNDS, f"tensor map past the end of {buffer.name}")
        _check_acquired(b, x, thread, address, offset)
        return decode_map(buffer.data[offset : offset + MAP_BYTES].tobytes())
    except MemoryFault as fault:
        raise b.fault(x, fault.kind, str(fault)) from None
    except EmulationError as error:
        raise b.fault(x, Kind.TENSOR_MAP, " ".join(filter(None, (error.what, error.got, error.need)))) from None


def _check_acquired(b: Builder, x: Unit, thread: Thread, address: int, offset: int) -> None:
    """A map that the device changed must have been acquired with fence.proxy.tensormap."""
    machine = x.cta.machine
    buffer = machine.memory.find(address)
    if buffer.shadow is None:
        return
    granules = slice(offset // buffer.granule, (offset + MAP_BYTES) // buffer.granule)
    epoch = int(buffer.shadow.write_epoch[granules].max())
    writer = int(buffer.shadow.writer[granules].max())
    acquired = machine.acquired_maps.get((thread.warp.agent, address), -1)
    if writer and (acquired < epoch or machine.clocks.order[thread.row, writer] < epoch):
        b.finding(
            x, Kind.PROXY_FENCE, "a tensor map changed by the device is used without fence.proxy.tensormap acquire"
        )


def coordinates(b: Builder, operand: int, rank: int) -> Callable[[Unit, int], tuple[int, ...]]:
    """A function that gives a lane's tensor coordinates."""
    found = b.memory(operand).coordinates
    if found is None or len(found.items) != rank:
        raise b.error(f"the tensor operand needs {rank} coordinates")
    keys = [b.source(item, "s32") for item in found.items]
    t = type_id("s32")
    return lambda x, lane: tuple(
        int(value) if np.ndim(value := x.views[t][key]) == 0 else int(value[lane]) for key in keys
    )


def lane_value(b: Builder, operand: int, type_: str) -> Callable[[Unit, int], int]:
    """A function that gives a lane's value of an integer operand."""
    key, t = b.source(operand, type_), type_id(type_)
    return lambda x, lane: int(value) if np.ndim(value := x.views[t][key]) == 0 else int(value[lane])


def place(b: Builder, x: Unit, space: str, address: int, size: int, align: int, what: str) -> tuple[Cta, int]:
    """The CTA and offset of a shared range, checked for bounds and alignment."""
    try:
        owner, offset = shared_place(x, space, address)
        owner.shared.check(offset, offset + size)
    except MemoryFault as fault:
        raise b.fault(x, fault.kind, f"{what}: {fault}") from None
    if offset % align:
        raise b.fault(
            x, Kind.MISALIGNED, f"{what} at shared byte {offset - SHARED_RESERVED} is not a multiple of {align}"
        )
    return owner, offset


def tracked_barrier(
    b: Builder, x: Unit, thread: Thread, space: str, address: int, owner: Cta, peers: bool
) -> tuple[Cta, MBarrier]:
    """The mbarrier of a transfer, which must be in the CTA the data goes to or, with ``peers``, in its pair."""
    barrier_owner, barrier = find_barrier(b, x, "shared::cluster", address, thread, by_transfer=True)
    if barrier_owner.rank >> peers != owner.rank >> peers:
        raise b.fault(
            x, Kind.MBARRIER, f"the mbarrier is in cta {barrier_owner.index}, the data goes to cta {owner.index}"
        )
    if space == "shared::cta" and barrier_owner is not x.cta and not peers:
        raise b.fault(x, Kind.MBARRIER, "a transfer to shared::cta needs an mbarrier of its own CTA")
    return barrier_owner, barrier


def issue_access(x: Unit, thread: Thread, agent: int, epoch: int, pc: int) -> Access:
    """An async-proxy access that a thread has issued."""
    clocks = x.cta.machine.clocks
    return Access(agent, epoch, clocks.order[thread.row], clocks.visible[thread.row], pc, True)


def write_shared(b: Builder, x: Unit, owner: Cta, access: Access, granules: Where, bytes_: Where) -> None:
    """Check and record an asynchronous write of shared memory."""
    conflict = owner.shared.shadow.write(access, granules)
    if conflict is not None:
        where = f"shared byte {conflict.granule * GRANULE - SHARED_RESERVED} of cta {owner.index}"
        report_conflict(x, conflict, b.pc, True, where)
    if owner.shared.has_barriers and owner.shared.barriers[granules].any():
        b.finding(x, Kind.MBARRIER, "a bulk copy overwrites an mbarrier object")
    owner.shared.written[bytes_] = True
    if owner is not x.cta:
        if owner.exited:
            b.finding(x, Kind.EXIT_PEER, f"cta {owner.index} has exited; its shared memory is gone")
        owner.remote_uses[access.agent] = (access.epoch, b.pc)


def read_shared(b: Builder, x: Unit, owner: Cta, access: Access, granules: Where, bytes_: Where) -> None:
    """Check and record an asynchronous read of shared memory."""
    written = owner.shared.written[bytes_]
    if not written.all():
        first = np.flatnonzero(~written.reshape(-1))[0]
        offset = (bytes_.start + first) if isinstance(bytes_, slice) else bytes_.reshape(-1)[first]
        where = f"shared byte {int(offset) - SHARED_RESERVED} of cta {owner.index}"
        text = f"the async proxy reads {where}, which nothing has written"
        b.finding(x, Kind.UNINITIALIZED_MEMORY, text)
    conflict = owner.shared.shadow.read(access, granules)
    if conflict is not None:
        where = f"shared byte {conflict.granule * GRANULE - SHARED_RESERVED} of cta {owner.index}"
        report_conflict(x, conflict, b.pc, False, where)


def deliver(
    b: Builder, x: Unit, found: tuple[Cta, MBarrier], owner: Cta, size: int, label: str, write: Callable[[], None]
) -> None:
    """Issue a transfer whose end an mbarrier counts: ``write`` moves the data, then ``size`` bytes complete."""
    barrier_owner, barrier = found
    machine = x.cta.machine
    barrier.in_flight += 1
    barrier.issued_epoch = barrier.epoch
    barrier.issued_pc = b.pc

    def run() -> None:
        if owner.exited:
            text = f"{label} lands in the shared memory of cta {owner.index}, which has exited"
            machine.recorder.add(Kind.EXIT_IN_FLIGHT, text, b.pc, label)
        write()
        barrier.in_flight -= 1
        try:
            barrier.complete(size)
        except BarrierFault as fault:
            raise machine.recorder.fatal(fault.kind, str(fault), b.pc, label) from None
        finish_phase(b, None, barrier, barrier_owner)

    machine.issue(AsyncOperation(run, label, None, b.pc))
    machine.count("bulk copies")


def bulk_groups(x: Unit, thread: Thread, lane: int) -> BulkGroups:
    """The bulk groups of a lane, made at its first use."""
    cta = x.cta
    key = (thread.warp.index, lane % 32)
    if key not in cta.bulk_groups:
        cta.bulk_groups[key] = BulkGroups(cta, f"cta {cta.index} warp {key[0]} lane {key[1]}")
    return cta.bulk_groups[key]


def depart(
    b: Builder, x: Unit, groups: BulkGroups, label: str, read: Callable[[], Data], write: Callable[[Data], None]
) -> None:
    """Issue a transfer that a bulk group counts: it reads its source first and writes some time later."""
    machine = x.cta.machine
    held: list[Data] = []
    chain = object()
    first = AsyncOperation(lambda: held.append(read()), f"{label} (read)", chain, b.pc)
    second = AsyncOperation(lambda: write(held[0]), f"{label} (write)", chain, b.pc)
    groups.add(machine.issue(first), machine.issue(second))
    machine.count("bulk copies")
