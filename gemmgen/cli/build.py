"""Compiling what a command was asked for: which targets, which kernels of the plan, and what to say about each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemmgen.cli.output import print_line, print_table, progress
from gemmgen.errors import GemmgenError, SpecError
from gemmgen.plan import Variant
from gemmgen.spec import GemmSpec, load_spec
from gemmgen.spec.support import unsupported_reason
from gemmgen.tuning.file import TunedFile, load_tuned

COLUMNS = ("target", "M", "schedule", "registers", "spills (B)", "shared (B)", "threads", "cluster", "cubin (B)",
           "FFMAs in bursts")  # fmt: skip


@dataclass(frozen=True)
class Request:
    """A spec with every dimension but M fixed, and the M to serve.

    Attributes:
        spec: M is left as the spec has it, so that all M share one plan.
        m: the M that was asked for; None for every M.
        tuned: measured schedules to use.
    """

    spec: GemmSpec
    m: int | None
    tuned: TunedFile | None = None

    @property
    def dims(self) -> dict[str, int | str]:
        """Every dimension, M included."""
        sizes = dict(self.spec.problem.dims)
        return sizes | ({"M": self.m} if self.m is not None else {})

    def target(self, given: str | None) -> str | None:
        """The target that was asked for: by name, or by tuned schedules for it; None for the spec's."""
        return given or (None if self.tuned is None else self.tuned.target)

    @property
    def title(self) -> str:
        """The spec's name and its dimensions in one line."""
        return " ".join([self.spec.name, *(f"{name}={size}" for name, size in self.dims.items())])


@dataclass(frozen=True)
class TargetBuild:
    """The compiled kernels of one target.

    Attributes:
        target: architecture.
        variants: compiled kernels, by ascending M.
        seconds: time to compile them all, or to find them in the cache.
    """

    target: str
    variants: tuple[Variant, ...]
    seconds: float

    def to_dicts(self) -> list[dict[str, Any]]:
        """One JSON value per kernel."""
        return [{"target": self.target, **variant_dict(variant)} for variant in self.variants]


def request(source: str, dims: dict[str, int], tuned: Path | None = None) -> Request:
    """The spec with its dimensions bound, and the tuned schedules in a file.

    Raises:
        SpecError: the spec or a dimension is wrong, or a dimension other than M is missing.
        TuningError: the file cannot be read.
    """
    spec = load_spec(source)
    whole = spec.bind(**dims)
    rest = spec.bind(**{name: size for name, size in dims.items() if name != "M"})
    missing = [name for name, size in whole.problem.dims.items() if name != "M" and not isinstance(size, int)]
    if missing:
        raise SpecError(
            f"dimension {missing[0]} has no size",
            where=whole.position(f"problem.dims.{missing[0]}"),
            got=whole.problem.dims[missing[0]],
            need=f"an integer for {', '.join(missing)}; M alone may stay dynamic",
            fix=f"add {' '.join(f'--dim {name}=4096' for name in missing)}",
        )
    m = whole.problem.dims["M"]
    return Request(rest, m if isinstance(m, int) else None, None if tuned is None else load_tuned(tuned))


def choose_targets(spec: GemmSpec, target: str | None) -> tuple[list[str], list[GemmgenError]]:
    """The targets to compile for, and why the spec's other targets are left out.

    Raises:
        TargetError: the target that was asked for, or each of the spec's, cannot be compiled.
    """
    wanted = [target] if target else list(spec.targets)
    reasons = {name: unsupported_reason(spec, name) for name in wanted}
    able = [name for name in wanted if reasons[name] is None]
    refused = [reason for reason in reasons.values() if reason is not None]
    if not able:
        raise refused[0]
    return able, refused


def build(asked: Request, target: str, jobs: int | None = None) -> TargetBuild:
    """Compile the kernel for the M that was asked for, or the whole plan.

    Raises:
        GemmgenError: the compiler or NVRTC refused.
    """
    import gemmgen

    start = time.perf_counter()
    plan = gemmgen.compile(asked.spec, target, tuned=asked.tuned).plan()
    if asked.m is not None:
        variants = (plan.variant_for(asked.m),)
        variants[0].binary()
    else:
        variants = plan.variants
        with progress(f"compiling {asked.spec.name} for {target}", len(variants)) as advance:
            plan.compile(jobs, advance)
    return TargetBuild(target, variants, time.perf_counter() - start)


def variant_dict(variant: Variant) -> dict[str, Any]:
    """What is known about one compiled kernel, as JSON values."""
    binary = variant.binary()
    return {
        "m_min": variant.m_min,
        "m_max": variant.m_max,
        "schedule": variant.schedule.to_dict(),
        "resources": binary.resources.to_dict(),
        "entry": binary.launch.entry,
        "threads": binary.launch.threads,
        "cluster": binary.launch.cluster,
        "smem_bytes": binary.launch.smem_bytes,
        "cubin_bytes": len(binary.cubin),
        "promotion_burst": binary.promotion_burst,
    }


def m_range(variant: Variant) -> str:
    """The M that a kernel serves: ``1–64``, ``65–``."""
    return f"{variant.m_min}–{'' if variant.m_max is None else variant.m_max}"


def print_resources(title: str, builds: Sequence[TargetBuild]) -> None:
    """The resource table of compiled kernels, and what ptxas warned about."""
    rows = []
    for built in builds:
        for variant in built.variants:
            binary = variant.binary()
            used = binary.resources
            spills = used.spill_store_bytes + used.spill_load_bytes
            shared = binary.launch.smem_bytes + used.static_smem_bytes
            rows.append((built.target, m_range(variant), variant.schedule, used.registers, spills, shared,
                         binary.launch.threads, binary.launch.cluster, len(binary.cubin),
                         binary.promotion_burst))  # fmt: skip
    print_table(title, COLUMNS, rows)
    for built in builds:
        for variant in built.variants:
            for warning in variant.binary().resources.warnings:
                print_line(f"ptxas, M {m_range(variant)}: {warning}", "yellow")


def print_refused(refused: Sequence[GemmgenError]) -> None:
    """Why some of the spec's targets were left out."""
    for reason in refused:
        print_line(f"left out: {reason.what}", "yellow")
