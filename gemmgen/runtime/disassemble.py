"""SASS of a cubin through nvdisasm, from its PyPI wheel or from PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from importlib import util
from pathlib import Path

from gemmgen.errors import GemmgenError

_TIMEOUT_S = 60


def disassemble(cubin: bytes, name: str) -> str:
    """The SASS text of ``cubin``.

    Args:
        cubin: the ELF image.
        name: the kernel's name, for messages.

    Raises:
        GemmgenError: no disassembler is installed, or it refused the cubin.
    """
    tool = find_nvdisasm()
    if tool is None:
        raise GemmgenError(
            "no SASS disassembler is installed",
            where=name,
            need="nvdisasm, from the nvidia-cuda-nvdisasm wheel or on PATH",
            fix="pip install nvidia-cuda-nvdisasm",
        )
    with tempfile.TemporaryDirectory(prefix="gemmgen-") as folder:
        path = Path(folder, f"{name}.cubin")
        path.write_bytes(cubin)
        command = [str(tool), "--print-code", "--print-line-info", str(path)]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise GemmgenError("nvdisasm could not be run", where=name, got=str(error)) from error
    if result.returncode:
        raise GemmgenError("nvdisasm refused the cubin", where=name, got=result.stderr.strip())
    return result.stdout


def find_nvdisasm() -> Path | None:
    """The disassembler's path: the wheel's first, since it matches NVRTC's version, then PATH's."""
    try:
        package = util.find_spec("nvidia.cu13")
    except ModuleNotFoundError:
        package = None
    for folder in package.submodule_search_locations or () if package else ():
        tool = Path(folder, "bin", "nvdisasm")
        if os.access(tool, os.X_OK):
            return tool
    on_path = shutil.which("nvdisasm")
    return Path(on_path) if on_path else None
