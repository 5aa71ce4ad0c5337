"""Units of execution: a warp, or four warps in lockstep, with diverged fragments that meet again.

A unit runs *fragments*: sets of lanes at one program position. A divergent branch splits a fragment; both halves wait
for each other at the branch's immediate post-dominator. Every fragment can be scheduled on its own, so lanes that spin
do not starve the others. Four warps of a warpgroup run as one unit of 128 lanes while they agree; where they part, the
unit *dissolves* into its warps, and the scheduler joins them again when they stand at the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.machine.ownership import Ownership
from gemmgen.emulator.machine.registers import TYPE_ID, TYPES, RegisterFile, Views
from gemmgen.emulator.machine.shadow import Access

if TYPE_CHECKING:
    from gemmgen.emulator.machine.cta import Cta

Mask = NDArray[np.bool_]
WARP = 32


class Dissolve(Exception):
    """The warps of a unit must go separate ways; the current step runs again, once per warp."""


@dataclass(eq=False)
class Wait:
    """Why a fragment cannot go on.

    Attributes:
        ready: whether it can.
        describe: the wait in words, for the deadlock report.
        kind: ``mbarrier``, ``barrier``, ``cluster``, ``group``, ``registers``, ``converge`` or ``memory``.
        pc: the waiting instruction.
    """

    ready: Callable[[], bool]
    describe: Callable[[], str]
    kind: str
    pc: int = -1


@dataclass(eq=False)
class Join:
    """Where the halves of a divergent branch meet.

    Attributes:
        block: the post-dominator.
        pending: lanes that will come, less those that exited.
        arrived: lanes that have.
    """

    block: int
    pending: Mask
    arrived: Mask


@dataclass(eq=False)
class Fragment:
    """Lanes at one position.

    Attributes:
        block, step: the position.
        mask: the lanes.
        joins: meeting points, innermost last.
        wait: what it waits for, or None.
        tokens: per warp index, what a half-done step (a barrier it has arrived at) must remember.
        parked: it has yielded once before the current step so that other warps can catch up.
        solo: the position at which its warp had to leave the others, where they must not be joined again.
    """

    block: int
    step: int
    mask: Mask
    joins: tuple[Join, ...] = ()
    wait: Wait | None = None
    tokens: dict[int, Any] = field(default_factory=dict)
    parked: bool = False
    solo: tuple[int, int] | None = None


class Thread:
    """Something with a clock of its own: a warp, or one lane of it after divergence."""

    __slots__ = ("agent", "lanes", "row", "warp")

    def __init__(self, agent: int, row: int, warp: Warp, lanes: Mask) -> None:
        self.agent = agent
        self.row = row
        self.warp = warp
        self.lanes = lanes


class Warp:
    """One warp's identity for ordering.

    Attributes:
        index: warp number in the CTA.
        synced: the warp's last epoch whose accesses all lanes are known to have made.
    """

    def __init__(self, cta: Cta, index: int) -> None:
        self.cta = cta
        self.index = index
        self.label = f"cta {cta.index} warp {index}"
        self.agent, self.row = cta.machine.clocks.new_thread(self.label)
        self.siblings = frozenset([self.agent])
        self.synced = 0
        self.thread = Thread(self.agent, self.row, self, np.ones(WARP, np.bool_))
        self._lanes: dict[int, Thread] = {}
        self._touched: set[int] = set()

    def lane_thread(self, mask: Mask) -> Thread:
        """The thread for diverged lanes: that of the first of them, up to date with what the whole warp knows."""
        lane = int(np.argmax(mask))
        clocks = self.cta.machine.clocks
        thread = self._lanes.get(lane)
        if thread is None:
            agent, row = clocks.new_thread(f"{self.label} lane {lane}")
            thread = self._lanes[lane] = Thread(agent, row, self, mask)
            self.siblings = self.siblings | {agent}
        self._touched.add(lane)
        thread.lanes = mask
        for matrix in (clocks.order, clocks.visible, clocks.fenced):
            np.maximum(matrix[thread.row], matrix[self.row], out=matrix[thread.row])
        clocks.order[thread.row, self.agent] = self.synced
        return thread

    def gather(self) -> None:
        """The warp learns what its diverged lanes did."""
        if not self._touched:
            return
        clocks = self.cta.machine.clocks
        for lane in self._touched:
            row = self._lanes[lane].row
            for matrix in (clocks.order, clocks.visible, clocks.fenced):
                np.maximum(matrix[self.row], matrix[row], out=matrix[self.row])
        self._touched.clear()

    def sync(self) -> None:
        """All lanes have met: what each did before is ordered before what any does next."""
        self.gather()
        order = self.cta.machine.clocks.order
        self.synced = int(order[self.row, self.agent])
        order[self.row, self.agent] += 1


class Unit:
    """One or four warps that execute together.

    Attributes:
        cta: their CTA.
        warps: the warps, in order.
        width: lanes.
        live: lanes that have not exited.
        fragments: what there is to run.
        mask: active lanes of the instruction being executed.
        where: ``mask``, or True when it is full: the ``where`` argument of numpy's functions.
        full: whether every live lane is active.
    """

    def __init__(self, cta: Cta, warps: list[Warp], registers: RegisterFile, live: Mask) -> None:
        self.cta = cta
        self.warps = warps
        self.width = WARP * len(warps)
        self.registers = registers
        self.live = live
        self.fragments: list[Fragment] = []
        self.fragment: Fragment | None = None
        self.mask: Mask = live
        self.where: Any = True
        self.full = True
        first = WARP * (warps[0].index % 4)
        lanes = slice(first, first + self.width)
        self.base = {kind: array[:, lanes] for kind, array in registers.arrays.items()}
        self.defined = {kind: array[:, lanes] for kind, array in registers.defined.items()}
        constants = cta.machine.constants.values
        self.views = [Views(self.base.get(kind), dtype, constants, self._dynamic) for kind, dtype in TYPES.values()]
        self.pred = self.views[TYPE_ID["pred"]]
        self.u32 = self.views[TYPE_ID["u32"]]
        self.u64 = self.views[TYPE_ID["u64"]]
        self.ownership = Ownership()

    def _dynamic(self, key: Any, dtype: np.dtype) -> Any:
        value = self.cta.special(key, self) if isinstance(key, str) else self.cta.symbol_address(*key)
        return np.asarray(value).astype(dtype)

    @property
    def name(self) -> str:
        """The unit in words."""
        first, last = self.warps[0].index, self.warps[-1].index
        return f"cta {self.cta.index} warp {first}" if first == last else f"cta {self.cta.index} warps {first}-{last}"

    def enter(self, fragment: Fragment) -> None:
        """Make a fragment the one that executes."""
        self.fragment = fragment
        self.set_mask(fragment.mask)

    def set_mask(self, mask: Mask) -> None:
        """Choose the active lanes."""
        self.mask = mask
        self.full = bool((mask == self.live).all())
        self.where = True if self.full and bool(mask.all()) else mask

    def threads(self) -> Iterator[Thread]:
        """The threads the active lanes act as: whole warps, or diverged lanes."""
        for position, warp in enumerate(self.warps):
            lanes = slice(WARP * position, WARP * position + WARP)
            mask = self.mask[lanes]
            if self.full or bool((mask == self.live[lanes]).all()):
                if self.full and self.where is True:
                    yield warp.thread
                elif mask.any():
                    yield Thread(warp.agent, warp.row, warp, mask)
            elif mask.any():
                yield warp.lane_thread(mask.copy())

    def thread_lanes(self, thread: Thread) -> slice:
        """The unit's lanes that belong to a thread's warp."""
        first = WARP * (thread.warp.index - self.warps[0].index)
        return slice(first, first + WARP)

    def access(self, thread: Thread, pc: int) -> Access:
        """A generic-proxy access by a thread, for the shadow memories."""
        clocks = self.cta.machine.clocks
        order = clocks.order[thread.row]
        epoch = int(order[thread.agent])
        return Access(thread.agent, epoch, order, clocks.visible[thread.row], pc, False, thread.warp.siblings)

    def sync_warps(self) -> None:
        """Every active whole warp has converged at an aligned instruction."""
        for warp in self.warps:
            warp.sync()

    def lockstep(self) -> bool:
        """Whether one fragment holds all live lanes."""
        return (
            len(self.fragments) == 1
            and not self.fragments[0].joins
            and bool((self.fragments[0].mask == self.live).all())
        )

    def jump(self, fragment: Fragment, block: int) -> None:
        """Move a fragment to a block; where it meets others there, they go on as one."""
        fragment.block, fragment.step, fragment.parked = block, 0, False
        while fragment.joins and fragment.joins[-1].block == block:
            meeting = fragment.joins[-1]
            meeting.arrived = meeting.arrived | fragment.mask
            if not (meeting.arrived == meeting.pending).all():
                self.fragments.remove(fragment)
                return
            fragment.mask = meeting.arrived
            fragment.joins = fragment.joins[:-1]

    def diverge(self, fragment: Fragment, taken: Mask, target: int, fallthrough: int, reconverge: int) -> None:
        """Split a fragment at a branch that only ``taken`` of its lanes take."""
        if reconverge >= 0 and not (fragment.joins and fragment.joins[-1].block == reconverge):
            fragment.joins = (*fragment.joins, Join(reconverge, fragment.mask.copy(), np.zeros(self.width, np.bool_)))
        other = Fragment(target, 0, taken, fragment.joins)
        fragment.mask = fragment.mask & ~taken
        self.fragments.append(other)
        self.jump(fragment, fallthrough)
        self.jump(other, target)

    def exit_lanes(self, fragment: Fragment, mask: Mask) -> None:
        """Lanes leave the kernel."""
        self.live &= ~mask
        fragment.mask = fragment.mask & ~mask
        if not fragment.mask.any():
            self.fragments.remove(fragment)
        meetings = {id(j): j for f in self.fragments for j in f.joins} | {id(j): j for j in fragment.joins}
        for meeting in meetings.values():
            meeting.pending = meeting.pending & ~mask
            meeting.arrived = meeting.arrived & ~mask
        outer = sorted(meetings.values(), key=lambda j: -len(self._depth(j, fragment)))
        for meeting in outer:
            if meeting.pending.any() and (meeting.arrived == meeting.pending).all():
                self._release(meeting, fragment)

    def _depth(self, meeting: Join, fragment: Fragment) -> tuple[Join, ...]:
        for candidate in (*self.fragments, fragment):
            for position, known in enumerate(candidate.joins):
                if known is meeting:
                    return candidate.joins[: position + 1]
        return ()

    def _release(self, meeting: Join, fragment: Fragment) -> None:
        joins = self._depth(meeting, fragment)[:-1]
        resumed = Fragment(meeting.block, 0, meeting.arrived, joins)
        meeting.arrived = np.zeros(self.width, np.bool_)
        self.fragments.append(resumed)
        self.jump(resumed, meeting.block)
