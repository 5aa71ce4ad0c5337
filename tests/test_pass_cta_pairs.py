from __future__ import annotations

import pytest
from ir_texts import ASYNC, PROMOTED, WORDS_PROMOTED, body_of, edited, opt, refused

SCALES = """\
  %scales = async.ring() {buffers=[#buffer{name="sa", type=smem<f32, [128]>, engine=lanes, stage_bytes=512}, \
#buffer{name="sb", type=smem<f32, [1]>, engine=lanes, stage_bytes=16}]} : ring<3>
"""
MOVED = (("async.acquire(ring=%ring)\n", "async.acquire(ring=%ring)\n      async.acquire(ring=%scales)\n"),
         ("async.commit(ring=%ring)\n", "async.commit(ring=%ring)\n      async.commit(ring=%scales)\n"),
         ("async.wait(ring=%ring)\n", "async.wait(ring=%ring)\n      async.wait(ring=%scales)\n"),
         ("async.release(ring=%ring)\n", "async.release(ring=%ring)\n      async.release(ring=%scales)\n"),
         ("async.load_scales(ring=%ring, source=%sa", "async.load_scales(ring=%scales, source=%sa"),
         ("async.load_scales(ring=%ring, source=%sb", "async.load_scales(ring=%scales, source=%sb"),
         ('async.read(ring=%ring) {buffer="sa"}', 'async.read(ring=%scales) {buffer="sa"}'),
         ('async.read(ring=%ring) {buffer="sb"}', 'async.read(ring=%scales) {buffer="sb"}'))  # fmt: skip
PAIRED = edited(
    ASYNC,
    (' #buffer{name="sa", type=smem<f32, [128]>, engine=lanes, stage_bytes=512},', ""),
    ('name="b", type=smem<e4m3, [64, 128]>, engine=bulk, stage_bytes=8192}, #buffer{name="sb", type=smem<f32, [1]>, '
     'engine=lanes, stage_bytes=16}]} : ring<3>\n',
     f'name="b", type=smem<e4m3, [32, 128]>, engine=bulk, stage_bytes=4096}}], ctas=2}} : ring<3>\n{SCALES}'),
    ("tile=[128, 64]}", "tile=[128, 64], cluster=[2, 1]}"),
    ('row=%n0, col=%k0) {buffer="b"}', 'row=%n0, col=%k0) {buffer="b", shares=2}'),
    ('{buffer="b"} : smem<e4m3, [64, 128]>', '{buffer="b"} : smem<e4m3, [32, 128]>'),
    ("tile.mma(a=%at, b=%bt) : frag", "tile.mma(a=%at, b=%bt) {ctas=2} : frag"),
    *MOVED,
)  # fmt: skip
TURNED = PROMOTED.replace("%b: gmem<e4m3, [192, 256]>", "%b: gmem<e4m3, [256, 192]>").replace(
    "%bt = tile.load(source=%b, row=%n0, col=%k0) : smem<e4m3, [64, 128]>",
    "%bt = tile.load(source=%b, row=%k0, col=%n0) : smem<e4m3, [128, 64]>",
).replace("tile.mma(a=%at, b=%bt)", "tile.mma(a=%at, b=%bt) {trans_b=true}")  # fmt: skip
"""N is contiguous in B."""


def line(text: str, *parts: str) -> str:
    """The one line that has these parts."""
    (found,) = [row for row in body_of(text) if all(part in row for part in parts)]
    return found


def test_two_ctas_multiply_together():
    """Before: a tile for each CTA. After: half of b each, and the FP32 scales in a ring of each CTA's own."""
    assert opt(ASYNC, "cta-pairs") == PAIRED


def test_the_result_is_legal_and_goes_on():
    assert opt(PAIRED) == PAIRED
    text = opt(PAIRED, "warp-specialization{accumulators=2},tensor-memory-allocation,shared-memory-allocation")
    assert 'async.role() {name="mma"' in text


@pytest.mark.parametrize(("passes", "cluster", "own", "shared"), [
    ("", "[2, 1]", "%a, row=%m0", "%b, row=%n0"),
    ("swap-operands,", "[1, 2]", "%b, row=%n0", "%a, row=%m0"),
])  # fmt: skip
def test_pairs_lie_along_the_rows_of_the_product(passes: str, cluster: str, own: str, shared: str):
    """Whichever axis of D these are."""
    text = opt(PROMOTED, f"{passes}pipelining{{stages=3}},cta-pairs")
    assert f"cluster={cluster}" in line(text, "tile.for_tiles")
    assert "shares" not in line(text, f"async.load(ring=%ring, source={own}")
    assert "shares=2}" in line(text, f"async.load(ring=%ring, source={shared}")


def test_a_swapped_pair_shares_the_tokens():
    text = opt(PROMOTED, "swap-operands,pipelining{stages=3},cta-pairs")
    ring = line(text, "%ring = async.ring")
    assert '#buffer{name="a", type=smem<e4m3, [64, 128]>, engine=bulk, stage_bytes=8192}' in ring
    assert '#buffer{name="b", type=smem<e4m3, [64, 128]>, engine=bulk, stage_bytes=8192}' in ring
    assert line(text, "tile.mma").endswith("tile.mma(a=%bt, b=%at) {ctas=2} : frag<f32, [64, 128]>")
    assert "row=%n0, col=%m0) {row_block=128" in line(text, "tile.promote")


def test_a_transposed_operand_is_shared_in_columns():
    text = opt(TURNED, "pipelining{stages=3},cta-pairs")
    assert '#buffer{name="b", type=smem<e4m3, [128, 32]>, engine=bulk, stage_bytes=4096}' in text
    assert 'row=%k0, col=%n0) {buffer="b", shares=2}' in text
    assert "tile.mma(a=%at, b=%bt) {trans_b=true, ctas=2} : frag<f32, [128, 64]>" in text


@pytest.mark.parametrize("scale_copy", ["bulk", "lanes"])
def test_words_stay_in_the_pairs_ring(scale_copy: str):
    """The product reads them, so the pair waits for both CTAs'; where words land, every CTA is by itself."""
    text = opt(WORDS_PROMOTED, f"pipelining{{stages=3,scale_copy={scale_copy}}},cta-pairs")
    ring = line(text, "%ring = async.ring")
    assert ring.endswith("ctas=2} : ring<3>")
    for name in ("sa", "sb"):
        assert f'#buffer{{name="{name}", type=smem<ue8m0x4, [128]>, engine=lanes, stage_bytes=512}}' in ring
    assert "%scales" not in text
    if scale_copy == "bulk":
        assert "ctas" not in line(text, "%words = async.ring")
    product = "scale_a=%sat, scale_b=%sbt) {vector_a=32, vector_b=128, ctas=2}"
    assert product in line(text, "tile.mma")


def test_without_scales_there_is_one_ring():
    plain = edited(
        PROMOTED,
        ("row_scale=%sat, col_scale=%sbt, ", ""),
        (" {col_block=128}", ""),
        ("      %sat = tile.load_scales(source=%sa, row=%m0, col=%k0) {block=[1, 128]} : smem<f32, [128]>\n", ""),
        ("      %sbt = tile.load_scales(source=%sb, row=%n0, col=%k0) {block=[128, 128]} : smem<f32, [1]>\n", ""),
    )
    text = opt(plain, "pipelining,cta-pairs")
    assert text.count("async.ring()") == 1
    assert text.count("async.acquire(") == 1


def test_a_name_that_is_taken():
    """Scales get a ring whatever other values are called."""
    text = opt(ASYNC.replace("%zero", "%scales"), "cta-pairs")
    assert "%scales_1 = async.ring()" in text
    assert "async.wait(ring=%scales_1)" in text


def test_a_cluster_is_taken_already():
    refused(ASYNC, "a pair of CTAs is a cluster of its own", "got: cluster=[2, 1], split=1", "need: cluster=[1, 1]",
            passes="cluster-multicast{cluster=[2, 1]},cta-pairs")  # fmt: skip
    refused(ASYNC, "a pair of CTAs is a cluster of its own", passes="cta-pairs,cta-pairs")


def test_a_split_tile_has_its_cluster_already():
    refused(PROMOTED, "a pair of CTAs is a cluster of its own", "split=2",
            passes="split-k{parts=2},pipelining,cta-pairs")  # fmt: skip


def test_an_odd_operand_has_no_halves():
    odd = ASYNC.replace("smem<e4m3, [64, 128]>", "smem<e4m3, [63, 128]>").replace("[128, 64]", "[128, 63]")
    refused(odd, "a pair of CTAs shares an operand in halves", "got: smem<e4m3, [63, 128]>", "an even number of rows",
            passes="cta-pairs")  # fmt: skip


def test_one_product():
    second = "      %part_b = tile.mma(a=%at, b=%bt) : frag<f32, [128, 64]>\n      %part = tile.mma("
    refused(edited(ASYNC, ("      %part = tile.mma(", second)), "a pair of CTAs shares one product",
            "got: 2 products in 1 loops over tiles", "need: one of each", passes="cta-pairs")  # fmt: skip
    refused(opt(ASYNC, "warp-specialization"), "a pair of CTAs shares one product", "got: 1 products in 3 loops",
            passes="cta-pairs")  # fmt: skip


def test_the_tile_level_is_too_early():
    refused(PROMOTED, "pass cta-pairs does not apply here", passes="cta-pairs")
