"""NVRTC accepts every kind of kernel without a warning and without a spill, or it is refused; no GPU is needed."""

from __future__ import annotations

import re

import pytest
from ir_texts import CASES, TARGET, built, edited, schedule_of, spec_of

from gemmgen import compiler
from gemmgen.backends.sm90 import hardware as hw
from gemmgen.errors import CompileError
from gemmgen.runtime import nvrtc


def check(artifact: compiler.Artifact) -> nvrtc.Compiled:
    compiled = nvrtc.compile_cuda(artifact.source, artifact.name, TARGET)
    found = compiled.resources
    assert found.warnings == ()
    assert (found.spill_store_bytes, found.spill_load_bytes, found.stack_frame_bytes) == (0, 0, 0)
    assert found.static_smem_bytes == 0
    assert found.registers <= hw.launch_registers(artifact.launch.threads)
    return compiled


@pytest.mark.parametrize("case", CASES)
def test_case(case: str):
    ptx = check(built(case)).ptx
    assert f".entry {CASES[case].name}(" in ptx
    assert "wgmma.mma_async.sync.aligned.m64n" in ptx


@pytest.mark.parametrize("case", ["cluster", "split_k_swapped"])
def test_scales_copied_by_lanes(case: str):
    artifact = compiler.build(CASES[case], TARGET, schedule_of(case).replace(scale_copy="lanes", scales_ahead=False))
    assert "cp.async.ca.shared.global" in check(artifact).ptx


def test_the_largest_shipped_kernels_do_not_spill():
    """Tiles whose accumulators leave the fewest registers over."""
    entries = compiler.plan(spec_of(7168, 2048), TARGET)
    check(
        compiler.build(
            spec_of(7168, 2048), TARGET, max((e.schedule for e in entries), key=lambda s: s.tile[0] * s.tile[1])
        )
    )


@pytest.mark.parametrize(("case", "instructions"), [
    ("plain", ("setmaxnreg.inc", "setmaxnreg.dec", "cp.async.bulk.tensor.2d", "stmatrix", "cp.async.bulk.wait_group")),
    ("cluster", ("multicast::cluster", "mapa.shared::cluster", "barrier.cluster.arrive")),
    ("split_k_swapped", ("ld.shared::cluster", "barrier.cluster.arrive.release", "barrier.cluster.wait.acquire")),
    ("rowwise", ("griddepcontrol.wait", "griddepcontrol.launch_dependents")),
])  # fmt: skip
def test_instructions(case: str, instructions: tuple[str, ...]):
    ptx = check(built(case)).ptx
    for instruction in instructions:
        assert re.search(rf"\b{re.escape(instruction)}", ptx), instruction


def test_products_that_wait_for_each_other_are_refused():
    """Unrolled, overlapped steps copy partial sums which wgmma still writes: ptxas then waits for every product."""
    artifact = built("plain")
    assert schedule_of("plain").promotion_overlap
    unrolled = edited(
        artifact.source, ("for (; steps > 2; steps -= 2) {", "#pragma unroll 2\nfor (; steps > 2; steps -= 2) {")
    )
    with pytest.raises(CompileError, match="touches sums which wgmma still writes") as caught:
        nvrtc.compile_cuda(unrolled, artifact.name, TARGET)
    assert caught.value.where == artifact.name
    assert "wgmma.mma_async instructions are serialized" in str(caught.value.got)
    assert None not in (caught.value.need, caught.value.fix)
