"""``gemmgen.tune``: search the legal schedules of some problems on this machine's GPU, and keep the fastest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemmgen.api import SpecSource, default_target
from gemmgen.errors import SpecError, TuningError
from gemmgen.gpu_problem import random_sets, why_not_executed
from gemmgen.reference import gemm_reference, relative_difference, tolerance
from gemmgen.runtime import driver
from gemmgen.schedule import Schedule
from gemmgen.spec import GemmSpec, load_spec
from gemmgen.spec.support import unsupported_reason
from gemmgen.timing import time_launches_us
from gemmgen.tuning.file import TunedEntry, TunedFile, load_tuned, spec_identity
from gemmgen.tuning.search import Measurer, Search, Tools, compile_fixed
from gemmgen.tuning.space import Space

if TYPE_CHECKING:
    from gemmgen.kernel import Kernel

BUDGET_S = 60.0
REST_S = 0.1
"""How long the chip idles before each timing."""
HANG_S, POLL_S = 20.0, 1e-4
"""How long a first launch may take, and how often it is asked whether it has ended."""


@dataclass(frozen=True)
class Outcome:
    """How the search for one M went.

    Attributes:
        entry: what was found.
        wrong: schedules whose values were wrong; they were not timed.
        refused: schedules that could not be built or launched, and why.
        complete: nothing within reach was left untried when the time was up.
    """

    entry: TunedEntry
    wrong: tuple[Schedule, ...]
    refused: dict[Schedule, str]
    complete: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **self.entry.to_dict(),
            "wrong": [schedule.to_dict() for schedule in self.wrong],
            "refused": [{"schedule": s.to_dict(), "why": why} for s, why in self.refused.items()],
            "complete": self.complete,
        }


@dataclass(frozen=True)
class TuningResult:
    """What tuning found.

    Attributes:
        file: all entries, those that the file had before included; ``gemmgen.compile(tuned=…)`` takes it.
        outcomes: one per M that was tuned, in the order given.
        left_out: the M for which no time was left.
        interrupted: it was stopped from outside before the time was up.
    """

    file: TunedFile
    outcomes: tuple[Outcome, ...]
    left_out: tuple[int, ...]
    interrupted: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        own = {"spec": self.file.spec, "target": self.file.target, "device": self.file.device}
        return {
            **own,
            "problems": [outcome.to_dict() for outcome in self.outcomes],
            "left_out_m": list(self.left_out),
            "interrupted": self.interrupted,
        }


@dataclass(frozen=True)
class Progress:
    """Where a search is: how many schedules of one M were timed, how many wait, and the best so far."""

    m: int
    timed: int
    waiting: int
    best: TunedEntry | None


def require_end(kernel: Kernel, ended: Callable[[], bool]) -> None:
    """Wait for a launch, but not for ever: nothing stops a kernel that hangs but the end of its process.

    Raises:
        TuningError: it did not end within ``HANG_S`` seconds.
    """
    deadline = time.monotonic() + HANG_S
    while not ended():
        if time.monotonic() > deadline:
            raise TuningError(
                "a kernel does not end; what was found before is kept",
                where=str(next(iter(kernel.plan())).schedule),
                got=f"no end after {HANG_S:g} s",
                need="a kernel that ends",
                fix="end this process, which frees the GPU; tune again, and report the schedule",
            )
        time.sleep(POLL_S)


class GpuMeasurer:
    """Measures on this machine's first GPU, with torch: values, and times as ``gemmgen run`` does, on a rested chip.

    Args:
        where: torch's name of the device that holds the inputs.
    """

    def __init__(self, where: str = "cuda") -> None:
        self.device = driver.device_properties(0).name
        self._where = where
        self._sets: list[tuple[Any, Any, Any]] = []
        self._expected: Any = None

    def prepare(self, spec: GemmSpec, m: int) -> None:
        """Draw the inputs, enough sets to keep L2 cold, and compute what the first one gives."""
        n, k = (int(spec.problem.dims[name]) for name in ("N", "K"))
        self._sets, self._expected = [], None
        self._sets = random_sets(spec, m, n, k, seed=0, device=self._where)
        a, b, _ = self._sets[0]
        self._expected = gemm_reference(a, b, spec.problem.layout)

    def check(self, kernel: Kernel) -> bool:
        """Whether the kernel overwrites an output full of NaN with the right values."""
        a, b, out = self._sets[0]
        out.fill_(float("nan"))
        kernel(a, b, out=out)
        if out.is_cuda:
            require_end(kernel, _recorded_event().query)
        return relative_difference(out, self._expected) <= tolerance(kernel.spec, kernel.target)

    def time_us(self, kernel: Kernel) -> float:
        """Median microseconds of one launch in a CUDA graph that goes round the input sets."""
        return time_launches_us([kernel.bind(a, b, out=out) for a, b, out in self._sets], REST_S)


def _recorded_event() -> Any:
    """An event that is reached when everything on torch's current stream is done."""
    import torch

    event = torch.cuda.Event()
    event.record()
    return event


def tune(
    spec: SpecSource,
    target: str | None = None,
    *,
    budget_s: float = BUDGET_S,
    out: str | Path | None = None,
    jobs: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    measurer: Measurer | None = None,
    clock: Callable[[], float] = time.monotonic,
    **dims: int | Sequence[int],
) -> TuningResult:
    """Search the schedules of a spec for given M, N and K on this machine's GPU.

    Every candidate's values are checked against an FP32 reference before it is timed. An interrupt (Ctrl-C) ends the
    search; what was found until then is returned, and is in the file.

    Args:
        spec: what ``gemmgen.compile`` takes.
        target: architecture; chosen as ``gemmgen.compile`` does if left out.
        budget_s: seconds for all M together; nothing is begun after them.
        out: file to keep the results in, written after every improvement; one that exists is added to.
        jobs: kernels compiled at a time; the number of processors by default.
        progress: called before each measurement.
        measurer: stands in for the GPU.
        clock: seconds, ascending.
        dims: sizes; M may be several.

    Raises:
        SpecError: the spec is wrong, or a dimension is missing, unknown or zero.
        TargetError: the target cannot do what the spec asks.
        TuningError: there is no GPU, it failed, or ``out`` is damaged or holds something else.
    """
    bound, sizes = _problems(load_spec(spec), dims)
    chosen = target or default_target(bound)
    reason = unsupported_reason(bound, chosen)
    if reason is not None:
        raise reason
    path = None if out is None else Path(out)
    earlier = _earlier(path, bound, chosen)
    device = measurer or _gpu(chosen)
    file = earlier or TunedFile(bound.name, spec_identity(bound), chosen, device.device)
    if file.device != device.device:
        raise TuningError("the file's times are another GPU's", where=file.source, got=file.device, need=device.device,
                          fix="choose another file with -o")  # fmt: skip
    run = _Run(bound, file, path, device, max(1, jobs or os.cpu_count() or 1), progress, clock, clock() + budget_s)
    return run.tune(sizes)


@dataclass
class _Run:
    """One call of ``tune``, after its arguments were checked."""

    spec: GemmSpec
    file: TunedFile
    path: Path | None
    measurer: Measurer
    jobs: int
    progress: Callable[[Progress], None] | None
    clock: Callable[[], float]
    deadline: float

    def tune(self, sizes: Sequence[int]) -> TuningResult:
        """Tune each M for its share of the time that is left."""
        outcomes: list[Outcome] = []
        interrupted = False
        for index, m in enumerate(sizes):
            left_s = self.deadline - self.clock()
            if left_s <= 0:
                break
            search = self._search(m, self.clock() + left_s / (len(sizes) - index))
            try:
                self._prepare(m)
                search.run()
            except KeyboardInterrupt:
                interrupted = True
            if search.entry is not None:
                self._keep(search.entry)
                refused = dict(search.refused)
                outcomes.append(Outcome(search.entry, tuple(search.wrong), refused, search.complete))
            if interrupted:
                break
        tuned = {outcome.entry.m for outcome in outcomes}
        return TuningResult(self.file, tuple(outcomes), tuple(m for m in sizes if m not in tuned), interrupted)

    def _prepare(self, m: int) -> None:
        try:
            self.measurer.prepare(self.spec, m)
        except RuntimeError as error:
            raise TuningError("the problem's inputs cannot be made on this GPU", where=f"M={m}", got=error,
                              need="room for several sets of inputs", fix="tune a smaller M") from error  # fmt: skip

    def _search(self, m: int, deadline: float) -> Search:
        space = Space(self.spec, m, self.file.target)
        n, k = (int(self.spec.problem.dims[name]) for name in ("N", "K"))
        earlier = self.file.entry_for(m, n, k, space.scale_copy)
        tools = Tools(
            self.measurer,
            lambda schedule: compile_fixed(self.spec, self.file.target, schedule),
            self.jobs,
            lambda: deadline - self.clock(),
            self._keep,
            lambda timed, waiting, best: self.progress and self.progress(Progress(m, timed, waiting, best)),
        )
        return Search(space, tools, () if earlier is None else (earlier.best.schedule,))

    def _keep(self, entry: TunedEntry) -> None:
        self.file = self.file.with_entry(entry)
        if self.path is not None:
            self.file.save(self.path)


def _problems(spec: GemmSpec, dims: Mapping[str, int | Sequence[int]]) -> tuple[GemmSpec, tuple[int, ...]]:
    """The spec with N and K fixed, and the M to tune for; M stays as the spec has it, as in the plan that is tuned."""
    given = dims.get("M", spec.problem.dims["M"])
    several = () if isinstance(given, str) else (given,) if isinstance(given, int) else tuple(dict.fromkeys(given))
    one_each: dict[str, Any] = {name: size for name, size in dims.items() if name != "M"}
    rest = spec.bind(**one_each)
    for m in several or (None,):
        sizes = spec.bind(**one_each, M=m).problem.dims if m is not None else {**rest.problem.dims, "M": "none"}
        for name in ("M", "N", "K"):
            size = sizes[name]
            if not isinstance(size, int) or size < 1:
                where, need = spec.position(f"problem.dims.{name}"), f"a positive integer for {name}"
                raise SpecError(f"dimension {name} has no size to tune for", where=where, got=size, need=need,
                                fix=f"give {name} a size, for example --dim {name}=4096")  # fmt: skip
    return rest, several


def _earlier(path: Path | None, spec: GemmSpec, target: str) -> TunedFile | None:
    """What the file to be written holds already."""
    if path is None or not path.exists():
        return None
    found = load_tuned(path)
    found.check_fits(spec, target)
    return found


def _gpu(target: str) -> GpuMeasurer:
    """This machine's GPU, if it can run kernels for the target."""
    obstacle = why_not_executed(target)
    if obstacle:
        raise TuningError("tuning measures, and nothing can be measured here", where="gemmgen tune", got=obstacle,
                          need=f"a GPU that runs {target}, and torch with CUDA",
                          fix="tune on such a machine; the file it writes can be used anywhere")  # fmt: skip
    return GpuMeasurer()
