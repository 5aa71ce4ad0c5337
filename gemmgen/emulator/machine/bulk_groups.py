"""Bulk groups of a thread: ``cp.async.bulk`` operations that complete by groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gemmgen.emulator.machine.scheduler import AsyncOperation
from gemmgen.emulator.report import Kind

if TYPE_CHECKING:
    from gemmgen.emulator.machine.cta import Cta


class BulkGroups:
    """One thread's bulk groups.

    Attributes:
        read_agent, write_agent: agents of the operations' reads of their source and of their writes; the epoch of
            both is the group's number, from 1.
        groups: per committed group its (read, write) operations.
        current: those not committed yet.
    """

    def __init__(self, cta: Cta, label: str) -> None:
        self._cta = cta
        clocks = cta.machine.clocks
        self.read_agent = clocks.new_agent(f"{label} bulk copies, reading")
        self.write_agent = clocks.new_agent(f"{label} bulk copies, writing")
        self.groups: list[list[tuple[AsyncOperation, AsyncOperation]]] = []
        self.current: list[tuple[AsyncOperation, AsyncOperation]] = []
        self.label = label
        self.last_pc = -1
        self.last_epoch = 0
        cta.exit_checks.append(self._check_exit)

    @property
    def epoch(self) -> int:
        """Epoch of the operations issued now."""
        return len(self.groups) + 1

    def add(self, read: AsyncOperation, write: AsyncOperation) -> None:
        """An operation joins the current group."""
        self.current.append((read, write))
        self.last_pc, self.last_epoch = read.pc, self.epoch

    def commit(self) -> None:
        """End the current group."""
        self.groups.append(self.current)
        self.current = []

    def finished(self, allowed: int, reads_only: bool) -> bool:
        """Whether all but the last ``allowed`` groups are done."""
        count = max(0, len(self.groups) - allowed)
        for group in self.groups[:count]:
            for read, write in group:
                if not (read.done if reads_only else write.done):
                    return False
        return True

    def _check_exit(self) -> None:
        order = self._cta.exit_clock.order
        known = order[self.read_agent] if self.read_agent < len(order) else 0
        if self.last_epoch > known:
            text = f"{self.label} ends while a bulk copy may still read its CTA's shared memory"
            self._cta.machine.recorder.add(Kind.EXIT_IN_FLIGHT, text, self.last_pc, self.label)
