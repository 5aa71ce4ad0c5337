"""The measurer that ``gemmgen.tune`` uses on a GPU, with torch on the CPU and a kernel made of Python."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gemmgen.errors import TuningError  # noqa: E402
from gemmgen.gpu_problem import random_sets  # noqa: E402
from gemmgen.spec import load_spec  # noqa: E402
from gemmgen.tuning.tune import REST_S, GpuMeasurer, require_end  # noqa: E402

SPEC = load_spec("fp8_gemm_nt").bind(N=72, K=200)
M = 20


class StandInKernel:
    """Multiplies with torch, is wrong by ``factor``, and leaves rows from ``rows`` on unwritten."""

    spec, target = SPEC, "sm_90a"

    def __init__(self, factor: float = 1.0, rows: int = M) -> None:
        self.factor, self.rows = factor, rows
        self.outs: list[Any] = []

    def __call__(self, a: Any, b: Any, out: Any) -> None:
        out[: self.rows] = (a.dequantize() @ b.dequantize().T * self.factor)[: self.rows].bfloat16()

    def bind(self, a: Any, b: Any, out: Any) -> Any:
        self.outs.append(out)
        return lambda: self(a, b, out)


@pytest.fixture
def measurer(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("gemmgen.runtime.driver.device_properties", lambda _: SimpleNamespace(name="a GPU"))
    monkeypatch.setattr("gemmgen.gpu_problem.MAX_SETS", 3)
    found = GpuMeasurer("cpu")
    found.prepare(SPEC, M)
    return found


def test_only_right_and_whole_results_pass(measurer: Any) -> None:
    assert measurer.device == "a GPU"
    assert measurer.check(StandInKernel())
    for wrong in (StandInKernel(1.01), StandInKernel(float("nan")), StandInKernel(rows=M - 1)):
        assert not measurer.check(wrong), "and what an earlier kernel wrote does not help"


def test_a_kernel_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemmgen.tuning.tune.HANG_S", 0.01)
    kernel: Any = SimpleNamespace(plan=lambda: [SimpleNamespace(schedule="64x64x128 stages=9")])
    answers = iter([False, False, True])
    require_end(kernel, lambda: next(answers))
    with pytest.raises(TuningError, match="does not end") as caught:
        require_end(kernel, lambda: False)
    assert (caught.value.where, caught.value.got) == ("64x64x128 stages=9", "no end after 0.01 s")


def test_all_input_sets_take_turns_on_a_rested_chip(measurer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, float]] = []

    def time_launches(launches: Any, rest_s: float) -> float:
        calls.append((len(launches), rest_s))
        return 7.0

    monkeypatch.setattr("gemmgen.tuning.tune.time_launches_us", time_launches)
    kernel = StandInKernel()
    assert measurer.time_us(kernel) == 7.0
    assert calls == [(3, REST_S)]
    assert len({out.data_ptr() for out in kernel.outs}) == 3


def test_sets_differ_and_rows_lie_as_the_copy_engine_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemmgen.gpu_problem.MAX_SETS", 2)
    for name, n, k in (("fp8_gemm_nt", 72, 200), ("bf16_gemm_tn", 101, 203)):
        (a, b, out), (other, *_) = random_sets(load_spec(name).bind(N=n, K=k), M, n, k, 0, "cpu")
        assert out.shape == (M, n)
        datas = [getattr(x, "data", x) for x in (a, b, out)]
        assert [x.stride(0) * x.element_size() % 16 for x in datas] == [0, 0, 0]
        assert not torch.equal(getattr(a, "data", a).float(), getattr(other, "data", other).float())
