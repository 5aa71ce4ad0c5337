"""The XOR swizzles of shared memory that TMA, wgmma and tcgen05 share (docs/hardware.md §2.2)."""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Addresses = TypeVar("Addresses", int, NDArray[np.int64])


class Swizzle(Enum):
    """A swizzle mode: (span bytes, atom bytes). Atoms of a span are permuted by the 128-byte row they lie in."""

    NONE = (16, 16)
    B32 = (32, 16)
    B64 = (64, 16)
    B128 = (128, 16)
    B128_ATOM32 = (128, 32)
    B128_ATOM64 = (128, 64)

    @property
    def span_bytes(self) -> int:
        """Bytes within which atoms are permuted: the row pitch of an operand tile; 16 for NONE."""
        return self.value[0]

    @property
    def atom_bytes(self) -> int:
        """Bytes that stay together."""
        return self.value[1]

    @property
    def repeat_bytes(self) -> int:
        """Period of the pattern, and the alignment at which it starts."""
        return 128 * (self.span_bytes // self.atom_bytes)

    def apply(self, address: Addresses, base_offset: int = 0) -> Addresses:
        """Physical address of a logical one, and the other way round: the XOR is its own inverse.

        Args:
            address: absolute shared byte address, a number or int64 array.
            base_offset: 128-byte rows by which the pattern's start is away from its natural boundary, 0..7.
        """
        row_mask = self.span_bytes // self.atom_bytes - 1
        shift = self.atom_bytes.bit_length() - 1
        return address ^ ((((address >> 7) - base_offset) & row_mask) << shift)
