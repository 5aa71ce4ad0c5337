"""Tensor memory: allocation, loads and stores, copies, commits and fences."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.machine import access as memory_access
from gemmgen.emulator.machine.mbarrier import BarrierFault
from gemmgen.emulator.machine.memory import GRANULE, RANK_SHIFT, MemoryFault
from gemmgen.emulator.machine.scheduler import AsyncOperation
from gemmgen.emulator.machine.tmem import COLUMNS, MIN_COLUMNS, after_clock
from gemmgen.emulator.machine.unit import WARP, Dissolve, Wait
from gemmgen.emulator.numerics import descriptors, formats, fragments
from gemmgen.emulator.ops.builder import Builder, Step, builds, type_id
from gemmgen.emulator.ops.bulk_common import active_lanes, issue_access, lane_value, read_shared
from gemmgen.emulator.ops.mbarriers import find_barrier, finish_phase
from gemmgen.emulator.ops.tcgen05_common import (
    group_of,
    padded,
    pair,
    pipeline,
    port,
    read_words,
    tensor_access,
    tensor_memory,
    write_words,
)
from gemmgen.emulator.ops.warp import require_converged
from gemmgen.emulator.report import Kind
from gemmgen.errors import EmulationError

if TYPE_CHECKING:
    from gemmgen.emulator.machine.cta import Cta
    from gemmgen.emulator.machine.unit import Unit

_COLUMN_MASK = 0xFFFF


def uniform(b: Builder, x: Unit, values: NDArray | np.generic, what: str) -> int:
    """The one value that all active lanes hold."""
    if np.ndim(values) == 0:
        return int(values)
    active = np.asarray(values)[x.mask]
    if (active != active[0]).any():
        if len(x.warps) > 1:
            raise Dissolve
        raise b.fault(x, Kind.TMEM_ACCESS, f"{what} differs between the lanes of a warp")
    return int(active[0])


def _one_warp(b: Builder, x: Unit) -> Wait | None:
    """A warp-wide instruction that each warp executes on its own."""
    waiting = require_converged(b, x)
    if waiting is None and len(x.warps) > 1:
        raise Dissolve
    return waiting


@builds("tcgen05.alloc")
def _alloc(b: Builder) -> Step:
    b.expect(2)
    address, count, t = b.address(0), b.source(1, "u32"), type_id("u32")

    def step(x: Unit) -> Wait | None:
        waiting = _one_warp(b, x)
        if waiting is not None:
            return waiting
        columns = uniform(b, x, x.views[t][count], "the number of columns")
        if columns < MIN_COLUMNS or columns > COLUMNS or columns & (columns - 1):
            raise b.fault(x, Kind.TMEM_ALLOCATION, f"{columns} columns: need a power of two from 32 to 512")
        pair(b, x)
        memory = tensor_memory(x.cta)
        if memory.relinquished:
            b.finding(x, Kind.TMEM_ALLOCATION, "tcgen05.alloc after relinquish_alloc_permit")
        first = memory.allocate(columns, b.pc)
        if first is None:
            free = int((~memory.allocated).sum())
            text = f"tcgen05.alloc of {columns} columns, {free} of {COLUMNS} are free"
            return Wait(lambda: not memory.allocated.all() and int((~memory.allocated).sum()) > free, lambda: text, "tmem", b.pc)
        if columns > memory.last_size:
            b.finding(x, Kind.TMEM_ALLOCATION, f"an allocation of {columns} columns after one of {memory.last_size}: sizes must not grow")
        memory.last_size = columns
        x.sync_warps()
        _store_address(b, x, address(x), first)
        return None

    return step


def _store_address(b: Builder, x: Unit, addresses: NDArray, first: int) -> None:
    outer, where, full = x.mask, x.where, x.full
    x.mask = np.zeros(x.width, np.bool_)
    x.mask[0] = True
    x.full = True
    try:
        data = np.full((x.width, 1), first, np.uint32).view(np.uint8)
        memory_access.store(x, "shared", addresses, data, b.pc)
    except MemoryFault as fault:
        raise b.fault(x, fault.kind, str(fault)) from None
    finally:
        x.mask, x.where, x.full = outer, where, full


@builds("tcgen05.dealloc")
def _dealloc(b: Builder) -> Step:
    b.expect(2)
    address, count, t = b.source(0, "u32"), b.source(1, "u32"), type_id("u32")

    def step(x: Unit) -> Wait | None:
        waiting = _one_warp(b, x)
        if waiting is not None:
            return waiting
        first = uniform(b, x, x.views[t][address], "the address") & _COLUMN_MASK
        columns = uniform(b, x, x.views[t][count], "the number of columns")
        memory = tensor_memory(x.cta)
        if memory.allocations.get(first) != columns:
            held = ", ".join(f"{c} at {f}" for f, c in memory.allocations.items()) or "nothing"
            raise b.fault(x, Kind.TMEM_ALLOCATION, f"dealloc of {columns} columns at {first}, but allocated is {held}")
        lanes, found = np.arange(128)[:, None], np.arange(first, first + columns)
        warp = x.warps[0]
        ports = port(x.cta, warp)
        order = padded(after_clock(x.cta, warp.row), len(x.cta.machine.clocks.labels))
        siblings = frozenset([ports.load_agent, ports.store_agent])
        write_words(b, x, x.cta, tensor_access(ports.store_agent, ports.stores, order, b.pc, siblings), lanes, found, "dealloc")
        memory.free(first, columns)
        x.cta.machine.progress += 1
        return None

    return step


@builds("tcgen05.relinquish")
def _relinquish(b: Builder) -> Step:
    b.expect(0)

    def step(x: Unit) -> Wait | None:
        waiting = require_converged(b, x)
        if waiting is None:
            tensor_memory(x.cta).relinquished = True
        return waiting

    return step


@builds("tcgen05.fence")
def _fence(b: Builder) -> Step:
    b.expect(0)
    before = b.modifiers["op"] == "fence::before_thread_sync"

    def step(x: Unit) -> None:
        clocks = x.cta.machine.clocks
        for thread in list(x.threads()):
            if not before:
                x.cta.machine.tensor_fences[thread.row] = clocks.order[thread.row].copy()
            elif thread.warp.index in x.cta.tmem_ports:
                ports = x.cta.tmem_ports[thread.warp.index]
                clocks.learn(thread.row, ports.load_agent, ports.loads_done)
                clocks.learn(thread.row, ports.store_agent, ports.stores_done)

    return step


@builds("tcgen05.wait")
def _wait(b: Builder) -> Step:
    b.expect(0)
    loads = b.modifiers["op"] == "wait::ld"

    def step(x: Unit) -> Wait | None:
        waiting = require_converged(b, x)
        if waiting is not None:
            return waiting
        for warp in x.warps:
            ports = port(x.cta, warp)
            if loads:
                ports.loads_done, ports.loads = ports.loads, ports.loads + 1
            else:
                ports.stores_done, ports.stores = ports.stores, ports.stores + 1
        if loads:
            for register in [r for r, pc in x.owned.items() if b.machine.program.instructions[pc].semantic == "tcgen05.ld"]:
                del x.owned[register]
        x.sync_warps()
        return None

    return step


def _place(b: Builder, x: Unit, warp_index: int, taddr: int, lanes: NDArray, height: int) -> NDArray:
    """Absolute lanes of a warp's access; a warp reaches only its own quarter, and a lane field of 0 means that."""
    quarter = WARP * (warp_index % 4)
    field = taddr >> 16
    offset = field - quarter if field else 0
    if offset not in ((0,) if height == WARP else (0, 16)):
        raise b.fault(x, Kind.TMEM_ACCESS, f"warp {warp_index} accesses lane {field}, it reaches {quarter}..{quarter + WARP - 1} only")
    return lanes + quarter + offset


def _shape(b: Builder) -> tuple[NDArray, NDArray, int, int]:
    shape, count = b.modifiers["shape"], int(b.modifiers["count"][1:])
    try:
        split = b.immediate(len(b.operands) - 1) if shape == "16x32bx2" else 0
        lanes, columns = fragments.tmem_load(shape, count, split)
        return lanes, columns, fragments.tmem_lanes(shape), columns.shape[1]
    except EmulationError:
        raise b.error("tcgen05.ld/st has no such shape") from None


@builds("tcgen05.ld")
def _ld(b: Builder) -> Step:
    lanes, columns, height, registers = _shape(b)
    packed = "pack" in b.modifiers
    keys = [b.destination(item, "b32") for item in b.vector(0, registers)]
    address = b.address(1)
    owned = list(b.vector(0))

    def step(x: Unit) -> Wait | None:
        waiting = require_converged(b, x)
        if waiting is not None:
            return waiting
        addresses = address(x)
        clocks = x.cta.machine.clocks
        memory = tensor_memory(x.cta)
        for position, warp in enumerate(x.warps):
            own = slice(WARP * position, WARP * position + WARP)
            taddr = uniform(b, x, addresses, "the tensor memory address")
            where = _place(b, x, warp.index, taddr, lanes, height)
            ports = port(x.cta, warp)
            order = padded(after_clock(x.cta, warp.row), len(clocks.labels))
            siblings = frozenset([ports.load_agent, ports.store_agent])
            access = tensor_access(ports.load_agent, ports.loads, order, b.pc, siblings)
            values = []
            for half in range(2 if packed else 1):
                found = (columns * 2 + half if packed else columns) + (taddr & _COLUMN_MASK)
                read_words(b, x, x.cta, access, where, found, "tcgen05.ld")
                values.append(memory.data[where, found])
            result = values[0] if not packed else (values[0] & np.uint32(0xFFFF)) | values[1] << np.uint32(16)
            for register, key in enumerate(keys):
                x.u32[key][own] = result[:, register]
        for register in owned:
            x.owned[register] = b.pc  # type: ignore[index]
        x.sync_warps()
        return None

    return step


@builds("tcgen05.st")
def _st(b: Builder) -> Step:
    lanes, columns, height, registers = _shape(b)
    unpacked = "unpack" in b.modifiers
    operand = len(b.operands) - 1
    keys = [b.source(item, "b32") for item in b.vector(operand, registers)]
    address = b.address(0)

    def step(x: Unit) -> Wait | None:
        waiting = require_converged(b, x)
        if waiting is not None:
            return waiting
        addresses = address(x)
        clocks = x.cta.machine.clocks
        memory = tensor_memory(x.cta)
        for position, warp in enumerate(x.warps):
            own = slice(WARP * position, WARP * position + WARP)
            taddr = uniform(b, x, addresses, "the tensor memory address")
            where = _place(b, x, warp.index, taddr, lanes, height)
            ports = port(x.cta, warp)
            order = padded(after_clock(x.cta, warp.row), len(clocks.labels))
            siblings = frozenset([ports.load_agent, ports.store_agent])
            access = tensor_access(ports.store_agent, ports.stores, order, b.pc, siblings)
            values = np.stack([np.broadcast_to(x.u32[key], (x.width,))[own] for key in keys], axis=1)
            for half in range(2 if unpacked else 1):
                found = (columns * 2 + half if unpacked else columns) + (taddr & _COLUMN_MASK)
                write_words(b, x, x.cta, access, where, found, "tcgen05.st")
                memory.data[where, found] = values if not unpacked else values >> np.uint32(16 * half) & np.uint32(0xFFFF)
        x.sync_warps()
        x.cta.machine.progress += 1
        return None

    return step


@builds("tcgen05.cp")
def _cp(b: Builder) -> Step:
    b.expect(2)
    address, descriptor = b.address(0), lane_value(b, 1, "b64")
    shape, unpack = b.modifiers["shape"], b.modifiers.get("stype")
    if ("dtype" in b.modifiers) != (unpack is not None):
        raise b.error("a decompressing copy names both formats")
    try:
        layout = fragments.tmem_copy(shape, b.modifiers.get("multicast"))
    except EmulationError:
        raise b.error("tcgen05.cp has no such shape") from None
    bits = {None: 8, "b4x16_p64": 4, "b6x16_p32": 6}[unpack]

    def step(x: Unit) -> None:
        addresses = address(x)
        for thread, lane in active_lanes(x):
            taddr, word = int(addresses[lane]), descriptor(x, lane)
            for cta in pair(b, x):
                _copy(b, x, thread, cta, taddr, word)

    def _copy(b: Builder, x: Unit, thread: object, cta: Cta, taddr: int, word: int) -> None:
        pipe = pipeline(x, thread)  # type: ignore[arg-type]
        found = smem_operand(b, x, cta, word, "K", 1, layout.rows, layout.row_bytes)
        access = issue_access(x, thread, pipe.agent, pipe.epoch, b.pc)  # type: ignore[arg-type]
        read_shared(b, x, cta, access, (found[:, ::GRANULE] // GRANULE).reshape(-1), found)
        columns = (taddr & _COLUMN_MASK) + np.arange(layout.row_bytes // 4)
        lanes = layout.lanes[:, :, None] + (taddr >> 16)
        order = padded(after_clock(x.cta, thread.row), len(x.cta.machine.clocks.labels))  # type: ignore[attr-defined]
        write = tensor_access(pipe.agent, pipe.epoch, order, b.pc, frozenset([pipe.agent]))
        write_words(b, x, cta, write, lanes, columns[None, None], "tcgen05.cp")
        pipe.uncommitted_pc = b.pc

        def run() -> None:
            data = np.ascontiguousarray(cta.shared.data[found])
            if bits != 8:
                data = formats.unpack_padded(data, bits)
            tensor_memory(cta).data[lanes, columns[None, None]] = np.ascontiguousarray(data).view(np.uint32)[None]

        x.cta.machine.issue(AsyncOperation(run, "tcgen05.cp", ("tcgen05", pipe.agent), b.pc))

    return step


def smem_operand(b: Builder, x: Unit, cta: Cta, word: int, major: str, element_bytes: int, rows: int, k: int) -> NDArray[np.int64]:
    """Shared byte offsets of an operand that a Blackwell descriptor names."""
    try:
        decoded = descriptors.decode_tcgen05(word)
        found = descriptors.operand_addresses(decoded, major, element_bytes, rows, k)
    except EmulationError as error:
        text = " ".join(filter(None, (error.what, error.got, error.need and f"need {error.need}")))
        raise b.fault(x, Kind.DESCRIPTOR, f"descriptor 0x{word:016x}: {text}") from None
    try:
        cta.shared.check(int(found.min()), int(found.max()) + 1)
    except MemoryFault as fault:
        raise b.fault(x, Kind.DESCRIPTOR, f"descriptor 0x{word:016x}: {fault}") from None
    return found


@builds("tcgen05.commit")
def _commit(b: Builder) -> Step:
    space = b.modifiers.get("space", "generic")
    multicast = "multicast" in b.modifiers
    b.expect(2 if multicast else 1)
    address = b.address(0)
    mask = lane_value(b, 1, "u16") if multicast else None

    def step(x: Unit) -> None:
        addresses = address(x)
        machine = x.cta.machine
        group_of(b)
        for thread, lane in active_lanes(x):
            pipe = pipeline(x, thread)
            epoch = pipe.epoch
            pipe.commits += 1
            pipe.uncommitted_pc = None
            pipe.shapes = {}
            for where in _targets(b, x, int(addresses[lane]), None if mask is None else mask(x, lane)):
                owner, barrier = find_barrier(b, x, space, where, thread)
                run = _arrival(b, x, owner, barrier, pipe.agent, epoch)
                machine.issue(AsyncOperation(run, "tcgen05.commit", ("tcgen05", pipe.agent), b.pc))

    return step


def _targets(b: Builder, x: Unit, address: int, mask: int | None) -> list[int]:
    if mask is None:
        return [address]
    size = x.cta.machine.cluster_size
    if mask == 0 or mask >> size:
        raise b.fault(x, Kind.OUT_OF_BOUNDS, f"multicast mask 0x{mask:x} in a cluster of {size}")
    offset = address & ((1 << RANK_SHIFT) - 1)
    return [offset | rank << RANK_SHIFT for rank in range(size) if mask >> rank & 1]


def _arrival(b: Builder, x: Unit, owner: Cta, barrier: object, agent: int, epoch: int) -> Callable[[], None]:
    def run() -> None:
        barrier.arriving.add_epoch(agent, epoch)  # type: ignore[attr-defined]
        try:
            barrier.arrive(1, f"tcgen05.commit of {x.name}", b.pc)  # type: ignore[attr-defined]
        except BarrierFault as fault:
            raise x.cta.machine.recorder.fatal(fault.kind, str(fault), b.pc, x.name) from None
        finish_phase(b, x, barrier, owner)  # type: ignore[arg-type]

    return run
