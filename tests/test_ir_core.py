from __future__ import annotations

import pytest
from ir_test_ops import Axis, LeafOp, Point, Span, YieldOp

from gemmgen.errors import IRError
from gemmgen.ir import Level, Module, Region, Value
from gemmgen.ir.types import F32, INDEX

MODULE = Module("k", Level.TILE, "sm_90a", attrs=(("stages", 5), ("point", Point(3))))


def test_module_attributes():
    assert MODULE.attr("stages") == 5
    assert MODULE.has_attr("point")
    assert not MODULE.has_attr("stage")
    with pytest.raises(IRError) as error:
        MODULE.attr("stage")
    assert (error.value.got, error.value.need) == ("stages, point", "stage")


def test_attributes_keep_their_place():
    changed = MODULE.with_attrs(axis=Axis.M.value, stages=6)
    assert [name for name, _ in changed.attrs] == ["stages", "point", "axis"]
    assert changed.attr("stages") == 6
    assert MODULE.attr("stages") == 5


def test_the_record_of_a_class():
    assert MODULE.record(Point) == Point(3)
    with pytest.raises(IRError, match="needs one Span attribute"):
        MODULE.record(Span)
    with pytest.raises(IRError, match="needs one Point attribute") as error:
        MODULE.with_attrs(other=Point(4)).record(Point)
    assert error.value.got == "2"


def test_region_terminator():
    end = YieldOp()
    assert Region((), (LeafOp(), end)).terminator is end
    assert Region((), (LeafOp(),)).terminator is None
    assert Region().terminator is None


def test_values_compare_by_name_and_type():
    assert Value("a", F32) == Value("a", F32)
    assert Value("a", F32) != Value("a", INDEX)
    assert len({Value("a", F32), Value("a", F32), Value("b", F32)}) == 2
    assert str(Value("a", F32)) == "%a"
