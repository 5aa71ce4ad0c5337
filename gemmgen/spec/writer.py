"""Canonical YAML text of plain spec values: short mappings and lists on one line, the rest in blocks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_MAX_LINE_CHARS = 100
_SAFE_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_RESERVED = ("true", "false", "null")


def to_yaml(values: Mapping[str, Any]) -> str:
    """One ``key: value`` block per entry; the same values always give the same text."""
    return "".join(f"{line}\n" for line in _block(values, indent=0))


def _block(values: Mapping[str, Any], indent: int) -> list[str]:
    lines: list[str] = []
    for key, value in values.items():
        head = " " * indent + f"{key}:"
        inline = f"{head} {_inline(value)}"
        if isinstance(value, Mapping) and (len(inline) > _MAX_LINE_CHARS or indent == 0):
            lines += [head, *_block(value, indent + 2)]
        else:
            lines.append(inline)
    return lines


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    if isinstance(value, str):
        plain = _SAFE_WORD.fullmatch(value) and value not in _RESERVED
        return value if plain else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)
