"""Correctly rounded FP32 and FP64 arithmetic in all four rounding modes, with NVIDIA's NaN and optional flushing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

F32_NAN = np.uint32(0x7FFFFFFF).view(np.float32)
F64_NAN = np.uint64(0x7FFFFFFFFFFFFFFF).view(np.float64)
_TIE_MASK = np.uint64(0x1FFFFFFF)
_TIE = np.uint64(0x10000000)
_MIN_NORMAL = 2.0**-126


def flush(values: Any) -> NDArray:
    """Subnormal values become zeros of their sign."""
    values = np.asarray(values)
    return np.where(np.abs(values) < values.dtype.type(_MIN_NORMAL), np.copysign(values.dtype.type(0), values), values)


def canonical(values: NDArray) -> NDArray:
    """NaNs become the one NaN that the hardware makes."""
    nan = np.isnan(values)
    if nan.any():
        return np.where(nan, F32_NAN if values.dtype == np.float32 else F64_NAN, values)
    return values


def two_sum(a: NDArray, b: NDArray) -> tuple[NDArray, NDArray]:
    """The rounded sum and its exact error."""
    total = a + b
    shadow = total - a
    return total, (a - (total - shadow)) + (b - shadow)


def to_odd(total: NDArray[np.float64], error: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round an inexact FP64 sum to odd, so that rounding it again to FP32 rounds once."""
    bits = total.view(np.int64)
    inexact = (error != 0) & (bits & 1 == 0) & np.isfinite(total)
    toward = np.where((error > 0) == (total > 0), 1, -1)
    from_zero = np.where(error > 0, np.float64(5e-324), np.float64(-5e-324))
    adjusted = np.where(total == 0, from_zero, (bits + toward).view(np.float64))
    return np.where(inexact, adjusted, total)


def narrow(values: NDArray[np.float64], mode: str) -> NDArray[np.float32]:
    """Round FP64 values (exact, or rounded to odd) to FP32."""
    nearest = values.astype(np.float32)
    if mode == "rn":
        return nearest
    exact = nearest.astype(np.float64)
    if mode == "rz":
        wrong = np.abs(exact) > np.abs(values)
        return np.where(wrong, np.nextafter(nearest, np.float32(0)), nearest)
    if mode == "rm":
        return np.where(exact > values, np.nextafter(nearest, np.float32(-np.inf)), nearest)
    return np.where(exact < values, np.nextafter(nearest, np.float32(np.inf)), nearest)


def fma32(a: Any, b: Any, c: Any, mode: str = "rn") -> NDArray[np.float32]:
    """``a * b + c`` of FP32 values, rounded once."""
    product = np.multiply(a, b, dtype=np.float64)
    wide = np.asarray(c).astype(np.float64)
    total = np.asarray(product + wide)
    if mode == "rn":
        low = total.view(np.uint64) & _TIE_MASK
        if not ((low == _TIE).any() or (np.abs(total) < _MIN_NORMAL).any()):
            return canonical(total.astype(np.float32))
    total, error = two_sum(product, wide)
    return canonical(narrow(to_odd(np.asarray(total), np.asarray(error)), mode))


def add32(a: Any, b: Any, mode: str = "rn") -> NDArray[np.float32]:
    """``a + b`` of FP32 values, rounded once."""
    if mode == "rn":
        return canonical(np.asarray(np.add(a, b)))
    total, error = two_sum(np.asarray(a).astype(np.float64), np.asarray(b).astype(np.float64))
    return canonical(narrow(to_odd(np.asarray(total), np.asarray(error)), mode))


def mul32(a: Any, b: Any, mode: str = "rn") -> NDArray[np.float32]:
    """``a * b`` of FP32 values, rounded once."""
    if mode == "rn":
        return canonical(np.asarray(np.multiply(a, b)))
    return canonical(narrow(np.asarray(np.multiply(a, b, dtype=np.float64)), mode))


def fma64(a: Any, b: Any, c: Any) -> NDArray[np.float64]:
    """``a * b + c`` of FP64 values, rounded once: through exact rationals, since kernels hardly use it."""
    from fractions import Fraction

    def one(p: float, q: float, r: float) -> float:
        if not (np.isfinite(p) and np.isfinite(q) and np.isfinite(r)):
            return p * q + r
        exact = Fraction(p) * Fraction(q) + Fraction(r)
        if exact == 0:
            return p * q + r
        try:
            return float(exact)
        except OverflowError:
            return float("inf") if exact > 0 else float("-inf")

    p, q, r = np.broadcast_arrays(a, b, c)
    return canonical(
        np.array([one(float(i), float(j), float(k)) for i, j, k in zip(p.flat, q.flat, r.flat, strict=True)])
    )
