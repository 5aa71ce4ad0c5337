"""``benchmarks.fit_costs``: what it fits and counts on sweeps made by hand; the document says what it prints."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import fit_costs  # noqa: E402
from benchmarks.fit_costs import Row, choice, errors, fit, regret  # noqa: E402
from gemmgen.backends.sm90 import heuristics  # noqa: E402
from gemmgen.backends.sm90.costs import SHIPPED, Cost, CostTables  # noqa: E402
from gemmgen.spec.model import ScheduleHints  # noqa: E402

SLOWER = replace(
    SHIPPED,
    plain={rows: {c: Cost(x.base * 1.5, x.step * 1.2, x.tile * 0.7) for c, x in costs.items()}
           for rows, costs in SHIPPED.plain.items()},
    multicast_base=2.0,
    multicast_step=0.9,
)  # fmt: skip
SHAPES = [(m, n, k) for m in (128, 384, 1000, 2048, 6000) for n, k in ((576, 7168), (4096, 2048), (24576, 1536))]


def swept(tables: CostTables, shapes: list[tuple[int, int, int]] = SHAPES) -> list[Row]:
    """A sweep of a GPU on which the model with these tables is exact."""
    listed = [(shape, s) for shape in shapes for _, s in heuristics.ranked(ScheduleHints(), *shape, fit_costs.HOPPER)]
    return [Row(shape, s, Row(shape, s, 0.0).predicted(tables).total_us) for shape, s in listed]


def test_a_fit_finds_the_tables_that_made_the_times() -> None:
    rows = swept(SLOWER)
    assert max(errors(rows, SHIPPED)) > 0.1
    found = fit(rows, near=3.0)
    off = errors([row for row in rows if row.schedule.tile[0] > 64], found)
    assert off[len(off) * 9 // 10] < 0.02
    assert max(off) < 0.08, "rows that no choice would take, and cells of few rows, are not fitted"
    assert found.plain[128][64].step == pytest.approx(SLOWER.plain[128][64].step, rel=0.02)
    assert found.plain_16 == SHIPPED.plain_16


def test_cells_without_rows_stay() -> None:
    rows = [row for row in swept(SLOWER) if row.schedule.tile != (128, 96, 128)]
    found = fit(rows)
    assert found.plain[128][96] == SHIPPED.plain[128][96]
    assert fit([]) == SHIPPED


def test_shipped_times_give_the_shipped_tables() -> None:
    found = fit(swept(SHIPPED))
    for rows, costs in SHIPPED.plain.items():
        for columns, cost in costs.items():
            assert found.plain[rows][columns].step == pytest.approx(cost.step, rel=1e-3, abs=1e-3)


def test_a_row_that_no_choice_would_take_has_no_influence() -> None:
    rows = swept(SLOWER)
    slow = [replace(row, us=3.0 * row.us) for row in rows if row.schedule.tile == (128, 144, 128)]
    assert slow
    assert fit([*rows, *slow]).plain[128][144] == fit(rows).plain[128][144]


def test_regret_by_hand() -> None:
    shape = (1000, 4096, 2048)
    ranked = [schedule for _, schedule in heuristics.ranked(ScheduleHints(), *shape, fit_costs.HOPPER)]
    assert choice(SHIPPED, shape) == ranked[0]
    rows = [Row(shape, ranked[0], 12.0), Row(shape, ranked[1], 10.0), Row((8, 8, 8), ranked[1], 5.0)]
    found = regret(rows, lambda _: ranked[0].replace(stages=2))
    assert found.by_shape == {shape: pytest.approx(1.2)}
    assert found.unmeasured == ((8, 8, 8),)
    assert found.mean == pytest.approx(1.2)
    assert found.worst == [(shape, pytest.approx(1.2))]
    assert regret(swept(SLOWER), lambda s: choice(SLOWER, s)).mean == pytest.approx(1.0)


def test_wrong_rows_are_left_out(tmp_path: Path) -> None:
    schedule = {"tile": [128, 128, 128], "stages": 5}
    row = {"m": 1, "n": 8, "k": 128, "us": 3.0, "held_out": True, "schedule": schedule}
    rows = [{**row, "diff": diff} for diff in (1e-6, 0.1, float("nan"))]
    (tmp_path / "sweep.json").write_text(json.dumps(rows))
    (only,) = fit_costs.read_sweep(tmp_path / "sweep.json")
    assert only.held_out


def test_the_document_has_what_the_recorded_sweep_gives(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert fit_costs.main([]) == 0
    _, *table = capsys.readouterr().out.splitlines()
    assert len(table) == 6
    document = (ROOT / "docs" / "performance.md").read_text()
    for line in table[2:]:
        assert line in document
