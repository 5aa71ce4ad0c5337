"""``gemmgen explain``, with the real compiler; what a GPU would measure is a stand-in's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gemmgen.cli import main
from gemmgen.cli.measurement import Measurement
from gemmgen.explain import explain

TARGET = "sm_90a"
SHAPE = ("explain", "fp8_gemm_nt", "--target", TARGET, "--dim", "M=70", "--dim", "N=576", "--dim", "K=7168")
MEASURED = Measurement("NVIDIA H200", 1e-6, 5e-6, 9.0, 100.0, 500.0)


@pytest.fixture(autouse=True)
def without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemmgen.runtime.driver.device_count", lambda: 0)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A GPU that measures ``MEASURED``; returns what was measured."""
    calls: list[tuple[Any, ...]] = []

    def measure(asked: Any, target: str, seed: int) -> Measurement:
        calls.append((asked.spec.name, asked.dims, target, seed))
        return MEASURED

    monkeypatch.setattr("gemmgen.cli.explain_command.why_not_executed", lambda _: "")
    monkeypatch.setattr("gemmgen.cli.explain_command.measure", measure)
    return calls


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return int(caught.value.code or 0)


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SHAPE) == 0
    out, err = capsys.readouterr()
    found = explain("fp8_gemm_nt", TARGET, M=70, N=576, K=7168)
    assert err == ""
    assert out.startswith("fp8_gemm_nt M=70 N=576 K=7168 on sm_90a\n")
    for reason in found.reasons:
        assert reason in out
    for candidate in found.model.candidates:
        assert f"│ {candidate.schedule} " in out
    for resource in found.model.resources:
        assert f"│ {resource.name} " in out
    for text in ("µs at M = 96", "µs at M = 70", "predicted", "floor", "waves", "bytes in flight", "registers of math"):
        assert text in out
    assert "All of this is predicted, not measured: times by a model fitted to sweeps on one H200" in out
    assert "Not measured: this machine has no GPU." in out


def test_the_time_at_the_deciding_m_is_not_printed_twice(capsys: pytest.CaptureFixture[str]) -> None:
    run(*(word.replace("M=70", "M=96") for word in SHAPE))
    assert capsys.readouterr().out.count("µs at M = 96") == 1


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SHAPE, "--json") == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain.pop("measurement") is None
    assert plain.pop("not_measured_because") == "this machine has no GPU"
    assert plain == json.loads(json.dumps(explain("fp8_gemm_nt", TARGET, M=70, N=576, K=7168).to_dict()))


def test_on_a_gpu_the_time_is_measured_too(gpu: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SHAPE) == 0
    out = capsys.readouterr().out
    predicted = explain("fp8_gemm_nt", TARGET, M=70, N=576, K=7168).model.prediction.total_us
    assert f"Measured on NVIDIA H200: 9.00 µs, {9.0 / predicted:.2f} times the prediction" in out
    assert "Not measured" not in out
    assert gpu == [("fp8_gemm_nt", {"M": 70, "N": 576, "K": 7168}, TARGET, 0)]
    assert run(*SHAPE, "--json") == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["measurement"] == MEASURED.to_dict()
    assert plain["not_measured_because"] is None


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("error", [1.0, float("nan")])
def test_a_wrong_result_is_no_measurement(
    error: float, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Measurement("NVIDIA H200", error, 5e-6, 9.0, 100.0, 500.0)
    monkeypatch.setattr("gemmgen.cli.explain_command.measure", lambda *_, **__: wrong)
    assert run(*SHAPE) == 1
    out = capsys.readouterr().out
    assert "MEASURED: the result is wrong" in out
    assert "times the prediction" not in out


def test_scales_of_any_order_are_explained_but_not_measured(
    gpu: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*SHAPE, "--scales", "any", "--json") == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["schedule"]["scale_copy"] == "lanes"
    assert plain["measurement"] is None
    assert "order mn" in plain["not_measured_because"]
    assert gpu == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*SHAPE, "--scales", "k"), "row scales lie in no such order"),
        (SHAPE[:4], "dimension M has no size"),
        ((*SHAPE[:4], "--dim", "M=0", "--dim", "N=576", "--dim", "K=7168"), "an empty problem needs no kernel"),
        ((*SHAPE[:2], "--target", "sm_90", *SHAPE[4:]), "unknown target"),
    ],
)
def test_failures(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    for label in ("got", "need", "fix"):
        assert f"\n  {label}: " in err
