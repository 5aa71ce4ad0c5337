"""Laws of columns that are dealt in runs: whoever loads, scales or stores a tile's columns knows the same runs."""

from __future__ import annotations

from collections.abc import Sequence

from gemmgen.backends.sm90 import hardware as hw
from gemmgen.backends.sm90.math_ops import PromoteRowsOp, TmaStoreOp
from gemmgen.backends.sm90.ops import CopyScalesOp, TileLoopOp, TmaLoadOp
from gemmgen.backends.sm90.sites import Program
from gemmgen.errors import IRError
from gemmgen.ir.core import Op, Value
from gemmgen.ir.tile_ops import check_runs, extents
from gemmgen.ir.verifier import fail


def check_column_runs(program: Program) -> None:
    """Check the loads that make up a stage, and all that depends on where a tile's columns are.

    Raises:
        IRError: the first law that is broken.
    """
    dealt: dict[Value, tuple[int, ...]] = {}
    loops = [op for _, op in program.all(TileLoopOp)]
    for op in loops:
        _check_loop(op, loops[0].runs)
        if op.runs:
            dealt[op.body.args[1]] = op.runs
    loads: dict[tuple[str, int], list[TmaLoadOp]] = {}
    for site, op in program.all(TmaLoadOp):
        loads.setdefault((op.area, id(site.steps)), []).append(op)
    for found in loads.values():
        _check_loads(program, found, dealt.get(found[0].row, ()))
    for site in program.sites:
        _check_use(site.op, dealt)


def _check_loop(op: TileLoopOp, others: tuple[int, ...]) -> None:
    """Runs make up a tile that no other CTA has a part of, and every role deals the same ones."""
    if op.runs != others:
        fail(op, "every role deals columns in the same runs", got=list(op.runs), need=list(others))
    try:
        check_runs(op.runs, op.tile[1])
    except IRError as error:
        fail(op, error.what, got=error.got, need=error.need)
    if op.runs and (op.split > 1 or op.inside_n or op.runs[-1] % hw.ATOM_ROWS):
        fail(op, "columns that are dealt in runs", got=f"split={op.split}, inside_n={op.inside_n}, {list(op.runs)}",
             need=f"split=1, inside_n=false, multiples of {hw.ATOM_ROWS}")  # fmt: skip


def _check_loads(program: Program, loads: Sequence[TmaLoadOp], runs: tuple[int, ...]) -> None:
    """The loads of an area in a step fill its stage, one behind the other, each with its own run of rows."""
    at, area = 0, program.area(loads[0], loads[0].area)
    for run, op in enumerate(loads):
        width = runs[run] if run < len(runs) else op.rows
        if (op.row, op.col) != (loads[0].row, loads[0].col) or (op.run, op.at, op.rows) != (run, at, width):
            fail(op, f"loads of area '{op.area}' follow each other", got=f"run {op.run}: {op.rows} rows behind {op.at}",
                 need=f"run {run}: {width} rows behind {at}, from one place")  # fmt: skip
        at += op.rows
    loaded = at * loads[0].row_bytes * loads[0].slabs
    if len(loads) != max(1, len(runs)) or loaded != area.stage_bytes:
        fail(loads[-1], f"a load fills a stage of area '{area.name}'", got=f"{loaded} bytes in {len(loads)} loads",
             need=f"{area.stage_bytes} in {max(1, len(runs))}")  # fmt: skip


def _check_use(op: Op, dealt: dict[Value, tuple[int, ...]]) -> None:
    """Ops that say where columns are know the runs in which they are dealt, and those that know them do as they say."""
    if isinstance(op, TmaLoadOp | TileLoopOp):
        return
    runs = getattr(op, "runs", ())
    used = [dealt.get(value, ()) for value in op.all_operands if value in dealt] or [()]
    if any(found != runs for found in used):
        fail(op, "columns are dealt in runs", got=list(runs), need=list(used[0]))
    if not runs:
        return
    match op:
        case CopyScalesOp():
            legal = op.count == len(runs) and op.block[0] % runs[0] == 0
        case PromoteRowsOp():
            legal = extents(op.blocks) == (len(runs),) and op.block % runs[0] == 0 and extents(op.acc)[1] == sum(runs)
        case TmaStoreOp():
            legal = all(width % op.box[1] == 0 for width in runs) and op.slabs * op.box[1] == sum(runs)
        case _:
            legal = False
    if not legal:
        fail(op, f"{op.NAME} goes through the runs of a tile's columns", got=f"{op} for runs of {list(runs)}",
             need="a scale or whole boxes for every run")  # fmt: skip
