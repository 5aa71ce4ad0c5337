"""The search for one problem's fastest schedule: compile, check, time, look around the best, settle the final."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from gemmgen import compiler
from gemmgen.errors import DriverError, GemmgenError, TuningError
from gemmgen.kernel import Kernel
from gemmgen.runtime.cache import Cache
from gemmgen.schedule import Schedule
from gemmgen.spec.model import GemmSpec
from gemmgen.tuning.file import UNTUNED, Timed, TunedEntry, TunedPlan
from gemmgen.tuning.ranges import PlanEntry
from gemmgen.tuning.space import Candidate, Space

PREDICTED_WITHIN = 1.3
"""Candidates are tried up to this multiple of the least predicted time; the model's error is 20 % at times."""
EXPANDED_WITHIN = 1.03
"""The neighbourhood of a schedule is searched if it is this near the fastest one."""
EXPANDED = 3
FINALISTS = 3
FINAL_ROUNDS = 3
FINAL_SHARE = 0.15
"""The part of a problem's time that is kept for the final."""
MARGIN = 0.01
"""What a schedule must save to displace the heuristics' choice; less is noise."""


class Measurer(Protocol):
    """The device that a search measures on."""

    @property
    def device(self) -> str:
        """The GPU's name."""
        ...

    def prepare(self, spec: GemmSpec, m: int) -> None:
        """Make the inputs of the problem that the next kernels get."""
        ...

    def check(self, kernel: Kernel) -> bool:
        """Whether the kernel's values are right: a poisoned output against an FP32 reference."""
        ...

    def time_us(self, kernel: Kernel) -> float:
        """Median microseconds of one launch with cold L2."""
        ...


@dataclass(frozen=True)
class FixedSchedule:
    """Stands in for the compiler: one schedule serves every M."""

    schedule: Schedule

    def plan(self, spec: GemmSpec, target: str, scale_copy: str, tuned: TunedPlan = UNTUNED) -> tuple[PlanEntry, ...]:
        """One entry."""
        return (PlanEntry(0, None, self.schedule),)

    def build(self, spec: GemmSpec, target: str, schedule: Schedule) -> compiler.Artifact:
        """The compiler's own."""
        return compiler.build(spec, target, schedule)


def compile_fixed(spec: GemmSpec, target: str, schedule: Schedule) -> Kernel:
    """A compiled kernel with this schedule for every M. It is kept in memory: the cache's index is for plans.

    Raises:
        GemmgenError: the compiler or NVRTC refuses.
    """
    kernel = Kernel(spec, target, cache=Cache(None), compiler=FixedSchedule(schedule))
    kernel.plan(scale_copy=schedule.scale_copy).compile(jobs=1)
    return kernel


@dataclass(frozen=True)
class Tools:
    """What a search uses.

    Attributes:
        measurer: the device.
        make: compiles a schedule.
        jobs: kernels compiled at a time.
        left_s: seconds until nothing new may be begun.
        found: called with the entry whenever a better schedule is known, and at the end.
        progress: called with schedules timed and waiting, and the best entry, before each measurement.
    """

    measurer: Measurer
    make: Callable[[Schedule], Kernel]
    jobs: int
    left_s: Callable[[], float]
    found: Callable[[TunedEntry], None]
    progress: Callable[[int, int, TunedEntry | None], None]


@dataclass
class Search:
    """The search for one problem's fastest schedule.

    Attributes:
        space: the candidates.
        use: what it works with.
        first: schedules to try before any other, such as one found earlier.
        wrong: schedules whose values were wrong.
        refused: schedules that could not be built or launched, and why.
        complete: nothing within reach was left untried.
    """

    space: Space
    use: Tools
    first: Sequence[Schedule] = ()
    wrong: list[Schedule] = field(default_factory=list)
    refused: dict[Schedule, str] = field(default_factory=dict)
    complete: bool = False
    _served: Candidate = field(init=False)
    _predicted: dict[Schedule, float] = field(init=False, default_factory=dict)
    _kernels: dict[Schedule, Kernel] = field(init=False, default_factory=dict)
    _times: dict[Schedule, list[float]] = field(init=False, default_factory=dict)
    _finalists: list[Schedule] = field(init=False, default_factory=list)
    _reported: Schedule | None = field(init=False, default=None)

    def run(self) -> None:
        """Search until nothing is left or the time is up; what was found is reported whenever it gets better.

        Raises:
            TuningError: the heuristics' own kernel is wrong, or the GPU failed.
        """
        self._begin()
        final_s = FINAL_SHARE * self.use.left_s()
        waiting = self.space.shipped()
        limit_us = PREDICTED_WITHIN * min(waiting[0].predicted_us, self._served.predicted_us)
        expanded: set[Schedule] = set()
        while waiting and self.use.left_s() > final_s:
            self._try([c for c in waiting if c.predicted_us <= limit_us], final_s)
            waiting = self._around_the_best(expanded, limit_us)
        self.complete = not waiting and self.use.left_s() > final_s
        self._final()

    @property
    def entry(self) -> TunedEntry | None:
        """The best so far; None while there is no time of the heuristics' choice."""
        if not self._times or self._served.schedule not in self._times:
            return None
        served = self._timed(self._served.schedule)
        best = min((self._timed(s) for s in self._settled()), key=lambda timed: timed.us)
        if best.us > served.us * (1 - MARGIN):
            best = served
        n, k = (int(self.space.spec.problem.dims[name]) for name in ("N", "K"))
        return TunedEntry(self.space.m, n, k, best, served, len(self._times))

    def _begin(self) -> None:
        """Time the heuristics' choice, which all others are compared with, and then what is known already."""
        self._served = self.space.served()
        schedule = self._served.schedule
        self._predicted[schedule] = self._served.predicted_us
        self._kernels[schedule] = self.use.make(schedule)
        self._measure(schedule, waiting=1)
        self._require_served()
        known = []
        for earlier in self.first:
            try:
                known.append(self.space.priced(earlier))
            except GemmgenError as error:
                self.refused[earlier] = error.what
        self._try(known, 0.0)
        self._report()

    def _require_served(self) -> None:
        """Raise TuningError if the heuristics' choice, with which others are compared, is wrong or cannot run."""
        schedule = self._served.schedule
        if schedule not in self._times:
            raise TuningError(
                "the kernel that serves this problem without tuning is wrong or cannot run",
                where=f"M={self.space.m}",
                got=self.refused.get(schedule, f"wrong values with {schedule}"),
                need="a right result to compare with",
                fix="run `gemmgen verify` on the spec, and report it",
            )

    def _try(self, candidates: Sequence[Candidate], reserve_s: float) -> None:
        """Compile and measure those that are new, while more than ``reserve_s`` are left."""
        fresh = {c.schedule: c.predicted_us for c in candidates if c.schedule not in self._predicted}
        waiting = list(fresh)
        for start in range(0, len(waiting), self.use.jobs):
            if self.use.left_s() <= reserve_s:
                return
            batch = waiting[start : start + self.use.jobs]
            self._predicted.update((schedule, fresh[schedule]) for schedule in batch)
            self._compile(batch)
            for index, schedule in enumerate(batch):
                if schedule in self._kernels and self.use.left_s() > reserve_s:
                    self._measure(schedule, len(waiting) - start - index)
                    self._report()

    def _compile(self, schedules: Sequence[Schedule]) -> None:
        """Compile several schedules at once. Nothing is timed meanwhile: threads would delay its launches."""
        with ThreadPoolExecutor(max_workers=self.use.jobs) as pool:
            for schedule, done in [(schedule, pool.submit(self.use.make, schedule)) for schedule in schedules]:
                try:
                    self._kernels[schedule] = done.result()
                except GemmgenError as error:
                    self.refused[schedule] = error.what

    def _measure(self, schedule: Schedule, waiting: int) -> None:
        """Check a kernel's values, and time it if they are right."""
        kernel, measurer = self._kernels[schedule], self.use.measurer
        self.use.progress(len(self._times), waiting, self.entry)
        try:
            if measurer.check(kernel):
                us = measurer.time_us(kernel)
                self._times.setdefault(schedule, []).append(us)
            else:
                self.wrong.append(schedule)
                self._times.pop(schedule, None)
        except (DriverError, RuntimeError) as error:
            self._require_device(schedule, error)
            self.refused[schedule] = str(error)

    def _require_device(self, failed: Schedule, error: Exception) -> None:
        """Raise TuningError if the GPU does not work any more after an error: an illegal access ends its context."""
        try:
            works = failed == self._served.schedule or self.use.measurer.check(self._kernels[self._served.schedule])
        except (DriverError, RuntimeError):
            works = False
        if not works:
            raise TuningError(
                "the GPU failed while a schedule was measured; what was found before is kept",
                where=f"M={self.space.m}",
                got=f"{failed}: {error}",
                need="a GPU that works",
                fix="tune again, and report the schedule",
            ) from error

    def _around_the_best(self, expanded: set[Schedule], limit_us: float) -> list[Candidate]:
        """Untried neighbours of the fastest schedules that were not expanded yet; empty when there are none."""
        fastest = sorted(self._times, key=lambda schedule: self._timed(schedule).us)[:EXPANDED]
        for schedule in fastest:
            near = self._timed(schedule).us <= EXPANDED_WITHIN * self._timed(fastest[0]).us
            if schedule in expanded or not near:
                continue
            expanded.add(schedule)
            around = [c for c in self.space.neighbours(schedule) if c.predicted_us <= limit_us]
            fresh = [c for c in around if c.schedule not in self._predicted]
            if fresh:
                return fresh
        return []

    def _final(self) -> None:
        """Time the fastest ones again, turn about: the least of many single timings is partly luck."""
        fastest = sorted(self._times, key=lambda schedule: self._timed(schedule).us)[:FINALISTS]
        finalists = list(dict.fromkeys([self._served.schedule, *fastest]))
        for _ in range(FINAL_ROUNDS if len(finalists) > 1 else 0):
            for schedule in [other for other in finalists if other in self._times]:
                if self.use.left_s() <= 0:
                    break
                self._measure(schedule, waiting=1)
                self._require_served()
            else:
                self._finalists = [schedule for schedule in finalists if schedule in self._times]
        self._report(always=True)

    def _settled(self) -> list[Schedule]:
        """Those that may win: the finalists once each was timed again, before that all."""
        return [schedule for schedule in self._finalists if schedule in self._times] or list(self._times)

    def _timed(self, schedule: Schedule) -> Timed:
        return Timed(schedule, statistics.median(self._times[schedule]), self._predicted[schedule])

    def _report(self, always: bool = False) -> None:
        """Hand on the entry if its schedule is another one than before."""
        entry = self.entry
        if entry is not None and (always or entry.best.schedule != self._reported):
            self._reported = entry.best.schedule
            self.use.found(entry)
