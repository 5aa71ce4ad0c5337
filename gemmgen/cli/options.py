"""Option values that several commands share."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gemmgen.errors import ArgumentError, SpecError

_DIM = re.compile(r"\s*([A-Za-z]\w*)\s*=\s*(-?[0-9]{1,18})\s*")
_SEVERAL_M = re.compile(r"\s*M\s*=\s*(-?[0-9]{1,18}(?:\s*,\s*-?[0-9]{1,18})+)\s*")
_TIME = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([smh]?)\s*")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


def parse_dims(texts: Sequence[str]) -> dict[str, int]:
    """``["M=4096", "N=7168"]`` as a mapping.

    Raises:
        SpecError: not NAME=INTEGER, or a name given twice.
    """
    dims: dict[str, int] = {}
    for text in texts:
        match = _DIM.fullmatch(text)
        if match is None:
            raise SpecError(
                "a dimension is not readable", where="--dim", got=text, need="NAME=INTEGER", fix="write --dim M=4096"
            )
        name = match[1]
        if name in dims:
            raise SpecError(
                f"dimension {name} is given twice",
                where="--dim",
                got=f"{name}={dims[name]} and {text}",
                need="each dimension once",
                fix=f"remove one --dim {name}",
            )
        dims[name] = int(match[2])
    return dims


def parse_dims_with_several_m(texts: Sequence[str]) -> dict[str, int | tuple[int, ...]]:
    """``["M=1,64", "N=7168"]`` as a mapping: M may be several sizes.

    Raises:
        SpecError: not NAME=INTEGER, or a name given twice.
    """
    several = [(text, match) for text in texts if (match := _SEVERAL_M.fullmatch(text))]
    found: dict[str, int | tuple[int, ...]] = dict(parse_dims([text for text in texts if text not in dict(several)]))
    for text, match in several:
        if "M" in found:
            raise SpecError("dimension M is given twice", where="--dim", got=text, need="each dimension once",
                            fix="write all of them in one --dim M=1,64,4096")  # fmt: skip
        found["M"] = tuple(int(size) for size in match[1].split(","))
    return found


def parse_seconds(text: str) -> float:
    """``90s``, ``5m``, ``1h`` or plain seconds.

    Raises:
        ArgumentError: it is none of them, or not positive.
    """
    match = _TIME.fullmatch(text)
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if seconds <= 0:
        raise ArgumentError("a time is not readable", where="--budget", got=text, need="a positive number of s, m or h",
                            fix="write --budget 60s")  # fmt: skip
    return seconds
