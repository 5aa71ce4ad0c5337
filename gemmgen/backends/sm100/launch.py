"""How to launch a target-level module: as on Hopper, since maps, parameters and grids are the same."""

from __future__ import annotations

from gemmgen.backends.sm90.launch import launch_plan

__all__ = ["launch_plan"]
