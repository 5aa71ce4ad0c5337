"""Golden text of Blackwell's levels, and what both targets share."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Golden
from ir_texts import SPECS, opt, roles_of, spec_of
from ir_texts import TARGET as HOPPER
from sm100_cases import CASES, TARGET, built

from gemmgen import compiler
from gemmgen.backends.capability import capabilities, capability
from gemmgen.emit.emission import require_emitters
from gemmgen.ir import parse_module
from gemmgen.ir.rewrite import walk
from gemmgen.passes.pipeline import pipeline
from gemmgen.schedule import Schedule
from gemmgen.spec.loader import load_spec

LEVELS = {"tile": ".ir", "async": ".ir", "target": ".ir", "cuda": ".cu"}
GOLDEN_CASES = ("plain", "one_row", "bf16_nn", "mx", "pair_mx", "pair")
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


SPEC_NAMES = sorted(path.stem for path in SPECS.glob("*.yaml") if {HOPPER, TARGET} <= set(load_spec(path).targets))
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {}, "swapped": {"swap_ab": True}, "gathered": {"scale_copy": "lanes"}, "cluster": {"cluster": (2, 1)},
    "cluster_along_n": {"cluster": (1, 2)}, "pair": {"cta_group": 2}, "swapped_pair": {"swap_ab": True, "cta_group": 2},
}  # fmt: skip
EXPLANATIONS = {"tensor-memory-allocation": "tensor_memory", "cta-pairs": "cta_pairs"}
"""Every pass that one target has and the other has not, and the capability that asks for it."""
SHARED_STAGES = (
    "input",
    "promotion",
    "split-k",
    "swap-operands",
    "pipelining",
    "epilogue-staging",
    "cluster-multicast",
)
ROLE_STAGES = ("warp-specialization", "register-reallocation", "shared-memory-allocation")


def twins(name: str, shape: str) -> dict[str, compiler.Artifact]:
    """A spec's kernels for both targets, with a schedule of the same numbers."""
    spec = spec_of(264, 400, name)
    step = 128 if spec.operands.a.dtype == "e4m3" else 64
    rows = SHAPES[shape].get("swap_ab", False)
    schedule = Schedule((64, 128, step) if rows else (128, 64, step), 3, math_warpgroups=1, accumulators=2,
                        **SHAPES[shape])  # fmt: skip
    return {target: compiler.build(spec, target, schedule) for target in (TARGET, HOPPER)}


def test_the_specs_of_both_targets():
    """All that Hopper has; what Blackwell has beyond them are formats and layouts of FP8."""
    hopper = {path.stem for path in SPECS.glob("*.yaml") if HOPPER in load_spec(path).targets}
    assert hopper == set(SPEC_NAMES)
    assert len(SPEC_NAMES) >= 9


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SPEC_NAMES)
def test_both_targets_run_the_same_passes(name: str, shape: str):
    """Up to target lowering, in the same order; a pass that one lacks is one that a capability asks for."""
    stages = {target: list(artifact.result.stages) for target, artifact in twins(name, shape).items()}
    mine, theirs = stages[TARGET], stages[HOPPER]
    assert (mine.pop(), theirs.pop()) == ("lower-sm100", "lower-sm90")
    extra = [stage for stage in mine if stage not in theirs]
    assert [stage for stage in mine if stage not in extra] == theirs
    pairs = ["cta-pairs"] if "cta_group" in SHAPES[shape] else []
    assert extra == [*pairs, "tensor-memory-allocation"]
    for stage in extra:
        assert getattr(capability(TARGET), EXPLANATIONS[stage])
        assert not getattr(capability(HOPPER), EXPLANATIONS[stage])


@pytest.mark.parametrize("stage", SHARED_STAGES)
@pytest.mark.parametrize("name", SPEC_NAMES)
def test_the_ir_is_the_same_until_roles_part(name: str, stage: str):
    """The tile level whole, and the async level until warps are specialised, byte for byte but the target's name."""
    seen = 0
    for shape in SHAPES:
        texts = [artifact.ir.get(stage) for artifact in twins(name, shape).values()]
        if texts == [None, None]:
            continue
        mine, theirs = texts
        assert mine is not None
        assert mine.replace(TARGET, HOPPER) == theirs, shape
        seen += 1
    assert seen == (2 if stage == "swap-operands" else len(SHAPES))


ACCUMULATORS = re.compile(r"%parts\b|async\.fetch\(")
PRODUCTS = re.compile(r"async\.(wait|release)\(ring=%ring\)|async\.read\(ring=%ring\)|tile\.mma\(")
SUMS_IN_REGISTERS = re.compile(r"tile\.(zeros|for_k|yield)\(")


@pytest.mark.parametrize("stage", ROLE_STAGES)
@pytest.mark.parametrize("name", SPEC_NAMES)
def test_roles_differ_by_the_accumulators_alone(name: str, stage: str):
    """Loads are the same. Products have a role of their own, and a ring of accumulators between it and the rest."""
    for shape in SHAPES:
        if "cta_group" in SHAPES[shape]:
            continue
        mine, theirs = (roles_of(artifact.ir[stage]) for artifact in twins(name, shape).values())
        assert set(mine) - set(theirs) == {"mma"}
        assert set(theirs) <= set(mine)
        for role in set(theirs) - {"math"}:
            assert mine[role] == theirs[role], (shape, role)
        added = [line for line in mine["math"] if line not in theirs["math"]]
        removed = [line for line in theirs["math"] if line not in mine["math"]]
        assert added
        assert removed
        assert all(ACCUMULATORS.search(line) for line in added), added
        by_tile = any("async.fetch(" in line for line in added)
        allowed = [PRODUCTS, SUMS_IN_REGISTERS] if by_tile else [PRODUCTS]
        assert all(any(pattern.search(line) for pattern in allowed) for line in removed), removed
        assert any("async.mma(" in line for line in mine["mma"])
        assert by_tile == any("accumulate=true" in line for line in mine["mma"])


@pytest.mark.parametrize("shape", ["pair", "swapped_pair"])
@pytest.mark.parametrize("name", SPEC_NAMES)
def test_a_pair_differs_by_its_own_pass(name: str, shape: str):
    """A target without pairs gives the IR that the pass starts from; running the pass on it gives the other one."""
    mine, theirs = (artifact.ir for artifact in twins(name, shape).values())
    before = theirs["cluster-multicast"].replace(HOPPER, TARGET)
    assert opt(before, "cta-pairs") == mine["cta-pairs"]
    assert opt(before, "cta-pairs").count("ctas=2") >= 2


def changes(schedule: Schedule, **capabilities: bool) -> list[str]:
    """Passes up to lowering that are there, or have other options, only where a target has these capabilities."""
    base = replace(capability(TARGET), tensor_memory=False, cta_pairs=False, block_scaled_mma=False)
    without = pipeline(schedule, base).passes[:-1]
    having = pipeline(schedule, replace(base, **capabilities)).passes[:-1]
    assert [one.name for one in without if one.name not in {other.name for other in having}] == []
    return [one.name for one in having if one not in without]


def test_each_capability_explains_its_passes():
    """The list is whole: without these three the passes for both targets are the same, with the same options."""
    schedule = Schedule((128, 64, 128), 3, accumulators=2, cta_group=2)
    none = replace(capability(TARGET), tensor_memory=False, cta_pairs=False, block_scaled_mma=False)
    assert pipeline(schedule, none).passes[:-1] == pipeline(schedule, capability(HOPPER)).passes[:-1]
    assert changes(schedule) == []
    assert changes(schedule, block_scaled_mma=True) == ["promotion"]
    assert changes(schedule, cta_pairs=True) == ["cta-pairs"]
    assert changes(schedule.replace(cta_group=1), cta_pairs=True) == []
    assert changes(schedule, tensor_memory=True) == ["warp-specialization", "tensor-memory-allocation"]


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
