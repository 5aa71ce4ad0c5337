"""Measure a kernel over many shapes beside cuBLAS and DeepGEMM; print a short table, write Markdown and JSON.

A raw prototype is measured by the same code as a compiled kernel::

    from benchmarks import compare, findings
    rows = compare.measure(compare.baseline_shapes("512x7168x2048,1x576x7168"), make_launch)
    print(compare.table(rows))
    print(findings.text(rows))

where ``make_launch(inputs)`` returns a callable that enqueues one launch on torch's current stream. Run as a program,
this module measures the peers alone, which shows how far the machine has drifted from the recorded run.
"""

from __future__ import annotations

import datetime
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from . import findings, peers
from .harness import Inputs, Launch, Shape, Timing, check, diff, make_inputs, reference, time_launches

MakeLaunch = Callable[[Inputs], Launch]
RESULTS = Path(__file__).parent / "results"
DIFF_LIMIT = 5e-6
NAN = math.nan
TURNS = ("cublas", "ours", "bf16", "ours", "cublas")
"""The same from both ends, so that every kernel's mean is of the same moment."""
COLUMNS = {
    "us": ("us", ".2f"),
    "cuBLASLt us": ("cublas_us", ".2f"),
    "DeepGEMM us": ("deepgemm_us", ".2f"),
    "BF16 us": ("bf16_us", ".2f"),
    "TFLOP/s": ("tflops", ".0f"),
    "GB/s": ("gbs", ".0f"),
    "vs DeepGEMM": ("speed_deepgemm", ".2f"),
    "vs cuBLASLt": ("speed_cublas", ".2f"),
    "vs BF16": ("speed_bf16", ".2f"),
    "vs floor": ("speed_floor", ".2f"),
}
"""The Markdown table's columns: the row's field and the format of its numbers."""


@dataclass(frozen=True)
class Row:
    """One shape's result; times are microseconds per launch, NaN where there is no figure.

    ``deepgemm_us`` is the recorded time times the drift of cuBLASLt; ``speed_*`` are peer time over our time, so more
    than 1 is faster.
    """

    m: int
    n: int
    k: int
    sets: int
    us: float
    min_us: float
    max_us: float
    diff: float
    cublas_us: float
    cublas_diff: float
    floor_us: float
    bf16_us: float = NAN
    recorded_deepgemm_us: float = NAN
    recorded_cublas_us: float = NAN
    drift: float = NAN
    deepgemm_us: float = NAN
    tflops: float = NAN
    gbs: float = NAN
    speed_deepgemm: float = NAN
    speed_cublas: float = NAN
    speed_bf16: float = NAN
    speed_floor: float = NAN
    error: str = ""

    @property
    def shape(self) -> Shape:
        """The problem."""
        return Shape(self.m, self.n, self.k)

    @property
    def failed(self) -> bool:
        """Whether the shape raised, or its result is not close enough to the reference (NaN is not)."""
        return bool(self.error) or not (math.isnan(self.us) or self.diff < DIFF_LIMIT)


def baseline_shapes(select: str = "", quick: bool = False) -> list[Shape]:
    """The recorded shapes, or those named in ``select`` (``MxNxK,…``); ``quick`` takes every M of two (N, K) only."""
    if select:
        return [Shape.parse(part) for part in select.split(",")]
    shapes = list(peers.recorded_dense())
    return [s for s in shapes if (s.n, s.k) in {(576, 7168), (7168, 2048)}] if quick else shapes


def measure(
    shapes: Iterable[Shape],
    make_launch: MakeLaunch | None,
    *,
    with_cublas: bool = True,
    budget_s: float = 120.0,
    replays: int = 7,
    load_s: float = 0.0,
) -> list[Row]:
    """Check and time every shape; ``make_launch`` None times the peers only.

    Args:
        shapes: what to measure, in this order.
        make_launch: gives the launch for one set of inputs.
        with_cublas: measure cuBLASLt as well, which the normalisation needs, and for few rows BF16 cuBLAS.
        budget_s: shapes that have not begun by then are left out, with a line on stderr.
        replays: timed graph replays per kernel and shape.
        load_s: load before each timing, instead of a rest.
    """
    started = time.monotonic()
    rows: list[Row] = []
    for shape in shapes:
        if time.monotonic() - started > budget_s:
            print(f"budget of {budget_s:.0f} s spent: {shape} and later shapes left out", file=sys.stderr)
            break
        try:
            rows.append(_measure_shape(shape, make_launch, with_cublas, replays, load_s))
            torch.cuda.empty_cache()
        except torch.AcceleratorError as failure:
            rows.append(replace(_empty_row(shape), error=f"stopped, the CUDA context is lost: {failure}"))
            break
    return _with_peers(rows)


def table(rows: Sequence[Row]) -> str:
    """One line a shape, narrow enough that 63 of them fit the 12,000 characters a device call returns."""
    names = ("us", "cublas", "deepgemm", "bf16", "TF/s", "GB/s", "vsDG", "vsCB", "floor")
    widths = (8, 8, 8, 6, 6, 5, 5, 5, 5)
    lines = [f"{'shape':>16} " + " ".join(f"{n:>{w}}" for n, w in zip(names, widths, strict=True)) + " diff"]
    for r in rows:
        lines.append(
            f"{r.shape!s:>16} {r.us:8.2f} {r.cublas_us:8.2f} {r.deepgemm_us:8.2f} {r.bf16_us:6.2f} {r.tflops:6.0f} "
            f"{r.gbs:5.0f} {r.speed_deepgemm:5.2f} {r.speed_cublas:5.2f} {r.speed_floor:5.2f} {r.diff:.1e}{_verdict(r)}"
        )
    return "\n".join(lines)


def write(rows: Sequence[Row], name: str, out: Path | None = None) -> list[Path]:
    """Write ``<date>_<gpu>_<name>.json`` and ``.md`` into ``out`` (benchmarks/results when None); return the paths."""
    out = out or RESULTS
    out.mkdir(parents=True, exist_ok=True)
    about = machine()
    stem = f"{about['date']}_{about['gpu'].split()[-1].lower()}_{name}"
    data = {
        "about": about,
        "summary": _finite(findings.summary(rows)),
        "findings": findings.named(rows),
        "rows": [_finite(asdict(r)) for r in rows],
    }
    paths = [out / f"{stem}.json", out / f"{stem}.md"]
    paths[0].write_text(json.dumps(data, indent=1) + "\n")
    paths[1].write_text(_markdown(rows, about, name))
    return paths


def machine() -> dict[str, str]:
    """GPU, versions and date of this run."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
    }


def _measure_shape(shape: Shape, make_launch: MakeLaunch | None, with_cublas: bool, replays: int, load_s: float) -> Row:
    row = _empty_row(shape)
    inputs = [make_inputs(shape, seed) for seed in range(row.sets)]
    launches: dict[str, Sequence[Launch]] = {"ours": [], "cublas": [], "bf16": []}
    try:
        if with_cublas and peers.cublas_supports(shape):
            launches["cublas"] = cublas = [peers.CublasLaunch(x) for x in inputs]
            cublas[0]()
            row = replace(row, cublas_diff=diff(cublas[0].result(), reference(inputs[0])))
        if with_cublas and shape.m <= peers.BF16_LARGEST_M:
            launches["bf16"] = [peers.bf16_launch(x) for x in inputs]
        if make_launch:
            launches["ours"] = ours = [make_launch(x) for x in inputs]
            row = replace(row, diff=max(check(ours[0], inputs[0]), check(ours[-1], inputs[-1])))
        times = _time_in_turns(launches, replays, load_s)
    except torch.AcceleratorError:
        raise
    except Exception as failure:
        return replace(row, error=f"{type(failure).__name__}: {failure}")
    row = replace(row, **{f"{name}_us": times[name].median_us for name in ("cublas", "bf16") if name in times})
    return _with_timing(row, times["ours"]) if "ours" in times else row


def _time_in_turns(launches: Mapping[str, Sequence[Launch]], replays: int, load_s: float = 0.0) -> dict[str, Timing]:
    """Time whatever there is in the order of `TURNS`, so that a chip that warms up or slows down does so for all."""
    turns: dict[str, list[Timing]] = {}
    for name in TURNS:
        if launches[name]:
            turns.setdefault(name, []).append(time_launches(launches[name], replays=replays, load_s=load_s))
    return {name: Timing.mean(timings) for name, timings in turns.items()}


def _empty_row(shape: Shape) -> Row:
    record = peers.recorded_dense().get(shape)
    sets = record.sets if record else shape.sets
    return Row(shape.m, shape.n, shape.k, sets, NAN, NAN, NAN, NAN, NAN, NAN, shape.floor_us)


def _with_timing(row: Row, timing: Timing) -> Row:
    us = timing.median_us
    return replace(
        row,
        us=us,
        min_us=timing.min_us,
        max_us=timing.max_us,
        tflops=row.shape.flops / us / 1e6,
        gbs=row.shape.bytes / us / 1e3,
        speed_cublas=row.cublas_us / us,
        speed_bf16=row.bf16_us / us,
        speed_floor=row.floor_us / us,
    )


def _with_peers(rows: Sequence[Row]) -> list[Row]:
    """Add DeepGEMM's normalised times, which need cuBLASLt's times on all shapes."""
    cublas = _cublas_times(rows)
    return [_with_peer(row, cublas) for row in rows]


def _with_peer(row: Row, cublas: dict[Shape, float]) -> Row:
    record = peers.recorded_dense().get(row.shape)
    if record is None:
        return row
    deepgemm = peers.deepgemm_us(row.shape, cublas)
    return replace(
        row,
        recorded_deepgemm_us=record.deepgemm_us,
        recorded_cublas_us=NAN if record.cublas_us is None else record.cublas_us,
        drift=peers.shape_drift(row.shape, cublas),
        deepgemm_us=deepgemm,
        speed_deepgemm=deepgemm / row.us,
    )


def _cublas_times(rows: Sequence[Row]) -> dict[Shape, float]:
    return {r.shape: r.cublas_us for r in rows if not math.isnan(r.cublas_us)}


def _verdict(row: Row) -> str:
    if row.error:
        return "  " + row.error.splitlines()[0][:60]
    return "  WRONG" if row.failed else ""


def _finite(values: dict) -> dict:
    """The same dictionary with null for NaN, which JSON does not know."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}


def _markdown(rows: Sequence[Row], about: dict[str, str], name: str) -> str:
    lines = [f"# {name}: {about['gpu']}, {about['date']}", "", f"torch {about['torch']}, CUDA {about['cuda']}.", ""]
    lines += [line + "  " for line in findings.text(rows).splitlines()]
    lines += ["", "| shape | " + " | ".join(COLUMNS) + " | diff |", "|---|" + "--:|" * (len(COLUMNS) + 1)]
    for r in rows:
        values = [(getattr(r, field), form) for field, form in COLUMNS.values()]
        cells = ["–" if math.isnan(value) else format(value, form) for value, form in values]
        lines.append(f"| {r.shape} | " + " | ".join(cells) + f" | {r.diff:.2e}{_verdict(r)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    peer_rows = measure(baseline_shapes(" ".join(sys.argv[1:2])), None)
    print(table(peer_rows), findings.text(peer_rows), sep="\n")
