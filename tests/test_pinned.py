"""Hints can ask for every schedule that plans have, so each of them passes the check of a single schedule."""

from __future__ import annotations

import pytest

from gemmgen import compiler
from gemmgen.backends.capability import capability
from gemmgen.errors import ScheduleError
from gemmgen.pinned import check_schedule
from gemmgen.spec import load_spec, shipped_specs
from gemmgen.spec.support import unsupported_reason

SIZES = ((576, 7168), (4096, 512), (2112, 7168), (200, 464))


PAIRS = [
    (name, target)
    for name in sorted(shipped_specs())
    for target in ("sm_90a", "sm_100a")
    if unsupported_reason(load_spec(name), target) is None
]


@pytest.mark.parametrize(("name", "target"), PAIRS)
def test_every_schedule_of_a_plan_passes(name: str, target: str) -> None:
    for n, k in SIZES:
        spec = load_spec(name).bind(N=n, K=k)
        for scale_copy in ("bulk", "lanes"):
            for row in compiler.plan(spec, target, scale_copy):
                check_schedule(spec, row.schedule, max(1, row.m_min), capability(target))


def test_others_do_not() -> None:
    spec = load_spec("fp8_gemm_nt").bind(N=576, K=7168)
    schedule = compiler.plan(spec, "sm_90a")[-1].schedule
    impossible = ({"accumulators": 1}, {"cta_group": 2}, {"tile": (128, 64, 64)}, {"tile": (256, 160, 128)},
                  {"scale_copy": "lanes", "scales_ahead": True})  # fmt: skip
    for changes in impossible:
        with pytest.raises(ScheduleError) as caught:
            check_schedule(spec, schedule.replace(**changes), 4096, capability("sm_90a"))
        assert caught.value.got is not None
