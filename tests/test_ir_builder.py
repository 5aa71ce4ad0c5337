from __future__ import annotations

import pytest
from ir_test_ops import ForOp, IfOp, LeafOp, MmaOp, YieldOp

from gemmgen.errors import IRError
from gemmgen.ir import Builder, Level, Module, NameSupply, Origin, Region, Value, print_module, verify
from gemmgen.ir.types import F32, INDEX

HERE, THERE = Origin("a.yaml", 1, 1), Origin("a.yaml", 2, 2)


def build() -> Module:
    b = Builder(origin=HERE)
    a = b.value("a", F32)
    with b.region(i=INDEX, acc=F32) as body:
        i, acc = body.args
        with b.at(THERE):
            part = b.add(MmaOp, a=acc, b=acc, shape=[64, 128, 32], result=("a", F32))
        b.add(LeafOp, x=i, more=[a, part.result], results=[INDEX, ("acc", F32)])
        b.add(YieldOp, values=[part.result])
    loop = b.add(ForOp, inits=[a], count=8, results=[("sum", F32)], body=body.region)
    with b.region() as then:
        pass
    b.add(IfOp, cond=loop.results[0], first=F32, then=then.region)
    return Module("k", Level.TILE, "sm_90a", (a,), (), Region((), b.take()))


TEXT = """\
module @k level=tile target=sm_90a (%a: f32) {
  %sum = test.for(inits=[%a]) {count=8} : f32 do (%i: index, %acc: f32) {
    %a_1 = test.mma(a=%acc, b=%acc) {shape=[64, 128, 32]} : f32
    %results, %acc_1 = test.leaf(x=%i, more=[%a, %a_1]) : index, f32
    test.yield(values=[%a_1])
  }
  %first = test.if(cond=%sum) : f32 do then {
  }
}
"""


def test_names_are_fresh_and_deterministic():
    module = build()
    verify(module)
    assert print_module(module) == TEXT
    assert build() == module


def test_ops_get_the_current_origin():
    loop = build().body.ops[0]
    assert loop.origin == HERE
    assert [op.origin for op in loop.all_regions[0].ops] == [THERE, HERE, HERE]
    assert Builder(origin=HERE).add(LeafOp, origin=THERE).origin == THERE


def test_existing_ops_and_values_are_taken_as_they_are():
    b = Builder(NameSupply(["r"]))
    value = Value("r", F32)
    op = LeafOp(results=(value,))
    assert b.append(op) is op
    b.extend([op, op])
    assert b.add(LeafOp, results=[value]).results == (value,)
    assert b.take() == (op, op, op, op)
    assert b.take() == ()


def test_a_failing_region_is_closed():
    b = Builder()

    def fail_inside() -> None:
        with b.region():
            b.add(LeafOp)
            raise IRError("stop")

    with pytest.raises(IRError, match="stop"):
        fail_inside()
    b.add(YieldOp)
    assert b.take() == (YieldOp(),)
