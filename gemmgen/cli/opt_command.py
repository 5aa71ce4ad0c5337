"""``gemmgen opt``: IR text in, passes over it, IR text out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from gemmgen.cli.output import print_code, print_json, print_table
from gemmgen.errors import IRError
from gemmgen.ir.parser import parse_module
from gemmgen.ir.printer import print_module
from gemmgen.passes.base import PassPipeline
from gemmgen.passes.registry import parse_passes, registered_passes

STDIN = "-"


def opt_command(file: str, passes: Sequence[str], locations: bool, as_json: bool) -> None:
    """Apply passes to a module; see ``gemmgen opt --help``."""
    steps = tuple(step for text in passes for step in parse_passes(text))
    text, name = _read(file)
    result = PassPipeline(steps).run(parse_module(text, name))
    if as_json:
        stages = [
            {"stage": shot.stage, "ms": shot.seconds * 1e3, "ir": print_module(shot.module, locations=locations)}
            for shot in result.snapshots
        ]
        print_json({"file": name, "stages": stages})
    else:
        print_code(print_module(result.module, locations=locations), "text")


def list_passes_command(as_json: bool) -> None:
    """Every pass, the levels it accepts, and what it does."""
    rows = [
        {"name": name, "levels": sorted(cls.levels), "doc": (cls.__doc__ or "").splitlines()[0]}
        for name, cls in registered_passes().items()
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(
            "passes", ("pass", "levels", "effect"), [(r["name"], " ".join(r["levels"]), r["doc"]) for r in rows]
        )


def _read(file: str) -> tuple[str, str]:
    """The text of a file, or of standard input for ``-``, and its name for messages."""
    try:
        if file == STDIN:
            return sys.stdin.read(), "<stdin>"
        return Path(file).read_text(encoding="utf-8"), file
    except (OSError, ValueError) as error:
        raise IRError(
            "the IR file cannot be read",
            where=file,
            got=getattr(error, "strerror", None) or str(error),
            need="a UTF-8 text file, or - for standard input",
            fix="check the path",
        ) from error
