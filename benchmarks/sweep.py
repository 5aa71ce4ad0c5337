"""Time many schedules on many shapes: the data behind the heuristics, and the price of each lever.

Run from the repository root on a Hopper GPU::

    python -m benchmarks.sweep --shapes 512x2112x7168,4096x7168x2048 --out /tmp/results

Every schedule's result is checked before it is timed. The JSON has one row per shape and schedule.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from gemmgen.backends.capability import Capability, capability
from gemmgen.backends.sm90 import heuristics
from gemmgen.errors import GemmgenError
from gemmgen.kernel import Kernel
from gemmgen.schedule import Schedule
from gemmgen.spec.loader import load_spec
from gemmgen.spec.model import ScheduleHints
from gemmgen.tuning.search import compile_fixed

from . import compare, peers, unseen
from .harness import Shape, check, make_inputs, time_launches

SPEC = "specs/fp8_gemm_nt.yaml"
TARGET = "sm_90a"
SHOWN = 5
SWAPPED_UP_TO = 256
PLAIN_FROM = 64
CLUSTERS = ((2, 1), (1, 2))
PAIRED = {128: (128, 192), 256: (128,)}
"""Columns of tiles that are tried in pairs of CTAs, by rows."""
SPLITS = (1, 2, 3, 4, 5, 6, 7, 8)
PREDICTED_WITHIN = 1.4
"""Schedules that the model thinks slower than the best by more than this factor are not compiled."""
REST_S = 0.03

KernelKey = tuple[int, int, Schedule]


def main(argv: list[str] | None = None) -> int:
    """Sweep, print the best schedules of every shape, write all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="", metavar="MxNxK,…", help="these instead of the recorded 63")
    parser.add_argument("--unseen", action="store_true", help="shapes that nobody tuned for, too")
    parser.add_argument("--budget", type=float, default=240.0, help="seconds after which no shape is begun")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(argv)
    started, rows = time.monotonic(), []
    shapes = [*compare.baseline_shapes(options.shapes), *(unseen.shapes() if options.unseen else ())]
    with ThreadPoolExecutor() as pool:
        kernels = {}
        for shape in shapes:
            for schedule in worth_measuring(shape, capability(TARGET)):
                key = (shape.n, shape.k, schedule)
                kernels.setdefault(key, pool.submit(_compiled, *key))
        wait(kernels.values())  # compiling beside it would delay what is timed
        for shape in shapes:
            if time.monotonic() - started > options.budget:
                print(f"out of time before {shape}", file=sys.stderr)
                break
            found = sorted(_sweep(shape, kernels), key=lambda row: row["us"])
            rows += found
            record = peers.recorded_dense().get(shape)
            best = " | ".join(f"{row['us']:.2f} {_short(row['schedule'])}" for row in found[:SHOWN])
            print(f"{shape!s:>16} dg {record.deepgemm_us if record else 0:.2f}: {best}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "sweep.json").write_text(json.dumps(rows))
    return 0


def _sweep(shape: Shape, kernels: Mapping[KernelKey, Future[Kernel | None]]) -> Iterator[dict]:
    record = capability(TARGET)
    inputs = [make_inputs(shape, seed) for seed in range(shape.sets)]
    for schedule in worth_measuring(shape, record):
        kernel = kernels[shape.n, shape.k, schedule].result()
        if kernel is None:
            continue
        try:
            launches = [kernel.bind(x.a, x.sa, x.b, x.sb, out=x.out) for x in inputs]
            error = check(launches[0], inputs[0])
            timing = time_launches(launches, replays=5, min_graph_us=1000.0, rest_s=REST_S)
        except GemmgenError as failure:
            print(f"{shape} {schedule}: {failure}", file=sys.stderr)
            continue
        if not error < compare.DIFF_LIMIT:
            print(f"WRONG {shape} {schedule}: {error}", file=sys.stderr)
        yield {"m": shape.m, "n": shape.n, "k": shape.k, "schedule": schedule.to_dict(), "us": timing.median_us,
               "diff": error, "predicted": heuristics.predict(schedule, shape.m, shape.n, shape.k, record)}  # fmt: skip


def _compiled(n: int, k: int, schedule: Schedule) -> Kernel | None:
    try:
        return compile_fixed(load_spec(SPEC).bind(N=n, K=k), TARGET, schedule)
    except GemmgenError as failure:
        print(failure, file=sys.stderr)
        return None


def worth_measuring(shape: Shape, target: Capability) -> list[Schedule]:
    """Schedules whose predicted time is not far from the best, with what the problem's size decides."""
    priced = [(heuristics.prediction(s, shape.m, shape.n, shape.k, target), s) for s in wide(shape, target)]
    limit = PREDICTED_WITHIN * min(predicted.total_us for predicted, _ in priced)
    near = [(p, s) for p, s in priced if p.total_us <= limit]
    return [heuristics.with_time(p, s, ScheduleHints(), target, heuristics.FP8) for p, s in near]


def wide(shape: Shape, target: Capability) -> Iterator[Schedule]:
    """What the heuristics choose from, and more."""
    steps = -(-shape.k // 128)
    operands = heuristics.Operands(steps=steps, columns=shape.n)
    shipped = heuristics.candidates(ScheduleHints(), shape.m, target, operands=operands)
    more = [heuristics.completed(s, target, operands) for s in (*_swapped(shape.m), *_plain(shape.m))]
    for schedule in dict.fromkeys((*shipped, *more)):
        ctas = -(-shape.m // schedule.tile[0]) * -(-shape.n // schedule.tile[1]) * schedule.split_k
        one_wave = schedule.split_k == 1 or ctas <= target.sms
        if schedule.stages >= 2 and steps >= 2 * schedule.split_k and one_wave:
            yield schedule


def _swapped(m: int) -> Iterator[Schedule]:
    """Rows of A on the N side, for few rows."""
    if m > SWAPPED_UP_TO:
        return
    enough = {c for c in (8, 16, 32, 64, 128) if c >= m or (c >= 32 and c * 4 >= m)}
    for columns in sorted(enough | {min(128, -(-m // 8) * 8)}):
        if columns > 2 * m and columns > 8:
            continue
        for rows, groups, producer, math in ((64, 1, 0, 0), (128, 2, 40, 232)):
            for split in SPLITS:
                yield Schedule((columns, rows, 128), 0, (1, 1), split, True, groups, producer, math)


def _plain(m: int) -> Iterator[Schedule]:
    """Rows of A on the M side, for more than a few."""
    if m <= PLAIN_FROM:
        return
    widths = {128: range(64, 193, 16), 256: (64, 96, 112, 128)}
    for rows, columns in ((tall, wide) for tall, found in widths.items() for wide in found if m > tall // 2):
        yield Schedule((rows, columns, 128), 0, producer_registers=40, math_registers=232)
        for cluster in CLUSTERS if columns in PAIRED[rows] and m > 2 * rows else ():
            yield Schedule((rows, columns, 128), 0, cluster, producer_registers=40, math_registers=232)
        if rows == 128 and columns in (64, 96, 128) and m <= 1024:
            for split in SPLITS[1:]:
                yield Schedule((rows, columns, 128), 0, (1, 1), split, False, 2, 40, 232)


def _short(s: dict) -> str:
    words = ["x".join(map(str, s["tile"][:2])), f"s{s['stages']}"]
    words += [f"sp{s['split_k']}"] if s["split_k"] > 1 else []
    words += [f"c{s['cluster'][0]}{s['cluster'][1]}"] if s["cluster"] != [1, 1] else []
    words += ["sw"] if s["swap_ab"] else []
    return ",".join(words)


if __name__ == "__main__":
    raise SystemExit(main())
