"""Laws of the Blackwell target level: each mistake is one change to a legal module, and is named."""

from __future__ import annotations

import pytest
from ir_texts import ASYNC, PROMOTED, WORDS_PROMOTED, edited, opt, rejected
from target_texts import after, line, without

HEAD = ("target=sm_90a", "target=sm_100a")
PASSES = (
    "epilogue-staging,warp-specialization{accumulators=2},tensor-memory-allocation,shared-memory-allocation,lower-sm100"
)
LANES = opt(edited(ASYNC, HEAD), PASSES)
"""All scales copied by lanes: roles math (8 warps), load, scales and mma."""
BULK = opt(edited(PROMOTED, HEAD), f"pipelining{{stages=3}},{PASSES}")
"""Row scales by the copy engine."""
BACK = PASSES.partition(",")[2]
WORDS = opt(edited(WORDS_PROMOTED, HEAD), f"pipelining{{stages=3}},{PASSES}")
"""Scales as powers of two: the copy engine loads words, role scales arranges them."""
GATHERED = opt(edited(WORDS_PROMOTED, HEAD), f"pipelining{{stages=3,scale_copy=lanes}},{PASSES}")
PAIR = opt(edited(ASYNC, HEAD), f"epilogue-staging,cta-pairs,{BACK}")
"""A pair of CTAs, with FP32 scales in a ring of each one's own."""
WORDS_PAIR = opt(edited(WORDS_PROMOTED, HEAD), f"pipelining{{stages=3}},epilogue-staging,cta-pairs,{BACK}")
END = '  sm100.fence() {side="before"}\n  sm100.sync() {scope="cta"}\n  sm100.fence()'
THREE_WARPS_SYNC = '  sm100.warps() {label="meet", first=8, count=3} do {\n    sm100.sync() {scope="cta"}\n  }\n'
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
    "three warps meet once more": (((END, f"{THREE_WARPS_SYNC}{END}"),), "every warp of the CTA joins a sync"),
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
    "lanes that release for themselves": ((("cursor=%cursor) {cluster=1}", "cursor=%cursor) {cluster=1, lanes=true}"),),
                                          "a warp releases once here"),
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
    for text in (WORDS, GATHERED, PAIR, WORDS_PAIR):
        assert opt(text) == text
    assert "sm100.gather_scales" in GATHERED
    assert "sm100.arrange_scales" in WORDS
    assert PAIR.count("leader=true") == WORDS_PAIR.count("leader=true") == 3


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake(mistake: str):
    changes, error = MISTAKES[mistake]
    rejected(edited(LANES, *changes), error)


MMA_ROLE = 'label="mma", first=10, count=1, elect=true'
LOAD_ROLE = 'label="load", first=8, count=1, elect=true'
SCALES_ROLE = 'label="scales", first=9, count=1'


def role(text: str, label: str) -> str:
    """The text of a role's region."""
    start = text.index(f'sm100.warps() {{label="{label}"')
    end = text.find("    sm100.warps()", start)
    return text[start : end if end > 0 else len(text)]


def in_role(text: str, label: str, *changes: Change) -> Change:
    """Changes to one role."""
    return (role(text, label), edited(role(text, label), *changes))


WORD_MISTAKES: dict[str, tuple[str, tuple[Change, ...], str]] = {
    "a's scales stay in shared memory": (WORDS, (without(WORDS, "sm100.scale_factors"),),
                                         "scales are copied to tensor memory before they are multiplied with"),
    "b's scales stay in shared memory": (WORDS, (without(WORDS, "sm100.scale_factors", 1),),
                                         "scales are copied to tensor memory before they are multiplied with"),
    "scales copied behind the product": (WORDS, after(WORDS, "sm100.scale_factors", "sm100.scaled_mma"),
                                         "scales are copied to tensor memory before they are multiplied with"),
    "scales taken from elsewhere": (WORDS, (("scale_b=132", "scale_b=136"),),
                                    "scales are copied to tensor memory before they are multiplied with"),
    "scales of another stage": (WORDS, (("scale_columns=8", "scale_columns=4"),),
                                "scales are copied to tensor memory before they are multiplied with"),
    "scales over accumulators": (
        WORDS, (("first=128, columns=8", "first=124, columns=8"), ("scale_a=128", "scale_a=124")),
        "scales have columns of their own for every stage"),
    "scales outside of the allocation": (
        WORDS, (("first=132, columns=8", "first=240, columns=8"), ("scale_b=132", "scale_b=240")),
        "scales have columns of their own for every stage"),
    "stages of scales that overlap": (
        WORDS, (("first=128, columns=8", "first=128, columns=2"),), "scales have columns of their own for every stage"),
    "both operands' scales in one place": (
        WORDS, (("first=132, columns=8", "first=128, columns=8"), ("scale_b=132", "scale_b=128")),
        "scales have columns of their own for every stage"),
    "more groups than were arranged": (WORDS, (('area="sb", groups=1', 'area="sb", groups=2'),), "holds its groups"),
    "a scale for 48 elements": (WORDS, (("vector_a=32", "vector_a=48"),), "elements of K that share a scale"),
    "a scale for 256 elements": (WORDS, (("vector_b=128", "vector_b=256"),), "elements of K that share a scale"),
    "nobody learns that words are arranged": (WORDS, (without(WORDS, "sm100.publish_scales"),),
                                              "arrivals at %full in a phase"),
    "nobody waits for arranged words": (
        WORDS, (("arrivals=2} : barrier<3>", "arrivals=1} : barrier<3>"),), "arrivals at %full in a phase"),
    "nobody announces, and nobody waits": (
        WORDS, (("arrivals=2} : barrier<3>", "arrivals=1} : barrier<3>"), without(WORDS, "sm100.publish_scales")),
        "a warp arranges scales, and says so"),
    "one thread arranges": (
        WORDS, ((SCALES_ROLE, f"{SCALES_ROLE}, elect=true"),), "a warp arranges scales, and says so"),
    "words arranged before they land": (WORDS, (without(WORDS, "sm100.wait(barriers=%words_full"),),
                                        "is read before its stage is loaded"),
    "words arranged in a stage in use": (
        WORDS, (in_role(WORDS, "scales", without(role(WORDS, "scales"), "sm100.wait(barriers=%empty")),),
        "a load needs a free stage"),
    "words arranged after their release": (WORDS, after(WORDS, "sm100.arrange_scales", "sm100.release(barriers=%words"),
                                           "a stage is not read after its release"),
    "words that stay": (WORDS, (without(WORDS, "sm100.release(barriers=%words_empty"),),
                        "arrivals at %words_empty in a phase"),
    "half of the words expected": (WORDS, (("transfer_bytes=1024", "transfer_bytes=512"),), "bytes expected at %words"),
    "words gathered in a stage in use": (
        GATHERED, (in_role(GATHERED, "scales", without(role(GATHERED, "scales"), "sm100.wait(barriers=%empty")),),
        "a load needs a free stage"),
    "gathered words that nobody learns of": (GATHERED, (without(GATHERED, "sm100.publish_scales"),),
                                             "arrivals at %full in a phase"),
    "announced before they are written": (
        WORDS, after(WORDS, "sm100.publish_scales", "sm100.wait(barriers=%words_full"),
        "words are written before they are announced"),
    "gathered when they are announced": (GATHERED, after(GATHERED, "sm100.gather_scales", "sm100.publish_scales"),
                                         "words are written before they are announced"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WORD_MISTAKES)
def test_mistake_with_words(mistake: str):
    text, changes, error = WORD_MISTAKES[mistake]
    rejected(edited(text, *changes), error)


TOGETHER = "what a pair does together its first CTA does, and nothing else"
ONE_OR_A_PAIR = "a kernel's products are one CTA's or a pair's"
EMPTY_COMMIT = line(PAIR, "sm100.commit(barriers=%empty")
SUM_COMMIT = line(PAIR, "sm100.commit(barriers=%part_full")
SYNC = '  sm100.sync() {scope="cluster"}\n'
PAIR_MISTAKES: dict[str, tuple[str, tuple[Change, ...], str]] = {
    "both CTAs multiply": (PAIR, ((f"{MMA_ROLE}, leader=true", MMA_ROLE),), TOGETHER),
    "both CTAs multiply with scales": (WORDS_PAIR, ((f"{MMA_ROLE}, leader=true", MMA_ROLE),), TOGETHER),
    "the first CTA loads for both": (
        PAIR, ((LOAD_ROLE, f"{LOAD_ROLE}, leader=true"),),
        "each CTA of a pair loads and reads for itself"),
    "the odd CTA waits for what it does not see": (
        PAIR, (('arrivals=1} : barrier<2>', 'arrivals=1, leader=true} : barrier<2>'),), TOGETHER),
    "the first CTA copies scales for both": (PAIR, ((SCALES_ROLE, f"{SCALES_ROLE}, leader=true"),),
                                             "each CTA of a pair loads and reads for itself"),
    "the first CTA waits for itself alone": (
        PAIR, (('area="full", arrivals=1, leader=true', 'area="full", arrivals=1'),), "bytes expected at %full"),
    "a product of one CTA": (
        PAIR, (("steps=4, row_bytes=128, ctas=2}", "steps=4, row_bytes=128}"),), "a product reads all of"),
    "a commit of one CTA": (PAIR, ((EMPTY_COMMIT, EMPTY_COMMIT.replace(", ctas=2", "")),), TOGETHER),
    "an allocation of one CTA": (PAIR, (("columns=128, warp=10, ctas=2}", "columns=128, warp=10}"),), ONE_OR_A_PAIR),
    "each CTA frees for itself": (PAIR, (("sm100.tmem_free(tmem=%tmem) {columns=128, warp=10, ctas=2}",
                                          "sm100.tmem_free(tmem=%tmem) {columns=128, warp=10}"),), ONE_OR_A_PAIR),
    "scales copied in one CTA": (WORDS_PAIR, (('first=128, columns=8, ctas=2', 'first=128, columns=8'),), TOGETHER),
    "a pair in a larger cluster": (
        PAIR, (("cluster=2,", "cluster=4,"), ("tile=[256, 64], ctas_per_tile=2", "tile=[512, 64], ctas_per_tile=4"),
               *(("cluster=[2, 1]", "cluster=[4, 1]"),) * PAIR.count("cluster=[2, 1]")),
        ONE_OR_A_PAIR),
    "a stage free in one CTA": (PAIR, ((EMPTY_COMMIT, EMPTY_COMMIT.replace("cluster=2, ctas", "cluster=1, ctas")),),
                                "arrivals at %empty in a phase"),
    "a sum announced in one CTA": (PAIR, ((SUM_COMMIT, SUM_COMMIT.replace("cluster=2, ctas", "cluster=1, ctas")),),
                                   "arrivals at %part_full in a phase"),
    "a stage free in three CTAs": (PAIR, ((EMPTY_COMMIT, EMPTY_COMMIT.replace("cluster=2, ctas", "cluster=3, ctas")),),
                                   "a commit tells every CTA that writes into the stage"),
    "a stage free in four CTAs": (PAIR, ((EMPTY_COMMIT, EMPTY_COMMIT.replace("cluster=2, ctas", "cluster=4, ctas")),),
                                  "arrivals at %empty in a phase"),
    "bytes of one CTA": (PAIR, (("transfer_bytes=40960", "transfer_bytes=20480"),), "bytes expected at %full"),
    "readers of one CTA": (PAIR, (("arrivals=16, leader=true", "arrivals=8, leader=true"),),
                           "arrivals at %part_empty in a phase"),
    "arranging warps of one CTA": (WORDS_PAIR, (("arrivals=3, leader=true", "arrivals=2, leader=true"),),
                                   "arrivals at %full in a phase"),
    "a pair that has not met": (PAIR, ((SYNC + line(PAIR, "sm100.tmem_alloc"), line(PAIR, "sm100.tmem_alloc")),),
                                "the life of tensor memory"),
    "an operand that is whole": (PAIR, (('area="b", rows=32', 'area="b", rows=64'),), "a load and its tensor map"),
    "a product of an odd width": (PAIR, (("columns=64, first=0, steps=4", "columns=48, first=0, steps=4"),),
                                  "a pair of CTAs shares the N side"),
    "freed while the other CTA multiplies": (
        PAIR, ((f"{SYNC}  sm100.fence()", SYNC.replace("cluster", "cta") + "  sm100.fence()"),),
        "shared memory lives until its cluster is done"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", PAIR_MISTAKES)
def test_mistake_of_a_pair(mistake: str):
    text, changes, error = PAIR_MISTAKES[mistake]
    rejected(edited(text, *changes), error)
