"""``gemmgen tune``: search the schedules for some problems on this machine's GPU, and write the fastest to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gemmgen.api import default_target
from gemmgen.cli.options import parse_dims_with_several_m, parse_seconds
from gemmgen.cli.output import console, print_json, print_line, print_table
from gemmgen.schedule import Schedule
from gemmgen.spec import load_spec
from gemmgen.tuning.tune import Progress, TuningResult, tune

INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended."""


def tune_command(
    source: str,
    target: str | None,
    dims: Sequence[str],
    budget: str,
    out: Path | None,
    jobs: int | None,
    as_json: bool,
) -> int:
    """Tune a spec; see ``gemmgen tune --help``. Returns the exit status."""
    sizes: dict[str, Any] = parse_dims_with_several_m(dims)
    budget_s = parse_seconds(budget)
    spec = load_spec(source)
    spec.bind(**{name: size for name, size in sizes.items() if name != "M"})  # refuses names that are no dimension
    chosen = target or default_target(spec)
    path = out or Path("build") / f"{spec.name}_{chosen}_tuned.json"
    with _shown(budget_s) as progress:
        result = tune(spec, chosen, budget_s=budget_s, out=path, jobs=jobs, progress=progress, **sizes)
    if as_json:
        print_json({"file": str(path) if result.outcomes else None, **result.to_dict()})
    else:
        _print(result, path)
    if result.interrupted:
        return INTERRUPTED
    return 0 if result.outcomes else 1


@contextmanager
def _shown(budget_s: float) -> Iterator[Callable[[Progress], None]]:
    """Where the search is, in one line on stderr, on a terminal."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    out = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn(f"of {budget_s:g} s"))
    with Bar(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task("preparing", total=None)
        yield lambda at: bar.update(task, description=_line(at), completed=at.timed, total=at.timed + at.waiting)


def _line(at: Progress) -> str:
    text = f"M={at.m}: {at.timed} schedules timed"
    if at.best is None:
        return text
    return f"{text}, best {at.best.best.us:.2f} µs, the heuristics' choice {at.best.heuristic.us:.2f} µs"


def _print(result: TuningResult, path: Path) -> None:
    columns = ("M", "N", "K", "µs", "heuristics µs", "saved", "predicted µs", "timed", "schedule")
    rows = []
    for outcome in result.outcomes:
        entry = outcome.entry
        rows.append((entry.m, entry.n, entry.k, f"{entry.best.us:.2f}", f"{entry.heuristic.us:.2f}",
                     f"{entry.faster_by:.1%}", f"{entry.best.predicted_us:.2f}", entry.timed,
                     _whole(entry.best.schedule)))  # fmt: skip
    print_table(f"{result.file.spec} on {result.file.device}, {result.file.target}", columns, rows)
    for outcome in result.outcomes:
        for schedule in outcome.wrong:
            print_line(
                f"WRONG VALUES at M={outcome.entry.m}, not timed; please report it: {_whole(schedule)}", "bold red"
            )
        if not outcome.complete:
            print_line(f"M={outcome.entry.m}: schedules were left untried; a longer --budget may find more.", "yellow")
    if result.left_out:
        print_line(f"No time was left for M = {', '.join(map(str, result.left_out))}.", "yellow")
    if result.interrupted:
        print_line("Interrupted; what was found until then is kept.", "yellow")
    if result.outcomes:
        print_line(f"written to {path}; use it with --tuned {path}, or gemmgen.compile(…, tuned={str(path)!r})")


def _whole(schedule: Schedule) -> str:
    """A schedule's text with the order of its tiles, in which candidates may differ."""
    return f"{schedule} raster={schedule.raster_group}{schedule.raster_along}"
