"""Hopper's arithmetic against numbers derived by hand from the hardware's rules."""

from __future__ import annotations

import pytest
from ir_texts import built

from gemmgen.backends.sm90 import hardware as hw
from gemmgen.errors import ScheduleError


@pytest.mark.parametrize(("columns", "registers"), [(8, 4), (24, 12), (64, 32), (128, 64), (256, 128)])
def test_accumulator_registers(columns: int, registers: int):
    """64 · columns FP32 values over the 128 threads of a warpgroup."""
    assert hw.accumulator_registers(columns) == registers


@pytest.mark.parametrize(("swizzle", "code"), [(128, 1), (64, 2), (32, 3)])
def test_swizzle_codes(swizzle: int, code: int):
    assert hw.wgmma_swizzle_code(swizzle) == code


def test_descriptor_text():
    """The high word of docs/hardware.md section 1.2's worked K-major SW128 descriptor: 0x40000040."""
    line = "return uint64_t(1) << 62 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 16 | (address & 0x3FFFF) >> 4;"
    assert line in built("plain").source
    assert (1 << 62 | (1024 >> 4) << 32 | 1 << 16) == 0x4000004000010000
    assert hw.SWIZZLE_ATOM_BYTES == 1024


@pytest.mark.parametrize(
    ("bulk", "counts", "arrivals"),
    [(True, [128, 1], 33), (True, [], 1), (True, [1], 2), (True, [2, 3], 4), (False, [256], 32), (False, [], 0)],
)
def test_full_arrivals(bulk: bool, counts: list[int], arrivals: int):
    """One for the bulk loads, and one per lane that has something to copy."""
    assert hw.full_arrivals(bulk, hw.copying_lanes(counts)) == arrivals


@pytest.mark.parametrize(
    ("cluster", "lanes", "arrivals"),
    [(1, False, 1), (2, False, 2), (4, False, 4), (1, True, 32), (2, True, 33), (4, True, 35)],
)
def test_warp_arrivals(cluster: int, lanes: bool, arrivals: int):
    """A lane for its warp at every CTA's barrier, or each lane at its own CTA's and one at the others'."""
    assert hw.warp_arrivals(cluster, lanes) == arrivals


@pytest.mark.parametrize(
    ("threads", "registers"), [(192, 255), (256, 255), (288, 224), (384, 168), (512, 128), (640, 96)]
)
def test_launch_registers(threads: int, registers: int):
    """65536 / threads, down to a multiple of 8: 65536 / 384 = 170.7 gives 168; 255 is the most a thread can name."""
    assert hw.launch_registers(threads) == registers


@pytest.mark.parametrize(("rows", "columns", "groups"), [(64, 8, 1), (128, 256, 2), (256, 128, 2), (192, 112, 3)])
def test_mma_tiles(rows: int, columns: int, groups: int):
    hw.check_mma_tile(rows, columns, groups)


@pytest.mark.parametrize(
    ("rows", "columns", "groups", "what", "need"),
    [
        (96, 64, 1, "wgmma multiplies 64 rows per warpgroup", "a multiple of 64"),
        (64, 64, 2, "wgmma multiplies 64 rows per warpgroup", "a multiple of 128"),
        (0, 64, 1, "wgmma multiplies 64 rows per warpgroup", "a multiple of 64"),
        (320, 64, 1, "a tile's rows are one TMA box", "at most 256"),
        (64, 12, 1, "wgmma's N side", "a multiple of 8 from 8 to 256"),
        (64, 0, 1, "wgmma's N side", "a multiple of 8 from 8 to 256"),
        (64, 264, 1, "wgmma's N side", "a multiple of 8 from 8 to 256"),
    ],
)
def test_impossible_mma_tiles(rows: int, columns: int, groups: int, what: str, need: str):
    with pytest.raises(ScheduleError, match=what) as caught:
        hw.check_mma_tile(rows, columns, groups)
    assert (caught.value.where, caught.value.need) == ("schedule.tile", need)


def test_registers_of_a_promoted_tile():
    """128 columns: 64 registers per fragment; two waves and a partial sum are 192, and 24 more."""
    hw.check_registers(256, 128, 2, partials=1, limit=232)
    with pytest.raises(ScheduleError, match="accumulators do not fit into registers") as caught:
        hw.check_registers(256, 128, 2, partials=1, limit=208)
    assert caught.value.got == "about 216 registers per thread"
    hw.check_registers(256, 128, 2, partials=0, limit=168)


@pytest.mark.parametrize("roles", [[232, 232, 40], [240, 240, 24], [168, 168, 168], [256, 216, 32]])
def test_register_budgets(roles: list[int]):
    """384 threads start with 168 each: three warpgroups share 504."""
    hw.check_setmaxnreg(roles, 384)


@pytest.mark.parametrize(
    ("roles", "what", "got"),
    [
        ([240, 240, 40], "want more registers than the launch gives", "[240, 240, 40] = 520 per thread column"),
        ([236, 232, 40], "setmaxnreg", "236"),
        ([232, 232, 16], "setmaxnreg", "16"),
        ([264, 192, 40], "setmaxnreg", "264"),
        ([0, 232, 40], "setmaxnreg", "0"),
    ],
)
def test_impossible_register_budgets(roles: list[int], what: str, got: str):
    with pytest.raises(ScheduleError, match=what) as caught:
        hw.check_setmaxnreg(roles, 384)
    assert caught.value.got == got


@pytest.mark.parametrize(
    ("math", "producer", "legal"), [(232, 40, True), (168, 168, True), (160, 40, False), (232, 176, False)]
)
def test_registers_are_traded_around_what_the_launch_gives(math: int, producer: int, legal: bool):
    if legal:
        hw.check_register_trade(math, producer, 384)
        return
    with pytest.raises(ScheduleError, match="registers are traded around") as caught:
        hw.check_register_trade(math, producer, 384)
    assert caught.value.need == "producer <= 168 <= math"


@pytest.mark.parametrize(
    ("columns", "slab"), [(256, 64), (128, 64), (96, 32), (80, 16), (160, 32), (112, 16), (16, 16)]
)
def test_store_slabs(columns: int, slab: int):
    assert hw.store_slab_columns(columns) == slab


def test_columns_that_have_no_slab():
    with pytest.raises(ScheduleError, match="columns of the output tile") as caught:
        hw.store_slab_columns(24)
    assert caught.value.need == "a multiple of 16"
