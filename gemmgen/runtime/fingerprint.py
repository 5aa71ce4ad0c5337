"""A hash of gemmgen's own code: kernels made by another version of it are never reused."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from gemmgen.resources import resource_dir

_SUFFIXES = (".py", ".lark", ".j2")
# These only look at kernels; an edit here changes none.
_FOLDERS_WITHOUT_INFLUENCE = frozenset({"__pycache__", "emulator", "cli"})


@cache
def code_fingerprint() -> str:
    """Hash of the contents of every file that can change a generated kernel or how it is launched."""
    package = Path(__file__).resolve().parent.parent
    return hash_sources((package, resource_dir("templates")))


def hash_sources(roots: tuple[Path, ...]) -> str:
    """Hash of the names and contents of all source files under ``roots``; where the roots lie does not matter."""
    state = hashlib.blake2b(digest_size=16)
    for root in roots:
        for path in sorted(_source_files(str(root))):
            with open(path, "rb") as file:
                content = file.read()
            state.update(f"{os.path.relpath(path, root)}\0{len(content)}\0".encode())
            state.update(content)
    return state.hexdigest()


def _source_files(folder: str) -> Iterator[str]:
    for item in os.scandir(folder):
        if item.is_dir():
            if item.name not in _FOLDERS_WITHOUT_INFLUENCE:
                yield from _source_files(item.path)
        elif item.name.endswith(_SUFFIXES):
            yield item.path
