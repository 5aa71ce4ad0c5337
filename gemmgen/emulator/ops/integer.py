"""Integer arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.ops.builder import Builder, Step, builds, type_id

if TYPE_CHECKING:
    from gemmgen.emulator.machine.unit import Unit

_WIDE = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}
_BITS = {"u16": 16, "s16": 16, "u32": 32, "s32": 32, "u64": 64, "s64": 64, "b16": 16, "b32": 32, "b64": 64}
_DTYPE = {"u16": np.uint16, "s16": np.int16, "u32": np.uint32, "s32": np.int32, "u64": np.uint64, "s64": np.int64}


def binary(b: Builder, type_: str, function: Any) -> Step:
    """A step that applies a two-argument ufunc."""
    b.expect(3)
    d, left, right, t = b.destination(0, type_), b.source(1, type_), b.source(2, type_), type_id(type_)

    def step(x: Unit) -> None:
        v = x.views[t]
        function(v[left], v[right], out=v[d], where=x.where)

    return step


def mapped(b: Builder, types: tuple[str, ...], function: Any) -> Step:
    """A step that stores ``function(*sources)``; ``types`` are those of the destination and the sources."""
    b.expect(len(types))
    d, t = b.destination(0, types[0]), type_id(types[0])
    keys = [(type_id(type_), b.source(n + 1, type_)) for n, type_ in enumerate(types[1:])]

    def step(x: Unit) -> None:
        v = x.views
        np.copyto(v[t][d], function(*(v[i][k] for i, k in keys)), where=x.where, casting="unsafe")

    return step


@builds("int.add")
def _add(b: Builder) -> Step:
    type_ = b.modifiers["type"]
    if "sat" in b.modifiers:
        return mapped(b, (type_,) * 3, lambda p, q: np.clip(np.int64(p) + np.int64(q), -(2**31), 2**31 - 1))
    return binary(b, type_, np.add)


@builds("int.sub")
def _sub(b: Builder) -> Step:
    type_ = b.modifiers["type"]
    if "sat" in b.modifiers:
        return mapped(b, (type_,) * 3, lambda p, q: np.clip(np.int64(p) - np.int64(q), -(2**31), 2**31 - 1))
    return binary(b, type_, np.subtract)


def high_product(left: Any, right: Any, type_: str) -> NDArray:
    """The upper half of the double-width product."""
    if type_ in _WIDE:
        wide = _DTYPE[_WIDE[type_]]
        return (np.multiply(left, right, dtype=wide) >> wide(_BITS[type_])).astype(_DTYPE[type_])
    unsigned_left, unsigned_right = np.asarray(left).astype(np.uint64), np.asarray(right).astype(np.uint64)
    low_mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    a0, a1, b0, b1 = unsigned_left & low_mask, unsigned_left >> half, unsigned_right & low_mask, unsigned_right >> half
    middle = a1 * b0 + (a0 * b0 >> half)
    middle2 = a0 * b1 + (middle & low_mask)
    high = a1 * b1 + (middle >> half) + (middle2 >> half)
    if type_ == "s64":
        high = high - np.where(np.asarray(left) < 0, unsigned_right, np.uint64(0))
        high = high - np.where(np.asarray(right) < 0, unsigned_left, np.uint64(0))
    return high.view(_DTYPE[type_]) if isinstance(high, np.ndarray) else high


@builds("int.mul")
def _mul(b: Builder) -> Step:
    type_, part = b.modifiers["type"], b.modifiers["part"]
    if part == "lo":
        return binary(b, type_, np.multiply)
    if part == "hi":
        return mapped(b, (type_,) * 3, lambda p, q: high_product(p, q, type_))
    wide = _wide(b, type_)
    return mapped(b, (wide, type_, type_), lambda p, q: np.multiply(p, q, dtype=_DTYPE[wide]))


@builds("int.mad")
def _mad(b: Builder) -> Step:
    type_, part = b.modifiers["type"], b.modifiers["part"]
    if "sat" in b.modifiers:
        raise b.error("mad.sat is not modelled")
    if part == "lo":
        return mapped(b, (type_,) * 4, lambda p, q, r: p * q + r)
    if part == "hi":
        return mapped(b, (type_,) * 4, lambda p, q, r: high_product(p, q, type_) + r)
    wide = _wide(b, type_)
    return mapped(b, (wide, type_, type_, wide), lambda p, q, r: np.multiply(p, q, dtype=_DTYPE[wide]) + r)


def _wide(b: Builder, type_: str) -> str:
    if type_ not in _WIDE:
        raise b.error(".wide needs a 16- or 32-bit type")
    return _WIDE[type_]


def _low24(values: Any, type_: str) -> NDArray[np.int64]:
    wide = np.asarray(values).astype(np.int64)
    return wide & 0xFFFFFF if type_ == "u32" else (wide << 40) >> 40


@builds("int.mul24")
def _mul24(b: Builder) -> Step:
    type_, shift = b.modifiers["type"], 0 if b.modifiers["part"] == "lo" else 16
    return mapped(b, (type_,) * 3, lambda p, q: (_low24(p, type_) * _low24(q, type_)) >> shift)


@builds("int.mad24")
def _mad24(b: Builder) -> Step:
    type_, shift = b.modifiers["type"], 0 if b.modifiers["part"] == "lo" else 16
    return mapped(b, (type_,) * 4, lambda p, q, r: ((_low24(p, type_) * _low24(q, type_)) >> shift) + np.int64(r))


def _quotient(left: Any, right: Any) -> NDArray:
    """Division toward zero; all ones where the divisor is zero, as the hardware gives."""
    left, right = np.broadcast_arrays(left, right)
    safe = np.where(right == 0, np.ones_like(right), right)
    if left.dtype.kind == "u":
        return np.where(right == 0, ~np.zeros_like(left), left // safe)
    quotient = left // safe
    remainder = left - quotient * safe
    quotient = quotient + ((remainder != 0) & ((left < 0) != (safe < 0))).astype(left.dtype)
    return np.where(right == 0, ~np.zeros_like(left), quotient)


@builds("int.div")
def _div(b: Builder) -> Step:
    return mapped(b, (b.modifiers["type"],) * 3, _quotient)


@builds("int.rem")
def _rem(b: Builder) -> Step:
    return mapped(b, (b.modifiers["type"],) * 3, lambda p, q: p - _quotient(p, q) * q)


@builds("int.abs")
def _abs(b: Builder) -> Step:
    return mapped(b, (b.modifiers["type"],) * 2, np.abs)


@builds("int.neg")
def _neg(b: Builder) -> Step:
    return mapped(b, (b.modifiers["type"],) * 2, np.negative)


@builds("int.min")
def _min(b: Builder) -> Step:
    if "relu" in b.modifiers:
        return mapped(b, (b.modifiers["type"],) * 3, lambda p, q: np.maximum(np.minimum(p, q), p.dtype.type(0)))
    return binary(b, b.modifiers["type"], np.minimum)


@builds("int.max")
def _max(b: Builder) -> Step:
    if "relu" in b.modifiers:
        return mapped(b, (b.modifiers["type"],) * 3, lambda p, q: np.maximum(np.maximum(p, q), p.dtype.type(0)))
    return binary(b, b.modifiers["type"], np.maximum)


@builds("int.sad")
def _sad(b: Builder) -> Step:
    return mapped(b, (b.modifiers["type"],) * 4, lambda p, q, r: r + np.where(p < q, q - p, p - q))


@builds("int.dp4a")
def _dp4a(b: Builder) -> Step:
    signs = [b.modifiers["atype"] == "s32", b.modifiers["btype"] == "s32"]
    type_ = "s32" if any(signs) else "u32"

    def dot(p: Any, q: Any, r: Any) -> NDArray:
        total = np.asarray(r).astype(np.int64)
        for byte in range(4):
            parts = [((np.asarray(v).astype(np.int64) >> (8 * byte)) & 0xFF) for v in (p, q)]
            parts = [
                np.where(part > 127, part - 256, part) if s else part for part, s in zip(parts, signs, strict=True)
            ]
            total = total + parts[0] * parts[1]
        return total

    return mapped(b, (type_, "u32", "u32", type_), dot)


@builds("int.popc")
def _popc(b: Builder) -> Step:
    return mapped(b, ("u32", b.modifiers["type"]), np.bitwise_count)


def leading_zeros(values: Any) -> NDArray[np.uint32]:
    """Leading zero bits of unsigned values; the width for 0."""
    values = np.atleast_1d(values)
    bits = values.dtype.itemsize * 8
    high = (values >> values.dtype.type(bits // 2)).astype(np.float64) if bits == 64 else None
    if high is None:
        return (bits - np.frexp(values.astype(np.float64))[1]).astype(np.uint32)
    low = (values & np.uint64(0xFFFFFFFF)).astype(np.float64)
    return np.where(high > 0, 32 - np.frexp(high)[1], 64 - np.frexp(low)[1]).astype(np.uint32)


@builds("int.clz")
def _clz(b: Builder) -> Step:
    return mapped(b, ("u32", b.modifiers["type"]), leading_zeros)


@builds("int.bfind")
def _bfind(b: Builder) -> Step:
    type_ = b.modifiers["type"]
    bits = _BITS[type_]

    def find(values: Any) -> NDArray:
        values = np.atleast_1d(values)
        magnitude = np.where(values < 0, ~values, values).view(np.dtype(f"u{bits // 8}"))
        zeros = leading_zeros(magnitude)
        found = zeros if "shiftamt" in b.modifiers else np.uint32(bits - 1) - zeros
        return np.where(magnitude == 0, np.uint32(0xFFFFFFFF), found)

    return mapped(b, ("u32", type_), find)


@builds("int.brev")
def _brev(b: Builder) -> Step:
    def reverse(values: Any) -> NDArray:
        values = np.ascontiguousarray(np.atleast_1d(values))
        bits = np.unpackbits(values.view(np.uint8).reshape(len(values), -1), axis=1, bitorder="little")
        return np.packbits(bits[:, ::-1], axis=1, bitorder="little").view(values.dtype)[:, 0]

    return mapped(b, (b.modifiers["type"],) * 2, reverse)


@builds("int.bfe")
def _bfe(b: Builder) -> Step:
    type_ = b.modifiers["type"]
    bits = _BITS[type_]

    def extract(value: Any, position: Any, length: Any) -> NDArray:
        position, length = np.int64(position) & 0xFF, np.int64(length) & 0xFF
        value = np.atleast_1d(value)
        unsigned = value.view(np.dtype(f"u{bits // 8}"))
        shifted = np.where(position < bits, unsigned >> np.minimum(position, bits - 1).astype(unsigned.dtype), 0)
        keep = np.where(
            length >= bits,
            ~unsigned.dtype.type(0),
            (np.uint64(1) << np.minimum(length, 63).astype(np.uint64)) - np.uint64(1),
        )
        field = shifted & keep.astype(unsigned.dtype)
        if type_[0] == "u":
            return field
        top = np.minimum(position + length - 1, bits - 1)
        sign = (unsigned >> np.maximum(top, 0).astype(unsigned.dtype)) & unsigned.dtype.type(1)
        negative = (sign == 1) & (length > 0)
        return np.where(negative, field | ~keep.astype(unsigned.dtype), field).view(value.dtype)

    return mapped(b, (type_, type_, "u32", "u32"), extract)


@builds("int.bfi")
def _bfi(b: Builder) -> Step:
    type_ = b.modifiers["type"]
    bits = _BITS[type_]

    def insert(source: Any, target: Any, position: Any, length: Any) -> NDArray:
        position, length = np.uint64(position) & np.uint64(0xFF), np.uint64(length) & np.uint64(0xFF)
        ones = np.where(length >= 64, ~np.uint64(0), (np.uint64(1) << np.minimum(length, np.uint64(63))) - np.uint64(1))
        shift = np.minimum(position, np.uint64(63))
        keep = np.where(position < bits, ones << shift, np.uint64(0))
        value = (np.asarray(source).astype(np.uint64) << shift) & keep
        return (np.asarray(target).astype(np.uint64) & ~keep) | value

    return mapped(b, (type_, type_, type_, "u32", "u32"), insert)


@builds("int.bmsk")
def _bmsk(b: Builder) -> Step:
    clamp = b.modifiers["mode"] == "clamp"

    def mask(position: Any, length: Any) -> NDArray:
        position, length = np.uint64(position), np.uint64(length)
        if not clamp:
            position, length = position & np.uint64(31), length & np.uint64(31)
        position, length = np.minimum(position, np.uint64(32)), np.minimum(length, np.uint64(32))
        return (((np.uint64(1) << length) - np.uint64(1)) << position) & np.uint64(0xFFFFFFFF)

    return mapped(b, ("b32", "b32", "b32"), mask)
