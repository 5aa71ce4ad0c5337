"""What instructions do: one module per family, each registering builders that turn a decoded instruction into a step."""

from __future__ import annotations
