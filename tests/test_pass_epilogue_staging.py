from __future__ import annotations

import pytest
from ir_texts import ASYNC, PROMOTED, edited, opt, refused


def test_a_fragment_leaves_through_a_staging_tile():
    assert opt(ASYNC, "epilogue-staging") == edited(
        ASYNC,
        ("  %ring = ", "  %staging = async.staging() : smem<bf16, [128, 64]>\n  %ring = "),
        ("tile.store(value=%out, dest=%d", "async.store(value=%out, staging=%staging, dest=%d"),
    )


def test_a_transposed_fragment_is_staged_as_it_is():
    text = opt(PROMOTED, "swap-operands,pipelining,epilogue-staging")
    assert "%staging = async.staging() : smem<bf16, [64, 128]>" in text
    assert "async.store(value=%out, staging=%staging, dest=%d, row=%m0, col=%n0) {transposed=true}" in text


@pytest.mark.parametrize(
    ("swap", "options", "tile"),
    [
        ("", "", "[128, 72]"),
        ("", "{exchange_pad=16}", "[128, 80]"),
        ("swap-operands,", "", "[128, 68]"),
        ("swap-operands,", "{exchange_pad_transposed=12}", "[128, 76]"),
    ],
)
def test_partial_sums_meet_in_a_padded_exchange_tile(swap: str, options: str, tile: str):
    text = opt(PROMOTED, f"split-k{{parts=2}},{swap}pipelining,epilogue-staging{options}")
    assert f"%exchange = async.staging() {{overlay=true}} : smem<f32, {tile}>" in text
    assert "tile.reduce_parts(value=%sum, exchange=%exchange)" in text
    assert "async.store" not in text


@pytest.mark.parametrize("columns", ["100", "M"])
def test_rows_that_the_copy_engine_would_clip_wrongly_are_stored_directly(columns: str):
    text = edited(ASYNC, ("%d: gmem<bf16, [M, 192]>", f"%d: gmem<bf16, [M, {columns}]>"))
    assert opt(text, "epilogue-staging") == opt(text)


def test_the_tile_level_is_too_early():
    refused(PROMOTED, "pass epilogue-staging does not apply here", "got: tile", passes="epilogue-staging")
