"""The machine's state: registers, memories, barriers, clocks, units of execution and their scheduler."""

from __future__ import annotations
