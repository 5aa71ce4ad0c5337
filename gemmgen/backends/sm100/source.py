"""The CUDA file of a target-level module: Hopper's frame, and its templates where Blackwell has none of its own."""

from __future__ import annotations

from gemmgen.backends.sm90 import source as hopper
from gemmgen.backends.sm100 import emitters, math_emitters  # noqa: F401  (they register the emitters)
from gemmgen.emit.renderer import Renderer
from gemmgen.ir.core import Module

DIALECT = "sm100"


def emit_cuda(module: Module) -> str:
    """CUDA C++ for a module of ``sm100.*`` ops; the same module gives the same text byte for byte.

    Raises:
        IRError: an op has no emitter; all of them are named.
    """
    return hopper.write(module, Renderer(module, DIALECT, hopper.DIALECT))
