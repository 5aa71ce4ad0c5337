"""CUDA source to cubin and PTX through NVRTC: no headers, no nvcc, no subprocess, no GPU, no driver."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import cache
from importlib import import_module, util
from pathlib import Path
from types import ModuleType
from typing import Any

from gemmgen.errors import CompileError

_ERROR_LINE = re.compile(r"^[^\s()]+\((?P<line>\d+)\): (?:catastrophic |internal )?error", re.MULTILINE)
_PTXAS_ERROR_LINE = re.compile(r"ptx input, line (?P<line>\d+)\s*;\s*(?:error|fatal)")
_PTX_LOCATION = re.compile(r"^\s*\.loc\s+\d+\s+(?P<line>\d+)", re.MULTILINE)
_PTXAS_FUNCTION = re.compile(r"Compiling entry function '(?P<name>[^']+)' for")
_PTXAS_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_PTXAS_REGISTERS = re.compile(r"Used (\d+) registers")
_PTXAS_SMEM = re.compile(r"(\d+) bytes smem")
_PTXAS_SERIALIZED = re.compile(r"^ptxas.*wgmma\.mma_async instructions are serialized.*$", re.MULTILINE)
# ptxas reports lost performance (serialised wgmma, ignored setmaxnreg) as "info" with a message code, so both count.
_PTXAS_WARNING = re.compile(r"^ptxas (?:warning|info\s*: \(C\d+\)).*$", re.MULTILINE)
_FRONTEND_WARNING = re.compile(r"^[^\s()]+\(\d+\): warning.*$", re.MULTILINE)
_CONTEXT_LINES = 2
# An absolute name keeps the current directory out of the line information, so equal sources give equal cubins.
_SOURCE_FOLDER = "/gemmgen/"


@dataclass(frozen=True)
class Resources:
    """What one kernel takes from its SM, as ptxas reports it.

    Attributes:
        registers: registers per thread at launch (``setmaxnreg`` moves them afterwards).
        spill_store_bytes: bytes of registers stored to local memory, per thread.
        spill_load_bytes: bytes of registers read back, per thread.
        stack_frame_bytes: local-memory frame per thread.
        static_smem_bytes: statically declared shared memory; dynamic shared memory is in the launch plan.
        warnings: what the compiler complained about, ignored ``setmaxnreg`` and serialised wgmma included.
    """

    registers: int
    spill_store_bytes: int
    spill_load_bytes: int
    stack_frame_bytes: int
    static_smem_bytes: int
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {**vars(self), "warnings": list(self.warnings)}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Resources:
        """Rebuild from :meth:`to_dict`."""
        return cls(**{**plain, "warnings": tuple(plain["warnings"])})


@dataclass(frozen=True)
class Compiled:
    """What NVRTC made of one source.

    Attributes:
        cubin: the ELF image for exactly one architecture.
        ptx: the PTX the cubin was assembled from; empty if it was not asked for.
        log: the complete compiler log.
        resources: registers, spills and shared memory of the kernel.
        compile_ms: milliseconds spent inside NVRTC.
    """

    cubin: bytes
    ptx: str
    log: str
    resources: Resources
    compile_ms: float


def compile_options(target: str) -> tuple[str, ...]:
    """The NVRTC options for ``target``; they are part of every cache key.

    Line information costs no instruction: profilers and the emulator use it to name source lines.
    """
    return (f"--gpu-architecture={target}", "--std=c++17", "--generate-line-info", "--ptxas-options=-v", "--no-cache")


def compile_cuda(source: str, name: str, target: str, want_ptx: bool = True) -> Compiled:
    """Compile one self-contained CUDA source that holds one kernel.

    Args:
        source: CUDA C++ text without includes.
        name: the kernel's entry symbol; ``<name>.cu`` is the file name in messages and line information.
        target: architecture with its suffix, e.g. ``sm_90a``.
        want_ptx: also return the PTX.

    Raises:
        CompileError: NVRTC is missing or refused the source; the message shows the offending line and the log. Or ptxas
            does not let products run by themselves.
    """
    nvrtc = _nvrtc()
    file = f"{_SOURCE_FOLDER}{name}.cu"
    program = _checked(nvrtc, nvrtc.nvrtcCreateProgram(source.encode(), file.encode(), 0, [], []))
    try:
        options = [option.encode() for option in compile_options(target)]
        start = time.perf_counter()
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        compile_ms = (time.perf_counter() - start) * 1e3
        log = _text(_read(nvrtc, program, "ProgramLog")).replace(_SOURCE_FOLDER, "")
        failed = status != nvrtc.nvrtcResult.NVRTC_SUCCESS
        ptx = _text(_read(nvrtc, program, "PTX")) if want_ptx or failed else ""
        if failed:
            line = _failing_line(log, ptx)
            raise _compile_error(source, f"{name}.cu", target, line, log or str(status))
        _refuse_serialized(log, name)
        return Compiled(_read(nvrtc, program, "CUBIN"), ptx, log, parse_resources(log, name), compile_ms)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _refuse_serialized(log: str, name: str) -> None:
    """Raise CompileError if ptxas waits for every product because code touches sums that are under way.

    Such a kernel is slow, and may be wrong: one that the compiler had unrolled copied sums before they were complete.
    """
    if found := _PTXAS_SERIALIZED.search(log):
        raise CompileError("ptxas finds code that touches sums which wgmma still writes", where=name, got=found[0],
                           need="products that run by themselves until they are waited for",
                           fix="leave schedule.promotion_overlap auto, or report it with NVRTC's version")  # fmt: skip


def parse_resources(log: str, name: str) -> Resources:
    """Read ptxas's ``-v`` report of the kernel ``name``.

    Raises:
        CompileError: the log has no report for that kernel.
    """
    sections = _PTXAS_FUNCTION.split(log)
    reports = dict(zip(sections[1::2], sections[2::2], strict=True))
    report = reports.get(name, "")
    frame, registers = _PTXAS_FRAME.search(report), _PTXAS_REGISTERS.search(report)
    if frame is None or registers is None:
        raise CompileError(
            "ptxas reported no resources for the kernel",
            where=name,
            got="reports for " + (", ".join(reports) or "no kernel"),
            need=f'an extern "C" __global__ function named {name}',
        )
    smem = _PTXAS_SMEM.search(report)
    warnings = _FRONTEND_WARNING.findall(log) + _PTXAS_WARNING.findall(log)
    return Resources(
        registers=int(registers[1]),
        spill_store_bytes=int(frame[2]),
        spill_load_bytes=int(frame[3]),
        stack_frame_bytes=int(frame[1]),
        static_smem_bytes=int(smem[1]) if smem else 0,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def nvrtc_version() -> tuple[int, int]:
    """Version of the NVRTC library, e.g. ``(13, 5)``."""
    nvrtc = _nvrtc()
    status, major, minor = nvrtc.nvrtcVersion()
    _checked(nvrtc, (status, None))
    return major, minor


@cache
def nvrtc_identity() -> str:
    """A text that changes when another NVRTC is installed, found without loading the 100 MB library where possible."""
    try:
        package = util.find_spec("nvidia.cu13")
    except ModuleNotFoundError:
        package = None
    for folder in package.submodule_search_locations or () if package else ():
        for library in sorted(Path(folder, "lib").glob("libnvrtc.so.*")):
            stat = library.stat()
            return f"{library.name}:{stat.st_size}:{stat.st_mtime_ns}"
    return "nvrtc {}.{}".format(*nvrtc_version())


def supported_targets() -> tuple[str, ...]:
    """The base architectures that this NVRTC generates code for, e.g. ``sm_90``."""
    nvrtc = _nvrtc()
    return tuple(f"sm_{arch}" for arch in _checked(nvrtc, nvrtc.nvrtcGetSupportedArchs()))


@cache
def _nvrtc() -> ModuleType:
    """The NVRTC bindings with their library loaded."""
    try:
        nvrtc = import_module("cuda.bindings.nvrtc")

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError, OSError) as error:
        raise CompileError(
            "NVRTC cannot be loaded",
            got=str(error).splitlines()[0],
            need="the nvidia-cuda-nvrtc wheel that matches cuda-bindings",
            fix="pip install 'nvidia-cuda-nvrtc>=13'",
        ) from error
    return nvrtc


def _checked(nvrtc: ModuleType, result: tuple[Any, ...]) -> Any:
    """The payload of a ``(status, value)`` answer."""
    if result[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise CompileError("NVRTC failed", got=nvrtc.nvrtcGetErrorString(result[0])[1].decode())
    return result[1]


def _read(nvrtc: ModuleType, program: Any, what: str) -> bytes:
    """Fetch one of the program's outputs: ``CUBIN``, ``PTX`` or ``ProgramLog``."""
    size = _checked(nvrtc, getattr(nvrtc, f"nvrtcGet{what}Size")(program))
    buffer = bytes(size)
    _checked(nvrtc, (*getattr(nvrtc, f"nvrtcGet{what}")(program, buffer), None))
    return buffer


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\x00 \n").decode(errors="replace")


def _failing_line(log: str, ptx: str) -> int | None:
    """The first source line that the frontend, or ptxas through the PTX's line information, complains about."""
    match = _ERROR_LINE.search(log)
    if match is not None:
        return int(match["line"])
    match = _PTXAS_ERROR_LINE.search(log)
    if match is None:
        return None
    before = "\n".join(ptx.splitlines()[: int(match["line"])])
    locations = _PTX_LOCATION.findall(before)
    return int(locations[-1]) if locations else None


def _compile_error(source: str, file: str, target: str, line: int | None, log: str) -> CompileError:
    """An error that shows the offending line of ``source`` with its neighbours, and the log."""
    excerpt = ""
    if line is not None:
        lines = source.splitlines()
        shown = range(max(1, line - _CONTEXT_LINES), min(len(lines), line + _CONTEXT_LINES) + 1)
        excerpt = "".join(f"\n   {'>' if number == line else ' '}{number:5d} | {lines[number - 1]}" for number in shown)
    return CompileError(
        f"NVRTC refused the generated source for {target}",
        where=file if line is None else f"{file}:{line}",
        got=f"{excerpt}\n{log}",
        fix="if gemmgen generated this source, report it together with the spec",
    )
