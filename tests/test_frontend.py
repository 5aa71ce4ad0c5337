"""From spec to tile IR: what is loaded, with which scales, and what may be symbolic."""

from __future__ import annotations

import pytest
from ir_texts import CASES, SPECS, TARGET, TILE, spec_of

from gemmgen.frontend import build_tile_module, scales_per_tile
from gemmgen.ir import print_module, verify
from gemmgen.ir.rewrite import walk
from gemmgen.schedule import Schedule
from gemmgen.spec.loader import load_spec

SMALL = Schedule((128, 64, 128), 3)


def text(name: str = "fp8_gemm_nt", n: int = 192, k: int = 256, schedule: Schedule = SMALL) -> str:
    return print_module(build_tile_module(spec_of(n, k, name), schedule, TARGET))


def test_block_scales():
    assert text() == TILE.replace("@k", "@fp8_gemm_nt")


def test_row_scales_are_applied_once_behind_the_loop():
    lines = text("fp8_gemm_nt_rowwise")
    assert "%sa: gmem<f32, [M, 1]>" in lines
    assert "%sb: gmem<f32, [192, 1]>" in lines
    assert "%next = tile.scaled_mma(acc=%acc, a=%at, b=%bt, row=%m0, col=%n0)" in lines
    assert "load_scales" not in lines
    assert lines.index("tile.for_k") < lines.index("%scaled = tile.scale(value=%sum, row_scale=%sa, col_scale=%sb")
    assert "tile.map(acc=%scaled)" in lines


def test_without_promotion_the_tensor_core_accumulates():
    lines = text("fp8_gemm_nt_no_promotion")
    assert "%next = tile.mma(a=%at, b=%bt, acc=%acc) : frag<f32, [128, 64]>" in lines
    assert "scaled_mma" not in lines


@pytest.mark.parametrize(
    ("extent", "block", "count"),
    [(128, 1, 128), (8, 128, 1), (64, 128, 1), (80, 128, 2), (96, 128, 2), (128, 128, 1), (192, 128, 2), (200, 128, 3)],
)
def test_scales_per_tile_counts_every_start(extent: int, block: int, count: int):
    """The most blocks that any tile starting at a multiple of its extent touches."""
    starts = range(0, extent * block, extent)
    assert scales_per_tile(extent, block) == count == max((s + extent - 1) // block - s // block + 1 for s in starts)


def test_ragged_extents_keep_their_size():
    lines = text(n=200, k=400, schedule=Schedule((128, 96, 128), 3))
    assert "%sa: gmem<f32, [M, 4]>" in lines
    assert "%sb: gmem<f32, [2, 4]>" in lines
    assert "cols=200, tile=[128, 96]" in lines
    assert "extent=400, step=128" in lines
    assert "%sbt = tile.load_scales(source=%sb, row=%n0, col=%k0) {block=[128, 128]} : smem<f32, [2]>" in lines


def test_raster_is_the_schedules():
    lines = text(schedule=SMALL.replace(raster_group=4, raster_along="n"))
    assert 'tile=[128, 64], raster_group=4, raster_along="n"}' in lines


def test_ops_point_at_the_spec():
    module = build_tile_module(CASES["plain"], SMALL, TARGET)
    verify(module)
    places = {op.NAME: str(op.origin) for op in walk(module)}
    assert all("specs/fp8_gemm_nt.yaml:" in place for place in places.values()), places
    assert places["tile.load"] != places["tile.map"] != places["tile.for_tiles"]


def test_a_spec_made_in_python_builds_too():
    spec = spec_of(192, 256)
    again = type(spec)(**{name: getattr(spec, name) for name in ("name", "problem", "operands", "targets")})
    assert print_module(build_tile_module(again, SMALL, TARGET)) == text()


def test_unbound_dimensions_stay_symbols():
    lines = print_module(build_tile_module(load_spec(SPECS / "fp8_gemm_nt.yaml"), SMALL, TARGET))
    assert "%b: gmem<e4m3, [N, K]>" in lines
    assert "%sb: gmem<f32, [ceildiv(N, 128), ceildiv(K, 128)]>" in lines
