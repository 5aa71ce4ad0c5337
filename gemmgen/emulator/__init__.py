"""A PTX machine for Hopper and Blackwell: runs kernels on the CPU and reports what a GPU would hide."""

from __future__ import annotations

from gemmgen.emulator.api import Uninitialized, emulate
from gemmgen.emulator.report import Finding, Kind, Report
from gemmgen.emulator.tensor_map import TensorMap

__all__ = ["Finding", "Kind", "Report", "TensorMap", "Uninitialized", "emulate"]
