"""Launch files: what they describe is launched, what is wrong is named, and nothing else is written."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gemmgen.emulator import launch_file
from gemmgen.emulator.launch_description import read_launch
from gemmgen.errors import EmulationError

_PTX = """.version 9.0
.target sm_90a
.address_size 64
.visible .entry scale(.param .u64 x, .param .u64 y, .param .f32 factor, .param .u32 n) {
  .reg .pred p; .reg .b32 t, c, n1; .reg .f32 f, g; .reg .b64 a, b, o;
  mov.u32 t, %tid.x; mov.u32 c, %ctaid.x; mad.lo.u32 t, c, 32, t;
  ld.param.u32 n1, [n]; setp.ge.u32 p, t, n1; @p bra DONE;
  ld.param.u64 a, [x]; ld.param.u64 b, [y]; ld.param.f32 f, [factor];
  mul.wide.u32 o, t, 4; add.u64 a, a, o; add.u64 b, b, o;
  ld.global.f32 g, [a]; mul.f32 g, g, f; st.global.f32 [b], g;
DONE: ret;
}
"""


def _launch(**changes: object) -> dict:
    document: dict = {
        "entry": "scale",
        "grid": [2],
        "block": 32,
        "arrays": {
            "x": {"file": "x.npy"},
            "y": {"uninitialized": True, "dtype": "float32", "shape": [50], "output": "y.npy"},
        },
        "params": ["x", {"array": "y"}, 2.5, 50],
    }
    document.update(changes)
    return {key: value for key, value in document.items() if value is not None}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.arange(50, dtype=np.float32))
    np.savez(tmp_path / "x.npz", first=np.arange(50, dtype=np.float32))
    (tmp_path / "kernel.ptx").write_text(_PTX)
    return tmp_path


def _run(folder: Path, document: object) -> object:
    (folder / "launch.yaml").write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return launch_file(folder / "kernel.ptx", folder / "launch.yaml")


def test_arrays_from_files_to_files(folder: Path) -> None:
    report = _run(folder, _launch())
    assert report.ok, str(report)
    assert (np.load(folder / "y.npy") == np.arange(50) * 2.5).all()
    assert (np.load(folder / "x.npy") == np.arange(50)).all()


def test_npz_and_zeros(folder: Path) -> None:
    arrays = {
        "x": {"file": "x.npz", "key": "first"},
        "y": {"zeros": True, "dtype": "float32", "shape": [50], "output": "y.npy"},
    }
    assert _run(folder, _launch(arrays=arrays)).ok
    assert np.load(folder / "y.npy")[49] == 122.5


def test_unwritten_outputs_are_found(folder: Path) -> None:
    arrays = {
        "x": {"uninitialized": True, "dtype": "float32", "shape": [50]},
        "y": {"nan": True, "dtype": "float32", "shape": [50]},
    }
    report = _run(folder, _launch(arrays=arrays))
    assert [str(kind) for kind in report.kinds()] == ["uninitialized-memory"]


def test_a_tensor_map(folder: Path) -> None:
    value = {"tensor_map": "x", "dims": [10, 5], "strides": [48], "box": [4, 1], "element": "f32", "swizzle": "none"}
    (folder / "launch.yaml").write_text(yaml.safe_dump(_launch(params=[value, "y", 1, 2])))
    launch = read_launch(folder / "launch.yaml")
    tensor = launch.arguments["params"][0]
    assert (tensor.dims, tensor.box, tensor.strides) == ((10, 5), (4, 1), (48,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gird": [1]}, "unknown key"),
        ({"grid": None}, "required key"),
        ({"grid": [0]}, "positive extents"),
        ({"grid": "two"}, "not a non-negative integer"),
        ({"block": 2048}, "too many threads"),
        ({"cluster": 3}, "whole number of clusters"),
        ({"entry": "other"}, "no such kernel"),
        ({"smem_bytes": 300000}, "more shared memory"),
        ({"schedule": "slow"}, "unknown schedule"),
        ({"numerics": "fp64"}, "unknown numerics"),
        ({"params": ["x"]}, "wrong number of parameters"),
        ({"params": ["z", "y", 1.0, 50]}, "unknown array"),
        ({"params": ["x", "y", 1.0, 2**40]}, "does not fit"),
        ({"params": [7.5, "y", 1.0, 50]}, "does not fit"),
        ({"params": ["x", "y", "y", 50]}, "another size"),
        ({"params": 5}, "not a list"),
        ({"arrays": {"x": {"file": "absent.npy"}, "y": {"file": "x.npy"}}}, "cannot read the array"),
        ({"arrays": {"x": {"file": "x.npz", "key": "second"}}}, "no such key"),
        ({"arrays": {"x": {"zeros": True, "dtype": "float33", "shape": [1]}}}, "unknown dtype"),
        ({"arrays": {"x": {"zeros": True, "dtype": "object", "shape": [1]}}}, "unknown dtype"),
        ({"arrays": {"x": {"zeros": True, "file": "x.npy"}}}, "exactly one source"),
        ({"arrays": {"x": {"zeros": True, "dtype": "float32", "shape": [2**20, 2**20]}}}, "too large"),
        ({"arrays": {"x": {"zeros": True, "dtype": "float32", "shape": [-1]}}}, "non-negative"),
    ],
)
def test_mistakes_are_named(folder: Path, changes: dict, message: str) -> None:
    with pytest.raises(EmulationError, match=message):
        _run(folder, _launch(**changes))
    assert not (folder / "y.npy").exists()


@pytest.mark.parametrize(
    "output", ["../y.npy", "/tmp/emulator-escape.npy", "y.txt", "launch.yaml", "none/y.npy", "link/y.npy"]
)
def test_outputs_stay_in_the_directory(folder: Path, output: str) -> None:
    (folder / "link").symlink_to("/tmp")
    arrays = _launch()["arrays"]
    arrays["y"]["output"] = output
    with pytest.raises(EmulationError, match="output"):
        _run(folder, _launch(arrays=arrays))


def test_unreadable_files(folder: Path) -> None:
    with pytest.raises(EmulationError, match="not YAML"):
        _run(folder, "grid: [1")
    with pytest.raises(EmulationError, match="not a mapping"):
        _run(folder, "- 1")
    with pytest.raises(EmulationError, match="cannot read the file"):
        launch_file(folder / "absent.ptx", folder / "launch.yaml")


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
        lambda v: (
            st.lists(v, max_size=3)
            | st.dictionaries(
                st.sampled_from(["grid", "block", "params", "arrays", "x", "file", "tensor_map"]), v, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_any_document_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, document: object) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "launch.yaml"
    path.write_text(yaml.safe_dump(document))
    with contextlib.suppress(EmulationError):
        read_launch(path)
