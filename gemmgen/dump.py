"""``GEMMGEN_DUMP``: everything on the way from a spec to a kernel, written to one folder per kernel."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from gemmgen.errors import GemmgenError
from gemmgen.runtime.disassemble import disassemble

VARIABLE = "GEMMGEN_DUMP"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.=-]+")


def root() -> Path | None:
    """The folder that the variable names; None when nothing is to be dumped."""
    directory = os.environ.get(VARIABLE)
    return Path(directory) if directory else None


def folder_of(name: str, target: str, schedule: object) -> Path | None:
    """The folder of one kernel, ``<name>-<target>-<schedule>``, made if need be."""
    base = root()
    if base is None:
        return None
    folder = base / _NOT_IN_NAMES.sub("_", f"{name}-{target}-{schedule}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_kernel(
    folder: Path | None, name: str, source: str, ptx: str, cubin: bytes, timings_ms: Mapping[str, float]
) -> None:
    """Write a compiled kernel's ``.cu``, ``.ptx``, ``.cubin``, ``.sass`` (with a disassembler) and ``timings.json``."""
    if folder is None:
        return
    (folder / f"{name}.cu").write_text(source, encoding="utf-8")
    (folder / f"{name}.ptx").write_text(ptx, encoding="utf-8")
    (folder / f"{name}.cubin").write_bytes(cubin)
    try:
        (folder / f"{name}.sass").write_text(disassemble(cubin, name), encoding="utf-8")
    except GemmgenError:
        (folder / f"{name}.sass").unlink(missing_ok=True)
    (folder / "timings.json").write_text(json.dumps(dict(timings_ms), indent=1) + "\n", encoding="utf-8")
