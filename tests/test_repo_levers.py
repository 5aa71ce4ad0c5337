"""How benchmarks switch a lever off: the rest is chosen again, and a lever that is not used says nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.levers import LEVERS, Row, switched_off, table
from gemmgen.spec import load_spec


@pytest.mark.parametrize("name", LEVERS)
def test_some_recorded_shape_uses_it_and_can_do_without(name: str):
    shapes = [(1, 576, 7168), (64, 4096, 7168), (128, 576, 7168), (1024, 2112, 7168), (4096, 7168, 16384)]
    shapes += [(4096, 24576, 1536)]
    found = [
        pair for m, n, k in shapes
        if (pair := switched_off(load_spec("fp8_gemm_nt").bind(N=n, K=k), m, LEVERS[name])) is not None
    ]  # fmt: skip
    assert found, name
    for chosen, without in found:
        assert LEVERS[name].used(chosen)
        assert not LEVERS[name].used(without)


def test_a_lever_that_is_not_used_says_nothing():
    spec = load_spec("fp8_gemm_nt").bind(N=7168, K=2048)
    assert switched_off(spec, 4096, LEVERS["split-K"]) is None
    assert switched_off(spec, 4096, LEVERS["swap A and B"]) is None


def test_table_takes_geometric_means():
    rows = [Row("a", "split-K", "", "", 1.0, 2.0, 0.0), Row("b", "split-K", "", "", 2.0, 1.0, 0.0)]
    assert table(rows).splitlines()[1].split() == ["split-K", "2", "1.000", "0.500", "2.000"]
