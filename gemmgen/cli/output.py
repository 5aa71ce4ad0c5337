"""What commands print: tables and code for people, JSON for machines, errors and progress on stderr."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gemmgen.errors import GemmgenError

_PIPE_WIDTH_CHARS = 160
_PIPE_HEIGHT_LINES = 50


def console(stderr: bool = False) -> Console:
    """A console that wraps at the terminal's width, or at a generous one in a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty() or "COLUMNS" in os.environ:
        return Console(file=stream, highlight=False, markup=False)
    # rich takes a dumb terminal, which pipes often have, for 80 columns unless width and height are given.
    return Console(file=stream, width=_PIPE_WIDTH_CHARS, height=_PIPE_HEIGHT_LINES, highlight=False, markup=False)


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout; columns that hold only numbers are aligned to the right."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        numeric = all(_is_number(row[index]) for row in cells)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    console().print(table)


def print_line(text: str, style: str = "") -> None:
    """One line of text on stdout."""
    console().print(Text(text, style=style), soft_wrap=True)


def print_code(text: str, language: str) -> None:
    """Source text: coloured on a terminal, unchanged in a pipe."""
    if not sys.stdout.isatty():
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        return
    from rich.syntax import Syntax

    console().print(Syntax(text, language, theme="ansi_dark", background_color="default", word_wrap=False))


def report_error(error: GemmgenError, as_json: bool) -> None:
    """An error that gemmgen raised on purpose, on stderr."""
    if as_json:
        print(json.dumps(error.as_dict(), indent=2, ensure_ascii=False), file=sys.stderr)
        return
    first, *details = error.render().split("\n")
    out = console(stderr=True)
    out.print(Text.assemble(("error: ", "bold red"), (first, "bold")), soft_wrap=True)
    for line in details:
        label, colon, rest = line.partition(": ")
        out.print(Text.assemble((label + colon, "cyan"), rest), soft_wrap=True)


def report_unexpected(error: Exception, as_json: bool, debug_variable: str) -> None:
    """A defect of gemmgen, on stderr, in one line and without a traceback."""
    what = f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
    fix = f"set {debug_variable}=1 for the traceback, and report it"
    if as_json:
        print(json.dumps({"error": "InternalError", "what": what, "fix": fix}), file=sys.stderr)
        return
    text = Text.assemble(("internal error: ", "bold red"), f"{what} ({fix})")
    console(stderr=True).print(text, soft_wrap=True)


def show_warnings_plainly() -> None:
    """Print warnings as one message on stderr, without the line of code that raised them."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        console(stderr=True).print(Text.assemble(("warning: ", "bold yellow"), str(message)), soft_wrap=True)

    warnings.showwarning = show


@contextmanager
def progress(what: str, total: int) -> Iterator[Any]:
    """A progress bar on stderr, shown only on a terminal; yields a function that advances it by one step."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    out = console(stderr=True)
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda *_: bar.advance(task)


@cache
def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace(",", "").replace(" ", "").isdigit()
