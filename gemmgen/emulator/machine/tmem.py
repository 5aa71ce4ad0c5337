"""A CTA's tensor memory: 128 lanes × 512 columns of 32 bits, its allocator, and the tcgen05 pipeline of each thread."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.machine.shadow import Shadow
from gemmgen.emulator.report import Kind

if TYPE_CHECKING:
    from gemmgen.emulator.machine.clocks import Clock
    from gemmgen.emulator.machine.cta import Cta

LANES, COLUMNS = 128, 512
MIN_COLUMNS = 32


class TensorMemory:
    """Tensor memory of one CTA.

    Attributes:
        data: uint32 [128, 512].
        written: per word whether it holds a value.
        shadow: shadow state per word, lane-major.
        allocated: per column whether it is allocated.
        allocations: first column → number of columns.
        relinquished: no allocation may follow.
    """

    def __init__(self, cta: Cta) -> None:
        self._cta = cta
        self.data = np.zeros((LANES, COLUMNS), np.uint32)
        self.written = np.zeros((LANES, COLUMNS), np.bool_)
        self.shadow = Shadow(LANES * COLUMNS, cta.machine.clocks)
        self.allocated = np.zeros(COLUMNS, np.bool_)
        self.allocations: dict[int, int] = {}
        self.alloc_pc = -1
        self.relinquished = False
        self.last_size = COLUMNS
        cta.exit_checks.append(self._check_exit)

    def allocate(self, columns: int, pc: int) -> int | None:
        """The first column of a new allocation, or None while there is no room."""
        for first in range(0, COLUMNS, columns):
            if not self.allocated[first : first + columns].any():
                self.allocated[first : first + columns] = True
                self.written[:, first : first + columns] = False
                self.allocations[first] = columns
                self.alloc_pc = pc
                return first
        return None

    def free(self, first: int, columns: int) -> None:
        """Undo an allocation that exists."""
        self.allocated[first : first + columns] = False
        del self.allocations[first]

    def _check_exit(self) -> None:
        for first, columns in self.allocations.items():
            text = f"cta {self._cta.index} exits with tensor memory columns {first}..{first + columns - 1} allocated"
            self._cta.machine.recorder.add(Kind.TMEM_ALLOCATION, text, self.alloc_pc, f"cta {self._cta.index}")


@dataclass
class Pipeline:
    """The tcgen05.mma, cp and commit operations of one issuing thread; they run in order.

    Attributes:
        agent: their agent; its epoch is the number of commits so far, plus 1.
        shapes: first accumulator column of unfinished multiplications → their shape.
    """

    agent: int
    commits: int = 0
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    uncommitted_pc: int | None = None

    @property
    def epoch(self) -> int:
        """Epoch of operations issued now."""
        return self.commits + 1


@dataclass
class TmemPort:
    """A warp's tcgen05.ld and st.

    Attributes:
        load_agent, store_agent: agents of its loads and stores, which end at the waits.
        loads, stores: epochs of those issued now.
        loads_done, stores_done: last epochs waited for; a fence::before_thread_sync hands them on.
    """

    load_agent: int
    store_agent: int
    loads: int = 1
    stores: int = 1
    loads_done: int = 0
    stores_done: int = 0


def words(lanes: NDArray, columns: NDArray) -> NDArray[np.int64]:
    """Shadow indices of words, flat."""
    return (np.asarray(lanes, np.int64) * COLUMNS + columns).reshape(-1)


def after_clock(cta: Cta, row: int) -> Clock:
    """What a thread knew at its last fence::after_thread_sync."""
    return cta.machine.tensor_fences.get(row, np.zeros(1, np.int32))
