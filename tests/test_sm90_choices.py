"""What Hopper's heuristics decide beside the tile: levers, dependent launches, ties, and tiles that divide M."""

from __future__ import annotations

from typing import Any

import pytest
from ir_texts import TARGET, spec_of

from gemmgen import compiler
from gemmgen.backends.capability import capability
from gemmgen.backends.model import Prediction, Rounds
from gemmgen.backends.sm90 import heuristics, levers
from gemmgen.backends.sm90.costs import CROWDED_US
from gemmgen.backends.sm90.operands import FP8, Operands
from gemmgen.backends.sm90.ops import Launch
from gemmgen.backends.sm90.sass import PromotionBurstPass
from gemmgen.errors import IRError, ScheduleError
from gemmgen.schedule import Schedule
from gemmgen.spec.model import Raster, ScheduleHints

HOPPER = capability(TARGET)
TWO_GROUPS: dict[str, Any] = {"producer_registers": 40, "math_registers": 232}
PLAIN = Schedule((128, 128, 128), 5, **TWO_GROUPS)
FEW = Schedule((16, 64, 128), 9, swap_ab=True, math_warpgroups=1)
NARROW = Schedule((64, 64, 128), 9, math_warpgroups=1)
UNSCALED = Operands(scaled_by_step=False, blocks=False)
UNPROMOTED = Operands(promoted=False, scaled_by_step=False, blocks=False)


@pytest.mark.parametrize(
    ("schedule", "overlaps"),
    [
        (PLAIN, True),
        (FEW, True),
        (FEW.replace(tile=(64, 64, 128)), True),
        (Schedule((64, 128, 128), 8, swap_ab=True, **TWO_GROUPS), True),
        (PLAIN.replace(stages=2), True),
        # With 8 columns there is nothing to gain.
        (FEW.replace(tile=(8, 64, 128)), False),
        # Two fragments of 64 rows per warpgroup.
        (PLAIN.replace(tile=(256, 64, 128)), False),
        (Schedule((128, 64, 128), 5, math_warpgroups=1), False),
        # 64 registers each for the sum and two partial sums, and twice 32 for the scales of the columns.
        (PLAIN.replace(swap_ab=True), False),
        # 3 * 72 and 3 * 80 registers.
        (PLAIN.replace(tile=(128, 144, 128)), False),
        (PLAIN.replace(tile=(128, 160, 128)), False),
        # 168 registers, and 3 * 64.
        (PLAIN.replace(math_registers=0, producer_registers=0), False),
        # Two steps hold two stages.
        (PLAIN.replace(stages=1), False),
    ],
    ids=str,
)
def test_promotion_overlaps_wherever_it_may(schedule: Schedule, overlaps: bool):
    assert levers.may_overlap(schedule) == overlaps


def test_what_is_not_promoted_does_not_overlap():
    assert not levers.may_overlap(PLAIN, UNPROMOTED)
    for name in ("fp8_gemm_nt_no_promotion", "bf16_gemm_nt"):
        spec = spec_of(4096, 7168, name)
        assert Operands.of(spec).promoted is False
        assert {schedule.promotion_overlap for _, _, schedule in heuristics.plan(spec, HOPPER)} == {False}
    assert Operands.of(spec_of(4096, 7168, "fp8_gemm_nt_rowwise")).promoted


@pytest.mark.parametrize(
    ("schedule", "length"),
    [
        # Promotion overlaps: bursts are short only beside a product of many columns.
        (PLAIN.replace(promotion_overlap=True), 8),
        (PLAIN.replace(tile=(128, 120, 128), promotion_overlap=True), 256),
        (NARROW.replace(promotion_overlap=True), 256),
        (NARROW.replace(tile=(64, 128, 128), promotion_overlap=True), 8),
        # It overlaps with nothing: one fragment of 64 rows per warpgroup, or two.
        (PLAIN.replace(tile=(128, 192, 128)), 4),
        (PLAIN, 4),
        (NARROW, 4),
        (PLAIN.replace(tile=(256, 64, 128)), 8),
        (NARROW.replace(tile=(128, 64, 128)), 8),
        # Columns have scales of their own.
        (FEW, 0),
        (FEW.replace(promotion_overlap=True), 0),
    ],
    ids=str,
)
def test_bursts(schedule: Schedule, length: int):
    assert levers.bursts(schedule, None, FP8) == length
    assert levers.bursts(schedule, 0, FP8) == levers.bursts(schedule, None, UNSCALED) == 0
    if length:
        assert levers.bursts(schedule, 6, FP8) == 6


@pytest.mark.parametrize(
    ("schedule", "operands", "looks"),
    [
        (PLAIN, FP8, True),
        (PLAIN.replace(swap_ab=True), FP8, True),
        (PLAIN, UNSCALED, True),
        # The next step's products have been started by then.
        (PLAIN.replace(promotion_overlap=True), FP8, False),
        (NARROW, FP8, False),
        (PLAIN, UNPROMOTED, False),
    ],
)
def test_two_warpgroups_look_ahead(schedule: Schedule, operands: Operands, looks: bool):
    assert levers.looks_ahead(schedule, None, operands) == looks
    assert not levers.looks_ahead(schedule, False, operands)
    assert levers.looks_ahead(NARROW, True, FP8)


def test_steps_are_unrolled_in_launches_that_last():
    assert [levers.unrolled(PLAIN, None, FP8, us) for us in (0.0, 17.9, 18.0, 500.0)] == [0, 0, 4, 4]
    assert levers.unrolled(PLAIN, None, UNSCALED, 500.0) == 4
    assert levers.unrolled(NARROW, None, FP8, 500.0) == 0
    assert levers.unrolled(PLAIN, None, UNPROMOTED, 500.0) == 0
    assert levers.unrolled(PLAIN.replace(promotion_overlap=True), None, FP8, 500.0) == 0
    assert levers.unrolled(PLAIN.replace(promotion_overlap=True), 0, FP8, 500.0) == 0
    assert [levers.unrolled(s, 2, FP8, 1.0) for s in (PLAIN, NARROW)] == [2, 2]
    assert levers.unrolled(PLAIN, 0, FP8, 500.0) == 0


@pytest.mark.parametrize(
    ("tiles", "along"), [((5, 4), "n"), ((99, 1), "n"), ((4, 4), "m"), ((1, 1), "m"), ((99, 5), "m")]
)
def test_few_tiles_along_n_are_visited_together(tiles: tuple[int, int], along: str):
    assert levers.raster_along(PLAIN, None, tiles) == along
    assert [levers.raster_along(PLAIN, hint, tiles) for hint in ("m", "n")] == ["m", "n"]


def planned(**hints: Any) -> list[tuple[int, int | None, Schedule]]:
    return heuristics.plan(spec_of(4096, 7168, **hints), HOPPER)


def smem_bytes(schedule: Schedule) -> int:
    """Shared memory of a CTA once the kernel is built."""
    return compiler.build(spec_of(4096, 7168), TARGET, schedule).result.module.record(Launch).smem_bytes


def test_an_overlap_that_cannot_be_says_why():
    with pytest.raises(ScheduleError) as caught:
        planned(tile=(256, 128, 128), promotion_overlap=True)
    error = caught.value
    assert (error.what, error.where) == ("promotion cannot overlap", "schedule.promotion_overlap")
    assert error.got == "2 warpgroups for 256 rows, 3 stages"
    assert error.need == "promotion, 64 rows per math warpgroup, 2 stages or more"
    assert error.fix == "leave promotion_overlap auto"
    with pytest.raises(ScheduleError) as caught:
        heuristics.plan(spec_of(4096, 7168, "fp8_gemm_nt_no_promotion", promotion_overlap=True), HOPPER)
    assert caught.value.got == "no promotion"


@pytest.mark.parametrize(
    ("name", "scale_copy", "k", "hints", "got"),
    [
        ("fp8_gemm_nt", "lanes", 7168, {"tile": (128, 128, 128)}, "row scales copied by lanes, 56 steps of K"),
        ("fp8_gemm_nt", "bulk", 65664, {"tile": (128, 128, 128)}, "row scales copied by bulk, 513 steps of K"),
        ("fp8_gemm_nt", "bulk", 256, {"tile": (64, 64, 128), "split_k": 3}, "row scales copied by bulk, 2 steps of K"),
        ("fp8_gemm_nt_rowwise", "bulk", 7168, {"tile": (128, 128, 128)}, "no scales of blocks"),
        ("fp8_gemm_nt_no_promotion", "bulk", 7168, {"tile": (128, 128, 128)}, "no scales of blocks"),
        ("bf16_gemm_nt", "bulk", 7168, {"tile": (128, 128, 64)}, "no scales of blocks"),
    ],
)
def test_scales_ahead_that_cannot_be_say_why(name: str, scale_copy: str, k: int, hints: dict[str, Any], got: str):
    ((_, _, schedule),) = heuristics.plan(spec_of(4096, k, name, **hints), HOPPER, scale_copy)
    assert not schedule.scales_ahead
    with pytest.raises(ScheduleError) as caught:
        heuristics.plan(spec_of(4096, k, name, **hints, scales_ahead=True), HOPPER, scale_copy)
    error = caught.value
    assert (error.what, error.where, error.got) == (
        "scales cannot be copied ahead", "schedule.scales_ahead", got,
    )  # fmt: skip
    assert error.need is not None
    assert error.fix == "leave scales_ahead auto"


@pytest.mark.parametrize(
    ("name", "hints", "got"),
    [
        ("fp8_gemm_nt", {"tile": (32, 64, 128), "swap_ab": True}, "swap_ab: columns have scales of their own"),
        ("fp8_gemm_nt_rowwise", {"tile": (128, 128, 128)}, "steps without scales of their own"),
        ("fp8_gemm_nt_no_promotion", {"tile": (128, 128, 128)}, "steps without scales of their own"),
        ("bf16_gemm_nt", {"tile": (128, 128, 64)}, "steps without scales of their own"),
    ],
)
def test_bursts_that_cannot_be_say_why(name: str, hints: dict[str, Any], got: str):
    assert not any(s.promotion_burst for _, _, s in heuristics.plan(spec_of(4096, 7168, name, **hints), HOPPER))
    with pytest.raises(ScheduleError) as caught:
        heuristics.plan(spec_of(4096, 7168, name, **hints, promotion_burst=4), HOPPER)
    error = caught.value
    assert (error.what, error.where, error.got) == ("promotion cannot burst", "schedule.promotion_burst", got)
    assert error.need == "a scale per row and step, and rows of D on wgmma's M side"
    assert error.fix == "leave promotion_burst auto: it is on wherever it may be"


@pytest.mark.parametrize(
    ("name", "hints", "got"),
    [
        ("fp8_gemm_nt", {"tile": (128, 128, 128), "promotion_overlap": True}, "promotion_overlap"),
        ("fp8_gemm_nt_rowwise", {"tile": (128, 144, 128), "promotion_overlap": True}, "promotion_overlap"),
        ("fp8_gemm_nt_no_promotion", {"tile": (128, 128, 128)}, "no promotion"),
        ("bf16_gemm_nt", {"tile": (128, 128, 64)}, "no promotion"),
    ],
)
def test_steps_that_cannot_look_ahead_say_why(name: str, hints: dict[str, Any], got: str):
    with pytest.raises(ScheduleError) as caught:
        heuristics.plan(spec_of(4096, 7168, name, **hints, lookahead=True), HOPPER)
    error = caught.value
    assert (error.what, error.where, error.got) == ("steps of K do not look ahead", "schedule.lookahead", got)
    assert error.need == "promotion that overlaps with nothing"
    assert error.fix == "leave lookahead auto"


def test_steps_that_overlap_say_why_they_are_not_unrolled():
    with pytest.raises(ScheduleError) as caught:
        planned(tile=(128, 128, 128), unroll=2, promotion_overlap=True)
    error = caught.value
    assert (error.what, error.where) == ("steps of K that overlap are not unrolled", "schedule.unroll")
    assert (error.got, error.need) == ("2", "auto or 0, or promotion_overlap: false")
    assert error.fix == "leave unroll auto"
    for hints in ({}, {"promotion_overlap": False}):
        ((_, _, schedule),) = planned(tile=(128, 128, 128), unroll=2, **hints)
        assert (schedule.unroll, schedule.promotion_overlap) == (2, False)


def test_a_kernel_without_use_for_bursts_is_not_built():
    spec = spec_of(4096, 7168)
    with pytest.raises(ScheduleError, match="promotion cannot burst") as caught:
        compiler.build(spec, TARGET, FEW.replace(promotion_overlap=True, promotion_burst=4))
    assert None not in (caught.value.where, caught.value.got, caught.value.need, caught.value.fix)
    for schedule in (PLAIN, PLAIN.replace(promotion_overlap=True)):
        assert compiler.build(spec, TARGET, schedule).cubin_pass is None
        built = compiler.build(spec, TARGET, schedule.replace(promotion_burst=4))
        assert built.cubin_pass == PromotionBurstPass(4)


def test_a_ring_of_one_stage_does_not_overlap_by_itself():
    """The next step's stage would be loaded into the one that is held."""
    ((_, _, schedule),) = planned(tile=(128, 128, 128), stages=1)
    assert not schedule.promotion_overlap
    compiler.build(spec_of(4096, 7168), TARGET, schedule)
    with pytest.raises(IRError, match="a stage is waited for that nobody can load yet"):
        compiler.build(spec_of(4096, 7168), TARGET, schedule.replace(promotion_overlap=True, lookahead=False, unroll=0))


def first(m: int, n: int, k: int, **hints: Any) -> tuple[Prediction, Schedule]:
    return heuristics.ranked(ScheduleHints(**hints), m, n, k, HOPPER)[0]


def test_short_launches_let_the_next_one_start():
    predicted, schedule = first(128, 576, 7168)
    assert predicted.total_us < heuristics.PDL_UP_TO_US
    assert schedule.pdl
    predicted, schedule = first(4096, 7168, 2048)
    assert predicted.total_us > heuristics.PDL_UP_TO_US
    assert not schedule.pdl
    assert first(4096, 7168, 2048, pdl=True)[1].pdl
    assert not first(128, 576, 7168, pdl=False)[1].pdl


def test_launches_that_memory_bounds_do_so_if_they_are_shorter():
    few = Schedule((128, 128, 128), 4)
    for total, memory, starts in ((26.0, 1.0, True), (28.0, 1.0, False), (16.0, 15.0, True), (19.0, 18.0, False)):
        rounds = Rounds((1, 132), 132, 132)
        predicted = Prediction(1.0, 0.0 if memory > 1.0 else total - 1.0, 0.0, memory, 1, rounds)
        assert predicted.total_us == pytest.approx(total)
        assert heuristics.starts_early(predicted, few, HOPPER) == starts


def test_what_depends_on_the_size_is_decided_for_it():
    """Four tiles along N share rows of A, five do not; hints decide where there are any."""
    hints = {"tile": (128, 144, 128)}
    predicted, schedule = first(4096, 576, 7168, **hints)
    assert (predicted.rounds.tiles, schedule.raster_along) == ((32, 4), "n")
    assert predicted.total_us > levers.UNROLL_FROM_US
    assert schedule.unroll == levers.UNROLLED
    hinted = first(4096, 576, 7168, **hints, raster=Raster(along="m"), unroll=0)[1]
    assert hinted == schedule.replace(raster_along="m", unroll=0)
    predicted, schedule = first(4096, 640, 512, **hints)
    assert (predicted.rounds.tiles, schedule.raster_along) == ((32, 5), "m")
    assert predicted.total_us < levers.UNROLL_FROM_US
    assert schedule.unroll == 0


def test_long_launches_do_so_where_two_ctas_share_an_sm():
    """A kernel of one warpgroup and few stages: two of them have registers and shared memory on one SM."""
    for tile, room in (((16, 64, 128), True), ((64, 64, 128), False)):
        predicted, schedule = first(16, 57344, 28672, tile=tile, swap_ab=True)
        assert predicted.total_us > heuristics.PDL_UP_TO_US
        assert schedule.pdl == room, schedule
        # An SM has 228 KB, of which every CTA takes 1 KB for itself.
        assert (2 * (smem_bytes(schedule) + 1024) <= 228 * 1024) == room
    assert not first(16, 57344, 28672, tile=(16, 128, 128), swap_ab=True)[1].pdl


def test_where_memory_bounds_both_the_shorter_steps_win():
    def priced(schedule: Schedule, step_us: float, base_us: float = 2.0) -> tuple[Prediction, Schedule]:
        return Prediction(base_us, step_us, 0.5, 20.0, 10, Rounds((1, 1), 1, 132)), schedule

    slow, quick = priced(PLAIN, 1.5), priced(FEW, 1.0)
    assert slow[0].total_us == quick[0].total_us
    assert sorted([slow, quick], key=heuristics.preference) == [quick, slow]
    assert sorted([quick, priced(PLAIN, 1.5, base_us=1.9)], key=heuristics.preference)[0][1] == PLAIN
    one, other = priced(PLAIN, 1.0), priced(FEW, 1.0)
    assert sorted([one, other], key=heuristics.preference) == sorted([other, one], key=heuristics.preference)


def test_rows_outside_are_counted_by_hand():
    """All tiles lie inside of D, unless it has fewer rows than a tile: then every CTA loads those that are missing."""
    found = heuristics.prediction(PLAIN, 96, 4096, 7168, HOPPER).rounds
    assert found.tiles == (1, 32)
    assert heuristics.rows_outside(PLAIN, 96, found) == 32 * 32
    assert heuristics.rows_outside(PLAIN, 320, found) == 0


def test_a_tile_of_few_rows_outside_wins(monkeypatch: pytest.MonkeyPatch):
    assert first(96, 7168, 2048)[1].tile[0] == 64
    monkeypatch.setattr(heuristics, "OUTSIDE_ROW_US", 0.0)
    assert first(96, 7168, 2048)[1].tile[0] == 128


def test_few_rows_get_tiles_of_one_warpgroup():
    """64 rows of A for one math warpgroup: not for so few rows that most would be padding, and not for 16 bits."""
    narrow = first(256, 2112, 7168)[1]
    assert (narrow.tile, narrow.math_warpgroups, narrow.swap_ab) == ((64, 64, 128), 1, False)

    def listed(m: int, operands: Operands = FP8) -> bool:
        found = heuristics.candidates(ScheduleHints(), m, HOPPER, operands=operands)
        return any(s.tile[0] == 64 and not s.swap_ab for s in found)

    assert [listed(m) for m in (32, 33, 512, 513)] == [False, True, True, False]
    assert not listed(256, Operands(item_bytes=2, promoted=False))


def test_launches_that_fill_the_gpu_with_clusters_start_later():
    """120 CTAs in clusters of 4 run at once: 27 tiles of 4 CTAs leave a tenth free, 28 do not."""
    split = FEW.replace(split_k=4)
    few, many = (heuristics.prediction(split, 16, 64 * tiles, 7168, HOPPER) for tiles in (27, 28))
    assert (few.rounds.ctas, many.rounds.ctas, many.rounds.at_once) == (108, 112, 120)
    assert many.base_us - few.base_us == pytest.approx(CROWDED_US)
    alone = [heuristics.prediction(FEW, 16, 64 * tiles, 7168, HOPPER).base_us for tiles in (108, 132)]
    assert alone[0] == alone[1]


def test_ranges_of_m():
    """Few kernels serve up to 8192 rows; beyond, one is chosen for 12288."""
    deciding = heuristics.M_RANGES.deciding
    assert [deciding(m) for m in (1, 17, 24, 49, 6145, 8192, 8193, 100_000)] == [
        8, 32, 32, 64, 8192, 8192, 12288, 12288,
    ]  # fmt: skip
