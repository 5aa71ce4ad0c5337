"""The TMA engine: boxes of tensors and runs of bytes between global and shared memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.machine.memory import GRANULE, Buffer, MemoryFault
from gemmgen.emulator.numerics.swizzle import Swizzle
from gemmgen.emulator.report import Kind
from gemmgen.emulator.tensor_map import MapFields

if TYPE_CHECKING:
    from gemmgen.emulator.machine.memory import GlobalMemory

TMA_ALIGN = 128
BULK_ALIGN = 16
_REPEAT = 1024
Data = NDArray[np.uint8]
_NAN_BYTES = {"f16": b"\xff\x7f", "bf16": b"\xff\x7f", "f32": b"\xff\xff\xff\x7f", "f32.ftz": b"\xff\xff\xff\x7f"}
_NAN_BYTES |= {"tf32": b"\xff\xff\xff\x7f", "f64": b"\xff" * 7 + b"\x7f"}


@dataclass(frozen=True)
class Box:
    """The part of a box that lies inside the tensor.

    Attributes:
        buffer: the allocation.
        start: byte offset of the first element inside.
        shape: extents inside, outermost first, the innermost in bytes.
        strides: byte strides of ``shape``.
        place: where it lies in the full box, slices outermost first (the innermost in bytes).
        full: the full box's extents, outermost first, the innermost in bytes.
    """

    buffer: Buffer | None
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    place: tuple[slice, ...]
    full: tuple[int, ...]

    @property
    def empty(self) -> bool:
        """Whether the whole box is outside."""
        return self.buffer is None

    def view(self, array: NDArray) -> NDArray:
        """The inside part as a view of a per-byte array of the buffer."""
        return np.ndarray(
            self.shape, array.dtype, array, self.start * array.itemsize, tuple(s * array.itemsize for s in self.strides)
        )

    def granules(self) -> NDArray[np.int64]:
        """Indices of the buffer's shadow granules that the part covers."""
        assert self.buffer is not None
        offsets = np.array([self.start], np.int64)
        for extent, stride in zip(self.shape[:-1], self.strides[:-1], strict=True):
            offsets = (offsets[:, None] + np.arange(extent) * stride).reshape(-1)
        size = self.buffer.granule
        inner = np.arange(-(-self.shape[-1] // size)) * size
        return ((offsets[:, None] + inner) // size).reshape(-1)


def locate_box(memory: GlobalMemory, fields: MapFields, coordinates: tuple[int, ...]) -> Box:
    """Clip a box to its tensor and find its memory.

    Raises:
        MemoryFault: the tensor's memory is not where the map says.
    """
    size = fields.element_bytes
    strides = (size, *fields.strides)
    lows = [max(0, -c) for c in coordinates]
    highs = [min(extent, dim - c) for extent, dim, c in zip(fields.box, fields.dims, coordinates, strict=True)]
    full = (*reversed(fields.box[1:]), fields.box[0] * size)
    if any(high <= low for low, high in zip(lows, highs, strict=True)):
        return Box(None, 0, (), (), (), full)
    first = fields.address + sum((c + low) * s for c, low, s in zip(coordinates, lows, strides, strict=True))
    last = (
        fields.address + sum((c + high - 1) * s for c, high, s in zip(coordinates, highs, strides, strict=True)) + size
    )
    buffer = memory.find(first)
    if last > buffer.base + len(buffer.data):
        past = last - buffer.base - len(buffer.data)
        raise MemoryFault(
            Kind.OUT_OF_BOUNDS, f"a box at {coordinates} of {buffer.name} ends {past} bytes past its memory"
        )
    shape = (*(high - low for low, high in zip(lows[:0:-1], highs[:0:-1], strict=True)), (highs[0] - lows[0]) * size)
    place = (
        *(slice(low, high) for low, high in zip(lows[:0:-1], highs[:0:-1], strict=True)),
        slice(lows[0] * size, highs[0] * size),
    )
    return Box(buffer, first - buffer.base, shape, (*strides[:0:-1], 1), place, full)


def read_box(box: Box, fields: MapFields) -> Data:
    """The full box's bytes, rows flattened: [rows, inner bytes]; what lies outside the tensor is filled."""
    if not box.empty and box.shape == box.full:
        assert box.buffer is not None
        return np.ascontiguousarray(box.view(box.buffer.data)).reshape(-1, box.full[-1])
    if fields.fill == "nan":
        pattern = np.frombuffer(_NAN_BYTES[fields.element], np.uint8)
        data = np.tile(pattern, int(np.prod(box.full)) // len(pattern)).reshape(box.full)
    else:
        data = np.zeros(box.full, np.uint8)
    if not box.empty:
        assert box.buffer is not None
        data[box.place] = box.view(box.buffer.data)
    return data.reshape(-1, box.full[-1])


@lru_cache(maxsize=512)
def _relative_layout(phase: int, rows: int, inner: int, pitch: int, swizzle: Swizzle) -> NDArray[np.int64]:
    logical = phase + np.arange(rows)[:, None] * pitch + np.arange(inner)
    layout = swizzle.apply(logical.astype(np.int64)) - phase
    layout.flags.writeable = False
    return layout


def shared_layout(address: int, fields: MapFields, rows: int) -> NDArray[np.int64] | slice:
    """Shared byte offsets of a box's bytes, [rows, inner bytes], or a slice where they are in order."""
    inner, pitch = fields.inner_bytes, fields.pitch
    if fields.swizzle is Swizzle.NONE:
        return slice(address, address + rows * inner)
    phase = address % _REPEAT
    return _relative_layout(phase, rows, inner, pitch, fields.swizzle) + address


def shared_granules(address: int, fields: MapFields, rows: int) -> NDArray[np.int64] | slice:
    """Shadow granules of a box in shared memory: a run where rows are dense, since swizzling permutes within it."""
    inner, pitch = fields.inner_bytes, fields.pitch
    if inner == pitch and (fields.swizzle is Swizzle.NONE or rows * inner % 128 == 0):
        return slice(address // GRANULE, (address + rows * inner) // GRANULE)
    layout = shared_layout(address, fields, rows)
    assert not isinstance(layout, slice)
    return (layout[:, ::GRANULE] // GRANULE).reshape(-1)


def shared_extent(address: int, fields: MapFields, rows: int) -> tuple[int, int]:
    """First and last (exclusive) byte that a box may touch in shared memory."""
    return address, address + (rows - 1) * fields.pitch + (
        fields.inner_bytes if fields.pitch == fields.inner_bytes else fields.pitch
    )


_INTEGER_REDUCTIONS = {"add": np.add, "min": np.minimum, "max": np.maximum}
_INTEGER_REDUCTIONS |= {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


def reduce_values(old: Data, new: Data, op: str, element: str) -> Data:
    """Combine bytes elementwise as a reduction does.

    Args:
        old: uint8, whole elements in the last dimension.
        new: of the same shape.
        op: add, min, max, inc, dec, and, or, xor.
        element: element type; ``f32`` flushes subnormals, 16-bit floats round once.

    Returns:
        uint8 of the same shape.
    """
    old, new = np.ascontiguousarray(old), np.ascontiguousarray(new)
    if element in ("f16", "bf16"):
        return _reduce_half(old, new, op, element)
    dtype = {"u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "s32": np.int32, "u64": np.uint64, "s64": np.int64}
    dtype |= {"f32": np.float32, "f32.ftz": np.float32, "tf32": np.float32, "f64": np.float64}
    dtype |= {"b32": np.uint32, "b64": np.uint64}
    left, right = old.view(dtype[element]), new.view(dtype[element])
    if op in ("inc", "dec"):
        if op == "inc":
            result = np.where(left >= right, 0, left + 1)
        else:
            result = np.where((left == 0) | (left > right), right, left - 1)
        return result.astype(left.dtype).view(np.uint8)
    result = _INTEGER_REDUCTIONS[op](left, right)
    if element in ("f32.ftz",):
        result = np.where(np.abs(result) < np.float32(2.0**-126), np.copysign(np.float32(0), result), result)
    return np.ascontiguousarray(result).view(np.uint8)


def _reduce_half(old: Data, new: Data, op: str, element: str) -> Data:
    from gemmgen.emulator.numerics import formats

    left, right = (formats.decode(part.view(np.uint16), element) for part in (old, new))
    result = _INTEGER_REDUCTIONS[op](left, right)
    return formats.encode(result, element, "rn", saturate=False).view(np.uint8)
