"""``gemmgen explain``: which kernel serves a shape and why; with a GPU, how long it really takes."""

from __future__ import annotations

from pathlib import Path

from gemmgen.cli.build import request
from gemmgen.cli.measurement import Measurement, measure
from gemmgen.cli.output import print_json, print_line, print_table
from gemmgen.errors import ArgumentError
from gemmgen.explain import Explanation, explain
from gemmgen.gpu_problem import why_not_executed

SCALES = {"mn": "bulk", "any": "lanes"}
"""The order of row scales, and how the kernel for it has them loaded."""


def explain_command(
    source: str, target: str | None, dims: dict[str, int], scales: str, tuned: Path | None, as_json: bool
) -> bool:
    """Explain a shape; see ``gemmgen explain --help``. Returns False if the kernel was run and its result was wrong."""
    if scales not in SCALES:
        raise ArgumentError("row scales lie in no such order", where="--scales", got=scales, need=" | ".join(SCALES),
                            fix="leave it out for scales as gemmgen.quantize makes them")  # fmt: skip
    explained = explain(source, target, scale_copy=SCALES[scales], tuned=tuned, **dims)
    obstacle = why_not_executed(explained.target)
    if not obstacle and scales != "mn":
        obstacle = "the inputs that a measurement makes have scales in the order mn"
    measured = None if obstacle else measure(request(source, dims, tuned), explained.target, seed=0)
    if as_json:
        found = {"not_measured_because": obstacle or None, "measurement": measured and measured.to_dict()}
        print_json({**explained.to_dict(), **found})
    else:
        _print(explained, measured, obstacle)
    return measured is None or measured.passed


def _print(explained: Explanation, measured: Measurement | None, obstacle: str) -> None:
    print_line(explained.title, "bold")
    for reason in explained.reasons:
        print_line(reason)
    _print_time(explained)
    _print_candidates(explained)
    _print_work(explained)
    _print_resources(explained)
    print_line(f"All of this is predicted, not measured: {explained.model.basis}.", "yellow")
    if measured is None:
        print_line(f"Not measured: {obstacle}.", "yellow")
    elif not measured.passed:
        print_line(f"MEASURED: the result is wrong, error {measured.error:.2e} on {measured.device}", "bold red")
    elif measured.time_us is not None:
        ratio = measured.time_us / explained.model.prediction.total_us
        print_line(f"Measured on {measured.device}: {measured.time_us:.2f} µs, {ratio:.2f} times the prediction",
                   "bold green")  # fmt: skip


def _print_time(explained: Explanation) -> None:
    predicted, floor = explained.model.prediction, explained.model.floor
    rounds = predicted.rounds.count
    rows = [
        ("base", predicted.base_us, "per launch"),
        ("steps", predicted.steps_us,
         f"waves × steps × step: {rounds} × {predicted.steps_per_tile} × {predicted.step_us:.3f} µs"),
        ("memory", predicted.moving_us, "operands and output, moved once"),
        ("tiles", predicted.tiles_us, f"waves × tile: {rounds} × {predicted.tile_us:.2f} µs, which nothing hides"),
        ("predicted", predicted.total_us, "base + max(steps, memory) + tiles"),
        ("floor", floor.total_us,
         f"max({floor.memory_us:.2f} memory, {floor.compute_us:.2f} compute) + {floor.fixed_us}"),
    ]  # fmt: skip
    print_table("time", ("term", "µs", "from"), [(name, f"{us:.2f}", text) for name, us, text in rows])


def _print_candidates(explained: Explanation) -> None:
    model = explained.model
    m, best = explained.dims["M"], model.candidates[0].deciding_us
    columns = ("schedule", f"µs at M = {model.deciding_m}", "ratio")
    rows = [(c.schedule, f"{c.deciding_us:.2f}", f"{c.deciding_us / best:.3f}") for c in model.candidates]
    if m != model.deciding_m:
        columns += (f"µs at M = {m}",)
        rows = [(*row, f"{c.predicted_us:.2f}") for row, c in zip(rows, model.candidates, strict=True)]
    print_table("this kernel and the runners-up, predicted", columns, rows)


def _print_work(explained: Explanation) -> None:
    predicted, launch, traffic = explained.model.prediction, explained.model.launch, explained.model.traffic
    rounds = predicted.rounds
    rows = [
        ("tiles along M and N", "{} × {}".format(*rounds.tiles)),
        ("CTAs", f"{launch.ctas}, each of {launch.threads} threads"),
        ("clusters", f"{launch.clusters}, each of {launch.cluster} CTAs"),
        ("waves", f"{rounds.count}, each of up to {rounds.at_once} CTAs; the last one {rounds.last_fill:.0%} full"),
        ("K steps per CTA", f"{predicted.steps_per_cta}, {predicted.steps_per_tile} per tile"),
        ("bytes in flight per CTA", f"{traffic.flight_cta_bytes}, {launch.stages} stages"),
        ("bytes in flight", f"{traffic.flight_bytes}"),
        ("L2 to SM per step and CTA", f"{traffic.l2_step_bytes} B read, {traffic.landing_step_bytes} B arriving"),
        ("L2 to SM per launch", f"{traffic.l2_launch_bytes} B"),
    ]
    for role in explained.model.roles:
        most = "" if role.exact else "up to "
        rows.append((f"registers of {role.label}", f"{most}{role.registers} per thread; warps: {role.warps}"))
    print_table("work", ("", "what"), rows)


def _print_resources(explained: Explanation) -> None:
    rows = [
        (
            found.name,
            "" if found.step_cycles is None else f"{found.step_cycles:.0f}",
            "" if found.step_bytes is None else f"{found.step_bytes}",
            f"{found.used:.2f}" if found.unit == "µs" else f"{found.used:.0f}",
            f"{found.limit:.2f}" if found.unit == "µs" else f"{found.limit:.0f}",
            found.unit,
            f"{found.occupied:.2f}",
        )
        for found in explained.model.resources
    ]
    print_table("resources", ("resource", "cycles per step", "bytes per step", "used", "of", "unit", "occupied"), rows)
