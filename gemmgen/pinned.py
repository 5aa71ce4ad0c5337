"""Hints that leave a target's heuristics no choice: how one schedule is checked and priced."""

from __future__ import annotations

from dataclasses import fields, replace
from importlib import import_module

from gemmgen.backends.capability import Capability
from gemmgen.errors import ScheduleError
from gemmgen.schedule import Schedule
from gemmgen.spec.model import GemmSpec, Raster, Registers, ScheduleHints


def pinned(hints: ScheduleHints, schedule: Schedule) -> ScheduleHints:
    """The hints that ask for this schedule; what a schedule has and hints do not follows from them."""
    given = schedule.producer_registers or None, schedule.math_registers or None
    return replace(
        hints,
        tile=schedule.tile,
        stages=schedule.stages,
        cluster=schedule.cluster,
        split_k=schedule.split_k,
        swap_ab=schedule.swap_ab,
        cta_group=schedule.cta_group,
        warps=replace(hints.warps, math=schedule.math_warpgroups),
        registers=Registers(producer=given[0], math=given[1]),
        raster=Raster(group=schedule.raster_group, along=schedule.raster_along),
        pdl=schedule.pdl,
        scales_ahead=schedule.scales_ahead,
        promotion_overlap=schedule.promotion_overlap,
        promotion_burst=schedule.promotion_burst,
        lookahead=schedule.lookahead,
        unroll=schedule.unroll,
        deal_columns=schedule.deal_columns,
        evict_first=schedule.evict_first,
    )


def check_schedule(spec: GemmSpec, schedule: Schedule, m: int, target: Capability) -> None:
    """Raise ScheduleError unless the target's heuristics can make this schedule for a spec with known N and K."""
    heuristics = import_module(f"gemmgen.backends.{target.dialect}.heuristics")
    n, k = (int(spec.problem.dims[name]) for name in ("N", "K"))
    operands = heuristics.Operands.of(spec)
    hints = pinned(spec.schedule, schedule)
    found: Schedule = heuristics.ranked(hints, m, n, k, target, schedule.scale_copy, operands)[0][1]
    for field in fields(Schedule):
        wanted, able = getattr(schedule, field.name), getattr(found, field.name)
        if wanted != able:
            raise ScheduleError(f"{target.name} does not have this {field.name}", where=field.name, got=wanted,
                                need=able, fix=f"use {able}")  # fmt: skip
