"""Laws of the Blackwell target level: each mistake is one change to a legal module, and is named."""

from __future__ import annotations

import pytest
from ir_texts import ASYNC, PROMOTED, edited, opt, rejected
from target_texts import after, line, without

HEAD = ("target=sm_90a", "target=sm_100a")
PASSES = (
    "epilogue-staging,warp-specialization{accumulators=2},tensor-memory-allocation,shared-memory-allocation,lower-sm100"
)
LANES = opt(edited(ASYNC, HEAD), PASSES)
"""All scales copied by lanes: roles math (8 warps), load, scales and mma."""
BULK = opt(edited(PROMOTED, HEAD), f"pipelining{{stages=3}},{PASSES}")
"""Row scales by the copy engine."""
END = '  sm100.fence() {side="before"}\n  sm100.sync() {scope="cta"}\n  sm100.fence()'
FENCE = line(LANES, 'sm100.fence() {side="after"}')
Change = tuple[str, str]

MISTAKES: dict[str, tuple[tuple[Change, ...], str]] = {
    "an allocation that is no power of two": ((("columns=128, warp=10}", "columns=96, warp=10}"),),
                                              "columns of an allocation"),
    "an allocation beyond tensor memory": ((("columns=128, warp=10}", "columns=1024, warp=10}"),),
                                           "columns of tensor memory"),
    "accumulators beyond the allocation": (
        (("columns=128, warp=10}", "columns=64, warp=10}"), ("columns=128, warp=10}", "columns=64, warp=10}")),
        "accumulators lie inside of the allocation"),
    "nobody frees": ((without(LANES, "sm100.tmem_free"),), "sm100.tmem_free stands once"),
    "another warp frees": ((("sm100.tmem_free(tmem=%tmem) {columns=128, warp=10}",
                             "sm100.tmem_free(tmem=%tmem) {columns=128, warp=9}"),), "by the same warp"),
    "a warp that is not there allocates": (
        (("columns=128, warp=10}", "columns=128, warp=11}"), ("columns=128, warp=10}", "columns=128, warp=11}")),
        "a whole warp of the CTA allocates"),
    "the address is read before all have met": (after(LANES, "sm100.sync", "sm100.tmem_address"),
                                                "the life of tensor memory"),
    "freed before all have met": ((without(LANES, "sm100.tmem_free"),
                                   (END, line(LANES, "sm100.tmem_free") + END)), "the life of tensor memory"),
    "a product of 64 rows": ((("rows=128, columns=64, first=0", "rows=64, columns=64, first=0"),), "128 lanes"),
    "a product of 24 columns": ((("rows=128, columns=64, first=0", "rows=128, columns=24, first=0"),), "the N side"),
    "half of the operands": ((("steps=4, row_bytes=128", "steps=2, row_bytes=128"),), "cover one swizzle span"),
    "an operand type without a code": ((('a_dtype="e4m3"', 'a_dtype="bf16"'),), "operand types of tcgen05.mma"),
    "a promotion that reads elsewhere": ((("columns=64, first=0, width=32, block=128",
                                           "columns=64, first=64, width=32, block=128"),),
                                         "what is read is what a product wrote"),
    "a load of 64 columns": ((("columns=64, first=0, width=32, block=128",
                               "columns=64, first=0, width=64, block=128"),), "columns of a load from tensor memory"),
    "one commit too few": ((without(LANES, "sm100.commit"),), "arrivals at %empty in a phase"),
    "sums announced to nobody": ((without(LANES, "sm100.commit", 1),),
                                "a sum that is handed over in every step starts anew"),
    "a commit before the product": (after(LANES, "sm100.mma", "sm100.commit"), "a commit follows the product"),
    "no wait for operands": ((without(LANES, "sm100.wait(barriers=%full", 1),), "before its stage is loaded"),
    "no wait for a free accumulator": ((without(LANES, "sm100.wait(barriers=%part_empty"),),
                                       "an accumulator is overwritten"),
    "no fence before the product": (((f"{FENCE}{line(LANES, 'sm100.mma')}", line(LANES, "sm100.mma")),),
                                    "an accumulator is overwritten"),
    "no wait for the sum": ((without(LANES, "sm100.wait(barriers=%part_full"),), "a partial sum is read when it is"),
    "no fence before promotion": ((without(LANES, 'sm100.fence() {side="after"}'),), "a partial sum is read when it"),
    "no fence behind promotion": ((without(LANES, 'sm100.fence() {side="before"}'),), "reads of tensor memory end"),
    "a sum is kept": ((without(LANES, "sm100.release(barriers=%part_empty"),), "arrivals at %part_empty in a phase"),
    "a stage is kept": ((without(LANES, "sm100.release(barriers=%empty"),), "arrivals at %empty in a phase"),
    "scales read after the release": (after(LANES, "sm100.row_scale", "sm100.release(barriers=%empty"),
                                      "a stage is not read after its release"),
    "staging written too early": ((without(LANES, "sm100.staging_wait"),), "a staging tile is written when"),
    "staging not published": ((without(LANES, "sm100.staging_publish"),), "sees what was published"),
    "stores without a group": ((without(LANES, "sm100.store_commit"),), "stores of a tile are one group"),
    "stores not drained": ((without(LANES, "sm100.store_drain"),), "shared memory lives until all stores are done"),
    "a store of half a slab": ((("box=[128, 32], slabs=1", "box=[64, 32], slabs=1"),), "a store and its tensor map"),
    "a store that leaves half": ((("slabs=1, slab_bytes=8192", "slabs=2, slab_bytes=8192"),), "stores empty area"),
    "slabs of another width": ((('sm100.store_rows(value=%sum) {area="staging", slab=32',
                                 'sm100.store_rows(value=%sum) {area="staging", slab=16'),), "written as they are"),
    "a load without a free stage": ((without(LANES, "sm100.wait(barriers=%empty"),), "a load needs a free stage"),
    "bytes not expected": ((("transfer_bytes=24576", "transfer_bytes=24575"),), "bytes expected at %full"),
}  # fmt: skip


def test_the_modules_are_legal():
    assert opt(LANES) == LANES
    assert opt(BULK) == BULK
    assert "sm100.tma_load_scales" in BULK


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake(mistake: str):
    changes, error = MISTAKES[mistake]
    rejected(edited(LANES, *changes), error)
