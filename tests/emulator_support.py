"""Kernels for the emulator's tests, compiled by NVRTC where the test runs, and how to launch them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
from cuda.bindings import nvrtc

from gemmgen.emulator import Report, TensorMap, Uninitialized, emulate

KERNELS = Path(__file__).parent / "emulator_kernels"
HOPPER_STAGES = 4
BLACKWELL_COLUMNS = 128
TOLERANCE = 0.01


@cache
def compile_ptx(name: str, arch: str, *options: str) -> str:
    """PTX of a kernel file with line information."""
    return ptx_of_source((KERNELS / name).read_text(), name, arch, *options)


@cache
def ptx_of_source(source: str, name: str, arch: str, *options: str) -> str:
    """PTX of CUDA source with line information; ptxas does not see it, and so refuses nothing."""
    _, program = nvrtc.nvrtcCreateProgram(source.encode(), name.encode(), 0, [], [])
    flags = [f"--gpu-architecture={arch}", "-lineinfo", "--std=c++17", *options]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(flags), [flag.encode() for flag in flags])
    assert int(status) == 0, _log(program)
    _, size = nvrtc.nvrtcGetPTXSize(program)
    buffer = b" " * size
    nvrtc.nvrtcGetPTX(program, buffer)
    return buffer.decode().rstrip("\0 ")


def _log(program: object) -> str:
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = b" " * size
    nvrtc.nvrtcGetProgramLog(program, log)
    return log.decode()


def hopper_ptx(cluster: int = 1) -> str:
    """The FP8 GEMM of ``hopper.cu``; clusters multicast and loop over tiles."""
    return compile_ptx("hopper.cu", "compute_90a", f"-DCLUSTER={cluster}", f"-DPERSIST={int(cluster > 1)}")


def run_hopper(
    ptx: str, shape: tuple[int, int, int], cluster: int = 1, grid: int | None = None, **options: object
) -> tuple[Report, float]:
    """Launch ``hopper.cu``; returns the report and the largest error relative to the largest output."""
    m, n, k = shape
    rng = np.random.default_rng(1)
    a = rng.normal(size=(m, k)).astype(ml_dtypes.float8_e4m3fn)
    b = rng.normal(size=(n, k)).astype(ml_dtypes.float8_e4m3fn)
    k_blocks, n_blocks, padded_m = -(-k // 128), -(-n // 128), -(-m // 4) * 4
    sa = rng.uniform(0.5, 2, (k_blocks, padded_m)).astype(np.float32)
    sb = rng.uniform(0.5, 2, (n_blocks, k_blocks)).astype(np.float32)
    d = np.zeros((m, n), ml_dtypes.bfloat16)
    maps = [
        TensorMap(a, (k, m), (k,), (128, 128), "e4m3", "128B"),
        TensorMap(b, (k, n), (k,), (128, 128 // cluster), "e4m3", "128B"),
        TensorMap(sa, (padded_m, k_blocks), (4 * padded_m,), (128, 1), "f32"),
        TensorMap(Uninitialized(d), (n, m), (2 * n,), (64, 64), "bf16", "128B"),
    ]
    shared = HOPPER_STAGES * (2 * 128 * 128 + 512) + 128 * 128 * 2 + 16 * HOPPER_STAGES
    tiles = -(-m // 128) * n_blocks
    report = emulate(ptx, "gemm", grid or tiles, 384, cluster, shared, [*maps, sb, m, n, k], **options)  # type: ignore[arg-type]
    exact = np.zeros((m, n))
    for block in range(k_blocks):
        part = slice(128 * block, 128 * block + 128)
        scale = sa[block, :m, None] * np.repeat(sb[:, block], 128)[None, :n]
        exact += a[:, part].astype(np.float64) @ b[:, part].astype(np.float64).T * scale
    return report, float(np.abs(d.astype(np.float64) - exact).max() / np.abs(exact).max())


def blackwell_ptx(group: int = 1, scaled: int = 0) -> str:
    """The tcgen05 kernel of ``blackwell.cu``."""
    defines = (f"-DTILE_N={BLACKWELL_COLUMNS}", f"-DGROUP={group}", f"-DSCALED={scaled}", '-DKIND="f8f6f4"')
    return compile_ptx("blackwell.cu", "compute_100a", *defines)


def run_blackwell(ptx: str, group: int = 1, scaled: int = 0, **options: object) -> tuple[Report, float]:
    """Launch ``blackwell.cu``; returns the report and the largest error relative to the largest output."""
    m, n, blocks = 128 * group, BLACKWELL_COLUMNS, 2
    k = 128 * blocks
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(rows, k)).astype(ml_dtypes.float8_e4m3fn) for rows in (m, n))
    sfa, sfb = (rng.integers(120, 134, (rows, 4)).astype(np.uint8) for rows in (m, n))
    d = np.full((m, n), np.nan, np.float32)
    maps = [
        TensorMap(a, (k, m), (k,), (128, 128), "e4m3", "128B"),
        TensorMap(b, (k, n), (k,), (128, n // group), "e4m3", "128B"),
    ]
    idesc = (n >> 3) << 17 | (m >> 4) << 24 | (1 << 23 if scaled else 1 << 4)
    shared = 128 * 128 + n // group * 128 + 512 + 512 + 24
    scales = [sfa.view(np.uint32), sfb.view(np.uint32)]
    params = [*maps, *scales, Uninitialized(d), idesc, blocks, 128]
    report = emulate(ptx, "blackwell", group, 128, group, shared, params, **options)  # type: ignore[arg-type]
    left, right = a.astype(np.float64), b.astype(np.float64)
    if scaled:
        left *= np.tile(np.repeat(2.0 ** (sfa.astype(float) - 127), 32, 1), blocks)
        right *= np.tile(np.repeat(2.0 ** (sfb.astype(float) - 127), 32, 1), blocks)
    exact = left @ right.T
    return report, float(np.abs(d - exact).max() / np.abs(exact).max())


def edit(ptx: str, pattern: str, replacement: str, occurrence: int | None = 0) -> str:
    """Replace one occurrence (or all, with None) of a pattern that must be there."""
    found = list(re.finditer(pattern, ptx))
    assert found, f"pattern not in the PTX: {pattern}"
    chosen = found if occurrence is None else [found[occurrence]]
    for match in reversed(chosen):
        ptx = ptx[: match.start()] + match.expand(replacement) + ptx[match.end() :]
    return ptx
