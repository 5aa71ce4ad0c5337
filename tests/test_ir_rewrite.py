from __future__ import annotations

import pytest
from ir_test_ops import AttrsOp, ForOp, LeafOp, YieldOp

from gemmgen.errors import IRError
from gemmgen.ir import NameSupply, Region, Value, parse_module, print_module, verify
from gemmgen.ir.rewrite import (
    clone_ops,
    clone_with_fresh_names,
    defined_values,
    free_values,
    map_ops,
    map_ops_top_down,
    replace_op,
    substitute,
    uses,
    walk,
)
from gemmgen.ir.types import F32

MODULE = parse_module("""\
module @k level=tile target=sm_90a (%a: f32, %b: f32) {
  %c = test.leaf(x=%a) : f32
  test.for(inits=[%c]) {count=1} do (%i: f32) {
    %d = test.leaf(x=%i, more=[%c, %a]) : f32
    test.for() {count=2} do (%j: f32) {
      test.leaf(x=%d)
    }
    test.yield(values=[%d])
  }
  test.attrs() {count=3}
}
""")
A, B, C = Value("a", F32), Value("b", F32), Value("c", F32)
OUTER = MODULE.body.ops[1]


def body_text(module) -> str:
    return print_module(module).split("{\n", 1)[1]


def test_walk_is_in_textual_order():
    names = [op.NAME.removeprefix("test.") for op in walk(MODULE)]
    assert names == ["leaf", "for", "leaf", "for", "leaf", "yield", "attrs"]
    assert next(walk(OUTER)) is OUTER
    assert len(list(walk(OUTER.all_regions[0]))) == 4


def test_defined_used_and_free_values():
    assert {value.name for value in defined_values(MODULE)} == set("abcijd")
    assert [op.NAME for op in uses(MODULE, C)] == ["test.for", "test.leaf"]
    assert uses(MODULE, B) == []
    assert [value.name for value in free_values(OUTER)] == ["c", "a"]


def test_nothing_changes_when_nothing_is_rewritten():
    assert map_ops(MODULE, lambda op: None) is MODULE
    assert map_ops_top_down(MODULE, lambda op: None) is MODULE
    assert substitute(MODULE, {B: A}) is MODULE
    assert substitute(MODULE, {}) is MODULE


def test_bottom_up_sees_rebuilt_regions():
    def fold(op):
        """Inline every loop whose body has become a single leaf."""
        if isinstance(op, LeafOp) and not op.results:
            return op.replace(x=None)
        if isinstance(op, ForOp) and op.body.ops == (LeafOp(),):
            return op.body.ops
        return None

    folded = map_ops(MODULE, fold)
    loop = folded.body.ops[1]
    assert [op.NAME for op in loop.all_regions[0].ops] == ["test.leaf", "test.leaf", "test.yield"]
    verify(folded)


def test_top_down_does_not_enter_replacements():
    seen = []

    def keep_outer(op):
        seen.append(op.NAME)
        return op if isinstance(op, ForOp) else None

    assert map_ops_top_down(MODULE, keep_outer) is MODULE
    assert seen == ["test.leaf", "test.for", "test.attrs"]


def test_ops_can_be_erased_and_multiplied():
    def edit(op):
        if isinstance(op, AttrsOp):
            return [op, op.replace(count=4)]
        return [] if isinstance(op, YieldOp) else None

    edited = map_ops(MODULE, edit)
    assert [op.NAME for op in walk(edited)].count("test.attrs") == 2
    assert not any(isinstance(op, YieldOp) for op in walk(edited))
    assert map_ops(OUTER.all_regions[0], edit).ops[-1].NAME == "test.for"


def test_unchanged_subtrees_are_shared():
    edited = map_ops(MODULE, lambda op: [] if isinstance(op, AttrsOp) else None)
    assert edited.body.ops[1] is OUTER


def test_substitute_changes_uses_not_definitions():
    changed = substitute(MODULE, {A: B, C: A})
    assert [str(value) for op in walk(changed) for value in op.all_operands] == [
        "%b", "%a", "%i", "%a", "%b", "%d", "%d",
    ]  # fmt: skip
    assert changed.body.ops[0].all_results == (C,)
    assert substitute(OUTER, {C: B}).all_operands == (B,)
    assert substitute(OUTER.all_regions[0], {C: B}).ops[0].all_operands[1] == B


def test_replace_op_and_its_results():
    leaf = MODULE.body.ops[0]
    replaced = replace_op(MODULE, leaf, [], {C: B})
    verify(replaced)
    assert len(replaced.body.ops) == 2
    assert uses(replaced, B)[0].NAME == "test.for"
    with pytest.raises(IRError, match="not in this module"):
        replace_op(MODULE, LeafOp(), [])


def test_replace_op_finds_by_identity():
    inner = next(op for op in walk(MODULE) if isinstance(op, LeafOp) and not op.results)
    twice = replace_op(MODULE, inner, [inner, inner.replace()])
    last = [op for op in walk(twice) if op == inner][-1]
    once = replace_op(twice, last, [])
    assert once == MODULE


def test_clone_with_fresh_names():
    names = NameSupply.of(MODULE)
    copy, mapping = clone_with_fresh_names(OUTER, names, {A: B})
    verify(MODULE.replace(body=Region((), (*MODULE.body.ops, copy))))
    assert {old.name: new.name for old, new in mapping.items()} == {"a": "b", "i": "i_1", "d": "d_1", "j": "j_1"}
    region = copy.all_regions[0]
    assert [str(value) for value in region.args] == ["%i_1"]
    assert [str(value) for value in region.ops[0].all_operands] == ["%i_1", "%c", "%b"]


def test_clone_ops_follow_each_other():
    ops, mapping = clone_ops(MODULE.body.ops[:2], NameSupply.of(MODULE))
    assert mapping[C].name == "c_1"
    assert ops[1].all_operands == (mapping[C],)
    verify(MODULE.replace(body=Region((), (*MODULE.body.ops, *ops))))


def test_clone_of_a_module_renames_its_arguments():
    copy, mapping = clone_with_fresh_names(MODULE, NameSupply(["a"]))
    assert [str(value) for value in copy.args] == ["%a_1", "%b"]
    assert mapping[A].name == "a_1"
    verify(copy)
    assert "x=%a_1" in body_text(copy)


def test_names_are_deterministic_and_skip_taken_ones():
    names = NameSupply(["x", "x_2"])
    assert [names.fresh("x") for _ in range(3)] == ["x_1", "x_3", "x_4"]
    assert [names.fresh("y") for _ in range(2)] == ["y", "y_1"]
    assert NameSupply.of(MODULE).fresh("j") == "j_1"
