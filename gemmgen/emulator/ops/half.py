"""16-bit floating point, scalar and in pairs, and pairs of FP32.

Every operation is done in FP64 on exact inputs and rounded once; sums and products of 16-bit values are exact there,
and an ``fma`` is rounded to odd first where it is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.numerics import formats
from gemmgen.emulator.ops import ieee
from gemmgen.emulator.ops.builder import Builder, Step, builds
from gemmgen.emulator.ops.floating import extremum
from gemmgen.emulator.ops.integer import mapped

Function = Callable[..., NDArray]


def _on_halves(b: Builder, function: Function, sources: int) -> Step:
    """Apply a function of FP64 values to each 16-bit element."""
    type_ = b.modifiers["type"]
    name = type_.removesuffix("x2")
    relu, sat = "relu" in b.modifiers, "sat" in b.modifiers

    def one(codes: list[NDArray]) -> NDArray:
        result = function(*(formats.decode(code, name) for code in codes))
        if sat:
            result = np.clip(np.where(np.isnan(result), 0.0, result), 0.0, 1.0)
        return formats.encode(result, name, "rn", saturate=False, relu=relu)

    if not type_.endswith("x2"):
        return mapped(b, (type_,) * (sources + 1), lambda *v: one([np.asarray(c) for c in v]))

    def both(*values: Any) -> NDArray:
        low = one([(np.asarray(v) & np.uint32(0xFFFF)).astype(np.uint16) for v in values])
        high = one([(np.asarray(v) >> np.uint32(16)).astype(np.uint16) for v in values])
        return low.astype(np.uint32) | (high.astype(np.uint32) << np.uint32(16))

    return mapped(b, (type_,) * (sources + 1), both)


def _fma(p: NDArray, q: NDArray, r: NDArray) -> NDArray:
    total, error = ieee.two_sum(p * q, r)
    return ieee.to_odd(total, error)


_FUNCTIONS: dict[str, tuple[Function, int]] = {
    "half.add": (lambda p, q: p + q, 2),
    "half.sub": (lambda p, q: p - q, 2),
    "half.mul": (lambda p, q: p * q, 2),
    "half.fma": (_fma, 3),
    "half.ex2": (np.exp2, 1),
}


@builds("half.add", "half.sub", "half.mul", "half.fma", "half.ex2")
def _arithmetic(b: Builder) -> Step:
    function, sources = _FUNCTIONS[b.instruction.semantic]
    return _on_halves(b, function, sources)


@builds("half.min", "half.max")
def _extremum(b: Builder) -> Step:
    largest, keep = b.instruction.semantic == "half.max", "NaN" in b.modifiers
    return _on_halves(b, lambda p, q: extremum(p, q, largest, keep), 2)


@builds("half.neg", "half.abs")
def _sign(b: Builder) -> Step:
    type_ = b.modifiers["type"]
    sign = 0x80008000 if type_.endswith("x2") else 0x8000
    negate = b.instruction.semantic == "half.neg"

    def change(values: Any) -> NDArray:
        mask = np.asarray(values).dtype.type(sign)
        return values ^ mask if negate else values & ~mask

    return mapped(b, (type_,) * 2, change)


_PAIRS: dict[str, tuple[Function, int]] = {
    "pair.add": (ieee.add32, 2),
    "pair.sub": (lambda p, q, mode: ieee.add32(p, np.negative(q), mode), 2),
    "pair.mul": (ieee.mul32, 2),
    "pair.fma": (ieee.fma32, 3),
}


@builds("pair.add", "pair.sub", "pair.mul", "pair.fma")
def _pair(b: Builder) -> Step:
    function, sources = _PAIRS[b.instruction.semantic]
    mode, ftz = b.modifiers.get("rnd", "rn"), "ftz" in b.modifiers

    def both(*values: Any) -> NDArray:
        floats = [np.ascontiguousarray(v).view(np.float32) for v in values]
        if ftz:
            floats = [ieee.flush(f) for f in floats]
        result = function(*floats, mode)
        return np.ascontiguousarray(ieee.flush(result) if ftz else result).view(np.uint64)

    return mapped(b, ("f32x2",) * (sources + 1), both)
