"""From spec to tile IR: what is loaded, with which scales, and what may be symbolic."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_texts import CASES, SPECS, TARGET, TILE, WORDS, spec_of
from sm100_cases import CASES as BLACKWELL_CASES
from sm100_cases import with_scale_blocks

from gemmgen.frontend import build_tile_module, column_runs, scales_per_tile
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


@given(tiles=st.integers(1, 12), columns=st.integers(1, 32), block=st.sampled_from((16, 32, 64, 96, 128, 256)))
def test_runs_are_dealt_within_blocks(tiles: int, columns: int, block: int):
    """Every column belongs to one run of one tile, and no run touches two scale blocks."""
    runs = column_runs(columns, block)
    assert sum(runs) == columns
    dealt = []
    for number, width in enumerate(runs):
        for tile in range(tiles):
            start = tiles * sum(runs[:number]) + tile * width
            assert start // block == (start + width - 1) // block
            dealt += range(start, start + width)
    assert sorted(dealt) == list(range(tiles * columns))


def test_a_tile_that_is_dealt_has_a_scale_per_run():
    """112 columns touch two blocks at most where they follow each other, and are dealt in three runs."""
    tiles = text(n=448, schedule=replace(SMALL, tile=(128, 112, 128), deal_columns=True))
    assert "runs=[64, 32, 16]" in tiles
    assert "%sbt = tile.load_scales(source=%sb, row=%n0, col=%k0) {block=[128, 128]} : smem<f32, [3]>" in tiles


def test_scales_that_are_powers_of_two_come_four_to_a_word():
    """32 elements of A's K and 128 of B's share a scale: 128 and 512 share a word."""
    spec = with_scale_blocks(BLACKWELL_CASES["packed"], 32, 128).spec
    spec = replace(spec, problem=replace(spec.problem, dims={**spec.problem.dims, "N": 192, "K": 256}))
    lines = print_module(build_tile_module(spec, SMALL, TARGET))
    assert lines == WORDS.replace("@k", f"@{spec.name}")


@pytest.mark.parametrize(
    ("name", "k", "words", "block"),
    [
        ("mxfp8_gemm_nt", 256, 2, 128),
        ("mxfp8_gemm_nt", 272, 3, 128),
        ("mxfp8_gemm_tn", 16, 1, 128),
        ("fp8_gemm_nt_ue8m0", 512, 1, 512),
        ("fp8_gemm_nt_ue8m0", 528, 2, 512),
    ],
)
def test_words_along_k(name: str, k: int, words: int, block: int):
    """Scales are those of blocks of [rows, K], however the data lies."""
    lines = text(name, k=k)
    assert f"%sa: gmem<ue8m0x4, [M, {words}]>" in lines
    assert f"%sb: gmem<ue8m0x4, [192, {words}]>" in lines
    for name, row in (("a", "m0"), ("b", "n0")):
        load = f"%s{name}t = tile.load_scales(source=%s{name}, row=%{row}, col=%k0) {{block=[1, {block}]}}"
        assert f"{load} : smem<ue8m0x4, [128]>" in lines


@pytest.mark.parametrize(
    ("tile", "a", "b"),
    [((128, 16, 128), 128, 128), ((128, 128, 128), 128, 128), ((128, 192, 128), 128, 256), ((16, 128, 128), 128, 128),
     ((128, 256, 128), 128, 256)],
)  # fmt: skip
def test_words_come_in_groups_of_128_rows(tile: tuple[int, int, int], a: int, b: int):
    lines = text("mxfp8_gemm_nt", schedule=Schedule(tile, 3))
    assert f"{{block=[1, 128]}} : smem<ue8m0x4, [{a}]>" in lines
    assert [int(part.split("]")[0]) for part in lines.split("smem<ue8m0x4, [")[1:]] == [a, b]


def test_row_scales_of_both_operands():
    lines = text("fp8_gemm_nt_1d1d")
    assert "%sb: gmem<f32, [192, 2]>" in lines
    assert "%sbt = tile.load_scales(source=%sb, row=%n0, col=%k0) {block=[1, 128]} : smem<f32, [64]>" in lines
    assert "vector_a" not in lines


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
