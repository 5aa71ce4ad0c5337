"""Run Blackwell's kernels on the emulator: every layout, scale format and kind of problem, with and without CTA pairs.

Each of the 384 combinations runs with every seed under every scheduler, some seeds at a time, so that an interrupted
run has covered all of them equally. Nothing else can execute these kernels where there is no Blackwell GPU. From the
repository root, on two cores (each shard appends a line per round of seeds to its file)::

    python -m benchmarks.blackwell_soak --seeds 50 --shard 0/2 --output soak_0.jsonl &
    python -m benchmarks.blackwell_soak --seeds 50 --shard 1/2 --output soak_1.jsonl
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemmgen.spec import GemmSpec, load_spec
from gemmgen.spec.model import ScheduleHints
from gemmgen.spec.vocabulary import LAYOUTS
from gemmgen.verification import SCHEDULES, verify

TARGET = "sm_100a"
NUM_SMS = 2
"""SMs that the emulated grids are made for: so few that a CTA, or a pair of them, visits several tiles."""
FORMATS: dict[str, tuple[str, tuple[Any, Any] | None]] = {
    "f32 1x128 128x128": ("fp8_gemm_nt", ((1, 128), (128, 128))),
    "f32 1x128 1x128": ("fp8_gemm_nt_1d1d", ((1, 128), (1, 128))),
    "ue8m0 1x32 1x32": ("mxfp8_gemm_nt", ((1, 32), (1, 32))),
    "ue8m0 1x128 1x128": ("mxfp8_gemm_nt", ((1, 128), (1, 128))),
    "ue8m0 1x32 1x128": ("mxfp8_gemm_nt", ((1, 32), (1, 128))),
    "ue8m0 1x128 1x32": ("mxfp8_gemm_nt", ((1, 128), (1, 32))),
    "bf16": ("bf16_gemm_nt", None),
    "f16": ("f16_gemm_nt", None),
}
"""Shipped specs, and the blocks of A's and B's scales."""
PROBLEMS: dict[str, tuple[tuple[int, int, int], bool]] = {
    "no tails": ((256, 64, 256), False),
    "tails": ((130, 80, 176), False),
    "one row": ((1, 144, 176), True),
    "one block of K": ((128, 64, 128), False),
    "many tiles per CTA": ((140, 200, 144), False),
    "odd tiles in a cluster": ((300, 64, 144), False),
}
"""M, N and K, and whether rows lie on the tensor core's N side."""


@dataclass(frozen=True)
class Case:
    """One combination: a spec whose hints decide the schedule, and the rows of the problem."""

    label: str
    spec: GemmSpec
    m: int


def cases() -> list[Case]:
    """Every combination."""
    grid = itertools.product(FORMATS, LAYOUTS, (1, 2), PROBLEMS)
    return [_case(form, layout, group, problem) for form, layout, group, problem in grid]


def _case(form: str, layout: str, cta_group: int, problem: str) -> Case:
    name, blocks = FORMATS[form]
    (m, n, k), swapped = PROBLEMS[problem]
    spec = load_spec(name)
    step = 128 if blocks else 64
    tile = (64, 128, step) if swapped else (128, 64, step)
    operands = spec.operands if blocks is None else _with_blocks(spec, *blocks)
    spec = dataclasses.replace(
        spec,
        problem=dataclasses.replace(spec.problem, layout=layout),
        operands=operands,
        schedule=ScheduleHints(tile=tile, swap_ab=swapped, cta_group=cta_group, stages=2),
        targets=(TARGET,),
    )
    return Case(f"{form}, {layout}, cta_group {cta_group}, {problem}", spec.bind(N=n, K=k), m)


def _with_blocks(spec: GemmSpec, a: tuple[int, int], b: tuple[int, int]) -> Any:
    found = spec.operands
    assert found.a.scale is not None
    assert found.b.scale is not None
    return dataclasses.replace(
        found,
        a=dataclasses.replace(found.a, scale=dataclasses.replace(found.a.scale, block=a)),
        b=dataclasses.replace(found.b, scale=dataclasses.replace(found.b.scale, block=b)),
    )


def run(mine: list[Case], seeds: range, scales: str = "mn") -> dict[str, Any]:
    """Every case with some seeds under every scheduler; ``scales`` is their order, see ``verification.verify``."""
    start, launches, worst, bad = time.monotonic(), 0, 0.0, []
    for case in mine:
        *_, done = verify(case.spec, case.m, TARGET, seeds=len(seeds), first_seed=seeds.start, num_sms=NUM_SMS,
                          scale_layout=scales)  # fmt: skip
        launches += len(done.checks)
        worst = max(worst, *(check.difference for check in done.checks))
        bad += [f"{case.label}, {c.report.schedule}: {c.report}" for c in done.checks if not c.ok]
    return {"seeds": [seeds.start, seeds.stop], "cases": len(mine), "launches": launches, "bad": bad,
            "worst_difference": worst, "seconds": round(time.monotonic() - start, 1)}  # fmt: skip


def main() -> int:
    """Run this shard's cases round by round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--round", type=int, default=10, help="seeds that a case runs with before the next case's turn")
    parser.add_argument("--shard", default="0/1", help="which of how many parts of the cases")
    parser.add_argument("--scales", choices=("mn", "k"), default="mn", help="order of scales: k has a warp gather them")
    parser.add_argument("--output", type=Path, help="file that gets a line of JSON per round")
    options = parser.parse_args()
    index, count = (int(part) for part in options.shard.split("/"))
    mine, failures = cases()[index::count], 0
    for first in range(0, options.seeds, options.round):
        seeds = range(first, min(first + options.round, options.seeds))
        found = run(mine, seeds, options.scales)
        failures += len(found["bad"])
        print(f"seeds {seeds.start} to {seeds.stop - 1}: {found['launches']} launches of {len(mine)} cases under "
              f"{', '.join(SCHEDULES)}: {len(found['bad'])} wrong or reported, worst difference "
              f"{found['worst_difference']:.2e}, {found['seconds']} s", flush=True)  # fmt: skip
        for text in found["bad"][:3]:
            print(text, flush=True)
        if options.output is not None:
            with options.output.open("a") as file:
                file.write(json.dumps(found) + "\n")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
