from __future__ import annotations

import pytest
from ir_texts import ASYNC, PROMOTED, WORDS_PROMOTED, body_of, edited, opt, refused


@pytest.mark.parametrize(
    ("cluster", "shared"), [("[2, 1]", "%b, row=%n0"), ("[1, 2]", "%a, row=%m0"), ("[4, 1]", "%b, row=%n0")]
)
def test_the_common_operand_is_shared(cluster: str, shared: str):
    size = int(cluster[1]) * int(cluster[4])
    name = shared[1]
    assert opt(ASYNC, f"cluster-multicast{{cluster={cluster}}}") == edited(
        ASYNC,
        ("stage_bytes=16}]}", f"stage_bytes=16}}], cluster={size}}}"),
        ("tile=[128, 64]}", f"tile=[128, 64], cluster={cluster}}}"),
        (
            f'source={shared}, col=%k0) {{buffer="{name}"}}',
            f'source={shared}, col=%k0) {{buffer="{name}", multicast={size}}}',
        ),
    )


def test_a_ring_that_nobody_else_writes_into_stays_the_ctas_own():
    """Words land for each CTA by itself, so the ones that it has read are free without the others."""
    lines = body_of(opt(WORDS_PROMOTED, "pipelining{stages=3},cluster-multicast{cluster=[2, 1]}"))
    rings = {line.split()[0]: line for line in lines if "async.ring()" in line}
    assert rings["%ring"].endswith("cluster=2} : ring<3>")
    assert rings["%words"].endswith("]} : ring<3>")
    assert [line for line in lines if "multicast" in line] == [
        'async.load(ring=%ring, source=%b, row=%n0, col=%k0) {buffer="b", multicast=2}'
    ]


def test_a_cluster_of_one_changes_nothing():
    assert opt(ASYNC, "cluster-multicast") == ASYNC


def test_operands_are_shared_along_one_axis():
    refused(ASYNC, "operands are shared along one axis", "got: [2, 2]", passes="cluster-multicast{cluster=[2, 2]}")


def test_a_split_tile_fills_its_cluster_already():
    split = opt(PROMOTED, "split-k{parts=2},pipelining")
    refused(split, "a tile split over K fills its whole cluster", passes="cluster-multicast{cluster=[2, 1]}")


def test_a_box_is_shared_in_equal_parts():
    text = edited(ASYNC, ("tile=[128, 64]}", "tile=[128, 64]}"))
    refused(text, "a shared box is loaded in equal shares", "64 rows", passes="cluster-multicast{cluster=[3, 1]}")


def test_the_tile_level_is_too_early():
    refused(PROMOTED, "pass cluster-multicast does not apply here", passes="cluster-multicast{cluster=[2, 1]}")
