"""Illegal async IR about scales in words and pairs of CTAs, each with the one mistake that its rule exists for."""

from __future__ import annotations

import pytest
from ir_texts import ASYNC, WORDS_PROMOTED, edited, opt, rejected

COMMIT = "      async.commit(ring=%ring)\n"
WORDS = opt(WORDS_PROMOTED, "pipelining{stages=3}")
ARRANGE = '      async.arrange(ring=%ring, source=%sa_words) {buffer="sa"}\n'
LANDED = '#buffer{name="sa_words", type=smem<ue8m0x4, [128]>, engine=bulk, stage_bytes=512}'
READ_WORDS = '%sa_words = async.read(ring=%words) {buffer="sa_words"} : smem<ue8m0x4, [128]>'
WAIT_WORDS, RELEASE_WORDS = "      async.wait(ring=%words)\n", "      async.release(ring=%words)\n"

WORD_MISTAKES: dict[str, tuple[tuple[tuple[str, str], ...], tuple[str, ...]]] = {
    "words of another count": (
        ((LANDED, LANDED.replace("128", "256").replace("512", "1024")), (READ_WORDS, READ_WORDS.replace("128", "256"))),
        ("%sa_words is arranged into buffer 'sa'", "got: smem<ue8m0x4, [256]>", "need: smem<ue8m0x4, [128]>"),
    ),
    "words not arranged": (((ARRANGE, ""),), ("buffer 'sa' of %ring", "0 loads in a step")),
    "words arranged twice": (((ARRANGE, ARRANGE + ARRANGE),), ("buffer 'sa' of %ring", "2 loads in a step")),
    "words in an operand's place": (
        ((ARRANGE, ARRANGE.replace('"sa"', '"a"')),),
        ("async.arrange by lanes into buffer 'a'", "a buffer filled by bulk"),
    ),
    "words in the copy engine's place": (
        (('name="sa", type=smem<ue8m0x4, [128]>, engine=lanes', 'name="sa", type=smem<ue8m0x4, [128]>, engine=bulk'),),
        ("async.arrange by lanes into buffer 'sa'", "a buffer filled by bulk", "need: lanes"),
    ),
    "words arranged after their release": (
        ((RELEASE_WORDS, ""), (ARRANGE, RELEASE_WORDS + ARRANGE)),
        ("%sa_words is used after its stage was released", "async.arrange"),
    ),
    "words kept": (((RELEASE_WORDS, ""),), ("role 'all' leaves a stage of %words open", "no async.release")),
    "words read before they land": (((WAIT_WORDS, ""),), ("a read needs a stage that has been waited for",)),
    "words arranged behind the commit": (
        ((ARRANGE, ""), (COMMIT, COMMIT + ARRANGE)),
        ("%sa_words is used after its stage was released",),
    ),
}


@pytest.mark.parametrize("mistake", WORD_MISTAKES)
def test_words(mistake: str):
    changes, parts = WORD_MISTAKES[mistake]
    rejected(edited(WORDS, *changes), *parts)


PAIR = opt(ASYNC, "cta-pairs")
TOGETHER = "the CTAs of a cluster multiply together, and share one operand"

PAIR_MISTAKES: dict[str, tuple[tuple[tuple[str, str], ...], tuple[str, ...]]] = {
    "thirds": ((("shares=2", "shares=3"),), ("%ring and the shares of what fills it", "got: 3", "need: 1 or 2")),
    "nothing shared": (((", shares=2", ""),), (TOGETHER, "shares=[1, 1]")),
    "both operands shared": (
        (('row=%m0, col=%k0) {buffer="a"}', 'row=%m0, col=%k0) {buffer="a", shares=2}'),),
        (TOGETHER, "shares=[2, 2]"),
    ),
    "tiles of CTAs alone": (((", cluster=[2, 1]}", "}"),), (TOGETHER, "ctas=2", "clusters of [1, 1]", "need: ctas=1")),
    "tiles of four": (((", cluster=[2, 1]}", ", cluster=[4, 1]}"),), (TOGETHER, "clusters of [4, 1]", "need: ctas=4")),
    "tiles along the other axis": (
        ((", cluster=[2, 1]}", ", cluster=[1, 2]}"),),
        ("CTAs that share a box need the same one", "a box at %n0, which differs in the cluster"),
    ),
    "a ring of one CTA": (((", ctas=2} : ring", "} : ring"),), ("%ring and the shares of what fills it", "got: 2")),
    "a ring that others write into": (
        (("], ctas=2} : ring", "], cluster=2, ctas=2} : ring"),),
        ("%ring and the tiles disagree about the cluster", "got: 2", "need: 1"),
    ),
    "scales of both CTAs": ((("stage_bytes=16}]} :", "stage_bytes=16}], ctas=2} :"),), (TOGETHER, "shares=[]")),
    "a product of one CTA": (
        ((" {ctas=2} : frag", " : frag"),),
        ("shapes of a matrix product", "got: smem<e4m3, [128, 128]> · smem<e4m3, [32, 128]>ᵀ", "need: [128, 32]"),
    ),
}


@pytest.mark.parametrize("mistake", PAIR_MISTAKES)
def test_pairs(mistake: str):
    changes, parts = PAIR_MISTAKES[mistake]
    rejected(edited(PAIR, *changes), *parts)


PRODUCTS = opt(WORDS, "cta-pairs,warp-specialization{accumulators=2},tensor-memory-allocation")
PRODUCT_MISTAKES: dict[str, tuple[tuple[str, str], tuple[str, ...]]] = {
    "half of the accumulator": ((", ctas=2, scale", ", scale"), ("shapes of a matrix product", "need: [128, 32]")),
    "accumulators of one CTA": (
        ("offset=0}], ctas=2} : ring<2>", "offset=0}]} : ring<2>"),
        ("%parts and the ctas of what fills it", "got: 2"),
    ),
    "accumulators that others write into": (
        ("offset=0}], ctas=2} : ring<2>", "offset=0}], cluster=2, ctas=2} : ring<2>"),
        ("%parts and the tiles disagree about the cluster", "got: 2", "need: 1"),
    ),
    "scales that reach nowhere": (
        ("vector_a=32", "vector_a=0"),
        ("scales of a matrix product", "0 elements of K each"),
    ),
    "scales of one operand": ((", scale_b=%sbt_1", ""), ("scales of a matrix product", "got: none, 128 elements")),
    "an operand for scales": (("scale_a=%sat_1", "scale_a=%at_1"), ("scales of a matrix product", "smem<e4m3")),
    "scales over accumulators": (
        ("scale_offset=128", "scale_offset=120"),
        ("the scales of %parts's product overlaps buffer 'part' of %parts", "columns 120 to 144", "columns 0 to 128"),
    ),
    "scales outside": (
        ("scale_offset=128", "scale_offset=240"),
        ("the scales of %parts's product lies outside of tensor memory", "columns 240 to 264", "need: 0 to 256"),
    ),
    "scales without columns": (
        (", scale_offset=128}", "}"),
        ("the scales of %parts's product lies outside of tensor memory", "columns -1 to 23"),
    ),
}


@pytest.mark.parametrize("mistake", PRODUCT_MISTAKES)
def test_products_with_scales(mistake: str):
    change, parts = PRODUCT_MISTAKES[mistake]
    rejected(edited(PRODUCTS, change), *parts)
