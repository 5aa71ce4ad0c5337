"""Blackwell's arithmetic against values worked out by hand (docs/hardware.md section 5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemmgen.backends.sm100 import hardware as hw
from gemmgen.errors import ScheduleError


@pytest.mark.parametrize(
    ("rows", "columns", "a", "b", "word"),
    [
        (128, 256, "e4m3", "e4m3", 0x08400010),  # the worked example of the document
        (128, 128, "e4m3", "e4m3", 8 << 24 | 16 << 17 | 1 << 4),
        (128, 16, "e5m2", "e4m3", 8 << 24 | 2 << 17 | 1 << 7 | 1 << 4),
        (128, 64, "e4m3", "e5m2", 8 << 24 | 8 << 17 | 1 << 10 | 1 << 4),
        (128, 128, "bf16", "bf16", 8 << 24 | 16 << 17 | 1 << 10 | 1 << 7 | 1 << 4),
        (128, 128, "f16", "f16", 8 << 24 | 16 << 17 | 1 << 4),
    ],
)
def test_instruction_descriptor(rows: int, columns: int, a: str, b: str, word: int):
    assert hw.instruction_descriptor(rows, columns, a, b) == word


def test_transposed_operands():
    """bf16 128 x 128 with B MN-major is the document's 0x08210490."""
    assert hw.instruction_descriptor(128, 128, "bf16", "bf16", b_transposed=True) == 0x08210490
    assert hw.instruction_descriptor(128, 128, "bf16", "bf16", a_transposed=True) == 0x08208490


def test_types_that_do_not_multiply():
    assert hw.mma_kind("e5m2", "e4m3") == "f8f6f4"
    assert hw.mma_kind("bf16", "bf16") == "f16"
    with pytest.raises(ScheduleError, match="operand types"):
        hw.mma_kind("e4m3", "bf16")


def test_shared_descriptor():
    """From 8 rows of 128 bytes to the next 8: 1024 bytes, in units of 16; version 1 at bit 46; swizzle 2 at bit 61."""
    word = hw.shared_descriptor(128)
    assert word & 0x3FFF == 0
    assert word >> 32 & 0x3FFF == 64
    assert word >> 46 & 0b111 == 1
    assert word >> 61 == 2
    assert word == 0x4000404000010000


def test_shared_descriptor_of_a_transposed_tile():
    """Slabs of 64 rows of K by 128 bytes are 8192 bytes apart; atoms of 8 rows follow each other."""
    word = hw.shared_descriptor(128, 64 * 128)
    assert word >> 16 & 0x3FFF == 8192 >> 4
    assert word >> 32 & 0x3FFF == 1024 >> 4
    assert hw.shared_descriptor(32, 64 * 32) >> 61 == 6


@pytest.mark.parametrize(("needed", "columns"), [(1, 32), (32, 32), (33, 64), (256, 256), (257, 512), (512, 512)])
def test_allocations_are_powers_of_two(needed: int, columns: int):
    assert hw.allocated_columns(needed) == columns


def test_tensor_memory_ends():
    with pytest.raises(ScheduleError, match="columns of tensor memory"):
        hw.allocated_columns(513)


def test_a_stage_is_free_after_all_promoting_warps_and_one_commit():
    assert hw.empty_arrivals(8, 1, 1) == 9
    assert hw.empty_arrivals(4, 1, 2) == 10
    assert hw.empty_arrivals(0, 1, 2) == 2
    assert hw.empty_arrivals(1, 0, 1) == 1


@pytest.mark.parametrize(
    ("columns", "block", "width"), [(128, None, 32), (48, None, 16), (24, None, 8), (64, 128, 32), (64, 16, 16)]
)
def test_loads_from_tensor_memory(columns: int, block: int | None, width: int):
    assert hw.load_columns(columns, block) == width


def test_no_load_takes_four_columns():
    with pytest.raises(ScheduleError, match="columns of a warpgroup"):
        hw.load_columns(12)


@pytest.mark.parametrize("tile", [(128, 16, 1), (128, 256, 2), (128, 96, 2), (128, 48, 1)])
def test_legal_tiles(tile: tuple[int, int, int]):
    hw.check_mma_tile(*tile)


@pytest.mark.parametrize(
    ("tile", "error"),
    [
        ((64, 128, 1), "128 lanes"),
        ((256, 128, 2), "128 lanes"),
        ((128, 8, 1), "the N side"),
        ((128, 264, 1), "the N side"),
        ((128, 272, 1), "the N side"),
        ((128, 48, 2), "warpgroups share the columns"),
    ],
)
def test_illegal_tiles(tile: tuple[int, int, int], error: str):
    with pytest.raises(ScheduleError, match=error):
        hw.check_mma_tile(*tile)


def test_registers():
    """128 sums, 32 columns of a partial sum, and what else a thread needs."""
    assert hw.registers_needed(128) == 128 + 32 + hw.OTHER_REGISTERS
    hw.check_registers(128, 232)
    with pytest.raises(ScheduleError, match="sums do not fit into registers"):
        hw.check_registers(128, 168)


E2M1_AS_B = 5 << 10
"""The document's type of B in its second example, where this one has e4m3, which is 0."""


@pytest.mark.parametrize(
    ("rows", "columns", "word"),
    [
        (128, 128, 0x08A00000),  # a worked example of the document
        (256, 256, 0x10C01400 - E2M1_AS_B),  # another one, with B in e4m3
        (256, 192, 2 << 27 | 1 << 23 | 24 << 17),
        (128, 16, 1 << 27 | 1 << 23 | 2 << 17),
    ],
)
def test_instruction_descriptor_with_scales(rows: int, columns: int, word: int):
    """There is no accumulator type, as it is always FP32; bit 23 says that scales are powers of two."""
    assert hw.scaled_instruction_descriptor(rows, columns, "e4m3", "e4m3") == word


def test_instruction_descriptor_with_scales_of_other_operands():
    plain = hw.scaled_instruction_descriptor(128, 128, "e4m3", "e4m3")
    assert hw.scaled_instruction_descriptor(128, 128, "e5m2", "e4m3") == plain | 1 << 7
    assert hw.scaled_instruction_descriptor(128, 128, "e4m3", "e5m2") == plain | 1 << 10
    assert hw.scaled_instruction_descriptor(128, 128, "e4m3", "e4m3", a_transposed=True) == plain | 1 << 15
    assert hw.scaled_instruction_descriptor(128, 128, "e4m3", "e4m3", b_transposed=True) == plain | 1 << 16


def test_scale_ids():
    """The document's 128 x 128 with both ids 3 is 0x68A00030."""
    assert hw.scaled_instruction_descriptor(128, 128, "e4m3", "e4m3") + hw.scale_ids(3, 3) == 0x68A00030
    assert hw.scale_ids(1, 0) == 0x20000000
    assert hw.scale_ids(0, 1) == 0x10
    assert hw.scale_ids(2, 1) == 0x40000010
    assert hw.scale_ids(0, 0) == 0


def test_ids_of_a_pair_meet_no_other_field():
    """An id is added to the descriptor, which must not carry."""
    widest = hw.scaled_instruction_descriptor(256, 256, "e5m2", "e5m2", True, True)
    assert widest & hw.scale_ids(3, 3) == 0
    assert (widest | hw.scale_ids(3, 3)) < 1 << 31


def test_scale_descriptor():
    """Rows of 16 bytes, no swizzle: from 8 to the next 8 it is 128 bytes; version 1. The high word is 0x00004008."""
    word = hw.scale_descriptor()
    assert word >> 32 == 0x00004008
    assert word & 0xFFFFFFFF == 0
    assert word >> 61 == 0


@pytest.mark.parametrize(("vector", "places"), [(32, (0, 1, 2, 3)), (64, (0, 0, 1, 1)), (128, (0, 0, 0, 0))])
def test_scale_steps(vector: int, places: tuple[int, ...]):
    assert hw.scale_steps(vector) == places


@pytest.mark.parametrize("vector", [16, 48, 96, 256, 512])
def test_scales_that_do_not_fit_a_step(vector: int):
    with pytest.raises(ScheduleError, match="elements of K that share a scale") as caught:
        hw.scale_steps(vector)
    assert caught.value.got == str(vector)


@pytest.mark.parametrize(
    ("tail", "mask"),
    [(8, 0xFF), (32, 0xFF), (33, 0xFFFF), (64, 0xFFFF), (65, 0xFFFFFF), (96, 0xFFFFFF), (97, 0xFFFFFFFF),
     (104, 0xFFFFFFFF), (128, 0xFFFFFFFF)],
)  # fmt: skip
@pytest.mark.parametrize("steps_before", [0, 1, 3, 4])
def test_scales_within_a_tail(steps_before: int, tail: int, mask: int):
    """With a scale for 32 elements a step has a word; with one for 128, a word's other scales are for other steps."""
    extent = 128 * steps_before + tail
    assert hw.scales_within(extent, 128, 32) == mask
    assert hw.scales_within(extent, 128, 128) == 0xFFFFFFFF


@given(extent=st.integers(1, 2048), vector=st.sampled_from([32, 64, 128]))
def test_scales_within_element_by_element(extent: int, vector: int):
    """What the elements of the last step are multiplied by is kept; a scale behind K is not."""
    last = (extent - 1) // 128 * 128
    needed = {k // vector % 4 for k in range(last, extent)}
    behind = {k // vector % 4 for k in range(extent, last + 128)} - needed
    mask = hw.scales_within(extent, 128, vector)
    kept = {byte for byte in range(4) if mask >> 8 * byte & 0xFF == 0xFF}
    assert mask == sum(0xFF << 8 * byte for byte in kept)
    assert needed <= kept
    assert not behind & kept


@pytest.mark.parametrize(("rows", "groups"), [(1, 1), (16, 1), (128, 1), (129, 2), (192, 2), (256, 2)])
def test_scale_groups(rows: int, groups: int):
    assert hw.scale_groups(rows) == groups


@pytest.mark.parametrize(("columns", "taken"), [(16, 8), (128, 8), (144, 12), (192, 12), (256, 12)])
def test_scale_columns(columns: int, taken: int):
    """Four for the 128 rows of a, four for every 128 of b begun."""
    assert hw.scale_columns(128, columns) == taken


def test_a_word_of_a_group_has_one_place_in_each_form():
    """128 words are 512 bytes of shared memory, and four columns of 32 lanes."""
    assert hw.SCALE_GROUP_BYTES == 4 * hw.SCALE_GROUP_ROWS
    assert hw.SCALE_GROUP_COLUMNS * hw.LANES_PER_WARP == hw.SCALE_GROUP_ROWS


@pytest.mark.parametrize("columns", [32, 64, 96, 224, 256])
def test_pairs_share_whole_steps_of_columns(columns: int):
    hw.check_pair(columns, (1, 1))
    assert hw.pairs_share(columns)


@pytest.mark.parametrize("columns", [16, 48, 80, 208, 240])
def test_columns_that_a_pair_cannot_halve(columns: int):
    assert not hw.pairs_share(columns)
    with pytest.raises(ScheduleError, match="a pair of CTAs shares the N side") as caught:
        hw.check_pair(columns, (1, 1))
    assert caught.value.where == "schedule.tile"
    assert caught.value.need == "a multiple of 32"
    assert "cta_group: 1" in str(caught.value.fix)


@pytest.mark.parametrize("cluster", [(2, 1), (1, 2), (4, 1)])
def test_a_pair_is_a_cluster_of_its_own(cluster: tuple[int, int]):
    with pytest.raises(ScheduleError, match="a pair of CTAs is a cluster of its own") as caught:
        hw.check_pair(64, cluster)
    assert (caught.value.where, caught.value.got) == ("schedule.cluster", str(list(cluster)))


def test_halves_of_a_transposed_operand_are_whole_swizzle_spans():
    """32 rows of e4m3 are the narrowest span; a tile of 32 columns has halves of 16."""
    assert hw.pairs_share(64, 32)
    assert not hw.pairs_share(32, 32)
    assert not hw.pairs_share(96, 32)


@pytest.mark.parametrize(("rows", "columns", "word"), [(256, 64, 0x10100010), (256, 256, 16 << 24 | 32 << 17 | 16)])
def test_instruction_descriptor_of_a_pair(rows: int, columns: int, word: int):
    assert hw.instruction_descriptor(rows, columns, "e4m3", "e4m3") == word


def test_instruction_descriptor_of_a_bf16_pair():
    """The document's 256 x 256."""
    assert hw.instruction_descriptor(256, 256, "bf16", "bf16") == 0x10400490
