"""The spec language: a model of frozen dataclasses, a strict YAML loader, and one expression grammar.

``load_spec`` reads a file, text or mapping; ``GemmSpec`` is the same thing built in Python. Lark and sympy are imported
only when an expression needs them.
"""

from __future__ import annotations

from gemmgen.spec.loader import load_spec, shipped_specs
from gemmgen.spec.model import (
    Accumulate,
    GemmSpec,
    Operand,
    Operands,
    Problem,
    Raster,
    Registers,
    Scale,
    ScheduleHints,
    Warps,
)

__all__ = [
    "Accumulate",
    "GemmSpec",
    "Operand",
    "Operands",
    "Problem",
    "Raster",
    "Registers",
    "Scale",
    "ScheduleHints",
    "Warps",
    "load_spec",
    "shipped_specs",
]
