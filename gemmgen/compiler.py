"""The compiler: which kernels serve a spec, and the source of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

from gemmgen import dump
from gemmgen.backends.capability import HOPPER_LEVERS, Capability, capability
from gemmgen.errors import GemmgenError, ScheduleError
from gemmgen.frontend import build_tile_module
from gemmgen.ir.core import Module
from gemmgen.passes.base import PipelineResult
from gemmgen.passes.pipeline import pipeline
from gemmgen.pinned import check_schedule
from gemmgen.plan import CubinPass
from gemmgen.runtime.launch_plan import LaunchPlan
from gemmgen.schedule import Schedule
from gemmgen.spec.model import GemmSpec, ScheduleHints
from gemmgen.tuning.file import UNTUNED, TunedPlan
from gemmgen.tuning.ranges import PlanEntry, with_tuned, with_tuned_m

STAGES = {"tile": "promotion", "async": "shared-memory-allocation"}
"""The pass after which a level is complete; the target's level is what the last pass leaves."""


@dataclass(frozen=True)
class Artifact:
    """Everything generated for one schedule.

    Attributes:
        name: the kernel's symbol.
        source: CUDA C++.
        launch: how to launch it.
        schedule: every decision.
        result: the module after every pass.
        cubin_pass: what changes the cubin after ptxas; None leaves it as it is.
    """

    name: str
    source: str
    launch: LaunchPlan
    schedule: Schedule
    result: PipelineResult
    cubin_pass: CubinPass | None = None

    @property
    def ir(self) -> Mapping[str, str]:
        """IR text by pass name in pipeline order, and by the levels' names ``tile``, ``async`` and ``target``."""
        texts = {snapshot.stage: str(snapshot.module) for snapshot in self.result.snapshots}
        levels = {level: texts[stage] for level, stage in STAGES.items() if stage in texts}
        return {**texts, **levels, "target": str(self.result.module)}

    @property
    def pass_ms(self) -> Mapping[str, float]:
        """Milliseconds that each pass took, the verifier left out."""
        return {snapshot.stage: 1000.0 * snapshot.seconds for snapshot in self.result.snapshots}


def plan(spec: GemmSpec, target: str, scale_copy: str = "bulk", tuned: TunedPlan = UNTUNED) -> tuple[PlanEntry, ...]:
    """The kernels for every M of a spec whose other dimensions are fixed, by ascending M.

    Args:
        spec: the spec.
        target: the target's name.
        scale_copy: ``bulk`` for row scales that lie column by column, ``lanes`` for any strides.
        tuned: measured schedules for this (N, K), which go before the heuristics' choices.

    Raises:
        ScheduleError: the hints, or a tuned schedule, ask for something that the target cannot do.
    """
    record = capability(target)
    _refuse_unused_hints(spec, record)
    heuristics = import_module(f"gemmgen.backends.{record.dialect}.heuristics")
    rows = heuristics.plan(spec, record, scale_copy)
    if not tuned.entries:
        return tuple(PlanEntry(low, high, schedule) for low, high, schedule in rows)
    _refuse_illegal(spec, target, tuned)
    m, ranges = spec.problem.dims["M"], heuristics.M_RANGES
    if isinstance(m, int):
        return tuple(with_tuned_m(m, rows[0][2], ranges, tuned.entries))
    return tuple(with_tuned(rows, ranges, tuned.entries))


def _refuse_illegal(spec: GemmSpec, target: str, tuned: TunedPlan) -> None:
    """Raise ScheduleError, by name, for a tuned schedule that this version cannot build."""
    for entry in tuned.entries:
        try:
            check_schedule(spec, entry.best.schedule, entry.m, capability(target))
            build(spec, target, entry.best.schedule)
        except GemmgenError as error:
            raise ScheduleError(
                f"this gemmgen cannot build the tuned schedule for {entry}: {error.what}",
                where=tuned.source,
                got=entry.best.schedule,
                need=f"a schedule that {target} and this version can do",
                fix="tune this problem again, or leave the file out",
            ) from error


def _refuse_unused_hints(spec: GemmSpec, target: Capability) -> None:
    """Raise ScheduleError for a hint that the target does not follow, rather than pass it over in silence."""
    hints = spec.schedule
    unused = {"schedule.warps.producer": hints.warps.producer, "schedule.epilogue_overlap": hints.epilogue_overlap}
    for path, value in unused.items():
        if value is not None:
            raise ScheduleError("this hint is not supported yet", where=spec.position(path), got=value, need="auto",
                                fix="leave it out; the compiler decides")  # fmt: skip
    if (hints.cta_group or 1) > 1 and not target.cta_pairs:
        where = spec.position("schedule.cta_group")
        raise ScheduleError(f"CTAs do not multiply together on {target.name}", where=where, got=hints.cta_group, need=1,
                            fix="leave cta_group auto")  # fmt: skip
    _refuse_levers(hints, target, lambda lever: spec.position(f"schedule.{lever}"))


def _refuse_levers(held: ScheduleHints | Schedule, target: Capability, where: Callable[[str], str]) -> None:
    """Raise ScheduleError for a lever that hints or a schedule use and the target does not have."""
    for lever in sorted(HOPPER_LEVERS - target.levers):
        if value := getattr(held, lever):
            raise ScheduleError(f"{lever} is no lever on {target.name}", where=where(lever), got=value,
                                need=f"auto or {type(value)()}".lower(), fix=f"leave {lever} auto")  # fmt: skip


def build(spec: GemmSpec, target: str, schedule: Schedule) -> Artifact:
    """Generate the source for one schedule.

    Raises:
        ScheduleError: the target's hardware cannot do what the schedule says.
    """
    record = capability(target)
    _refuse_levers(schedule, record, lambda lever: f"schedule.{lever}")
    folder = dump.folder_of(spec.name, target, schedule)
    result = pipeline(schedule, record).run(build_tile_module(spec, schedule, target), dump_dir=folder)
    return artifact_of(result, schedule)


def artifact_of(result: PipelineResult, schedule: Schedule) -> Artifact:
    """The artifact of a pipeline's result."""
    module: Module = result.module
    backend = f"gemmgen.backends.{capability(module.target).dialect}"
    source = import_module(f"{backend}.source").emit_cuda(module)
    launch = import_module(f"{backend}.launch").launch_plan(module)
    return Artifact(module.name, source, launch, schedule, result, _cubin_pass(schedule, capability(module.target)))


def _cubin_pass(schedule: Schedule, target: Capability) -> CubinPass | None:
    """What changes the cubin after ptxas.

    Raises:
        ScheduleError: the kernel has no use for it.
    """
    if not schedule.promotion_burst:
        return None
    if schedule.swap_ab:
        raise ScheduleError("promotion cannot burst", where="schedule.promotion_burst", got=schedule,
                            need="a schedule without swap_ab", fix="set promotion_burst to 0")  # fmt: skip
    bursts: CubinPass = import_module(f"gemmgen.backends.{target.dialect}.sass").PromotionBurstPass(
        schedule.promotion_burst
    )
    return bursts
