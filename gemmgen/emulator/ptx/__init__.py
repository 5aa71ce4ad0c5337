"""PTX text to a checked program: grammar, parser, instruction forms, control flow."""

from __future__ import annotations
