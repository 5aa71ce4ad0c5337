"""``gemmgen.compile`` with tuned schedules: the plan has them, caches keep plans apart, and kernels are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_tuning_file import entry, tuned_file
from tuning_fakes import TARGET, details

import gemmgen
from gemmgen import compiler
from gemmgen.errors import ScheduleError, TuningError
from gemmgen.explain import explain
from gemmgen.plan import Plan
from gemmgen.runtime.cache import Cache
from gemmgen.schedule import Schedule
from gemmgen.tuning.file import TunedFile
from gemmgen.tuning.search import compile_fixed
from gemmgen.verification import random_operands, verify

N, K = 128, 256
SPEC = gemmgen.load_spec("fp8_gemm_nt").bind(N=N, K=K)
WANTED = Schedule((128, 64, 128), 3, producer_registers=40, math_registers=232, raster_group=2)


def tuned_for(m: int, schedule: Schedule = WANTED) -> TunedFile:
    return tuned_file(entry(m, schedule=schedule, n=N, k=K))


def plan_of(tuned: TunedFile | None, cache: Cache | None = None, **options: Any) -> Plan:
    return gemmgen.compile("fp8_gemm_nt", TARGET, tuned=tuned, cache=cache or Cache(None), N=N, K=K).plan(**options)


def test_a_tuned_file_changes_the_schedule_of_the_plan_where_it_applies(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    tuned_for(100).save(path)
    kernel = gemmgen.compile("fp8_gemm_nt", TARGET, tuned=path, cache=Cache(None), N=N, K=K)
    assert gemmgen.compile("fp8_gemm_nt", tuned=str(path), cache=Cache(None)).target == TARGET
    plain, tuned = plan_of(None), kernel.plan()
    assert (tuned.variant_for(100).m_min, tuned.variant_for(100).m_max) == (97, 128)
    for m in (1, 96, 97, 100, 128, 129, 9999):
        expected = WANTED if 97 <= m <= 128 else plain.variant_for(m).schedule
        assert tuned.variant_for(m).schedule == expected
    assert plain.variant_for(100).schedule != WANTED
    assert (
        kernel.plan(scale_copy="lanes").variant_for(100).schedule
        == plan_of(None, scale_copy="lanes").variant_for(100).schedule
    )
    other = gemmgen.compile("fp8_gemm_nt", TARGET, tuned=path, cache=Cache(None), N=N, K=512).plan()
    assert all(variant.schedule != WANTED for variant in other)


def test_a_fixed_m_is_tuned_too() -> None:
    kernel = gemmgen.compile("fp8_gemm_nt", TARGET, tuned=tuned_for(100), cache=Cache(None), M=110, N=N, K=K)
    assert [variant.schedule for variant in kernel.plan()] == [WANTED]


def test_the_tuned_kernel_computes_the_right_values() -> None:
    tuned, m = tuned_for(40), 40
    [*_, done] = verify(SPEC, m, TARGET, schedules=("fifo",), tuned=tuned)
    assert done.variant.schedule == WANTED
    assert done.ok
    (a, sa), (b, sb) = random_operands(SPEC, (m, N, K), 3)
    kernels = [gemmgen.compile(SPEC, TARGET, tuned=tuned), compile_fixed(SPEC, TARGET, WANTED)]
    outs = [kernel.emulate(a, sa, b, sb)[0].view(np.uint16) for kernel in kernels]
    assert (outs[0] == outs[1]).all()


def test_plans_of_other_tuned_files_share_cubins_but_no_index(tmp_path: Path) -> None:
    plain = plan_of(None, Cache(tmp_path))
    plain.variant_for(100).binary()
    first = plan_of(tuned_for(100), Cache(tmp_path))
    assert first.variant_for(100).schedule == WANTED
    first.variant_for(100).binary()
    assert Cache(tmp_path).info().cubins == 2
    other = plan_of(tuned_for(100, WANTED.replace(stages=2)), Cache(tmp_path))
    assert other.variant_for(100).binary().key != first.variant_for(100).binary().key
    assert Cache(tmp_path).info().cubins == 3
    elsewhere = plan_of(
        tuned_file(entry(1, schedule=WANTED, n=N, k=K), entry(100, schedule=WANTED, n=N, k=K)), Cache(tmp_path)
    )
    assert elsewhere.variant_for(100).binary().key == first.variant_for(100).binary().key
    assert Cache(tmp_path).info().cubins == 3
    keys = [plan.request_key("plan") for plan in (plain, first, other, elsewhere)]
    assert len(set(keys)) == 4


def test_a_warm_cache_serves_a_tuned_plan_without_the_compiler(tmp_path: Path) -> None:
    wanted = plan_of(tuned_for(100), Cache(tmp_path)).variant_for(100).binary()

    def refuse() -> Any:
        raise AssertionError("the compiler must not run")

    part = tuned_for(100).for_plan(N, K, "bulk")
    warm = Plan(SPEC, TARGET, refuse, Cache(tmp_path), "bulk", part)
    assert warm.variant_for(100).binary(strict=True).key == wanted.key
    with pytest.raises(AssertionError, match="must not run"):
        Plan(SPEC, TARGET, refuse, Cache(tmp_path), "bulk", tuned_for(101).for_plan(N, K, "bulk"))


def test_a_file_without_entries_for_a_plan_leaves_it_as_it_is() -> None:
    assert plan_of(tuned_file(entry(64))).request_key("plan") == plan_of(None).request_key("plan")


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        (WANTED.replace(stages=30), "shared memory"),
        (WANTED.replace(tile=(120, 64, 128)), ""),
        (WANTED.replace(tile=(128, 64, 64)), ""),
        (WANTED.replace(math_registers=240), ""),
        (WANTED.replace(cluster=(4, 4)), ""),
        (WANTED.replace(tile=(256, 160, 128), stages=2), "registers"),
        (WANTED.replace(accumulators=2), "does not have this accumulators"),
        (WANTED.replace(cta_group=2), ""),
    ],
)
def test_a_schedule_that_this_version_cannot_build_is_refused_by_name(schedule: Schedule, why: str) -> None:
    with pytest.raises(ScheduleError, match=f"cannot build the tuned schedule for M=100 N={N} K={K}.*{why}") as caught:
        plan_of(tuned_for(100, schedule))
    assert caught.value.got == str(schedule)
    assert None not in details(caught.value)


def test_compile_refuses_files_for_something_else(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    tuned_for(100).save(path)
    with pytest.raises(TuningError, match="another spec") as caught:
        gemmgen.compile("bf16_gemm_nt", tuned=path)
    assert caught.value.where == str(path)
    with pytest.raises(TuningError, match="another target"):
        gemmgen.compile("fp8_gemm_nt", "sm_100a", tuned=path)


def test_explain_says_what_was_measured(tmp_path: Path) -> None:
    found = explain("fp8_gemm_nt", tuned=tuned_for(100), M=110, N=N, K=K)
    assert (found.target, found.schedule, found.m_min, found.m_max) == (TARGET, WANTED, 97, 128)
    assert "tuned for M = 100 on Fake H200: 8.00 µs, where the heuristics' choice" in found.reasons[0]
    assert "took 10.00" in found.reasons[0]
    assert found.to_dict()["tuned"][0]["m"] == 100
    other = explain("fp8_gemm_nt", tuned=tuned_for(100), M=200, N=N, K=K)
    assert "tuned" not in other.reasons[0]
    assert (other.to_dict()["tuned"], other.to_dict()["tuned_on"]) == ([], None)
    kept = compiler.plan(SPEC, TARGET)[-1].schedule
    same = entry(9999, schedule=kept, n=N, k=K)
    file = tuned_file(type(same)(9999, N, K, same.best, same.best, 3))
    assert "it is the heuristics' choice" in explain("fp8_gemm_nt", tuned=file, M=9999, N=N, K=K).reasons[0]
