"""What each lever of a schedule is worth: the chosen kernel beside the best one that does without it, in the same run.

Run from the repository root on a Hopper GPU::

    python -m benchmarks.levers --shapes 1x2112x7168,128x576x7168,4096x7168x2048

A lever is switched off by a hint, as in a spec; the heuristics choose the rest again. Shapes whose chosen kernel does
not use a lever say nothing about it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gemmgen import compiler
from gemmgen.kernel import Kernel
from gemmgen.schedule import Schedule
from gemmgen.spec.loader import load_spec
from gemmgen.spec.model import GemmSpec, Raster, ScheduleHints

from . import compare
from .harness import Inputs, Launch, Layout, Shape, Timing, check, geometric_mean, make_inputs, time_launches

SPEC = "specs/fp8_gemm_nt.yaml"
TARGET = "sm_90a"
TURNS = 2
SHALLOW = 2
NO_HINTS = ScheduleHints()


@dataclass(frozen=True)
class Lever:
    """One lever: whether a schedule uses it, the hints that switch it off, and the order of scales if that does."""

    used: Callable[[Schedule], bool]
    off: ScheduleHints = NO_HINTS
    gathered: bool = False


LEVERS: dict[str, Lever] = {
    "swap A and B": Lever(lambda s: s.swap_ab, ScheduleHints(swap_ab=False)),
    "split-K": Lever(lambda s: s.split_k > 1, ScheduleHints(split_k=1)),
    "multicast": Lever(lambda s: s.cluster != (1, 1), ScheduleHints(cluster=(1, 1))),
    "raster order": Lever(lambda s: s.raster_group > 1, ScheduleHints(raster=Raster(group=1))),
    "promotion overlap": Lever(lambda s: s.promotion_overlap, ScheduleHints(promotion_overlap=False)),
    "promotion burst": Lever(lambda s: s.promotion_burst > 0, ScheduleHints(promotion_burst=0)),
    "lookahead": Lever(lambda s: s.lookahead, ScheduleHints(lookahead=False)),
    "unroll": Lever(lambda s: s.unroll > 0, ScheduleHints(unroll=0)),
    "scales ahead": Lever(lambda s: s.scales_ahead, ScheduleHints(scales_ahead=False)),
    "columns dealt in runs": Lever(lambda s: s.deal_columns, ScheduleHints(deal_columns=False)),
    "B's lines leave L2 first": Lever(lambda s: s.evict_first, ScheduleHints(evict_first=False)),
    "dependent launch": Lever(lambda s: s.pdl, ScheduleHints(pdl=False)),
    "ring depth": Lever(lambda s: s.stages > SHALLOW, ScheduleHints(stages=SHALLOW)),
    "row scales by the copy engine": Lever(lambda s: s.scale_copy == "bulk", gathered=True),
}


@dataclass(frozen=True)
class Row:
    """One shape and lever; times are microseconds, ``worth`` is the time without over the time with the lever."""

    shape: str
    lever: str
    schedule: str
    without: str
    us: float
    without_us: float
    diff: float

    @property
    def worth(self) -> float:
        """More than 1: the lever saves time."""
        return self.without_us / self.us


def switched_off(spec: GemmSpec, m: int, lever: Lever) -> tuple[Schedule, Schedule] | None:
    """The schedule that a spec's plan has for M, and the one without the lever; None if that is no change.

    Raises:
        ScheduleError: no schedule does without the lever.
    """
    chosen = _served(spec, m)
    if not lever.used(chosen):
        return None
    copy = "lanes" if lever.gathered else "bulk"
    without = _served(replace(spec, schedule=lever.off), m, copy)
    return None if without == chosen else (chosen, without)


def _served(spec: GemmSpec, m: int, scale_copy: str = "bulk") -> Schedule:
    entries = compiler.plan(spec, TARGET, scale_copy)
    return next(entry.schedule for entry in reversed(entries) if entry.m_min <= m)


def measure(shape: Shape) -> Iterator[Row]:
    """Every lever that the chosen kernel of a shape uses; both kernels are timed in turns."""
    spec = load_spec(SPEC).bind(N=shape.n, K=shape.k)
    inputs = _inputs(shape, gathered=False)
    shipped = _launches(Kernel(spec, TARGET), inputs)
    for name, lever in LEVERS.items():
        found = switched_off(spec, shape.m, lever)
        if found is None:
            continue
        others = _inputs(shape, gathered=True) if lever.gathered else inputs
        launches = _launches(Kernel(replace(spec, schedule=lever.off), TARGET), others)
        error = max(check(shipped[0], inputs[0]), check(launches[0], others[0]))
        turns = [(time_launches(shipped), time_launches(launches)) for _ in range(TURNS)]
        with_us, without_us = (Timing.mean(times).median_us for times in zip(*turns, strict=True))
        yield Row(str(shape), name, str(found[0]), str(found[1]), with_us, without_us, error)


def _inputs(shape: Shape, gathered: bool) -> list[Inputs]:
    layout = Layout(sa_mn_major=False) if gathered else None
    return [make_inputs(shape, seed, layout=layout) for seed in range(shape.sets)]


def _launches(kernel: Kernel, inputs: Sequence[Inputs]) -> list[Launch]:
    return [kernel.bind(x.a, x.sa, x.b, x.sb, out=x.out) for x in inputs]


def table(rows: Sequence[Row]) -> str:
    """A line per lever: shapes, geometric mean, least and most that it is worth."""
    lines = [f"{'lever':32} {'shapes':>6} {'worth':>7} {'least':>7} {'most':>7}"]
    for name in dict.fromkeys(row.lever for row in rows):
        worth = [row.worth for row in rows if row.lever == name]
        lines.append(f"{name:32} {len(worth):6} {geometric_mean(worth):7.3f} {min(worth):7.3f} {max(worth):7.3f}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table, write every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="", metavar="MxNxK,…", help="these instead of the recorded 63")
    parser.add_argument("--budget", type=float, default=120.0, help="seconds after which no shape is begun")
    parser.add_argument("--out", type=Path, default=compare.RESULTS, help="folder of the results")
    options = parser.parse_args(argv)
    started, rows = time.monotonic(), []
    for shape in compare.baseline_shapes(options.shapes):
        if time.monotonic() - started > options.budget:
            print(f"out of time before {shape}")
            break
        rows += measure(shape)
    about: dict[str, Any] = {"machine": compare.machine(), "rows": [vars(row) | {"worth": row.worth} for row in rows]}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "levers.json").write_text(json.dumps(about, indent=1))
    print(table(rows))
    return 1 if any(not row.diff < compare.DIFF_LIMIT for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
