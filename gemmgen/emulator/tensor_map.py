"""Tensor maps: how a caller describes one, its 128 bytes inside the emulator, and the rules it must keep."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from gemmgen.emulator.numerics.swizzle import Swizzle
from gemmgen.errors import EmulationError

MAP_BYTES = 128
MAX_RANK = 5
MAX_BOX = 256
_MAGIC = 0x50414D54
_LAYOUT = struct.Struct("<IBBBBQ5Q4Q5H5BBB")
# Element types with PTX's tensormap codes and their bytes.
ELEMENT_CODES = {"u8": 0, "u16": 1, "u32": 2, "s32": 3, "u64": 4, "s64": 5, "f16": 6, "f32": 7, "f32.ftz": 8}
ELEMENT_CODES |= {"f64": 9, "bf16": 10, "tf32": 11}
ELEMENT_BYTES = {"u8": 1, "u16": 2, "f16": 2, "bf16": 2, "u64": 8, "s64": 8, "f64": 8}
ELEMENT_BYTES |= dict.fromkeys(("u32", "s32", "f32", "f32.ftz", "tf32"), 4)
ALIASES = {"e4m3": "u8", "e5m2": "u8", "s8": "u8", "i32": "s32", "ue8m0x4": "u32"}
_ELEMENTS = {code: name for name, code in ELEMENT_CODES.items()}
SWIZZLES = {"none": Swizzle.NONE, "32B": Swizzle.B32, "64B": Swizzle.B64, "128B": Swizzle.B128}
_SWIZZLE_BY_CODE = [Swizzle.NONE, Swizzle.B32, Swizzle.B64, Swizzle.B128]
FILLS = {"zero": 0, "nan": 1}


@dataclass(frozen=True, eq=False)
class TensorMap:
    """A kernel parameter that is a tensor map.

    Attributes:
        array: the tensor's memory: a numpy array (its first byte is the map's address), changed in place by stores.
        dims: extents in elements, innermost first.
        strides: byte strides of dimensions 1 and up.
        box: box extents in elements, innermost first.
        element: ``u8`` … ``tf32``; ``e4m3`` and ``e5m2`` mean ``u8``, ``ue8m0x4`` means ``u32``.
        swizzle: ``none``, ``32B``, ``64B`` or ``128B``.
        fill: what out-of-bounds elements read as, ``zero`` or ``nan``.
        offset: byte offset of the map's address in the array.
    """

    array: Any
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    element: str
    swizzle: str = "none"
    fill: str = "zero"
    offset: int = 0
    element_strides: tuple[int, ...] = field(default=())

    def encode(self, address: int, name: str) -> bytes:
        """The map's 128 bytes for a tensor at a device address.

        Raises:
            EmulationError: the driver would refuse the map.
        """
        element = ALIASES.get(self.element, self.element)
        if element not in ELEMENT_CODES:
            raise EmulationError(
                "unknown element type of a tensor map", where=name, got=element, need=", ".join(ELEMENT_CODES)
            )
        if self.swizzle not in SWIZZLES:
            raise EmulationError(
                "unknown swizzle of a tensor map", where=name, got=self.swizzle, need=", ".join(SWIZZLES)
            )
        if self.fill not in FILLS:
            raise EmulationError("unknown fill of a tensor map", where=name, got=self.fill, need=", ".join(FILLS))
        fields = MapFields(
            address + self.offset,
            tuple(self.dims),
            tuple(self.strides),
            tuple(self.box),
            element,
            SWIZZLES[self.swizzle],
            self.fill,
            tuple(self.element_strides) or (1,) * len(self.dims),
        )
        problem = fields.problem()
        if problem:
            raise EmulationError("the driver refuses this tensor map", where=name, got=problem[0], need=problem[1])
        return fields.pack()


@dataclass(frozen=True)
class MapFields:
    """A decoded tensor map; see ``TensorMap``."""

    address: int
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    element: str
    swizzle: Swizzle
    fill: str
    element_strides: tuple[int, ...]

    @property
    def element_bytes(self) -> int:
        """Bytes of one element."""
        return ELEMENT_BYTES[self.element]

    @property
    def inner_bytes(self) -> int:
        """Bytes of the box's innermost extent."""
        return self.box[0] * self.element_bytes

    @property
    def box_bytes(self) -> int:
        """Bytes that one whole box moves and counts."""
        return int(np.prod(self.box)) * self.element_bytes

    @property
    def pitch(self) -> int:
        """Bytes from one box row to the next in shared memory: the swizzle's span where the row is narrower."""
        return self.inner_bytes if self.swizzle is Swizzle.NONE else max(self.inner_bytes, self.swizzle.span_bytes)

    def problem(self) -> tuple[str, str] | None:
        """What cuTensorMapEncodeTiled would refuse, as (got, need), or None."""
        rank = len(self.dims)
        if not 1 <= rank <= MAX_RANK or len(self.box) != rank or len(self.strides) != rank - 1:
            return (
                f"rank {rank}, {len(self.box)} box and {len(self.strides)} stride entries",
                "rank 1..5, rank, rank - 1",
            )
        if self.address % 16:
            return f"address 0x{self.address:x}", "a multiple of 16"
        if any(not 1 <= d <= 1 << 32 for d in self.dims):
            return f"dims {self.dims}", "1 to 2^32"
        if any(s % 16 or not 0 <= s < 1 << 40 for s in self.strides):
            return f"strides {self.strides}", "multiples of 16 below 2^40"
        if any(not 1 <= extent <= MAX_BOX for extent in self.box):
            return f"box {self.box}", "1 to 256"
        if self.inner_bytes % 16:
            return f"an inner box of {self.inner_bytes} bytes", "a multiple of 16"
        if self.swizzle is not Swizzle.NONE and self.inner_bytes > self.swizzle.span_bytes:
            return f"an inner box of {self.inner_bytes} bytes", f"at most {self.swizzle.span_bytes} with this swizzle"
        if self.fill == "nan" and self.element[0] == "u":
            return "NaN fill of an integer type", "a floating-point type"
        if any(stride != 1 for stride in self.element_strides):
            return f"element strides {self.element_strides}", "1, the only one modelled"
        return None

    def pack(self) -> bytes:
        """The 128 bytes."""
        pad = MAX_RANK - len(self.dims)
        code = _SWIZZLE_BY_CODE.index(self.swizzle)
        data = _LAYOUT.pack(
            _MAGIC,
            ELEMENT_CODES[self.element],
            len(self.dims),
            code,
            FILLS[self.fill],
            self.address,
            *self.dims,
            *(0,) * pad,
            *self.strides,
            *(0,) * pad,
            *self.box,
            *(0,) * pad,
            *self.element_strides,
            *(1,) * pad,
            0,
            0,
        )
        return data.ljust(MAP_BYTES, b"\0")


@lru_cache(maxsize=256)
def decode_map(data: bytes) -> MapFields:
    """Decode the 128 bytes of a map.

    Raises:
        EmulationError: they are not a map, or one that the hardware would not take.
    """
    magic, element, rank, swizzle, fill, address, *rest = _LAYOUT.unpack(data[: _LAYOUT.size])
    if magic != _MAGIC:
        raise EmulationError("the operand is not a tensor map", got=data[:8].hex())
    if element not in _ELEMENTS or not 1 <= rank <= MAX_RANK or swizzle > 3 or fill > 1 or rest[19] or rest[20]:
        raise EmulationError(
            "a field of the tensor map is not modelled", got=f"element {element}, rank {rank}, swizzle {swizzle}"
        )
    fields = MapFields(
        address,
        tuple(rest[:rank]),
        tuple(rest[5 : 5 + rank - 1]),
        tuple(rest[9 : 9 + rank]),
        _ELEMENTS[element],
        _SWIZZLE_BY_CODE[swizzle],
        "nan" if fill else "zero",
        tuple(rest[14 : 14 + rank]),
    )
    problem = fields.problem()
    if problem:
        raise EmulationError("the tensor map breaks a rule", got=problem[0], need=problem[1])
    return fields


# tensormap.replace: field → (byte offset, bytes); fields with an ordinal step by their size.
REPLACE_FIELDS = {
    "elemtype": (4, 1),
    "rank": (5, 1),
    "swizzle_mode": (6, 1),
    "fill_mode": (7, 1),
    "global_address": (8, 8),
    "global_dim": (16, 8),
    "global_stride": (56, 8),
    "box_dim": (88, 2),
    "element_stride": (98, 1),
    "interleave_layout": (103, 1),
    "swizzle_atomicity": (104, 1),
}
ORDINAL_FIELDS = frozenset(["global_dim", "global_stride", "box_dim", "element_stride"])
