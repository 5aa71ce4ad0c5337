from __future__ import annotations

import pytest
from ir_texts import ASYNC, PROMOTED, body_of, edited, opt, refused, roles_of

ROLES = opt(ASYNC, "warp-specialization")
SCALES = "row_scale=%sat, col_scale=%sbt, "


def loops(text: str) -> dict[str, str]:
    """The head of each role's loop over K."""
    return {name: row for name, rows in roles_of(text).items() for row in rows if "tile.for_k(" in row}


def test_the_promoting_role_runs_ahead():
    before, after = loops(ROLES), loops(opt(ROLES, "promotion-overlap"))
    assert "{extent=256, step=128, ahead=1}" in after["math"]
    assert after["math"].replace(", ahead=1", "") == before["math"]
    assert (after["load"], after["scales"]) == (before["load"], before["scales"])


def test_nothing_else_changes():
    changed = body_of(opt(ROLES, "promotion-overlap"))
    assert [row.replace(", ahead=1", "") for row in changed] == body_of(ROLES)


def test_steps_dealt_out_to_ctas_stay_dealt_out():
    split = opt(PROMOTED, "split-k{parts=2},pipelining{stages=3},epilogue-staging,warp-specialization")
    assert "{extent=256, step=128, parts=2, ahead=1}" in loops(opt(split, "promotion-overlap"))["math"]


def test_sums_without_scales_are_promoted_too():
    text = ROLES.replace(SCALES, "").replace(" {col_block=128}", "")
    assert "ahead=1" in loops(opt(text, "promotion-overlap"))["math"]


def test_it_may_be_switched_off():
    assert opt(ROLES, "promotion-overlap{enabled=false}") == ROLES
    assert opt(ASYNC, "promotion-overlap{enabled=false}") == ASYNC


def test_twice_is_once():
    assert opt(ROLES, "promotion-overlap,promotion-overlap") == opt(ROLES, "promotion-overlap")


def test_the_other_async_passes_do_not_mind():
    first = opt(ROLES, "promotion-overlap,register-reallocation{producer=40,math=232}")
    assert first == opt(ROLES, "register-reallocation{producer=40,math=232},promotion-overlap")


def test_it_needs_roles():
    refused(ASYNC, "nothing to overlap: no role promotes", "got: no roles",
            "run promotion and warp-specialization first", passes="promotion-overlap")  # fmt: skip


def test_it_needs_a_role_that_promotes():
    text = edited(
        ROLES,
        ("%part = tile.mma(a=%at, b=%bt)", "%next = tile.mma(a=%at, b=%bt, acc=%acc)"),
        (next(row for row in ROLES.splitlines(keepends=True) if "tile.promote" in row), ""),
    )
    refused(text, "nothing to overlap: no role promotes", "got: math, load, scales", passes="promotion-overlap")


@pytest.mark.parametrize("passes", ["", "shared-memory-allocation,lower-sm90,"])
def test_the_other_levels_are_too_early_or_too_late(passes: str):
    text = PROMOTED if not passes else opt(ASYNC, "epilogue-staging,warp-specialization")
    refused(text, "pass promotion-overlap does not apply here", "need: a module of level async",
            passes=f"{passes}promotion-overlap")  # fmt: skip
