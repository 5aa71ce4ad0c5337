"""``gemmgen verify``, ``gemmgen emulate`` and emulated runs, with the real compiler and emulator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gemmgen.cli import main

PTX = """\
.version 9.0
.target sm_90a
.address_size 64
.visible .entry twice(.param .u64 data, .param .u32 count)
{
    .reg .pred %p<2>;
    .reg .b32 %r<5>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [data];
    ld.param.u32 %r1, [count];
    mov.u32 %r2, %tid.x;
    setp.ge.u32 %p1, %r2, %r1;
    @%p1 bra DONE;
    mul.wide.u32 %rd2, %r2, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.u32 %r3, [%rd3];
    add.s32 %r4, %r3, %r3;
    st.global.u32 [%rd3], %r4;
DONE:
    ret;
}
"""
LAUNCH = """\
entry: twice
grid: [1]
block: [32]
arrays:
  data: {file: in.npy, output: out.npy}
params: [data, 20]
"""


def _run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return int(caught.value.code or 0)


@pytest.fixture
def launch(tmp_path: Path) -> tuple[str, str]:
    """A PTX file, its launch file, and its input."""
    (tmp_path / "twice.ptx").write_text(PTX)
    (tmp_path / "launch.yaml").write_text(LAUNCH)
    np.save(tmp_path / "in.npy", np.arange(20, dtype=np.uint32))
    return str(tmp_path / "twice.ptx"), str(tmp_path / "launch.yaml")


def test_verify_says_what_was_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("verify", "fp8_gemm_nt", "--target", "sm_90a", "--dim", "M=8", "--dim", "N=64", "--dim", "K=144") == 0
    out = capsys.readouterr().out
    assert "all values right, nothing found" in out
    assert all(word in out for word in ("fifo", "random", "adversarial", "8x64x128"))


def test_verify_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--dim", "M=8", "--dim", "N=64", "--dim", "K=144", "--schedule", "random", "--seeds", "2", "--json")
    assert _run("verify", "fp8_gemm_nt", "--target", "sm_90a", *arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is True
    assert [check["seed"] for check in document["kernels"][0]["checks"]] == [0, 1]
    assert all(check["findings"] == [] for check in document["kernels"][0]["checks"])


def test_verify_fails_on_a_wrong_value(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("gemmgen.reference.TOLERANCE", 0.0)
    dims = ("--dim", "M=8", "--dim", "N=64", "--dim", "K=144")
    assert _run("verify", "fp8_gemm_nt", "--target", "sm_90a", *dims, "--schedule", "fifo") == 1
    assert "FAILED" in capsys.readouterr().out


def test_run_is_emulated_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("gemmgen.runtime.driver.device_count", lambda: 0)
    dims = ("--dim", "M=8", "--dim", "N=64", "--dim", "K=144")
    assert _run("run", "fp8_gemm_nt", "--target", "sm_90a", *dims) == 0
    out = capsys.readouterr().out
    assert "No GPU executed anything: this machine has no GPU. The emulator ran the kernels instead:" in out
    assert "0 findings" in out


def test_emulate_runs_foreign_ptx(launch: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("emulate", launch[0], "--launch", launch[1]) == 0
    assert "nothing found" in capsys.readouterr().out
    assert np.array_equal(np.load(tmp_path / "out.npy"), 2 * np.arange(20, dtype=np.uint32))


def test_emulate_tells_what_is_wrong(
    launch: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "launch.yaml").write_text(LAUNCH.replace("params: [data, 20]", "params: [data, 21]"))
    assert _run("emulate", launch[0], "--launch", launch[1], "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert [finding["kind"] for finding in document["findings"]] == ["out-of-bounds"]
    assert document["findings"][0]["ptx_line"] == 16


def test_bad_files_are_errors_without_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.ptx").write_text("not ptx")
    (tmp_path / "launch.yaml").write_text(LAUNCH)
    assert _run("emulate", str(tmp_path / "broken.ptx"), "--launch", str(tmp_path / "launch.yaml")) == 1
    assert "Traceback" not in capsys.readouterr().err
