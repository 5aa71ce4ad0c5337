"""A PTX machine for Hopper and Blackwell: runs kernels on the CPU and reports what a GPU would hide."""

from __future__ import annotations

from gemmgen.emulator.api import emulate
from gemmgen.emulator.arguments import Uninitialized
from gemmgen.emulator.launch_description import launch_file
from gemmgen.emulator.plan import emulate_plan
from gemmgen.emulator.report import Finding, Kind, Report
from gemmgen.emulator.tensor_map import TensorMap

__all__ = ["Finding", "Kind", "Report", "TensorMap", "Uninitialized", "emulate", "emulate_plan", "launch_file"]
