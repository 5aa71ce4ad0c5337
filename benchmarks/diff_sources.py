"""Refactoring gate: compare the CUDA that two git commits generate for every shipped spec.

An empty diff proves that a refactoring changed no kernel::

    python -m benchmarks.diff_sources HEAD~1             # that commit against the working tree
    python -m benchmarks.diff_sources v0.1 HEAD --stat   # two commits, only the names of what differs

Exit status: 0 when all sources are the same, 1 when something differs, 2 when a commit cannot be read.
"""

from __future__ import annotations

import argparse
import difflib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GENERATE = Path(__file__).with_name("generate_sources.py")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="commit to compare with")
    parser.add_argument("new", nargs="?", help="commit; the working tree when left out")
    parser.add_argument("--stat", action="store_true", help="name what differs instead of showing it")
    options = parser.parse_args(argv)
    old, new = sources_of(options.old), sources_of(options.new)
    changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    for name in changed:
        print(describe(name, old.get(name), new.get(name), options.stat))
    print(f"{len(changed)} of {len(old.keys() | new.keys())} sources differ", file=sys.stderr)
    return 1 if changed else 0


def sources_of(commit: str | None) -> dict[str, str]:
    """Generated sources by name, ``<spec> <target> <dims> <kernel>``, of a commit or of the working tree."""
    if commit is None:
        return _generate(ROOT)
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=False)
    if archive.returncode:
        print(f"cannot read {commit}: {archive.stderr.decode().strip()}", file=sys.stderr)
        raise SystemExit(2)
    with tempfile.TemporaryDirectory(prefix="gemmgen-diff-") as folder:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(folder, filter="data")
        return _generate(Path(folder))


def describe(name: str, old: str | None, new: str | None, stat: bool) -> str:
    """A unified diff, or one line that says what happened."""
    if old is None or new is None:
        return f"{name}: {'added' if old is None else 'removed'}"
    if stat:
        return f"{name}: changed"
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), f"a/{name}", f"b/{name}", lineterm="")
    return "\n".join(lines)


def _generate(tree: Path) -> dict[str, str]:
    """Run this tree's `generate_sources.py` on ``tree``'s package, in a process of its own."""
    environment = dict(os.environ, PYTHONPATH=str(tree))
    command = [sys.executable, str(GENERATE), str(tree / "specs")]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{tree}: generating failed\n{done.stderr}", file=sys.stderr)
        raise SystemExit(2)
    return json.loads(done.stdout)


if __name__ == "__main__":
    raise SystemExit(main())
