"""Small Hopper modules in textual form, and how the corpora of illegal ones change them.

The files in ``tests/data/sm90`` are what lowering made of ``ir_texts.ASYNC``: with all scales copied by lanes, with row
scales by bulk copy, in a cluster that shares B, with K split, without roles, and as ``bulk`` with promotion overlapped;
``runs`` and ``runs_overlap`` are ``bulk`` and ``overlap`` with the scales of B copied for all steps of a tile at once.
``lookahead`` has two waves whose steps look ahead; in ``leader`` a cluster's first CTA loads A and its row scales for
both, lanes release, and the warps that load end early.
They stay as they are when lowering changes, so that each mistake stays the one that its name says.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "data" / "sm90"
LANES, BULK, CLUSTER, SPLIT, ALONE, OVERLAP, RUNS, RUNS_OVERLAP, LOOKAHEAD, LEADER, DEALT = (
    (FOLDER / f"{name}.ir").read_text()
    for name in (
        "lanes", "bulk", "cluster", "split", "alone", "overlap", "runs", "runs_overlap", "lookahead", "leader",
        "dealt",
    )
)  # fmt: skip

Change = tuple[str, str]
Mistakes = dict[str, tuple[str, tuple[Change, ...], tuple[str, ...]]]


def line(text: str, start: str, nth: int = 0) -> str:
    """The ``nth`` line of ``text`` that starts with ``start`` once indentation and results are cut off."""
    found = [row for row in text.splitlines(keepends=True) if row.strip().split(" = ")[-1].startswith(start)]
    return found[nth]


def without(text: str, start: str, nth: int = 0) -> Change:
    return (line(text, start, nth), "")


def after(text: str, start: str, other: str) -> tuple[Change, ...]:
    """Changes that move the first ``start`` line behind the first ``other`` line."""
    moved, anchor = line(text, start), line(text, other)
    return ((moved, ""), (anchor, anchor + moved))
