"""Named barriers of a CTA and the barrier of a cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gemmgen.emulator.machine.clocks import SyncClock

if TYPE_CHECKING:
    from gemmgen.emulator.machine.cta import Cluster


@dataclass
class Generation:
    """One use of a barrier: who has come, and what they hand over.

    Attributes:
        needed: threads (named barrier) that must come; 0 until the first says.
        arrived: threads that have come.
        arrivals: warp index → its instruction.
        values: per warp, the predicate counts of ``bar.red``.
    """

    needed: int = 0
    arrived: int = 0
    done: bool = False
    clock: SyncClock = field(default_factory=SyncClock)
    arrivals: dict[int, int] = field(default_factory=dict)
    values: list[tuple[int, int]] = field(default_factory=list)


class NamedBarrier:
    """One of the CTA's 16 barriers."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.generation = Generation()

    def arrive(self, warp: int, threads: int, needed: int, pc: int) -> Generation:
        """Count a warp's threads in.

        Returns:
            The generation it belongs to.

        Raises:
            ValueError: the count differs from that of the others, or too many came.
        """
        current = self.generation
        if current.needed and current.needed != needed:
            others = ", ".join(f"warp {w}" for w in sorted(current.arrivals))
            raise ValueError(f"barrier {self.index} expects {needed} threads here but {current.needed} at {others}")
        if warp in current.arrivals:
            raise ValueError(f"warp {warp} arrives twice at barrier {self.index} before it completes")
        current.needed = needed
        current.arrived += threads
        current.arrivals[warp] = pc
        if current.arrived > needed:
            raise ValueError(f"{current.arrived} threads at barrier {self.index}, which expects {needed}")
        if current.arrived == needed:
            current.done = True
            self.generation = Generation()
        return current


class ClusterBarrier:
    """``barrier.cluster``: every non-exited thread of the cluster arrives, then waits."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.generation = Generation()

    def arrive(self, key: tuple[int, int], threads: int, pc: int) -> Generation:
        """Count a warp's threads in; ``key`` is (CTA rank, warp index)."""
        current = self.generation
        code = key[0] * 64 + key[1]
        if code in current.arrivals:
            raise ValueError(f"warp {key[1]} of CTA rank {key[0]} arrives twice at the cluster barrier")
        current.arrived += threads
        current.arrivals[code] = pc
        self.update()
        return current

    def update(self) -> None:
        """Complete the generation if every live thread has come."""
        current = self.generation
        live = sum(int(group.live.sum()) for cta in self._cluster.ctas for group in cta.groups)
        current.needed = live
        if current.arrivals and current.arrived >= live:
            current.done = True
            self.generation = Generation()
