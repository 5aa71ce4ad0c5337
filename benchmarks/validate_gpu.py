"""Validate the dense FP8 kernel on a GPU: accuracy on recorded and random shapes, determinism, graphs, streams.

Run from the repository root::

    python -m benchmarks.validate_gpu                    # everything, a few minutes
    python -m benchmarks.validate_gpu --budget 60 --pairs 10 --out /tmp/results

Every result is compared with an f32 reference of the dequantised inputs by ``1 - 2<x,y> / (|x|^2 + |y|^2)``; outputs
are filled with NaN first and surrounded by guard elements that must not change.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from . import checks
from .checks import Case, Kernels
from .compare import DIFF_LIMIT, baseline_shapes, machine
from .harness import Layout, Shape

SPEC = "specs/fp8_gemm_nt.yaml"
ROWWISE_SPEC = "specs/fp8_gemm_nt_rowwise.yaml"
NO_PROMOTION_SPEC = "specs/fp8_gemm_nt_no_promotion.yaml"
PROMOTION_GAIN = 5.0
SHOWN_FAILURES = 15
RERUN_SHAPES = (
    "1x576x7168,16x2112x7168,64x7168x2048,100x4096x7168,128x32768x512,200x1000x1040,512x7168x2048,1000x2112x7168,"
    "2048x4096x7168,4096x7168x2048"
)
OUTLIER_SHAPE = Shape(256, 512, 16384)


@dataclass(frozen=True)
class Result:
    """One check: ``value`` is an error or a count and must be below ``limit``."""

    group: str
    name: str
    value: float
    limit: float
    note: str = ""

    @property
    def ok(self) -> bool:
        """False for NaN as well."""
        return self.value < self.limit


class Validation:
    """Runs checks until the budget is spent and collects their results."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.kernels = Kernels(options.spec)
        self.results: list[Result] = []
        self.left_out: list[str] = []
        self._deadline = time.monotonic() + options.budget

    def run(self) -> None:
        """All groups, the cheapest and most telling first; a lost CUDA context ends it."""
        groups: dict[str, Callable[[str], None]] = {
            "recorded": self._recorded,
            "empty": self._empty,
            "graph": self._graph,
            "streams": self._streams,
            "promotion": self._promotion,
            "reruns": self._reruns,
            "random": self._random,
        }
        wanted = self.options.groups.split(",") if self.options.groups else list(groups)
        for name in wanted:
            try:
                groups[name](name)
            except torch.AcceleratorError as failure:
                self.results.append(Result(name, "CUDA context lost", math.nan, 0.0, str(failure)))
                return

    def _recorded(self, group: str) -> None:
        self._cases(group, (Case(shape, Layout()) for shape in baseline_shapes()))

    def _random(self, group: str) -> None:
        self._cases(group, checks.random_cases(self.options.seed, self.options.pairs, self.options.per_pair))

    def _cases(self, group: str, cases: Iterable[Case]) -> None:
        for seed, case in enumerate(cases, start=self.options.seed):
            self._check(group, str(case), checks.run_case, self.kernels, case, seed)

    def _empty(self, group: str) -> None:
        self._cases(group, (Case(shape, Layout()) for shape in (Shape(0, 576, 7168), Shape(100, 576, 0))))

    def _graph(self, group: str) -> None:
        for shape in (Shape(8, 768, 1536), Shape(300, 1536, 2560)):
            arguments = (self.options.spec, shape, self.options.seed)
            self._check(group, str(shape), checks.graph_first_call_error, *arguments)

    def _streams(self, group: str) -> None:
        pair = (Shape(16, 576, 7168), Shape(48, 2112, 7168))
        self._check(group, "two streams", checks.two_streams_error, self.kernels, pair, self.options.seed)
        if torch.cuda.device_count() > 1:
            arguments = (self.kernels, Shape(512, 7168, 2048), self.options.seed)
            self._check(group, "second device", checks.other_device_error, *arguments)

    def _promotion(self, group: str) -> None:
        promoting, plain = Kernels(ROWWISE_SPEC), Kernels(NO_PROMOTION_SPEC)
        for outliers in (False, True):
            label = f"K=16384, {'outliers' if outliers else 'normal'}"
            data = (OUTLIER_SHAPE, self.options.seed, outliers)
            promoted = self._check(group, f"{label}: promoted", checks.outlier_error, promoting, *data, limit=math.inf)
            kept = self._check(group, f"{label}: not promoted", checks.outlier_error, plain, *data, limit=math.inf)
            self._check(group, f"{label}: ratio", lambda p=promoted, k=kept: p / k, limit=1 / PROMOTION_GAIN)

    def _reruns(self, group: str) -> None:
        for shape in baseline_shapes(RERUN_SHAPES):
            arguments = (self.kernels, shape, self.options.reruns, self.options.seed)
            self._check(group, f"{shape}, {self.options.reruns} reruns", checks.unequal_reruns, *arguments, limit=1)

    def _check(
        self, group: str, name: str, run: Callable[..., float], *arguments: Any, limit: float = DIFF_LIMIT
    ) -> float:
        """Run one check, keep its result, and return its value: NaN when it raised or was left out."""
        if time.monotonic() > self._deadline:
            self.left_out.append(f"{group}: {name}")
            return math.nan
        value, note = math.nan, ""
        try:
            value = float(run(*arguments))
        except torch.AcceleratorError:
            raise
        except Exception as failure:
            note = f"{type(failure).__name__}: {failure}"
            if self.options.traceback:
                traceback.print_exc()
        self.results.append(Result(group, name, value, limit, note))
        return value


def report(validation: Validation) -> str:
    """One line a group, then the first failures."""
    lines = [f"{'group':>10} {'passed':>9} {'largest':>9}"]
    for group in dict.fromkeys(r.group for r in validation.results):
        results = [r for r in validation.results if r.group == group]
        largest = max((r.value for r in results if not math.isnan(r.value)), default=math.nan)
        lines.append(f"{group:>10} {sum(r.ok for r in results):>4}/{len(results):<4} {largest:9.2e}")
    lines += [f"    {r.name}: {r.value:.2e}" for r in validation.results if r.group == "promotion"]
    failures = [r for r in validation.results if not r.ok]
    for r in failures[:SHOWN_FAILURES]:
        lines.append(f"FAILED {r.group}: {r.name}: {r.value:.3g}, limit {r.limit:.3g} {r.note[:200]}")
    if validation.left_out:
        lines.append(f"left out, budget spent: {len(validation.left_out)}, from {validation.left_out[0]} on")
    lines.append(f"{len(failures)} failed of {len(validation.results)}")
    return "\n".join(lines)


def write(validation: Validation, out: Path) -> Path:
    """Write every result as JSON and return the path."""
    out.mkdir(parents=True, exist_ok=True)
    about = machine()
    rows = [{**asdict(r), "ok": r.ok} for r in validation.results]
    for row in rows:
        row.update({k: None for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)})
    path = out / f"{about['date']}_{about['gpu'].split()[-1].lower()}_validate.json"
    data = {"about": about, "seed": validation.options.seed, "left_out": validation.left_out, "rows": rows}
    path.write_text(json.dumps(data, indent=1) + "\n")
    return path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", default=SPEC, help="spec file to validate")
    parser.add_argument("--groups", default="", help="comma-separated groups; all when empty")
    parser.add_argument("--pairs", type=int, default=60, help="random (N, K) pairs")
    parser.add_argument("--per-pair", type=int, default=5, help="random M and layouts for each pair")
    parser.add_argument("--reruns", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="fresh each time; printed")
    parser.add_argument("--budget", type=float, default=400.0, help="seconds after which no check is begun")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--traceback", action="store_true", help="print where each exception came from")
    options = parser.parse_args(argv)
    print(f"seed {options.seed}", file=sys.stderr)
    validation = Validation(options)
    validation.run()
    print(report(validation))
    print("wrote", write(validation, options.out))
    return 1 if validation.left_out or not all(r.ok for r in validation.results) else 0


if __name__ == "__main__":
    raise SystemExit(main())
