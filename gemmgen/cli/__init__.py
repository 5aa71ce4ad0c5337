"""The ``gemmgen`` command. ``main`` is the entry point; each command lives in a module of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

DEBUG_VARIABLE = "GEMMGEN_DEBUG"


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 when it succeeded, 1 when it failed, 2 when it was called wrongly.

    Args:
        argv: arguments without the program's name; those of the process by default.
    """
    from gemmgen.cli.output import report_error, report_unexpected, show_warnings_plainly
    from gemmgen.errors import GemmgenError

    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    show_warnings_plainly()
    try:
        from gemmgen.cli.commands import app

        app(args=arguments, prog_name="gemmgen")
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        if isinstance(error, GemmgenError):
            report_error(error, as_json)
        else:
            report_unexpected(error, as_json, DEBUG_VARIABLE)
        sys.exit(1)


def __getattr__(name: str) -> Any:
    """``app``, the Typer application, imported when it is first asked for."""
    if name != "app":
        raise AttributeError(f"module 'gemmgen.cli' has no attribute {name!r}")
    from gemmgen.cli.commands import app

    return app
