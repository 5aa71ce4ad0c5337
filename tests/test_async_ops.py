"""Async-level ops and records by themselves: sizes, look-ups, and the rules that each op checks alone."""

from __future__ import annotations

import pytest
from ir_texts import ASYNC, PROMOTED, WORDS_PROMOTED, edited, opt, rejected

from gemmgen.errors import IRError
from gemmgen.ir import Value
from gemmgen.ir.async_ops import AsyncMmaOp, Buffer, Engine, RingOp, tile_bytes
from gemmgen.ir.types import BF16, E2M1, E4M3, F32, UE8M0X4, MemType, RingType, smem


def test_the_base_text_is_legal():
    assert opt(ASYNC) == ASYNC


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (smem(E4M3, 128, 128), 16384),
        (smem(F32, 128), 512),
        (smem(BF16, 8, 64), 1024),
        (smem(E2M1, 64, 32), 1024),
        (smem(UE8M0X4, 128), 512),
    ],
)
def test_tile_bytes(kind: MemType, size: int):
    assert tile_bytes(kind) == size
    assert Buffer("x", kind, Engine.BULK, 1 << 16).tile_bytes == size


def test_ring():
    a = Buffer("a", smem(E4M3, 128, 128), Engine.BULK, 16384)
    ring = RingOp(buffers=(a,), result=Value("ring", RingType(5)))
    assert ring.stages == 5
    assert ring.buffer("a") is a
    with pytest.raises(IRError, match="%ring has no buffer 'b'") as caught:
        ring.buffer("b")
    assert caught.value.need == "a"


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ((": ring<3>", ": ring<0>"), ("a ring needs stages and distinct buffers", "0 stages")),
        (('name="sa"', 'name="a"'), ("a ring needs stages and distinct buffers", "['a', 'a', 'b', 'sb']")),
        (
            ("async.load(ring=%ring, source=%a,", "async.load(ring=%ring, source=%zero,"),
            ("a load reads global memory", "gmem"),
        ),
        (
            ("async.load(ring=%ring, source=%a,", "async.load(ring=%ring, source=%m0,"),
            ("%m0 is not a tile", "got: index"),
        ),
    ],
)
def test_rule(change: tuple[str, str], parts: tuple[str, ...]):
    rejected(edited(ASYNC, change), *parts)


def test_a_ring_without_buffers():
    start, end = ASYNC.index("buffers=["), ASYNC.index("]} : ring<3>")
    rejected(ASYNC[:start] + "buffers=[" + ASYNC[end:], "a ring needs stages and distinct buffers", "3 stages of []")


RUNS = opt(PROMOTED, "pipelining{scales_ahead=true}")


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (("stage_bytes=8192}]}", "stage_bytes=8192}], steps=2}"), "2 steps of ['a', 'sa', 'b']"),
        (("steps=2", "steps=-1"), "-1 steps of ['sb']"),
    ],
)
def test_only_scales_of_lanes_come_for_all_steps_at_once(change: tuple[str, str], got: str):
    rejected(edited(RUNS, change), "only scales that lanes copy are loaded for all steps of K at once", got)


def test_async_ops_are_illegal_further_down():
    rejected(ASYNC.replace("level=async", "level=target"), "is illegal in this module", "an op of level target")


WORDS = opt(WORDS_PROMOTED, "pipelining{stages=3}")


@pytest.mark.parametrize("kind", ["smem<f32, [128]>", "smem<ue8m0x4, [64]>"])
def test_words_are_arranged_in_whole_groups(kind: str):
    read = '%sa_words = async.read(ring=%words) {buffer="sa_words"} : '
    change = (f"{read}smem<ue8m0x4, [128]>", f"{read}{kind}")
    rejected(edited(WORDS, change), "scales are arranged in whole groups", f"got: {kind}", "ue8m0x4, a multiple of 128")


@pytest.mark.parametrize(("a", "b", "columns"), [(128, 128, 8), (128, 256, 12), (256, 128, 12)])
def test_columns_of_scales(a: int, b: int, columns: int):
    """A word for each row; 32 rows share a column."""
    ring, tile = Value("ring", RingType(2)), Value("t", smem(E4M3, 128, 128))
    scale_a, scale_b = Value("sa", smem(UE8M0X4, a)), Value("sb", smem(UE8M0X4, b))
    product = AsyncMmaOp(ring=ring, a=tile, b=tile, buffer="part", scale_a=scale_a, scale_b=scale_b)
    assert product.scale_columns == columns
    assert AsyncMmaOp(ring=ring, a=tile, b=tile, buffer="part").scale_columns == 0
