"""NVRTC turns every kind of Blackwell kernel into a cubin without a warning and without a spill."""

from __future__ import annotations

import re

import pytest
from ir_texts import spec_of
from sm100_cases import CASES, TARGET, built, schedule_of

from gemmgen import compiler
from gemmgen.backends.sm90.hardware import launch_registers
from gemmgen.backends.sm100.heuristics import PLAIN_COLUMNS
from gemmgen.backends.sm100.ops import TmaLoadOp, TmaLoadScalesOp
from gemmgen.ir.rewrite import walk
from gemmgen.runtime import nvrtc


def check(artifact: compiler.Artifact, target: str = TARGET) -> nvrtc.Compiled:
    compiled = nvrtc.compile_cuda(artifact.source, artifact.name, target)
    found = compiled.resources
    assert found.warnings == ()
    assert (found.spill_store_bytes, found.spill_load_bytes, found.stack_frame_bytes) == (0, 0, 0)
    assert found.static_smem_bytes == 0
    assert found.registers <= launch_registers(-(-artifact.launch.threads // 128) * 128)
    return compiled


@pytest.mark.parametrize("name", CASES)
def test_case(name: str):
    compiled = check(built(name))
    assert compiled.ptx is not None
    assert ".target sm_100a" in compiled.ptx
    assert products(compiled.ptx) == {f"tcgen05.mma.cta_group::{schedule_of(name).cta_group}.kind::{kind_of(name)}"}


@pytest.mark.parametrize("name", [name for name in CASES if schedule_of(name).cta_group == 2])
def test_all_that_a_pair_does_is_the_pairs(name: str):
    """Operands are counted at the first CTA's barrier, scales that a CTA needs for itself are not."""
    ptx = check(built(name)).ptx
    assert ptx is not None
    grouped = set(re.findall(r"\btcgen05\.(\w+)\.cta_group::2", ptx))
    assert grouped >= {"mma", "commit", "alloc", "dealloc", "relinquish_alloc_permit"}
    assert ("cp" in grouped) == ("block_scale" in kind_of(name))
    assert "cta_group::1" not in ptx
    module = built(name).result.module
    operands = [op for op in walk(module) if isinstance(op, TmaLoadOp)]
    slabs = sum(op.slabs for op in operands)
    assert {op.barriers.name for op in operands} == {"full"}
    assert len(re.findall(r"cp\.async\.bulk\.tensor\.2d\.cta_group::2\.shared::cluster\.global", ptx)) == slabs
    by_engine = [op for op in walk(module) if isinstance(op, TmaLoadScalesOp)]
    alone = re.findall(r"cp\.async\.bulk\.tensor\.2d\.shared::cluster\.global", ptx)
    assert len(alone) == len(by_engine)


@pytest.mark.parametrize("name", ["plain", "mx"])
def test_a_cta_alone_has_nothing_of_a_pair(name: str):
    ptx = check(built(name)).ptx
    assert ptx is not None
    assert "cta_group::2" not in ptx
    assert "barrier.cluster" not in ptx


def products(ptx: str) -> set[str]:
    """The instructions that multiply, without their operands."""
    return set(re.findall(r"tcgen05\.mma\.\S+", ptx))


def kind_of(name: str) -> str:
    """What follows ``kind::`` in a case's products."""
    a = CASES[name].spec.operands.a
    if a.scale is not None and a.scale.format == "ue8m0":
        return "mxf8f6f4.block_scale"
    return "f8f6f4" if a.dtype == "e4m3" else "f16"


@pytest.mark.parametrize("columns", PLAIN_COLUMNS)
def test_every_shipped_width(columns: int):
    spec = spec_of(4096, 7168, tile=(128, columns, 128))
    (entry,) = compiler.plan(spec, TARGET)
    check(compiler.build(spec, TARGET, entry.schedule))


def test_blackwell_ultra():
    compiled = check(built("plain", "sm_103a"), "sm_103a")
    assert compiled.ptx is not None
    assert ".target sm_103a" in compiled.ptx


def test_tensor_memory_is_allocated_and_freed_once():
    ptx = check(built("plain")).ptx
    assert ptx is not None
    for instruction in ("tcgen05.alloc", "tcgen05.relinquish_alloc_permit", "tcgen05.dealloc"):
        assert len(re.findall(rf"\b{re.escape(instruction)}", ptx)) == 1, instruction
