"""Validate the 16-bit dense kernels on a GPU in all layouts, and time them beside ``torch.mm``.

Run from the repository root::

    python -m benchmarks.validate_dense16                      # random and fixed cases, reruns, ten timed shapes
    python -m benchmarks.validate_dense16 --cases 300 --budget 300 --skip timing

Every result is compared with an f32 product of the same inputs by ``1 - 2<x,y> / (|x|^2 + |y|^2)``. Inputs lie between
NaN; outputs are filled with NaN first and surrounded by guard elements that must not change.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

import gemmgen
from gemmgen.spec.model import Operand, Operands, ScheduleHints

from .compare import machine
from .harness import (
    BITS_DTYPE,
    COLD_BYTES,
    GUARD_ROWS,
    MAX_SETS,
    POISON_BITS,
    Shape,
    Timing,
    ceil_div,
    diff,
    poison,
    time_launches,
)

DEVICE = "cuda"
SPEC = "specs/bf16_gemm_nt.yaml"
LIMIT = 1e-5
LAYOUTS = ("NT", "NN", "TN", "TT")
TORCH = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
PITCH_BYTES = 16
FEWEST_OUTPUTS = 1024
"""With fewer, what rounding D leaves can exceed the limit by chance."""
LARGEST = 4000
FIXED = Shape(333, 1032, 1000)
RERUNS = 100
SHOWN_FAILURES = 15
GROUPS = ("fixed", "reruns", "empty", "timing", "random")
TIMED = (
    "NT:16x7168x2048,NT:64x4096x7168,NT:128x7168x2048,NT:512x4096x7168,NT:2048x7168x2048,NT:4096x4096x4096,"
    "NT:8192x4096x7168,NN:4096x4096x4096,TN:4096x4096x4096,TT:4096x4096x4096"
)


@dataclass(frozen=True)
class Case:
    """One product: layout, element types, sizes, elements of padding per row, and schedule hints."""

    layout: str
    shape: Shape
    dtype: str = "bf16"
    out: str = "bf16"
    padding: int = 0
    hints: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        hints = " ".join(f"{name}={value}" for name, value in self.hints)
        return f"{self.layout} {self.dtype}->{self.out} {self.shape} +{self.padding} {hints}".rstrip()

    @property
    def bytes(self) -> int:
        """Bytes of A, B and D, each moved once."""
        m, n, k = self.shape.m, self.shape.n, self.shape.k
        return 2 * (m * k + n * k) + TORCH[self.out].itemsize * m * n


@dataclass(frozen=True)
class Inputs:
    """A, B and D in the case's layout; ``buffer`` is what D lies in."""

    layout: str
    a: torch.Tensor
    b: torch.Tensor
    d: torch.Tensor
    buffer: torch.Tensor

    @property
    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Views [M, K] and [K, N] whose product is D."""
        return self.a.T if self.layout[0] == "T" else self.a, self.b if self.layout[1] == "N" else self.b.T

    def reference(self) -> torch.Tensor:
        """The product in full f32."""
        torch.backends.cuda.matmul.allow_tf32 = False
        left, right = self.factors
        return left.float() @ right.float()

    def error(self, launch: Callable[[], object]) -> float:
        """Poison D, launch once, and compare.

        Raises:
            AssertionError: the launch wrote outside of D.
        """
        poison(self.buffer)
        launch()
        touched = self.buffer.view(BITS_DTYPE[self.buffer.element_size()]) != POISON_BITS[self.buffer.dtype]
        rows, cols = self.d.shape
        touched[GUARD_ROWS : GUARD_ROWS + rows, :cols] = False
        if strays := int(touched.sum().item()):
            raise AssertionError(f"{strays} elements outside the output were overwritten")
        return diff(self.d, self.reference())


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


@dataclass(frozen=True)
class Speed:
    """One timed shape: microseconds of gemmgen and of torch, and gemmgen's TFLOP/s and schedule."""

    name: str
    us: float
    torch_us: float
    tflops: float
    schedule: str


@cache
def kernel_of(layout: str, dtype: str, out: str, n: int, k: int, hints: tuple[tuple[str, Any], ...]) -> Any:
    """The compiled kernels of one layout, types, N and K."""
    spec = gemmgen.load_spec(SPEC)
    types = {"a": dtype, "b": dtype, "d": out}
    changed = replace(
        spec,
        problem=replace(spec.problem, layout=layout),
        operands=Operands(**{name: Operand(dtype=word) for name, word in types.items()}),
        schedule=ScheduleHints(**dict(hints)),
    )
    return gemmgen.compile(changed, N=n, K=k)


def kernel_for(case: Case) -> Any:
    """The compiled kernels of a case."""
    return kernel_of(case.layout, case.dtype, case.out, case.shape.n, case.shape.k, case.hints)


def make_inputs(case: Case, seed: int) -> Inputs:
    """Random A and B between NaN, and a poisoned D."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    m, n, k = case.shape.m, case.shape.n, case.shape.k

    def operand(rows: int, cols: int) -> torch.Tensor:
        buffer = torch.full((rows, _pitch(cols, case.dtype, case.padding)), math.nan, device=DEVICE)
        buffer[:, :cols].normal_(generator=generator)
        return buffer.to(TORCH[case.dtype])[:, :cols]

    a = operand(*((k, m) if case.layout[0] == "T" else (m, k)))
    b = operand(*((k, n) if case.layout[1] == "N" else (n, k)))
    pitch = _pitch(n, case.out, case.padding)
    buffer = torch.empty(m + 2 * GUARD_ROWS, pitch, device=DEVICE, dtype=TORCH[case.out])
    poison(buffer)
    return Inputs(case.layout, a, b, buffer[GUARD_ROWS : GUARD_ROWS + m, :n], buffer)


def _pitch(cols: int, dtype: str, padding: int) -> int:
    line = PITCH_BYTES // TORCH[dtype].itemsize
    return ceil_div(cols, line) * line + padding


def run_case(case: Case, seed: int) -> float:
    """The error of one eager call on fresh inputs."""
    x = make_inputs(case, seed)
    return x.error(lambda: kernel_for(case)(x.a, x.b, out=x.d))


def fixed_cases() -> Iterator[Case]:
    """Every way a 16-bit kernel can differ, with tails, whatever the heuristics would choose."""
    schedules: tuple[dict[str, Any], ...] = (
        {"tile": (128, 256, 64), "cluster": (2, 1)},
        {"tile": (256, 128, 64), "cluster": (1, 2)},
        {"tile": (128, 96, 64)},
        {"tile": (128, 64, 64), "split_k": 3},
        {"tile": (64, 128, 64), "swap_ab": True},
        {"tile": (32, 64, 64), "swap_ab": True, "split_k": 4},
        {"tile": (16, 64, 64), "swap_ab": True},
    )
    types = (("bf16", "bf16"), ("f16", "f16"), ("bf16", "f32"))
    for layout in LAYOUTS:
        for index, hints in enumerate(schedules):
            dtype, out = types[index % len(types)]
            shape = replace(FIXED, n=FIXED.n + 4 * (index % 2))
            yield Case(layout, shape, dtype, out, 8, tuple(hints.items()))


def random_cases(seed: int, count: int) -> Iterator[Case]:
    """Random sizes, types and padding in every layout, as the heuristics serve them."""
    dice = random.Random(seed)
    for index in range(count):
        n, k = (_extent(dice) for _ in range(2))
        m = max(_extent(dice), ceil_div(FEWEST_OUTPUTS, n))
        dtype = dice.choice(("bf16", "bf16", "f16"))
        out = dice.choice((dtype, dtype, "f32"))
        yield Case(LAYOUTS[index % len(LAYOUTS)], Shape(m, n, k), dtype, out, dice.choice((0, 0, 8, 64)))


def _extent(dice: random.Random) -> int:
    """1 to `LARGEST`, evenly over the orders of magnitude; a multiple of 8 or of 64 two times in three."""
    extent = round(2 ** dice.uniform(0, math.log2(LARGEST)))
    step = dice.choice((1, 8, 64))
    return max(step, extent // step * step)


def unequal_reruns(case: Case, seed: int) -> int:
    """How many of `RERUNS` launches on the same inputs give other bits than the first."""
    x = make_inputs(case, seed)
    launch = kernel_for(case).bind(x.a, x.b, out=x.d)
    launch()
    bits = x.d.view(BITS_DTYPE[x.d.element_size()])
    first = bits.clone()
    unequal = torch.zeros((), device=DEVICE, dtype=torch.int64)
    for _ in range(RERUNS):
        poison(x.buffer)
        launch()
        unequal += (bits != first).any()
    return int(unequal.item())


def time_case(case: Case) -> tuple[Speed, float]:
    """The times of gemmgen and of ``torch.mm``, two turns each on as many input sets as keep L2 cold; and the error."""
    sets = [make_inputs(case, seed) for seed in range(min(MAX_SETS, COLD_BYTES // case.bytes + 1))]
    kernel = kernel_for(case)
    error = sets[0].error(lambda: kernel(sets[0].a, sets[0].b, out=sets[0].d))
    ours = [kernel.bind(x.a, x.b, out=x.d) for x in sets]
    theirs = [_torch_launch(x) for x in sets]
    turns: dict[int, list[Timing]] = {0: [], 1: []}
    for _ in range(2):
        for index, launches in enumerate((ours, theirs)):
            turns[index].append(time_launches(launches))
    us, torch_us = (Timing.mean(timings).median_us for timings in turns.values())
    schedule = str(kernel.variant(M=case.shape.m).schedule)
    return Speed(str(case), us, torch_us, case.shape.flops / us / 1e6, schedule), error


def _torch_launch(x: Inputs) -> Callable[[], object]:
    left, right = x.factors
    return lambda: torch.mm(left, right, out=x.d)


class Validation:
    """Runs groups of checks until the budget is spent and collects their results."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.results: list[Result] = []
        self.speeds: list[Speed] = []
        self.left_out: list[str] = []
        self._deadline = time.monotonic() + options.budget

    def run(self) -> None:
        """All groups; a lost CUDA context ends it."""
        skipped = self.options.skip.split(",")
        try:
            for group in GROUPS:
                if group not in skipped:
                    getattr(self, f"_{group}")(group)
        except torch.AcceleratorError as failure:
            self.results.append(Result("all", "CUDA context lost", math.nan, 0.0, str(failure)))

    def _fixed(self, group: str) -> None:
        for seed, case in enumerate(fixed_cases(), start=self.options.seed):
            self._check(group, case, lambda c=case, s=seed: run_case(c, s))

    def _random(self, group: str) -> None:
        for seed, case in enumerate(random_cases(self.options.seed, self.options.cases), start=self.options.seed):
            self._check(group, case, lambda c=case, s=seed: run_case(c, s))

    def _empty(self, group: str) -> None:
        for case in (Case("TN", Shape(0, 64, 128)), Case("NN", Shape(100, 64, 0))):
            self._check(group, case, lambda c=case: run_case(c, 0))

    def _reruns(self, group: str) -> None:
        hints = (("tile", (16, 64, 64)), ("swap_ab", True), ("split_k", 4))
        for case in (Case("NT", Shape(16, 2112, 7168), hints=hints), Case("TN", Shape(1000, 2048, 2048))):
            self._check(group, case, lambda c=case: unequal_reruns(c, self.options.seed), limit=1)

    def _timing(self, group: str) -> None:
        for text in self.options.timed.split(","):
            layout, _, shape = text.partition(":")
            case = Case(layout, Shape.parse(shape))
            self._check(group, case, lambda c=case: self._time(c))

    def _time(self, case: Case) -> float:
        speed, error = time_case(case)
        self.speeds.append(speed)
        return error

    def _check(self, group: str, case: Case, run: Callable[[], float], limit: float = LIMIT) -> None:
        if time.monotonic() > self._deadline:
            self.left_out.append(f"{group}: {case}")
            return
        value, note = math.nan, ""
        try:
            value = float(run())
        except torch.AcceleratorError:
            raise
        except Exception as failure:
            note = f"{type(failure).__name__}: {failure}"
            if self.options.traceback:
                traceback.print_exc()
        self.results.append(Result(group, str(case), value, limit, note))


def report(validation: Validation) -> str:
    """One line a group, the times, then the first failures."""
    lines = [f"{'group':>10} {'passed':>9} {'largest':>9}"]
    for group in dict.fromkeys(r.group for r in validation.results):
        results = [r for r in validation.results if r.group == group]
        largest = max((r.value for r in results if not math.isnan(r.value)), default=math.nan)
        lines.append(f"{group:>10} {sum(r.ok for r in results):>4}/{len(results):<4} {largest:9.2e}")
    if validation.speeds:
        lines.append(f"{'case':>32} {'us':>9} {'TFLOP/s':>8} {'torch us':>9} {'speed':>6}  schedule")
    lines += [
        f"{s.name:>32} {s.us:9.2f} {s.tflops:8.1f} {s.torch_us:9.2f} {s.torch_us / s.us:6.2f}  {s.schedule}"
        for s in validation.speeds
    ]
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
    rows = [{**asdict(r), "ok": r.ok, "value": r.value if math.isfinite(r.value) else None} for r in validation.results]
    path = out / f"{about['date']}_{about['gpu'].split()[-1].lower()}_dense16.json"
    data = {"about": about, "seed": validation.options.seed, "left_out": validation.left_out, "rows": rows,
            "speeds": [asdict(speed) for speed in validation.speeds]}  # fmt: skip
    path.write_text(json.dumps(data, indent=1) + "\n")
    return path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=40, help="random cases")
    parser.add_argument("--timed", default=TIMED, help="comma-separated LAYOUT:MxNxK")
    parser.add_argument("--skip", default="", help=f"comma-separated groups of {', '.join(GROUPS)}")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="fresh each time; printed")
    parser.add_argument("--budget", type=float, default=45.0, help="seconds after which no check is begun")
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
