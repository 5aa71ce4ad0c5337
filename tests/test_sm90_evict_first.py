"""Hopper kernels that let B's lines leave L2 first: the same values, one policy per loading role, and illegal uses."""

from __future__ import annotations

import pytest
import sm90_cases
from ir_texts import edited, rejected
from sm100_cases import Case, case
from target_texts import CLUSTER, DEALT, line

from gemmgen.backends.capability import capability
from gemmgen.backends.sm90 import heuristics
from gemmgen.errors import ScheduleError
from gemmgen.spec.model import ScheduleHints

CASES: dict[str, Case] = {
    "swapped": case(20, 136, 272, tile=(32, 64, 128), stages=2, swap_ab=True),
    "split": case(40, 72, 1168, tile=(64, 64, 128), stages=3, split_k=3),
    "dealt": case(150, 424, 272, tile=(128, 112, 128), stages=2),
}
POLICY = "%policy = sm90.evict_first() : i64\n"


@pytest.mark.parametrize("name", CASES)
def test_values_with_and_without(name: str):
    """L2 keeps other lines, and D is the same."""
    found = [sm90_cases.kernel(CASES[name], evict_first=first) for first in (True, False)]
    assert "tma_load_policy" in found[0].artifact.source
    assert "policy" not in found[1].artifact.source
    sm90_cases.check_same_bits(found, ("fifo",))


def test_only_b_is_loaded_with_the_policy():
    source = sm90_cases.kernel(CASES["dealt"], evict_first=True).artifact.source
    body = source[source.index("__global__") :]
    assert body.count("evict_first_policy()") == 1
    assert body.count("tma_load_policy(") == 3
    assert all("&tma_b" in part for part in body.split("tma_load_policy(")[1:])


def test_a_policy_is_one():
    load = line(DEALT, "sm90.tma_load(map=%tma_b_run1")
    rejected(edited(DEALT, (load, load.replace("policy=%policy", "policy=%sb_stride_row"))), "sm90.tma_load",
             "a cache policy is for one box that this CTA loads for itself", "got: %sb_stride_row",
             "need: the result of sm90.evict_first")  # fmt: skip


def test_a_box_for_a_cluster_has_no_policy():
    load = next(row for row in CLUSTER.splitlines(keepends=True) if "sm90.tma_load(" in row and "multicast=" in row)
    changed = CLUSTER.replace(load, POLICY + load.replace(") {area", ", policy=%policy) {area"))
    rejected(changed, "sm90.tma_load", "a cache policy is for one box that this CTA loads for itself", "multicast=1")


@pytest.mark.parametrize(
    ("m", "n", "k", "first"),
    [
        (1, 7168, 16384, True),
        (64, 4096, 7168, True),
        (128, 4096, 7168, False),  # more rows than 64
        (64, 32768, 512, False),  # several rounds
        (1, 576, 7168, False),  # little to read
        (4096, 7168, 2048, False),
    ],
)
def test_where_lines_leave_first(m: int, n: int, k: int, first: bool):
    _, chosen = heuristics.ranked(ScheduleHints(), m, n, k, capability("sm_90a"))[0]
    assert chosen.evict_first == first
    hinted = ScheduleHints(evict_first=not first, cluster=(1, 1))
    assert heuristics.ranked(hinted, m, n, k, capability("sm_90a"))[0][1].evict_first != first


def test_clusters_that_share_boxes_refuse():
    shared = case(300, 264, 272, tile=(128, 64, 128), stages=2, cluster=(1, 2))
    with pytest.raises(ScheduleError, match="B's lines cannot leave L2 first") as error:
        sm90_cases.kernel(shared, evict_first=True)
    assert "got: cluster [1, 2]" in str(error.value)
    assert "leave evict_first auto" in str(error.value)
