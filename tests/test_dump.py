"""One switch writes everything on the way from a spec to a kernel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemmgen import dump
from gemmgen.kernel import Kernel
from gemmgen.runtime.cache import Cache
from gemmgen.spec import load_spec


@pytest.fixture
def kernel() -> Kernel:
    return Kernel(load_spec("fp8_gemm_nt").bind(N=64, K=256), "sm_90a", cache=Cache(None))


def test_everything_is_written(kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(dump.VARIABLE, str(tmp_path))
    variant = kernel.plan().variant_for(8)
    binary = variant.binary()
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("fp8_gemm_nt-sm_90a-8x64x128")
    names = sorted(path.name for path in folder.glob("*.ir"))
    assert names[0] == "00_input.ir"
    assert names[-1].endswith("_lower-sm90.ir")
    assert (folder / "fp8_gemm_nt.cu").read_text() == binary.source
    assert (folder / "fp8_gemm_nt.ptx").read_text() == binary.ptx
    assert (folder / "fp8_gemm_nt.cubin").read_bytes() == binary.cubin
    timings = json.loads((folder / "timings.json").read_text())
    assert set(timings) == {*variant.artifact.pass_ms, "nvrtc or cache"}
    assert all(milliseconds >= 0 for milliseconds in timings.values())


def test_nothing_is_written_without_the_switch(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(dump.VARIABLE, raising=False)
    assert dump.folder_of("name", "sm_90a", "schedule") is None
    kernel.plan().variant_for(8).binary()


def test_sass_is_written_where_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemmgen.dump.disassemble", lambda cubin, name: f"SASS of {name}")
    dump.write_kernel(tmp_path, "k", "source", "ptx", b"cubin", {"pass": 1.5})
    assert (tmp_path / "k.sass").read_text() == "SASS of k"
