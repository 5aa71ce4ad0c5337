"""Loads and stores of a unit's active lanes: address resolution, bounds, initialisation and race checks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.machine.memory import (
    GRANULE,
    LOCAL_WINDOW,
    PARAM_WINDOW,
    RANK_SHIFT,
    SHARED_WINDOW,
    WINDOW_BYTES,
    Buffer,
    MemoryFault,
    SharedMemory,
    check_alignment,
    granules,
)
from gemmgen.emulator.machine.shadow import Access, Conflict, Shadow
from gemmgen.emulator.machine.unit import WARP, Unit
from gemmgen.emulator.report import Kind

if TYPE_CHECKING:
    from gemmgen.emulator.machine.cta import Cta

CONST_WINDOW = 0x7C00_0000_0000
WINDOWS = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW, "param": PARAM_WINDOW, "const": CONST_WINDOW, "global": 0}
Offsets = NDArray[np.int64]
Data = NDArray[np.uint8]


@dataclass
class Region:
    """Lanes whose addresses lie in one memory.

    Attributes:
        space: ``shared``, ``global``, ``local``, ``param`` or ``const``.
        lanes: indices of the lanes.
        offsets: their byte offsets in the memory.
        owner: the CTA (shared) or buffer (global), else None.
    """

    space: str
    lanes: NDArray[np.intp]
    offsets: Offsets
    owner: Cta | Buffer | None = None


def regions(x: Unit, space: str, addresses: Offsets, size: int) -> Iterator[Region]:
    """Split the active lanes by the memory they address."""
    lanes = np.flatnonzero(x.mask)
    active = addresses[lanes]
    check_alignment(active, size)
    if space == "generic":
        yield from _generic_regions(x, lanes, active, size)
    elif space.startswith("shared"):
        yield from _shared_regions(x, space, lanes, active)
    elif space == "global":
        yield from _global_regions(x, lanes, active, size)
    else:
        yield Region(space.removesuffix("::entry"), lanes, active)


def _generic_regions(x: Unit, lanes: NDArray[np.intp], addresses: Offsets, size: int) -> Iterator[Region]:
    rest = np.ones(len(lanes), np.bool_)
    for space in ("shared", "local", "param", "const"):
        base = WINDOWS[space]
        inside = (addresses >= base) & (addresses < base + WINDOW_BYTES)
        if not inside.any():
            continue
        rest &= ~inside
        if space == "shared":
            yield from _shared_regions(x, "shared::cluster", lanes[inside], addresses[inside] - base)
        else:
            yield Region(space, lanes[inside], addresses[inside] - base)
    if rest.any():
        yield from _global_regions(x, lanes[rest], addresses[rest], size)


def _shared_regions(x: Unit, space: str, lanes: NDArray[np.intp], addresses: Offsets) -> Iterator[Region]:
    ranks = addresses >> RANK_SHIFT
    offsets = addresses & ((1 << RANK_SHIFT) - 1)
    first = int(ranks[0])
    own = x.cta.rank
    if first == own and bool((ranks == own).all()):
        yield Region("shared", lanes, offsets, x.cta)
        return
    if space != "shared::cluster":
        wrong = int(ranks[np.argmax(ranks != own)])
        raise MemoryFault(Kind.OUT_OF_BOUNDS, f"an address of CTA rank {wrong} in a shared::cta access by rank {own}")
    for rank in np.unique(ranks):
        chosen = ranks == rank
        yield Region("shared", lanes[chosen], offsets[chosen], cluster_cta(x.cta, int(rank)))


def cluster_cta(cta: Cta, rank: int) -> Cta:
    """The CTA of that rank.

    Raises:
        MemoryFault: the cluster has no such rank.
    """
    if rank == cta.rank:
        return cta
    if not 0 <= rank < cta.machine.cluster_size:
        raise MemoryFault(Kind.OUT_OF_BOUNDS, f"CTA rank {rank} in a cluster of {cta.machine.cluster_size}")
    return cta.peer(rank)


def _global_regions(x: Unit, lanes: NDArray[np.intp], addresses: Offsets, size: int) -> Iterator[Region]:
    memory = x.cta.machine.memory
    found = memory.locate(addresses, size)
    if found is not None:
        yield Region("global", lanes, found[1], found[0])
        return
    for n in range(len(lanes)):
        single = memory.locate(addresses[n : n + 1], size)
        assert single is not None
        yield Region("global", lanes[n : n + 1], single[1], single[0])


def load(x: Unit, space: str, addresses: Offsets, size: int, pc: int, *, racy: bool = False) -> Data:
    """Read bytes of memory.

    Args:
        x: the unit whose active lanes read.
        space: state space, or ``generic``.
        addresses: one per lane.
        size: bytes per lane.
        pc: the instruction.
        racy: a strong (atomic, volatile, relaxed) access, which cannot race.

    Returns:
        uint8 [lanes, size]; inactive lanes are undefined.
    """
    result = np.empty((x.width, size), np.uint8)
    for region in regions(x, space, addresses, size):
        if region.space == "shared":
            result[region.lanes] = _load_shared(x, region, size, pc, racy)
        elif region.space == "global":
            result[region.lanes] = _load_global(x, region, size, pc, racy)
        else:
            result[region.lanes] = _load_private(x, region, size, pc)
    return result


def store(x: Unit, space: str, addresses: Offsets, data: Data, pc: int, *, racy: bool = False) -> None:
    """Write a row of bytes per active lane; where lanes collide the highest wins."""
    size = data.shape[1]
    for region in regions(x, space, addresses, size):
        rows = data[region.lanes]
        if region.space == "shared":
            _store_shared(x, region, rows, pc, racy)
        elif region.space == "global":
            _store_global(x, region, rows, pc, racy)
        elif region.space == "local":
            _store_local(x, region, rows)
        else:
            raise MemoryFault(Kind.OUT_OF_BOUNDS, f"a store to {region.space} memory")


def by_thread(x: Unit, region: Region) -> Iterator[tuple[Access, NDArray[np.bool_] | slice]]:
    """The accesses of a region by the threads that make them, with the rows each makes."""
    if len(x.warps) == 1:
        for thread in x.threads():
            yield x.access(thread, -1), slice(None)
        return
    warp_of = region.lanes // WARP
    for position, thread in enumerate(list(x.threads())):
        rows = warp_of == (thread.warp.index - x.warps[0].index)
        if rows.any():
            yield x.access(thread, position), rows


def note_remote(x: Unit, owner: Cta, access: Access, pc: int) -> None:
    """Remember that another CTA's shared memory was used: it must not have exited, nor exit before this is known."""
    if owner is x.cta:
        return
    if owner.exited:
        x.cta.machine.recorder.add(
            Kind.EXIT_PEER, f"cta {owner.index} has exited; its shared memory is gone", pc, x.name
        )
    owner.remote_uses[access.agent] = (access.epoch, pc)


def report_conflict(x: Unit, conflict: Conflict | None, pc: int, writing: bool, where: str) -> None:
    """Record two accesses that nothing orders."""
    if conflict is None:
        return
    machine = x.cta.machine
    mine = "writes" if writing else "reads"
    theirs = "wrote" if conflict.what == "write" else "read"
    if conflict.kind is Kind.PROXY_FENCE:
        text = (
            f"the async proxy {mine} {where}, which {machine.clocks.labels[conflict.agent]} wrote without a proxy fence"
        )
    else:
        other = machine.clocks.labels[conflict.agent]
        text = f"{x.name} {mine} {where}, which {other} {theirs}, and nothing orders the two"
    machine.recorder.add(conflict.kind, text, pc, x.name, conflict.pc)


def _load_shared(x: Unit, region: Region, size: int, pc: int, racy: bool) -> Data:
    owner = region.owner
    shared: SharedMemory = owner.shared  # type: ignore[union-attr]
    offsets = region.offsets
    shared.check(int(offsets.min()), int(offsets.max()) + size)
    indices = offsets[:, None] + np.arange(size)
    if not shared.written[indices].all():
        _report_unwritten(x, shared.written[indices], region, pc, "shared byte", 1024)
    touched = offsets // GRANULE
    if shared.has_barriers and shared.barriers[touched].any():
        x.cta.machine.recorder.add(Kind.MBARRIER, "a load reads an mbarrier object", pc, x.name)
    for access, rows in by_thread(x, region):
        access.pc = pc
        note_remote(x, owner, access, pc)  # type: ignore[arg-type]
        if not racy:
            conflict = shared.shadow.read(access, granules(offsets[rows], size, GRANULE))
            report_conflict(x, conflict, pc, False, _shared_place(owner, conflict))
    return shared.data[indices]


def _store_shared(x: Unit, region: Region, rows: Data, pc: int, racy: bool) -> None:
    owner = region.owner
    shared: SharedMemory = owner.shared  # type: ignore[union-attr]
    offsets, size = region.offsets, rows.shape[1]
    shared.check(int(offsets.min()), int(offsets.max()) + size)
    if shared.has_barriers and shared.barriers[offsets // GRANULE].any():
        x.cta.machine.recorder.add(Kind.MBARRIER, "a store overwrites an mbarrier object", pc, x.name)
    for access, chosen in by_thread(x, region):
        access.pc = pc
        note_remote(x, owner, access, pc)  # type: ignore[arg-type]
        if not racy:
            conflict = _write_shadow(shared.shadow, access, offsets[chosen], size, GRANULE)
            report_conflict(x, conflict, pc, True, _shared_place(owner, conflict))
    indices = offsets[:, None] + np.arange(size)
    if not (shared.written[indices].all() and (shared.data[indices] == rows).all()):
        x.cta.machine.progress += 1
    shared.data[indices] = rows
    shared.written[indices] = True


def _write_shadow(shadow: Shadow, access: Access, offsets: Offsets, size: int, granule: int) -> Conflict | None:
    """Record a write; parts of a granule written by different threads do not conflict with each other."""
    where = granules(offsets, size, granule)
    conflict = shadow.write(access, where)
    if conflict is not None and size < granule and conflict.what == "write" and conflict.kind is Kind.RACE:
        return None
    return conflict


def _shared_place(owner: Cta | Buffer | None, conflict: Conflict | None) -> str:
    if conflict is None:
        return ""
    return f"shared byte {conflict.granule * GRANULE - 1024} of cta {owner.index}"  # type: ignore[union-attr]


def _report_unwritten(x: Unit, written: NDArray[np.bool_], region: Region, pc: int, what: str, start: int) -> None:
    row, byte = np.argwhere(~written)[0]
    offset = int(region.offsets[row] + byte) - start
    owner = region.owner
    name = f" of {owner.name}" if isinstance(owner, Buffer) else ""
    text = f"{what} {offset}{name} is read in lane {int(region.lanes[row]) % WARP} and nothing has written it"
    x.cta.machine.recorder.add(Kind.UNINITIALIZED_MEMORY, text, pc, x.name)


def _load_global(x: Unit, region: Region, size: int, pc: int, racy: bool) -> Data:
    buffer: Buffer = region.owner  # type: ignore[assignment]
    indices = region.offsets[:, None] + np.arange(size)
    if buffer.written is not None and not buffer.written[indices].all():
        _report_unwritten(x, buffer.written[indices], region, pc, "byte", 0)
    if buffer.shadow is not None and not racy:
        for access, rows in by_thread(x, region):
            access.pc = pc
            conflict = buffer.shadow.read(access, granules(region.offsets[rows], size, buffer.granule))
            report_conflict(x, conflict, pc, False, global_place(buffer, conflict))
    return buffer.data[indices]


def _store_global(x: Unit, region: Region, rows: Data, pc: int, racy: bool) -> None:
    buffer: Buffer = region.owner  # type: ignore[assignment]
    if buffer.readonly:
        raise MemoryFault(Kind.OUT_OF_BOUNDS, f"a store to {buffer.name}, which is read-only")
    size = rows.shape[1]
    buffer.check_members(region.offsets[:, None] + np.arange(size))
    indices = region.offsets[:, None] + np.arange(size)
    changed = (buffer.data[indices] != rows).any(axis=1)
    if not racy:
        shadow = buffer.shadowed(x.cta.machine.clocks)
        for access, chosen in by_thread(x, region):
            access.pc = pc
            # A store that changes nothing is no race: tiles that overlap write the same values.
            conflict = _write_shadow(shadow, access, region.offsets[chosen][changed[chosen]], size, buffer.granule)
            report_conflict(x, conflict, pc, True, global_place(buffer, conflict))
    if changed.any():
        x.cta.machine.progress += 1
    buffer.data[indices] = rows
    if buffer.written is not None:
        buffer.written[indices] = True


def global_place(buffer: Buffer, conflict: Conflict | None) -> str:
    """A conflict's place in a buffer, in words."""
    return "" if conflict is None else f"byte {conflict.granule * buffer.granule} of {buffer.name}"


def _load_private(x: Unit, region: Region, size: int, pc: int) -> Data:
    indices = region.offsets[:, None] + np.arange(size)
    machine = x.cta.machine
    if region.space == "local":
        memory, written = _local(x)
        _check_range(region, size, memory.shape[1])
        if not written[region.lanes[:, None], indices].all():
            _report_unwritten(x, written[region.lanes[:, None], indices], region, pc, "local byte", 0)
        return memory[region.lanes[:, None], indices]
    block = machine.param_block if region.space == "param" else machine.const_block
    _check_range(region, size, len(block))
    return block[indices]


def _store_local(x: Unit, region: Region, rows: Data) -> None:
    memory, written = _local(x)
    _check_range(region, rows.shape[1], memory.shape[1])
    indices = region.offsets[:, None] + np.arange(rows.shape[1])
    memory[region.lanes[:, None], indices] = rows
    written[region.lanes[:, None], indices] = True


def _check_range(region: Region, size: int, limit: int) -> None:
    if int(region.offsets.min()) < 0 or int(region.offsets.max()) + size > limit:
        worst = int(region.offsets.max()) + size
        raise MemoryFault(Kind.OUT_OF_BOUNDS, f"{region.space} bytes up to {worst} of {limit}")


def _local(x: Unit) -> tuple[Data, NDArray[np.bool_]]:
    """The local memory of the unit's lanes: views of the warpgroup's."""
    cta = x.cta
    group = x.warps[0].index // 4
    if group not in cta.local:
        shape = (4 * WARP, cta.machine.layout.local_bytes)
        cta.local[group] = (np.zeros(shape, np.uint8), np.zeros(shape, np.bool_))
    memory, written = cta.local[group]
    first = WARP * (x.warps[0].index % 4)
    return memory[first : first + x.width], written[first : first + x.width]
