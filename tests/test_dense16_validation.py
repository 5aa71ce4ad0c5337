"""The GPU validation of 16-bit kernels, on the CPU with kernels made of torch: right ones pass, wrong ones fail."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import validate_dense16 as validate  # noqa: E402
from benchmarks.harness import Shape, Timing  # noqa: E402

Write = Callable[[Any, Any], None]
CHECKS = 28 + 8 + 2 + 2 + 1
"""Seven schedules in four layouts, the random cases, the empty ones, the reruns, and one that is timed."""


class FakeKernel:
    """Multiplies in f32 and hands product and output to ``write``."""

    def __init__(self, layout: str, write: Write) -> None:
        self.layout, self.write = layout, write

    def __call__(self, a: Any, b: Any, out: Any) -> Any:
        left, right = a.T if self.layout[0] == "T" else a, b if self.layout[1] == "N" else b.T
        self.write(left.float() @ right.float(), out)
        return out

    def bind(self, a: Any, b: Any, out: Any) -> Callable[[], Any]:
        return lambda: self(a, b, out)

    def variant(self, **_: int) -> Any:
        return SimpleNamespace(schedule="fake")


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch) -> Callable[..., validate.Validation]:
    """Run the validation on the CPU with kernels that write by ``write``."""
    small = {"DEVICE": "cpu", "RERUNS": 2, "LARGEST": 100, "COLD_BYTES": 1, "FIXED": Shape(33, 104, 100)}
    for name, value in small.items():
        monkeypatch.setattr(validate, name, value)
    monkeypatch.setattr(validate, "time_launches", lambda fns: [fn() for fn in fns] and Timing(2.0, 1.0, 3.0, 1))

    def run(write: Write, **changes: Any) -> validate.Validation:
        monkeypatch.setattr(validate, "kernel_for", lambda case: FakeKernel(case.layout, write))
        options = {"skip": "", "budget": 60.0, "seed": 3, "cases": 8, "traceback": False, "timed": "TN:64x32x64"}
        done = validate.Validation(SimpleNamespace(**{**options, **changes}))
        done.run()
        return done

    return run


def beside(product: Any, out: Any) -> None:
    out.copy_(product)
    out.as_strided((1,), (1,), out.storage_offset() + out.stride(0) * out.shape[0]).fill_(1.0)


WRONG: dict[str, tuple[Write, str]] = {
    "an element is not written": (lambda product, out: out[1:].copy_(product[1:]), ""),
    "an element is wrong": (lambda product, out: out.copy_(product).view(-1)[:1].fill_(1e4), ""),
    "a row behind the output is written": (beside, "1 elements outside the output were overwritten"),
}


def test_right_kernels_pass(validated: Callable[..., validate.Validation]):
    done = validated(lambda product, out: out.copy_(product))
    assert [result for result in done.results if not result.ok] == []
    assert len(done.results) == CHECKS
    (speed,) = done.speeds
    assert (speed.us, speed.torch_us) == (2.0, 2.0)
    assert speed.tflops == pytest.approx(2 * 64 * 32 * 64 / 2.0 / 1e6)
    assert f"0 failed of {CHECKS}" in validate.report(done)
    assert len(validate.report(done)) < 11_000


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_kernels_fail(mistake: str, validated: Callable[..., validate.Validation]):
    write, note = WRONG[mistake]
    done = validated(write, skip="empty,reruns,timing,fixed")
    assert [result for result in done.results if result.ok or note not in result.note] == []
    assert "FAILED random: NT " in validate.report(done)


def test_reruns_count_other_bits(validated: Callable[..., validate.Validation]):
    drift = iter(range(1000))
    done = validated(lambda product, out: out.copy_(product + next(drift)), skip="empty,random,timing,fixed")
    assert [result.value for result in done.results] == [2, 2]


def test_what_the_budget_leaves_out_is_told(validated: Callable[..., validate.Validation]):
    done = validated(lambda product, out: out.copy_(product), budget=-1.0)
    assert done.results == []
    assert len(done.left_out) == CHECKS
    assert "left out, budget spent: 41, from fixed: NT" in validate.report(done)


def test_every_case_is_one_that_can_be_compiled():
    for case in (*validate.fixed_cases(), *validate.random_cases(1, 24)):
        assert validate.kernel_for(case).variant(M=case.shape.m).schedule.tile[2] == 64
