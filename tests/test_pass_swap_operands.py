from __future__ import annotations

from ir_texts import ASYNC, PROMOTED, WORDS_PROMOTED, edited, opt, refused

SWAPPED = edited(
    PROMOTED,
    ("%zero = tile.zeros() : frag<f32, [128, 64]>", "%zero = tile.zeros() : frag<f32, [64, 128]>"),
    (": frag<f32, [128, 64]> do (%k0: index, %acc: frag<f32, [128, 64]>)",
     ": frag<f32, [64, 128]> do (%k0: index, %acc: frag<f32, [64, 128]>)"),
    ("tile.mma(a=%at, b=%bt) : frag<f32, [128, 64]>", "tile.mma(a=%bt, b=%at) : frag<f32, [64, 128]>"),
    ("row_scale=%sat, col_scale=%sbt, row=%m0, col=%n0) {col_block=128} : frag<f32, [128, 64]>",
     "row_scale=%sbt, col_scale=%sat, row=%n0, col=%m0) {row_block=128} : frag<f32, [64, 128]>"),
    ('{expression="acc"} : frag<bf16, [128, 64]>', '{expression="acc"} : frag<bf16, [64, 128]>'),
    ("row=%m0, col=%n0)\n  }", "row=%m0, col=%n0) {transposed=true}\n  }"),
)  # fmt: skip


def shown(text: str) -> str:
    """Default block sizes may stand in the text or not."""
    return text.replace("{row_block=128, col_block=1}", "{row_block=128}")


def test_every_fragment_is_transposed():
    assert shown(opt(PROMOTED, "swap-operands")) == SWAPPED


def test_swapping_twice_is_nothing():
    assert opt(PROMOTED, "swap-operands,swap-operands") == opt(PROMOTED)


def test_the_reduction_is_transposed_too():
    text = opt(PROMOTED, "split-k{parts=2},swap-operands")
    assert "%total = tile.reduce_parts(value=%sum) {parts=2, transposed=true} : frag<f32, [64, 128]>" in text
    assert "tile.store(value=%out, dest=%d, row=%m0, col=%n0) {transposed=true}" in text


def test_scales_of_the_whole_row_follow_their_operand():
    scaled = edited(
        PROMOTED,
        ("    %out = tile.map(acc=%sum)",
         "    %full = tile.scale(value=%sum, row_scale=%sa, col_scale=%sb, row=%m0, col=%n0) : frag<f32, [128, 64]>\n"
         "    %out = tile.map(acc=%full)"),
    )  # fmt: skip
    text = opt(scaled, "swap-operands")
    assert "tile.scale(value=%sum, row_scale=%sb, col_scale=%sa, row=%n0, col=%m0) : frag<f32, [64, 128]>" in text


def test_words_and_how_far_they_reach_follow_their_operand():
    text = opt(WORDS_PROMOTED, "swap-operands")
    product = "tile.mma(a=%bt, b=%at, acc=%acc, scale_a=%sbt, scale_b=%sat) {vector_a=128, vector_b=32}"
    assert f"{product} : frag<f32, [64, 128]>" in text
    assert opt(text, "swap-operands") == opt(WORDS_PROMOTED)


def test_the_async_level_is_too_late():
    refused(ASYNC, "pass swap-operands does not apply here", passes="swap-operands")
