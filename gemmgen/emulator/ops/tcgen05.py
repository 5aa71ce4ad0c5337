"""Registers the executors of ``gemmgen.emulator.tcgen05``."""

from __future__ import annotations

from gemmgen.emulator.tcgen05 import issue, management, transfer

__all__ = ["issue", "management", "transfer"]
