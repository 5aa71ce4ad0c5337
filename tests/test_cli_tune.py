"""``gemmgen tune``, and ``--tuned`` of the commands that use what it writes; a device made of Python measures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from test_tuning_file import entry, tuned_file
from tuning_fakes import FakeDevice

from gemmgen import compiler
from gemmgen.cli import main
from gemmgen.cli.options import parse_dims_with_several_m, parse_seconds
from gemmgen.errors import ArgumentError, SpecError
from gemmgen.schedule import Schedule
from gemmgen.spec import load_spec
from gemmgen.tuning.file import load_tuned

DIMS = ("--dim", "N=128", "--dim", "K=256")
TARGET = ("--target", "sm_90a")
SPEC = load_spec("fp8_gemm_nt").bind(N=128, K=256)
WANTED = Schedule((128, 64, 128), 3, producer_registers=40, math_registers=232, raster_group=2)


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run a command in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gemmgen.runtime.driver.device_count", lambda: 0)

    def run(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        return Result(int(caught.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """A GPU on which the plan's own kernel for M = 64 is not the fastest, nor the same tiles in another order."""
    served = next(row for row in reversed(compiler.plan(SPEC, "sm_90a")) if row.m_min <= 64).schedule
    found = FakeDevice(us=lambda s: 8.0 if s.replace(raster_along="m") == served.replace(raster_group=4) else 10.0)
    monkeypatch.setattr("gemmgen.tuning.tune.GpuMeasurer", lambda: found)
    monkeypatch.setattr("gemmgen.tuning.tune.why_not_executed", lambda _: "")
    monkeypatch.setattr("gemmgen.tuning.tune.compile_fixed", found.compile)
    return found


@pytest.fixture
def tuned(tmp_path: Path) -> str:
    """A file with one entry, for M = 40."""
    path = tmp_path / "tuned.json"
    tuned_file(entry(40, schedule=WANTED, n=128, k=256)).save(path)
    return str(path)


def test_without_a_gpu_it_says_what_it_needs(cli: Any, tmp_path: Path) -> None:
    result = cli("tune", "fp8_gemm_nt", *TARGET, *DIMS, "--dim", "M=64")
    assert (result.code, result.out) == (1, "")
    assert "tuning measures, and nothing can be measured here" in result.err
    assert "got: this machine has no GPU" in result.err
    assert "need: a GPU that runs sm_90a, and torch with CUDA" in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("device")
def test_it_writes_a_file_that_the_other_commands_use(cli: Any) -> None:
    result = cli("tune", "fp8_gemm_nt", *TARGET, *DIMS, "--dim", "M=64,300", "-o", "found.json")
    assert result.code == 0
    assert "Fake H200" in result.out
    assert "20.0%" in result.out
    assert "raster=4m" in result.out
    assert "--tuned found.json" in result.out
    file = load_tuned("found.json")
    assert [(e.m, e.n, e.k, e.best.us) for e in file.entries] == [(64, 128, 256, 8.0), (300, 128, 256, 8.0)]
    explained = cli("explain", "fp8_gemm_nt", *DIMS, "--dim", "M=60", "--tuned", "found.json", "--json")
    assert json.loads(explained.out)["schedule"]["raster_group"] == 4


@pytest.mark.usefixtures("device")
def test_json_and_the_default_file(cli: Any) -> None:
    result = cli("tune", "fp8_gemm_nt", *TARGET, *DIMS, "--dim", "M=64", "--json")
    plain = json.loads(result.out)
    assert plain["file"] == "build/fp8_gemm_nt_sm_90a_tuned.json"
    assert (plain["device"], plain["target"], plain["interrupted"], plain["left_out_m"]) == (
        "Fake H200",
        "sm_90a",
        False,
        [],
    )
    [problem] = plain["problems"]
    assert (problem["m"], problem["us"], problem["complete"]) == (64, 8.0, True)
    assert load_tuned(plain["file"]).entries[0].to_dict()["schedule"] == problem["schedule"]


def test_an_interrupt_keeps_what_was_found(cli: Any, device: FakeDevice) -> None:
    def interrupt(timed: int) -> None:
        if timed == 3:
            raise KeyboardInterrupt

    device.before_timing = interrupt
    result = cli("tune", "fp8_gemm_nt", *TARGET, *DIMS, "--dim", "M=64,300", "-o", "found.json")
    assert result.code == 130
    assert "Interrupted; what was found until then is kept." in result.out
    assert "No time was left for M = 300." in result.out
    assert [e.m for e in load_tuned("found.json").entries] == [64]


def test_wrong_values_are_shouted(cli: Any, device: FakeDevice) -> None:
    device.right = lambda s: s.raster_group != 4
    result = cli("tune", "fp8_gemm_nt", *TARGET, *DIMS, "--dim", "M=64", "-o", "found.json")
    assert result.code == 0
    assert "WRONG VALUES at M=64" in result.out


def test_compile_uses_the_file_and_its_target(cli: Any, tuned: str) -> None:
    result = cli("compile", "fp8_gemm_nt", *DIMS, "--dim", "M=40", "--tuned", tuned, "-o", "out", "--json")
    assert result.code == 0
    [kernel] = json.loads(result.out)["kernels"]
    assert Schedule.from_dict(kernel["schedule"]) == WANTED
    assert kernel["target"] == "sm_90a"
    assert (kernel["m_min"], kernel["m_max"]) == (33, 48)


def test_run_emulates_the_tuned_kernel(cli: Any, tuned: str) -> None:
    result = cli("run", "fp8_gemm_nt", *DIMS, "--dim", "M=40", "--tuned", tuned, "--json")
    assert result.code == 0
    plain = json.loads(result.out)
    assert Schedule.from_dict(plain["kernels"][0]["schedule"]) == WANTED
    [emulated] = plain["emulated"]
    assert (emulated["target"], emulated["ok"]) == ("sm_90a", True)


def test_run_measures_the_tuned_kernel(tuned: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from gemmgen.cli.build import request
    from gemmgen.cli.measurement import measure

    asked = request("fp8_gemm_nt", {"M": 40, "N": 128, "K": 256}, Path(tuned))
    seen: list[Any] = []

    def compile_(spec: Any, target: str, tuned: Any) -> Any:
        seen.append(tuned)
        raise InterruptedError

    monkeypatch.setattr("gemmgen.compile", compile_)
    with pytest.raises(InterruptedError):
        measure(asked, "sm_90a", 0, "cpu")
    assert [file.entries[0].best.schedule for file in seen] == [WANTED]


@pytest.mark.parametrize("command", ["compile", "run", "explain"])
def test_files_that_do_not_fit_are_refused(command: str, cli: Any, tuned: str) -> None:
    for arguments, message in (
        (("fp8_gemm_nt_rowwise", "--tuned", tuned), "for another spec"),
        (("fp8_gemm_nt", "--target", "sm_100a", "--tuned", tuned), "for another target"),
        (("fp8_gemm_nt", "--tuned", "nowhere.json"), "cannot be read"),
    ):
        result = cli(command, *arguments, *DIMS, "--dim", "M=40")
        assert (result.code, result.out) == (1, "")
        assert message in result.err
        for label in ("got", "need", "fix"):
            assert f"\n  {label}: " in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dim", "M=3", "--dim", "N=8"), "dimension K has no size to tune for"),
        (DIMS, "dimension M has no size to tune for"),
        ((*DIMS, "--dim", "M=4,0"), "dimension M has no size to tune for"),
        ((*DIMS, "--dim", "M=4,"), "a dimension is not readable"),
        ((*DIMS, "--dim", "M=4,5", "--dim", "M=6"), "given twice"),
        ((*DIMS, "--dim", "M=4", "--dim", "out=6"), "no dimension out"),
        ((*DIMS, "--dim", "M=4", "--budget", "soon"), "a time is not readable"),
    ],
)
def test_wrong_calls(arguments: tuple[str, ...], message: str, cli: Any, device: FakeDevice) -> None:
    result = cli("tune", "fp8_gemm_nt", *TARGET, *arguments)
    assert (result.code, result.out, device.prepared) == (1, "", [])
    assert message in result.err


def test_sizes_and_times_are_read() -> None:
    assert parse_dims_with_several_m(["M=1, 64,4096", "N=7"]) == {"M": (1, 64, 4096), "N": 7}
    assert parse_dims_with_several_m(["N=7", "M=3"]) == {"M": 3, "N": 7}
    with pytest.raises(SpecError):
        parse_dims_with_several_m(["N=7,8"])
    assert [parse_seconds(text) for text in ("90", "90s", "1.5m", "2 h")] == [90, 90, 90, 7200]
    for text in ("0", "-3s", "3d", ""):
        with pytest.raises(ArgumentError):
            parse_seconds(text)
