"""``gemmgen.tune`` on a device made of Python: what is tried, checked and kept, and how a search ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tuning_fakes import TARGET, FakeDevice, K, N, details

from gemmgen import compiler
from gemmgen.backends.sm90 import levers
from gemmgen.backends.sm90.operands import FP8
from gemmgen.errors import DriverError, SpecError, TargetError, TuningError
from gemmgen.schedule import Schedule
from gemmgen.spec import load_spec
from gemmgen.tuning.file import load_tuned
from gemmgen.tuning.search import FINAL_ROUNDS, PREDICTED_WITHIN
from gemmgen.tuning.space import Space
from gemmgen.tuning.tune import Progress, tune

SPEC = load_spec("fp8_gemm_nt").bind(N=N, K=K)


def served(m: int = 64) -> Schedule:
    entries = compiler.plan(SPEC, TARGET)
    return next(entry for entry in reversed(entries) if entry.m_min <= m).schedule


SERVED = served()
FAST_NEIGHBOUR = SERVED.replace(raster_group=4)


def faster(*wanted: Schedule, us: float = 8.0) -> Any:
    return lambda schedule: us if schedule in wanted else 10.0


def test_the_plan_s_own_kernel_is_measured_first_and_kept_if_nothing_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    [outcome] = device.tune(monkeypatch).outcomes
    assert device.timed[0] == SERVED
    assert outcome.entry.best == outcome.entry.heuristic
    assert outcome.entry.heuristic.schedule == SERVED
    assert (outcome.entry.faster_by, outcome.complete) == (0.0, True)
    assert outcome.entry.timed == len(set(device.timed)) > 10


def test_a_neighbour_that_the_heuristics_do_not_ship_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FAST_NEIGHBOUR not in [c.schedule for c in Space(SPEC, 64, TARGET).shipped()]
    result = FakeDevice(us=faster(FAST_NEIGHBOUR)).tune(monkeypatch)
    [entry] = result.file.entries
    assert (entry.best.schedule, entry.best.us) == (FAST_NEIGHBOUR, 8.0)
    assert (entry.heuristic.schedule, entry.heuristic.us) == (SERVED, 10.0)
    assert entry.faster_by == pytest.approx(0.2)
    assert entry.best.predicted_us == pytest.approx(Space(SPEC, 64, TARGET).priced(SERVED).predicted_us)


def test_overlap_is_a_lever_and_follows_the_tile() -> None:
    """Without a hint it is decided anew for every tile, so that no neighbour is lost to it."""
    space = Space(SPEC, 4096, TARGET)
    overlapped = space.priced(space.served().schedule.replace(
        tile=(128, 128, 128), stages=5, cluster=(1, 1), split_k=1, swap_ab=False, math_warpgroups=2,
        producer_registers=40, math_registers=232, scales_ahead=True, promotion_overlap=True,
        promotion_burst=8, lookahead=False, unroll=0, deal_columns=False)).schedule  # fmt: skip
    found = [candidate.schedule for candidate in space.neighbours(overlapped)]
    assert overlapped.replace(promotion_overlap=False, promotion_burst=4, lookahead=True, unroll=4) in found
    bursts = {overlapped.replace(promotion_burst=length) for length in (0, 4, 256)}
    assert bursts <= set(found)
    assert all(s.promotion_burst == levers.bursts(s, None, FP8) for s in found if s not in bursts)
    assert all((s.lookahead, s.unroll) == (False, 0) for s in found if s.promotion_overlap)
    assert [s.promotion_overlap for s in found if s.tile == (256, 128, 128)] == [False]
    assert {s.promotion_overlap for s in found if s.tile == (128, 112, 128)} == {True}
    hinted = replace(SPEC, schedule=replace(SPEC.schedule, promotion_overlap=True))
    found = [candidate.schedule for candidate in Space(hinted, 4096, TARGET).neighbours(overlapped)]
    assert {s.promotion_overlap for s in found} == {True}
    assert (256, 128, 128) not in {s.tile for s in found}


def test_steps_that_do_not_overlap_look_ahead_and_are_unrolled_by_the_way() -> None:
    """Levers of their own, and decided anew for every tile, without a hint."""
    space = Space(SPEC, 4096, TARGET)
    alone = space.served().schedule
    assert (alone.promotion_overlap, alone.promotion_burst, alone.lookahead, alone.unroll) == (False, 8, True, 4)
    found = [candidate.schedule for candidate in space.neighbours(alone)]
    varied = [{"lookahead": False}, *({"unroll": steps} for steps in (0, 2, 8))]
    varied += [{"promotion_burst": length} for length in (0, 4, 256)]
    assert {alone.replace(**changes) for changes in varied} <= set(found)
    narrower = next(s for s in found if s.tile == (128, 112, 128))
    assert (narrower.promotion_overlap, narrower.promotion_burst, narrower.lookahead) == (True, 256, False)
    assert narrower.unroll == 0
    for hint, value in (("lookahead", False), ("unroll", 2), ("promotion_burst", 8)):
        hinted = replace(SPEC, schedule=replace(SPEC.schedule, **{hint: value}, promotion_overlap=False, swap_ab=False))
        start = alone.replace(**{hint: value})
        found = [candidate.schedule for candidate in Space(hinted, 4096, TARGET).neighbours(start)]
        assert {getattr(s, hint) for s in found} == {value}


def test_scales_ahead_are_a_lever_and_follow_the_tile() -> None:
    """Decided anew for every neighbour, with the stages that they leave room for; a hint fixes them."""
    space = Space(SPEC, 4096, TARGET)
    ahead = space.priced(space.served().schedule.replace(
        tile=(128, 128, 128), stages=5, cluster=(1, 1), split_k=1, swap_ab=False, math_warpgroups=2,
        producer_registers=40, math_registers=232, scales_ahead=True, promotion_overlap=True,
        promotion_burst=8, lookahead=False, unroll=0, deal_columns=False)).schedule  # fmt: skip
    found = [candidate.schedule for candidate in space.neighbours(ahead)]
    assert ahead.replace(scales_ahead=False) in found
    assert {s.scales_ahead for s in found if s.tile == (256, 128, 128)} == {True}
    assert {(s.deal_columns, s.scales_ahead) for s in found if s.tile == (128, 112, 128)} == {(True, True)}
    assert {(s.deal_columns, s.scales_ahead) for s in found if s.tile == (128, 96, 128)} == {(False, False)}
    assert {s.scales_ahead for s in found if s.split_k > 1 or s.swap_ab} == {False}
    for hint in (True, False):
        hinted = replace(SPEC, schedule=replace(SPEC.schedule, scales_ahead=hint))
        start = ahead.replace(scales_ahead=hint)
        found = [candidate.schedule for candidate in Space(hinted, 4096, TARGET).neighbours(start)]
        assert {s.scales_ahead for s in found} == {hint}


def test_the_search_goes_on_around_what_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    second = FAST_NEIGHBOUR.replace(stages=FAST_NEIGHBOUR.stages - 1)
    times = {FAST_NEIGHBOUR: 9.0, second: 8.0}
    [entry] = FakeDevice(us=lambda s: times.get(s, 10.0)).tune(monkeypatch).file.entries
    assert entry.best.schedule == second


def test_what_the_model_finds_slow_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    device.tune(monkeypatch)
    space = Space(SPEC, 64, TARGET)
    limit = PREDICTED_WITHIN * space.shipped()[0].predicted_us
    assert all(space.priced(s).predicted_us <= limit for s in device.timed if s != SERVED)
    tried = set(device.timed)
    assert [c for c in space.shipped() if c.schedule not in tried and c.predicted_us <= limit] == []
    assert [c for c in space.shipped() if c.schedule not in tried], "the limit excludes something"


def test_wrong_values_are_never_timed_nor_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice(us=faster(FAST_NEIGHBOUR), right=lambda s: s != FAST_NEIGHBOUR)
    [outcome] = device.tune(monkeypatch).outcomes
    assert outcome.wrong == (FAST_NEIGHBOUR,)
    assert FAST_NEIGHBOUR not in device.timed
    assert outcome.entry.best.schedule != FAST_NEIGHBOUR


def test_values_that_go_wrong_in_the_final_lose_it(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice(us=faster(FAST_NEIGHBOUR))
    device.right = lambda s: s != FAST_NEIGHBOUR or s not in device.timed
    [outcome] = device.tune(monkeypatch).outcomes
    assert outcome.wrong == (FAST_NEIGHBOUR,)
    assert outcome.entry.best.schedule != FAST_NEIGHBOUR


def test_a_wrong_kernel_of_the_plan_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TuningError, match="without tuning is wrong") as caught:
        FakeDevice(right=lambda s: s != SERVED).tune(monkeypatch)
    assert None not in details(caught.value)


def test_what_cannot_be_built_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice(us=faster(FAST_NEIGHBOUR), builds=lambda s: s.raster_group != 4)
    [outcome] = device.tune(monkeypatch).outcomes
    assert outcome.refused[FAST_NEIGHBOUR] == "does not fit"
    assert outcome.entry.best.schedule == SERVED


def test_less_than_the_noise_does_not_displace_the_heuristics(monkeypatch: pytest.MonkeyPatch) -> None:
    [entry] = FakeDevice(us=faster(FAST_NEIGHBOUR, us=9.95)).tune(monkeypatch).file.entries
    assert entry.best.schedule == SERVED


def test_a_lucky_timing_does_not_win(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    device.us = lambda s: 5.0 if s == FAST_NEIGHBOUR and device.timed.count(s) == 1 else 10.0
    [entry] = device.tune(monkeypatch).file.entries
    assert entry.best.schedule == SERVED
    assert device.timed.count(SERVED) == device.timed.count(FAST_NEIGHBOUR) == 1 + FINAL_ROUNDS


def test_the_budget_ends_the_search_and_keeps_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice(us=lambda s: 10.0 if s == SERVED else 9.0, seconds_each=1.0)
    [outcome] = device.tune(monkeypatch, budget_s=6.0).outcomes
    assert len(device.timed) <= 7, "nothing is begun after the time is up"
    assert not outcome.complete
    assert outcome.entry.best.us == 9.0


def test_problems_share_the_budget_and_the_last_may_get_none(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    result = device.tune(monkeypatch, M=(8, 64, 4096), budget_s=30.0)
    assert [outcome.entry.m for outcome in result.outcomes] == device.prepared == [8, 64, 4096]
    assert device.now <= 100.0 + 30.0 + 3
    slow = FakeDevice(seconds_each=50.0).tune(monkeypatch, M=(8, 64, 4096), budget_s=30.0)
    assert ([outcome.entry.m for outcome in slow.outcomes], slow.left_out) == ([8], (64, 4096))


@pytest.mark.parametrize("at", [1, 5])
def test_an_interrupt_keeps_what_was_found(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(timed: int) -> None:
        if timed == at:
            raise KeyboardInterrupt

    path = tmp_path / "tuned.json"
    device = FakeDevice(us=lambda s: 10.0 if s == SERVED else 9.0, before_timing=interrupt)
    result = device.tune(monkeypatch, M=(64, 128), out=path)
    assert result.interrupted
    assert result.left_out == (128,)
    assert load_tuned(path).entries == result.file.entries
    [entry] = result.file.entries
    assert entry.timed == at
    assert entry.best.us == (10.0 if at == 1 else 9.0)


def test_an_interrupt_before_anything_was_timed_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(timed: int) -> None:
        raise KeyboardInterrupt

    result = FakeDevice(before_timing=interrupt).tune(monkeypatch, out=tmp_path / "tuned.json")
    assert (result.interrupted, result.outcomes, result.left_out) == (True, (), (64,))
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_written_after_every_improvement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "tuned.json", []

    def look(timed: int) -> None:
        seen.append(load_tuned(path).entries[0].best.us if path.exists() else None)

    device = FakeDevice(us=lambda s: 10.0 if s == SERVED else 9.0, before_timing=look)
    device.tune(monkeypatch, out=path)
    assert seen[:4] == [None, 10.0, 9.0, 9.0]
    assert [p.name for p in tmp_path.iterdir()] == ["tuned.json"]


def test_a_file_is_added_to_and_its_schedules_are_tried_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tuned.json"
    FakeDevice(us=faster(FAST_NEIGHBOUR)).tune(monkeypatch, out=path)
    FakeDevice().tune(monkeypatch, M=4096, out=path)
    assert [entry.m for entry in load_tuned(path).entries] == [64, 4096]
    again = FakeDevice(us=faster(FAST_NEIGHBOUR, us=7.0))
    again.tune(monkeypatch, out=path, budget_s=3.0)
    assert again.timed[1] == FAST_NEIGHBOUR
    assert [entry.best.us for entry in load_tuned(path).entries] == [7.0, 10.0]


def test_a_gpu_that_fails_ends_the_search_and_leaves_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device, path, broken = FakeDevice(), tmp_path / "tuned.json", []

    def right(schedule: Schedule) -> bool:
        if schedule == FAST_NEIGHBOUR or broken:
            broken.append(schedule)
            raise RuntimeError("an illegal memory access was encountered")
        return True

    device.right = right
    with pytest.raises(TuningError, match="the GPU failed") as caught:
        device.tune(monkeypatch, out=path)
    assert str(FAST_NEIGHBOUR) in (caught.value.got or "")
    assert "illegal memory access" in (caught.value.got or "")
    assert len(load_tuned(path).entries) == 1


def test_a_launch_that_is_refused_is_one_candidate_less(monkeypatch: pytest.MonkeyPatch) -> None:
    def right(schedule: Schedule) -> bool:
        if schedule == FAST_NEIGHBOUR:
            raise DriverError("the launch was refused")
        return True

    [outcome] = FakeDevice(right=right).tune(monkeypatch).outcomes
    assert "the launch was refused" in outcome.refused[FAST_NEIGHBOUR]
    assert outcome.complete


def test_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Progress] = []
    FakeDevice(us=faster(FAST_NEIGHBOUR)).tune(monkeypatch, progress=told.append)
    assert (told[0].m, told[0].timed, told[0].best) == (64, 0, None)
    assert told[-1].best is not None
    assert told[-1].best.best.us == 8.0
    assert all(step.waiting > 0 for step in told)


def test_kernels_are_compiled_in_threads_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    device.tune(monkeypatch, jobs=3)
    assert len(device.compiled) == len(set(device.compiled))
    assert len(device.threads) > 1


def test_hints_are_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    monkeypatch.setattr("gemmgen.tuning.tune.compile_fixed", device.compile)
    hinted = {
        **load_spec("fp8_gemm_nt").to_dict(),
        "schedule": {"tile": [128, 64, 128], "stages": 4, "raster": {"group": 2}},
    }
    tune(hinted, TARGET, M=300, N=N, K=K, measurer=device, clock=lambda: device.now, jobs=1, budget_s=1000)
    assert {(s.tile, s.stages, s.raster_group) for s in device.timed} == {((128, 64, 128), 4, 2)}
    assert len({s.cluster for s in device.timed}) > 1


def test_without_a_gpu_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemmgen.runtime.driver.device_count", lambda: 0)
    monkeypatch.setattr("gemmgen.tuning.tune.compile_fixed", lambda *_: pytest.fail("compiled"))
    with pytest.raises(TuningError, match="nothing can be measured here") as caught:
        tune("fp8_gemm_nt", TARGET, M=64, N=N, K=K)
    assert caught.value.got == "this machine has no GPU"
    assert "a GPU that runs sm_90a" in (caught.value.need or "")


@pytest.mark.parametrize(
    "dims", [{"N": N, "K": K}, {"M": (), "N": N, "K": K}, {"M": 0, "N": N, "K": K}, {"M": 3, "N": N}]
)
def test_dimensions_without_a_size_are_refused(dims: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="no size to tune for"):
        tune("fp8_gemm_nt", TARGET, measurer=FakeDevice(), **dims)


def test_targets_that_cannot_are_refused() -> None:
    with pytest.raises(TargetError):
        tune("fp8_gemm_nt_split_k", "sm_100a", M=3, N=N, K=K, measurer=FakeDevice())


def test_a_fixed_m_needs_no_m(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    monkeypatch.setattr("gemmgen.tuning.tune.compile_fixed", device.compile)
    fixed = load_spec("fp8_gemm_nt").bind(M=64, N=N, K=K)
    result = tune(fixed, TARGET, measurer=device, clock=lambda: device.now, budget_s=5)
    assert [entry.m for entry in result.file.entries] == [64]


def test_a_problem_that_does_not_fit_is_an_error_and_what_came_before_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small(FakeDevice):
        def prepare(self, spec: Any, m: int) -> None:
            if m > 100:
                raise RuntimeError("CUDA out of memory")

    with pytest.raises(TuningError, match="inputs cannot be made") as caught:
        Small().tune(monkeypatch, M=(64, 4096), out=tmp_path / "tuned.json")
    assert details(caught.value)[:2] == ("M=4096", "CUDA out of memory")
    assert [entry.m for entry in load_tuned(tmp_path / "tuned.json").entries] == [64]
