from __future__ import annotations

import math

import pytest
import sympy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ir_test_ops import AttrsOp, Axis, ForOp, IfOp, LeafOp, MmaOp, Point, Span, Swizzle, YieldOp

from gemmgen.errors import IRError
from gemmgen.ir import (
    Builder,
    Level,
    Module,
    Origin,
    Region,
    Value,
    ceildiv,
    dim_symbol,
    parse_module,
    print_module,
    print_op,
    verify,
)
from gemmgen.ir.attributes import attr_text
from gemmgen.ir.types import BF16, E4M3, F32, INDEX, MAP, TILE, BarrierType, RingType, ScalarType, frag, gmem

M, K = dim_symbol("M"), dim_symbol("K")

TEXT = """\
module @k level=tile target=sm_90a {stages=5, plan=#test_span{extent=ceildiv(K, 128)}} (%A: gmem<e4m3, [M, K]>) {
  %zero = test.leaf() : frag<f32, [64, 128]>
  %sum = test.for(inits=[%zero]) {count=ceildiv(K, 128)} : frag<f32, [64, 128]> do (%i: index, %acc: f32) {
    %part = test.mma(a=%A, b=%A) {shape=[64, 128, 32]} : f32
    test.yield(values=[%part])
  }
  %first, %rest = test.if(cond=%sum) : f32, f32 do then {
    test.leaf(x=%sum, more=[%zero, %sum])
  } do otherwise {
  }
}
"""


def example() -> Module:
    zero, total = Value("zero", frag(F32, 64, 128)), Value("sum", frag(F32, 64, 128))
    a, part = Value("A", gmem(E4M3, M, K)), Value("part", F32)
    body = Region(
        (Value("i", INDEX), Value("acc", F32)),
        (MmaOp(a=a, b=a, shape=(64, 128, 32), result=part), YieldOp(values=(part,))),
    )
    then = Region((), (LeafOp(x=total, more=(zero, total)),))
    ops = (
        LeafOp(results=(zero,)),
        ForOp(inits=(zero,), count=ceildiv(K, 128), results=(total,), body=body),
        IfOp(cond=total, first=Value("first", F32), rest=(Value("rest", F32),), then=then, otherwise=Region()),
    )
    attrs = (("stages", 5), ("plan", Span(ceildiv(K, 128))))
    return Module("k", Level.TILE, "sm_90a", (a,), attrs, Region((), ops))


def test_text_of_a_module():
    assert print_module(example()) == TEXT
    assert str(example()) == TEXT


def test_text_reads_back():
    module = parse_module(TEXT)
    assert module == example()
    verify(module)


def test_comments_and_layout_do_not_matter():
    text = TEXT.replace("\n", ' // note: %x { "\n').replace("  ", "\t\r\n ")
    assert parse_module(text) == example()


def test_trailing_text_of_one_op():
    assert print_op(example().body.ops[0]) == "%zero = test.leaf() : frag<f32, [64, 128]>"


def test_locations_round_trip():
    origins = [Origin('a "b".yaml', 3, 5), Origin("a.yaml", 1, 1, "promote"), Origin(pass_name="promote")]
    ops = tuple(op.replace(origin=origin) for op, origin in zip(example().body.ops, origins, strict=True))
    module = example().replace(body=Region((), ops))
    text = print_module(module, locations=True)
    assert 'loc("a \\"b\\".yaml:3:5")' in text
    read = parse_module(text)
    assert [op.origin for op in read.body.ops] == origins
    assert print_module(module) == TEXT


def test_ops_without_location_point_at_the_text():
    module = parse_module(TEXT, "k.ir")
    assert [str(op.origin) for op in module.body.ops] == ["k.ir:2:3", "k.ir:3:3", "k.ir:7:3"]


def test_default_attributes_stay_out_of_the_text():
    assert print_op(AttrsOp(count=M)) == "test.attrs() {count=M}"
    assert print_op(AttrsOp(count=M, flag=True)) == "test.attrs() {flag=true, count=M}"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"number": -3}, "number=-3"),
        ({"real": 1e-30}, "real=1e-30"),
        ({"real": -math.inf}, "real=-inf"),
        ({"real": 2}, "real=2"),
        ({"text": 'a"\\\n\tµ"}//%x'}, 'text="a\\"\\\\\\n\\tµ\\"}//%x"'),
        ({"swizzle": Swizzle.B128}, 'swizzle="128B"'),
        ({"swizzle": Swizzle.LINEAR}, "swizzle=linear"),
        ({"axis": Axis.N}, "axis=n"),
        ({"dims": (1, M, K / 2)}, "dims=[1, M, K/2]"),
        ({"nested": ((1, "a"), (2, "b"))}, 'nested=[[1, "a"], [2, "b"]]'),
        ({"choice": 4}, "choice=4"),
        ({"choice": "four"}, 'choice="four"'),
        ({"dtype": BF16}, "dtype=bf16"),
        ({"kind": gmem(BF16, M)}, "kind=gmem<bf16, [M]>"),
        ({"kind": TILE}, "kind=tile"),
        ({"plan": Point(3)}, "plan=#test_point{x=3}"),
        ({"plan": Point(3, 0.5, ("a",), Axis.N, Point(1))},
         'plan=#test_point{x=3, scale=0.5, names=["a"], axis=n, inner=#test_point{x=1}}'),
        ({"plan": Span(K, ())}, "plan=#test_span{extent=K, sizes=[]}"),
        ({"anything": (1, ("a", None, True), 2.5, Span(3))},
         'anything=[1, ["a", none, true], 2.5, #test_span{extent=3}]'),
        ({"anything": gmem(BF16, M)}, "anything=gmem<bf16, [M]>"),
    ],
)  # fmt: skip
def test_attribute_text(changes, text):
    op = AttrsOp(count=sympy.Integer(1), **changes)
    module = Module("k", Level.TILE, "sm_90a", body=Region((), (op,)))
    verify(module)
    assert text in print_op(op)
    assert parse_module(print_module(module)) == module


@pytest.mark.parametrize("value", [{}, [1], object(), sympy.sin(M)])
def test_values_without_text(value):
    with pytest.raises(IRError, match="no textual form"):
        attr_text(value)


DIMS = st.sampled_from([1, 128, M, K, ceildiv(K, 128), M * K - 3, K / 2])
SCALARS = st.sampled_from(["f32", "bf16", "e4m3", "bool", "index"]).map(ScalarType)
TYPES = st.one_of(
    SCALARS,
    st.sampled_from([TILE, MAP]),
    st.integers(1, 9).map(RingType),
    st.integers(1, 9).map(BarrierType),
    st.builds(lambda dtype, shape: gmem(dtype, *shape), SCALARS, st.lists(DIMS, max_size=3)),
)
FLOATS = st.floats(allow_nan=False)
POINTS = st.recursive(
    st.builds(Point, st.integers(), FLOATS, st.lists(st.text(max_size=5)).map(tuple), st.sampled_from(Axis)),
    lambda inner: st.builds(Point, st.integers(), inner=inner),
    max_leaves=3,
)
PLANS = st.one_of(POINTS, st.builds(Span, DIMS, st.lists(st.integers()).map(tuple)))
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), FLOATS, st.text(max_size=5), DIMS, PLANS),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)
ATTRS = st.fixed_dictionaries(
    {"count": DIMS},
    optional={
        "flag": st.booleans(),
        "number": st.integers(),
        "real": FLOATS,
        "text": st.text(max_size=8),
        "swizzle": st.sampled_from(Swizzle),
        "axis": st.none() | st.sampled_from(Axis),
        "dims": st.lists(DIMS, max_size=3).map(tuple),
        "nested": st.lists(st.tuples(st.integers(), st.text(max_size=3)), max_size=2).map(tuple),
        "choice": st.none() | st.integers() | st.text(max_size=3),
        "dtype": st.none() | SCALARS,
        "kind": st.none() | TYPES,
        "plan": st.none() | PLANS,
        "anything": ANYTHING,
    },
)


@st.composite
def modules(draw):
    """A legal module: nested ops of the test dialect that use the values visible to them."""
    builder = Builder()
    args = tuple(builder.value("arg", kind) for kind in draw(st.lists(TYPES, min_size=1, max_size=3)))

    def fill(visible: list[Value], depth: int) -> None:
        visible = list(visible)
        value = st.sampled_from(visible)
        for choice in draw(st.lists(st.sampled_from(["leaf", "attrs", "for", "if"]), max_size=3)):
            if choice == "attrs":
                builder.add(AttrsOp, **draw(ATTRS))
            elif choice == "leaf" or depth == 0:
                kinds = draw(st.lists(TYPES, max_size=2))
                more = draw(st.lists(value, max_size=2))
                visible += builder.add(LeafOp, x=draw(st.none() | value), more=more, results=kinds).results
            elif choice == "for":
                with builder.region(i=INDEX, **({"acc": draw(TYPES)} if draw(st.booleans()) else {})) as body:
                    fill([*visible, *body.args], depth - 1)
                    builder.add(YieldOp, values=draw(st.lists(value, max_size=2)))
                builder.add(ForOp, count=draw(DIMS), inits=draw(st.lists(value, max_size=2)), body=body.region)
            else:
                with builder.region() as then:
                    fill(visible, depth - 1)
                otherwise = draw(st.none() | st.just(Region()))
                op = builder.add(IfOp, cond=draw(value), first=draw(TYPES), then=then.region, otherwise=otherwise)
                visible.append(op.first)

    fill(list(args), 2)
    attrs = tuple(draw(st.dictionaries(st.sampled_from(["a", "b2", "_c"]), ANYTHING, max_size=2)).items())
    return Module("kernel", draw(st.sampled_from(Level)), "sm_90a", args, attrs, Region((), builder.take()))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(modules())
def test_every_legal_module_reads_back(module):
    verify(module)
    text = print_module(module)
    read = parse_module(text)
    assert read == module
    assert print_module(read) == text
    located = print_module(read, locations=True)
    assert print_module(parse_module(located), locations=True) == located
