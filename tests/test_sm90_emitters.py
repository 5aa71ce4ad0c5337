"""Emitters: the CUDA of single ops. Each is taken from a real kernel and rendered alone."""

from __future__ import annotations

import re
from functools import cache

import pytest
from ir_texts import CASES, TARGET, built, schedule_of

from gemmgen import compiler
from gemmgen.backends.sm90 import names
from gemmgen.backends.sm90.ops import ReleaseOp, TileLoopOp, TmaLoadOp, TmaLoadScalesOp, WaitOp, WarpsOp
from gemmgen.backends.sm90.source import emit_cuda
from gemmgen.emit.emission import Emission, find_emitter
from gemmgen.emit.renderer import render
from gemmgen.errors import IRError
from gemmgen.ir import Module, Op, Value
from gemmgen.ir.dims import ceildiv, dim_symbol
from gemmgen.ir.rewrite import walk
from gemmgen.ir.schema import schema_of
from gemmgen.ir.types import E2M1, INDEX, gmem

VARIANTS = {
    "lanes": {"scale_copy": "lanes", "scales_ahead": False},
    "steps": {"promotion_overlap": False, "promotion_burst": 0},
    "looking": {"promotion_overlap": False, "promotion_burst": 0, "lookahead": True, "unroll": 2},
    "each": {"scales_ahead": False},
    "ahead": {"scales_ahead": True},
}
"""What else a case's schedule says: lanes copy all scales, steps do not overlap, and look ahead and are unrolled, or
scales of blocks come with every step, or for all steps of a tile at once."""


@cache
def module_of(case: str) -> Module:
    """The target-level module of a case, or of one of its variants: ``plain-steps``."""
    name, _, variant = case.partition("-")
    if not variant:
        return built(name).result.module
    return compiler.build(CASES[name], TARGET, schedule_of(name).replace(**VARIANTS[variant])).result.module


def op_of(case: str, name: str, nth: int = 0) -> Op:
    return [op for op in walk(module_of(case)) if f"sm90.{name}" == op.NAME][nth]


def emission(case: str, op: Op) -> Emission:
    return find_emitter(op, "sm90")(op, module_of(case))


def text_of(case: str, name: str, nth: int = 0) -> str:
    """One op rendered alone; ``BODY`` stands for its region, ``START BODY`` for its region start."""
    op = op_of(case, name, nth)
    found = emission(case, op)
    regions = [spec.name for spec in schema_of(type(op)).regions]
    body = {"body": "BODY"} if len(regions) == 1 else {region: f"{region.upper()} BODY" for region in regions}
    return render(f"sm90/{found.template}", {**found.fields, **body, "op_name": op.NAME})


@pytest.mark.parametrize(
    ("case", "name", "nth", "parts"),
    [
        ("plain", "barriers", 0, ("const uint32_t full = smem + kOffsetFull;", "1 arrivals and all expected bytes")),
        (
            "plain",
            "init_barriers",
            0,
            (
                "stage < 5; ++stage) mbarrier_init(full + 8 * stage, 1);",
                "mbarrier_init(empty + 8 * stage, 8);",
                "stage < 2; ++stage) mbarrier_init(runs_full + 8 * stage, 32);",
                "fence_barrier_init();",
            ),
        ),
        ("plain", "sync", 0, ("__syncthreads();",)),
        ("cluster", "sync", 0, ("cluster_sync();",)),
        ("rowwise", "grid_wait", 0, ("grid_dependency_wait();",)),
        ("rowwise", "grid_launch", 0, ("grid_dependency_launch();",)),
        ("plain", "dispatch", 0, ("BODY",)),
        ("plain", "warps", 0, ("if (warp < 8) {", "---- math: warps 0 to 7")),
        ("plain", "warps", 1, ("if (warp >= 8 && warp <= 11) {", "warps 8 to 11")),
        ("plain", "warps", 2, ("if (warp == 8 && elect_one()) {", "---- load: one thread of warp 8")),
        ("plain", "warps", 3, ("if (warp == 9) {", "---- scales: warp 9")),
        ("plain", "set_registers", 0, ("take_registers<232>();",)),
        ("plain", "set_registers", 1, ("give_registers<40>();",)),
        ("plain", "cursor", 0, ("RingCursor behind;",)),
        ("plain", "cursor", 1, ("RingCursor cursor;",)),
        ("plain", "cursor", 2, ("RunCursor runs;", "whose stages hold all steps of a tile")),
        ("plain", "cursor", 4, ("RingCursor runs_1;",)),
        ("plain", "advance", 0, ("cursor.advance<5>();",)),
        ("plain", "advance", 2, ("runs.advance<2>();",)),
        ("plain", "run_step", 0, ("++runs.step;",)),
        (
            "plain",
            "tile_loop",
            0,
            (
                "tiles_m = (M + 127u) / 128u, tiles_n = (4096u + 127u) / 128u;",
                "tile += gridDim.x)",
                "m0 = tile_start<128>(position.along, M), n0 = position.across * 128;",
                "rasterize<8>",
            ),
        ),
        (
            "cluster",
            "tile_loop",
            0,
            (
                "tiles_m = (M + 511u) / 512u",
                "uint32_t tile = blockIdx.x / 2;",
                "tile += gridDim.x / 2",
                "m0 = tile_start<256>((position.along * 2 + rank), M), n0 = position.across * 128;",
            ),
        ),
        ("plain-steps", "k_loop", 0, ("for (uint32_t k0 = 0; k0 < 7168u; k0 += 128) {  // steps of K",)),
        ("plain", "k_loop", 1, ("for (uint32_t k0_2 = 0; k0_2 < 7168u; k0_2 += 7168) {  // all steps of K at once",)),
        ("split_k_swapped-ahead", "k_loop", 1, ("k0_2 < k_end; k0_2 += 1792) {",)),
        ("cluster", "k_loop", 0, ("#pragma unroll 4\nfor (uint32_t k0 = 0; k0 < 7168u; k0 += 128) {",)),
        ("split_k_swapped-looking", "k_loop", 0, ("#pragma unroll 2\nfor (uint32_t k0 = k_blocks * rank",)),
        (
            "split_k_swapped-steps",
            "k_loop",
            0,
            (
                "const uint32_t k_blocks = (7168u + 127u) / 128u;",
                "k_end = k_blocks * (rank + 1) / 4 * 128;",
                "k0 = k_blocks * rank / 4 * 128;",
            ),
        ),
        (
            "plain",
            "k_overlap",
            0,
            (
                "float done_row_scale_turns[2][2];",
                "float done_block_scale_turns[2][1];",
                "const auto start = [&](float (&next_part)[64], float (&next_row_scale)[2], "
                "float (&next_block_scale)[1]) {\nSTART BODY\n};",
                "float (&done_block_scale)[1], uint32_t younger) {\nFINISH BODY\n};",
                "uint32_t steps = (7168u + 127u) / 128u;",
                """\
if (steps > 0) {
    start(part, done_row_scale_turns[0], done_block_scale_turns[0]);
    for (; steps > 2; steps -= 2) {
        start(part_1, done_row_scale_turns[1], done_block_scale_turns[1]);
        finish(part, done_row_scale_turns[0], done_block_scale_turns[0], 1);
        start(part, done_row_scale_turns[0], done_block_scale_turns[0]);
        finish(part_1, done_row_scale_turns[1], done_block_scale_turns[1], 1);
    }
    if (steps == 2) {
        start(part_1, done_row_scale_turns[1], done_block_scale_turns[1]);
        finish(part, done_row_scale_turns[0], done_block_scale_turns[0], 1);
        finish(part_1, done_row_scale_turns[1], done_block_scale_turns[1], 0);
    } else {
        finish(part, done_row_scale_turns[0], done_block_scale_turns[0], 0);
    }
}""",
            ),
        ),
        (
            "split_k_swapped",
            "k_overlap",
            0,
            (
                "uint32_t steps = (7168u + 127u) / 128u * (rank + 1) / 4 - (7168u + 127u) / 128u * rank / 4;",
                "float2 done_col_scale_turns[2][4];",
                "float2 (&next_col_scale)[4]) {",
            ),
        ),
        ("rowwise", "k_overlap", 0, ("start = [&](float (&next_part)[32]) {", "start(part);", "finish(part_1, 1);")),
        ("plain", "keep", 0, ("i < 2; ++i) next_row_scale[i] = row_scale[i];",)),
        ("plain", "keep", 1, ("i < 1; ++i) next_block_scale[i] = block_scale[i];",)),
        ("split_k_swapped", "keep", 1, ("i < 4; ++i) next_col_scale[i] = col_scale[i];",)),
        ("plain", "wgmma_wait_older", 0, ("wgmma_wait_older(done_part, younger);",)),
        ("plain", "wait", 0, ("mbarrier_wait(runs_full + 8 * runs.stage, runs.phase);", "until the stage is loaded")),
        ("plain", "wait", 1, ("mbarrier_wait(full + 8 * cursor.stage, cursor.phase);", "until the stage is loaded")),
        ("plain", "wait", 2, ("mbarrier_wait(empty + 8 * cursor_1.stage, cursor_1.phase ^ 1);",)),
        ("cluster", "loaded", 0, ("bool loaded = false;",)),
        ("cluster", "wait", 1, ("if (!loaded) mbarrier_wait(full + 8 * cursor.stage, cursor.phase);",)),
        ("cluster", "place", 1, ("uint32_t a_place_1 = uint32_t(desc_a_1);", "this operand in the step to come")),
        (
            "cluster",
            "place",
            4,
            (
                "uint32_t sa_place_1 = smem + kOffsetSa + 4 * ((warpgroup * 2 + 1) * 64 + row);",
                "this thread's row scales in the step to come",
            ),
        ),
        (
            "cluster",
            "look_ahead",
            0,
            (
                "a_place_1 = uint32_t(desc_a_1) + cursor.stage * (kStageBytesA >> 4);",
                "b_place = uint32_t(desc_b) + cursor.stage * (kStageBytesB >> 4);",
                "sa_place = smem + kOffsetSa + 4 * ((warpgroup * 2 + 0) * 64 + row) + cursor.stage * (kStageBytesSa);",
                "loaded = mbarrier_test(full + 8 * cursor.stage, cursor.phase);",
            ),
        ),
        ("swapped-looking", "look_ahead", 0, ("b_place = uint32_t(desc_a)", "a_place = uint32_t(desc_b)")),
        ("plain", "expect", 0, ("mbarrier_expect(full + 8 * cursor_1.stage, 33280);",)),
        (
            "plain",
            "tma_load",
            0,
            (
                "tma_load(smem + kOffsetA + cursor_1.stage * kStageBytesA, &tma_a, "
                "full + 8 * cursor_1.stage, k0_1, m0_1);",
            ),
        ),
        (
            "cluster",
            "tma_load",
            1,
            (
                "The cluster's first CTA loads 128 rows of b and writes them to all 2 CTAs.",
                "if (rank == 0) {\n    tma_load_multicast(smem + kOffsetB + cursor_1.stage * kStageBytesB, &tma_b, "
                "full + 8 * cursor_1.stage, k0_1, n0_1, 0x3);\n}",
            ),
        ),
        ("plain", "tma_load_scales", 0, ("&tma_sa,", "m0_1")),
        (
            "plain-lanes",
            "copy_scales",
            0,
            (
                "for (uint32_t i = lane; i < 128; i += 32)",
                "block < M;",
                "block * sa_stride_row + k0_2 / 128 * sa_stride_col",
            ),
        ),
        ("ragged", "copy_scales", 0, ("i < 2;", "n0_2 / 128 + i", "block < 2u")),
        (
            "plain",
            "copy_scales",
            0,
            (
                "1 scales of sb for each of 56 steps",
                "for (uint32_t i = lane; i < 56; i += 32) {",
                "block = n0_2 / 128 + i / 56, column = k0_2 / 128 + i % 56;",
                "block < 32u && column < 56u;",
                "inside ? block * sb_stride_row + column * sb_stride_col : 0;",
                "copy_async_4(smem + kOffsetSb + runs_1.stage * kStageBytesSb + 4 * i, sb + element, inside);",
            ),
        ),
        ("ragged-ahead", "copy_scales", 0, ("i < 8;", "n0_2 / 128 + i / 4, column = k0_2 / 128 + i % 4")),
        ("plain-lanes", "copy_arrive", 0, ("copy_async_arrive(full + 8 * cursor_2.stage);",)),
        ("plain-each", "copy_arrive", 0, ("if (lane < 1) copy_async_arrive(full + 8 * cursor_2.stage);",)),
        ("plain", "copy_arrive", 0, ("copy_async_arrive(runs_full + 8 * runs_1.stage);",)),
        ("plain", "release", 0, ("if (lane == 0) mbarrier_arrive(empty + 8 * behind.stage);",)),
        ("plain-steps", "release", 0, ("__syncwarp();", "if (lane == 0) mbarrier_arrive(empty + 8 * cursor.stage);")),
        ("plain", "release", 1, ("mbarrier_arrive(runs_empty + 8 * runs.stage);", "this lane has read the stage")),
        ("cluster", "release", 0, ("if (lane < 2) mbarrier_arrive_cluster(empty + 8 * cursor.stage, lane);",)),
        ("plain", "thread_position", 0, ("row = warp % 4 * 16 + lane / 4;", "quad = lane % 4;")),
        ("plain", "zero", 0, ("float part[64] = {};",)),
        ("plain", "zero", 1, ("float part_1[64] = {};",)),
        ("plain", "zero", 2, ("float sum[64] = {};",)),
        (
            "plain",
            "descriptor",
            0,
            (
                "const uint64_t desc_a = wgmma_descriptor(smem + kOffsetA + warpgroup * 64 * 128);",
                "this warpgroup's 64 rows of a, in stage 0",
            ),
        ),
        (
            "plain",
            "descriptor",
            1,
            ("const uint64_t desc_b = wgmma_descriptor(smem + kOffsetB);", "all of b, in stage 0"),
        ),
        (
            "cluster",
            "descriptor",
            1,
            ("desc_a_1 = wgmma_descriptor(smem + kOffsetA + (warpgroup * 2 + 1) * 64 * 128);",),
        ),
        ("plain", "stage_descriptor", 0, ("const uint64_t a_at = desc_a + cursor.stage * (kStageBytesA >> 4);",)),
        ("cluster", "stage_descriptor", 1, ("const uint64_t a_at_1 = desc_a_1 >> 32 << 32 | a_place_1;",)),
        ("cluster", "stage_descriptor", 2, ("const uint64_t b_at = desc_b >> 32 << 32 | b_place;",)),
        (
            "plain-steps",
            "wgmma",
            0,
            (
                "wgmma_start_m64n128k32_e4m3_e4m3(part, a_at, b_at);",
                "a_at + 2, b_at + 2",
                "a_at + 6, b_at + 6",
                "wgmma_commit();",
            ),
        ),
        ("plain", "wgmma", 0, ("wgmma_start_m64n128k32_e4m3_e4m3(next_part, a_at, b_at);",)),
        (
            "plain",
            "promote_rows",
            0,
            ("low = done_row_scale[0] * done_block_scale[0]", "fmaf(done_part[4 * group + 3]"),
        ),
        ("swapped", "promote_columns", 0, ("done_block_scale[0] * done_col_scale[group].x",)),
        ("cluster", "wgmma", 1, ("wgmma_start_m64n128k32_e4m3_e4m3(part, a_at_1, b_at);",)),
        ("no_promotion", "wgmma", 0, ("wgmma_add_m64n128k32_e4m3_e4m3(sum, a_at, b_at);",)),
        ("plain-steps", "wgmma_wait", 0, ("wgmma_wait<0>(part);",)),
        ("plain", "row_scales", 0, ("load_shared(row_scale_at)", "load_shared(row_scale_at + 32)")),
        ("cluster", "row_scales", 1, ("row_scale_1[] = {load_shared(sa_place_1), load_shared(sa_place_1 + 32)};",)),
        ("swapped", "column_scales", 0, ("float2 col_scale[3];", "+ 32 * group + 8 * quad")),
        (
            "ragged",
            "block_scales",
            0,
            (
                "block_scale[] = {load_shared(",
                "* kStageBytesSb + 4)}",
            ),
        ),
        (
            "plain",
            "block_scales",
            0,
            ("block_scale[] = {load_shared(smem + kOffsetSb + runs.stage * kStageBytesSb + 4 * runs.step)};",),
        ),
        ("ragged-ahead", "block_scales", 0, ("* kStageBytesSb + 4 * runs.step + 16)};",)),
        (
            "plain-steps",
            "promote_rows",
            0,
            (
                "group < 16;",
                "const float low = row_scale[0] * block_scale[0], high = row_scale[1] * block_scale[0];",
                "fmaf(part[4 * group + 3]",
            ),
        ),
        (
            "ragged-steps",
            "promote_rows",
            0,
            (
                "for (uint32_t col = 0; col < 96; col += 32) {\n    float scale = block_scale[0];\n"
                "    if (n0 % 128 + col >= 128) scale = block_scale[1];",
                "const float low = row_scale[0] * scale, high = row_scale[1] * scale;",
                "for (uint32_t group = col / 8; group < (col + 32) / 8; ++group) {",
            ),
        ),
        ("swapped-steps", "promote_columns", 0, ("group < 3;", "block_scale[0] * col_scale[group].x")),
        ("rowwise-steps", "add_part", 0, ("sum[i] += part[i];",)),
        (
            "rowwise",
            "scale",
            0,
            ("load_scale(sa, m0 + warpgroup * 64 + row, sa_stride_row, M)", "load_scale(sb, column, "),
        ),
        ("plain", "staging_wait", 0, ("tma_store_wait_read();", "named_barrier_sync(1 + warpgroup, 128);")),
        ("plain", "staging_publish", 0, ("fence_async_shared();",)),
        ("plain", "store_rows", 0, ("group < 8;", "stmatrix_4(", "pack_bf16(sum[8 * group + 0]", ">> 7 & 7")),
        ("ragged", "store_rows", 0, ("16 * group / 32 * 4096", ">> 7 & 3")),
        (
            "swapped",
            "store_columns",
            0,
            ("stmatrix_4_transposed(", "pair < 1;", "stmatrix_2_transposed(", "8 * 2 + lane % 8"),
        ),
        (
            "plain",
            "tma_store",
            0,
            (
                "tma_store(&tma_d, smem + kOffsetStaging + warpgroup * 16384, n0, m0 + warpgroup * 64);",
                "warpgroup * 16384 + 8192, n0 + 64,",
            ),
        ),
        ("swapped", "tma_store", 0, ("n0 + warpgroup * 64, m0);",)),
        ("plain", "store_commit", 0, ("tma_store_commit();",)),
        ("plain", "store_drain", 0, ("tma_store_wait_read();",)),
        ("split_k_swapped", "group_sync", 0, ("named_barrier_sync(2, 128);",)),
        ("split_k_swapped", "write_partial", 0, ("i < 16;", "element_row * 1 + element_col * 68")),
        (
            "split_k_swapped",
            "reduce_store",
            0,
            ("i < 512; i += 4 * 128", "peer < 4;", "if (m0 + element_row < M)", "576u"),
        ),
        ("direct_store", "store_direct", 0, ("i < 32;", "< 100u", "d[m * d_stride_row + n]")),
    ],
)
def test_text(case: str, name: str, nth: int, parts: tuple[str, ...]):
    text = text_of(case, name, nth)
    for part in parts:
        assert part in text, text
    assert f"[sm90.{name}]" in text or name in ("dispatch",), "the comment names the op that the lines come from"


def test_every_op_of_the_kernels_is_rendered_above():
    """The table is complete: no op of any case lacks a row."""
    rows = {row[1] for row in test_text.pytestmark[0].args[1]}
    cases = [module_of(case) for case in (*CASES, "plain-lanes", "plain-steps", "plain-each")]
    assert {op.NAME.removeprefix("sm90.") for module in cases for op in walk(module)} == rows


def test_helpers_are_what_the_text_calls():
    found = emission("cluster", op_of("cluster", "tma_load", 1))
    assert [helper.template for helper in found.helpers] == ["tma_load_multicast"]
    found = emission("cluster", op_of("cluster", "look_ahead"))
    assert [helper.template for helper in found.helpers] == ["mbarrier_test"]
    found = emission("plain", op_of("plain", "wgmma"))
    fields = {helper.template: dict(helper.fields) for helper in found.helpers}
    assert set(fields) == {"wgmma_sync", "wgmma_start", "wgmma_add"}
    assert fields["wgmma_start"]["count"] == 64
    found = emission("plain", op_of("plain", "descriptor"))
    assert [helper.template for helper in found.helpers] == ["wgmma_descriptor"]


def test_shares_of_a_box_that_has_no_leader():
    """As on Blackwell: each CTA loads a part."""
    op = op_of("cluster", "tma_load", 1)
    assert isinstance(op, TmaLoadOp)
    found = emission("cluster", op.replace(leader=False))
    assert found.template == "tma_load_multicast"
    text = render(f"sm90/{found.template}", {**found.fields, "op_name": op.NAME})
    assert "This CTA loads its 64 rows of b and writes them to all 2 CTAs of the cluster." in text
    assert "+ rank * 8192, &tma_b," in text
    assert "n0_1 + rank * 64, 0x3);" in text


def test_scales_of_shared_rows_come_from_the_first_cta():
    op = op_of("cluster", "tma_load_scales")
    assert isinstance(op, TmaLoadScalesOp)
    found = emission("cluster", op.replace(multicast=4))
    assert found.fields["text"] == (
        "if (rank == 0) tma_load_multicast(smem + kOffsetSa + cursor_1.stage * kStageBytesSa, &tma_sa, "
        "full + 8 * cursor_1.stage, m0_1, k0_1 / 128, 0xf);"
    )
    assert [helper.template for helper in found.helpers] == ["tma_load_multicast"]


def test_every_lane_releases_to_its_cta_and_one_to_each_other():
    op = op_of("cluster", "release")
    assert isinstance(op, ReleaseOp)
    found = emission("cluster", op.replace(cluster=4, lanes=True))
    text = render(f"sm90/{found.template}", {**found.fields, "op_name": op.NAME}).splitlines()
    assert [row.partition("  //")[0] for row in text] == [
        "mbarrier_arrive(empty + 8 * cursor.stage);",
        "__syncwarp();",
        "if (lane < 4 && lane != rank) mbarrier_arrive_cluster(empty + 8 * cursor.stage, lane);",
    ]
    assert [helper.template for helper in found.helpers] == ["mbarrier_arrive", "mbarrier_arrive_cluster"]


def test_what_is_younger_is_known_where_a_wait_is_inlined():
    """wgmma's wait takes a constant, and every call of ``finish`` has one."""
    found = emission("plain", op_of("plain", "wgmma_wait_older"))
    assert [helper.template for helper in found.helpers] == ["wgmma_wait", "wgmma_wait_older"]
    source = built("plain").source
    assert source.index("void wgmma_wait(") < source.index("void wgmma_wait_older(") < source.index('extern "C"')
    calls = re.findall(r"finish\(.*, (\w+)\);", source)
    assert calls == ["1", "1", "1", "0", "0"]


def test_every_called_function_is_defined():
    for case in CASES:
        source = built(case).source
        body = source[source.index('extern "C"') :]
        for name in (
            "mbarrier_wait",
            "mbarrier_test",
            "tma_load",
            "tma_store",
            "stmatrix_4",
            "wgmma_wait",
            "cluster_sync",
            "load_scale",
        ):
            if f" {name}(" in body or f" {name}<" in body:
                assert f" {name}(" in source[: source.index('extern "C"')], (case, name)


def test_raster_along_n_turns_the_axes():
    op = op_of("plain", "tile_loop")
    assert isinstance(op, TileLoopOp)
    fields = emission("plain", op.replace(raster_along="n")).fields
    assert (fields["along"], fields["across"]) == ("tiles_n", "tiles_m")
    assert fields["start_m"] == "tile_start<128>(position.across, M)"


def test_tiles_end_with_d_along_axes_whose_scales_allow_it():
    """Scales of B hold for blocks of 128 columns: tiles start with a block. 16-bit operands have none."""
    op = op_of("plain", "tile_loop")
    assert isinstance(op, TileLoopOp)
    assert (op.inside_m, op.inside_n) == (True, False)
    fields = emission("plain", op.replace(inside_m=False, inside_n=True)).fields
    assert fields["start_m"] == "position.along * 128"
    assert fields["start_n"] == "tile_start<128>(position.across, 4096u)"
    rows = op_of("rowwise", "tile_loop")
    assert isinstance(rows, TileLoopOp)
    assert (rows.inside_m, rows.inside_n) == (True, True)


def test_names():
    at = Value("cursor", INDEX)
    assert names.offset("full") == "kOffsetFull"
    assert names.stage_bytes("row_scales") == "kStageBytesRowScales"
    assert names.stage_address("a", at) == "smem + kOffsetA + cursor.stage * kStageBytesA"
    assert names.barrier(Value("full", INDEX), at) == "full + 8 * cursor.stage"
    assert (names.wave_rows(1, 0), names.wave_rows(2, 1)) == ("warpgroup * 64", "(warpgroup * 2 + 1) * 64")
    assert (names.wave_index(1, 0), names.wave_index(2, 1)) == ("warpgroup", "(warpgroup * 2 + 1)")


@pytest.mark.parametrize(
    ("value", "text"), [(7168, "7168u"), (dim_symbol("M"), "M"), (ceildiv(dim_symbol("M"), 128), "((M + 127) / 128)")]
)
def test_dimensions(value: object, text: str):
    assert names.dim(value).replace("u", "") == text.replace("u", "")  # type: ignore[arg-type]


def test_only_known_parameters():
    module = module_of("plain")
    odd = module.replace(args=(*module.args, Value("x", gmem(E2M1, 8))))
    with pytest.raises((IRError, KeyError)):
        emit_cuda(odd)


def test_source_reads_well():
    """Named constants, a comment per role, an op's name on every statement, no includes, short lines."""
    for case in CASES:
        source = built(case).source
        assert "#include" not in source
        assert "constexpr uint32_t kOffsetA = " in source
        assert "// ---- math: " in source
        assert "// ---- load: " in source
        lines = [line for line in source.splitlines() if '"' not in line and "__grid_constant__" not in line]
        assert max(len(line.split("//")[0]) for line in lines) <= 180, max(lines, key=len)
        assert not any(line != line.rstrip() for line in source.splitlines()), case


def test_ops_are_of_known_kinds():
    assert isinstance(op_of("plain", "warps"), WarpsOp)
    assert isinstance(op_of("plain", "wait"), WaitOp)
    assert isinstance(op_of("plain", "tma_load"), TmaLoadOp)
