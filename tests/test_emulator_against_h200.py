"""The emulator computes what an H200 computed, bit for bit: recorded outputs of shipped kernels."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import emulator_vs_gpu  # noqa: E402
from gemmgen.kernel import Kernel  # noqa: E402
from gemmgen.verification import emulate_call  # noqa: E402

RECORDED = ROOT / "benchmarks" / "results" / "2026-11-20_h200_outputs.npz"
PAIRS = {pair.name: pair for pair in emulator_vs_gpu.pairs()}
IN_CI = (
    "auto M=1", "auto M=40", "odd rows of D", "K tail of 16", "outliers", "256x128, pairs along n", "split by 3",
    "row scales", "no promotion",
)  # fmt: skip
"""Every kind of kernel and edge; `python -m benchmarks.emulator_vs_gpu compare` takes all 25."""


def test_at_least_twenty_pairs_are_recorded() -> None:
    with np.load(RECORDED) as recorded:
        assert set(recorded.files) == set(PAIRS)
    assert len(PAIRS) >= 20


@pytest.mark.parametrize("name", IN_CI)
def test_outputs_are_equal_bit_for_bit(name: str) -> None:
    pair = PAIRS[name]
    spec = pair.load()
    (a, sa), (b, sb) = pair.operands(spec)
    out, report = emulate_call(
        Kernel(spec, emulator_vs_gpu.TARGET), a, sa, b, sb, schedule="random", num_sms=emulator_vs_gpu.EMULATED_SMS
    )
    assert report.ok, str(report)
    with np.load(RECORDED) as recorded:
        assert np.array_equal(np.ascontiguousarray(out).view(np.int16), recorded[name])
