from __future__ import annotations

import pytest
from ir_texts import ASYNC, PROMOTED, body_of, edited, opt, refused

ROLES = opt(ASYNC, "warp-specialization")


def roles(text: str) -> list[str]:
    return [line for line in body_of(text) if line.startswith("async.role")]


def test_registers_change_hands_per_warpgroup():
    assert roles(opt(ROLES, "register-reallocation{producer=40,math=232}")) == [
        'async.role() {name="math", warps=8, registers=232} do {',
        'async.role() {name="load", warps=1, registers=40} do {',
        'async.role() {name="scales", warps=1, registers=40} do {',
        'async.role() {name="idle", warps=2, registers=40} do {',
    ]


def test_bodies_stay():
    changed = opt(ROLES, "register-reallocation{producer=40,math=232}")
    kept = [line for line in body_of(changed) if not line.startswith("async.role")]
    assert kept == [line for line in body_of(ROLES) if not line.startswith("async.role")]


def test_a_full_group_needs_no_idle_warps():
    text = edited(ROLES, ('name="scales", warps=1', 'name="scales", warps=3'))
    assert "idle" not in opt(text, "register-reallocation{producer=40,math=232}")


def test_zero_changes_nothing():
    assert opt(ROLES, "register-reallocation") == ROLES


def test_it_needs_roles():
    refused(ASYNC, "no roles to give registers to", "run warp-specialization first",
            passes="register-reallocation{producer=40,math=232}")  # fmt: skip


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (('name="math", warps=8', 'name="math", warps=6'), "'math', 6 warps"),
        (('name="math"', 'name="maths"'), "'maths'"),
    ],
)
def test_the_math_role_comes_first_in_whole_warpgroups(change: tuple[str, str], got: str):
    refused(edited(ROLES, change), "registers change hands per warpgroup", got,
            passes="register-reallocation{producer=40,math=232}")  # fmt: skip


def test_the_tile_level_is_too_early():
    refused(PROMOTED, "pass register-reallocation does not apply here", passes="register-reallocation{math=232}")
