"""Fit the cost tables of Hopper to a recorded sweep, and say what the shipped and the fitted tables are worth.

Run from the repository root; no GPU is needed::

    python -m benchmarks.fit_costs
    python -m benchmarks.fit_costs --sweep /tmp/results/sweep.json --tables

The regret of a choice is the measured time of the schedule that a table chooses over that of the fastest schedule
measured for the shape. Nothing is written: the shipped numbers stand in ``gemmgen/backends/sm90/costs.py``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np

from gemmgen.backends.capability import capability
from gemmgen.backends.model import Prediction
from gemmgen.backends.sm90 import heuristics
from gemmgen.backends.sm90.costs import OUTSIDE_ROW_US, SHIPPED, Cost, Costs, CostTables
from gemmgen.schedule import Schedule
from gemmgen.spec.model import ScheduleHints

SWEEP = Path("benchmarks/results/2026-11-20_h200_sweep.json")
HOPPER = capability("sm_90a")
FEWEST_ROWS = 4
"""Rows of the sweep that a cell of a table needs to be fitted."""
NEAR = 1.25
"""Times over the shape's best from which on a row says nothing about choices."""
PULL = 0.01
"""How strongly a constant is held where the rows say little: the squared relative error that doubling it costs."""
ROUNDS = 20
WORST = 3

ShapeKey = tuple[int, int, int]
ScheduleKey = tuple[object, ...]
Chooser = Callable[[ShapeKey], Schedule]


@dataclass(frozen=True)
class Row:
    """One measurement: M, N and K, the schedule, and µs of a launch; nothing is fitted to it if it is held out."""

    shape: ShapeKey
    schedule: Schedule
    us: float
    held_out: bool = False

    def predicted(self, tables: CostTables) -> Prediction:
        """What the model says of it."""
        return heuristics.prediction(self.schedule, *self.shape, HOPPER, tables)


@dataclass(frozen=True)
class Regret:
    """What choices cost.

    Attributes:
        by_shape: measured time of the choice over the best one's.
        unmeasured: shapes whose choice is not in the sweep.
    """

    by_shape: Mapping[ShapeKey, float]
    unmeasured: tuple[ShapeKey, ...]

    @property
    def mean(self) -> float:
        """The geometric mean."""
        return math.exp(statistics.fmean(math.log(value) for value in self.by_shape.values()))

    @property
    def worst(self) -> list[tuple[ShapeKey, float]]:
        """The shapes that lose most."""
        return sorted(self.by_shape.items(), key=lambda item: -item[1])[:WORST]


def main(argv: list[str] | None = None) -> int:
    """Print the regrets, and the fitted tables if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", type=Path, default=SWEEP, help="what benchmarks.sweep wrote")
    parser.add_argument("--tables", action="store_true", help="print the fitted tables too")
    options = parser.parse_args(argv)
    rows = read_sweep(options.sweep)
    fitted = fit([row for row in rows if not row.held_out])
    print(f"{len(rows)} rows of {options.sweep}, {len({row.shape for row in rows})} shapes")
    print("| tables | shapes | regret, geometric mean | worst | prediction off by, median and 90th percentile |")
    print("|---|---|--:|---|---|")
    for name, tables in (("shipped", SHIPPED), ("fitted", fitted)):
        for what, part in (("fitted to", False), ("held out", True)):
            mine = [row for row in rows if row.held_out == part]
            if mine:
                found = regret(
                    mine, lambda shape, t=tables: choice(t, (heuristics.M_RANGES.deciding(shape[0]), *shape[1:]))
                )
                print(f"| {name} | {len(found.by_shape)} {what} | {table_row(found, errors(mine, tables))} |")
    if options.tables:
        print(shown(fitted))
    return 0


def read_sweep(path: Path) -> list[Row]:
    """The rows of a sweep whose values were right."""
    content = json.loads(path.read_text())
    found = content["rows"] if isinstance(content, dict) else content
    return [
        Row((row["m"], row["n"], row["k"]), Schedule.from_dict(row["schedule"]), row["us"], row.get("held_out", False))
        for row in found
        if row["diff"] < 1e-5
    ]


def fit(rows: Sequence[Row], prior: CostTables = SHIPPED, near: float = NEAR) -> CostTables:
    """Tables that minimise the relative error of the predictions, held to ``prior`` where rows are few.

    Every cell of a table is fitted alone, to the rows of exactly its tile; tables of 16-bit operands stay. Rows count
    that a choice could take: at most ``near`` times as slow as the shape's fastest, and not bound by rows beyond the
    operands.
    """
    cells: dict[tuple[bool, bool, int, int], list[Row]] = defaultdict(list)
    shared: list[Row] = []
    for row in _worth_fitting(rows, prior, near):
        tile_rows, columns = heuristics.rows_and_columns(row.schedule)
        split = row.schedule.split_k > 1
        if row.schedule.cluster == (1, 1):
            cells[row.schedule.swap_ab, split, tile_rows, columns].append(row)
        elif row.schedule.tile[:2] == heuristics.MULTICAST_TILE:
            shared += [row] if row.schedule.cluster == heuristics.MULTICAST_CLUSTER else []

    def fitted(table: dict[int, Costs], swapped: bool, split: bool) -> dict[int, Costs]:
        return {
            tile_rows: {c: _fit_cell(cells[swapped, split, tile_rows, c], cost, prior) for c, cost in costs.items()}
            for tile_rows, costs in table.items()
        }

    alone = replace(
        prior,
        plain=fitted(prior.plain, False, False),
        swapped=fitted(prior.swapped, True, False),
        split_narrow=fitted({64: prior.split_narrow}, False, True)[64],
        split_plain=fitted({128: prior.split_plain}, False, True)[128],
        split_swapped=fitted(prior.split_swapped, True, True),
    )
    return _fit_multicast(shared, alone)


def _worth_fitting(rows: Sequence[Row], prior: CostTables, near: float) -> list[Row]:
    fastest: dict[ShapeKey, float] = defaultdict(lambda: math.inf)
    for row in rows:
        fastest[row.shape] = min(fastest[row.shape], row.us)
    return [row for row in rows if row.us < near * fastest[row.shape] and not _bound_by_edges(row, prior)]


def _bound_by_edges(row: Row, prior: CostTables) -> bool:
    predicted = row.predicted(prior)
    outside = heuristics.rows_outside(row.schedule, row.shape[0], predicted.rounds)
    return OUTSIDE_ROW_US * outside > 0.8 * predicted.step_us


def _fit_cell(rows: Sequence[Row], prior: Cost, tables: CostTables) -> Cost:
    """base, step and tile of one kind of tile: least squares, where which rows memory bounds is found by iteration."""
    if len(rows) < FEWEST_ROWS:
        return prior
    start = np.array(astuple(prior))
    predicted = [row.predicted(tables) for row in rows]
    extra = np.array([p.base_us for p in predicted]) - min(p.base_us for p in predicted)
    chain = np.array([float(p.steps_per_cta) for p in predicted])
    waves = np.array([float(p.rounds.count) for p in predicted])
    memory, us = np.array([p.memory_us for p in predicted]), np.array([row.us for row in rows])
    moving = np.array([p.moving_us for p in predicted])
    held, found = np.diag(math.sqrt(PULL) / start), start
    for _ in range(ROUNDS):
        bound = memory > chain * found[1]
        terms = np.stack([np.ones_like(us), np.where(bound, 0.0, chain), waves], axis=1)
        rest = us - extra - np.where(bound, moving, 0.0)
        left = np.concatenate([terms / us[:, None], held])
        right = np.concatenate([rest / us, held @ start])
        found = np.maximum(np.linalg.lstsq(left, right, rcond=None)[0], 0.05 * start)
    return Cost(*(round(float(value), 3) for value in found))


def _fit_multicast(rows: Sequence[Row], tables: CostTables) -> CostTables:
    """What sharing adds to a launch, and its factor of a step, for the tile that ships with it."""
    if len(rows) < FEWEST_ROWS:
        return tables
    without = replace(tables, multicast_base=0.0, multicast_step=1.0)
    predicted = [row.predicted(without) for row in rows]
    us = np.array([row.us for row in rows])
    start = np.array([tables.multicast_base, tables.multicast_step])
    held, found = np.diag(math.sqrt(PULL) / start), start
    for _ in range(ROUNDS):
        bound = [p.memory_us > p.steps_us * found[1] for p in predicted]
        steps = np.array([0.0 if by_memory else p.steps_us for p, by_memory in zip(predicted, bound, strict=True)])
        fixed = np.array([p.total_us - max(p.steps_us, p.moving_us) for p in predicted])
        fixed += np.array([p.moving_us if by_memory else 0.0 for p, by_memory in zip(predicted, bound, strict=True)])
        left = np.concatenate([np.stack([np.ones_like(us), steps], axis=1) / us[:, None], held])
        found = np.linalg.lstsq(left, np.concatenate([(us - fixed) / us, held @ start]), rcond=None)[0]
    return replace(tables, multicast_base=round(float(found[0]), 3), multicast_step=round(float(found[1]), 3))


def choice(tables: CostTables, shape: ShapeKey) -> Schedule:
    """What the heuristics would choose for a shape with these tables."""
    listed = [schedule for _, schedule in heuristics.ranked(ScheduleHints(), *shape, HOPPER)]
    return min(listed, key=lambda s: heuristics.preference((heuristics.prediction(s, *shape, HOPPER, tables), s)))


def regret(rows: Iterable[Row], chosen: Chooser) -> Regret:
    """What each shape's choice costs, as far as it was measured."""
    measured: dict[ShapeKey, dict[ScheduleKey, float]] = defaultdict(dict)
    for row in rows:
        measured[row.shape][_key(row.schedule)] = row.us
    taken = {shape: times.get(_key(chosen(shape))) for shape, times in measured.items()}
    return Regret(
        {shape: us / min(measured[shape].values()) for shape, us in taken.items() if us is not None},
        tuple(shape for shape, us in taken.items() if us is None),
    )


def errors(rows: Iterable[Row], tables: CostTables) -> list[float]:
    """Relative errors of the predictions, ascending."""
    return sorted(abs(row.predicted(tables).total_us / row.us - 1.0) for row in rows)


def table_row(found: Regret, off: Sequence[float]) -> str:
    """The cells of one line of the printed table."""
    worst = ", ".join(f"{'×'.join(map(str, shape))}: {_percent(value - 1)}" for shape, value in found.worst)
    missing = f" ({len(found.unmeasured)} not measured)" if found.unmeasured else ""
    median, high = (_percent(off[len(off) * part // 10], 0) for part in (5, 9))
    return f"{_percent(found.mean - 1)}{missing} | {worst} | {median}, {high}"


def _percent(part: float, digits: int = 1) -> str:
    return f"{100 * part:.{digits}f} %"


def shown(tables: CostTables) -> str:
    """Tables as they stand in ``costs.py``."""
    lines = []
    for name, value in vars(tables).items():
        if not isinstance(value, dict):
            lines.append(f"{name}={value},")
            continue
        lines.append(f"{name}={{")
        for key, costs in (value if isinstance(next(iter(value.values())), dict) else {None: value}).items():
            cells = ", ".join(f"{c}: Cost({', '.join(map(str, astuple(cost)))})" for c, cost in costs.items())
            lines.append(f"    {cells}," if key is None else f"    {key}: {{{cells}}},")
        lines.append("},")
    return "\n".join(lines)


def _key(schedule: Schedule) -> ScheduleKey:
    """What tells schedules of a sweep apart: rings are as deep as fits, whatever the version that measured."""
    return schedule.tile, schedule.cluster, schedule.split_k, schedule.swap_ab


if __name__ == "__main__":
    raise SystemExit(main())
