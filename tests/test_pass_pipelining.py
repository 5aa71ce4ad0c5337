from __future__ import annotations

import pytest
from ir_texts import ASYNC, PROMOTED, WORDS_PROMOTED, body_of, edited, opt, refused

from gemmgen.errors import ScheduleError


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


AHEAD = "pipelining{stages=3,scales_ahead=true}"


def test_scales_of_blocks_for_all_steps_of_a_tile_have_a_ring_of_their_own():
    """Two steps of one scale each are 8 bytes, rounded up to 16; the ring of the operands has no scales of blocks."""
    text = opt(PROMOTED, AHEAD)
    assert body_of(text)[:2] == [
        '%ring = async.ring() {buffers=[#buffer{name="a", type=smem<e4m3, [128, 128]>, engine=bulk, '
        'stage_bytes=16384}, #buffer{name="sa", type=smem<f32, [128]>, engine=bulk, stage_bytes=512}, '
        '#buffer{name="b", type=smem<e4m3, [64, 128]>, engine=bulk, stage_bytes=8192}]} : ring<3>',
        '%runs = async.ring() {buffers=[#buffer{name="sb", type=smem<f32, [1]>, engine=lanes, stage_bytes=16}], '
        "steps=2} : ring<2>",
    ]
    assert step_of(text) == [
        "async.acquire(ring=%ring)",
        'async.load(ring=%ring, source=%a, row=%m0, col=%k0) {buffer="a"}',
        'async.load_scales(ring=%ring, source=%sa, row=%m0, col=%k0) {buffer="sa", block=[1, 128], engine=bulk}',
        'async.load(ring=%ring, source=%b, row=%n0, col=%k0) {buffer="b"}',
        "async.commit(ring=%ring)",
        "async.acquire(ring=%runs)",
        'async.load_scales(ring=%runs, source=%sb, row=%n0, col=%k0) {buffer="sb", block=[128, 128], engine=lanes}',
        "async.commit(ring=%runs)",
        "async.wait(ring=%ring)",
        "async.wait(ring=%runs)",
        '%at = async.read(ring=%ring) {buffer="a"} : smem<e4m3, [128, 128]>',
        '%sat = async.read(ring=%ring) {buffer="sa"} : smem<f32, [128]>',
        '%bt = async.read(ring=%ring) {buffer="b"} : smem<e4m3, [64, 128]>',
        '%sbt = async.read(ring=%runs) {buffer="sb"} : smem<f32, [1]>',
        "%part = tile.mma(a=%at, b=%bt) : frag<f32, [128, 64]>",
        "%next = tile.promote(acc=%acc, partial=%part, row_scale=%sat, col_scale=%sbt, row=%m0, col=%n0) "
        "{col_block=128} : frag<f32, [128, 64]>",
        "async.release(ring=%ring)",
        "async.release(ring=%runs)",
    ]


@pytest.mark.parametrize(
    ("parts", "k", "steps", "stage_bytes"), [(1, 256, 2, 16), (2, 256, 1, 16), (1, 1296, 11, 48), (3, 1296, 4, 16)]
)
def test_a_stage_holds_the_steps_of_a_ctas_part(parts: int, k: int, steps: int, stage_bytes: int):
    """1296 elements are eleven steps, of which three CTAs take three, four and four."""
    text = opt(PROMOTED.replace("extent=256", f"extent={k}"), f"split-k{{parts={parts}}},{AHEAD}")
    assert f"engine=lanes, stage_bytes={stage_bytes}}}], steps={steps}}} : ring<2>" in text


def test_a_step_without_scales_of_blocks_has_nothing_to_copy_ahead():
    rows = PROMOTED.replace("{block=[128, 128]} : smem<f32, [1]>", "{block=[1, 128]} : smem<f32, [64]>")
    rows = rows.replace("{col_block=128}", "")
    assert opt(rows, AHEAD) == opt(rows, "pipelining{stages=3}")


@pytest.mark.parametrize(
    ("extent", "passes", "got"),
    [
        ("256", "pipelining{scale_copy=lanes,scales_ahead=true}", "got: True"),
        ("M", AHEAD, "got: K = M for 1 CTAs"),
        ("256", f"split-k{{parts=3}},{AHEAD}", "got: K = 256 for 3 CTAs"),
    ],
    ids=["beside lanes", "unknown K", "fewer steps than CTAs"],
)
def test_scales_ahead_that_are_refused(extent: str, passes: str, got: str):
    with pytest.raises(ScheduleError) as caught:
        opt(PROMOTED.replace("{extent=256", f"{{extent={extent}"), passes)
    assert got in str(caught.value)
    assert caught.value.where == "schedule.scales_ahead"
    assert caught.value.fix == "leave scales_ahead auto"
