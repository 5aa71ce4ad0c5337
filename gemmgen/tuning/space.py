"""The schedules that tuning tries for one problem: what the target's heuristics ship, and variations of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from gemmgen import compiler
from gemmgen.backends.capability import capability
from gemmgen.errors import GemmgenError
from gemmgen.pinned import pinned
from gemmgen.schedule import Schedule
from gemmgen.spec.model import GemmSpec, ScheduleHints

CLUSTERS = ((1, 1), (1, 2), (2, 1))
COLUMN_STEPS = (8, 16, 32)
RASTER_GROUPS = (1, 4, 8, 16, 32)
UNROLLED = (0, 2, 4, 8)
BURSTS = (0, 4, 8, 256)
WARPGROUPS = (1, 2)
DECIDED_FIELDS = (
    "stages", "producer_registers", "math_registers", "scales_ahead", "promotion_overlap", "promotion_burst",
    "lookahead", "unroll", "deal_columns", "evict_first", "accumulators",
)  # fmt: skip
"""What the heuristics decide again when a schedule is varied, unless the variation or a hint says it."""


FOLLOWING_FIELDS = (
    "stages", "scales_ahead", "promotion_overlap", "promotion_burst", "lookahead", "unroll", "deal_columns",
    "evict_first",
)  # fmt: skip
"""Those of them for which there are hints."""


@dataclass(frozen=True)
class Candidate:
    """A schedule and its predicted time of one launch."""

    schedule: Schedule
    predicted_us: float


class Space:
    """The legal schedules of one problem, each with the time that the target's model predicts.

    Args:
        spec: N and K fixed.
        m: rows of the problem.
        target: architecture.
        scale_copy: how row scales reach shared memory.
    """

    def __init__(self, spec: GemmSpec, m: int, target: str, scale_copy: str = "bulk") -> None:
        self.spec = spec
        self.m = m
        self.target = target
        self.scale_copy = scale_copy
        self._capability = capability(target)
        self._heuristics = import_module(f"gemmgen.backends.{self._capability.dialect}.heuristics")
        self._sizes = tuple(int(spec.problem.dims[name]) for name in ("N", "K"))
        self._operands = self._heuristics.Operands.of(spec)

    def served(self) -> Candidate:
        """The schedule with which the spec's plan serves this M without tuning."""
        entries = compiler.plan(self.spec, self.target, self.scale_copy)
        schedule = next(entry for entry in reversed(entries) if entry.m_min <= self.m).schedule
        return self.priced(schedule)

    def shipped(self) -> list[Candidate]:
        """What the heuristics choose from, least predicted time first."""
        return self._ranked(self.spec.schedule)

    def priced(self, schedule: Schedule) -> Candidate:
        """A schedule with its predicted time.

        Raises:
            ScheduleError: the target cannot do it.
        """
        return Candidate(schedule, self._ranked(pinned(self.spec.schedule, schedule))[0].predicted_us)

    def neighbours(self, schedule: Schedule) -> list[Candidate]:
        """Legal schedules one step away in one lever that the spec's hints leave open, least predicted time first."""
        found: dict[Schedule, float] = {}
        for changes in _variations(schedule):
            if any(_hinted(self.spec.schedule, name) for name in changes):
                continue
            try:
                candidate = self._varied(schedule, changes)
            except GemmgenError:
                continue
            found.setdefault(candidate.schedule, candidate.predicted_us)
        found.pop(schedule, None)
        return sorted((Candidate(s, us) for s, us in found.items()), key=lambda candidate: candidate.predicted_us)

    def _varied(self, schedule: Schedule, changes: dict[str, Any]) -> Candidate:
        """The schedule with some fields changed, and what depends on them decided again."""
        changed = schedule.replace(**changes)
        hints = replace(pinned(self.spec.schedule, changed), registers=self.spec.schedule.registers)
        for name in FOLLOWING_FIELDS:
            if not _hinted(self.spec.schedule, name) and name not in changes:
                hints = replace(hints, **{name: None})
        [found, *_] = self._ranked(hints)
        decided = {name: getattr(found.schedule, name) for name in DECIDED_FIELDS}
        return Candidate(changed.replace(**decided), found.predicted_us)

    def _ranked(self, hints: ScheduleHints) -> list[Candidate]:
        found = self._heuristics.ranked(hints, self.m, *self._sizes, self._capability, self.scale_copy, self._operands)
        return [Candidate(schedule, prediction.total_us) for prediction, schedule in found]


def _hinted(hints: ScheduleHints, name: str) -> bool:
    """Whether the spec fixes a schedule's field."""
    nested = {"math_warpgroups": hints.warps.math, "raster_group": hints.raster.group,
              "raster_along": hints.raster.along}  # fmt: skip
    value = nested[name] if name in nested else getattr(hints, name)
    return value is not None or (name == "split_k" and hints.scheduler is not None)


def _variations(schedule: Schedule) -> Iterator[dict[str, Any]]:
    """Single steps; many of them are not legal."""
    m, n, k = schedule.tile
    for step in COLUMN_STEPS:
        for by in (-step, step):
            yield {"tile": (m + by, n, k) if schedule.swap_ab else (m, n + by, k)}
    side = 1 if schedule.swap_ab else 0
    for rows in (schedule.tile[side] // 2, schedule.tile[side] * 2):
        for groups in WARPGROUPS:
            tile = (m, rows, k) if schedule.swap_ab else (rows, n, k)
            yield {"tile": tile, "math_warpgroups": groups}
    yield {"swap_ab": not schedule.swap_ab, "tile": (n, m, k)}
    yield from ({"math_warpgroups": groups} for groups in WARPGROUPS)
    yield from ({"split_k": parts, "cluster": (1, 1)} for parts in (schedule.split_k - 1, schedule.split_k + 1))
    if schedule.split_k == 1:
        yield from ({"cluster": cluster} for cluster in CLUSTERS)
    yield {"scales_ahead": not schedule.scales_ahead}
    yield {"promotion_overlap": not schedule.promotion_overlap}
    yield from ({"promotion_burst": length} for length in BURSTS)
    yield {"lookahead": not schedule.lookahead}
    yield from ({"unroll": steps} for steps in UNROLLED)
    yield {"deal_columns": not schedule.deal_columns}
    yield {"evict_first": not schedule.evict_first}
    yield from ({"stages": stages} for stages in (schedule.stages - 1, schedule.stages // 2))
    yield from ({"raster_group": group} for group in RASTER_GROUPS)
    yield {"raster_along": "n" if schedule.raster_along == "m" else "m"}
