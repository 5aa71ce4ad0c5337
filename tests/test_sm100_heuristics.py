"""Blackwell's schedules: every M is served, hints are obeyed or refused, and the static model adds up."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from ir_texts import spec_of
from sm100_cases import TARGET

from gemmgen import compiler
from gemmgen.backends.capability import capability
from gemmgen.backends.sm100 import heuristics
from gemmgen.errors import ScheduleError
from gemmgen.explain import explain
from gemmgen.schedule import Schedule
from gemmgen.spec.model import Warps

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
        ({"cluster": (4, 4)}, "CTAs per cluster"),
        ({"split_k": 4}, "schedule.split_k on Blackwell"),
        ({"scheduler": "split_k"}, "schedule.scheduler on Blackwell"),
        ({"tile": (128, 128, 64)}, "the K extent of a tile"),
        ({"tile": (64, 128, 128)}, "128 lanes"),
        ({"tile": (128, 24, 128)}, "the N side"),
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
    """128 x 256 x 128 of FP8: 512 cycles of products, 48 KB of operands at 128 bytes a cycle, 32768 FMAs at 128."""
    model = heuristics.model_step(planned(tile=(128, 256, 128)))
    assert model.mma_cycles == 128 * 256 * 128 / 8192
    assert model.shared_cycles == (128 + 256) * 128 / 128
    assert model.promotion_cycles == 128 * 256 / 128 + 128 * 256 / 512
    assert model.l2_bytes == (128 + 256) * 128 + 4 * 128 + 4 * 2
    assert (model.cycles, model.bound) == (512, "mma")


def test_narrow_tiles_are_bound_by_shared_memory():
    assert heuristics.model_step(planned(tile=(16, 128, 128), swap_ab=True)).bound == "shared memory"


def test_without_promotion_the_cuda_cores_are_idle():
    schedule = planned(name="bf16_gemm_nt", tile=(128, 128, 64))
    model = heuristics.model_step(schedule, heuristics.Operands(item_bytes=2, promoted=False, scales_in_ring=False))
    assert model.promotion_cycles == 0
    assert model.l2_bytes == (128 + 128) * 128


def test_explain():
    """MMA cycles, tensor memory, shared memory and L2 bytes of a step, and what bounds the kernel."""
    found = explain("fp8_gemm_nt", TARGET, M=4096, N=4096, K=7168)
    by_name = {resource.name: resource for resource in found.model.resources}
    assert by_name["tensor core"].step_cycles == 256
    assert by_name["tensor memory"].used == 512
    assert found.model.traffic.l2_step_bytes == (128 + 128) * 128 + 4 * 128 + 4
    assert found.model.prediction.total_us >= found.model.floor.total_us
    assert found.to_dict()["model"]["measured"] is False
    assert "nothing was measured on Blackwell" in found.model.basis
    assert "busiest engine in it is tensor core" in found.reasons[-1]


def test_the_model_is_labelled():
    """Nobody shall take it for a measurement."""
    assert "Nothing" in (heuristics.model_step.__doc__ or "")
    assert "static model" in (heuristics.predict.__doc__ or "")
    assert heuristics.predict(planned(), 4096, 512, 1024, BLACKWELL) > 0
