"""Tensor memory: 128 lanes by 512 columns of 32-bit words per CTA, allocated by columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gemmgen.emulator.machine.clocks import Clocks
from gemmgen.emulator.machine.memory import MemoryFault
from gemmgen.emulator.machine.shadow import Shadow
from gemmgen.emulator.numerics.fragments import TMEM_COLUMNS, TMEM_LANES
from gemmgen.emulator.report import Kind

Words = NDArray[np.uint32]
Where = NDArray[np.int64]

MIN_COLUMNS = 32


@dataclass(frozen=True)
class Allocation:
    """Columns that a CTA owns.

    Attributes:
        column: the first.
        columns: how many.
        pc: the ``tcgen05.alloc``.
    """

    column: int
    columns: int
    pc: int


class TensorMemory:
    """One CTA's tensor memory. Words are numbered column by column: ``column * 128 + lane``.

    Attributes:
        words: the contents, flat.
        defined: per word whether it holds a value.
        shadow: who accessed each word last.
        accumulator: per word the identity of the accumulator that an MMA last wrote there, or 0.
        allocations: by first column.
        relinquished: the ``tcgen05.relinquish_alloc_permit`` that was executed, or None.
    """

    def __init__(self, name: str, clocks: Clocks, from_top: bool = False) -> None:
        self.name = name
        size = TMEM_LANES * TMEM_COLUMNS
        self.words = np.zeros(size, np.uint32)
        self.defined = np.zeros(size, np.bool_)
        self.shadow = Shadow(size, clocks)
        self.accumulator = np.zeros(size, np.int32)
        self.allocations: dict[int, Allocation] = {}
        self.relinquished: int | None = None
        self._taken = np.zeros(TMEM_COLUMNS, np.bool_)
        self._last_columns = TMEM_COLUMNS
        self._from_top = from_top

    def find(self, columns: int) -> int | None:
        """The first of so many free columns, or None while too few are free.

        Args:
            columns: a power of two from 32 to 512.

        Raises:
            MemoryFault: an illegal size, one larger than the allocation before, or no permit any more.
        """
        check_columns(columns)
        if self.relinquished is not None:
            raise MemoryFault(Kind.TMEM_ALLOCATION, "tcgen05.alloc after tcgen05.relinquish_alloc_permit")
        if columns > self._last_columns:
            raise MemoryFault(
                Kind.TMEM_ALLOCATION,
                f"allocation of {columns} columns after one of {self._last_columns}; sizes must not grow",
            )
        return self._first_free(columns)

    def has_room(self, columns: int) -> bool:
        """Whether so many columns are free."""
        return self._first_free(columns) is not None

    def _first_free(self, columns: int) -> int | None:
        candidates = range(0, TMEM_COLUMNS, columns)
        for first in reversed(candidates) if self._from_top else candidates:
            if not self._taken[first : first + columns].any():
                return first
        return None

    def allocate(self, columns: int, pc: int) -> int | None:
        """Take columns as ``find`` finds them; the instruction ``pc`` owns them."""
        first = self.find(columns)
        if first is not None:
            self._last_columns = columns
            self._taken[first : first + columns] = True
            self.allocations[first] = Allocation(first, columns, pc)
            self.defined[_column_words(first, columns)] = False
        return first

    def release(self, address: int, columns: int) -> None:
        """Give columns back.

        Raises:
            MemoryFault: the address and size are not those of an allocation.
        """
        self.check_allocation(address, columns)
        del self.allocations[address]
        self._taken[address : address + columns] = False
        self.defined[_column_words(address, columns)] = False

    def check_allocation(self, address: int, columns: int) -> None:
        """Raise MemoryFault unless an allocation of that size starts there."""
        check_columns(columns)
        allocation = self.allocations.get(address)
        if allocation is None or allocation.columns != columns:
            held = ", ".join(f"0x{a.column:x} ({a.columns} columns)" for a in self.allocations.values()) or "nothing"
            raise MemoryFault(
                Kind.TMEM_ALLOCATION, f"tcgen05.dealloc of {columns} columns at 0x{address:x}; allocated: {held}"
            )

    def words_of(self, address: int, columns: int) -> Where:
        """Word numbers of whole columns."""
        part = _column_words(address, columns)
        return np.arange(part.start, part.stop)

    def locate(self, address: int, lanes: ArrayLike, columns: ArrayLike) -> Where:
        """Word numbers of cells given relative to an address.

        Args:
            address: lane in the upper half, column in the lower.
            lanes: lanes relative to the address's.
            columns: columns relative to the address's; broadcast against ``lanes``.

        Raises:
            MemoryFault: outside tensor memory, or not allocated.
        """
        lane = np.asarray(lanes, np.int64) + (address >> 16)
        column = np.asarray(columns, np.int64) + (address & 0xFFFF)
        if int(lane.max()) >= TMEM_LANES or int(column.max()) >= TMEM_COLUMNS:
            raise MemoryFault(
                Kind.OUT_OF_BOUNDS,
                f"tensor memory address 0x{address:08x} reaches lane {int(lane.max())}, column {int(column.max())}",
            )
        taken = self._taken[column]
        if not taken.all():
            raise MemoryFault(
                Kind.TMEM_ALLOCATION,
                f"column {int(column.reshape(-1)[np.argmin(taken)])} of {self.name} is not allocated",
            )
        return column * TMEM_LANES + lane

    def read(self, where: Where) -> Words:
        """Contents of words.

        Raises:
            MemoryFault: one holds no value.
        """
        defined = self.defined[where]
        if not defined.all():
            column, lane = divmod(int(where.reshape(-1)[np.argmin(defined)]), TMEM_LANES)
            raise MemoryFault(
                Kind.UNINITIALIZED_MEMORY, f"nothing has written lane {lane}, column {column} of {self.name}"
            )
        return self.words[where]

    def write(self, where: Where, words: Words) -> None:
        """Change words."""
        self.words[where] = words
        self.defined[where] = True


def check_columns(columns: int) -> None:
    """Raise MemoryFault unless a number of columns can be allocated."""
    if not MIN_COLUMNS <= columns <= TMEM_COLUMNS or columns & (columns - 1):
        raise MemoryFault(
            Kind.TMEM_ALLOCATION,
            f"{columns} columns: allocations are powers of two from {MIN_COLUMNS} to {TMEM_COLUMNS}",
        )


def _column_words(column: int, columns: int) -> slice:
    return slice(column * TMEM_LANES, (column + columns) * TMEM_LANES)
