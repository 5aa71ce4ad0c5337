from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from ir_test_ops import Axis, ForOp, LeafOp

from gemmgen import passes as passes_package
from gemmgen.errors import IRError
from gemmgen.ir import Builder, Level, Module, Op, Origin, Region, Value, parse_module, verify
from gemmgen.ir.rewrite import map_ops
from gemmgen.ir.types import F32, INDEX
from gemmgen.passes import registry
from gemmgen.passes.base import Pass, PassPipeline
from gemmgen.passes.registry import find_pass, parse_passes, pass_text, register_pass

REAL_LOADER = registry._load_passes
REAL_LOADER()  # passes register once per process: before the fixture below hides the real registry
TEXT = 'module @k level=tile target=sm_90a () {\n  test.leaf() loc("a.yaml:1:2")\n}\n'


@dataclass(frozen=True)
class RepeatPass(Pass):
    """Append leaves.

    Before: anything.
    After: ``count`` more leaves, which use no value.
    """

    name: ClassVar[str] = "test-repeat"
    count: int = 1
    label: str = ""
    axes: tuple[Axis, ...] = ()

    def apply(self, module: Module) -> Module:
        return module.replace(body=Region((), (*module.body.ops, *[LeafOp()] * self.count)))


@dataclass(frozen=True)
class BreakPass(Pass):
    """Use an undefined value.

    Before: anything.
    After: nothing that the verifier accepts.
    """

    name: ClassVar[str] = "test-break"
    levels: ClassVar[frozenset[Level]] = frozenset({Level.TILE})

    def apply(self, module: Module) -> Module:
        return map_ops(module, lambda op: op.replace(x=Value("ghost", F32)))


@pytest.fixture(autouse=True)
def only_test_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry with the passes of this file, and no dump directory from outside."""
    monkeypatch.setattr(registry, "_PASSES", {"test-repeat": RepeatPass, "test-break": BreakPass})
    monkeypatch.setattr(registry, "_load_passes", lambda: None)
    monkeypatch.delenv("GEMMGEN_DUMP", raising=False)


def test_snapshots_are_named_after_their_passes():
    result = PassPipeline((RepeatPass(), RepeatPass(count=2))).run(parse_module(TEXT))
    assert result.stages == ("input", "test-repeat", "test-repeat.2")
    assert [len(result.at(stage).body.ops) for stage in result.stages] == [1, 2, 4]
    assert result.module is result.at("test-repeat.2")
    with pytest.raises(IRError) as error:
        result.at("promote")
    assert error.value.need == "input, test-repeat, test-repeat.2"


def test_new_ops_get_the_pass_as_origin():
    result = PassPipeline((RepeatPass(),)).run(parse_module(TEXT))
    assert [op.origin for op in result.module.body.ops] == [Origin("a.yaml", 1, 2), Origin(pass_name="test-repeat")]


def test_the_verifier_runs_before_and_after_every_pass():
    module = parse_module(TEXT)
    with pytest.raises(IRError, match=r"after pass test-break: .*%ghost is not defined") as error:
        PassPipeline((RepeatPass(), BreakPass())).run(module)
    assert error.value.where == "test.leaf (a.yaml:1:2)"
    with pytest.raises(IRError, match=r"^test.leaf .*%ghost is not defined"):
        PassPipeline(()).run(BreakPass().apply(module))


def test_a_pass_refuses_modules_of_another_level():
    with pytest.raises(IRError, match="pass test-break does not apply here") as error:
        PassPipeline((BreakPass(),)).run(parse_module(TEXT).replace(level=Level.ASYNC))
    assert (error.value.got, error.value.need) == ("async", "a module of level tile")


@pytest.mark.parametrize("by_environment", [False, True])
def test_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_environment: bool):
    directory = tmp_path / "new" / "dump"
    if by_environment:
        monkeypatch.setenv("GEMMGEN_DUMP", str(directory))
    result = PassPipeline((RepeatPass(),)).run(parse_module(TEXT), dump_dir=None if by_environment else directory)
    assert sorted(path.name for path in directory.iterdir()) == ["00_input.ir", "01_test-repeat.ir"]
    assert (directory / "00_input.ir").read_text() == TEXT
    assert parse_module((directory / "01_test-repeat.ir").read_text()) == result.module


def test_a_module_that_breaks_a_law_is_dumped(tmp_path: Path):
    with pytest.raises(IRError):
        PassPipeline((BreakPass(),)).run(parse_module(TEXT), dump_dir=tmp_path)
    assert "%ghost" in (tmp_path / "01_test-break.ir").read_text()


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("", ()),
        ("test-repeat", (RepeatPass(),)),
        ("test-repeat{count=3,label=\"a\"},test-break", (RepeatPass(3, "a"), BreakPass())),
        ("test-repeat{axes=[m, n]}", (RepeatPass(axes=(Axis.M, Axis.N)),)),
    ],
)  # fmt: skip
def test_passes_from_text(text, passes):
    assert parse_passes(text) == passes
    assert parse_passes(",".join(pass_text(step) for step in passes)) == passes


def test_pass_text_leaves_defaults_out():
    assert pass_text(RepeatPass()) == "test-repeat"
    assert pass_text(RepeatPass(count=2)) == "test-repeat{count=2}"


@pytest.mark.parametrize(
    ("text", "where", "what", "hint"),
    [
        ("test-repat", "-p:1:1", "unknown pass", "did you mean 'test-repeat'?"),
        ("test-break,nothing-like-it", "-p:1:12", "unknown pass", "test-break, test-repeat"),
        ("test-repeat{cuont=1}", "-p:1:13", "pass test-repeat has no 'cuont'", "did you mean 'count'?"),
        ("test-repeat{count=1.5}", "-p:1:19", "wrong type for 'count' of pass test-repeat", "an int"),
        ("test-repeat{count=1,count=2}", "-p:1:21", "is given 'count' twice", "once"),
        ("test-repeat{axes=m}", "-p:1:18", "wrong type for 'axes'", "a list [one of m, n, …]"),
        ("test-repeat{count}", "-p:1:18", "syntax error", "'='"),
        ("test-repeat test-break", "-p:1:13", "syntax error", "','"),
    ],
)
def test_errors_in_pass_text(text, where, what, hint):
    with pytest.raises(IRError) as error:
        parse_passes(text)
    assert error.value.where == where
    assert what in error.value.what
    assert hint in f"{error.value.need} {error.value.fix}"


def test_all_modules_with_passes_can_be_imported():
    REAL_LOADER()
    modules = set(sys.modules)
    assert {path.stem for path in Path(passes_package.__path__[0]).glob("[a-z]*.py")} <= {
        name.removeprefix("gemmgen.passes.") for name in modules
    }


def test_find_pass():
    assert find_pass("test-repeat") is RepeatPass


@pytest.mark.parametrize(
    ("name", "doc", "what"),
    [
        ("CamelCase", "Before: x. After: y.", "needs a kebab-case name"),
        ("", "Before: x. After: y.", "needs a kebab-case name"),
        ("test-undocumented", "Does things.", "must document its contract"),
        ("test-repeat", "Before: x. After: y.", "declared twice"),
    ],
)
def test_registration_rules(name, doc, what):
    made = type("MadePass", (Pass,), {"name": name, "__doc__": doc})
    with pytest.raises(IRError) as error:
        register_pass(made)
    assert what in error.value.what
    assert registry._PASSES.keys() == {"test-repeat", "test-break"}


def test_registered_passes_are_found():
    @register_pass
    @dataclass(frozen=True)
    class NothingPass(Pass):
        """Before: anything. After: the same."""

        name: ClassVar[str] = "test-nothing"

        def apply(self, module: Module) -> Module:
            return module

    assert registry.registered_passes()["test-nothing"] is NothingPass
    assert list(registry.registered_passes()) == ["test-break", "test-nothing", "test-repeat"]


def test_a_pipeline_of_real_size_is_cheap():
    """Ten passes over 100 ops, verified between all: the framework itself stays far below the cost of NVRTC."""
    b = Builder(origin=Origin("a.yaml", 1, 1))

    def leaves(count: int) -> list[Op]:
        return [b.add(LeafOp, results=[F32, INDEX]) for _ in range(count)]

    for _ in range(10):
        with b.region(i=INDEX) as body:
            leaves(9)
        b.add(ForOp, count=8, body=body.region)
    module = Module("k", Level.TILE, "sm_90a", (), (), Region((), b.take()))
    verify(module)
    pipeline = PassPipeline((RepeatPass(count=0),) * 10)
    best = min(_timed(pipeline, module) for _ in range(5))
    assert best < 0.05


def _timed(pipeline: PassPipeline, module: Module) -> float:
    start = time.process_time()
    pipeline.run(module)
    return time.process_time() - start
