"""The pipeline as a whole: every pass matters, so does its place, and the same input gives the same bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from ir_texts import CASES, TARGET, built, schedule_of

from gemmgen import compiler
from gemmgen.backends.capability import capability
from gemmgen.errors import GemmgenError, IRError
from gemmgen.frontend import build_tile_module
from gemmgen.passes.base import Pass, PassPipeline
from gemmgen.passes.pipeline import pipeline
from gemmgen.passes.registry import parse_passes, pass_text, registered_passes
from gemmgen.runtime import nvrtc

HOPPER = capability(TARGET)
ROOT = Path(__file__).resolve().parents[1]
EXERCISED = {
    "plain": ("promotion", "pipelining", "epilogue-staging", "warp-specialization", "promotion-overlap",
              "register-reallocation", "shared-memory-allocation", "lower-sm90"),
    "cluster": ("cluster-multicast",),
    "split_k_swapped": ("split-k", "swap-operands"),
}  # fmt: skip
"""Which case needs which pass; in others a pass may have nothing to do."""
NEEDED = [(case, name) for case, names in EXERCISED.items() for name in names]


def passes_of(case: str) -> list[Pass]:
    return list(pipeline(schedule_of(case), HOPPER).passes)


def outcome(case: str, passes: list[Pass]) -> str:
    """The source that the passes lead to, or the first line of the error."""
    module = build_tile_module(CASES[case], schedule_of(case), TARGET)
    try:
        return compiler.artifact_of(PassPipeline(tuple(passes)).run(module), schedule_of(case)).source
    except GemmgenError as error:
        return f"error: {error}"


def place(case: str, name: str) -> int:
    return next(index for index, step in enumerate(passes_of(case)) if step.name == name)


def test_every_pass_is_exercised():
    used = {step.name for case in CASES for step in passes_of(case)}
    assert {name for _, name in NEEDED} == used
    assert used <= set(registered_passes())


@pytest.mark.parametrize("case", EXERCISED)
def test_the_passes_as_they_stand(case: str):
    assert outcome(case, passes_of(case)) == built(case).source


@pytest.mark.parametrize(("case", "name"), NEEDED)
def test_removing_a_pass_changes_the_kernel_or_is_refused(case: str, name: str):
    passes = passes_of(case)
    del passes[place(case, name)]
    found = outcome(case, passes)
    assert found != built(case).source
    if found.startswith("error: "):
        assert "need" in found or "fix" in found, found


@pytest.mark.parametrize(("case", "name"), NEEDED)
def test_a_pass_has_its_place(case: str, name: str):
    """Somewhere else in the pipeline it is refused or makes another kernel."""
    passes = passes_of(case)
    moved = passes.pop(place(case, name))
    others = [[*passes[:at], moved, *passes[at:]] for at in range(len(passes) + 1) if at != place(case, name)]
    assert any(outcome(case, order) != built(case).source for order in others)


@pytest.mark.parametrize(
    ("first", "second", "case", "error"),
    [
        ("promotion", "pipelining", "plain", "tile.scaled_mma is illegal in this module"),
        ("split-k", "pipelining", "split_k_swapped", "pass split-k does not apply here"),
        ("swap-operands", "pipelining", "split_k_swapped", "pass swap-operands does not apply here"),
        ("pipelining", "epilogue-staging", "plain", "pass epilogue-staging does not apply here"),
        ("pipelining", "warp-specialization", "plain", "pass epilogue-staging does not apply here"),
        ("warp-specialization", "register-reallocation", "cluster", "no roles to give registers to"),
        ("warp-specialization", "promotion-overlap", "plain", "nothing to overlap: no role promotes"),
        ("promotion-overlap", "lower-sm90", "plain", "pass promotion-overlap does not apply here"),
        ("epilogue-staging", "shared-memory-allocation", "plain", "%staging has no usable place"),
        ("shared-memory-allocation", "lower-sm90", "plain", "lowering needs one ring that has its place"),
    ],
)
def test_constraints_on_the_order(first: str, second: str, case: str, error: str):
    """The reasons in ``passes/pipeline.py``: the earlier pass, moved behind the later one, is refused."""
    passes = passes_of(case)
    moved = passes.pop(place(case, first))
    at = next(index for index, step in enumerate(passes) if step.name == second)
    assert error in outcome(case, [*passes[: at + 1], moved, *passes[at + 1 :]])


def test_split_k_goes_before_the_swap():
    """Behind it the reduction would not be transposed: another kernel, and a wrong one."""
    passes = passes_of("split_k_swapped")
    a, b = place("split_k_swapped", "split-k"), place("split_k_swapped", "swap-operands")
    passes[a], passes[b] = passes[b], passes[a]
    assert outcome("split_k_swapped", passes) != built("split_k_swapped").source


@pytest.mark.parametrize("case", ["plain", "split_k_swapped"])
def test_without_warp_specialisation_there_is_another_kernel_that_compiles(case: str):
    """All warps then load and multiply in turn; the templates know nothing of roles."""
    drop = ("warp-specialization", "promotion-overlap", "register-reallocation")
    kept = [step for step in passes_of(case) if step.name not in drop]
    kept[place(case, "pipelining")] = replace(kept[place(case, "pipelining")], scales_ahead=False)
    source = outcome(case, kept)
    assert not source.startswith("error"), source
    assert source != built(case).source
    assert "---- all: warps 0 to" in source
    assert "---- load: one thread of warp 0" in source
    assert "---- math" not in source
    compiled = nvrtc.compile_cuda(source, CASES[case].name, TARGET, want_ptx=False)
    assert compiled.resources.spill_store_bytes == 0
    assert compiled.resources.warnings == ()


def test_a_pipeline_is_text():
    """``gemmgen opt -p`` runs what the compiler runs."""
    for case in CASES:
        passes = tuple(passes_of(case))
        assert parse_passes(",".join(pass_text(step) for step in passes)) == passes


def test_snapshots_bear_the_passes_names():
    assert list(built("plain").result.stages) == ["input", *(step.name for step in passes_of("plain"))]


def test_passes_leave_their_input_alone():
    module = build_tile_module(CASES["cluster"], schedule_of("cluster"), TARGET)
    before = str(module)
    for step in passes_of("cluster"):
        module, text = step.apply(module), str(module)
        assert text == before
        before = str(module)


def test_the_verifier_names_the_pass():
    passes = passes_of("plain")
    del passes[place("plain", "promotion")]
    found = outcome("plain", passes)
    assert found.startswith("error: "), found
    with pytest.raises(IRError):
        PassPipeline(tuple(passes)).run(build_tile_module(CASES["plain"], schedule_of("plain"), TARGET))


PRINT_DIGESTS = """
import hashlib, sys
sys.path.insert(0, {tests!r})
from ir_texts import CASES, built
for case in CASES:
    artifact = built(case)
    for text in (artifact.source, *artifact.ir.values(), str(artifact.launch), str(artifact.schedule)):
        print(case, hashlib.sha256(text.encode()).hexdigest())
"""


def digests(hash_seed: str) -> str:
    program = PRINT_DIGESTS.format(tests=str(ROOT / "tests"))
    environment = dict(os.environ, PYTHONHASHSEED=hash_seed, PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_two_processes_write_the_same_bytes():
    one, two = digests("1"), digests("4242")
    assert one == two
    assert one.count("\n") > 8 * 10
    assert f"plain {hashlib.sha256(built('plain').source.encode()).hexdigest()}" in one


def test_generating_is_cheap():
    """From spec to source, verified between all passes: a fraction of what NVRTC takes."""
    assert min(_build_seconds() for _ in range(5)) < 0.03


def _build_seconds() -> float:
    start = time.process_time()
    compiler.build(CASES["plain"], TARGET, schedule_of("plain"))
    return time.process_time() - start
