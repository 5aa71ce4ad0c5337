"""Register files as numpy arrays, and typed views of their rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

STORAGE = {"p": np.bool_, "b8": np.uint8, "b16": np.uint16, "b32": np.uint32, "b64": np.uint64}
TYPES: dict[str, tuple[str, Any]] = {
    "pred": ("p", np.bool_),
    "b8": ("b8", np.uint8),
    "u8": ("b8", np.uint8),
    "s8": ("b8", np.int8),
    "b16": ("b16", np.uint16),
    "u16": ("b16", np.uint16),
    "s16": ("b16", np.int16),
    "f16": ("b16", np.uint16),
    "bf16": ("b16", np.uint16),
    "b32": ("b32", np.uint32),
    "u32": ("b32", np.uint32),
    "s32": ("b32", np.int32),
    "f32": ("b32", np.float32),
    "f16x2": ("b32", np.uint32),
    "bf16x2": ("b32", np.uint32),
    "b64": ("b64", np.uint64),
    "u64": ("b64", np.uint64),
    "s64": ("b64", np.int64),
    "f64": ("b64", np.float64),
    "f32x2": ("b64", np.uint64),
    "b128": ("b128", np.uint64),
}
TYPE_ID = {name: position for position, name in enumerate(TYPES)}
"""Position of each type's views in ``Unit.views``."""


class ConstantPool:
    """Immediate operands: each gets a negative key under which every ``Views`` returns it."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._keys: dict[Hashable, int] = {}

    def key(self, value: int, dtype: Any) -> int:
        """The key of an integer value or bit pattern, wrapped to the type's width."""
        dtype = np.dtype(dtype)
        if (value, dtype) not in self._keys:
            if dtype == np.bool_:
                scalar = np.bool_(value)
            else:
                bits = np.dtype(f"u{dtype.itemsize}").type(value & ((1 << 8 * dtype.itemsize) - 1))
                scalar = bits.view(dtype)
            self.values.append(scalar)
            self._keys[(value, dtype)] = -len(self.values)
        return self._keys[(value, dtype)]


class Views(dict):
    """Rows of one register kind seen as one type, made when first used.

    Keys: a register index → its row; a negative key → a constant; anything else → a value that depends on the unit
    (special registers, addresses of variables), asked from ``dynamic`` once.
    """

    def __init__(
        self, base: NDArray | None, dtype: Any, constants: list[Any], dynamic: Callable[[Any, Any], Any]
    ) -> None:
        super().__init__()
        self._base = base
        self._dtype = np.dtype(dtype)
        self._constants = constants
        self._dynamic = dynamic

    def __missing__(self, key: Any) -> Any:
        if not isinstance(key, int):
            value = self._dynamic(key, self._dtype)
        elif key < 0:
            value = self._constants[-1 - key]
        else:
            assert self._base is not None
            value = self._base[key].view(self._dtype)
        self[key] = value
        return value


class RegisterFile:
    """The registers of up to four warps that start at a multiple of four: arrays [registers, lanes].

    Args:
        counts: registers of each kind.
        lanes: 32 per warp.
    """

    def __init__(self, counts: dict[str, int], lanes: int) -> None:
        self.arrays: dict[str, NDArray] = {
            kind: np.zeros((counts.get(kind, 0), lanes), dtype) for kind, dtype in STORAGE.items()
        }
        self.arrays["b128"] = np.zeros((counts.get("b128", 0), lanes, 2), np.uint64)
        self.defined = {kind: np.zeros((counts.get(kind, 0), lanes), np.bool_) for kind in (*STORAGE, "b128")}
