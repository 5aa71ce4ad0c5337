"""Blackwell's fifth-generation tensor cores: tensor memory, the ``tcgen05`` instructions and their ordering rules."""

from __future__ import annotations
