"""Option values that several commands share."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gemmgen.errors import SpecError

_DIM = re.compile(r"\s*([A-Za-z]\w*)\s*=\s*(-?[0-9]{1,18})\s*")


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
