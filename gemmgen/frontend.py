"""From a spec and a schedule to tile IR: what one output tile needs, in the order a textbook would write it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd

import sympy

from gemmgen.ir.builder import Builder
from gemmgen.ir.core import Level, Module, Origin, Region, Value
from gemmgen.ir.dims import ceildiv
from gemmgen.ir.tile_ops import (
    SCALE_GROUP_ROWS,
    ForKOp,
    ForTilesOp,
    LoadOp,
    LoadScalesOp,
    MapOp,
    MmaOp,
    ScaledMmaOp,
    ScaleOp,
    StoreOp,
    YieldOp,
    ZerosOp,
    mem,
)
from gemmgen.ir.types import F32, INDEX, UE8M0X4, ScalarType, frag, gmem, smem
from gemmgen.schedule import Schedule
from gemmgen.spec.model import GemmSpec, Operand
from gemmgen.spec.vocabulary import rows_contiguous

SCALES_PER_WORD = 4
"""Scales that are powers of two come four to a word, one behind the other along K."""


@dataclass(frozen=True)
class _Side:
    """A or B: its matrix, its scales if it has any, and how a tile of it lies.

    Attributes:
        operand: what the spec says of it.
        value: the matrix; K is its second dimension, or its first if ``transposed``.
        scales: its scales, one row per block of rows (M or N).
        transposed: whether rows (M or N) are contiguous.
        extent: rows of its tile.
        runs: the runs in which these are dealt; none if they follow each other.
    """

    operand: Operand
    value: Value
    scales: Value | None
    transposed: bool
    extent: int
    runs: tuple[int, ...] = ()

    @property
    def block(self) -> tuple[int, int]:
        """Rows and elements of K that share a scale; 0 for all of K."""
        assert self.operand.scale is not None
        rows, cols = self.operand.scale.block
        return int(rows), 0 if cols == "K" else int(cols)

    @property
    def blocked(self) -> bool:
        """Whether scales change along K."""
        return self.scales is not None and self.block[1] > 0

    @property
    def in_words(self) -> bool:
        """Whether scales are powers of two, four to a word."""
        return self.operand.scale is not None and self.operand.scale.format == "ue8m0"

    @property
    def loaded_block(self) -> tuple[int, int]:
        """Rows and elements of K that an element of ``scales`` is for."""
        rows, cols = self.block
        return rows, cols * (SCALES_PER_WORD if self.in_words else 1)

    @property
    def arguments(self) -> tuple[Value, ...]:
        """The kernel's arguments for it."""
        return (self.value,) if self.scales is None else (self.value, self.scales)


def build_tile_module(spec: GemmSpec, schedule: Schedule, target: str) -> Module:
    """The tile-level module of a dense problem ``D = A · Bᵀ``, with scaled operands or plain ones.

    Args:
        spec: a spec that ``gemmgen.spec.support`` accepts.
        schedule: gives the tile's extents and the order of tiles.
        target: the target's name, which the module carries.
    """
    m, n, k = (spec.problem.dim(name) for name in ("M", "N", "K"))
    tile_m, tile_n, tile_k = schedule.tile
    a, b = (_side(spec, name, rows, k, extent) for name, rows, extent in (("a", m, tile_m), ("b", n, tile_n)))
    runs = column_runs(tile_n, b.block[0]) if schedule.deal_columns else ()
    b = replace(b, runs=runs)
    d = Value("d", gmem(ScalarType(spec.operands.d.dtype), m, n))
    arguments = (*a.arguments, *b.arguments, d)
    ir = Builder(origin=_origin(spec, "problem"))
    for value in arguments:
        ir.names.fresh(value.name)
    total = frag(F32, tile_m, tile_n)
    with ir.region(m0=INDEX, n0=INDEX) as tile:
        m0, n0 = tile.args
        zero = ir.add(ZerosOp, result=("zero", total)).result
        with ir.region(k0=INDEX, acc=total) as step:
            next_sum = _step(ir, spec, tile_k, (a, b), (m0, n0, *step.args))
            ir.add(YieldOp, values=[next_sum])
        loop = ir.add(ForKOp, inits=[zero], extent=_dim(k), step=tile_k, body=step.region, results=[("sum", total)])
        with ir.at(_origin(spec, "epilogue")):
            value = loop.results[0]
            if a.scales is not None and b.scales is not None and not a.blocked:
                value = ir.add(ScaleOp, value=value, row_scale=a.scales, col_scale=b.scales, row=m0, col=n0,
                               result=("scaled", total)).result  # fmt: skip
            out_type = frag(ScalarType(spec.operands.d.dtype), tile_m, tile_n)
            out = ir.add(MapOp, acc=value, expression=spec.epilogue, result=("out", out_type)).result
            ir.add(StoreOp, value=out, dest=d, row=m0, col=n0)
    ir.add(ForTilesOp, rows=_dim(m), cols=_dim(n), tile=(tile_m, tile_n), raster_group=schedule.raster_group,
           raster_along=schedule.raster_along, runs=runs, body=tile.region)  # fmt: skip
    return Module(spec.name, Level.TILE, target, arguments, (), Region((), ir.take()))


def _step(ir: Builder, spec: GemmSpec, tile_k: int, sides: tuple[_Side, _Side], place: tuple[Value, ...]) -> Value:
    """One step of K: load the boxes and add their product to the accumulator.

    Scale blocks of the step's length are applied here; scales that hold for all of K wait until the sum is complete.
    """
    (a, b), (m0, n0, k0, acc) = sides, place
    with ir.at(_origin(spec, "operands")):
        at, sat = _load(ir, a, tile_k, m0, k0)
        bt, sbt = _load(ir, b, tile_k, n0, k0)
    trans = {"trans_a": a.transposed, "trans_b": b.transposed}
    with ir.at(_origin(spec, "accumulate")):
        blocks = {"block_a": a.block[0], "block_b": b.block[0]} if a.blocked else {}
        if a.in_words:
            blocks |= {"vector_a": a.block[1], "vector_b": b.block[1]}
        elif spec.accumulate.promote_every is None:
            return ir.add(MmaOp, a=at, b=bt, acc=acc, **trans, result=("next", acc.type)).result
        return ir.add(ScaledMmaOp, acc=acc, a=at, b=bt, scale_a=sat, scale_b=sbt, row=m0, col=n0, **trans,
                      result=("next", acc.type), **blocks).result  # fmt: skip


def _load(ir: Builder, side: _Side, tile_k: int, row: Value, k0: Value) -> tuple[Value, Value | None]:
    """Load one side's box of a step, and the scales of its blocks if they change along K."""
    kind, name = mem(side.value).dtype, f"{side.value.name}t"
    place = {"row": k0, "col": row} if side.transposed else {"row": row, "col": k0}
    box = smem(kind, tile_k, side.extent) if side.transposed else smem(kind, side.extent, tile_k)
    loaded = ir.add(LoadOp, source=side.value, **place, result=(name, box)).result
    if not side.blocked:
        return loaded, None
    assert side.scales is not None
    scales = smem(mem(side.scales).dtype, _scales_loaded(side))
    return loaded, ir.add(LoadScalesOp, source=side.scales, row=row, col=k0, block=side.loaded_block,
                          result=(f"s{name}", scales)).result  # fmt: skip


def _scales_loaded(side: _Side) -> int:
    """Scales of a side that a step loads; words come in whole groups."""
    needed = len(side.runs) or scales_per_tile(side.extent, side.block[0])
    return -(-needed // SCALE_GROUP_ROWS) * SCALE_GROUP_ROWS if side.in_words else needed


def _side(spec: GemmSpec, name: str, rows: sympy.Expr, cols: sympy.Expr, extent: int) -> _Side:
    operand: Operand = getattr(spec.operands, name)
    transposed = rows_contiguous(spec.problem.layout, name)
    shape = (cols, rows) if transposed else (rows, cols)
    value = Value(name, gmem(ScalarType(operand.dtype), *shape))
    side = _Side(operand, value, None, transposed, extent)
    if operand.scale is None:
        return side
    block_rows, block_cols = side.loaded_block
    columns = ceildiv(cols, block_cols) if block_cols else 1
    kind = UE8M0X4 if side.in_words else F32
    return replace(side, scales=Value(f"s{name}", gmem(kind, ceildiv(rows, block_rows), columns)))


def scales_per_tile(extent: int, block: int) -> int:
    """How many scale blocks of ``block`` elements a tile of ``extent`` elements can touch.

    Tiles start at multiples of ``extent``, so a start lies at most ``block`` − gcd(extent, block) into a block.
    """
    return -(-(block - gcd(extent, block) + extent) // block)


def column_runs(columns: int, block: int) -> tuple[int, ...]:
    """The runs in which a tile's columns are dealt: powers of two, widest first, each within one scale block.

    144 columns and blocks of 128 give 128 and 16, and 112 columns 64, 32 and 16.
    """
    widest = block & -block
    whole, rest = divmod(columns, widest)
    return whole * (widest,) + tuple(1 << bit for bit in reversed(range(rest.bit_length())) if rest >> bit & 1)


def _dim(value: sympy.Expr) -> sympy.Expr | int:
    return int(value) if value.is_Integer else value


def _origin(spec: GemmSpec, path: str) -> Origin:
    position = spec.position(path)
    return Origin.parse(position) if position else Origin()
