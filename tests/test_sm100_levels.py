"""Golden text of Blackwell's levels, and what both targets share."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from conftest import Golden
from ir_texts import TARGET as HOPPER
from ir_texts import opt, spec_of
from sm100_cases import CASES, TARGET, built, schedule_of

from gemmgen import compiler
from gemmgen.backends.capability import capabilities, capability
from gemmgen.emit.emission import require_emitters
from gemmgen.ir import parse_module
from gemmgen.ir.rewrite import walk

LEVELS = {"async": ".ir", "target": ".ir", "cuda": ".cu"}
GOLDEN_CASES = ("plain", "one_row", "bf16_nn")
ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_text(name: str, level: str, golden: Golden):
    artifact = built(name)
    golden(artifact.source if level == "cuda" else artifact.ir[level], LEVELS[level])


@pytest.mark.parametrize("name", CASES)
def test_every_stage_reads_back(name: str):
    for text in built(name).ir.values():
        assert str(parse_module(text)) == text
        assert opt(text) == text


def hopper_twin(name: str) -> compiler.Artifact:
    """The same spec for Hopper, with a schedule of the same numbers as far as it has them."""
    schedule = schedule_of(name).replace(accumulators=0, producer_registers=0, math_registers=0, math_warpgroups=1)
    return compiler.build(spec_of(256, 384), HOPPER, schedule)


def test_both_targets_run_the_same_passes():
    """Up to target lowering, the one difference is the pass that the capability record asks for."""
    mine, theirs = (list(artifact.result.stages) for artifact in (built("plain"), hopper_twin("plain")))
    assert mine[-1] == "lower-sm100"
    assert theirs[-1] == "lower-sm90"
    assert [stage for stage in mine[:-1] if stage not in theirs] == ["tensor-memory-allocation"]
    assert [stage for stage in theirs[:-1] if stage not in mine] == []


@pytest.mark.parametrize("stage", ["input", "promotion", "split-k", "pipelining", "epilogue-staging",
                                   "cluster-multicast"])  # fmt: skip
def test_the_ir_is_the_same_until_roles_part(stage: str):
    """The tile level whole, and the async level until warps are specialised, byte for byte but the target's name."""
    schedule = schedule_of("plain").replace(math_warpgroups=1)
    mine = compiler.build(CASES["plain"].spec, TARGET, schedule.replace(math_registers=0, producer_registers=0))
    assert mine.ir[stage].replace(TARGET, HOPPER) == hopper_twin("plain").ir[stage]


def test_roles_differ_by_the_accumulators_alone():
    """Loads are the same; Blackwell's products have a role of their own."""
    roles = {}
    for artifact in (built("plain"), hopper_twin("plain")):
        module = parse_module(artifact.ir["warp-specialization"])
        roles[module.target] = {op.name: op for op in module.body.ops if op.NAME == "async.role"}
    assert set(roles[TARGET]) - set(roles[HOPPER]) == {"mma"}
    for name in ("load", "scales"):
        assert str(roles[TARGET][name].body) == str(roles[HOPPER][name].body)


def test_no_pass_names_a_target():
    """Passes and the frontend ask a capability; they neither compare names nor import a backend's modules."""
    names = {word for record in capabilities() for word in (record.name, record.dialect)}
    files = [*(ROOT / "gemmgen" / "passes").glob("*.py"), ROOT / "gemmgen" / "frontend.py"]
    for path in files:
        tree = ast.parse(path.read_text())
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
        }
        words = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
        ]
        imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        for name in names:
            assert not [word for word in (*words, *imported) if name in word], path


def test_tensor_memory_is_a_capability():
    assert capability(HOPPER).tensor_memory_columns == 0
    assert {capability(name).tensor_memory_columns for name in (TARGET, "sm_103a")} == {512}


def test_every_op_has_an_emitter():
    for name in CASES:
        module = built(name).result.module
        require_emitters(module, "sm100")
        assert all(op.NAME.startswith("sm100.") for op in walk(module))
