"""Illegal look-ahead: steps that take from the one before what is of another stage, ring or thing, or take it late."""

from __future__ import annotations

import re

import pytest
from ir_texts import edited, rejected
from target_texts import LOOKAHEAD, OVERLAP, Change, after, line, without

from gemmgen.ir import parse_module, print_module, verify

Mistakes = dict[str, tuple[tuple[Change, ...], tuple[str, ...]]]
LOOK, ADVANCE = line(LOOKAHEAD, "sm90.look_ahead"), line(LOOKAHEAD, "sm90.advance")
WAIT, RELEASE = line(LOOKAHEAD, "sm90.wait"), line(LOOKAHEAD, "sm90.release")
WAIT_FREE = WAIT.replace("flip=false", "flip=true")
CURSOR, LOADED = line(LOOKAHEAD, "sm90.cursor"), line(LOOKAHEAD, "sm90.loaded")
PLACE, LOOP = line(LOOKAHEAD, "sm90.place"), line(LOOKAHEAD, "sm90.k_loop")
DESCRIPTOR, SUM = line(LOOKAHEAD, "sm90.stage_descriptor"), line(LOOKAHEAD, "sm90.zero", 1)
STAGING_WAIT = line(LOOKAHEAD, "sm90.staging_wait")
STEPS = LOOKAHEAD[LOOKAHEAD.index(LOOP) : LOOKAHEAD.index(STAGING_WAIT)]
"""The loop over K of the warps that multiply."""
OTHER: Change = (CURSOR, CURSOR + CURSOR.replace("%cursor", "%other"))
"""A second place in the ring."""
MOVED_TOO = ADVANCE.replace("%cursor", "%other")
ALL_PLACES = "[%a_place, %a_place_1, %b_place, %sa_place, %sa_place_1]"
TAKEN = re.compile(r", (?:unless|place)=%\w+")


def again(steps: str, cursor: str) -> str:
    """A second loop over K, whose values have names of their own, at another cursor."""
    for name in {*re.findall(r"%(\w+) = ", steps), "k0"}:
        steps = re.sub(rf"%{name}\b", f"%{name}_again", steps)
    return steps.replace("%cursor", f"%{cursor}")


def in_branch(text: str) -> str:
    return f'sm90.warps() {{label="half", first=0, count=2}} do {{\n{text}}}\n'


def two_loops(second: str) -> tuple[Change, ...]:
    """Another loop over K behind the first; both release every stage that they read."""
    return ((STAGING_WAIT, second + STAGING_WAIT), OTHER, ("arrivals=128", "arrivals=256"))


STAGES: Mistakes = {
    "looked at before the cursor moves": (
        after(LOOKAHEAD, "sm90.advance", "sm90.look_ahead"),
        ("sm90.look_ahead", "a step looks at the stage that its cursor has moved to", "got: no move before it"),
    ),
    "at a cursor that stays": (
        (OTHER, ("moved=%cursor", "moved=%other")),
        ("a step looks at the stage that its cursor has moved to", "got: no move before it"),
    ),
    "a cursor that moves on between tiles": (
        ((STAGING_WAIT, ADVANCE + STAGING_WAIT),),
        ("a step looks at the stage that its cursor has moved to, as it does nowhere else", "got: 2 moves"),
    ),
    "a cursor that some warps move twice": (
        ((RELEASE, RELEASE + in_branch(ADVANCE)),),
        ("a step looks at the stage that its cursor has moved to", "got: 2 moves"),
    ),
    "a cursor that other steps move without looking": (
        two_loops(TAKEN.sub("", again(STEPS, "cursor")).replace(LOOK, "")),
        ("a step looks at the stage that its cursor has moved to", "got: 2 moves"),
    ),
    "never looked": (
        ((LOOK, ""),),
        ("sm90.k_loop", "a step looks ahead once for what the next one takes from it", "got: 0 times"),
    ),
    "looked twice": (((LOOK, 2 * LOOK),), ("sm90.k_loop", "a step looks ahead once", "got: 2 times", "need: 1")),
    "some warps look": (((LOOK, in_branch(LOOK)),), ("sm90.k_loop", "a step looks ahead once", "got: 0 times")),
    "looked behind the steps": (
        ((LOOK, ""), (STAGING_WAIT, LOOK + STAGING_WAIT)),
        ("sm90.k_loop", "a step looks ahead once", "got: 0 times"),
    ),
    "looked behind the steps once more": (
        ((STAGING_WAIT, LOOK + STAGING_WAIT),),
        ("sm90.look_ahead", "%loaded is found by the steps of one loop", "got: two sm90.look_ahead"),
    ),
    "what one loop finds another one changes": (
        two_loops(again(STEPS, "other")),
        ("sm90.look_ahead", "%loaded is found by the steps of one loop", "got: two sm90.look_ahead"),
    ),
    "places that another loop moves": (
        (
            *two_loops(again(STEPS, "other").replace("%loaded", "%seen")),
            (LOADED, LOADED + LOADED.replace("%loaded", "%seen")),
        ),
        ("sm90.look_ahead", "%a_place is found by the steps of one loop", "got: two sm90.look_ahead"),
    ),
}  # fmt: skip

VALUES: Mistakes = {
    "a place begun for each tile": (
        ((PLACE, ""), (SUM, PLACE + SUM)),
        ("sm90.place", "%a_place goes on from tile to tile", "got: made inside of a loop", "before the loops"),
    ),
    "what was seen begun for each tile": (
        ((LOADED, ""), (SUM, LOADED + SUM)),
        ("sm90.loaded", "%loaded goes on from tile to tile"),
    ),
    "what was seen begun for each step": (
        ((LOADED, ""), (DESCRIPTOR, LOADED + DESCRIPTOR)),
        ("sm90.loaded", "%loaded goes on from tile to tile"),
    ),
    "something else moved": (
        ((ALL_PLACES, ALL_PLACES.replace("%b_place", "%b_place, %loaded")),),
        ("sm90.look_ahead", "%loaded is a place", "got: u32", "need: the result of sm90.place"),
    ),
    "a descriptor moved": (
        ((ALL_PLACES, ALL_PLACES.replace("%b_place", "%b_place, %desc_b")),),
        ("sm90.look_ahead", "%desc_b is a place", "got: i64"),
    ),
    "what was seen kept in a place": (
        (("loaded=%loaded", "loaded=%sa_place"),),
        ("sm90.look_ahead", "%sa_place says what was seen", "need: the result of sm90.loaded"),
    ),
    "a place that stays": (
        ((ALL_PLACES, ALL_PLACES.replace("%b_place, ", "")),),
        ("sm90.stage_descriptor", "%b_place follows the ring", "got: a place that stays",
         "need: an operand of sm90.look_ahead"),
    ),
    "row scales whose place stays": (
        ((ALL_PLACES, ALL_PLACES.replace(", %sa_place_1", "")),),
        ("sm90.row_scales", "%sa_place_1 follows the ring"),
    ),
    "a descriptor's place that is none": (
        (("place=%b_place", "place=%loaded"),),
        ("sm90.stage_descriptor", "%loaded follows the ring"),
    ),
    "places of A and B exchanged": (
        (("place=%a_place)", "place=%b_place)"),),
        ("sm90.stage_descriptor", "%b_place is the place of what is read", "got: b", "need: %desc_a a 0 0"),
    ),
    "the place of another wave's rows": (
        (("place=%a_place)", "place=%a_place_1)"),),
        ("sm90.stage_descriptor", "%a_place_1 is the place of what is read", "need: %desc_a a 0 0"),
    ),
    "the place of another wave's scales": (
        (("place=%sa_place)", "place=%sa_place_1)"),),
        ("sm90.row_scales", "%sa_place_1 is the place of what is read", "need: None sa 2 0"),
    ),
    "scales at an operand's place": (
        (("place=%sa_place)", "place=%a_place)"),),
        ("sm90.row_scales", "%a_place is the place of what is read", "got: a"),
    ),
    "an operand at the scales' place": (
        (("place=%a_place)", "place=%sa_place)"),),
        ("sm90.stage_descriptor", "%sa_place is the place of what is read", "got: sa"),
    ),
    "a place in another area": (
        (('sm90.place(base=%desc_b) {area="b"}', 'sm90.place(base=%desc_b) {area="a"}'),),
        ("sm90.stage_descriptor", "%b_place is the place of what is read", "got: a", "need: %desc_b b 0 0"),
    ),
}  # fmt: skip

USES: Mistakes = {
    "a wait unless something else was seen": (
        ((LOADED, LOADED + LOADED.replace("%loaded", "%seen")), ("unless=%loaded", "unless=%seen")),
        ("sm90.wait", "%seen says whether the stage is loaded", "got: %loaded of %full", "need: %seen of %full"),
    ),
    "a wait unless another barrier's phase has ended": (
        (("look_ahead(barriers=%full", "look_ahead(barriers=%empty"),),
        ("sm90.wait", "%loaded says whether the stage is loaded", "got: %loaded of %empty", "need: %loaded of %full"),
    ),
    "a wait for a free stage": (
        ((WAIT, WAIT + WAIT_FREE),),
        ("sm90.wait", "%loaded says whether the stage is loaded"),
    ),
    "a wait unless there is a place": (
        (("unless=%loaded", "unless=%a_place"),),
        ("sm90.wait", "%a_place says whether the stage is loaded"),
    ),
    "a wait between tiles": (
        ((LOOP, WAIT_FREE + LOOP),),
        ("sm90.wait", "a step looks ahead for the next one", "got: another place", "need: sm90.k_loop"),
    ),
    "some warps wait": (
        ((WAIT, WAIT + in_branch(WAIT_FREE)),),
        ("sm90.wait", "a step looks ahead for the next one", "got: another place"),
    ),
    "a descriptor at another cursor": (
        (OTHER, ("base=%desc_b, cursor=%cursor,", "base=%desc_b, cursor=%other,"), (ADVANCE, ADVANCE + MOVED_TOO)),
        ("sm90.stage_descriptor", "a step takes from the one before what lies in the same ring", "got: %other",
         "need: %cursor"),
    ),
    "scales at another cursor": (
        (OTHER, ("cursor=%cursor, place=%sa_place)", "cursor=%other, place=%sa_place)"),
         (ADVANCE, ADVANCE + MOVED_TOO)),
        ("sm90.row_scales", "a step takes from the one before what lies in the same ring"),
    ),
    "a wait at another cursor": (
        (OTHER, ("barriers=%full, cursor=%cursor, unless", "barriers=%full, cursor=%other, unless"),
         (ADVANCE, ADVANCE + MOVED_TOO)),
        ("sm90.wait", "a step takes from the one before what lies in the same ring", "got: %other"),
    ),
    "a place of the next step": (
        (
            OTHER,
            (LOOK, LOOK + DESCRIPTOR.replace("%a_at", "%late").replace("%cursor", "%other") + MOVED_TOO),
        ),
        ("sm90.stage_descriptor", "%a_place is of the next step by now", "sm90.stage_descriptor after sm90.look_ahead"),
    ),
    "a place of the next step at the step's cursor": (
        ((LOOK, LOOK + DESCRIPTOR.replace("%a_at", "%late")),),
        ("sm90.stage_descriptor", "a cursor moves after its last use: %cursor"),
    ),
    "scales read behind the release": (
        after(LOOKAHEAD, "sm90.row_scales(cursor=%cursor, place=%sa_place_1)", "sm90.release"),
        ("sm90.row_scales", "a stage is not read after its release"),
    ),
    "scales read without a wait": (
        (without(LOOKAHEAD, "sm90.wait"),),
        ("is read before its stage is loaded",),
    ),
}  # fmt: skip

CORPUS = {
    f"{group} {name}": mistake
    for group, mistakes in {"stages": STAGES, "values": VALUES, "uses": USES}.items()
    for name, mistake in mistakes.items()
}


@pytest.mark.parametrize("name", CORPUS)
def test_mistake(name: str):
    changes, parts = CORPUS[name]
    rejected(edited(LOOKAHEAD, *changes), *parts)


def test_the_corpus_starts_from_a_legal_module():
    verify(parse_module(LOOKAHEAD))
    assert print_module(parse_module(LOOKAHEAD)) == LOOKAHEAD


def test_overlapped_steps_do_not_look_ahead():
    """They start the next step's products before they promote: nothing is left to be looked for."""
    place, at = '%a_place = sm90.place(base=%desc_a) {area="a"} : u32\n', "sm90.stage_descriptor(base=%desc_a, "
    part = line(OVERLAP, "sm90.zero")
    taken = edited(OVERLAP, (part, place + part), (f"{at}cursor=%cursor)", f"{at}cursor=%cursor, place=%a_place)"))
    rejected(taken, "sm90.stage_descriptor", "a step looks ahead for the next one", "got: another place")


def test_a_step_need_not_take_what_it_could():
    """It may wait in any case, work out where things are by itself, and look without need."""
    for taken in (", unless=%loaded", ", place=%b_place", ", place=%sa_place_1"):
        verify(parse_module(edited(LOOKAHEAD, (taken, ""))))
    verify(parse_module(TAKEN.sub("", LOOKAHEAD)))
    verify(parse_module(TAKEN.sub("", LOOKAHEAD).replace(LOOK, "")))


def test_one_stage_is_enough():
    """The next step's stage is then the one that has just been released."""
    text = LOOKAHEAD.replace("stages=3", "stages=1").replace("barrier<3>", "barrier<1>")
    verify(parse_module(text))
