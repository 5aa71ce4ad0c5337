"""Illegal target IR of 16-bit kernels: operands that are not read as they were loaded."""

from __future__ import annotations

import pytest
from dense16_support import case
from ir_texts import edited, rejected
from target_texts import BULK, Mistakes

NT = case("NT", (256, 192, 256), tile=(128, 64, 64), stages=3).artifact.ir["target"]
TN = case("TN", (256, 192, 256), tile=(128, 96, 64), stages=3).artifact.ir["target"]

MISTAKES: Mistakes = {
    "a read along K, loaded along M": (
        TN,
        (("a_span=128, b_span", "b_span"),),
        ("area 'a' is read as it was loaded", "2 slabs of 64 rows of 128 bytes", "need: rows of 128 bytes"),
    ),
    "b read along N, loaded along K": (
        NT,
        (("accumulate=true", "accumulate=true, b_span=64"),),
        ("area 'b' is read as it was loaded", "1 slabs of 64 rows of 128 bytes", "slabs of 64 rows of 64 bytes"),
    ),
    "slabs of another width": (
        TN,
        (("b_span=64", "b_span=32"),),
        ("area 'b' is read as it was loaded", "3 slabs of 64 rows of 64 bytes", "slabs of 64 rows of 32 bytes"),
    ),
    "a slab that b does not fill": (
        TN,
        (("b_span=64", "b_span=128"),),
        ("wgmma transposes 16-bit operands in whole slabs: area 'b'", "192 bytes of bf16"),
    ),
    "FP8 transposed": (
        BULK,
        (("row_bytes=128, waves=1, wave=0}", "row_bytes=128, waves=1, wave=0, a_span=64}"),),
        ("wgmma transposes 16-bit operands", "of e4m3", "bf16 or f16"),
    ),
    "a slab too many": (
        TN,
        (("row_bytes=64, slabs=3", "row_bytes=64, slabs=4"),),
        ("a load fills a stage of area 'b'", "got: 16384 bytes", "need: 12288"),
    ),
    "a slab forgotten": (
        TN,
        (("row_bytes=128, slabs=2", "row_bytes=128"),),
        ("a load fills a stage of area 'a'", "got: 8192 bytes", "need: 16384"),
    ),
    "a box wider than its rows": (
        TN,
        (('"b", dtype="bf16", box=[32, 64], swizzle="64B"', '"b", dtype="bf16", box=[64, 64], swizzle="128B"'),),
        ("a load and its tensor map", "64 rows of 128 bytes", "64 rows of 64 bytes"),
    ),
    "part of a step": (
        TN,
        (("steps=4, row_bytes=128", "steps=2, row_bytes=64"),),
        ("steps of a wgmma cover one swizzle span",),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_refused(mistake: str):
    text, changes, parts = MISTAKES[mistake]
    rejected(edited(text, *changes), *parts)
