"""A device made of Python that tuning can measure on: times and mistakes by schedule, and a clock that it moves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from gemmgen.errors import GemmgenError, ScheduleError
from gemmgen.schedule import Schedule
from gemmgen.tuning.tune import TuningResult, tune

N, K = 576, 7168
TARGET = "sm_90a"


@dataclass
class FakeDevice:
    """Stands in for ``GpuMeasurer``, the clock and NVRTC."""

    us: Callable[[Schedule], float] = lambda _: 10.0
    right: Callable[[Schedule], bool] = lambda _: True
    builds: Callable[[Schedule], bool] = lambda _: True
    before_timing: Callable[[int], None] = lambda _: None
    device: str = "Fake H200"
    seconds_each: float = 1.0
    now: float = 100.0
    prepared: list[int] = field(default_factory=list)
    checked: list[Schedule] = field(default_factory=list)
    timed: list[Schedule] = field(default_factory=list)
    compiled: list[Schedule] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def prepare(self, spec: Any, m: int) -> None:
        self.prepared.append(m)

    def check(self, kernel: Any) -> bool:
        self.checked.append(kernel.schedule)
        return self.right(kernel.schedule)

    def time_us(self, kernel: Any) -> float:
        assert self.checked[-1] == kernel.schedule, "checked before it is timed"
        self.before_timing(len(self.timed))
        self.now += self.seconds_each
        self.timed.append(kernel.schedule)
        return self.us(kernel.schedule)

    def compile(self, spec: Any, target: str, schedule: Schedule) -> Any:
        self.threads.add(threading.get_ident())
        if not self.builds(schedule):
            raise ScheduleError("does not fit")
        self.compiled.append(schedule)
        return SimpleNamespace(schedule=schedule)

    def tune(
        self, monkeypatch: pytest.MonkeyPatch, M: Any = 64, budget_s: float = 1000.0, **options: Any
    ) -> TuningResult:
        monkeypatch.setattr("gemmgen.tuning.tune.compile_fixed", self.compile)
        sizes = {"M": M, "N": N, "K": K}
        options = {"jobs": 2, **options}
        return tune("fp8_gemm_nt", TARGET, budget_s=budget_s, measurer=self, clock=lambda: self.now, **options, **sizes)


def details(error: GemmgenError) -> tuple[str | None, ...]:
    return error.where, error.got, error.need, error.fix
