"""Happens-before as vector clocks.

An *agent* is anything whose actions can be ordered: a warp, a diverged lane, an mbarrier's transactions, a thread's
bulk groups, a warpgroup's wgmma groups. Every agent counts its own epochs; a clock says, per agent, the last epoch that
is known to have happened. Threads (warps and diverged lanes) own two clocks:

* ``order``: what happened before the thread's next instruction;
* ``visible``: the generic-proxy writes among it that a proxy fence has made visible to the async proxy.

Asynchronous agents own no clock: their epochs enter a thread's clock when it waits for them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Clock = NDArray[np.int32]


def join(into: Clock, other: Clock) -> Clock:
    """The pointwise maximum of two clocks; ``into`` is changed if it is long enough, else a longer one is returned."""
    if len(into) < len(other):
        longer = other.copy()
        np.maximum(longer[: len(into)], into, out=longer[: len(into)])
        return longer
    np.maximum(into[: len(other)], other, out=into[: len(other)])
    return into


def join_row(row: Clock, other: Clock) -> None:
    """Raise a row of a clock matrix, which has an entry for every agent, to another clock."""
    assert len(other) <= len(row)
    np.maximum(row[: len(other)], other, out=row[: len(other)])


class SyncClock:
    """The clocks that a synchronisation object hands from those who release to those who acquire."""

    __slots__ = ("fenced", "order", "visible")

    def __init__(self) -> None:
        empty = np.zeros(0, np.int32)
        self.order: Clock = empty
        self.visible: Clock = empty
        self.fenced: Clock = empty

    def join(self, other: SyncClock) -> None:
        """Add what another object hands over."""
        self.order = join(self.order, other.order)
        self.visible = join(self.visible, other.visible)
        self.fenced = join(self.fenced, other.fenced)

    def add_epoch(self, agent: int, epoch: int) -> None:
        """Whoever acquires learns that an asynchronous agent's epoch is over; its writes need no proxy fence."""
        if len(self.order) <= agent:
            self.order = np.concatenate([self.order, np.zeros(agent + 1 - len(self.order), np.int32)])
        self.order[agent] = max(self.order[agent], epoch)


class Clocks:
    """All agents of a launch and the clocks of its threads.

    Attributes:
        order, visible, fenced: int32 [threads, agents]; ``fenced`` is ``order`` at the thread's last memory fence.
        pending: what relaxed loads have observed and the next memory fence will acquire.
    """

    def __init__(self) -> None:
        self.labels: list[str] = ["host"]
        self.row_of: dict[int, int] = {}
        self._rows = 0
        self._capacity = (16, 64)
        self.order = np.zeros(self._capacity, np.int32)
        self.visible = np.zeros(self._capacity, np.int32)
        self.fenced = np.zeros(self._capacity, np.int32)
        self.pending = np.zeros(self._capacity, np.int32)

    def new_agent(self, label: str) -> int:
        """Register an asynchronous agent; its epochs start at 1."""
        agent = len(self.labels)
        self.labels.append(label)
        self._reserve(self._rows, agent + 1)
        return agent

    def new_thread(self, label: str) -> tuple[int, int]:
        """Register a thread.

        Returns:
            Its agent and its row in the clock matrices.
        """
        agent = self.new_agent(label)
        row = self._rows
        self._rows += 1
        self._reserve(self._rows, agent + 1)
        self.row_of[agent] = row
        self.order[row, agent] = 1
        return agent, row

    def _reserve(self, rows: int, agents: int) -> None:
        have_rows, have_agents = self._capacity
        if rows <= have_rows and agents <= have_agents:
            return
        self._capacity = (
            max(have_rows, 2 * rows if rows > have_rows else 0),
            max(have_agents, 2 * agents if agents > have_agents else 0),
        )
        for name in ("order", "visible", "fenced", "pending"):
            old = getattr(self, name)
            new = np.zeros(self._capacity, np.int32)
            new[:have_rows, :have_agents] = old
            setattr(self, name, new)

    def release(self, row: int, into: SyncClock) -> None:
        """``into`` gets everything the thread of ``row`` knows."""
        into.order = join(into.order, self.order[row])
        into.visible = join(into.visible, self.visible[row])
        into.fenced = join(into.fenced, self.fenced[row])

    def acquire(self, row: int, clock: SyncClock) -> None:
        """The thread of ``row`` learns everything ``clock`` holds."""
        join_row(self.order[row], clock.order)
        join_row(self.visible[row], clock.visible)
        join_row(self.fenced[row], clock.fenced)

    def release_relaxed(self, row: int, into: SyncClock) -> None:
        """A relaxed write hands over what the thread's last memory fence covered."""
        into.order = join(into.order, self.fenced[row])

    def acquire_relaxed(self, row: int, clock: SyncClock) -> None:
        """A relaxed read learns at the thread's next memory fence."""
        join_row(self.pending[row], clock.order)

    def memory_fence(self, row: int) -> None:
        """``fence.acq_rel`` and the like."""
        join_row(self.order[row], self.pending[row])
        self.fenced[row] = self.order[row]

    def proxy_fence(self, row: int) -> None:
        """``fence.proxy.async``: all generic writes the thread knows of are visible to the async proxy."""
        self.visible[row] = self.order[row]

    def tick(self, row: int, agent: int) -> None:
        """Start the thread's next epoch, so that what it does from here is told from what was released or fenced."""
        self.order[row, agent] += 1

    def learn(self, row: int, agent: int, epoch: int) -> None:
        """The thread of ``row`` has waited for an asynchronous agent's epoch."""
        if self.order[row, agent] < epoch:
            self.order[row, agent] = epoch
