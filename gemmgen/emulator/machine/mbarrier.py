"""mbarrier objects: phases, arrivals and transaction bytes."""

from __future__ import annotations

from gemmgen.emulator.machine.clocks import Clocks, SyncClock
from gemmgen.emulator.report import Kind

MAX_COUNT = (1 << 20) - 1


class BarrierFault(Exception):
    """An operation that the barrier's state forbids."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class MBarrier:
    """One mbarrier.

    Attributes:
        count: expected arrivals of the next phases.
        pending: arrivals the current phase still needs.
        transactions: bytes the current phase still expects; negative when they came before ``expect_tx``.
        phase: number of completed phases.
        agent: the agent of the transactions it tracks; their epoch is the phase number plus 1.
        init_agent, init_epoch, init_pc: who initialised it.
        gave_up: (warp, phase) pairs whose try_wait has returned false early.
        in_flight: transfers on their way that will count here.
        issued_epoch, issued_pc: the last transfer issued.
    """

    def __init__(self, name: str, count: int, clocks: Clocks, init_agent: int, init_epoch: int, pc: int) -> None:
        self.name = name
        self.count = count
        self.pending = count
        self.transactions = 0
        self.phase = 0
        self.agent = clocks.new_agent(f"{name} transactions")
        self.init_agent = init_agent
        self.init_epoch = init_epoch
        self.init_pc = pc
        self.arrivals: list[tuple[str, int]] = []
        self.expected_bytes = 0
        self.arriving = SyncClock()
        self.completed = SyncClock()
        self.gave_up: set[tuple[int, int]] = set()
        self.in_flight = 0
        self.issued_epoch = 0
        self.issued_pc = -1

    @property
    def epoch(self) -> int:
        """The epoch of transactions that count into the current phase."""
        return self.phase + 1

    def done(self, parity: int) -> bool:
        """Whether the phase of that parity has completed."""
        return (self.phase & 1) != parity

    def arrive(self, count: int, who: str, pc: int) -> None:
        """Count arrivals.

        Raises:
            BarrierFault: more arrivals than the phase expects.
        """
        if count > self.pending:
            raise BarrierFault(
                Kind.MBARRIER,
                f"{count} arrivals at {self.name}, whose phase {self.phase} needs {self.pending} more of {self.count}",
            )
        self.pending -= count
        self.arrivals.append((who, pc))

    def expect(self, size: int) -> None:
        """Raise the transaction count.

        Raises:
            BarrierFault: the count leaves its range.
        """
        self.transactions += size
        self.expected_bytes += size
        self._check_range()

    def complete(self, size: int) -> None:
        """Lower the transaction count.

        Raises:
            BarrierFault: the count leaves its range.
        """
        self.transactions -= size
        self._check_range()

    def _check_range(self) -> None:
        if abs(self.transactions) > MAX_COUNT:
            raise BarrierFault(Kind.TRANSACTION, f"{self.name} tracks {self.transactions} bytes, more than {MAX_COUNT}")

    def try_complete(self) -> bool:
        """End the phase if nothing is missing."""
        if self.pending or self.transactions:
            return False
        self.arriving.add_epoch(self.agent, self.epoch)
        self.completed.join(self.arriving)
        self.arriving = SyncClock()
        self.phase += 1
        self.pending = self.count
        self.arrivals = []
        self.expected_bytes = 0
        self.gave_up.clear()
        return True

    def state(self) -> str:
        """The current phase in words."""
        text = f"phase {self.phase} (parity {self.phase & 1}) has {self.count - self.pending} of {self.count} arrivals"
        if self.transactions:
            text += f" and lacks {self.transactions} of {self.expected_bytes} transaction bytes"
        if self.arrivals:
            text += "; arrived: " + ", ".join(sorted({who for who, _ in self.arrivals})[:8])
        return text
