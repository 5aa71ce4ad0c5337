"""``gemmgen.explain``: it names the plan's kernel, computes as one would by hand, and refuses what it cannot do."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from ir_texts import CASES, TARGET, built, schedule_of

from gemmgen import compiler
from gemmgen.backends import capability as capabilities
from gemmgen.backends.capability import capability
from gemmgen.backends.model import Floor, KernelModel, Prediction, Rounds
from gemmgen.backends.sm90 import hardware as hw
from gemmgen.backends.sm90 import heuristics, model
from gemmgen.backends.sm90.ops import CopyScalesOp
from gemmgen.backends.sm90.sites import Program
from gemmgen.errors import ArgumentError, GemmgenError, SpecError, TargetError
from gemmgen.explain import explain
from gemmgen.schedule import Schedule
from gemmgen.spec import load_spec

HOPPER = capability(TARGET)
PLAIN = Schedule((128, 128, 128), 5)


def described(case: str, m: int) -> KernelModel:
    return model.describe(CASES[case], m, schedule_of(case), built(case).result.module, HOPPER, "bulk")


@pytest.mark.parametrize(
    ("schedule", "m", "n", "expected"),
    [
        (PLAIN, 300, 576, Rounds((3, 5), 15, 132)),
        (PLAIN.replace(cluster=(1, 2)), 300, 576, Rounds((3, 6), 18, 132)),
        (PLAIN.replace(split_k=8), 128, 576, Rounds((1, 5), 40, 120)),
        (PLAIN.replace(split_k=3), 2048, 576, Rounds((16, 5), 240, 117)),
    ],
)
def test_rounds_by_hand(schedule: Schedule, m: int, n: int, expected: Rounds):
    assert heuristics.prediction(schedule, m, n, 7168, HOPPER).rounds == expected


def test_rounds_and_the_last_one():
    rounds = Rounds((16, 5), 240, 117)
    assert rounds.count == 3
    assert rounds.last_fill == pytest.approx(6 / 117)
    assert Rounds((11, 12), 132, 132).last_fill == 1.0


def test_the_terms_add_up_by_hand():
    predicted = Prediction(2.0, 0.5, 0.25, 30.0, 28, Rounds((16, 5), 240, 117))
    assert predicted.steps_per_cta == 3 * 28
    assert predicted.steps_us == 42.0
    assert predicted.tiles_us == 0.75
    assert predicted.total_us == 2.0 + 42.0 + 0.75
    assert predicted.bound == "steps"
    # Two rounds of 117 CTAs that the memory bounds, and a third of 6, which takes as long as its 28 steps.
    by_memory = replace(predicted, memory_us=50.0)
    assert by_memory.moving_us == pytest.approx(2 * 50.0 * 117 / 240 + 14.0)
    assert by_memory.total_us == pytest.approx(2.0 + by_memory.moving_us + 0.75)
    assert by_memory.bound == "memory"
    assert replace(by_memory, rounds=Rounds((9, 13), 117, 117)).moving_us == 50.0
    assert replace(predicted, base_us=43.0).bound == "base"
    assert replace(predicted, tile_us=15.0).bound == "tiles"


def test_steps_and_memory_of_a_prediction_by_hand():
    split = heuristics.prediction(PLAIN.replace(split_k=3), 300, 576, 7100, HOPPER)
    assert split.steps_per_tile == 19, "56 steps of 128, dealt out to three CTAs"
    assert split.memory_us == pytest.approx((300 * 7100 + 576 * 7100 + 2 * 300 * 576) / 4.2e6)
    halves = heuristics.prediction(Schedule((128, 128, 64), 5), 300, 576, 7100, HOPPER)
    assert halves.steps_per_tile == 111
    assert halves.memory_us == pytest.approx((2 * 300 * 7100 + 2 * 576 * 7100 + 2 * 300 * 576) / 4.2e6)


def test_floor_by_hand():
    large = model.floor(4096, 4096, 4096, 1, 2)
    assert large.compute_us == pytest.approx(2 * 4096**3 / 1.29e9)
    assert large.total_us == pytest.approx(106.542 + 1.6, abs=1e-3)
    assert large.bound == "compute"
    small = model.floor(1, 7168, 2048, 1, 2)
    assert small.total_us == pytest.approx((2048 + 7168 * 2048 + 2 * 7168) / 4.26e6 + 1.6)
    assert small.bound == "memory"
    assert model.floor(1, 7168, 2048, 2, 4).memory_us == pytest.approx((2 * 7169 * 2048 + 4 * 7168) / 4.26e6)
    assert Floor(3.0, 3.0, 1.6).total_us == Floor(3.0, 3.0, 1.6, rested=1.5).rested_us == 4.6
    assert Floor(1.0, 3.0, 1.6, rested=1.5).rested_us == pytest.approx(3.6)
    assert (large.rested, model.floor(4096, 4096, 4096, 2, 2).rested) == (1.15, 1.0)


@pytest.mark.parametrize(
    ("schedule", "tensor", "read_bytes"),
    [
        (PLAIN, 512, 2 * 4 * (64 + 128) * 32),
        (Schedule((256, 64, 128), 4), 512, 4 * 4 * (64 + 64) * 32),
        (Schedule((24, 128, 128), 4, swap_ab=True), 96, 2 * 4 * (64 + 24) * 32),
        (Schedule((8, 64, 128), 4, swap_ab=True, math_warpgroups=1), 16, 4 * (64 + 8) * 32),
        (Schedule((128, 192, 64), 4), 768, 2 * 4 * (64 + 192) * 32),
    ],
)
def test_cycles_of_the_tensor_core_by_hand(schedule: Schedule, tensor: int, read_bytes: int):
    assert model.mma_cycles(schedule) == tensor
    assert model.operand_read_bytes(schedule) == read_bytes


def test_engines_of_a_step_by_hand():
    """128 × 128 × 128: the operands' boxes are 32 KB, with 128 scales of A and one of B."""
    engines = {found.name: found.step_cycles for found in described("plain", 4096).resources if found.step_cycles}
    assert engines == {
        "tensor core": 512.0,
        "shared memory, read by wgmma": 384.0,
        "shared memory, reads and loads": 384 + (32768 + 128 * 4 + 4) / 128,
        "L2 to SM": (32768 + 128 * 4 + 4) / 64,
        "FP32 lanes, promotion": 128.0,
    }
    assert "FP32 lanes, promotion" not in {found.name for found in described("no_promotion", 4096).resources}


def test_traffic_by_hand():
    found = described("plain", 4096).traffic
    step = 32768 + 512 + 4
    assert found.l2_step_bytes == found.landing_step_bytes == step
    assert found.l2_launch_bytes == 32 * 32 * 56 * step
    assert found.flight_cta_bytes == 5 * step
    assert found.flight_bytes == 132 * 5 * step


def test_multicast_spares_reads_but_not_arrivals():
    """Clusters of 2 along M share B's box of 128 rows; A's of 256 is the CTA's own."""
    found = described("cluster", 4096).traffic
    scales = 256 * 4 + 4
    assert found.landing_step_bytes == (256 + 128) * 128 + scales
    assert found.l2_step_bytes == (256 + 64) * 128 + scales


@pytest.mark.parametrize("case", sorted(CASES))
def test_what_arrives_is_what_fills_the_ring(case: str):
    """Bytes that arrive in a step are those of the stage's areas, padding aside, and of scales that come earlier."""
    program = Program.of(built(case).result.module)
    stages = schedule_of(case).stages
    areas = [area.stage_bytes for area in program.areas.values() if area.stages == stages and area.stage_bytes > 8]
    landing = described(case, 300).traffic.landing_step_bytes
    ahead = sum(op.count * hw.SCALE_BYTES for _, op in program.all(CopyScalesOp) if op.run)
    assert sum(areas) - 256 < landing - ahead <= sum(areas)


def test_roles_and_registers():
    traded = described("plain", 4096).roles
    assert [(role.warps, role.registers, role.exact) for role in traded] == [(8, 232, True), (4, 40, True)]
    alone = described("direct_store", 64).roles
    assert {(role.registers, role.exact) for role in alone} == {(255, False)}
    assert sum(role.warps for role in alone) * 32 == described("direct_store", 64).launch.threads


def test_engines_are_busy_for_their_part_of_the_predicted_time():
    found = described("plain", 8192)
    tensor = next(resource for resource in found.resources if resource.name == "tensor core")
    steps = -(-64 * 32 // 132) * 56
    assert tensor.used == pytest.approx(steps * 512 / 1830)
    assert tensor.occupied == pytest.approx(tensor.used / found.prediction.total_us)
    assert 0 < tensor.occupied < 1


def test_spaces():
    found = {resource.name: resource for resource in described("plain", 8192).resources}
    assert found["SMs, over all rounds"].occupied == pytest.approx(64 * 32 / (16 * 132))
    assert found["shared memory"].used == built("plain").launch.smem_bytes
    assert found["registers"].used == (8 * 232 + 4 * 40) * 32
    assert found["threads"].used == 384


@pytest.mark.parametrize("name", ["fp8_gemm_nt", "bf16_gemm_tn", "fp8_gemm_nt_split_k"])
@pytest.mark.parametrize(("n", "k"), [(576, 7168), (7168, 2048)])
def test_the_kernel_is_the_plans_and_the_deciding_m_decides_it(name: str, n: int, k: int):
    spec = load_spec(name).bind(N=n, K=k)
    entries = compiler.plan(spec, TARGET)
    operands = heuristics.Operands.of(spec)
    for m in (1, 8, 9, 50, 129, 1000, 6144, 6145, 100_000):
        entry = next(e for e in entries if e.m_min <= m and (e.m_max is None or m <= e.m_max))
        deciding = heuristics.M_RANGES.deciding(m)
        ranked = heuristics.ranked(spec.schedule, deciding, n, k, HOPPER, "bulk", operands)
        assert ranked[0][1] == entry.schedule, m
        times = [predicted.total_us for predicted, _ in ranked]
        assert times == sorted(times)
        assert deciding >= m or deciding == heuristics.M_RANGES.large


def test_explanation_of_a_shape():
    found = explain("fp8_gemm_nt", TARGET, M=70, N=4096, K=7168)
    spec = load_spec("fp8_gemm_nt").bind(N=4096, K=7168)
    (entry,) = [e for e in compiler.plan(spec, TARGET) if e.m_min <= 70 <= (e.m_max or 70)]
    assert (found.m_min, found.m_max, found.schedule) == (entry.m_min, entry.m_max, entry.schedule)
    assert found.model.deciding_m == 96
    assert found.model.prediction.total_us == heuristics.predict(entry.schedule, 70, 4096, 7168, HOPPER)
    first, *others = found.model.candidates
    assert first.schedule == entry.schedule
    assert first.predicted_us == found.model.prediction.total_us
    assert len(others) == model.RUNNERS_UP
    assert first.schedule not in [other.schedule for other in others]
    assert [first.deciding_us, *(o.deciding_us for o in others)] == sorted(
        c.deciding_us for c in found.model.candidates
    )
    assert "least predicted time" in found.reasons[0]
    assert f"{found.model.prediction.total_us:.2f} µs" in found.reasons[1]


def test_explanation_as_json():
    found = explain("fp8_gemm_nt", TARGET, M=4096, N=2112, K=7168)
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["dims"] == {"M": 4096, "N": 2112, "K": 7168}
    assert plain["model"]["measured"] is False
    assert Schedule.from_dict(plain["schedule"]) == found.schedule
    predicted = plain["model"]["prediction"]
    inner = max(predicted["steps_us"], predicted["moving_us"])
    assert predicted["total_us"] == pytest.approx(predicted["base_us"] + inner + predicted["tiles_us"])
    assert plain["model"]["predicted_to_floor"] == pytest.approx(
        predicted["total_us"] / plain["model"]["floor"]["total_us"]
    )
    assert all(other["ratio"] >= 1 for other in plain["model"]["runners_up"])
    assert {"device memory", "tensor core", "L2 to SM", "registers"} <= {r["name"] for r in plain["model"]["resources"]}


def test_a_fixed_m_decides_for_itself():
    spec = load_spec("fp8_gemm_nt").bind(M=100, N=4096, K=7168)
    found = explain(spec, TARGET)
    assert found.dims["M"] == found.model.deciding_m == 100
    assert (found.m_min, found.m_max) == (0, None)


def test_scales_of_any_strides_have_a_kernel_of_their_own():
    found = explain("fp8_gemm_nt", TARGET, scale_copy="lanes", M=64, N=576, K=7168)
    assert found.schedule.scale_copy == "lanes"
    assert {c.schedule.scale_copy for c in found.model.candidates} == {"lanes"}


def test_the_basis_says_what_was_not_even_fitted():
    assert "one H200" in explain("fp8_gemm_nt", TARGET, M=64, N=576, K=7168).model.basis
    assert "unmeasured" in explain("bf16_gemm_nt", TARGET, M=64, N=576, K=7168).model.basis


def test_one_candidate_has_no_runners_up():
    hints = {"tile": (128, 128, 128)}
    spec = load_spec("fp8_gemm_nt")
    found = explain(replace(spec, schedule=replace(spec.schedule, **hints)), TARGET, M=64, N=576, K=7168)
    assert len(found.model.candidates) == found.model.considered == 1
    assert "no other schedule fits the hints" in found.reasons[0]


def test_reasons_admit_what_is_odd():
    found = explain("fp8_gemm_nt", TARGET, M=1024, N=2112, K=7168)
    first, second, *rest = found.model.candidates
    tuned = replace(found, model=replace(found.model, candidates=(second, first, *rest)), schedule=second.schedule)
    assert f"the model would choose {first.schedule}" in tuned.reasons[0]
    slow = replace(found, model=replace(found.model, floor=Floor(1e6, 1.0, 1.6)))
    assert "the model errs here" in slow.reasons[1]
    assert "the model errs here" not in found.reasons[1]
    predicted = found.model.prediction.total_us
    near = replace(found, model=replace(found.model, floor=Floor(1.0, predicted * 1.1, 0.0, rested=1.15)))
    assert "a rested one multiplies up to 1.15 times as fast" in near.reasons[1]
    for memory, compute in ((1.0, predicted * 1.2), (predicted * 1.1, predicted * 1.1)):
        far = replace(found, model=replace(found.model, floor=Floor(memory, compute, 0.0, rested=1.15)))
        assert "the model errs here" in far.reasons[1]


@pytest.mark.parametrize(
    ("target", "dims", "error", "what"),
    [
        (TARGET, {"N": 576, "K": 7168}, SpecError, "dimension M has no size"),
        (TARGET, {"M": 5, "K": 7168}, SpecError, "dimension N has no size"),
        (TARGET, {"M": 0, "N": 576, "K": 7168}, SpecError, "an empty problem needs no kernel"),
        (TARGET, {"M": 5, "N": 576, "K": 7168, "Q": 1}, SpecError, "has no dimension Q"),
        ("sm_80", {"M": 5, "N": 576, "K": 7168}, TargetError, "unknown target"),
    ],
)
def test_refusals(target: str, dims: dict[str, int], error: type[GemmgenError], what: str):
    with pytest.raises(error, match=what) as caught:
        explain("fp8_gemm_nt", target, **dims)
    assert not isinstance(caught.value, ArgumentError)
    assert caught.value.where is not None
    assert caught.value.got is not None
    assert caught.value.need is not None


def test_a_backend_without_a_model_is_refused(monkeypatch: pytest.MonkeyPatch):
    backend: Any = ModuleType("gemmgen.backends.new_backend")
    backend.__path__ = []
    monkeypatch.setitem(sys.modules, backend.__name__, backend)
    monkeypatch.setitem(capabilities._CAPABILITIES, "sm_100a", replace(HOPPER, name="sm_100a", dialect="new_backend"))
    with pytest.raises(TargetError, match="there is no model of sm_100a") as caught:
        explain("fp8_gemm_nt", "sm_100a", M=5, N=576, K=7168)
    assert caught.value.got == "sm_100a"
    assert TARGET in str(caught.value.need)
    assert caught.value.fix is not None
