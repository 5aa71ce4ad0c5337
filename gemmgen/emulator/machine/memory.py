"""Memories: global buffers, a CTA's shared memory, local and parameter space, and the address map over them.

Generic addresses fall into windows: shared memory (with the CTA's cluster rank in bits 24 and up, as ``mapa`` makes
them), local memory, parameters and constants; everything else is global.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.machine.shadow import Shadow
from gemmgen.emulator.report import Kind

if TYPE_CHECKING:
    from gemmgen.emulator.machine.clocks import Clocks

SHARED_WINDOW = 0x7F00_0000_0000
LOCAL_WINDOW = 0x7E00_0000_0000
PARAM_WINDOW = 0x7D00_0000_0000
WINDOW_BYTES = 1 << 36
RANK_SHIFT = 24
SHARED_RESERVED = 1024
SHARED_LIMIT = 232448 + SHARED_RESERVED
GRANULE = 4
GLOBAL_BASE = 0x10_0000_0000
GLOBAL_ALIGN = 1 << 16

Bytes = NDArray[np.uint8]


class MemoryFault(Exception):
    """An access that the hardware would refuse."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class Contest:
    """Bytes that asynchronous stores write in no order.

    Attributes:
        offsets: the bytes.
        known: whether one of the stores has landed there.
        values: what it wrote.
        report: tells of the race, once.
    """

    offsets: NDArray[np.int64]
    known: NDArray[np.bool_]
    values: Bytes
    report: Callable[[], None] | None

    def land(self, touched: NDArray[np.bool_], data: Bytes) -> None:
        """Compare what a store has written with what others wrote before it."""
        mine = touched[self.offsets]
        now = data[self.offsets]
        if self.report is not None and (mine & self.known & (now != self.values)).any():
            self.report()
            self.report = None
        self.values[mine] = now[mine]
        self.known |= mine


class Buffer:
    """A global allocation.

    Attributes:
        name: the argument or variable it holds.
        base: device address.
        data: its bytes, shared with the caller's array.
        written: per byte whether it holds a value, or None when all of it does.
        shadow: shadow state, made at the first device write.
        granule: bytes per shadow granule.
        foreign: per byte whether it lies between the rows of a strided array, or None where no byte does.
        contests: parts that asynchronous stores write in no order, which is a race unless the values are the same.
        landed: per byte whether an asynchronous store has written it; made at the first one.
    """

    def __init__(
        self, name: str, base: int, data: Bytes, granule: int, written: NDArray[np.bool_] | None, readonly: bool
    ) -> None:
        self.name = name
        self.base = base
        self.data = data
        self.granule = granule
        self.written = written
        self.readonly = readonly
        self.shadow: Shadow | None = None
        self.foreign: NDArray[np.bool_] | None = None
        self.contests: list[Contest] = []
        self.landed: NDArray[np.bool_] | None = None

    def contest(self, granules: NDArray[np.int64], report: Callable[[], None]) -> None:
        """Remember that stores of these granules are unordered; ``report`` is called if their values differ."""
        offsets = (granules[:, None] * self.granule + np.arange(self.granule)).reshape(-1)
        offsets = offsets[offsets < len(self.data)]
        known = self.landed[offsets] if self.landed is not None else np.zeros(len(offsets), np.bool_)
        self.contests.append(Contest(offsets, known, self.data[offsets], report))

    def land(self, view: Callable[[NDArray], NDArray]) -> None:
        """Note that an asynchronous store has written the bytes that ``view`` shows of an array per byte."""
        if self.landed is None:
            self.landed = np.zeros(len(self.data), np.bool_)
        if self.contests:
            touched = np.zeros(len(self.data), np.bool_)
            view(touched)[...] = True
            for contest in self.contests:
                contest.land(touched, self.data)
        view(self.landed)[...] = True

    def check_members(self, offsets: NDArray[np.int64] | NDArray[np.bool_]) -> None:
        """Check that a store touches only bytes of the caller's array, not the gaps between its rows."""
        if self.foreign is not None and self.foreign[offsets].any():
            raise MemoryFault(Kind.OUT_OF_BOUNDS, f"a store between the rows of {self.name}")

    def shadowed(self, clocks: Clocks) -> Shadow:
        """The shadow state, made now if there is none."""
        if self.shadow is None:
            self.shadow = Shadow(-(-len(self.data) // self.granule), clocks)
        return self.shadow


class GlobalMemory:
    """All global allocations, with unmapped gaps between them."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self._bases: list[int] = []
        self._next = GLOBAL_BASE

    def add(
        self,
        name: str,
        data: Bytes,
        granule: int = 4,
        *,
        uninitialized: bool | NDArray[np.bool_] = False,
        readonly: bool = False,
    ) -> Buffer:
        """Map an array.

        Args:
            name: for messages.
            data: flat uint8 view of the caller's memory, changed in place.
            granule: bytes that race detection treats as one; the element size.
            uninitialized: True, or a per-byte mask, of what counts as not written yet.
            readonly: whether a device write is an error.
        """
        written = None
        if isinstance(uninitialized, np.ndarray):
            written = ~uninitialized
        elif uninitialized:
            written = np.zeros(len(data), np.bool_)
        buffer = Buffer(name, self._next, data, granule, written, readonly)
        self._next += -(-(len(data) + GLOBAL_ALIGN) // GLOBAL_ALIGN) * GLOBAL_ALIGN
        self.buffers.append(buffer)
        self._bases.append(buffer.base)
        return buffer

    def find(self, address: int) -> Buffer:
        """The allocation at or below an address."""
        position = bisect_right(self._bases, address) - 1
        if position < 0:
            raise MemoryFault(Kind.OUT_OF_BOUNDS, f"address 0x{address:x} is in no allocation")
        return self.buffers[position]

    def locate(self, addresses: NDArray[np.int64], size: int) -> tuple[Buffer, NDArray[np.int64]] | None:
        """The one buffer that holds ``size`` bytes at every address, and the offsets; None if there are several.

        Raises:
            MemoryFault: an address is outside the buffer below it.
        """
        low, high = int(addresses.min()), int(addresses.max())
        buffer = self.find(low)
        if high + size <= buffer.base + len(buffer.data):
            return buffer, addresses - buffer.base
        for address in (low, high):
            owner = self.find(address)
            end = owner.base + len(owner.data)
            if address + size > end:
                past = address + size - end
                raise MemoryFault(
                    Kind.OUT_OF_BOUNDS,
                    f"{size} bytes at 0x{address:x} end {past} bytes past {owner.name} ({len(owner.data)} bytes)",
                )
        return None


class SharedMemory:
    """A CTA's shared memory; offset 0 is the window's start, and the first 1024 bytes are reserved.

    Attributes:
        data: the bytes.
        written: per byte whether it holds a value.
        shadow: shadow state per 4 bytes.
        barriers: per granule whether an mbarrier lives there.
    """

    def __init__(self, size: int, clocks: Clocks) -> None:
        self.size = size
        padded = -(-size // 16) * 16
        self.data = np.zeros(padded, np.uint8)
        self.written = np.zeros(padded, np.bool_)
        self.words = self.data.view(np.uint32)
        self.written_words = self.written.view(np.uint32)
        self.shadow = Shadow(padded // GRANULE, clocks)
        self.barriers = np.zeros(padded // GRANULE, np.bool_)
        self.has_barriers = False

    def check(self, low: int, high: int) -> None:
        """Check that the bytes ``low`` to ``high`` (exclusive) are the kernel's."""
        if low < SHARED_RESERVED or high > self.size:
            raise MemoryFault(
                Kind.OUT_OF_BOUNDS,
                f"shared bytes {low - SHARED_RESERVED}..{high - SHARED_RESERVED} of {self.size - SHARED_RESERVED}",
            )


def check_alignment(addresses: NDArray, size: int) -> None:
    """Check that every address is a multiple of the access size."""
    if size > 1 and bool((addresses & (size - 1)).any()):
        worst = int(addresses[np.argmax((addresses & (size - 1)) != 0)])
        raise MemoryFault(Kind.MISALIGNED, f"address 0x{worst:x} is not a multiple of {size}")


def granules(offsets: NDArray[np.int64], size: int, granule: int) -> NDArray[np.int64]:
    """The granules that accesses of ``size`` bytes at aligned offsets touch, flat."""
    first = offsets // granule
    if size <= granule:
        return first
    return (first[:, None] + np.arange(size // granule)).reshape(-1)
