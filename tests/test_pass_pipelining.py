from __future__ import annotations

import pytest
from ir_texts import ASYNC, PROMOTED, edited, opt, refused


def test_loads_go_through_a_ring():
    assert opt(PROMOTED, "pipelining{stages=3,scale_copy=lanes}") == ASYNC


def test_scales_are_padded_to_their_pitch():
    text = opt(PROMOTED, "pipelining{stages=2,scale_copy=lanes,lanes_pitch_bytes=1024}")
    assert 'name="sa", type=smem<f32, [128]>, engine=lanes, stage_bytes=1024' in text
    assert ": ring<2>" in text


def test_a_step_without_scales_has_bulk_buffers_only():
    plain = edited(
        PROMOTED,
        ("row_scale=%sat, col_scale=%sbt, ", ""),
        (" {col_block=128}", ""),
        ("      %sat = tile.load_scales(source=%sa, row=%m0, col=%k0) {block=[1, 128]} : smem<f32, [128]>\n", ""),
        ("      %sbt = tile.load_scales(source=%sb, row=%n0, col=%k0) {block=[128, 128]} : smem<f32, [1]>\n", ""),
    )
    text = opt(plain, "pipelining")
    assert "lanes" not in text
    assert text.count("async.load(") == 2


def test_two_loops_over_k_are_refused():
    loop = PROMOTED[PROMOTED.index("    %sum =") : PROMOTED.index("    %out =")]
    again = loop
    for name in ("sum", "k0", "acc", "at", "sat", "bt", "sbt", "part", "next"):
        for end in (" ", ":", ",", ")", "]"):
            again = again.replace(f"%{name}{end}", f"%{name}_b{end}")
    refused(
        edited(PROMOTED, ("    %out =", again + "    %out =")),
        "pipelining needs one loop over K",
        "got: 2",
        passes="pipelining",
    )


def test_no_loop_over_k_is_refused():
    text = "module @k level=tile target=sm_90a () {\n}\n"
    refused(text, "pipelining needs one loop over K", "got: 0", passes="pipelining")


def test_a_ring_needs_a_stage():
    refused(PROMOTED, "a ring needs stages", "0 stages", passes="pipelining{stages=0}")


@pytest.mark.parametrize("again", ["pipelining", "promotion"])
def test_it_leaves_the_tile_level(again: str):
    refused(ASYNC, f"pass {again} does not apply here", "got: async", passes=again)


def test_by_default_the_copy_engine_loads_row_scales_and_lanes_those_of_blocks():
    """TMA writes to multiples of 128 bytes, so the place of a row's scales is rounded up to that."""
    bulk = edited(
        ASYNC,
        ("type=smem<f32, [128]>, engine=lanes", "type=smem<f32, [128]>, engine=bulk"),
        ("block=[1, 128], engine=lanes", "block=[1, 128], engine=bulk"),
    )
    assert opt(PROMOTED, "pipelining{stages=3}") == bulk
    assert opt(PROMOTED, "pipelining{stages=3,scale_copy=bulk}") == bulk
    wide = opt(PROMOTED, "pipelining{bulk_pitch_bytes=1024}")
    assert 'name="sa", type=smem<f32, [128]>, engine=bulk, stage_bytes=1024' in wide
