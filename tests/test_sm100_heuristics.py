"""Blackwell's schedules: every M is served, hints are obeyed or refused, and the static model adds up."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from ir_texts import SPECS, spec_of
from ir_texts import TARGET as HOPPER
from sm100_cases import TARGET

from gemmgen import compiler
from gemmgen.backends.capability import capability
from gemmgen.backends.sm100 import costs, heuristics
from gemmgen.backends.sm100 import hardware as hw
from gemmgen.backends.sm100.costs import Operands
from gemmgen.errors import ScheduleError
from gemmgen.explain import explain
from gemmgen.schedule import Schedule
from gemmgen.spec.loader import load_spec
from gemmgen.spec.model import GemmSpec, ScheduleHints, Warps

BLACKWELL = capability(TARGET)
SHAPES = [(576, 7168), (7168, 2048), (200, 400)]


@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("name", ["fp8_gemm_nt", "fp8_gemm_nt_no_promotion", "bf16_gemm_nn"])
def test_a_plan_covers_every_m_without_gaps(name: str, n: int, k: int):
    entries = compiler.plan(spec_of(n, k, name), TARGET)
    assert entries[0].m_min == 0
    assert entries[-1].m_max is None
    for one, two in pairwise(entries):
        assert one.m_max is not None
        assert two.m_min == one.m_max + 1
        assert one.schedule != two.schedule
    for entry in entries:
        columns = entry.schedule.tile[0 if entry.schedule.swap_ab else 1]
        assert columns * entry.schedule.accumulators <= 512
        assert entry.schedule.accumulators >= 2


def test_few_rows_lie_on_the_n_side():
    (first, *_) = compiler.plan(spec_of(7168, 2048), TARGET)
    assert first.schedule.swap_ab
    assert first.schedule.tile[0] == 16


def test_rings_are_as_deep_as_shared_memory():
    """One stage more would not fit."""
    for n, k in SHAPES:
        for entry in compiler.plan(spec_of(n, k), TARGET):
            compiler.build(spec_of(n, k), TARGET, entry.schedule)
    deepest = entry.schedule.replace(stages=heuristics.MAX_STAGES + 1)
    with pytest.raises(ScheduleError, match="more shared memory than a CTA has"):
        compiler.build(spec_of(n, k), TARGET, deepest)


def planned(n: int = 512, k: int = 1024, name: str = "fp8_gemm_nt", **hints: Any) -> Schedule:
    return compiler.plan(spec_of(n, k, name, **hints), TARGET)[-1].schedule


def test_hints():
    assert planned(tile=(128, 192, 128)).tile == (128, 192, 128)
    assert planned(tile=(128, 64, 128), stages=2).stages == 2
    assert planned(tile=(128, 64, 128), warps=Warps(math=1)).math_warpgroups == 1
    assert planned(swap_ab=True).swap_ab
    assert planned(pdl=True).pdl
    assert planned(cluster=(2, 1)).cluster == (2, 1)


@pytest.mark.parametrize(
    ("hints", "error"),
    [
        ({"cluster": (4, 4)}, "operands are shared along one axis"),
        ({"tile": (128, 64, 128), "cluster": (1, 16)}, "CTAs per cluster"),
        ({"split_k": 4}, "schedule.split_k on Blackwell"),
        ({"scheduler": "split_k"}, "schedule.scheduler on Blackwell"),
        ({"tile": (128, 128, 64)}, "the K extent of a tile"),
        ({"tile": (64, 128, 128)}, "128 lanes"),
        ({"tile": (128, 24, 128)}, "the N side"),
        ({"cluster": (2, 1), "cta_group": 2}, "a pair of CTAs is a cluster of its own"),
        ({"tile": (128, 64, 128), "cluster": (1, 2), "cta_group": 2}, "a pair of CTAs is a cluster of its own"),
        ({"tile": (128, 48, 128), "cta_group": 2}, "a pair of CTAs shares the N side"),
        ({"tile": (16, 128, 128), "swap_ab": True, "cta_group": 2}, "a pair of CTAs shares the N side"),
        ({"tile": (128, 96, 128), "warps": Warps(math=4)}, "warpgroups share the columns"),
        ({"tile": (128, 256, 128), "warps": Warps(math=1)}, "sums do not fit into registers"),
    ],
)
def test_hints_that_the_hardware_or_the_target_refuses(hints: dict[str, Any], error: str):
    with pytest.raises(ScheduleError, match=error):
        planned(**hints)


def test_a_transposed_operand_has_whole_swizzle_spans():
    """16 columns of bf16 are one span of 32 bytes; 128-byte rows would not divide them."""
    assert planned(name="bf16_gemm_nn", tile=(128, 48, 64), warps=Warps(math=1)).tile[1] == 48


def test_the_model_of_a_step():
    """128 x 256 x 128 of FP8: 512 cycles of products, 48 KB of operands at 128 bytes a cycle, 32768 FMAs at 128.

    With their scales the operands come from L2 at 64 bytes a cycle, which takes longest.
    """
    model = costs.model_step(planned(tile=(128, 256, 128)))
    assert model.mma_cycles == 128 * 256 * 128 / 8192
    assert model.shared_cycles == (128 + 256) * 128 / 128
    assert model.promotion_cycles == 128 * 256 / 128 + 128 * 256 / 512
    assert model.l2_bytes == (128 + 256) * 128 + 4 * 128 + 4 * 2
    assert (model.cycles, model.bound) == (model.l2_bytes / 64, "L2")


def test_narrow_tiles_are_bound_by_what_they_load():
    model = costs.model_step(planned(tile=(16, 128, 128), swap_ab=True))
    assert model.bound == "L2"
    assert model.shared_cycles > model.mma_cycles


def test_without_promotion_the_cuda_cores_are_idle():
    schedule = planned(name="bf16_gemm_nt", tile=(128, 128, 64))
    model = costs.model_step(schedule, heuristics.Operands(item_bytes=2, promoted=False, scales_in_ring=False))
    assert model.promotion_cycles == 0
    assert model.l2_bytes == (128 + 128) * 128


def test_explain():
    """MMA cycles, tensor memory, shared memory and L2 bytes of a step, and what bounds the kernel."""
    found = explain("fp8_gemm_nt", TARGET, M=4096, N=4096, K=7168)
    by_name = {resource.name: resource for resource in found.model.resources}
    assert (found.schedule.tile, found.schedule.cta_group) == ((128, 256, 128), 2)
    assert by_name["tensor core"].step_cycles == 128 * 256 * 128 / 8192
    assert by_name["tensor memory"].used == 512
    assert found.model.traffic.l2_step_bytes == (128 + 256 // 2) * 128 + 4 * 128 + 4 * 2
    assert found.model.prediction.total_us >= found.model.floor.total_us
    assert found.to_dict()["model"]["measured"] is False
    assert "nothing was measured on Blackwell" in found.model.basis
    assert "busiest engine in it is L2" in found.reasons[-1]


def test_the_model_is_labelled():
    """Nobody shall take it for a measurement."""
    assert "Nothing" in (costs.model_step.__doc__ or "")
    assert "static model" in (heuristics.predict.__doc__ or "")
    assert heuristics.predict(planned(), 4096, 512, 1024, BLACKWELL) > 0


ALL_SPECS = sorted(path.stem for path in SPECS.glob("*.yaml") if TARGET in load_spec(path).targets)


def ranked(spec: GemmSpec, m: int, scale_copy: str = "bulk", **hints: Any) -> list[Schedule]:
    """All schedules for a problem, the fastest first."""
    n, k = (int(spec.problem.dims[name]) for name in ("N", "K"))
    found = heuristics.ranked(ScheduleHints(**hints), m, n, k, BLACKWELL, scale_copy, Operands.of(spec))
    return [schedule for _, schedule in found]


def columns_of(schedule: Schedule) -> tuple[int, int]:
    """Columns of tensor memory that a schedule's sums take, and those of a stage's scales if there are words."""
    rows, columns = costs.rows_and_columns(schedule)
    return columns * schedule.accumulators, hw.scale_columns(rows, columns)


@pytest.mark.parametrize("m", [1, 300, 5000])
@pytest.mark.parametrize("name", ALL_SPECS)
def test_pairs_are_considered_beside_ctas_alone(name: str, m: int):
    schedules = ranked(spec_of(1024, 1024, name), m)
    assert {schedule.cta_group for schedule in schedules} == {1, 2}
    for schedule in schedules:
        if schedule.cta_group == 2:
            assert schedule.cluster == (1, 1)
            assert schedule.ctas == ((1, 2) if schedule.swap_ab else (2, 1))


@pytest.mark.parametrize("size", [1, 2])
def test_a_hint_decides_about_pairs(size: int):
    spec = spec_of(1024, 1024)
    assert {schedule.cta_group for schedule in ranked(spec, 300, cta_group=size)} == {size}
    assert planned(cta_group=size).cta_group == size
    assert planned(tile=(128, 64, 128), cta_group=size).cta_group == size
    assert planned(tile=(64, 128, 128), swap_ab=True, cta_group=size).cta_group == size


def test_a_tile_by_hint_is_one_ctas_unless_a_hint_says_otherwise():
    assert planned(tile=(128, 64, 128)).cta_group == 1


@pytest.mark.parametrize("cluster", [(2, 1), (1, 2), (1, 1)])
def test_a_cluster_by_hint_excludes_pairs(cluster: tuple[int, int]):
    assert {schedule.cta_group for schedule in ranked(spec_of(1024, 1024), 300, cluster=cluster)} == {1}


def test_no_pair_for_columns_without_halves():
    """16 columns do not halve into what the instruction takes; nor do 32 rows of e4m3 that lie in spans of 32 bytes."""
    narrow = [s for s in ranked(spec_of(1024, 1024), 1) if s.tile[0] == 16]
    assert [schedule.cta_group for schedule in narrow] == [1]
    for schedule in ranked(spec_of(1024, 1024, "fp8_gemm_nn"), 300):
        if schedule.cta_group == 2:
            assert schedule.tile[1] % 64 == 0


def test_a_pair_loads_half_of_the_shared_operand():
    alone, pair = (costs.model_step(planned(tile=(128, 256, 128), cta_group=size)) for size in (1, 2))
    assert alone.l2_bytes - pair.l2_bytes == 128 * 128
    assert alone.mma_cycles == pair.mma_cycles
    assert pair.shared_cycles == (128 + 128) * 128 / 128


@pytest.mark.parametrize("scale_copy", ["bulk", "lanes"])
@pytest.mark.parametrize("name", ALL_SPECS)
def test_every_schedule_builds(name: str, scale_copy: str):
    """Columns, bytes, registers and every law of the IR hold for what is offered, in every format and layout."""
    spec = spec_of(264, 1040, name)
    if spec.operands.a.scale is None and scale_copy == "lanes":
        spec = spec_of(4096, 80, name)
    offered = dict.fromkeys(schedule for m in (1, 64, 300, 5000) for schedule in ranked(spec, m, scale_copy))
    assert len(offered) > 8
    for schedule in offered:
        artifact = compiler.build(spec, TARGET, schedule)
        allocated = artifact.result.snapshots[-2].module.attr("tmem_columns")
        sums, scales = columns_of(schedule)
        assert allocated <= hw.TENSOR_MEMORY_COLUMNS
        assert sums + (schedule.stages * scales if Operands.of(spec).in_words else 0) <= allocated


tiles = st.one_of(
    st.tuples(st.just(128), st.integers(1, 16).map(lambda n: 16 * n), st.just(False)),
    st.tuples(st.integers(1, 16).map(lambda n: 16 * n), st.just(128), st.just(True)),
)


@given(tile=tiles, size=st.sampled_from([1, 2]), scale_copy=st.sampled_from(["bulk", "lanes"]), in_words=st.booleans(),
       rows=st.sampled_from([1, 128]))  # fmt: skip
def test_stages_and_accumulators_fit(
    tile: tuple[int, int, bool], size: int, scale_copy: str, in_words: bool, rows: int
):
    """By their own count: bytes of a stage, staging tile and barriers in shared memory; columns in tensor memory."""
    m, n, swapped = tile
    columns = m if swapped else n
    assume(size == 1 or hw.pairs_share(columns))
    operands = Operands(promoted=not in_words, in_words=in_words, b_block_rows=1 if in_words else rows)
    schedule = Schedule((m, n, 128), 0, swap_ab=swapped, scale_copy=scale_copy, cta_group=size,
                        accumulators=heuristics.most_accumulators(columns, operands))  # fmt: skip
    stages = heuristics.most_stages(schedule, BLACKWELL, operands)
    assert schedule.accumulators >= 1
    assert 1 <= stages <= heuristics.MAX_STAGES
    groups = {"a": -(-m // 128), "b": -(-n // 128)}
    words = 512 * sum(groups.values()) * (2 if scale_copy == "bulk" else 1) if in_words else 0
    floats = 0 if in_words else 4 * (m + (n if rows == 1 else 1))
    share = columns // size
    stage = 128 * (128 + share) + words + floats
    assert stages * stage + 2 * m * n <= BLACKWELL.smem_per_cta
    scale_columns = 4 * sum(groups.values()) if in_words else 0
    assert columns * schedule.accumulators + stages * scale_columns <= 512
    assert stages >= 2


@pytest.mark.parametrize("hints", [{}, {"tile": (128, 128, 128)}])
def test_hopper_refuses_pairs(hints: dict[str, Any]):
    with pytest.raises(ScheduleError) as caught:
        compiler.plan(spec_of(512, 1024, cta_group=2, **hints), HOPPER)
    error = caught.value
    assert "CTAs do not multiply together on sm_90a" in str(error)
    assert "fp8_gemm_nt.yaml" in str(error.where)
    assert (error.got, error.need, error.fix) == ("2", "1", "leave cta_group auto")


def test_hopper_takes_one_cta_as_a_matter_of_course():
    assert compiler.plan(spec_of(512, 1024, cta_group=1), HOPPER) == compiler.plan(spec_of(512, 1024), HOPPER)


@pytest.mark.parametrize("cluster", [(1, 4), (4, 1), (1, 8)])
def test_a_cluster_without_a_tile_serves_every_m(cluster: tuple[int, int]):
    entries = compiler.plan(spec_of(576, 7168, cluster=cluster), TARGET)
    assert (entries[0].m_min, entries[-1].m_max) == (0, None)
    assert {entry.schedule.cluster for entry in entries} == {cluster}
