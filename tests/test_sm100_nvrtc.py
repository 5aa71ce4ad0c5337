"""NVRTC turns every kind of Blackwell kernel into a cubin without a warning and without a spill."""

from __future__ import annotations

import re

import pytest
from ir_texts import spec_of
from sm100_cases import CASES, TARGET, built

from gemmgen import compiler
from gemmgen.backends.sm90.hardware import launch_registers
from gemmgen.backends.sm100.heuristics import PLAIN_COLUMNS
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
    kind = "f8f6f4" if CASES[name].spec.operands.a.dtype == "e4m3" else "f16"
    assert f"tcgen05.mma.cta_group::1.kind::{kind}" in compiled.ptx


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
