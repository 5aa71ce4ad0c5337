"""Golden text of every level: what each kernel looks like as tile, async and target IR, and as CUDA."""

from __future__ import annotations

import pytest
from conftest import Golden
from ir_texts import CASES, built

LEVELS = {"tile": ".ir", "async": ".ir", "target": ".ir", "cuda": ".cu"}
GOLDEN_CASES = ("plain", "cluster", "split_k_swapped", "ragged", "direct_store", "rowwise")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_text(case: str, level: str, golden: Golden):
    artifact = built(case)
    golden(artifact.source if level == "cuda" else artifact.ir[level], LEVELS[level])


def test_cases_cover_what_differs():
    """Each way a kernel can differ stands in some golden file."""
    sources = {case: built(case).source for case in CASES}
    assert len(set(sources.values())) == len(CASES)
    for mark, case in {
        "tma_load_multicast(": "cluster",
        "sm90.look_ahead": "cluster",
        "#pragma unroll 4\n": "cluster",
        "load_shared_cluster_4(": "split_k_swapped",
        "// ---- meet: warps 4 to 5": "split_k_swapped",
        "block_scale[1]": "ragged",
        "sm90.store_direct": "direct_store",
        "sm90.add_part": "rowwise",
        "grid_dependency_wait();": "rowwise",
    }.items():
        assert [name for name in GOLDEN_CASES if mark in sources[name]] == [case], mark
