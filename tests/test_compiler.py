"""The compiler's own interface: plans, artifacts and the IR they carry."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from ir_texts import CASES, TARGET, built, schedule_of, spec_of

from gemmgen import compiler
from gemmgen.backends.capability import HOPPER_LEVERS, capability
from gemmgen.errors import ScheduleError, TargetError
from gemmgen.ir import parse_module
from gemmgen.runtime.launch_plan import ScalarParam, TensorMapParam
from gemmgen.schedule import Schedule
from gemmgen.spec import load_spec
from gemmgen.spec.model import ScheduleHints


def test_a_plan_is_a_list_of_ranges_and_schedules():
    entries = compiler.plan(spec_of(576, 7168), TARGET)
    assert entries[0].m_min == 0
    assert entries[-1].m_max is None
    assert all(isinstance(entry.schedule, Schedule) for entry in entries)
    lanes = compiler.plan(spec_of(576, 7168), TARGET, "lanes")
    assert {entry.schedule.scale_copy for entry in lanes} == {"lanes"}


def test_unknown_targets():
    with pytest.raises(TargetError, match="unknown target"):
        compiler.plan(spec_of(576, 7168), "sm_90")
    with pytest.raises(TargetError, match="unknown target"):
        compiler.build(spec_of(576, 7168), "sm_9a", schedule_of("plain"))


def test_an_artifact_carries_every_stage():
    artifact = built("cluster")
    stages = ["input", "promotion", "split-k", "pipelining", "epilogue-staging", "cluster-multicast",
              "warp-specialization", "register-reallocation", "shared-memory-allocation", "lower-sm90"]  # fmt: skip
    assert list(artifact.ir) == [*stages, "tile", "async", "target"]
    assert artifact.ir["tile"] == artifact.ir["promotion"]
    assert artifact.ir["async"] == artifact.ir["shared-memory-allocation"]
    assert artifact.ir["target"] == artifact.ir["lower-sm90"]
    levels = [parse_module(artifact.ir[stage]).level.value for stage in stages]
    assert levels == ["tile"] * 3 + ["async"] * 6 + ["target"]


def test_swapping_is_a_stage_of_its_own():
    assert "swap-operands" in built("swapped").ir
    assert "swap-operands" not in built("plain").ir


@pytest.mark.parametrize("case", CASES)
def test_the_launch_plan_names_what_the_source_takes(case: str):
    artifact = built(case)
    launch = artifact.launch
    signature = artifact.source[artifact.source.index("fp8_gemm_nt", artifact.source.index("__launch_bounds__")) :]
    signature = signature[: signature.index(")\n{")]
    names = [part.split()[-1] for part in signature.split("(", 1)[1].split(",")]
    assert names == [param.name for param in launch.params]
    assert launch.entry == artifact.name == CASES[case].name
    assert f"__launch_bounds__({launch.threads}, 1)" in artifact.source
    assert f"in bytes: {launch.smem_bytes} in all" in artifact.source


def test_parameters_of_a_plain_kernel():
    params = {param.name: param for param in built("plain").launch.params}
    assert params["tma_a"] == TensorMapParam("tma_a", "a", "e4m3", (128, 128), "128B")
    assert params["tma_b"] == TensorMapParam("tma_b", "b", "e4m3", (128, 128), "128B")
    assert params["tma_d"] == TensorMapParam("tma_d", "d", "bf16", (64, 64), "128B")
    assert params["tma_sa"] == TensorMapParam("tma_sa", "sa", "f32", (128, 1), "none", transposed=True)
    assert params["sb_stride_row"] == ScalarParam("sb_stride_row", "int64", "stride:sb:0")
    assert params["M"] == ScalarParam("M", "uint32", "M")


@pytest.mark.parametrize(
    ("case", "threads", "cluster", "tiles", "persistent", "pdl"),
    [
        ("plain", 384, 1, (128, 128, 1), True, False),
        ("cluster", 384, 2, (512, 128, 2), True, False),
        ("split_k_swapped", 192, 4, (32, 64, 4), False, False),
        ("rowwise", 384, 1, (128, 64, 1), True, True),
        ("direct_store", 192, 1, (64, 64, 1), True, False),
    ],
)
def test_launches(case: str, threads: int, cluster: int, tiles: tuple[int, int, int], persistent: bool, pdl: bool):
    """Threads: 128 per math warpgroup, and 128 more that lend registers, or a warp each for loads and scales."""
    launch = built(case).launch
    assert (launch.threads, launch.cluster, launch.tiles) == (threads, cluster, tiles)
    assert (launch.persistent, launch.pdl) == (persistent, pdl)


def test_a_schedule_that_does_not_fit_is_refused():
    with pytest.raises(ScheduleError, match="more shared memory than a CTA has"):
        compiler.build(CASES["plain"], TARGET, schedule_of("plain").replace(stages=9))


def test_the_schedule_is_kept():
    assert built("plain").schedule == schedule_of("plain")


@pytest.mark.parametrize(
    ("hints", "path"),
    [
        ({"warps": {"producer": 1}}, "schedule.warps.producer"),
        ({"epilogue_overlap": True}, "schedule.epilogue_overlap"),
    ],
)
def test_hints_that_nothing_follows_are_refused(hints: dict[str, Any], path: str) -> None:
    spec = dataclasses.replace(load_spec("fp8_gemm_nt").bind(N=256, K=256), schedule=ScheduleHints(**hints))
    with pytest.raises(ScheduleError, match="not supported yet") as caught:
        compiler.plan(spec, "sm_90a")
    assert caught.value.where == spec.position(path)
    assert caught.value.fix


@pytest.mark.parametrize("target", ["sm_100a", "sm_103a"])
@pytest.mark.parametrize(
    ("lever", "value", "off"),
    [
        ("promotion_overlap", True, False),
        ("promotion_burst", 8, 0),
        ("scales_ahead", True, False),
        ("lookahead", True, False),
        ("unroll", 4, 0),
    ],
)
def test_what_only_hopper_schedules_is_refused(lever: str, value: Any, off: Any, target: str) -> None:
    spec = load_spec("fp8_gemm_nt").bind(N=256, K=256)
    plans = compiler.plan(spec, target)
    assert compiler.plan(dataclasses.replace(spec, schedule=ScheduleHints(**{lever: off})), target) == plans
    assert {getattr(entry.schedule, lever) for entry in plans} == {off}
    hinted = dataclasses.replace(spec, schedule=ScheduleHints(**{lever: value}))
    with pytest.raises(ScheduleError) as hint_refused:
        compiler.plan(hinted, target)
    assert hint_refused.value.where == hinted.position(f"schedule.{lever}")
    with pytest.raises(ScheduleError) as schedule_refused:
        compiler.build(spec, target, plans[0].schedule.replace(**{lever: value}))
    assert schedule_refused.value.where == f"schedule.{lever}"
    for error in (hint_refused.value, schedule_refused.value):
        assert (error.what, error.got) == (f"{lever} is no lever on {target}", str(value))
        assert (error.need, error.fix) == (f"auto or {off}".lower(), f"leave {lever} auto")


def test_those_are_all_levers_of_hopper() -> None:
    """Each is a field of the schedule and a hint, which Hopper's plans follow and others refuse."""
    assert capability(TARGET).levers == HOPPER_LEVERS
    for fields in (dataclasses.fields(Schedule), dataclasses.fields(ScheduleHints)):
        assert {field.name for field in fields} >= HOPPER_LEVERS
    assert [capability(target).levers for target in ("sm_100a", "sm_103a")] == [frozenset()] * 2
