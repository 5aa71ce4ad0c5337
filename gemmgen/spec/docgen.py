"""The tables of ``docs/spec.md``, generated from the model.

``python -m gemmgen.spec.docgen docs/spec.md`` rewrites the parts between the ``generated`` markers; a test checks that
the committed file is up to date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gemmgen.spec import support, vocabulary
from gemmgen.spec.expr_rules import EPILOGUE_NAME_DOCS, FUNCTIONS
from gemmgen.spec.fields import shown
from gemmgen.spec.model import GemmSpec
from gemmgen.spec.part import Entry, Nested, SpecPart, entries
from gemmgen.spec.schema import parts_of

_SECTION = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def updated(text: str) -> str:
    """``text`` with every generated part written anew.

    Raises:
        KeyError: a marker names a part that does not exist.
    """
    return _SECTION.sub(lambda match: f"{match[1]}{SECTIONS[match[2]]()}{match[3]}", text)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _field_tables() -> str:
    return "\n".join(_field_table(part) for part in parts_of(GemmSpec))


def _field_table(part: type[SpecPart]) -> str:
    title = "The file" if part is GemmSpec else part.__name__
    rows = ((f"`{item.key}`", _legal(item), _default(item), item.doc) for item in entries(part))
    summary = (part.__doc__ or "").splitlines()[0]
    return f"### {title}\n\n{summary}\n\n" + _table(("key", "legal values", "default", "meaning"), rows)


def _legal(item: Entry) -> str:
    field = item.field
    inner = getattr(field, "inner", field)
    if isinstance(inner, Nested):
        name = inner.part.__name__
        link = f"[{name}](#{name.lower()})"
        if inner is not field:
            return f"null | {link}"
        return f"auto | {link}" if inner.may_be_auto else link
    return field.describe()


def _default(item: Entry) -> str:
    if item.required:
        return "required"
    plain: Any = item.field.plain(item.default)
    return "all `auto`" if isinstance(plain, dict) and item.key != "accumulate" else f"`{shown(plain)}`"


def _words(head: tuple[str, str], words: dict[str, str]) -> str:
    return _table(head, ((f"`{word}`", doc) for word, doc in words.items()))


def _kinds() -> str:
    rows = ((f"`{word}`", kind.doc, ", ".join(kind.dims)) for word, kind in vocabulary.KINDS.items())
    return _table(("kind", "computes", "dimensions"), rows)


def _dtypes() -> str:
    rows = ((f"`{w}`", t.doc, str(t.bits), ", ".join(t.operands)) for w, t in vocabulary.DTYPES.items())
    return _table(("dtype", "meaning", "bits", "operands"), rows)


def _blocks() -> str:
    rows = ((f"`{shown(block)}`", doc) for block, doc in vocabulary.SCALE_BLOCKS.items())
    return _table(("block", "one scale for"), rows)


def _functions() -> str:
    rows = ((f"`{w}`", str(f.arity), ", ".join(f.contexts), f.doc) for w, f in FUNCTIONS.items())
    return _table(("function", "arguments", "where", "meaning"), rows)


def _support() -> str:
    """One row per family that can be compiled."""
    names = [*support.ASPECTS]
    header = ("targets", *(f"`{support.ASPECTS[name].path}`" for name in names))
    rows = [
        (", ".join(row.targets), *(", ".join(f"`{word}`" for word in getattr(row, name)) for name in names))
        for row in support.SUPPORTED
    ]
    return _table(header, rows)


SECTIONS: dict[str, Callable[[], str]] = {
    "fields": _field_tables,
    "kinds": _kinds,
    "layouts": lambda: _words(("layout", "memory"), vocabulary.LAYOUTS),
    "dtypes": _dtypes,
    "formats": lambda: _words(("format", "storage"), vocabulary.SCALE_FORMATS),
    "blocks": _blocks,
    "schedulers": lambda: _words(("scheduler", "work"), vocabulary.SCHEDULERS),
    "targets": lambda: _words(("target", "devices"), vocabulary.TARGETS),
    "functions": _functions,
    "epilogue_names": lambda: _words(("name", "value"), EPILOGUE_NAME_DOCS),
    "support": _support,
}


def main() -> None:
    """Rewrite the generated parts of the file named on the command line."""
    path = Path(sys.argv[1])
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
