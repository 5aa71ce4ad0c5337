"""Illegal overlapped steps of K: stages that are read or released too early or too late, and fragments under way."""

from __future__ import annotations

import pytest
from ir_texts import edited, rejected
from target_texts import OVERLAP, RUNS_OVERLAP, Change, after, line, without

from gemmgen.backends.sm90.overlap_rules import PLAYED_STEPS
from gemmgen.ir import parse_module, print_module, verify

Mistakes = dict[str, tuple[tuple[Change, ...], tuple[str, ...]]]
NO_ARRIVALS: Change = ("arrivals=8", "arrivals=0")
"""Without a release nobody arrives, which another law would find first."""
WGMMA, PROMOTE = line(OVERLAP, "sm90.wgmma("), line(OVERLAP, "sm90.promote_rows")
WAIT, RELEASE = line(OVERLAP, "sm90.wait(barriers=%full"), line(OVERLAP, "sm90.release")
WAIT_OLDER, BEHIND = line(OVERLAP, "sm90.wgmma_wait_older"), line(OVERLAP, "sm90.advance(cursor=%behind)")
STARTED, KEEP = line(OVERLAP, "sm90.advance(cursor=%cursor)"), line(OVERLAP, "sm90.keep")
LATE_WGMMA = WGMMA.replace("%next_part, cursor=%cursor", "%done_part, cursor=%behind")
LATE_WGMMA = LATE_WGMMA.replace("%a_at", "%desc_a").replace("%b_at", "%desc_b")
PART, PART_1 = line(OVERLAP, "sm90.zero"), line(OVERLAP, "sm90.zero", 1)

STAGES: Mistakes = {
    "scales read before the wait": (
        after(OVERLAP, "sm90.wait(barriers=%full", "sm90.block_scales"),
        ("sm90.block_scales", "area 'sb' is read before its stage is loaded", "need: sm90.wait"),
    ),
    "products before the wait": (
        after(OVERLAP, "sm90.wait(barriers=%full", "sm90.wgmma("),
        ("is read before its stage is loaded",),
    ),
    "products read no area that is waited for": (
        (("sm90.wait(barriers=%full, cursor=%cursor)", "sm90.wait(barriers=%empty, cursor=%cursor)"),),
        ("sm90.block_scales", "area 'sb' is read before its stage is loaded"),
    ),
    "wait for the other phase": (
        (("{flip=false}", "{flip=true}"),),
        ("sm90.wait", "steps that overlap wait for what is loaded", "got: flip=true"),
    ),
    "scales read behind the release": (
        (
            (PROMOTE, line(OVERLAP, "sm90.block_scales").replace("%block_scale =", "%late =").replace(
                "%cursor", "%behind") + PROMOTE),
            ("blocks=%done_block_scale", "blocks=%late"),
        ),
        ("sm90.block_scales", "a stage is not read after its release", "sm90.block_scales after sm90.release"),
    ),
    "scales of the next stage": (
        (
            (WAIT_OLDER, line(OVERLAP, "sm90.block_scales").replace("%block_scale =", "%late =") + WAIT_OLDER),
            (BEHIND, BEHIND + STARTED),
        ),
        ("is read before its stage is loaded",),
    ),
    "released while the products are under way": (
        after(OVERLAP, "sm90.wgmma_wait_older", "sm90.release"),
        ("sm90.release", "a stage is released while a wgmma reads it", "need: sm90.wgmma_wait_older"),
    ),
    "released by the region that starts": (
        ((RELEASE, ""), (STARTED, RELEASE.replace("%behind", "%cursor") + STARTED)),
        ("sm90.release", "a stage is released while a wgmma reads it"),
    ),
    "the stage of the next step": (
        (("cursor=%behind) {cluster=1}", "cursor=%cursor) {cluster=1}"), (BEHIND, BEHIND + STARTED)),
        ("sm90.release", "a stage is released once, by those who waited for it", "got: another stage"),
    ),
    "released twice": (
        ((RELEASE, 2 * RELEASE), ("arrivals=8", "arrivals=16")),
        ("sm90.release", "a stage is released once, by those who waited for it"),
    ),
    "never released": (
        ((RELEASE, ""), NO_ARRIVALS),
        ("sm90.k_overlap", "every stage is released once its step is finished", "got: 0 of 1"),
    ),
    "a ring of one stage": (
        (
            *((f'name="{name}", offset={offset}, stage_bytes={size}, stages=3', f'name="{name}", offset={offset}, '
               f"stage_bytes={size}, stages=1")
              for name, offset, size in (("a", 0, 16384), ("sa", 90112, 512), ("b", 49152, 8192), ("sb", 91648, 16),
                                         ("full", 91696, 8), ("empty", 91720, 8))),
            *2 * ((": barrier<3>", ": barrier<1>"),),
            *4 * (("{stages=3}", "{stages=1}"),),
        ),
        ("sm90.wait", "a stage is waited for that nobody can load yet", "got: 1 stages", "need: 2"),
    ),
}  # fmt: skip

FRAGMENTS: Mistakes = {
    "no wait for the products": (
        ((WAIT_OLDER, ""), (RELEASE, ""), NO_ARRIVALS),
        ("sm90.promote_rows", "belongs to the tensor core until a wait", "need: sm90.wgmma_wait_older"),
    ),
    "wait behind the promotion": (
        (*after(OVERLAP, "sm90.wgmma_wait_older", "sm90.promote_rows"), (RELEASE, ""), NO_ARRIVALS),
        ("sm90.promote_rows", "%part belongs to the tensor core until a wait", "got: step 0 under way"),
    ),
    "promoted while it is started": (
        (
            (PROMOTE, ""),
            (STARTED, PROMOTE.replace("%done_", "%next_") + STARTED),
        ),
        ("sm90.promote_rows", "%part belongs to the tensor core until a wait"),
    ),
    "the younger fragment promoted": (
        (("part=%done_part, rows", "part=%part_1, rows"),),
        ("sm90.promote_rows", "%part_1 belongs to the tensor core until a wait", "got: step 1 under way"),
    ),
    "one fragment for both steps": (
        (("sm90.wgmma(part=%next_part", "sm90.wgmma(part=%part"),),
        ("sm90.wgmma", "%part belongs to the tensor core until a wait"),
    ),
    "a fragment that does not take turns": (
        (("partials=[%part, %part_1]", "partials=[%part, %part]"),),
        ("sm90.wgmma", "%part belongs to the tensor core until a wait"),
    ),
    "wait for another fragment": (
        (("sm90.wgmma_wait_older(values=[%done_part])", "sm90.wgmma_wait_older(values=[%part])"),),
        ("sm90.wgmma_wait_older", "a step waits for its own products", "got: %part", "need: %done_part"),
    ),
    "products that go on from older ones": (
        (("row_bytes=128, waves=1, wave=0}\n", "row_bytes=128, waves=1, wave=0, accumulate=true}\n"),),
        ("sm90.wgmma", "a partial sum begins anew in every step", "got: accumulate=true"),
    ),
    "fragments of two types": (
        ((PART_1, PART_1.replace("[64, 64]", "[64, 32]")),),
        ("sm90.k_overlap", "fragments that take turns", "need: two of one type"),
    ),
    "three fragments": (
        ((PART_1, PART_1 + PART_1.replace("%part_1", "%part_2")), ("[%part, %part_1]", "[%part, %part_1, %part_2]")),
        ("sm90.k_overlap", "fragments that take turns", "need: two of one type"),
    ),
    "one fragment": (
        (("[%part, %part_1]", "[%part]"),),
        ("sm90.k_overlap", "fragments that take turns", "need: two of one type"),
    ),
    "regions that get different things": (
        (
            (", %done_block_scale: frag<f32, [1]>)", ")"),
            ("blocks=%done_block_scale", "blocks=%done_row_scale"),
        ),
        ("sm90.k_overlap", "both regions get a fragment and what is kept beside it"),
    ),
    "regions that get another fragment": (
        (("%next_part: frag<f32, [64, 64]>", "%next_part: frag<f32, [64, 32]>"),
         ("%done_part: frag<f32, [64, 64]>", "%done_part: frag<f32, [64, 32]>")),
        ("sm90.k_overlap", "both regions get a fragment and what is kept beside it", "need: ['frag<f32, [64, 64]>'"),
    ),
}  # fmt: skip

STEPS: Mistakes = {
    "the step's cursor stays": (((STARTED, ""),), ("%cursor stays where it is", "no sm90.advance")),
    "the older step's cursor stays": (((BEHIND, ""),), ("sm90.release", "%behind stays where it is")),
    "the older step's cursor moves twice": (
        ((BEHIND, 2 * BEHIND),),
        ("sm90.advance", "a cursor moves once in a step: %behind"),
    ),
    "the step's cursor moves in both regions": (
        ((BEHIND, BEHIND + STARTED),),
        ("sm90.release", "a stage is released once, by those who waited for it", "got: another stage"),
    ),
    "a cursor of another ring": (
        ((STARTED, STARTED.replace("stages=3", "stages=2")),),
        ("sm90.advance", "%cursor moves through area", "got: 2 stages"),
    ),
    "a cursor begun for each tile": (
        (
            without(OVERLAP, "sm90.cursor"),
            (line(OVERLAP, "sm90.zero", 2), line(OVERLAP, "sm90.cursor") + line(OVERLAP, "sm90.zero", 2)),
        ),
        ("%behind goes on from tile to tile",),
    ),
    "a scale that is not kept": (
        ((KEEP, ""),),
        ("sm90.k_overlap", "%next_row_scale is kept once for the region that finishes the step", "got: 0 times"),
    ),
    "a scale that is kept twice": (((KEEP, 2 * KEEP),), ("%next_row_scale is kept once", "got: 2 times")),
    "a scale in another one's registers": (
        (("kept=%next_row_scale", "kept=%next_block_scale"),),
        ("sm90.keep", "values are kept in what the region was given for them", "got: frag<f32, [2]>"),
    ),
    "a value kept where the step ends": (
        ((BEHIND, BEHIND + KEEP.replace("%row_scale", "%done_row_scale").replace("%next_", "%done_")),),
        ("sm90.keep has no place in region 'finish' of sm90.k_overlap",),
    ),
    "a load among the products": (
        ((STARTED, line(OVERLAP, "sm90.staging_wait") + STARTED),),
        ("sm90.staging_wait has no place in region 'start' of sm90.k_overlap", "need: sm90.stage_descriptor"),
    ),
    "a branch": (
        ((KEEP, f'sm90.warps() {{label="half", first=0, count=4}} do {{\n{KEEP}}}\n'),),
        ("sm90.warps has no place in region 'start' of sm90.k_overlap",),
    ),
    "products where the step ends": (
        ((PROMOTE, LATE_WGMMA + PROMOTE),),
        ("sm90.wgmma has no place in region 'finish' of sm90.k_overlap",),
    ),
    "a wait for older products outside": (
        ((line(OVERLAP, "sm90.staging_wait"), WAIT_OLDER.replace("%done_part", "%part")),),
        ("sm90.wgmma_wait_older belongs to overlapped steps", "need: sm90.k_overlap"),
    ),
}  # fmt: skip

CORPUS = {
    f"{group} {name}": mistake
    for group, mistakes in {"stages": STAGES, "fragments": FRAGMENTS, "steps": STEPS}.items()
    for name, mistake in mistakes.items()
}


RUN_WAIT, RUN_STEP = line(RUNS_OVERLAP, "sm90.wait(barriers=%runs_full"), line(RUNS_OVERLAP, "sm90.run_step")
RUN_RELEASE = line(RUNS_OVERLAP, "sm90.release(barriers=%runs_empty")
RUN_ADVANCE, RUN_SCALES = line(RUNS_OVERLAP, "sm90.advance(cursor=%runs)"), line(RUNS_OVERLAP, "sm90.block_scales")
LATE_SCALES = RUN_SCALES.replace("%block_scale =", "%late =")

RUNS: Mistakes = {
    "not waited for": (
        ((RUN_WAIT, ""),),
        ("sm90.block_scales", "area 'sb' is read before its stage is loaded", "need: sm90.wait"),
    ),
    "waited for in every step": (
        ((RUN_WAIT, ""), (RUN_SCALES, RUN_WAIT + RUN_SCALES)),
        ("%runs is in one stage for all steps of a tile", "got: sm90.wait in a step"),
    ),
    "released in every step": (
        ((RUN_RELEASE, ""), (RUN_STEP, RUN_RELEASE + RUN_STEP)),
        ("%runs is in one stage for all steps of a tile", "got: sm90.release in a step"),
    ),
    "never released": (
        ((RUN_RELEASE, ""), ('area="runs_empty", arrivals=8', 'area="runs_empty", arrivals=0')),
        ("sm90.k_overlap", "a stage for a whole tile is waited for once, released after the last step"),
    ),
    "its cursor stays": (
        ((RUN_ADVANCE, ""),),
        (
            "sm90.k_overlap",
            "a stage for a whole tile is waited for once, released after the last step",
            "got: sm90.release",
        ),
    ),
    "steps not counted": (((RUN_STEP, ""),), ("sm90.block_scales", "%runs stays where it is")),
    "steps counted where they end": (
        ((BEHIND, BEHIND + RUN_STEP),),
        ("sm90.run_step has no place in region 'finish' of sm90.k_overlap",),
    ),
    "scales of the younger step": (
        (
            (PROMOTE, LATE_SCALES + PROMOTE),
            ("blocks=%done_block_scale", "blocks=%late"),
            (BEHIND, BEHIND + RUN_ADVANCE),
        ),
        ("%runs is in one stage for all steps of a tile",),
    ),
    "scales of the younger step, counted once": (
        ((PROMOTE, LATE_SCALES + PROMOTE), ("blocks=%done_block_scale", "blocks=%late")),
        ("sm90.block_scales", "%runs stays where it is"),
    ),
    "copied by every step": (
        (("parts=1, run=2}", "parts=1}"),),
        ("a loop takes as many steps at a time as its copies", "got: 1 in a turn", "need: 2"),
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_mistake_with_scales_ahead(name: str):
    changes, parts = RUNS[name]
    rejected(edited(RUNS_OVERLAP, *changes), *parts)


@pytest.mark.parametrize("name", CORPUS)
def test_mistake(name: str):
    changes, parts = CORPUS[name]
    rejected(edited(OVERLAP, *changes), *parts)


def test_the_corpus_starts_from_a_legal_module():
    verify(parse_module(OVERLAP))
    assert print_module(parse_module(OVERLAP)) == OVERLAP


def test_the_ways_to_read_scales_early_or_late_enough():
    """Behind the wait for products the stage is still this step's, and scales need not go through kept registers."""
    late = line(OVERLAP, "sm90.block_scales").replace("%block_scale =", "%late =").replace("%cursor", "%behind")
    verify(parse_module(edited(OVERLAP, (RELEASE, late + RELEASE), ("blocks=%done_block_scale", "blocks=%late"))))


def test_two_stages_are_enough():
    text = OVERLAP.replace("stages=3", "stages=2").replace("barrier<3>", "barrier<2>")
    verify(parse_module(text))


def test_all_ends_of_the_loop_are_played():
    """One step alone, two at the end, and both after a turn of the loop that does two."""
    assert {(steps - 1) // 2 > 0 for steps in PLAYED_STEPS} == {True, False}
    assert {steps % 2 for steps in PLAYED_STEPS} == {0, 1}
