from __future__ import annotations

from ir_texts import ASYNC, HEAD, PROMOTED, TAIL, TILE, WORDS, WORDS_PROMOTED, edited, opt, refused

PLAIN = edited(
    TILE,
    (", scale_a=%sat, scale_b=%sbt", ""),
    ("{block_b=128} : frag", ": frag"),
    ('      %sat = tile.load_scales(source=%sa, row=%m0, col=%k0) {block=[1, 128]} : smem<f32, [128]>\n', ""),
    ('      %sbt = tile.load_scales(source=%sb, row=%n0, col=%k0) {block=[128, 128]} : smem<f32, [1]>\n', ""),
)  # fmt: skip


def test_a_scaled_product_becomes_a_product_and_a_promotion():
    assert opt(TILE, "promotion") == PROMOTED


def test_without_scales_the_partial_sum_is_added_as_it_is():
    text = opt(PLAIN, "promotion")
    assert "%part = tile.mma(a=%at, b=%bt) : frag<f32, [128, 64]>" in text
    assert "%next = tile.promote(acc=%acc, partial=%part, row=%m0, col=%n0) : frag<f32, [128, 64]>" in text


def test_a_module_without_scaled_products_stays():
    assert opt(PROMOTED, "promotion") == PROMOTED


def test_two_products_in_a_step():
    second = (
        "      %more = tile.scaled_mma(acc=%next, a=%at, b=%bt, scale_a=%sat, scale_b=%sbt, row=%m0, col=%n0) "
        "{block_b=128} : frag<f32, [128, 64]>\n      tile.yield(values=[%more])\n"
    )
    text = opt(edited(TILE, ("      tile.yield(values=[%next])\n", second)), "promotion")
    assert "%part_1 = tile.mma(a=%at, b=%bt)" in text
    assert "%more = tile.promote(acc=%next, partial=%part_1, row_scale=%sat" in text
    assert "scaled_mma" not in text


def test_the_async_level_is_too_late():
    refused(
        ASYNC, "pass promotion does not apply here", "got: async", "need: a module of level tile", passes="promotion"
    )


def test_shapes_must_agree():
    wrong = edited(HEAD, ("smem<e4m3, [64, 128]>", "smem<e4m3, [32, 128]>")) + TILE[len(HEAD) :]
    assert wrong.endswith(TAIL)
    refused(wrong, "shapes of a matrix product", "need: [128, 32]", passes="promotion")


def test_scales_in_words_go_to_the_tensor_core():
    """It adds to the accumulator itself, so there is nothing to promote."""
    assert opt(WORDS, "promotion{block_scaled=true}") == WORDS_PROMOTED


def test_a_target_that_takes_no_scales_refuses_words():
    error = refused(WORDS, "the tensor core does not take scales", "a target that multiplies with them",
                    passes="promotion")  # fmt: skip
    assert "tile.scaled_mma" in str(error.where)
    assert error.got == "scales as powers of two"


def test_fp32_scales_are_promoted_whatever_the_target():
    assert opt(TILE, "promotion{block_scaled=true}") == PROMOTED
