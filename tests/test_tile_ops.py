"""Rules of single tile-level ops, each broken once in a module that is otherwise right."""

from __future__ import annotations

import pytest
from ir_texts import PROMOTED, TILE, WORDS, WORDS_PROMOTED, edited, opt, rejected

from gemmgen.errors import IRError
from gemmgen.ir import Value
from gemmgen.ir.tile_ops import check_mma, check_scale_words, extents, mem
from gemmgen.ir.types import E4M3, F32, INDEX, UE8M0, UE8M0X4, frag, gmem, smem
from gemmgen.spec.dims import symbol

LOOP_HEAD = "tile.for_tiles() {rows=M, cols=192, tile=[128, 64]}"
SCALE = "    %out = tile.map(acc=%sum)"
SCALED = "    %x = tile.scale(value=%sum, row_scale=%sa, col_scale=%sb, row=%m0, col=%n0) : frag<f32, [128, 64]>\n"


@pytest.mark.parametrize("text", [TILE, PROMOTED, WORDS, WORDS_PROMOTED])
def test_the_base_texts_are_legal(text: str):
    assert opt(text) == text


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (("tile=[128, 64]", "tile=[128, 64, 1]"), ("tile and cluster are [m, n]", "tile=(128, 64, 1)")),
        (("tile=[128, 64]}", "tile=[128, 64], cluster=[2]}"), ("tile and cluster are [m, n]", "cluster=(2,)")),
        (("tile=[128, 64]}", 'tile=[128, 64], raster_along="k"}'), ("raster_along names an axis", "got: k", "m or n")),
        (
            ("tile=[128, 64]}", "tile=[128, 64], split=2}"),
            ("a tile split over K fills its whole cluster", "split=2, persistent=True"),
        ),
        (
            ("tile=[128, 64]}", "tile=[128, 64], split=2, persistent=false, cluster=[2, 1]}"),
            ("need: persistent=false",),
        ),
        (("%n0: index)", "%n0: f32)"), ("a loop's region gets its place", "got: index, f32", "need: index, index")),
        (("(%k0: index,", "(%k0: i32,"), ("a loop's region gets its place", "got: i32", "need: index")),
        (("inits=[%zero]", "inits=[]"), ("inits differ from the carried values", "need: ['frag<f32, [128, 64]>']")),
        (("yield(values=[%next])", "yield(values=[%sat])"), ("yielded values differ from the carried values",)),
        (
            ("step=128} : frag<f32, [128, 64]>", "step=128} : frag<f32, [64, 64]>"),
            ("results differ from the carried values",),
        ),
        (("      tile.yield(values=[%next])\n", ""), ("a step of K ends with its carried values", "need: tile.yield")),
        (
            ("col=%k0) : smem<e4m3, [128, 128]>", "col=%k0) : smem<e5m2, [128, 128]>"),
            ("a load keeps the element type", "got: smem<e5m2, [128, 128]>", "need: e4m3"),
        ),
        (("col=%k0) : smem<e4m3, [64, 128]>", "col=%k0) : smem<e4m3, [64, 64]>"), ("shapes of a matrix product",)),
        (
            ("col=%k0) : smem<e4m3, [64, 128]>", "col=%k0) : smem<e4m3, [N, 128]>"),
            ("%bt needs a known shape", "integers"),
        ),
        (
            ("b=%bt) : frag<f32, [128, 64]>", "b=%bt) : frag<f32, [64, 128]>"),
            ("shapes of a matrix product", "need: [128, 64]"),
        ),
        (
            ("{col_block=128} : frag<f32, [128, 64]>", "{col_block=128} : frag<f32, [64, 64]>"),
            ("acc, partial and result differ", "need: frag<f32, [64, 64]>"),
        ),
        (
            (SCALE, SCALED.replace("[128, 64]", "[64, 64]") + SCALE),
            ("a scaled fragment", "need: one type, gmem scales"),
        ),
        (
            (SCALE, SCALED.replace("row_scale=%sa", "row_scale=%zero") + SCALE),
            ("a scaled fragment",),
        ),
    ],
)
def test_rule(change: tuple[str, str], parts: tuple[str, ...]):
    rejected(edited(PROMOTED, change), *parts)


def test_scaled_mma_checks_its_accumulator():
    wrong = TILE.replace("frag<f32, [128, 64]>", "frag<f32, [128, 32]>")
    rejected(wrong, "shapes of a matrix product", "need: [128, 64]")


def test_tile_only_ops_are_illegal_further_down():
    rejected(TILE.replace("level=tile", "level=async"), "tile.load is illegal in this module", "an op of level async")


def test_mem_and_extents():
    tile = Value("t", smem(E4M3, 64, 128))
    assert mem(tile).dtype == E4M3
    assert extents(tile) == (64, 128)
    with pytest.raises(IRError, match="%i is not a tile"):
        mem(Value("i", INDEX))
    with pytest.raises(IRError, match="%g needs a known shape"):
        extents(Value("g", gmem(F32, symbol("M"), 4)))


@pytest.mark.parametrize(("a", "b", "acc"), [((64, 128), (32, 64), (64, 32)), ((64, 128), (32, 128), (32, 64))])
def test_check_mma(a: tuple[int, int], b: tuple[int, int], acc: tuple[int, int]):
    check_mma(Value("a", smem(E4M3, 64, 128)), Value("b", smem(E4M3, 32, 128)), Value("c", frag(F32, 64, 32)))
    with pytest.raises(IRError, match="shapes of a matrix product"):
        check_mma(Value("a", smem(E4M3, *a)), Value("b", smem(E4M3, *b)), Value("c", frag(F32, *acc)))


def test_two_ctas_have_half_of_b_each():
    a, half, acc = Value("a", smem(E4M3, 64, 128)), Value("b", smem(E4M3, 16, 128)), Value("c", frag(F32, 64, 32))
    check_mma(a, half, acc, ctas=2)
    check_mma(a, Value("b", smem(E4M3, 128, 16)), acc, trans_b=True, ctas=2)
    with pytest.raises(IRError, match="shapes of a matrix product") as caught:
        check_mma(a, half, acc)
    assert caught.value.need == "[64, 16]"
    with pytest.raises(IRError, match="shapes of a matrix product"):
        check_mma(a, Value("b", smem(E4M3, 32, 128)), acc, ctas=2)


def test_scale_words_say_how_far_they_reach():
    words = Value("s", smem(UE8M0X4, 128))
    check_scale_words(None, 0)
    check_scale_words(words, 32)
    for scale, vector in ((words, 0), (None, 32), (Value("s", smem(F32, 128)), 0), (Value("s", smem(UE8M0, 128)), 32)):
        with pytest.raises(IRError, match="scales of a matrix product") as caught:
            check_scale_words(scale, vector)
        assert "ue8m0x4" in str(caught.value.need)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (("vector_a=32, ", ""), ("scales of a matrix product", "got: smem<ue8m0x4, [128]>, 0 elements of K each")),
        ((", scale_b=%sbt", ""), ("scales of a matrix product", "got: none, 128 elements of K each")),
        (("scale_a=%sat", "scale_a=%acc"), ("scales of a matrix product", "got: frag<f32, [128, 64]>, 32 elements")),
        (("vector_b=128}", "vector_b=128, ctas=2}"), ("shapes of a matrix product", "need: [128, 128]")),
    ],
)
def test_rule_of_products_with_scales(change: tuple[str, str], parts: tuple[str, ...]):
    rejected(edited(WORDS_PROMOTED, change), *parts)
