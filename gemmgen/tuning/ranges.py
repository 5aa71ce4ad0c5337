"""Which M a tuned schedule serves: a plan's ranges with tuned schedules in place of the heuristics'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gemmgen.backends.m_ranges import MRanges
from gemmgen.schedule import Schedule
from gemmgen.tuning.file import TunedEntry

MAX_KERNELS = 20
"""Kernels of one (N, K)."""


@dataclass(frozen=True)
class PlanEntry:
    """A schedule for M from ``m_min`` to ``m_max`` (None: no limit), and the tuned entries that it comes from."""

    m_min: int
    m_max: int | None
    schedule: Schedule
    tuned: tuple[TunedEntry, ...] = ()


def with_tuned(
    rows: Sequence[tuple[int, int | None, Schedule]], ranges: MRanges, entries: Sequence[TunedEntry]
) -> list[PlanEntry]:
    """The kernels of a plan for every M, tuned where there are entries.

    An entry serves the range of M that it lies in. Where several lie in one, each serves from above the next smaller
    one to its own M, and the largest one to the range's end. If that makes more than ``MAX_KERNELS`` kernels, entries
    that are not the largest of their range are left out, those first that save least.

    Args:
        rows: the heuristics' choices; borders between them are borders of ``ranges``.
        ranges: where the target's plans may change kernels.
        entries: of one (N, K).
    """
    kept = sorted(entries, key=lambda entry: entry.m)
    while True:
        tuned = _tuned_ranges(ranges, kept)
        merged = _merged([piece for row in rows for piece in _pieces(*row, tuned)])
        within = [served.tuned[0] for served in tuned if served.m_max not in (*ranges.bounds, None)]
        if len(merged) <= MAX_KERNELS or not within:
            return merged
        kept.remove(min(within, key=lambda entry: entry.faster_by))


def with_tuned_m(m: int, schedule: Schedule, ranges: MRanges, entries: Sequence[TunedEntry]) -> list[PlanEntry]:
    """The one kernel of a plan whose M is fixed, tuned if an entry serves that M."""
    found = [served for served in _tuned_ranges(ranges, sorted(entries, key=lambda e: e.m)) if _holds(served, m)]
    return [PlanEntry(0, None, found[0].schedule, found[0].tuned) if found else PlanEntry(0, None, schedule)]


def _tuned_ranges(ranges: MRanges, entries: Sequence[TunedEntry]) -> list[PlanEntry]:
    """What each entry serves, by ascending M; ``entries`` ascend too."""
    found: list[PlanEntry] = []
    for low, high in ranges.spans():
        inside = [entry for entry in entries if low <= entry.m and (high is None or entry.m <= high)]
        starts = [low, *(entry.m + 1 for entry in inside)]
        ends = [*(entry.m for entry in inside[:-1]), high]
        pieces = zip(starts, ends, inside, strict=False)
        found += [PlanEntry(start, end, entry.best.schedule, (entry,)) for start, end, entry in pieces]
    return found


def _pieces(low: int, high: int | None, schedule: Schedule, tuned: Sequence[PlanEntry]) -> list[PlanEntry]:
    """One of the heuristics' rows, cut where tuned schedules begin and end."""
    found, start = [], low
    for served in tuned:
        if served.m_min < low or (high is not None and served.m_min > high):
            continue
        if served.m_min > start:
            found.append(PlanEntry(start, served.m_min - 1, schedule))
        found.append(served)
        if served.m_max is None:
            return found
        start = served.m_max + 1
    return found if high is not None and start > high else [*found, PlanEntry(start, high, schedule)]


def _merged(pieces: Sequence[PlanEntry]) -> list[PlanEntry]:
    """Neighbours with one schedule are one kernel."""
    found: list[PlanEntry] = []
    for piece in pieces:
        if found and found[-1].schedule == piece.schedule:
            before = found.pop()
            piece = PlanEntry(before.m_min, piece.m_max, piece.schedule, before.tuned + piece.tuned)
        found.append(piece)
    return found


def _holds(served: PlanEntry, m: int) -> bool:
    return served.m_min <= m and (served.m_max is None or m <= served.m_max)
