"""Warp specialisation where products go to tensor memory: who multiplies, who promotes, and the ring between them."""

from __future__ import annotations

import pytest
from ir_texts import ASYNC, PROMOTED, body_of, edited, opt, refused, rejected
from test_pass_warp_specialization import role

SPECIALISED = opt(ASYNC, "warp-specialization{accumulators=2}")


def test_the_ring():
    (ring,) = (line for line in body_of(SPECIALISED) if line.startswith("%parts"))
    assert ring == (
        '%parts = async.ring() {buffers=[#buffer{name="part", type=tmem<f32, [128, 64]>, engine=tensor, '
        "stage_bytes=32768}]} : ring<2>"
    )


def test_one_warp_multiplies():
    """It waits for operands, takes a free accumulator, and hands both on."""
    assert role(SPECIALISED, "mma") == [
        'async.role() {name="mma", warps=1} do {',
        "tile.for_tiles() {rows=M, cols=192, tile=[128, 64]} do (%m0_3: index, %n0_3: index) {",
        "tile.for_k() {extent=256, step=128} do (%k0_3: index) {",
        "async.wait(ring=%ring)",
        '%at_1 = async.read(ring=%ring) {buffer="a"} : smem<e4m3, [128, 128]>',
        '%bt_1 = async.read(ring=%ring) {buffer="b"} : smem<e4m3, [64, 128]>',
        "async.acquire(ring=%parts)",
        'async.mma(ring=%parts, a=%at_1, b=%bt_1) {buffer="part"}',
        "async.commit(ring=%parts)",
        "async.release(ring=%ring)",
        "tile.yield()",
    ]


def test_the_others_promote():
    """They read scales and partial sums, but no operands."""
    math = role(SPECIALISED, "math")
    assert math[4:13] == [
        "async.wait(ring=%ring)",
        '%sat = async.read(ring=%ring) {buffer="sa"} : smem<f32, [128]>',
        '%sbt = async.read(ring=%ring) {buffer="sb"} : smem<f32, [1]>',
        "async.wait(ring=%parts)",
        '%part = async.read(ring=%parts) {buffer="part"} : tmem<f32, [128, 64]>',
        "%next = tile.promote(acc=%acc, partial=%part, row_scale=%sat, col_scale=%sbt, row=%m0, col=%n0) "
        "{col_block=128} : frag<f32, [128, 64]>",
        "async.release(ring=%parts)",
        "async.release(ring=%ring)",
        "tile.yield(values=[%next])",
    ]


def test_loads_are_as_without_tensor_memory():
    """Only multiplying and promoting differ; roles that load are the same, value names included."""
    plain = opt(ASYNC, "warp-specialization")
    for name in ("load", "scales"):
        assert role(SPECIALISED, name) == role(plain, name)


def test_registers_are_for_those_who_promote():
    text = opt(ASYNC, "warp-specialization{accumulators=2},register-reallocation{producer=40,math=232}")
    assert 'name="math", warps=8, registers=232' in text
    assert 'name="mma", warps=1, registers=40' in text
    assert 'name="idle", warps=1, registers=40' in text


SCALES = [row for row in PROMOTED.splitlines(keepends=True) if "tile.load_scales" in row or "tile.promote" in row]
SUMMED = edited(PROMOTED, *((row, "") for row in SCALES),
                ("%part = tile.mma(a=%at, b=%bt)", "%next = tile.mma(a=%at, b=%bt, acc=%acc)"))  # fmt: skip
"""The tensor core adds up over K, without scales."""
WHOLE = opt(SUMMED, "pipelining,warp-specialization{accumulators=2}")


def test_a_sum_over_all_of_k_is_handed_over_once_per_tile():
    """So the next tile's products start while this one is stored."""
    assert role(WHOLE, "mma") == [
        'async.role() {name="mma", warps=1} do {',
        "tile.for_tiles() {rows=M, cols=192, tile=[128, 64]} do (%m0_2: index, %n0_2: index) {",
        "async.acquire(ring=%parts)",
        "tile.for_k() {extent=256, step=128} do (%k0_2: index) {",
        "async.wait(ring=%ring)",
        '%at_1 = async.read(ring=%ring) {buffer="a"} : smem<e4m3, [128, 128]>',
        '%bt_1 = async.read(ring=%ring) {buffer="b"} : smem<e4m3, [64, 128]>',
        'async.mma(ring=%parts, a=%at_1, b=%bt_1) {buffer="part", accumulate=true}',
        "async.release(ring=%ring)",
        "tile.yield()",
        "async.commit(ring=%parts)",
    ]
    assert role(WHOLE, "math")[2:7] == [
        "async.wait(ring=%parts)",
        '%part = async.read(ring=%parts) {buffer="part"} : tmem<f32, [128, 64]>',
        "%sum = async.fetch(source=%part) : frag<f32, [128, 64]>",
        "async.release(ring=%parts)",
        '%out = tile.map(acc=%sum) {expression="acc"} : frag<bf16, [128, 64]>',
    ]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ((("      async.commit(ring=%parts)\n", ""),), "leaves a stage of %parts open"),
        ((("      async.acquire(ring=%parts)\n", ""),), "a load fills an acquired stage"),
        ((("      async.release(ring=%parts)\n", ""),), "leaves a stage of %parts open"),
        ((("      async.wait(ring=%parts)\n", ""),), "a read needs a stage that has been waited for"),
        ((("cols=192, tile=[128, 64]} do (%m0_2", "cols=128, tile=[128, 64]} do (%m0_2"),), "takes another way"),
        ((("      async.wait(ring=%parts)\n", "      async.wait(ring=%ring)\n"),), "a ring turns with the steps of K"),
        ((("async.fetch(source=%part) : frag<f32, [128, 64]>", "async.fetch(source=%part) : frag<bf16, [128, 64]>"),),
         "a fetch reads tensor memory"),
    ],
)  # fmt: skip
def test_the_hand_over_per_tile_is_checked(changes: tuple[tuple[str, str], ...], error: str):
    rejected(edited(WHOLE, *changes), error)


def test_two_products_need_two_accumulators():
    line = next(row for row in SUMMED.splitlines(keepends=True) if "tile.mma" in row)
    twice = edited(SUMMED, (line, line + line.replace("%next", "%other")))
    refused(
        twice, "one accumulator holds the products of a step", passes="pipelining,warp-specialization{accumulators=2}"
    )


def test_products_fill_accumulators():
    change = ("async.mma(ring=%parts,", "async.mma(ring=%ring,")
    rejected(edited(SPECIALISED, change), "a load fills an acquired stage")


def test_a_sum_is_complete_before_it_is_read():
    """In the promoting role the second wait is the accumulator's."""
    rejected(
        edited(SPECIALISED, ("      async.wait(ring=%parts)\n", "")), "a read needs a stage that has been waited for"
    )


def test_a_sum_is_not_used_after_its_release():
    release = "        async.release(ring=%parts)\n"
    wait = "        async.wait(ring=%parts)\n"
    part = next(line for line in SPECIALISED.splitlines(keepends=True) if "%part = async.read" in line)
    assert release in SPECIALISED, SPECIALISED
    moved = edited(SPECIALISED, (release, ""), (wait + part, wait + part + release))
    rejected(moved, "%part is used after its stage was released")


def test_an_accumulator_has_the_products_shape():
    rejected(edited(SPECIALISED, ("a=%at_1, b=%bt_1", "a=%bt_1, b=%bt_1")), "shapes of a matrix product")


def test_tensor_memory_is_filled_by_the_tensor_core_alone():
    wrong = SPECIALISED.replace("type=tmem<f32, [128, 64]>, engine=tensor", "type=smem<f32, [128, 64]>, engine=tensor")
    rejected(wrong, "buffer 'part' of a ring")
