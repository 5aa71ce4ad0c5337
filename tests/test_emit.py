"""Emission: the registry of emitters, the environment of templates, helpers once and in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
from ir_texts import built
from jinja2 import StrictUndefined, UndefinedError

from gemmgen.backends.sm90 import source as sm90_source
from gemmgen.backends.sm100 import source as sm100_source
from gemmgen.emit import emission
from gemmgen.emit.emission import Emission, Helper, emits, find_emitter, helpers, require_emitters
from gemmgen.emit.renderer import Renderer, environment, render
from gemmgen.errors import IRError
from gemmgen.ir import Level, Module, Op, Region, register_op
from gemmgen.ir.rewrite import walk
from gemmgen.resources import resource_dir

DIALECT = "test_dialect"


@register_op
@dataclass(frozen=True)
class EmitOneOp(Op):
    NAME: ClassVar[str] = "test.emit_one"
    LEVELS: ClassVar[frozenset[Level]] = frozenset(Level)


@register_op
@dataclass(frozen=True)
class EmitTwoOp(Op):
    NAME: ClassVar[str] = "test.emit_two"
    LEVELS: ClassVar[frozenset[Level]] = frozenset(Level)


MODULE = Module("k", Level.TARGET, "sm_90a", (), (), Region((), (EmitTwoOp(), EmitOneOp(), EmitTwoOp())))


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emitters registered here are forgotten; both targets' are registered before."""
    assert sm90_source.DIALECT != sm100_source.DIALECT
    monkeypatch.setattr(emission, "_EMITTERS", dict(emission._EMITTERS))


def test_missing_emitters_are_named_all_at_once_before_anything_is_rendered():
    rendered: list[Op] = []

    @emits(EmitOneOp, "another_dialect")
    def emit_one(op: EmitOneOp, module: Module) -> Emission:
        rendered.append(op)
        return Emission("statement")

    with pytest.raises(IRError, match="no emitter for target test_dialect") as caught:
        Renderer(MODULE, DIALECT)
    assert caught.value.got == "test.emit_one, test.emit_two"
    assert caught.value.where == "module @k"
    assert rendered == []
    assert emit_one is not None


def test_one_emitter_does_not_serve_another_op_or_target():
    emits(EmitOneOp, DIALECT)(lambda op, module: Emission("statement"))
    with pytest.raises(IRError) as caught:
        require_emitters(MODULE, DIALECT)
    assert caught.value.got == "test.emit_two"


def test_a_second_emitter_is_refused():
    first = emits(EmitOneOp, DIALECT)(lambda op, module: Emission("statement"))
    with pytest.raises(IRError, match=r"two emitters for test\.emit_one") as caught:
        emits(EmitOneOp, DIALECT)(lambda op, module: Emission("statement"))
    assert caught.value.need == "one per (op, target)"
    assert find_emitter(EmitOneOp(), DIALECT) is first


def test_the_same_op_may_have_an_emitter_per_target():
    one = emits(EmitOneOp, "dialect_a")(lambda op, module: Emission("a"))
    two = emits(EmitOneOp, "dialect_b")(lambda op, module: Emission("b"))
    assert find_emitter(EmitOneOp(), "dialect_a") is one
    assert find_emitter(EmitOneOp(), "dialect_b") is two


def test_ops_further_up_have_no_emitters():
    snapshot = built("plain").result.at("shared-memory-allocation")
    with pytest.raises(IRError, match="no emitter for target sm90") as caught:
        Renderer(snapshot, "sm90")
    assert caught.value.got is not None
    assert set(caught.value.got.split(", ")) == {op.NAME for op in walk(snapshot)}


def test_one_strict_environment():
    assert environment() is environment()
    assert environment().undefined is StrictUndefined


@pytest.mark.parametrize("name", sorted(path.relative_to(resource_dir("templates")).as_posix().removesuffix(".cu.j2")
                                        for path in resource_dir("templates").rglob("*.cu.j2")))  # fmt: skip
def test_every_template_uses_what_it_is_given_only(name: str):
    """A template with fields refuses to render without them; one without renders as it is."""
    source = environment().loader.get_source(environment(), f"{name}.cu.j2")[0]  # type: ignore[union-attr]
    if "{{" in source or "{%" in source:
        with pytest.raises(UndefinedError):
            render(name, {})
    else:
        assert render(name, {}) == source.rstrip("\n")


def test_every_template_is_used():
    """No text is shipped that no kernel can hold."""
    sources = [path.read_text() for path in (resource_dir("templates").parent / "gemmgen/backends").rglob("*.py")]
    for path in resource_dir("templates").rglob("*.cu.j2"):
        name = path.name.removesuffix(".cu.j2")
        assert any(f'"{name}"' in text or f"/{name}" in text for text in sources), path


def test_helpers_come_once_and_in_a_fixed_order():
    emits(EmitOneOp, "sm90")(
        lambda op, module: Emission("statement", {"text": "one();", "note": "1"}, helpers("load_shared"))
    )
    emits(EmitTwoOp, "sm90")(
        lambda op, module: Emission(
            "statement", {"text": "two();", "note": "2"}, (*helpers("store_shared", "load_shared"), Helper("elect_one"))
        )
    )
    renderer = Renderer(MODULE, "sm90")
    assert renderer.helpers() == ""
    assert renderer.body().splitlines() == [
        "    two();  // 2 [test.emit_two]",
        "    one();  // 1 [test.emit_one]",
        "    two();  // 2 [test.emit_two]",
    ]
    text = renderer.helpers()
    places = [text.index(name) for name in (" elect_one(", " load_shared(", " store_shared(")]
    assert places == sorted(places)
    assert text.count(" load_shared(") == 1
