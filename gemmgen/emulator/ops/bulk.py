"""Bulk copies: tensor boxes and byte runs between global and shared memory, bulk groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gemmgen.emulator.machine import tma
from gemmgen.emulator.machine.access import global_place, report_conflict
from gemmgen.emulator.machine.memory import GRANULE, RANK_SHIFT, Buffer, MemoryFault
from gemmgen.emulator.machine.unit import Thread
from gemmgen.emulator.ops.builder import Builder, Step, builds
from gemmgen.emulator.ops.bulk_common import (
    Data,
    active_lanes,
    bulk_groups,
    coordinates,
    deliver,
    depart,
    issue_access,
    lane_value,
    map_address,
    place,
    read_map,
    read_shared,
    tracked_barrier,
    write_shared,
)
from gemmgen.emulator.report import Kind
from gemmgen.emulator.tensor_map import MapFields

if TYPE_CHECKING:
    from gemmgen.emulator.machine.cta import Cta
    from gemmgen.emulator.machine.unit import Unit


def rank_of(b: Builder) -> int:
    """Rank of a tensor form."""
    return int(b.modifiers["dim"][0])


def check_rank(b: Builder, x: Unit, fields: MapFields) -> None:
    """The map's rank must be the instruction's."""
    if len(fields.dims) != rank_of(b):
        raise b.fault(
            x, Kind.TENSOR_MAP, f"a tensor map of rank {len(fields.dims)} in a .{b.modifiers['dim']} operation"
        )


def _optional(b: Builder, position: int) -> tuple[Callable[[Unit, int], int] | None, int]:
    """The multicast mask and the number of operands after the fixed ones, the cache policy included."""
    mask = None
    if "multicast" in b.modifiers:
        mask = lane_value(b, position, "u16")
        position += 1
    if "hint" in b.modifiers:
        b.source(position, "b64")
        position += 1
    b.expect(position)
    return mask, position


def read_buffer(b: Builder, x: Unit, thread: Thread, box: tma.Box, agent: int, epoch: int) -> None:
    """Check and record that an asynchronous operation reads a box of global memory."""
    buffer = box.buffer
    if buffer is None:
        return
    if buffer.written is not None and not box.view(buffer.written).all():
        b.finding(x, Kind.UNINITIALIZED_MEMORY, f"a bulk copy reads bytes of {buffer.name} that nothing has written")
    if buffer.shadow is not None:
        access = issue_access(x, thread, agent, epoch, b.pc)
        conflict = buffer.shadow.read(access, box.granules())
        report_conflict(x, conflict, b.pc, False, global_place(buffer, conflict))


def write_buffer(b: Builder, x: Unit, thread: Thread, box: tma.Box, agent: int, epoch: int) -> None:
    """Check and record that an asynchronous operation writes a box of global memory."""
    buffer = box.buffer
    if buffer is None:
        return
    if buffer.readonly:
        raise b.fault(x, Kind.OUT_OF_BOUNDS, f"a bulk copy stores to {buffer.name}, which is read-only")
    if buffer.foreign is not None and box.view(buffer.foreign).any():
        b.finding(x, Kind.OUT_OF_BOUNDS, f"a bulk copy stores between the rows of {buffer.name}")
    access = issue_access(x, thread, agent, epoch, b.pc)
    shadow, granules = buffer.shadowed(x.cta.machine.clocks), box.granules()
    unordered = shadow.unordered_writes(access, granules)
    conflict = shadow.write(access, granules)

    def report() -> None:
        report_conflict(x, conflict, b.pc, True, global_place(buffer, conflict))

    if conflict is not None and conflict.what == "write" and unordered.any():
        buffer.contest(granules[unordered], report)
    else:
        report()


def tensor_box(b: Builder, x: Unit, fields: MapFields, where: tuple[int, ...]) -> tma.Box:
    """The clipped box, faults turned into findings."""
    start = where[0] * fields.element_bytes
    if start % tma.BULK_ALIGN:
        raise b.fault(
            x, Kind.MISALIGNED, f"a box that starts {start} bytes along the innermost axis: need a multiple of 16"
        )
    try:
        return tma.locate_box(x.cta.machine.memory, fields, where)
    except MemoryFault as fault:
        raise b.fault(x, fault.kind, str(fault)) from None


@builds("bulk.tensor_load")
def _tensor_load(b: Builder) -> Step:
    space = b.modifiers["dst"]
    destination, map_at = b.address(0), map_address(b, 1)
    where, barrier_at = coordinates(b, 1, rank_of(b)), b.address(2)
    mask, _ = _optional(b, 3)
    peers = b.modifiers.get("group") == "cta_group::2"

    def step(x: Unit) -> None:
        targets, maps, barriers = destination(x), map_at(x), barrier_at(x)
        for thread, lane in active_lanes(x):
            fields = read_map(b, x, thread, int(maps[lane]))
            check_rank(b, x, fields)
            box = tensor_box(b, x, fields, where(x, lane))
            ranks = [None] if mask is None else _ranks(b, x, mask(x, lane))
            for rank in ranks:
                target = _at_rank(int(targets[lane]), rank)
                counted = _counting_barrier(int(barriers[lane]), rank, peers)
                _load_box(b, x, thread, fields, box, (space, target, counted, peers))

    return step


def _ranks(b: Builder, x: Unit, mask: int) -> list[int | None]:
    size = x.cta.machine.cluster_size
    if mask == 0 or mask >> size:
        raise b.fault(x, Kind.OUT_OF_BOUNDS, f"multicast mask 0x{mask:x} in a cluster of {size}")
    return [rank for rank in range(size) if mask >> rank & 1]


def _at_rank(address: int, rank: int | None) -> int:
    return address if rank is None else (address & ((1 << RANK_SHIFT) - 1)) | rank << RANK_SHIFT


def _counting_barrier(address: int, rank: int | None, peers: bool) -> int:
    """Where a copy to one CTA of a multicast counts; in a pair the even or the odd CTA, as the barrier's rank says."""
    if rank is None or not peers:
        return _at_rank(address, rank)
    return _at_rank(address, rank & ~1 | address >> RANK_SHIFT & 1)


def _load_box(
    b: Builder, x: Unit, thread: Thread, fields: MapFields, box: tma.Box, target: tuple[str, int, int, bool]
) -> None:
    space, address, barrier_at, peers = target
    rows = fields.box_bytes // fields.inner_bytes
    low, high = tma.shared_extent(0, fields, rows)
    owner, offset = place(b, x, space, address, high - low, tma.TMA_ALIGN, "the box's destination")
    found = tracked_barrier(b, x, thread, space, barrier_at, owner, peers)
    barrier = found[1]
    bytes_ = tma.shared_layout(offset, fields, rows)
    access = issue_access(x, thread, barrier.agent, barrier.epoch, b.pc)
    write_shared(b, x, owner, access, tma.shared_granules(offset, fields, rows), bytes_)
    read_buffer(b, x, thread, box, barrier.agent, barrier.epoch)

    def write() -> None:
        data = tma.read_box(box, fields)
        owner.shared.data[bytes_] = data.reshape(-1) if isinstance(bytes_, slice) else data

    deliver(b, x, found, owner, fields.box_bytes, f"tensor load into cta {owner.index}", write)


@builds("bulk.tensor_store")
def _tensor_store(b: Builder) -> Step:
    map_at, where, source = map_address(b, 0), coordinates(b, 0, rank_of(b)), b.address(1)
    _optional(b, 2)
    return tensor_store_step(b, map_at, where, source, None)


def tensor_store_step(b: Builder, map_at: Callable, where: Callable, source: Callable, op: str | None) -> Step:
    """A step that stores, or reduces with ``op``, boxes of shared memory into tensors."""

    def step(x: Unit) -> None:
        maps, sources = map_at(x), source(x)
        for thread, lane in active_lanes(x):
            fields = read_map(b, x, thread, int(maps[lane]))
            check_rank(b, x, fields)
            box = tensor_box(b, x, fields, where(x, lane))
            _store_box(b, x, thread, lane, fields, box, int(sources[lane]), op)

    return step


def _store_box(
    b: Builder, x: Unit, thread: Thread, lane: int, fields: MapFields, box: tma.Box, address: int, op: str | None
) -> None:
    rows = fields.box_bytes // fields.inner_bytes
    low, high = tma.shared_extent(0, fields, rows)
    owner, offset = place(b, x, "shared::cta", address, high - low, tma.TMA_ALIGN, "the box's source")
    groups = bulk_groups(x, thread, lane)
    bytes_ = tma.shared_layout(offset, fields, rows)
    access = issue_access(x, thread, groups.read_agent, groups.epoch, b.pc)
    read_shared(b, x, owner, access, tma.shared_granules(offset, fields, rows), bytes_)
    if op is None:
        write_buffer(b, x, thread, box, groups.write_agent, groups.epoch)
    elif box.buffer is not None and box.buffer.written is not None and not box.view(box.buffer.written).all():
        b.finding(
            x, Kind.UNINITIALIZED_MEMORY, f"a bulk reduction reads bytes of {box.buffer.name} that nothing has written"
        )

    def write(data: Data) -> None:
        if box.buffer is None:
            return
        inside = data.reshape(box.full)[box.place]
        target = box.view(box.buffer.data)
        target[...] = inside if op is None else tma.reduce_values(target, inside, op, fields.element)
        box.buffer.land(box.view)
        if box.buffer.written is not None:
            box.view(box.buffer.written)[...] = True

    depart(b, x, groups, "tensor store", lambda: owner.shared.data[bytes_].copy(), write)


@builds("bulk.tensor_prefetch")
def _tensor_prefetch(b: Builder) -> Step:
    map_at, where = map_address(b, 0), coordinates(b, 0, rank_of(b))
    _optional(b, 1)

    def step(x: Unit) -> None:
        maps = map_at(x)
        for thread, lane in active_lanes(x):
            fields = read_map(b, x, thread, int(maps[lane]))
            check_rank(b, x, fields)
            tensor_box(b, x, fields, where(x, lane))

    return step


@builds("bulk.prefetch")
def _prefetch(b: Builder) -> Step:
    source, size = b.address(0), lane_value(b, 1, "u32")
    _optional(b, 2)

    def step(x: Unit) -> None:
        sources = source(x)
        for _, lane in active_lanes(x):
            global_run(b, x, int(sources[lane]), check_size(b, x, size(x, lane)))

    return step


def check_size(b: Builder, x: Unit, size: int) -> int:
    """A bulk size: a multiple of 16."""
    if size % tma.BULK_ALIGN:
        raise b.fault(x, Kind.MISALIGNED, f"a bulk copy of {size} bytes: need a multiple of 16")
    return size


def global_run(b: Builder, x: Unit, address: int, size: int) -> tma.Box:
    """A run of global bytes as a one-row box."""
    if address % tma.BULK_ALIGN:
        raise b.fault(x, Kind.MISALIGNED, f"a bulk copy at global address 0x{address:x}: need a multiple of 16")
    try:
        buffer: Buffer = x.cta.machine.memory.find(address)
        offset = address - buffer.base
        if offset + size > len(buffer.data):
            past = offset + size - len(buffer.data)
            raise MemoryFault(Kind.OUT_OF_BOUNDS, f"a bulk copy of {size} bytes ends {past} bytes past {buffer.name}")
    except MemoryFault as fault:
        raise b.fault(x, fault.kind, str(fault)) from None
    return tma.Box(buffer, offset, (size,), (1,), (slice(0, size),), (size,))


@builds("bulk.load")
def _load(b: Builder) -> Step:
    space = b.modifiers["dst"]
    destination, source, size, barrier_at = b.address(0), b.address(1), lane_value(b, 2, "u32"), b.address(3)
    mask, _ = _optional(b, 4)

    def step(x: Unit) -> None:
        targets, sources, barriers = destination(x), source(x), barrier_at(x)
        for thread, lane in active_lanes(x):
            count = check_size(b, x, size(x, lane))
            run = global_run(b, x, int(sources[lane]), count)
            for rank in [None] if mask is None else _ranks(b, x, mask(x, lane)):
                owner, offset = place(
                    b, x, space, _at_rank(int(targets[lane]), rank), count, tma.BULK_ALIGN, "the destination"
                )
                found = tracked_barrier(b, x, thread, space, _at_rank(int(barriers[lane]), rank), owner, False)
                access = issue_access(x, thread, found[1].agent, found[1].epoch, b.pc)
                write_shared(b, x, owner, access, _granules(offset, count), slice(offset, offset + count))
                read_buffer(b, x, thread, run, found[1].agent, found[1].epoch)
                write = _copy_in(owner, offset, count, run)
                deliver(b, x, found, owner, count, f"bulk load into cta {owner.index}", write)

    return step


def _granules(offset: int, size: int) -> slice:
    return slice(offset // GRANULE, (offset + size) // GRANULE)


def _copy_in(owner: Cta, offset: int, size: int, run: tma.Box) -> Callable[[], None]:
    def write() -> None:
        assert run.buffer is not None
        owner.shared.data[offset : offset + size] = run.view(run.buffer.data)

    return write


@builds("bulk.store")
def _store(b: Builder) -> Step:
    if "cp_mask" in b.modifiers:
        raise b.error(".cp_mask is not modelled")
    destination, source, size = b.address(0), b.address(1), lane_value(b, 2, "u32")
    _optional(b, 3)
    return bulk_store_step(b, destination, source, size, None)


def bulk_store_step(
    b: Builder, destination: Callable, source: Callable, size: Callable, reduction: tuple[str, str] | None
) -> Step:
    """A step that stores, or reduces with (op, type), byte runs of shared memory into global memory."""

    def step(x: Unit) -> None:
        targets, sources = destination(x), source(x)
        for thread, lane in active_lanes(x):
            count = check_size(b, x, size(x, lane))
            run = global_run(b, x, int(targets[lane]), count)
            owner, offset = place(b, x, "shared::cta", int(sources[lane]), count, tma.BULK_ALIGN, "the source")
            groups = bulk_groups(x, thread, lane)
            access = issue_access(x, thread, groups.read_agent, groups.epoch, b.pc)
            read_shared(b, x, owner, access, _granules(offset, count), slice(offset, offset + count))
            if reduction is None:
                write_buffer(b, x, thread, run, groups.write_agent, groups.epoch)
            depart(b, x, groups, "bulk store", _copy_of(owner, offset, count), _writer(run, reduction))

    return step


def _copy_of(owner: Cta, offset: int, size: int) -> Callable[[], Data]:
    return lambda: owner.shared.data[offset : offset + size].copy()


def _writer(run: tma.Box, reduction: tuple[str, str] | None) -> Callable[[Data], None]:
    def write(data: Data) -> None:
        assert run.buffer is not None
        target = run.view(run.buffer.data)
        target[...] = data if reduction is None else tma.reduce_values(target, data, *reduction)
        run.buffer.land(run.view)
        if run.buffer.written is not None:
            run.view(run.buffer.written)[...] = True

    return write


@builds("bulk.push")
def _push(b: Builder) -> Step:
    b.expect(4)
    return push_step(b, None)


def push_step(b: Builder, reduction: tuple[str, str] | None) -> Step:
    """A step that copies, or reduces, shared memory into a CTA of the cluster."""
    destination, source, size, barrier_at = b.address(0), b.address(1), lane_value(b, 2, "u32"), b.address(3)

    def step(x: Unit) -> None:
        targets, sources, barriers = destination(x), source(x), barrier_at(x)
        for thread, lane in active_lanes(x):
            count = check_size(b, x, size(x, lane))
            owner, offset = place(b, x, "shared::cluster", int(targets[lane]), count, tma.BULK_ALIGN, "the destination")
            own, start = place(b, x, "shared::cta", int(sources[lane]), count, tma.BULK_ALIGN, "the source")
            found = tracked_barrier(b, x, thread, "shared::cluster", int(barriers[lane]), owner, False)
            access = issue_access(x, thread, found[1].agent, found[1].epoch, b.pc)
            read_shared(b, x, own, access, _granules(start, count), slice(start, start + count))
            if reduction is None:
                write_shared(b, x, owner, access, _granules(offset, count), slice(offset, offset + count))
            write = _copy_across(own, start, owner, offset, count, reduction)
            deliver(b, x, found, owner, count, f"bulk copy to cta {owner.index}", write)

    return step


def _copy_across(
    own: Cta, start: int, owner: Cta, offset: int, size: int, reduction: tuple[str, str] | None
) -> Callable[[], None]:
    def write() -> None:
        data = own.shared.data[start : start + size]
        target = owner.shared.data[offset : offset + size]
        target[...] = data if reduction is None else tma.reduce_values(target, data, *reduction)

    return write
