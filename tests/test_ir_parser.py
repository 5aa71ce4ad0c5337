from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ir_test_ops  # noqa: F401  (registers the test dialect)
import pytest

from gemmgen.errors import IRError
from gemmgen.ir import parse_module

HEADER = "module @k level=tile target=sm_90a (%a: f32, %b: f32) {\n"
SHAPE = "{shape=[64, 128, 32]} : f32"


def failure(body: str) -> IRError:
    """The error for a module whose ops start in line 2."""
    with pytest.raises(IRError) as error:
        parse_module(HEADER + body + "\n}\n", "k.ir")
    return error.value


@pytest.mark.parametrize(
    ("body", "place", "what", "got", "need"),
    [
        # syntax
        ("test.leaf(", "3:1", "syntax error", "'}'", "')' or a name"),
        ("test.leaf() {count=}", "2:20", "syntax error", "'}'", "a number"),
        ("test.leaf() $", "2:13", "syntax error", "'$'", "an op such as"),
        ("%r = test.leaf(x=%a : f32", "2:21", "syntax error", "':'", "')'"),
        ('test.attrs() {count=1, text="a\\q"}', "2:29", "syntax error", "'\"'", "a quoted string"),
        ("test.leaf() do {", "4:1", "syntax error", "end of text", "'}'"),
        # ops
        ("test.laef()", "2:1", "unknown op", "test.laef", "test.leaf"),
        ("mma(a=%a)", "2:1", "unknown op", "mma", ""),
        # attributes
        ("test.attrs() {count=1, flga=true}", "2:24", "test.attrs has no 'flga'", "flga", "flag"),
        ("test.attrs() {}", "2:1", "test.attrs lacks 'count'", "no value", "a dimension expression"),
        ("test.attrs() {count=1, count=2}", "2:24", "test.attrs is given 'count' twice", "count", "once"),
        ("test.attrs() {count=1, flag=1}", "2:29", "wrong type for 'flag' of test.attrs", "1", "true or false"),
        ("test.attrs() {count=1, number=M}", "2:31", "wrong type for 'number' of test.attrs", "M", "an int"),
        ("test.attrs() {count=1, number=1.5}", "2:31", "wrong type for 'number' of test.attrs", "1.5", "an int"),
        ("test.attrs() {count=1, text=abc}", "2:29", "wrong type for 'text' of test.attrs", "abc", "a quoted string"),
        ('test.attrs() {count="K"}', "2:21", "wrong type for 'count' of test.attrs", '"K"', "dimension"),
        ("test.attrs() {count=1, axis=k}", "2:29", "wrong type for 'axis' of test.attrs", "k", "one of m, n or none"),
        (
            "test.attrs() {count=1, swizzle=b128}",
            "2:32",
            "wrong type for 'swizzle' of test.attrs",
            "b128",
            'one of "none", "128B", linear',
        ),
        ("test.attrs() {count=1, nested=[[1, 2]]}", "2:36", "wrong type for 'nested' of test.attrs", "2", "a list"),
        ("test.attrs() {count=1, choice=true}", "2:31", "wrong type for 'choice' of test.attrs", "true", "an int or"),
        ("test.attrs() {count=1, dtype=map}", "2:30", "wrong type for 'dtype' of test.attrs", "map", "ScalarType"),
        ("test.attrs() {count=1, plan=3}", "2:29", "wrong type for 'plan' of test.attrs", "3", "#test_point{…}"),
        ("test.attrs() {count=cieldiv(K, 2)}", "2:21", "unknown dimension function cieldiv", "cieldiv", "ceildiv"),
        ("test.attrs() {count=K/0}", "2:21", "division by zero", "0", "divisor"),
        (
            "%r = test.mma(a=%a, b=%b) {shape=[1, 2]} : f32",
            "2:34",
            "wrong type for 'shape'",
            "[1, 2]",
            "an int, an int",
        ),
        ("test.attrs() {count=1, real=-x}", "2:30", "wrong type for 'real' of test.attrs", "x", "a float"),
        ("test.attrs() {count=1, text=-x}", "2:29", "wrong type for 'text' of test.attrs", "-x", "a quoted string"),
        ("test.attrs() {count=#test_point{}}", "2:21", "wrong type for 'count'", "#test_point{…}", "a dimension"),
        # records
        ("test.attrs() {count=1, plan=#test_pint{x=1}}", "2:29", "unknown record", "#test_pint", "#test_point"),
        ("test.attrs() {count=1, plan=#test_point{}}", "2:29", "record #test_point lacks 'x'", "no value", "an int"),
        ("test.attrs() {count=1, plan=#test_point{x=1, y=2}}", "2:46", "record #test_point has no 'y'", "y", "scale"),
        (
            'test.attrs() {count=1, anything=#test_point{x="1"}}',
            "2:47",
            "wrong type for 'x' of record #test_point",
            '"1"',
            "an int",
        ),
        # operands
        (f"%r = test.mma(a=%a) {SHAPE}", "2:1", "test.mma lacks operand 'b'", "no value", "b=%value"),
        (f"%r = test.mma(a=%a, b=%b, c=%b) {SHAPE}", "2:27", "test.mma has no operand 'c'", "c", "a, b"),
        (f"%r = test.mma(a=%a, a=%b) {SHAPE}", "2:21", "operand 'a' is given twice", "a", "once"),
        (f"%r = test.mma(a=[%a], b=%b) {SHAPE}", "2:15", "operand 'a' of test.mma takes one value", "a=[%a]", "a=%a"),
        ("test.leaf(more=%a)", "2:11", "operand 'more' of test.leaf takes a list", "more=%a", "more=[%a, %b]"),
        ("test.leaf(x=%c)", "2:13", "%c is not defined", "%c", "a value defined earlier"),
        ("%r = test.leaf(x=%r) : f32", "2:18", "%r is not defined", "%r", "a value defined earlier"),
        (
            "test.for() {count=1} do (%i: index) { }\ntest.leaf(x=%i)",
            "3:13",
            "%i is not visible here: it is defined inside a region (line 2)",
            "%i",
            "enclosing region",
        ),
        # results
        ("%a = test.leaf() : f32", "2:1", "%a is defined twice", "%a, already defined in line 1", "new in the module"),
        ("%r, %r = test.leaf() : f32, f32", "2:5", "%r is defined twice", "line 2", "new in the module"),
        ("test.for() {count=1} do (%a: index) { }", "2:26", "%a is defined twice", "line 1", "new in the module"),
        ("%r, %s = test.leaf() : f32", "2:1", "results and their types differ", "2 names, 1 types", "one type"),
        ("%r = test.attrs() {count=1} : f32", "2:1", "wrong number of results for test.attrs", "1", "0"),
        ("test.if(cond=%a) do then { }", "2:1", "wrong number of results for test.if", "0", "1 or more"),
        ("%r = test.leaf() : f31", "2:20", "unknown type", "f31", "f32"),
        # regions
        ("test.leaf() do { }", "2:13", "unexpected region of test.leaf", "do", "no region"),
        ("test.for() {count=1}", "2:1", "test.for lacks its region 'body'", "no region", "do"),
        ("test.for() {count=1} do { } do { }", "2:29", "unexpected region of test.for", "do", "do body"),
        ("%r = test.if(cond=%a) : f32 do { }", "2:29", "unexpected region of test.if", "do", "do then"),
        ("%r = test.if(cond=%a) : f32 do tehn { }", "2:29", "unexpected region of test.if", "do tehn", "do then"),
    ],
)
def test_errors_say_where_what_and_what_is_needed(body, place, what, got, need):
    error = failure(body)
    assert error.where == f"k.ir:{place}"
    assert what in error.what
    assert got in (error.got or "")
    assert need in (error.need or "")


@pytest.mark.parametrize(
    ("body", "fix"),
    [
        ("test.laef()", "did you mean test.leaf?"),
        ("test.attrs() {count=1, flga=true}", "did you mean 'flag'?"),
        (f"%r = test.mma(a=%a, bb=%b) {SHAPE}", "did you mean 'b'?"),
        ("%zero = test.leaf() : f32\ntest.leaf(x=%zeros)", "did you mean %zero?"),
        ("test.attrs() {count=1, plan=#test_pint{x=1}}", "did you mean #test_point?"),
        ("test.attrs() {count=1, kind=gmme<f32, [M]>}", "did you mean 'gmem'?"),
        ("test.attrs() {count=cieldiv(K, 2)}", "did you mean ceildiv?"),
        ("test.attrs() {}", "add count=…"),
    ],
)
def test_errors_offer_a_fix(body, fix):
    assert failure(body).fix == fix


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("", "1:1", "syntax error"),
        ("module k level=tile target=sm_90a () {}", "1:8", "syntax error"),
        ("module @k level=high target=sm_90a () {}", "1:17", "unknown level"),
        ("module @k level=tile target=sm_90a {a=1, a=2} () {}", "1:42", "given 'a' twice"),
        ("module @k level=tile target=sm_90a {a=#nothing{}} () {}", "1:39", "unknown record"),
        ("module @k level=tile target=sm_90a (%a: f32, %a: f32) {}", "1:46", "%a is defined twice"),
        ("module @k level=tile target=sm_90a () {} module", "1:42", "syntax error"),
    ],
)
def test_header_errors(text, place, what):
    with pytest.raises(IRError) as error:
        parse_module(text, "k.ir")
    assert error.value.where == f"k.ir:{place}"
    assert what in error.value.what


def test_sibling_regions_may_not_share_names_but_see_outer_values():
    loop = "test.for() {count=1} do (%i: index) { test.leaf(x=%a) }\n"
    assert parse_module(HEADER + loop + "}").body.ops[0].all_regions[0].ops[0].all_operands[0].name == "a"
    assert "defined twice" in failure(loop + loop).what


def test_records_of_a_dialect_are_known_before_its_first_op():
    """Module attributes come first in the text, so the module's level and target say what to import."""
    program = (
        "import sys; from gemmgen.ir import parse_module as read; print(read(sys.stdin.read()).attr('launch').cluster)"
    )
    text = (Path(__file__).parent / "data" / "sm90" / "cluster.ir").read_text()
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).resolve().parents[1]))
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "2\n", done.stderr
