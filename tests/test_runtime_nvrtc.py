"""NVRTC on this machine: cubin, PTX, resources, and errors that point at the source."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gemmgen.errors import CompileError
from gemmgen.runtime import nvrtc

KERNEL = """extern "C" __global__ void __launch_bounds__(128, 1) scale(float* x, float factor) {
  __shared__ float tile[256];
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = tile[threadIdx.x ^ 1] * factor;
}
"""


def test_one_compilation_gives_cubin_ptx_and_resources() -> None:
    compiled = nvrtc.compile_cuda(KERNEL, "scale", "sm_90a")
    assert compiled.cubin.startswith(b"\x7fELF")
    assert ".target sm_90a" in compiled.ptx
    assert ".visible .entry scale(" in compiled.ptx
    assert compiled.resources.static_smem_bytes == 1024
    assert 4 <= compiled.resources.registers <= 64
    assert compiled.resources.spill_store_bytes == compiled.resources.spill_load_bytes == 0
    assert compiled.resources.warnings == ()
    assert compiled.compile_ms > 0
    assert nvrtc.Resources.from_dict(compiled.resources.to_dict()) == compiled.resources
    assert nvrtc.compile_cuda(KERNEL, "scale", "sm_90a", want_ptx=False).ptx == ""


def test_equal_sources_give_equal_cubins_in_every_directory(tmp_path: Path) -> None:
    first = nvrtc.compile_cuda(KERNEL, "scale", "sm_90a")
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        second = nvrtc.compile_cuda(KERNEL, "scale", "sm_90a")
    finally:
        os.chdir(here)
    assert (first.cubin, first.ptx) == (second.cubin, second.ptx)


def test_frontend_errors_show_the_line() -> None:
    with pytest.raises(CompileError) as caught:
        nvrtc.compile_cuda(KERNEL.replace("* factor", "* facto"), "scale", "sm_90a")
    assert caught.value.where == "scale.cu:5"
    assert ">    5 |   x[threadIdx.x] = tile[threadIdx.x ^ 1] * facto;" in str(caught.value)
    assert 'identifier "facto" is undefined' in str(caught.value)


def test_ptxas_errors_show_the_source_line_of_the_instruction() -> None:
    bad = KERNEL.replace("__syncthreads();", 'asm volatile("no.such.instruction;");')
    with pytest.raises(CompileError) as caught:
        nvrtc.compile_cuda(bad, "scale", "sm_90a")
    assert caught.value.where == "scale.cu:4"
    assert "no.such.instruction" in str(caught.value)


def test_wrong_target_and_missing_kernel() -> None:
    with pytest.raises(CompileError, match="gpu-architecture"):
        nvrtc.compile_cuda(KERNEL, "scale", "sm_1")
    with pytest.raises(CompileError, match="reported no resources"):
        nvrtc.compile_cuda(KERNEL, "other", "sm_90a")


def test_ignored_setmaxnreg_is_a_warning() -> None:
    source = KERNEL.replace(" __launch_bounds__(128, 1)", "").replace(
        "__syncthreads();", 'asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");'
    )
    (warning,) = nvrtc.compile_cuda(source, "scale", "sm_90a").resources.warnings
    assert "setmaxnreg" in warning
    assert "ignored" in warning


def test_spills_are_counted() -> None:
    body = "".join(f"float v{i} = x[{i}];" for i in range(96)) + "__syncthreads();"
    body += "".join(f"x[{i}] = v{i} + v{95 - i} * factor;" for i in range(96))
    source = 'extern "C" __global__ void __launch_bounds__(1024, 2) scale(float* x, float factor) {' + body + "}"
    resources = nvrtc.compile_cuda(source, "scale", "sm_90a").resources
    assert resources.registers <= 32
    assert resources.spill_store_bytes > 0
    assert resources.spill_load_bytes > 0
    assert resources.stack_frame_bytes > 0


def test_resources_of_a_recorded_log() -> None:
    log = """ptxas info    : 0 bytes gmem
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized in function 'gemm'
ptxas info    : Compiling entry function 'gemm' for 'sm_90a'
ptxas info    : Function properties for gemm
ptxas         .     16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 168 registers, used 3 barriers, 16 bytes cumulative stack size, 64 bytes smem
gemm.cu(5): warning #550-D: variable "bar" was set but never used
"""
    resources = nvrtc.parse_resources(log, "gemm")
    assert resources == nvrtc.Resources(168, 12, 8, 16, 64, resources.warnings)
    assert [text.split(":")[0] for text in resources.warnings] == ["gemm.cu(5)", "ptxas info    "]


def test_version_and_targets() -> None:
    assert nvrtc.nvrtc_version() >= (13, 0)
    assert "sm_90" in nvrtc.supported_targets()
    assert nvrtc.nvrtc_identity()
