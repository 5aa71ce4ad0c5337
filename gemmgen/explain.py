"""Why a shape is served by the kernel that serves it: what the target's model predicts, and what else was on offer."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gemmgen.api import SpecSource, compile, default_target
from gemmgen.backends.capability import Capability, capabilities, capability
from gemmgen.backends.model import KernelModel
from gemmgen.compiler import build
from gemmgen.errors import SpecError, TargetError
from gemmgen.schedule import Schedule
from gemmgen.spec import GemmSpec, load_spec
from gemmgen.tuning.file import TunedEntry, TunedFile, load_tuned


@dataclass(frozen=True)
class Explanation:
    """The kernel of a plan that serves one shape, and why.

    Attributes:
        spec: the spec's name.
        target: architecture.
        dims: M, N and K.
        m_min: smallest M that the kernel serves.
        m_max: largest M; None for no limit.
        schedule: every decision.
        model: what the target's model says.
        tuned: the measurements that the schedule comes from; none where the heuristics chose it.
        tuned_on: the GPU that measured.
    """

    spec: str
    target: str
    dims: dict[str, int]
    m_min: int
    m_max: int | None
    schedule: Schedule
    model: KernelModel
    tuned: tuple[TunedEntry, ...] = ()
    tuned_on: str = ""

    @property
    def title(self) -> str:
        """The spec's name, its dimensions and the target in one line."""
        return " ".join([self.spec, *(f"{name}={size}" for name, size in self.dims.items()), "on", self.target])

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why this kernel, and what bounds it, in sentences."""
        return (_choice(self), _time(self.model), _bound(self.model), _step(self.model))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "spec": self.spec,
            "target": self.target,
            "dims": self.dims,
            "m_min": self.m_min,
            "m_max": self.m_max,
            "schedule": self.schedule.to_dict(),
            "reasons": list(self.reasons),
            "model": self.model.to_dict(),
            "tuned": [entry.to_dict() for entry in self.tuned],
            "tuned_on": self.tuned_on or None,
        }


def explain(
    spec: SpecSource,
    target: str | None = None,
    *,
    scale_copy: str = "bulk",
    tuned: str | Path | TunedFile | None = None,
    **dims: int,
) -> Explanation:
    """Which kernel of a spec's plan serves a shape, and why. Needs no GPU and measures nothing.

    Args:
        spec: what ``gemmgen.compile`` takes.
        target: architecture; chosen as ``gemmgen.compile`` does if left out.
        scale_copy: ``bulk`` for row scales as ``gemmgen.quantize`` makes them, ``lanes`` for those of any strides.
        tuned: tuned schedules, as ``gemmgen.compile`` takes them.
        dims: sizes of the dimensions that the spec leaves dynamic, M included.

    Raises:
        SpecError: the spec is wrong, or a dimension is missing, unknown or zero.
        TargetError: the target cannot do what the spec asks, or has no model.
        ScheduleError: the spec's hints contradict each other or the hardware.
        TuningError: the tuned schedules cannot be read, or are for another spec or target.
    """
    loaded = load_spec(spec)
    sizes = _sizes(loaded.bind(**dims))
    rest = loaded.bind(**{name: size for name, size in dims.items() if name != "M"})
    tuned = load_tuned(tuned) if isinstance(tuned, str | Path) else tuned
    record = capability(target or (tuned.target if tuned is not None else default_target(rest)))
    _check_model(record)
    variant = compile(rest, record.name, tuned=tuned).plan(scale_copy=scale_copy).variant_for(sizes["M"])
    module = build(rest, record.name, variant.schedule).result.module
    model = import_module(_model_of(record))
    described = model.describe(rest, sizes["M"], variant.schedule, module, record, scale_copy)
    tuned_on = tuned.device if tuned is not None and variant.tuned else ""
    return Explanation(rest.name, record.name, sizes, variant.m_min, variant.m_max, variant.schedule, described,
                       variant.tuned, tuned_on)  # fmt: skip


def _sizes(spec: GemmSpec) -> dict[str, int]:
    """M, N and K of a spec whose dimensions are all known and not zero."""
    sizes: dict[str, int] = {}
    for name, size in spec.problem.dims.items():
        if not isinstance(size, int) or size < 1:
            raise SpecError(
                f"dimension {name} has no size" if not isinstance(size, int) else "an empty problem needs no kernel",
                where=spec.position(f"problem.dims.{name}"),
                got=f"{name}={size}",
                need=f"a positive integer for {name}",
                fix=f"give {name} a size, for example --dim {name}=4096",
            )
        sizes[name] = size
    return sizes


def _model_of(record: Capability) -> str:
    return f"gemmgen.backends.{record.dialect}.model"


def _check_model(record: Capability) -> None:
    """Raise TargetError if the target's backend has no model."""
    if find_spec(_model_of(record)) is None:
        able = [other.name for other in capabilities() if find_spec(_model_of(other)) is not None]
        raise TargetError(
            f"there is no model of {record.name} to explain with yet",
            where="target",
            got=record.name,
            need=" | ".join(able),
            fix="choose another target; `gemmgen inspect` shows this one's schedules",
        )


def _choice(explained: Explanation) -> str:
    model, schedule = explained.model, explained.schedule
    upper = "on" if explained.m_max is None else f"to {explained.m_max}"
    served = f"{schedule} serves M from {explained.m_min} {upper}"
    if explained.tuned:
        return f"{served}. {' '.join(_measured(entry, explained.tuned_on) for entry in explained.tuned)}"
    others = [other for other in model.candidates[1:] if other.deciding_us < model.candidates[0].deciding_us]
    if others:
        return f"{served}; at M = {model.deciding_m} the model would choose {others[0].schedule}."
    among = f"of {model.considered} schedules" if model.considered > 1 else "and no other schedule fits the hints"
    return f"{served}: at M = {model.deciding_m}, which decides for this M, it has the least predicted time {among}."


def _measured(entry: TunedEntry, device: str) -> str:
    text = f"It was tuned for M = {entry.m} on {device}: {entry.best.us:.2f} µs"
    if entry.best.schedule == entry.heuristic.schedule:
        return f"{text}, and it is the heuristics' choice for that M."
    return f"{text}, where the heuristics' choice, {entry.heuristic.schedule}, took {entry.heuristic.us:.2f}."


def _time(model: KernelModel) -> str:
    predicted, floor = model.prediction, model.floor
    text = (
        f"Predicted: {predicted.total_us:.2f} µs, {predicted.total_us / floor.total_us:.2f} times the floor of "
        f"{floor.total_us:.2f} µs, which is bound by {floor.bound}."
    )
    if predicted.total_us >= floor.total_us:
        return text
    if predicted.total_us >= floor.rested_us:
        rested = f"a rested one multiplies up to {floor.rested} times as fast"
        return f"{text} That is the rate of a chip under load; {rested}."
    return f"{text} Nothing is faster than that: the model errs here."


def _bound(model: KernelModel) -> str:
    predicted = model.prediction
    texts = {
        "steps": f"the {predicted.steps_per_cta} steps of K that follow each other",
        "memory": "moving the operands and the output",
        "base": "what a launch costs whatever its size",
        "tiles": "what nothing hides in each round: filling the ring, the epilogue, a reduction",
    }
    terms = {name: getattr(predicted, f"{name}_us") for name in texts}
    share = terms[predicted.bound] / predicted.total_us
    return f"The longest term is {predicted.bound}, {share:.0%} of it: {texts[predicted.bound]}."


def _step(model: KernelModel) -> str:
    engines = [found for found in model.resources if found.step_cycles is not None]
    nearest = max(engines, key=lambda found: found.step_cycles or 0.0)
    return (
        f"A step is predicted to take {model.step_cycles:.0f} cycles; the busiest engine in it is {nearest.name} with "
        f"{nearest.step_cycles:.0f}."
    )
