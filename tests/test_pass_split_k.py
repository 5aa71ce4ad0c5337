from __future__ import annotations

from ir_texts import ASYNC, PROMOTED, edited, opt, refused


def test_steps_are_dealt_out_and_sums_reduced_before_the_epilogue():
    assert opt(PROMOTED, "split-k{parts=4}") == edited(
        PROMOTED,
        ("tile=[128, 64]}", "tile=[128, 64], split=4, persistent=false}"),
        ("{extent=256, step=128}", "{extent=256, step=128, parts=4}"),
        (
            "    %out = tile.map(acc=%sum)",
            "    %total = tile.reduce_parts(value=%sum) {parts=4} : frag<f32, [128, 64]>\n"
            "    %out = tile.map(acc=%total)",
        ),
    )


def test_one_part_changes_nothing():
    assert opt(PROMOTED, "split-k") == PROMOTED
    assert opt(PROMOTED, "split-k{parts=1}") == PROMOTED


def test_names_that_are_taken():
    text = opt(edited(PROMOTED, ("%sum = ", "%total = "), ("acc=%sum)", "acc=%total)")), "split-k{parts=2}")
    assert "%total_1 = tile.reduce_parts(value=%total) {parts=2}" in text
    assert "tile.map(acc=%total_1)" in text


def test_parts_are_positive():
    refused(PROMOTED, "split-k needs at least one part", "got: 0", "need: >= 1", passes="split-k{parts=0}")


def test_a_shared_tile_is_not_multicast():
    clustered = edited(PROMOTED, ("tile=[128, 64]}", "tile=[128, 64], cluster=[2, 1]}"))
    refused(clustered, "a tile split over K fills its whole cluster", "split=2", passes="split-k{parts=2}")


def test_the_async_level_is_too_late():
    refused(ASYNC, "pass split-k does not apply here", passes="split-k{parts=2}")
