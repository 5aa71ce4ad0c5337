from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pytest
from ir_test_ops import AttrsOp, ForOp, IfOp, LeafOp, MmaOp

from gemmgen.errors import IRError
from gemmgen.ir import Level, Op, Origin, Region, Value, register_op, register_record
from gemmgen.ir.codecs import codec_for
from gemmgen.ir.schema import attr, find_op, nearest_op, operand, results, schema_of
from gemmgen.ir.types import F32


def value(name: str) -> Value:
    return Value(name, F32)


def op_class(**namespace: Any) -> type[Op]:
    annotations = namespace.pop("annotations", {})
    body = {"__annotations__": annotations, "__module__": __name__, "LEVELS": frozenset({Level.TILE}), **namespace}
    return dataclass(frozen=True)(type("MadeOp", (Op,), body))


def test_fields_are_grouped_by_kind():
    op = IfOp(cond=value("c"), first=value("r"), rest=(value("s"), value("t")), then=Region())
    assert op.all_operands == (value("c"),)
    assert op.all_results == (value("r"), value("s"), value("t"))
    assert op.all_regions == (Region(),)
    assert op.replace(otherwise=Region()).all_regions == (Region(), Region())
    assert LeafOp(x=value("a"), more=(value("b"), value("c"))).all_operands == (value("a"), value("b"), value("c"))
    assert LeafOp().all_operands == ()
    assert ForOp(count=2, body=Region()).all_attrs == {"count": 2}


def test_schema_knows_which_fields_are_required():
    required = {spec.name for spec in schema_of(AttrsOp).attrs if spec.required}
    assert required == {"count"}


def test_origin_does_not_count_in_equality():
    op = MmaOp(a=value("a"), b=value("b"), shape=(64, 128, 32), result=value("r"))
    assert op.replace(origin=Origin("a.yaml", 1, 2)) == op
    assert op.replace(shape=(64, 64, 32)) != op


def test_ops_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LeafOp().more = ()  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        (Origin("a b.yaml", 3, 5), "a b.yaml:3:5"),
        (Origin("c:/a.yaml", 3, 5, "promote"), "c:/a.yaml:3:5 via promote"),
        (Origin(pass_name="promote"), "via promote"),
        (Origin(), "unknown"),
    ],
)
def test_origin_text(origin, text):
    assert str(origin) == text
    assert Origin.parse(text) == origin
    assert origin.known == (text != "unknown")


@pytest.mark.parametrize(
    ("namespace", "what"),
    [
        ({"NAME": "nodot"}, "needs a name"),
        ({"NAME": "test.9lives"}, "needs a name"),
        ({}, "needs a name"),
        ({"NAME": "test.leaf"}, "declared twice"),
        ({"NAME": "test.nolevel", "LEVELS": frozenset()}, "belongs to no level"),
        ({"NAME": "sm90.high"}, "legal elsewhere"),
        ({"NAME": "test.bare", "annotations": {"x": "int"}, "x": 3}, "MadeOp.x has no specifier"),
        (
            {"NAME": "test.split", "annotations": {"a": "tuple", "b": "tuple"}, "a": results(), "b": results()},
            "two fields of results()",
        ),
    ],
)
def test_bad_declarations(namespace, what):
    with pytest.raises(IRError) as error:
        register_op(op_class(**namespace))
    assert what in error.value.what


class Numbered(Enum):
    ONE = 1


@pytest.mark.parametrize("annotation", ["list[int]", "dict", "Numbered"])
def test_unsupported_annotation_is_a_programming_error(annotation):
    made = op_class(NAME="test.badattr", annotations={"x": annotation}, x=attr())
    with pytest.raises(TypeError, match=r"attribute"):
        _ = schema_of(made).codecs


def test_fields_need_keywords():
    made: Any = op_class(NAME="test.keyword", annotations={"x": "Value"}, x=operand())
    with pytest.raises(TypeError, match="positional"):
        made(value("a"))


def test_records_are_frozen_dataclasses_with_unique_names():
    class Plain:
        pass

    with pytest.raises(IRError, match="frozen dataclass"):
        register_record("test_plain")(Plain)
    with pytest.raises(IRError, match="record name"):
        register_record("test_point")(dataclass(frozen=True)(Plain))


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (int, [0, -3], [True, 1.0, "1", None]),
        (float, [0.5, 2], [True, "1", float("nan")]),
        (bool, [True], [1]),
        (str, ["a"], [b"a", None]),
        (tuple[int, ...], [(), (1, 2)], [[1], (1, "a"), 1]),
        (tuple[int, str], [(1, "a")], [(1,), (1, 2), ("a", 1)]),
        (int | None, [None, 4], ["x", False]),
        (Any, [1, 1.5, "x", None, (1, ("a", True))], [{}, [1], F32, Level.TILE]),
    ],
)
def test_annotations_accept_exactly_their_values(hint, good, bad):
    accepts = codec_for(hint).accepts
    assert [accepts(item) for item in good] == [True] * len(good)
    assert [accepts(item) for item in bad] == [False] * len(bad)


def test_ops_are_found_by_name():
    assert find_op("test.mma") is MmaOp
    assert find_op("test.nothing") is None
    assert nearest_op("test.mna") == "test.mma"


def test_a_dialect_is_imported_when_its_prefix_is_looked_up():
    found = find_op("tile.zeros")
    assert found is not None
    assert found.__module__ == "gemmgen.ir.tile_ops"
