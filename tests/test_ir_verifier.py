from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from ir_test_ops import AsyncOnlyOp, AttrsOp, ForOp, IfOp, LeafOp, MmaOp, Point, Span, Swizzle, YieldOp

from gemmgen.errors import IRError
from gemmgen.ir import Level, Module, Op, Origin, Region, Value, dim_symbol, module_rule, verify
from gemmgen.ir import verifier as verifier_module
from gemmgen.ir.rewrite import map_ops
from gemmgen.ir.types import F32, INDEX, gmem

HERE = Origin("a.yaml", 3, 5)
A, B, INDEX_VALUE = Value("a", F32), Value("b", F32), Value("i", INDEX)
WRONG: Any = "not an IR object"


@dataclass(frozen=True)
class Sm90TestOp(Op):
    """``sm90.test_only()``: stands for any op of a target; not registered, so that no other test sees it."""

    NAME: ClassVar[str] = "sm90.test_only"
    LEVELS: ClassVar[frozenset[Level]] = frozenset({Level.TARGET})


def module(*ops: Op, level: Level = Level.TILE, target: str = "sm_90a", **fields: Any) -> Module:
    body = map_ops(Region((), ops), lambda op: op.replace(origin=HERE))
    return Module(**{"name": "k", "level": level, "target": target, "args": (A,), "body": body, **fields})


def mma(**changes: Any) -> MmaOp:
    return MmaOp(**{"a": A, "b": A, "shape": (64, 128, 32), "result": Value("r", F32), **changes})


def test_legal_modules_pass():
    inside = (LeafOp(x=A, more=(B, INDEX_VALUE)), YieldOp(values=(INDEX_VALUE,)))
    loop = ForOp(count=dim_symbol("K"), body=Region((INDEX_VALUE,), inside))
    verify(module(LeafOp(results=(B,)), loop, mma(), level=Level.ASYNC))
    verify(module(Sm90TestOp(), level=Level.TARGET))


@pytest.mark.parametrize(
    ("op", "what", "got", "need"),
    [
        (LeafOp(x=B), "operand 'x': %b is not defined before this op", "%b", "defined earlier"),
        (mma(a=Value("a", INDEX)), "operand 'a' has another type than its definition", "index", "f32"),
        (LeafOp(results=(B,), x=B), "operand 'x': %b is not defined before this op", "%b", "defined earlier"),
        (LeafOp(results=(A,)), "%a is defined twice", "%a: f32", "unique"),
        (ForOp(count=1, body=Region((A,))), "%a is defined twice", "%a: f32", "unique"),
        (LeafOp(results=(Value("a-b", F32),)), "%a-b is not a usable name", "%a-b", "an identifier"),
        (LeafOp(results=(Value("c", WRONG),)), "%c has no type", "not an IR object", "Type"),
        (LeafOp(x=WRONG), "operand 'x' holds no value", "not an IR object", "a Value"),
        (LeafOp(more=WRONG), "operand 'more' holds no value", "not an IR object", "a tuple of Values"),
        (mma(a=None), "operand 'a' holds no value", "None", "a Value"),
        (mma(result=None), "result 'result' holds no value", "None", "a Value"),
        (mma(shape=[64, 128, 32]), "wrong type for attribute 'shape'", "list", "a list [an int, an int, an int]"),
        (mma(shape=(64, 128)), "wrong type for attribute 'shape'", "(64, 128)", "an int"),
        (AttrsOp(count=1, flag=1), "wrong type for attribute 'flag'", "int 1", "true or false"),
        (AttrsOp(count=1, number=True), "wrong type for attribute 'number'", "bool True", "an int"),
        (AttrsOp(count=1, real=float("nan")), "wrong type for attribute 'real'", "nan", "a float"),
        (AttrsOp(count=1, text=Swizzle.B128), "wrong type for attribute 'text'", "Swizzle", "a quoted string"),
        (AttrsOp(count=1, swizzle="none"), "wrong type for attribute 'swizzle'", "str 'none'", "one of"),
        (AttrsOp(count=1.5), "wrong type for attribute 'count'", "1.5", "a dimension"),
        (AttrsOp(count=1, plan=Point("x")), "wrong type for attribute 'plan'", "Point", "#test_point"),
        (AttrsOp(count=1, plan=Span(1, [1])), "wrong type for attribute 'plan'", "Span", "#test_span"),
        (AttrsOp(count=1, anything=F32), "wrong type for attribute 'anything'", "ScalarType", "an attribute"),
        (ForOp(count=1, body=None), "'body' is not a region", "None", "a Region"),
        (ForOp(count=1, body=Region((), (YieldOp(), LeafOp()))), "a terminator ends its region", "1 ops", "0"),
        (AsyncOnlyOp(), "test.async_only is illegal in this module", "level async", "level tile"),
        (mma(shape=(64, 128, 8)), "k is not a multiple of 32", "8", "32"),
    ],
)  # fmt: skip
def test_illegal_ops_are_refused_with_op_and_origin(op, what, got, need):
    with pytest.raises(IRError) as error:
        verify(module(op))
    assert what in error.value.what
    assert error.value.where in (f"{op.NAME} (a.yaml:3:5)", "test.yield (a.yaml:3:5)")
    assert got in (error.value.got or "")
    assert need in (error.value.need or "")


def test_values_of_a_region_are_invisible_outside():
    loop = ForOp(count=1, body=Region((INDEX_VALUE,), (LeafOp(results=(B,)),)))
    for inner in (INDEX_VALUE, B):
        with pytest.raises(IRError, match="region that does not enclose this op"):
            verify(module(loop, LeafOp(x=inner)))


def test_values_of_one_region_are_invisible_in_its_sibling():
    then = Region((), (LeafOp(results=(B,)),))
    op = IfOp(cond=A, first=Value("r", F32), then=then, otherwise=Region((), (LeafOp(x=B),)))
    with pytest.raises(IRError, match="region that does not enclose this op"):
        verify(module(op))


def test_names_are_unique_even_in_sibling_regions():
    then = Region((), (LeafOp(results=(B,)),))
    with pytest.raises(IRError, match="%b is defined twice"):
        verify(module(IfOp(cond=A, first=Value("r", F32), then=then, otherwise=then)))


def test_an_op_does_not_see_its_results_in_its_regions():
    with pytest.raises(IRError, match="%b is not defined before this op"):
        verify(module(ForOp(count=1, results=(B,), body=Region((), (LeafOp(x=B),)))))


@pytest.mark.parametrize(
    ("changes", "what", "need"),
    [
        ({"name": "a b"}, "a module needs a usable name", "an identifier"),
        ({"target": "sm_80"}, "unknown target", "sm_90a, sm_100a"),
        ({"args": (A, A)}, "%a is defined twice", "unique"),
        ({"attrs": (("a b", 1),)}, "attribute names are unique identifiers", ""),
        ({"attrs": (("x", 1), ("x", 2))}, "attribute names are unique identifiers", ""),
        ({"attrs": (("x", [1]),)}, "attribute 'x' has no textual form", "registered record"),
        ({"attrs": (("x", gmem),)}, "attribute 'x' has no textual form", "registered record"),
        ({"body": Region((), (WRONG,))}, "a region holds ops", "an Op"),
    ],
)
def test_illegal_modules(changes, what, need):
    with pytest.raises(IRError) as error:
        verify(module(**changes))
    assert what in error.value.what
    assert error.value.where is not None
    assert error.value.where.startswith("module @")
    assert need in (error.value.need or "")


def test_target_ops_belong_to_their_target():
    with pytest.raises(IRError, match=r"sm90\.test_only belongs to another target") as error:
        verify(module(Sm90TestOp(), level=Level.TARGET, target="sm_100a"))
    assert error.value.need == "ops of sm100 in a module for sm_100a"
    with pytest.raises(IRError, match="illegal in this module"):
        verify(module(Sm90TestOp(), level=Level.ASYNC))


def test_nearest_visible_value_is_offered():
    with pytest.raises(IRError) as error:
        verify(module(LeafOp(results=(Value("zeros", F32),)), LeafOp(x=Value("zero", F32))))
    assert error.value.fix == "did you mean %zeros?"


def test_a_place_given_by_the_op_is_kept():
    @dataclass(frozen=True)
    class PlacedOp(LeafOp):
        def verify(self) -> None:
            raise IRError("bad", where="elsewhere")

    with pytest.raises(IRError) as error:
        verify(module(PlacedOp()))
    assert error.value.where == "elsewhere"


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Module rules registered by a test are gone after it."""
    fresh: dict[Level, list[Any]] = {level: [] for level in Level}
    monkeypatch.setattr(verifier_module, "_RULES", fresh)


@pytest.mark.usefixtures("rules")
def test_module_rules_run_for_their_levels_after_the_general_laws():
    @module_rule(Level.ASYNC, Level.TARGET)
    def no_leaves(module: Module) -> None:
        if any(isinstance(op, LeafOp) for op in module.body.ops):
            raise IRError("no leaves", where=f"module @{module.name}")

    verify(module(LeafOp()))
    for level in (Level.ASYNC, Level.TARGET):
        verify(module(level=level))
        with pytest.raises(IRError, match="no leaves"):
            verify(module(LeafOp(), level=level))
    with pytest.raises(IRError, match="%b is not defined"):
        verify(module(LeafOp(x=B), level=Level.ASYNC))
