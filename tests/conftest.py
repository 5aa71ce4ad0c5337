"""Fixtures of all tests: golden files, a private cubin cache, and skipping of GPU tests where there is no GPU."""

from __future__ import annotations

import ctypes
import difflib
import os
import re
from functools import cache
from pathlib import Path

import pytest

GOLDEN_ROOT = Path(__file__).parent / "golden"


class Golden:
    """Compares text with the file that belongs to the running test.

    The path is ``tests/golden/<module without test_>/<test><suffix>``; a parametrised test has a file per parameter.
    A missing file and a difference both fail; ``pytest --update-golden`` writes the files instead.
    """

    def __init__(self, stem: Path, update: bool) -> None:
        self.stem = stem
        self.update = update

    def path(self, suffix: str = ".txt") -> Path:
        """The golden file with this suffix (``.ir``, ``.cu``, ``.schedule.txt``, …)."""
        return self.stem.with_name(self.stem.name + suffix)

    def __call__(self, text: str, suffix: str = ".txt") -> None:
        """Fail unless ``text`` equals the golden file."""
        __tracebackhide__ = True
        path = self.path(suffix)
        text = text.rstrip("\n") + "\n"
        if self.update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            return
        if not path.exists():
            pytest.fail(f"no golden file {path}; review the text and write it with: pytest --update-golden\n{text}")
        expected = path.read_text()
        if text != expected:
            lines = difflib.unified_diff(expected.splitlines(), text.splitlines(), str(path), "now", lineterm="")
            pytest.fail("\n".join([*lines, "accept the change with: pytest --update-golden"]))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files instead of comparing with them")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and (reason := missing_gpu()):
            item.add_marker(pytest.mark.skip(reason=reason))


@cache
def missing_gpu() -> str:
    """Why GPU tests cannot run here; empty when they can. Asks the driver, since importing torch takes seconds."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no GPU: the CUDA driver (libcuda.so.1) is not installed; nothing was executed"
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or count.value == 0:
        return "no GPU: the CUDA driver sees no device; nothing was executed"
    return ""


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """See `Golden`."""
    module = request.path.relative_to(Path(__file__).parent).with_suffix("")
    folder = GOLDEN_ROOT / module.with_name(module.name.removeprefix("test_"))
    name = re.sub(r"[^\w.=+-]+", "_", request.node.name).strip("_").removeprefix("test_")
    return Golden(folder / name, bool(request.config.getoption("--update-golden")))


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep tests out of the user's cubin cache; the workers of one run share theirs."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    os.environ["GEMMGEN_CACHE_DIR"] = str(shared / "gemmgen-cache")


@pytest.fixture(autouse=True)
def _output_as_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest-xdist sets a width that its workers' output does not have."""
    monkeypatch.delenv("COLUMNS", raising=False)
