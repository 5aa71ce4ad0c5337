"""Hopper kernels that tests emulate, as they are or with one change to their CUDA."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from emulator_support import ptx_of_source
from sm100_cases import Case, operands_of, sizes_of

from gemmgen import compiler
from gemmgen.emulator import Report
from gemmgen.emulator.plan import emulate_plan
from gemmgen.reference import TOLERANCE, relative_difference
from gemmgen.spec.model import Raster
from gemmgen.verification import SCHEDULES

TARGET = "sm_90a"
NUM_SMS = 2
"""SMs that the emulated grids are made for: so few that a CTA goes from tile to tile."""


class Kernel(NamedTuple):
    """A kernel, and the problem that it is run on."""

    case: Case
    artifact: compiler.Artifact


def kernel(found: Case, scale_copy: str = "bulk", **hints: Any) -> Kernel:
    """A case's kernel with further hints; tiles are visited in one order, so that it is the same for every M."""
    fixed = {"evict_first": bool(found.spec.schedule.evict_first), "raster": Raster(along="m")}
    schedule = replace(found.spec.schedule, **{**fixed, **hints})
    found = replace(found, spec=replace(found.spec, schedule=schedule))
    (only,) = compiler.plan(found.spec, TARGET, scale_copy)
    return Kernel(found, compiler.build(found.spec, TARGET, only.schedule))


def emulated(
    found: Kernel, schedule: str, source: str | None = None, seed: int = 0
) -> tuple[Report, np.ndarray, float]:
    """Launch a kernel, or a mutant of it; returns the report, D, and its difference from the FP32 reference."""
    artifact, text = found.artifact, source or found.artifact.source
    operands, expected = operands_of(found.case, seed)
    report = emulate_plan(
        artifact.launch, ptx_of_source(text, artifact.name, "compute_90a"), operands, sizes_of(found.case),
        num_sms=NUM_SMS, seed=seed, schedule=schedule, source=text,
    )  # fmt: skip
    return report, operands["d"], relative_difference(operands["d"].astype(np.float32), expected)


def check_same_bits(kernels: Iterable[Kernel], schedules: Iterable[str] = SCHEDULES) -> None:
    """Assert that kernels of one case are right, that nothing is reported, and that D is the same to the bit."""
    kernels = list(kernels)
    for schedule in schedules:
        bits = []
        for kernel in kernels:
            report, d, difference = emulated(kernel, schedule)
            assert report.ok, str(report)
            assert difference < TOLERANCE
            bits.append(d.view(np.uint16))
        assert all(np.array_equal(bits[0], other) for other in bits[1:])


def caught(found: Kernel, mutant: str) -> bool:
    """Whether the emulator reports something about a mutant, or its values are wrong, under one of its schedulers."""
    assert mutant != found.artifact.source
    for schedule in SCHEDULES:
        report, _, difference = emulated(found, schedule, mutant)
        if not report.ok or not difference < TOLERANCE:
            return True
    return False


def changed(old: str, new: str, nth: int = 0, *, source: str) -> str:
    """The source with the ``nth`` ``old`` replaced."""
    parts = source.split(old)
    assert len(parts) > nth + 1, f"{old!r} does not occur {nth + 1} times"
    return old.join(parts[: nth + 1]) + new + old.join(parts[nth + 1 :])


def dropped(start: str, nth: int = 0, *, source: str) -> str:
    """The source without the ``nth`` line that starts so."""
    rows = source.splitlines(keepends=True)
    index = [index for index, row in enumerate(rows) if row.strip().startswith(start)][nth]
    return "".join(rows[:index] + rows[index + 1 :])


def moved(start: str, before: str, *, source: str) -> str:
    """The source with the first line that starts so put in front of the first line that starts with ``before``."""
    rows = source.splitlines(keepends=True)
    row, anchor = (next(row for row in rows if row.strip().startswith(text)) for text in (start, before))
    return source.replace(row, "", 1).replace(anchor, row + anchor, 1)
