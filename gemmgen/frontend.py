"""From a spec and a schedule to tile IR: what one output tile needs, in the order a textbook would write it."""

from __future__ import annotations

from math import gcd

import sympy

from gemmgen.ir.builder import Builder
from gemmgen.ir.core import Level, Module, Origin, Region, Value
from gemmgen.ir.dims import ceildiv
from gemmgen.ir.tile_ops import (
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
)
from gemmgen.ir.types import F32, INDEX, MemType, ScalarType, frag, gmem, smem
from gemmgen.schedule import Schedule
from gemmgen.spec.model import GemmSpec, Operand


def build_tile_module(spec: GemmSpec, schedule: Schedule, target: str) -> Module:
    """The tile-level module of a dense problem ``D = A · Bᵀ`` with block-scaled operands.

    Args:
        spec: a spec that ``gemmgen.spec.support`` accepts.
        schedule: gives the tile's extents and the order of tiles.
        target: the target's name, which the module carries.
    """
    m, n, k = (spec.problem.dim(name) for name in ("M", "N", "K"))
    tile_m, tile_n, tile_k = schedule.tile
    a, sa = _arguments("a", spec.operands.a, m, k)
    b, sb = _arguments("b", spec.operands.b, n, k)
    d = Value("d", gmem(ScalarType(spec.operands.d.dtype), m, n))
    ir = Builder(origin=_origin(spec, "problem"))
    for value in (a, sa, b, sb, d):
        ir.names.fresh(value.name)
    total = frag(F32, tile_m, tile_n)
    with ir.region(m0=INDEX, n0=INDEX) as tile:
        m0, n0 = tile.args
        zero = ir.add(ZerosOp, result=("zero", total)).result
        with ir.region(k0=INDEX, acc=total) as step:
            next_sum = _step(ir, spec, schedule, (a, sa, b, sb), (m0, n0, *step.args))
            ir.add(YieldOp, values=[next_sum])
        loop = ir.add(ForKOp, inits=[zero], extent=_dim(k), step=tile_k, body=step.region, results=[("sum", total)])
        with ir.at(_origin(spec, "epilogue")):
            value = loop.results[0]
            if _whole_k(spec.operands.a):
                value = ir.add(ScaleOp, value=value, row_scale=sa, col_scale=sb, row=m0, col=n0,
                               result=("scaled", total)).result  # fmt: skip
            out_type = frag(ScalarType(spec.operands.d.dtype), tile_m, tile_n)
            out = ir.add(MapOp, acc=value, expression=spec.epilogue, result=("out", out_type)).result
            ir.add(StoreOp, value=out, dest=d, row=m0, col=n0)
    ir.add(ForTilesOp, rows=_dim(m), cols=_dim(n), tile=(tile_m, tile_n), raster_group=schedule.raster_group,
           raster_along=schedule.raster_along, body=tile.region)  # fmt: skip
    return Module(spec.name, Level.TILE, target, (a, sa, b, sb, d), (), Region((), ir.take()))


def _step(
    ir: Builder, spec: GemmSpec, schedule: Schedule, operands: tuple[Value, ...], place: tuple[Value, ...]
) -> Value:
    """One step of K: load the boxes and add their product to the accumulator.

    Scale blocks of the step's length are applied here; scales that hold for all of K wait until the sum is complete.
    """
    (a, sa, b, sb), (m0, n0, k0, acc) = operands, place
    tile_m, tile_n, tile_k = schedule.tile
    blocked = not _whole_k(spec.operands.a)
    with ir.at(_origin(spec, "operands")):
        at = ir.add(LoadOp, source=a, row=m0, col=k0, result=("at", _box(a, tile_m, tile_k))).result
        sat = _load_scales(ir, spec.operands.a, sa, m0, k0, tile_m) if blocked else None
        bt = ir.add(LoadOp, source=b, row=n0, col=k0, result=("bt", _box(b, tile_n, tile_k))).result
        sbt = _load_scales(ir, spec.operands.b, sb, n0, k0, tile_n) if blocked else None
    with ir.at(_origin(spec, "accumulate")):
        if spec.accumulate.promote_every is None:
            return ir.add(MmaOp, a=at, b=bt, acc=acc, result=("next", acc.type)).result
        blocks = {"block_a": _block(spec.operands.a)[0], "block_b": _block(spec.operands.b)[0]} if blocked else {}
        return ir.add(ScaledMmaOp, acc=acc, a=at, b=bt, scale_a=sat, scale_b=sbt, row=m0, col=n0,
                      result=("next", acc.type), **blocks).result  # fmt: skip


def scales_per_tile(extent: int, block: int) -> int:
    """How many scale blocks of ``block`` elements a tile of ``extent`` elements can touch.

    Tiles start at multiples of ``extent``, so a start lies at most ``block`` − gcd(extent, block) into a block.
    """
    return -(-(block - gcd(extent, block) + extent) // block)


def _arguments(name: str, operand: Operand, rows: sympy.Expr, cols: sympy.Expr) -> tuple[Value, Value]:
    block_rows, block_cols = _block(operand)
    columns = 1 if _whole_k(operand) else ceildiv(cols, block_cols)
    scales = gmem(F32, ceildiv(rows, block_rows), columns)
    return Value(name, gmem(ScalarType(operand.dtype), rows, cols)), Value(f"s{name}", scales)


def _whole_k(operand: Operand) -> bool:
    """Whether a scale holds for all of K."""
    assert operand.scale is not None
    return operand.scale.block[1] == "K"


def _load_scales(ir: Builder, operand: Operand, source: Value, row: Value, col: Value, extent: int) -> Value:
    block = _block(operand)
    kind = smem(F32, scales_per_tile(extent, block[0]))
    return ir.add(LoadScalesOp, source=source, row=row, col=col, block=block, result=(f"{source.name}t", kind)).result


def _block(operand: Operand) -> tuple[int, int]:
    assert operand.scale is not None
    rows, cols = operand.scale.block
    return int(rows), 0 if cols == "K" else int(cols)


def _box(source: Value, rows: int, cols: int) -> MemType:
    assert isinstance(source.type, MemType)
    return smem(source.type.dtype, rows, cols)


def _dim(value: sympy.Expr) -> sympy.Expr | int:
    return int(value) if value.is_Integer else value


def _origin(spec: GemmSpec, path: str) -> Origin:
    position = spec.position(path)
    return Origin.parse(position) if position else Origin()
