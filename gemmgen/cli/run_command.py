"""``gemmgen run``: quantise, compile, run, check and time on this machine's GPU; without one, compile and say so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemmgen.api import default_target
from gemmgen.cli.build import Request, TargetBuild, build, choose_targets, print_refused, print_resources, request
from gemmgen.cli.measurement import Measurement, measure
from gemmgen.cli.output import console, print_json, print_line, print_table
from gemmgen.errors import GemmgenError, SpecError
from gemmgen.gpu_problem import why_not_executed

if TYPE_CHECKING:
    from gemmgen.verification import Verification


EMULATED_PRODUCTS = 1 << 25
"""Multiplications of the largest problem that a run emulates: a few seconds."""


@dataclass(frozen=True)
class Report:
    """What a run showed.

    Attributes:
        asked: the spec and its dimensions.
        builds: the kernels that were compiled.
        refused: why some of the spec's targets were left out.
        obstacle: why nothing was executed; empty when something was.
        measured: what the GPU showed; None when no GPU executed anything.
        emulated: what the emulator showed instead, one per target; empty where the problem is too large for it.
    """

    asked: Request
    builds: list[TargetBuild]
    refused: list[GemmgenError]
    obstacle: str
    measured: Measurement | None
    emulated: list[Verification]

    @property
    def failed(self) -> bool:
        """Whether a kernel ran, or was emulated, and was wrong."""
        return (self.measured is not None and not self.measured.passed) or not all(run.ok for run in self.emulated)

    @property
    def compile_seconds(self) -> float:
        """Seconds to compile the kernels, or to find them in the cache."""
        return sum(built.seconds for built in self.builds)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "spec": self.asked.spec.name,
            "dims": self.asked.dims,
            "executed": self.measured is not None,
            "not_executed_because": self.obstacle or None,
            "passed": None if self.measured is None else self.measured.passed,
            "measurement": None if self.measured is None else self.measured.to_dict(),
            "emulated": [{"target": run.target, **check.to_dict()} for run in self.emulated for check in run.checks],
            "kernels": [kernel for built in self.builds for kernel in built.to_dicts()],
            "compile_seconds": self.compile_seconds,
            "left_out": [reason.as_dict() for reason in self.refused],
        }


def run_command(
    source: str, target: str | None, dims: dict[str, int], seed: int, tuned: Path | None, as_json: bool
) -> bool:
    """Run a spec; see ``gemmgen run --help``. Returns whether nothing was wrong."""
    asked = request(source, dims, tuned)
    if asked.m is None:
        raise SpecError(
            "dimension M has no size",
            where=asked.spec.position("problem.dims.M"),
            got="dynamic",
            need="an integer for M",
            fix="add --dim M=4096",
        )
    target = asked.target(target)
    native = target or default_target(asked.spec)
    obstacle = why_not_executed(native)
    targets, refused = choose_targets(asked.spec, target if obstacle else native)
    with console(stderr=True).status("compiling"):
        builds = [build(asked, name) for name in targets]
    measured = None if obstacle else measure(asked, native, seed)
    emulated = _emulated(asked, asked.m, targets, seed) if obstacle else []
    report = Report(asked, builds, refused, obstacle, measured, emulated)
    if as_json:
        print_json(report.to_dict())
    else:
        _print(report)
    return not report.failed


def _emulated(asked: Request, m: int, targets: list[str], seed: int) -> list[Verification]:
    """The problem on the emulator, for each target, if it is small enough."""
    sizes = (m, *(int(asked.spec.problem.dims[name]) for name in ("N", "K")))
    if math.prod(sizes) > EMULATED_PRODUCTS or min(sizes) == 0:
        return []
    from gemmgen.verification import verify

    with console(stderr=True).status("emulating"):
        options: dict[str, Any] = {"schedules": ("fifo",), "first_seed": seed, "tuned": asked.tuned}
        return [next(verify(asked.spec, m, name, **options)) for name in targets]


def _print_emulated(report: Report) -> None:
    if not report.emulated:
        print_line(f"Nothing was executed: {report.obstacle}. The kernels above are compiled, not run.", "bold yellow")
        print_line("The problem is too large for the emulator; `gemmgen verify` runs a small one on it.")
        return
    print_line(f"No GPU executed anything: {report.obstacle}. The emulator ran the kernels instead:", "bold yellow")
    for run in report.emulated:
        for check in run.checks:
            print_line(f"{run.target}: error {check.difference:.2e} (at most {check.tolerance:.0e}), "
                       f"{check.report.instructions} warp instructions, {len(check.report.findings)} findings",
                       "bold green" if check.ok else "bold red")  # fmt: skip


def _print(report: Report) -> None:
    print_resources(report.asked.title, report.builds)
    print_refused(report.refused)
    print_line(f"compiled (or found in the cache) in {report.compile_seconds:.2f} s")
    measured = report.measured
    if measured is None:
        _print_emulated(report)
        return
    rows = [("device", measured.device), ("error", f"{measured.error:.2e} (at most {measured.tolerance:.0e})")]
    if measured.time_us is not None:
        rows += [
            ("time", f"{measured.time_us:.2f} µs"),
            ("compute", f"{measured.tflops:.1f} TFLOP/s"),
            ("memory", f"{measured.gbytes_per_s:.0f} GB/s"),
        ]
    print_table("result", ("", "value"), rows)
    if measured.passed:
        print_line("passed", "bold green")
    else:
        print_line("FAILED: the result is wrong", "bold red")
