"""Ranges of M: a plan for a dynamic M has one kernel per range, chosen for the largest M in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gemmgen.schedule import Schedule


@dataclass(frozen=True)
class MRanges:
    """Where a plan may change kernels.

    Attributes:
        bounds: the largest M of each range, ascending; the last range has none.
        large: the M that stands for everything above the last bound.
    """

    bounds: tuple[int, ...]
    large: int

    def deciding(self, m: int) -> int:
        """The M for which a plan chose the kernel that serves ``m`` rows."""
        return next((bound for bound in self.bounds if m <= bound), self.large)

    def spans(self) -> list[tuple[int, int | None]]:
        """The ranges, as (smallest M, largest M)."""
        return list(zip((0, *(bound + 1 for bound in self.bounds)), (*self.bounds, None), strict=True))

    def plan(self, choose: Callable[[int], Schedule]) -> list[tuple[int, int | None, Schedule]]:
        """The kernels that serve every M, as (smallest M, largest M, schedule); neighbours that agree are one.

        Args:
            choose: the schedule for an M.
        """
        chosen: list[tuple[int, int | None, Schedule]] = []
        for low, high in self.spans():
            schedule = choose(high or self.large)
            if chosen and chosen[-1][2] == schedule:
                chosen[-1] = (chosen[-1][0], high, schedule)
            else:
                chosen.append((low, high, schedule))
        return chosen
