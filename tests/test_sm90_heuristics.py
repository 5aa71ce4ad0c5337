"""Plans for Hopper: every shipped schedule is legal for every shape, hints are followed, contradictions are refused."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from ir_texts import TARGET, spec_of

from gemmgen import compiler
from gemmgen.backends.capability import capability
from gemmgen.backends.sm90 import hardware as hw
from gemmgen.backends.sm90 import heuristics, levers
from gemmgen.backends.sm90.ops import Launch
from gemmgen.errors import ScheduleError
from gemmgen.schedule import Schedule
from gemmgen.spec.model import Raster, Registers, ScheduleHints, Warps

HOPPER = capability(TARGET)
MAX_KERNELS = 20
DICE = random.Random(20261120)
SHAPES = [(8 * DICE.randint(1, 4096), 16 * DICE.randint(1, 1024)) for _ in range(40)] + [
    (16, 16),
    (8, 128),
    (24576, 1536),
]


def plan_of(n: int, k: int, scale_copy: str = "bulk", **hints: Any) -> list[tuple[int, int | None, Schedule]]:
    return heuristics.plan(spec_of(n, k, **hints), HOPPER, scale_copy)


@pytest.mark.parametrize("scale_copy", ["bulk", "lanes"])
def test_every_plan_serves_every_m_with_few_kernels(scale_copy: str):
    for n, k in SHAPES:
        found = plan_of(n, k, scale_copy)
        assert 1 <= len(found) <= MAX_KERNELS, (n, k)
        assert found[0][0] == 0
        assert found[-1][1] is None
        for (_, high, left), (low, _, right) in pairwise(found):
            assert low == (high or 0) + 1
            assert left != right
        assert {schedule.scale_copy for _, _, schedule in found} == {scale_copy}


def shipped() -> dict[Schedule, tuple[int, int]]:
    """Every schedule that some plan of the random shapes holds, with the last N and K that have it."""
    found = {s: (n, k) for n, k in SHAPES for c in ("bulk", "lanes") for _, _, s in plan_of(n, k, c)}
    return dict(sorted(found.items(), key=lambda item: (str(item[0]), repr(item[0]))))


SHIPPED = shipped()


def test_the_random_shapes_need_all_kinds_of_schedules():
    assert {s.swap_ab for s in SHIPPED} == {True, False}
    assert {s.split_k > 1 for s in SHIPPED} == {True, False}
    assert {s.cluster for s in SHIPPED} >= {(1, 1), heuristics.MULTICAST_CLUSTER}
    assert {s.scales_ahead for s in SHIPPED} == {True, False}
    assert len(SHIPPED) > 30


@pytest.mark.parametrize("index", range(6))
def test_every_shipped_schedule_builds_and_its_memory_is_what_was_predicted(index: int):
    """The verifier proves barriers, areas and registers; here: no ring could have been deeper, none is too deep."""
    for schedule, (n, k) in list(SHIPPED.items())[index::6]:
        spec = spec_of(n, k)
        launch = compiler.build(spec, TARGET, schedule).result.module.record(Launch)
        assert launch.smem_bytes <= HOPPER.smem_per_cta, schedule
        assert schedule.stages == heuristics.most_stages(schedule, HOPPER, -(-k // 128))
        if schedule.stages < heuristics.MAX_STAGES:
            with pytest.raises(ScheduleError, match="more shared memory than a CTA has") as caught:
                compiler.build(spec, TARGET, schedule.replace(stages=schedule.stages + 1))
            assert caught.value.fix == f"use {schedule.stages} stages"


def test_registers_fit():
    for schedule in SHIPPED:
        rows, columns = schedule.tile[:2] if not schedule.swap_ab else schedule.tile[1::-1]
        groups = schedule.math_warpgroups
        waves = rows // 64 // groups
        limit = schedule.math_registers or hw.launch_registers(128 * groups + 64)
        partials = 2 if schedule.promotion_overlap else 1
        assert columns // 2 * (waves + partials) + hw.OTHER_REGISTERS <= limit, schedule
        if schedule.math_registers:
            assert schedule.math_registers * groups + schedule.producer_registers <= hw.launch_registers(
                128 * groups + 128
            ) * (groups + 1)


def test_a_fixed_m_has_one_kernel():
    spec = spec_of(4096, 7168).bind(M=100)
    ((low, high, schedule),) = heuristics.plan(spec, HOPPER)
    assert (low, high) == (0, None)
    assert schedule == heuristics.choose(spec.schedule, 100, 4096, 7168, HOPPER)


@pytest.mark.parametrize(("n", "k"), [(576, 7168), (2112, 7168), (7168, 2048)])
def test_few_rows_go_to_the_other_side_and_share_k(n: int, k: int):
    """What makes decoding fast: tokens on wgmma's N side, and K dealt out while tiles are too few for the GPU."""
    first = plan_of(n, k)[0][2]
    assert first.swap_ab
    assert first.tile[0] == 8
    tiles = -(-n // first.tile[1])
    assert first.split_k > 1 or tiles >= HOPPER.sms // 2
    assert tiles * first.split_k <= HOPPER.sms


def test_many_rows_take_large_tiles():
    last = plan_of(7168, 2048)[-1][2]
    assert not last.swap_ab
    assert last.split_k == 1
    assert last.tile[0] * last.tile[1] >= 128 * 128


def test_k_is_not_split_into_more_parts_than_it_has_steps():
    for k in (16, 128, 144, 256, 400):
        for _, _, schedule in plan_of(576, k):
            assert schedule.split_k <= -(-k // 128)


def test_a_plan_is_the_same_every_time():
    assert plan_of(576, 7168) == plan_of(576, 7168)


def test_predictions_grow_with_the_problem():
    schedule = Schedule((128, 128, 128), 5)
    times = [heuristics.predict(schedule, m, 4096, 7168, HOPPER) for m in (128, 1024, 8192, 65536)]
    assert times == sorted(times)
    assert heuristics.predict(schedule, 4096, 4096, 1024, HOPPER) < heuristics.predict(
        schedule, 4096, 4096, 8192, HOPPER
    )


@pytest.mark.parametrize(
    ("hints", "field", "value"),
    [
        ({"stages": 3}, "stages", 3),
        ({"swap_ab": True}, "swap_ab", True),
        ({"swap_ab": False}, "swap_ab", False),
        ({"split_k": 3}, "split_k", 3),
        ({"scheduler": "persistent"}, "split_k", 1),
        ({"warps": Warps(math=2)}, "math_warpgroups", 2),
        ({"pdl": True}, "pdl", True),
        ({"pdl": False}, "pdl", False),
        ({"promotion_overlap": False}, "promotion_overlap", False),
        ({"promotion_overlap": True}, "promotion_overlap", True),
        ({"tile": (128, 128, 128), "promotion_overlap": True}, "promotion_overlap", True),
        ({"tile": (8, 64, 128), "swap_ab": True, "promotion_overlap": True}, "promotion_overlap", True),
        ({"promotion_burst": 0}, "promotion_burst", 0),
        ({"promotion_burst": 6, "swap_ab": False}, "promotion_burst", 6),
        ({"tile": (64, 64, 128), "promotion_burst": 6}, "promotion_burst", 6),
        ({"tile": (128, 128, 128), "promotion_overlap": False}, "promotion_burst", 4),
        ({"tile": (128, 128, 128), "promotion_overlap": False, "promotion_burst": 256}, "promotion_burst", 256),
        ({"tile": (256, 128, 128), "promotion_burst": 256}, "promotion_burst", 256),
        ({"lookahead": False}, "lookahead", False),
        ({"lookahead": True, "promotion_overlap": False}, "lookahead", True),
        ({"lookahead": True, "swap_ab": False}, "lookahead", True),
        ({"lookahead": True, "swap_ab": False}, "promotion_overlap", False),
        ({"tile": (64, 64, 128), "promotion_overlap": False, "lookahead": True}, "lookahead", True),
        ({"unroll": 0}, "unroll", 0),
        ({"unroll": 8, "promotion_overlap": False}, "unroll", 8),
        ({"unroll": 4}, "promotion_overlap", False),
        ({"lookahead": True}, "promotion_overlap", False),
        ({"tile": (128, 96, 128), "lookahead": True}, "promotion_overlap", False),
        ({"unroll": 8, "swap_ab": False}, "unroll", 8),
        ({"unroll": 8, "swap_ab": False}, "promotion_overlap", False),
        ({"tile": (8, 64, 128), "swap_ab": True, "unroll": 2}, "unroll", 2),
        ({"scales_ahead": True}, "scales_ahead", True),
        ({"scales_ahead": False}, "scales_ahead", False),
        ({"tile": (32, 64, 128), "swap_ab": True, "split_k": 3, "scales_ahead": True}, "scales_ahead", True),
        ({"tile": (128, 112, 128), "scales_ahead": True}, "scales_ahead", True),
        ({"raster": Raster(group=4)}, "raster_group", 4),
        ({"raster": Raster(along="n")}, "raster_along", "n"),
        ({"registers": Registers(producer=32)}, "producer_registers", 32),
        ({"registers": Registers(math=240, producer=24)}, "math_registers", 240),
        ({"tile": (128, 96, 128)}, "tile", (128, 96, 128)),
        ({"tile": (128, 128, 128), "cluster": (2, 1)}, "cluster", (2, 1)),
        ({"tile": (32, 64, 128), "swap_ab": True, "scheduler": "split_k"}, "split_k", 2),
        (
            {"tile": (192, 64, 128), "warps": Warps(math=3), "registers": Registers(math=152, producer=32)},
            "math_warpgroups",
            3,
        ),
    ],
)
def test_hints_are_followed(hints: dict[str, Any], field: str, value: object):
    found = plan_of(4096, 7168, **hints)
    assert {getattr(schedule, field) for _, _, schedule in found} == {value}


def test_a_hint_drops_only_what_it_does_not_fit():
    """200 registers are too few for two waves of 128 columns; plans go on with smaller tiles."""
    found = plan_of(4096, 7168, registers=Registers(math=200, producer=40))
    assert {schedule.math_registers for _, _, schedule in found} == {200}
    assert (256, 128, 128) not in {schedule.tile for _, _, schedule in found}


@pytest.mark.parametrize(
    ("hints", "what", "where"),
    [
        ({"tile": (128, 128, 64)}, "the K extent of a tile", "schedule.tile"),
        ({"tile": (96, 128, 128)}, "wgmma multiplies 64 rows per warpgroup", "schedule.tile"),
        (
            {"tile": (128, 128, 128), "swap_ab": True, "warps": Warps(math=3)},
            "wgmma multiplies 64 rows",
            "schedule.tile",
        ),
        ({"tile": (128, 264, 128)}, "wgmma's N side", "schedule.tile"),
        ({"tile": (64, 24, 128)}, "columns of the output tile", "schedule.tile"),
        ({"tile": (512, 32, 128)}, "a tile's rows are one TMA box", "schedule.tile"),
        ({"tile": (256, 256, 128)}, "accumulators do not fit into registers", "schedule.tile"),
        (
            {"tile": (128, 128, 128), "registers": Registers(math=120, producer=40)},
            "accumulators do not fit",
            "schedule.tile",
        ),
        (
            {"tile": (128, 32, 128), "registers": Registers(math=120, producer=40)},
            "registers are traded",
            "schedule.registers",
        ),
        (
            {"tile": (128, 32, 128), "registers": Registers(math=232, producer=200)},
            "want more registers",
            "schedule.registers",
        ),
        ({"tile": (64, 32, 128), "registers": Registers(math=232)}, "setmaxnreg", "schedule.registers"),
        ({"tile": (128, 128, 128), "cluster": (16, 1)}, "CTAs per cluster", "schedule"),
        ({"tile": (128, 128, 128), "split_k": 9}, "CTAs per cluster", "schedule"),
        (
            {"tile": (128, 128, 128), "split_k": 2, "cluster": (2, 1)},
            "a tile split over K fills its cluster",
            "schedule.cluster",
        ),
        (
            {"tile": (256, 128, 128), "promotion_overlap": True},
            "promotion cannot overlap",
            "schedule.promotion_overlap",
        ),
        (
            {"tile": (128, 128, 128), "stages": 1, "promotion_overlap": True},
            "promotion cannot overlap",
            "schedule.promotion_overlap",
        ),
        ({"tile": (128, 160, 128), "promotion_overlap": True}, "accumulators do not fit", "schedule.tile"),
        (
            {"tile": (32, 64, 128), "swap_ab": True, "promotion_burst": 4},
            "promotion cannot burst",
            "schedule.promotion_burst",
        ),
        # The first M have swapped tiles only.
        ({"promotion_burst": 4}, "promotion cannot burst", "schedule.promotion_burst"),
        (
            {"promotion_overlap": True, "lookahead": True, "swap_ab": False},
            "steps of K do not look ahead",
            "schedule.lookahead",
        ),
        (
            {"promotion_overlap": True, "unroll": 4, "swap_ab": False},
            "steps of K that overlap are not unrolled",
            "schedule.unroll",
        ),
        ({"split_k": 30}, "no schedule of this target fits the hints", "schedule"),
        ({"cluster": (4, 2)}, "operands are shared along one axis", "schedule.cluster"),
        ({"warps": Warps(math=3)}, "no schedule of this target fits the hints", "schedule"),
        ({"registers": Registers(math=64)}, "registers are traded around", "schedule.registers"),
    ],
)
def test_impossible_hints(hints: dict[str, Any], what: str, where: str):
    with pytest.raises(ScheduleError, match=what) as caught:
        plan_of(4096, 7168, **hints)
    assert caught.value.where == where
    assert caught.value.got is not None
    assert caught.value.need is not None
    assert caught.value.fix is not None or "setmaxnreg" in what


def test_a_ring_that_does_not_fit_is_refused_when_it_is_built():
    ((_, _, schedule),) = plan_of(4096, 7168, tile=(128, 128, 128), stages=12)
    with pytest.raises(ScheduleError, match="more shared memory than a CTA has") as caught:
        compiler.build(spec_of(4096, 7168), TARGET, schedule)
    assert caught.value.fix == "use 5 stages"


def test_other_devices_of_the_family_shift_the_choice():
    """Fewer SMs: a capability is data, and waves are counted with it."""
    small = replace(HOPPER, sms=78)
    schedule = Schedule((128, 128, 128), 5)
    assert heuristics.predict(schedule, 2048, 1024, 7168, small) > heuristics.predict(
        schedule, 2048, 1024, 7168, HOPPER
    )
    assert heuristics.plan(spec_of(576, 7168), small) != heuristics.plan(spec_of(576, 7168), HOPPER)


def test_hints_default_to_the_whole_list():
    every = heuristics.candidates(ScheduleHints(), 4096, HOPPER)
    assert len({str(schedule) for schedule in every}) == len(every)


@pytest.mark.parametrize("name", ["fp8_gemm_nt", "bf16_gemm_nt", "bf16_gemm_tn"])
@pytest.mark.parametrize("cluster", [(1, 1), (2, 1), (1, 2), (4, 1), (1, 4)])
def test_a_cluster_without_a_tile_serves_every_m(name: str, cluster: tuple[int, int]):
    spec = spec_of(576, 7168, name, cluster=cluster)
    entries = compiler.plan(spec, "sm_90a")
    assert entries[0].m_min == 0
    assert entries[-1].m_max is None
    for entry in entries:
        assert entry.schedule.split_k > 1 or entry.schedule.cluster == cluster
        compiler.build(spec, "sm_90a", entry.schedule)


def test_a_cluster_that_shares_along_both_axes_is_refused():
    with pytest.raises(ScheduleError, match="along one axis") as caught:
        compiler.plan(spec_of(576, 7168, cluster=(2, 2)), "sm_90a")
    assert caught.value.fix


def test_plans_overlap_what_may():
    assert {s.promotion_overlap for s in SHIPPED} == {True, False}
    for schedule in SHIPPED:
        assert schedule.promotion_overlap == levers.may_overlap(schedule), schedule


def test_plans_burst_where_rows_have_the_scales():
    assert {s.promotion_burst for s in SHIPPED if s.promotion_overlap} == {0, 8, 256}
    assert {s.promotion_burst for s in SHIPPED if not s.promotion_overlap} == {0, 4, 8}
    for schedule in SHIPPED:
        assert bool(schedule.promotion_burst) == (not schedule.swap_ab), schedule


def test_plans_look_ahead_and_unroll_where_two_warpgroups_do_not_overlap():
    for schedule in SHIPPED:
        alone = schedule.math_warpgroups == 2 and not schedule.promotion_overlap
        assert schedule.lookahead == alone, schedule
        assert schedule.unroll in ((0, 4) if alone else (0,)), schedule
    assert {s.unroll for s in SHIPPED if s.lookahead} == {0, 4}
    assert {s.raster_along for s in SHIPPED} == {"m", "n"}


def test_plans_copy_scales_ahead_where_two_warpgroups_multiply():
    """Not with swapped operands or K split, nor beside lanes, nor for narrow tiles that end in the midst of a block.

    Nor three at a time where promotion does not overlap.
    """
    for schedule in SHIPPED:
        columns = schedule.tile[1]
        expected = (
            schedule.scale_copy == "bulk" and schedule.math_warpgroups == 2 and schedule.split_k == 1
            and not schedule.swap_ab and (columns % 64 == 0 or columns > 128 or schedule.deal_columns)
            and not (schedule.deal_columns and columns in (112, 176) and not schedule.promotion_overlap)
        )  # fmt: skip
        assert schedule.scales_ahead == expected, schedule


@pytest.mark.parametrize(
    ("k", "split_k", "ahead"),
    [(128, 1, True), (16, 1, True), (65536, 1, True), (65552, 1, False), (131072, 2, True), (256, 3, False)],
)
def test_scales_ahead_are_for_known_steps(k: int, split_k: int, ahead: bool):
    """512 steps at most for a CTA, and at least one for each that shares a tile."""
    hints = {"tile": (128, 64, 128), "split_k": split_k, "scales_ahead": True}
    if ahead:
        ((_, _, schedule),) = plan_of(4096, k, **hints)
        assert schedule.scales_ahead
        assert compiler.build(spec_of(4096, k), TARGET, schedule)
        return
    with pytest.raises(ScheduleError, match=r"scales cannot be copied ahead|no schedule") as caught:
        plan_of(4096, k, **hints)
    assert None not in (caught.value.where, caught.value.got, caught.value.need, caught.value.fix)


def test_smem_is_never_more_than_predicted():
    """With scales ahead, without, split or not: the ring that fits by the heuristics' count fits when it is built."""
    dice = random.Random(7)
    kinds = [((128, n, 128), {}) for n in (32, 64, 96, 128, 144)]
    kinds += [((256, 128, 128), {}), ((64, 64, 128), {}), ((64, 192, 128), {})]
    kinds += [((16, 128, 128), {"swap_ab": True}), ((32, 64, 128), {"swap_ab": True, "split_k": 2})]
    kinds += [((128, 128, 128), {"split_k": 3}), ((128, 96, 128), {"cluster": (2, 1)})]
    ks = [128, 65536, *(16 * round(2 ** dice.uniform(3, 12)) for _ in range(10))]
    for (tile, hints), k in ((kind, k) for kind in kinds for k in dice.sample(ks, 4)):
        steps = -(-k // 128)
        for ahead in (True, False):
            if steps < hints.get("split_k", 1):
                continue
            ((_, _, schedule),) = plan_of(
                4096, k, tile=tile, scales_ahead=ahead, unroll=0, evict_first=False, pdl=False, **hints
            )
            stage, rest = heuristics._smem_bytes(schedule, steps)
            taken = compiler.build(spec_of(4096, k), TARGET, schedule).result.module.record(Launch).smem_bytes
            assert taken <= schedule.stages * stage + rest <= HOPPER.smem_per_cta, (schedule, k)
