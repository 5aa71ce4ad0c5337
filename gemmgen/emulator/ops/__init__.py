"""What instructions do: one module per family, which registers builders that turn decoded instructions into steps."""

from __future__ import annotations
