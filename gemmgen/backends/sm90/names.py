"""How target IR is called in generated CUDA: constants of shared-memory areas, and dimension expressions."""

from __future__ import annotations

import sympy

from gemmgen.ir.core import Value
from gemmgen.ir.dims import Dim
from gemmgen.spec.dims import to_cuda


def offset(area: str) -> str:
    """The constant that holds an area's byte offset in shared memory."""
    return f"kOffset{_camel(area)}"


def stage_bytes(area: str) -> str:
    """The constant that holds the bytes of one stage of an area."""
    return f"kStageBytes{_camel(area)}"


def stage_address(area: str, cursor: Value) -> str:
    """The shared address of an area's part in the cursor's stage."""
    return f"smem + {offset(area)} + {cursor.name}.stage * {stage_bytes(area)}"


def barrier(barriers: Value, cursor: Value) -> str:
    """The shared address of the cursor's barrier."""
    return f"{barriers.name} + 8 * {cursor.name}.stage"


def wave_rows(waves: int, wave: int) -> str:
    """The first row, within the tile, of this warpgroup's fragment ``wave``."""
    if waves == 1:
        return "warpgroup * 64"
    return f"(warpgroup * {waves} + {wave}) * 64"


def wave_index(waves: int, wave: int) -> str:
    """The number, within the tile, of this warpgroup's fragment ``wave``."""
    return "warpgroup" if waves == 1 else f"(warpgroup * {waves} + {wave})"


def run_start(first: Value, run: int) -> str:
    """Where run number ``run`` of a tile's columns starts; ``first`` is the start of the first one."""
    return f"{first.name}_run{run}" if run else first.name


def dim(value: Dim) -> str:
    """A dimension as an unsigned C++ expression."""
    if isinstance(value, int):
        return f"{value}u"
    return to_cuda(value) if isinstance(value, sympy.Symbol) else f"({to_cuda(value)})"


def _camel(area: str) -> str:
    return "".join(part.capitalize() for part in area.split("_"))
