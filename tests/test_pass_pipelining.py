from __future__ import annotations

import pytest
from ir_texts import ASYNC, PROMOTED, WORDS_PROMOTED, body_of, edited, opt, refused


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


WORD_BUFFERS = """\
#buffer{name="a", type=smem<e4m3, [128, 128]>, engine=bulk, stage_bytes=16384}, \
#buffer{name="sa", type=smem<ue8m0x4, [128]>, engine=lanes, stage_bytes=512}, \
#buffer{name="b", type=smem<e4m3, [64, 128]>, engine=bulk, stage_bytes=8192}, \
#buffer{name="sb", type=smem<ue8m0x4, [128]>, engine=lanes, stage_bytes=512}"""


def step_of(text: str) -> list[str]:
    """The lines of a step of K."""
    lines = body_of(text)
    start = next(index for index, line in enumerate(lines) if "tile.for_k" in line)
    return lines[start + 1 : lines.index("tile.yield(values=[%next])")]


def test_words_by_the_copy_engine_land_in_a_ring_of_their_own_and_are_arranged():
    text = opt(WORDS_PROMOTED, "pipelining{stages=3}")
    assert body_of(text)[:2] == [
        f"%ring = async.ring() {{buffers=[{WORD_BUFFERS}]}} : ring<3>",
        '%words = async.ring() {buffers=[#buffer{name="sa_words", type=smem<ue8m0x4, [128]>, engine=bulk, '
        'stage_bytes=512}, #buffer{name="sb_words", type=smem<ue8m0x4, [128]>, engine=bulk, stage_bytes=512}]} '
        ": ring<3>",
    ]
    assert step_of(text) == [
        "async.acquire(ring=%words)",
        'async.load_scales(ring=%words, source=%sa, row=%m0, col=%k0) {buffer="sa_words", block=[1, 128], engine=bulk}',
        'async.load_scales(ring=%words, source=%sb, row=%n0, col=%k0) {buffer="sb_words", block=[1, 512], engine=bulk}',
        "async.commit(ring=%words)",
        "async.acquire(ring=%ring)",
        'async.load(ring=%ring, source=%a, row=%m0, col=%k0) {buffer="a"}',
        'async.load(ring=%ring, source=%b, row=%n0, col=%k0) {buffer="b"}',
        "async.wait(ring=%words)",
        '%sa_words = async.read(ring=%words) {buffer="sa_words"} : smem<ue8m0x4, [128]>',
        'async.arrange(ring=%ring, source=%sa_words) {buffer="sa"}',
        '%sb_words = async.read(ring=%words) {buffer="sb_words"} : smem<ue8m0x4, [128]>',
        'async.arrange(ring=%ring, source=%sb_words) {buffer="sb"}',
        "async.release(ring=%words)",
        "async.commit(ring=%ring)",
        "async.wait(ring=%ring)",
        '%at = async.read(ring=%ring) {buffer="a"} : smem<e4m3, [128, 128]>',
        '%sat = async.read(ring=%ring) {buffer="sa"} : smem<ue8m0x4, [128]>',
        '%bt = async.read(ring=%ring) {buffer="b"} : smem<e4m3, [64, 128]>',
        '%sbt = async.read(ring=%ring) {buffer="sb"} : smem<ue8m0x4, [128]>',
        "%next = tile.mma(a=%at, b=%bt, acc=%acc, scale_a=%sat, scale_b=%sbt) {vector_a=32, vector_b=128} "
        ": frag<f32, [128, 64]>",
        "async.release(ring=%ring)",
    ]


def test_words_by_lanes_are_arranged_on_their_way():
    text = opt(WORDS_PROMOTED, "pipelining{stages=3,scale_copy=lanes}")
    assert f"async.ring() {{buffers=[{WORD_BUFFERS}]}}" in text
    assert "%words" not in text
    assert step_of(text)[:6] == [
        "async.acquire(ring=%ring)",
        'async.load(ring=%ring, source=%a, row=%m0, col=%k0) {buffer="a"}',
        "async.load_scales(ring=%ring, source=%sa, row=%m0, col=%k0) "
        '{buffer="sa", block=[1, 128], engine=lanes, arranged=true}',
        'async.load(ring=%ring, source=%b, row=%n0, col=%k0) {buffer="b"}',
        "async.load_scales(ring=%ring, source=%sb, row=%n0, col=%k0) "
        '{buffer="sb", block=[1, 512], engine=lanes, arranged=true}',
        "async.commit(ring=%ring)",
    ]


def test_only_words_are_arranged():
    for copy in ("bulk", "lanes"):
        assert "arrange" not in opt(PROMOTED, f"pipelining{{scale_copy={copy}}}")
