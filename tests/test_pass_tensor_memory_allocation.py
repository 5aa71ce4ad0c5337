from __future__ import annotations

import pytest
from ir_texts import ASYNC, PROMOTED, WORDS_PROMOTED, edited, opt, refused, rejected

from gemmgen.errors import ScheduleError

PASSES = "warp-specialization{{accumulators={}}},tensor-memory-allocation"


def test_stages_follow_each_other():
    text = opt(ASYNC, PASSES.format(2))
    assert "{tmem_columns=128}" in text
    assert 'name="part", type=tmem<f32, [128, 64]>, engine=tensor, stage_bytes=32768, offset=0}' in text


@pytest.mark.parametrize(("accumulators", "columns"), [(1, 64), (3, 256), (8, 512)])
def test_allocations_are_powers_of_two(accumulators: int, columns: int):
    assert f"tmem_columns={columns}" in opt(ASYNC, PASSES.format(accumulators))


def test_tensor_memory_is_limited():
    with pytest.raises(ScheduleError, match="more tensor memory than a CTA has") as caught:
        opt(ASYNC, PASSES.format(9))
    assert "576 columns" in str(caught.value)
    assert "use fewer accumulators or a narrower tile" in str(caught.value)


def test_nothing_to_allocate():
    assert opt(ASYNC, "tensor-memory-allocation") == opt(ASYNC)


def test_shared_memory_holds_barriers_and_the_address():
    text = opt(ASYNC, PASSES.format(2) + ",shared-memory-allocation")
    ring = next(line for line in text.splitlines() if "%parts = async.ring" in line)
    offset = int(ring.rpartition("offset=")[2].split("}")[0])
    assert f"smem_bytes={offset + 2 * 2 * 8 + 8}" in text


def test_columns_stay_inside_and_apart():
    text = opt(ASYNC, PASSES.format(2))
    rejected(edited(text, ("tmem_columns=128", "tmem_columns=64")), "lies outside of tensor memory", "columns 0 to 128")
    ring = next(line for line in text.splitlines() if "%parts = async.ring" in line)
    part = '#buffer{name="part", type=tmem<f32, [128, 64]>, engine=tensor, stage_bytes=32768, offset=0}'
    other = part.replace('"part"', '"other"').replace("offset=0", "offset=64")
    twice = edited(text, (ring, ring.replace(part, f"{part}, {other}")))
    rejected(twice.replace("tmem_columns=128", "tmem_columns=512"), "'other'")


def test_the_tile_level_is_too_early():
    refused(PROMOTED, "pass tensor-memory-allocation does not apply here", passes="tensor-memory-allocation")


def with_scales(stages: int, accumulators: int, passes: str = "") -> str:
    """Words of 128 rows of a and of b: 4 columns each, for every stage."""
    return opt(WORDS_PROMOTED, f"pipelining{{stages={stages}}},{passes}{PASSES.format(accumulators)}")


@pytest.mark.parametrize(
    ("stages", "accumulators", "first", "allocated"),
    [(3, 2, 128, 256), (8, 1, 64, 128), (9, 1, 64, 256), (2, 4, 256, 512)],
)
def test_scales_lie_behind_the_accumulators(stages: int, accumulators: int, first: int, allocated: int):
    text = with_scales(stages, accumulators)
    assert f"scale_offset={first}}}" in text
    assert f"{{tmem_columns={allocated}}}" in text
    assert first + 8 * stages <= allocated


def test_scales_have_columns_for_every_stage():
    """448 columns of sums leave 64: 8 stages of 8, and no ninth."""
    assert "tmem_columns=512" in with_scales(8, 7)
    with pytest.raises(ScheduleError, match="more tensor memory than a CTA has") as caught:
        with_scales(9, 7)
    message = str(caught.value)
    assert "got: 520 columns" in message
    assert "need: at most 512" in message
    assert "with scales in tensor memory fewer stages" in message


def test_a_pair_has_columns_as_a_cta_alone_has():
    """Each CTA has its own rows of the sums, and copies of all of b's scales."""
    assert "scale_offset=128}" in with_scales(3, 2, "cta-pairs,")
    assert "tmem_columns=256" in with_scales(3, 2, "cta-pairs,")


def test_products_without_scales_need_no_columns_for_them():
    assert "scale_offset" not in opt(ASYNC, PASSES.format(2))
