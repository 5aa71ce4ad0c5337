"""Hopper kernels whose steps look ahead for the next one: values, races, mistakes.

Each kernel runs in the emulator under all of its schedulers, on as many tiles per CTA as wrap its ring several times.
Mutants are one change to generated CUDA; the emulator must report something or the values must be wrong.
"""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest
import sm90_cases
from sm90_cases import NUM_SMS, TARGET, Kernel, emulated
from sm100_cases import Case, case, sizes_of

from gemmgen.reference import TOLERANCE
from gemmgen.runtime import nvrtc
from gemmgen.spec.model import Warps
from gemmgen.verification import SCHEDULES

UNROLLED = 2
CASES: dict[str, Case] = {
    "tiles": case(70, 72, 400, tile=(64, 64, 128), stages=3),
    "one_stage": case(70, 72, 272, tile=(64, 64, 128), stages=1),
    "two_waves": case(140, 72, 272, tile=(128, 64, 128), stages=2, warps=Warps(math=1)),
    "two_groups": case(150, 72, 272, tile=(256, 64, 128), stages=2),
    "blocks_96": case(70, 104, 272, tile=(64, 96, 128), stages=2),
    "blocks_144": case(20, 296, 144, tile=(64, 144, 128), stages=2),
    "blocks_192": case(70, 200, 144, tile=(128, 192, 128), stages=2),
    "scales_ahead": case(70, 72, 400, tile=(64, 64, 128), stages=3, scales_ahead=True),
    "cluster_m": case(300, 64, 272, tile=(128, 64, 128), stages=2, cluster=(2, 1)),
    "cluster_n": case(70, 136, 272, tile=(64, 64, 128), stages=2, cluster=(1, 2)),
    "lanes": case(70, 72, 400, tile=(64, 64, 128), stages=3),
    "lanes_cluster": case(200, 72, 272, tile=(64, 64, 128), stages=2, cluster=(2, 1)),
    "swapped": case(40, 136, 272, tile=(16, 64, 128), stages=3, swap_ab=True),
    "split": case(20, 72, 912, tile=(64, 64, 128), stages=2, split_k=3),
    "rowwise": case(70, 72, 272, "fp8_gemm_nt_rowwise", tile=(64, 64, 128), stages=3),
}  # fmt: skip
"""Tails in M, N and K; blocks that end within a tile; scales of every step, of all steps of a tile, and of no step."""
BOTH = ("tiles", "two_waves")
"""Those that run unrolled, too."""


@cache
def built(name: str, unroll: int = 0) -> Kernel:
    scale_copy = "lanes" if name.startswith("lanes") else "bulk"
    found = sm90_cases.kernel(CASES[name], scale_copy, lookahead=True, promotion_overlap=False, unroll=unroll)
    assert found.artifact.schedule.lookahead
    return found


@pytest.mark.parametrize(("name", "unroll"), [*((name, 0) for name in CASES), *((name, UNROLLED) for name in BOTH)])
def test_values(name: str, unroll: int):
    found = built(name, unroll)
    assert (f"#pragma unroll {UNROLLED}\n" in found.artifact.source) == (unroll > 0)
    for schedule in SCHEDULES:
        report, _, difference = emulated(found, schedule)
        assert report.ok, str(report)
        assert difference < TOLERANCE


def test_values_are_those_without():
    """What is looked for early is the same: so is every bit of D."""
    plain = sm90_cases.kernel(CASES["two_waves"], lookahead=False, promotion_overlap=False, unroll=0)
    assert "sm90.look_ahead" not in plain.artifact.source
    mine, its = (emulated(kernel, "random")[1].view(np.uint16) for kernel in (built("two_waves"), plain))
    assert np.array_equal(mine, its)


def test_rings_wrap_from_tile_to_tile():
    """What the cases rely on: a CTA of the first makes two tiles of four steps, with a ring of three stages."""
    rows, cols, depth = sizes_of(CASES["tiles"])
    assert (-(-rows // 64) * -(-cols // 64), -(-depth // 128)) == (2 * NUM_SMS, 4)
    assert "cursor.advance<3>" in TILES


@pytest.mark.parametrize(("name", "unroll"), [("two_waves", UNROLLED), ("two_groups", 4), ("swapped", UNROLLED)])
def test_ptxas_lets_products_run_by_themselves(name: str, unroll: int):
    """It warns where code touches sums that are under way, which unrolled steps might."""
    artifact = built(name, unroll).artifact
    compiled = nvrtc.compile_cuda(artifact.source, artifact.name, TARGET, want_ptx=False)
    assert compiled.resources.warnings == ()
    assert compiled.resources.spill_store_bytes == 0


TILES, TWO_WAVES, CLUSTER, GROUPS = (
    built(name).artifact.source for name in ("tiles", "two_waves", "cluster_n", "cluster_m")
)
changed, dropped, moved = (
    partial(change, source=TILES) for change in (sm90_cases.changed, sm90_cases.dropped, sm90_cases.moved)
)
LOOK = "loaded = mbarrier_test("

MUTANTS: dict[str, str] = {
    "a test of the other phase": changed(f"{LOOK}full + 8 * cursor.stage, cursor.phase",
                                         f"{LOOK}full + 8 * cursor.stage, cursor.phase ^ 1"),
    "a test of the other barriers": changed("mbarrier_test(full", "mbarrier_test(empty"),
    "a test of the stage that was read": moved(LOOK, "cursor.advance<3>();"),
    "what was seen once holds for ever": changed(LOOK, "loaded = loaded || mbarrier_test("),
    "the next stage is taken to be loaded": changed(LOOK, "loaded = true || mbarrier_test("),
    "the first stage is taken to be loaded": changed("bool loaded = false;", "bool loaded = true;"),
    "no wait": dropped("if (!loaded) mbarrier_wait(full"),
    "seen to be loaded, and another stage released": changed("if (!loaded)", "if (loaded) cursor.stage ^= 1; else"),
    "a wait if the stage is loaded": changed("if (!loaded) mbarrier_wait", "if (loaded) mbarrier_wait"),
    "a wait for the other phase": changed("cursor.phase);", "cursor.phase ^ 1);"),
    "looked at before the cursor moves": moved("cursor.advance<3>();", "// Promotion: scale"),
    "A's place stays": dropped("a_place = "),
    "B's place stays": dropped("b_place = "),
    "the scales' place stays": dropped("sa_place = "),
    "a place moves by another stage's bytes": changed("cursor.stage * (kStageBytesB >> 4)",
                                                      "cursor.stage * (kStageBytesSa >> 4)"),
    "a place moves from where it was": changed("a_place = uint32_t(desc_a) + cursor", "a_place = a_place + cursor"),
    "places of A and B exchanged": changed("| a_place;", "| b_place;").replace(
        "b_at = desc_b >> 32 << 32 | b_place", "b_at = desc_b >> 32 << 32 | a_place"),
    "a descriptor of its low word": changed("desc_b >> 32 << 32 | b_place", "uint64_t(b_place)"),
    "a first place in the second stage": changed("uint32_t(desc_a);", "uint32_t(desc_a) + (kStageBytesA >> 4);"),
    "no wait for the products": dropped("wgmma_wait<0>(part);"),
    "released while the products are under way": moved("mbarrier_arrive(empty", "wgmma_wait<0>(part);"),
    "never released": dropped("mbarrier_arrive(empty"),
    "released by one lane": changed("mbarrier_arrive(empty", "if (lane == 0) mbarrier_arrive(empty"),
}  # fmt: skip

TWO_WAVES_MUTANTS: dict[str, str] = {
    "the other wave's place stays": dropped("a_place_1 = ", source=TWO_WAVES),
    "the other wave's scales stay": dropped("sa_place_1 = ", source=TWO_WAVES),
    "scales of the first wave for both": changed("row_scale_1[] = {load_shared(sa_place_1)",
                                                 "row_scale_1[] = {load_shared(sa_place)", source=TWO_WAVES),
    "rows of the first wave for both": changed("a_at_1 = desc_a_1 >> 32 << 32 | a_place_1",
                                               "a_at_1 = desc_a_1 >> 32 << 32 | a_place", source=TWO_WAVES),
    "released after the first wave": moved("mbarrier_arrive(empty", "const float row_scale_1", source=TWO_WAVES),
}  # fmt: skip

LEADS = "if (rank == 0) {\n                    tma_load_multicast"
CLUSTER_MUTANTS: dict[str, str] = {
    "every CTA loads what is shared": changed(LEADS, LEADS.replace("rank == 0", "true"), source=CLUSTER),
    "nobody loads what is shared": changed(LEADS, LEADS.replace("rank == 0", "false"), source=CLUSTER),
    "the first CTA loads for itself alone": changed("k0_1, m0_1, 0x3)", "k0_1, m0_1, 0x1)", source=CLUSTER),
    "the first CTA loads for the other alone": changed("k0_1, m0_1, 0x3)", "k0_1, m0_1, 0x2)", source=CLUSTER),
    "the second CTA loads what is shared in the first one's place": changed(
        LEADS, LEADS.replace("rank == 0", "rank == 1"), source=CLUSTER).replace("k0_1, m0_1, 0x3)", "k0_1, m0_1, 0x1)"),
    "every CTA loads shared scales": changed("if (rank == 0) tma_load_multicast", "tma_load_multicast", source=CLUSTER),
    "shared scales for the first CTA alone": changed("k0_1 / 128, 0x3)", "k0_1 / 128, 0x1)", source=CLUSTER),
    "bytes of the own boxes expected": changed("16640);", "8192);", source=CLUSTER),
    "released to this CTA alone": changed("lane < 2 && lane != rank", "false", source=CLUSTER),
    "released to this CTA once more": changed("lane < 2 && lane != rank", "lane < 2", source=CLUSTER),
    "released by one lane": changed("mbarrier_arrive(empty", "if (lane == 0) mbarrier_arrive(empty", source=CLUSTER),
    "released by every lane to the other CTA": changed(
        "if (lane < 2 && lane != rank) mbarrier_arrive_cluster(empty + 8 * cursor.stage, lane)",
        "mbarrier_arrive_cluster(empty + 8 * cursor.stage, rank ^ 1)", source=CLUSTER),
    "CTAs end when they are done": dropped("cluster_sync();", 1, source=CLUSTER),
}  # fmt: skip

GROUPS_MUTANTS: dict[str, str] = {
    "a warpgroup ends when it is done": changed("if (warp < 8) {\n        // ---- end",
                                                "if (warp < 4) {\n        // ---- end", source=GROUPS),
    "the warps that load meet instead": changed("if (warp < 8) {\n        // ---- end",
                                                "if (warp >= 8) {\n        // ---- end", source=GROUPS),
}  # fmt: skip

ALL_MUTANTS = {
    (name, what): mutant
    for name, mutants in {
        "tiles": MUTANTS, "two_waves": TWO_WAVES_MUTANTS, "cluster_n": CLUSTER_MUTANTS, "cluster_m": GROUPS_MUTANTS,
    }.items()
    for what, mutant in mutants.items()
}  # fmt: skip


@pytest.mark.parametrize(("name", "mutant"), ALL_MUTANTS)
def test_caught(name: str, mutant: str):
    assert sm90_cases.caught(built(name), ALL_MUTANTS[name, mutant])
