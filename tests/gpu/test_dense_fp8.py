"""The dense FP8 kernel on a real GPU, at small sizes; ``benchmarks/validate_gpu.py`` runs the same checks in full."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).resolve().parents[2]
SPEC = str(ROOT / "specs" / "fp8_gemm_nt.yaml")
ROWWISE_SPEC = str(ROOT / "specs" / "fp8_gemm_nt_rowwise.yaml")
NO_PROMOTION_SPEC = str(ROOT / "specs" / "fp8_gemm_nt_no_promotion.yaml")
LIMIT = 5e-6
OUTLIER_LIMIT = 1e-2
PROMOTION_GAIN = 5.0
SHAPES = ["1x576x7168", "16x2112x7168", "64x7168x2048", "129x4096x7168", "300x1000x1040", "1024x7168x2048"]


@pytest.fixture(scope="module")
def bench():
    """The shared checks; imported here because they import torch, which takes seconds where the tests are skipped."""
    sys.path.insert(0, str(ROOT))
    from benchmarks import checks

    return checks


@pytest.fixture(scope="module")
def kernels(bench):
    return bench.Kernels(SPEC)


@pytest.fixture(scope="module")
def shape(bench):
    return bench.Shape.parse


@pytest.mark.parametrize("size", SHAPES)
def test_close_to_the_reference(bench, kernels, shape, size):
    assert bench.run_case(kernels, bench.Case(shape(size), bench.Layout()), seed=1) < LIMIT


@pytest.mark.parametrize("draw", range(12))
def test_random_legal_case(bench, kernels, draw):
    (case,) = bench.random_cases(seed=draw, pairs=1, per_pair=1, largest=1500)
    assert bench.run_case(kernels, case, seed=draw) < LIMIT, str(case)


@pytest.mark.parametrize("size", ["0x576x7168", "100x576x0"])
def test_empty_dimension(bench, kernels, shape, size):
    assert bench.run_case(kernels, bench.Case(shape(size), bench.Layout()), seed=1) == 0


@pytest.mark.parametrize("size", ["1x576x7168", "64x2112x7168", "512x7168x2048"])
def test_reruns_are_bit_equal(bench, kernels, shape, size):
    assert bench.unequal_reruns(kernels, shape(size), reruns=20, seed=2) == 0


def test_first_call_can_be_captured(bench, shape):
    assert bench.graph_first_call_error(SPEC, shape("40x640x896"), seed=3) < LIMIT


def test_two_streams_at_once(bench, kernels, shape):
    assert bench.two_streams_error(kernels, (shape("16x576x7168"), shape("48x2112x7168")), seed=4) < LIMIT


@pytest.mark.parametrize(("outliers", "limit"), [(False, LIMIT), (True, OUTLIER_LIMIT)])
def test_promotion_pays(bench, shape, outliers, limit):
    error = functools.partial(bench.outlier_error, shape=shape("128x256x16384"), seed=6, outliers=outliers)
    promoted = error(bench.Kernels(ROWWISE_SPEC))
    assert promoted < limit
    assert promoted * PROMOTION_GAIN < error(bench.Kernels(NO_PROMOTION_SPEC))
