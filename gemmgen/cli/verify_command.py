"""``gemmgen verify`` and ``gemmgen emulate``: kernels on the emulator, with what it found."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gemmgen.cli.build import choose_targets, request
from gemmgen.cli.output import print_json, print_line, print_table, progress
from gemmgen.emulator import Report, launch_file
from gemmgen.errors import GemmgenError
from gemmgen.spec import load_spec
from gemmgen.verification import SCHEDULES, Verification, verify, with_default_dims

COLUMNS = ("target", "schedule", "seed", "difference", "warp instructions", "findings")


def verify_command(
    source: str,
    target: str | None,
    dims: dict[str, int],
    seeds: int,
    schedule: str | None,
    numerics: str,
    num_sms: int,
    scales: str,
    as_json: bool,
) -> bool:
    """Verify a spec; see ``gemmgen verify --help``. Returns whether every check passed."""
    asked = request(source, with_default_dims(load_spec(source), dims))
    assert asked.m is not None
    targets, refused = choose_targets(asked.spec, target)
    schedules = SCHEDULES if schedule is None else (schedule,)
    start, done = time.perf_counter(), []
    with progress(f"verifying {asked.title}", len(targets) * seeds * len(schedules)) as advance:
        for name in targets:
            steps = verify(asked.spec, asked.m, name, seeds=seeds, schedules=schedules, numerics=numerics,
                           num_sms=num_sms, scale_layout=scales)  # fmt: skip
            done.append(_finish(steps, advance))
    seconds = time.perf_counter() - start
    if as_json:
        print_json(_plain(asked.dims, done, refused, seconds))
    else:
        _print(asked.title, done, refused, seconds)
    return all(found.ok for found in done)


def emulate_command(ptx: Path, launch: Path, overrides: dict[str, Any], as_json: bool) -> bool:
    """Emulate a PTX file; see ``gemmgen emulate --help``. Returns whether nothing was found."""
    report = launch_file(ptx, launch, overrides={key: value for key, value in overrides.items() if value is not None})
    if as_json:
        print_json({"ok": report.ok, "completed": report.completed, "instructions": report.instructions,
                    "schedule": report.schedule, "seed": report.seed, "counters": report.counters,
                    "findings": [finding.as_dict() for finding in report.findings]})  # fmt: skip
    else:
        print_report(report)
    return report.ok


def print_report(report: Report) -> None:
    """What an emulated launch showed."""
    state = "completed" if report.completed else "did not complete"
    print_line(f"{state}: {report.instructions} warp instructions, schedule {report.schedule}, seed {report.seed}")
    for finding in report.findings:
        print_line(str(finding), "red")
    if report.ok:
        print_line("nothing found", "bold green")


def _finish(steps: Any, advance: Any) -> Verification:
    last = None
    for last in steps:
        advance(last)
    assert last is not None
    return last


def _plain(
    dims: dict[str, Any], done: Sequence[Verification], refused: Sequence[GemmgenError], seconds: float
) -> dict[str, Any]:
    return {
        "dims": dims,
        "ok": all(found.ok for found in done),
        "seconds": seconds,
        "kernels": [
            {"target": found.target, "schedule": found.variant.schedule.to_dict(), "ok": found.ok,
             "checks": [check.to_dict() for check in found.checks]}
            for found in done
        ],
        "left_out": [reason.as_dict() for reason in refused],
    }  # fmt: skip


def _print(title: str, done: Sequence[Verification], refused: Sequence[GemmgenError], seconds: float) -> None:
    for found in done:
        rows = [
            (found.target, check.report.schedule, check.report.seed, f"{check.difference:.2e}",
             check.report.instructions, len(check.report.findings) or "none")
            for check in found.checks
        ]  # fmt: skip
        print_table(f"{title}: {found.variant.schedule}", COLUMNS, rows)
        for check in found.checks:
            for finding in check.report.findings:
                print_line(f"{check.report.schedule}, seed {check.report.seed}: {finding}", "red")
    for reason in refused:
        print_line(f"left out: {reason.what} ({reason.where})", "yellow")
    checks = sum(len(found.checks) for found in done)
    verdict = "all values right, nothing found" if all(found.ok for found in done) else "FAILED"
    style = "bold green" if all(found.ok for found in done) else "bold red"
    print_line(f"{checks} emulated launches in {seconds:.1f} s: {verdict}", style)
