"""Launch plans: what they refuse, their grids, their argument blocks and their JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from runtime_fakes import PARAMS

from gemmgen.errors import GemmgenError, ScheduleError
from gemmgen.runtime.launch_plan import LaunchPlan, PointerParam, ScalarParam, TensorMapParam, param_offsets

PLAN = LaunchPlan("gemm", "sm_90a", 384, 2, 200_000, (256, 128, 2), True, PARAMS)


def test_json_round_trip_keeps_everything() -> None:
    plan = replace(PLAN, pdl=True)
    assert LaunchPlan.from_json(plan.to_json()) == plan
    assert plan.to_json() == LaunchPlan.from_json(plan.to_json()).to_json()


def test_manifest_gives_offsets_of_the_c_abi() -> None:
    params = (
        ScalarParam("m", "int32", "M"),
        PointerParam("sa", "sa"),
        TensorMapParam("tma_a", "a", "e4m3", (128, 64), "128B"),
        ScalarParam("n", "uint32", "N"),
        ScalarParam("s", "int64", "stride:sa:0"),
    )
    assert param_offsets(params) == ((0, 8, 64, 192, 200), 208)
    manifest = json.loads(replace(PLAN, params=params).to_json())
    assert [(param["name"], param["offset"], param["size"]) for param in manifest["params"]] == [
        ("m", 0, 4),
        ("sa", 8, 8),
        ("tma_a", 64, 128),
        ("n", 192, 4),
        ("s", 200, 8),
    ]
    assert manifest["param_bytes"] == 208


@pytest.mark.parametrize(
    ("changes", "m", "n", "sms", "grid"),
    [
        ({}, 256, 128, 132, 2),
        ({}, 4096, 4096, 132, 132),
        ({}, 4096, 4096, 131, 130),
        ({}, 4096, 4096, 1, 2),
        ({}, 257, 129, 132, 8),
        ({"persistent": False}, 4096, 4096, 132, 16 * 32 * 2),
        ({"tiles": (128, 128, 1)}, 128, 3 * 128, 132, 4),
        ({"cluster": 1, "tiles": (64, 64, 1)}, 1, 1, 132, 1),
    ],
)
def test_grid(changes: dict[str, object], m: int, n: int, sms: int, grid: int) -> None:
    assert replace(PLAN, **changes).grid(m, n, sms) == grid


@pytest.mark.parametrize(
    "changes",
    [
        {"threads": 1025},
        {"threads": 0},
        {"cluster": 17},
        {"smem_bytes": 232449},
        {"tiles": (0, 128, 1)},
        {"tiles": (128, 128)},
    ],
)
def test_impossible_launches_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ScheduleError, match="gemm"):
        replace(PLAN, **changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"box": (257, 1)}, "limits"),
        ({"box": (0, 128)}, "limits"),
        ({"box": (128,)}, "limits"),
        ({"box": (100, 8)}, "16 bytes"),
        ({"box": (128, 8), "swizzle": "64B"}, "wider than its swizzle"),
        ({"box": (128, 8), "dtype": "bf16"}, "wider than its swizzle"),
        ({"dtype": "fp8"}, "unknown dtype"),
        ({"swizzle": "256B"}, "unknown swizzle"),
        ({"l2_promotion": "32B"}, "unknown L2 promotion"),
    ],
)
def test_impossible_boxes_are_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(GemmgenError, match=says) as caught:
        replace(PARAMS[0], **changes)
    assert caught.value.where == "tma_a"


def test_unknown_scalars_and_shared_names_are_refused() -> None:
    with pytest.raises(GemmgenError, match="value is unknown"):
        ScalarParam("x", "int32", "stride:sa:2")
    with pytest.raises(GemmgenError, match="unknown C type"):
        ScalarParam("x", "float", "M")
    with pytest.raises(GemmgenError, match="share a name"):
        replace(PLAN, params=(PointerParam("x", "sa"), PointerParam("x", "sb")))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"entry": "gemm"}', PLAN.to_json().replace("pointer", "handle")])
def test_text_that_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(GemmgenError, match="not a launch manifest"):
        LaunchPlan.from_json(text)
