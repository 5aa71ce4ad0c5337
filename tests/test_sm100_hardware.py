"""Blackwell's arithmetic against values worked out by hand (HARDWARE.md section 5)."""

from __future__ import annotations

import pytest

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
    assert hw.empty_arrivals(8, 1) == 9
    assert hw.empty_arrivals(4, 2) == 10


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
