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
    ScaledMmaOp,
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
            k0, acc = step.args
            with ir.at(_origin(spec, "operands")):
                at = ir.add(LoadOp, source=a, row=m0, col=k0, result=("at", _box(a, tile_m, tile_k))).result
                sat = _load_scales(ir, spec.operands.a, sa, m0, k0, tile_m)
                bt = ir.add(LoadOp, source=b, row=n0, col=k0, result=("bt", _box(b, tile_n, tile_k))).result
                sbt = _load_scales(ir, spec.operands.b, sb, n0, k0, tile_n)
            with ir.at(_origin(spec, "accumulate")):
                product = ir.add(ScaledMmaOp, acc=acc, a=at, b=bt, scale_a=sat, scale_b=sbt, row=m0, col=n0,
                                 block_a=_block(spec.operands.a)[0], block_b=_block(spec.operands.b)[0],
                                 result=("next", total))  # fmt: skip
            ir.add(YieldOp, values=[product.result])
        loop = ir.add(ForKOp, inits=[zero], extent=_dim(k), step=tile_k, body=step.region, results=[("sum", total)])
        with ir.at(_origin(spec, "epilogue")):
            out_type = frag(ScalarType(spec.operands.d.dtype), tile_m, tile_n)
            out = ir.add(MapOp, acc=loop.results[0], expression=spec.epilogue, result=("out", out_type)).result
            ir.add(StoreOp, value=out, dest=d, row=m0, col=n0)
    ir.add(ForTilesOp, rows=_dim(m), cols=_dim(n), tile=(tile_m, tile_n), raster_group=schedule.raster_group,
           raster_along=schedule.raster_along, body=tile.region)  # fmt: skip
    return Module(spec.name, Level.TILE, target, (a, sa, b, sb, d), (), Region((), ir.take()))


def scales_per_tile(extent: int, block: int) -> int:
    """How many scale blocks of ``block`` elements a tile of ``extent`` elements can touch.

    Tiles start at multiples of ``extent``, so a start lies at most ``block`` − gcd(extent, block) into a block.
    """
    return -(-(block - gcd(extent, block) + extent) // block)


def _arguments(name: str, operand: Operand, rows: sympy.Expr, cols: sympy.Expr) -> tuple[Value, Value]:
    block_rows, block_cols = _block(operand)
    scales = gmem(F32, ceildiv(rows, block_rows), ceildiv(cols, block_cols))
    return Value(name, gmem(ScalarType(operand.dtype), rows, cols)), Value(f"s{name}", scales)


def _load_scales(ir: Builder, operand: Operand, source: Value, row: Value, col: Value, extent: int) -> Value:
    block = _block(operand)
    kind = smem(F32, scales_per_tile(extent, block[0]))
    return ir.add(LoadScalesOp, source=source, row=row, col=col, block=block, result=(f"{source.name}t", kind)).result


def _block(operand: Operand) -> tuple[int, int]:
    assert operand.scale is not None
    rows, cols = operand.scale.block
    return int(rows), int(cols)


def _box(source: Value, rows: int, cols: int) -> MemType:
    assert isinstance(source.type, MemType)
    return smem(source.type.dtype, rows, cols)


def _dim(value: sympy.Expr) -> sympy.Expr | int:
    return int(value) if value.is_Integer else value


def _origin(spec: GemmSpec, path: str) -> Origin:
    position = spec.position(path)
    return Origin.parse(position) if position else Origin()
