"""FP32 and FP64 arithmetic.

``add``, ``mul``, ``fma``, ``div.rn``, ``sqrt.rn`` and the like are exact to the bit. The ``approx`` functions are
computed in FP64 and rounded, which may differ from the hardware's by its documented error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.ops import ieee
from gemmgen.emulator.ops.builder import Builder, Step, builds
from gemmgen.emulator.ops.integer import mapped


def _finished(b: Builder, function: Callable[..., NDArray], sources: int) -> Step:
    """A step with the form's ``.ftz`` and ``.sat`` around a function."""
    type_ = b.modifiers["type"]
    ftz, sat = "ftz" in b.modifiers, "sat" in b.modifiers

    def finish(*values: Any) -> NDArray:
        if ftz:
            values = tuple(ieee.flush(v) for v in values)
        result = function(*values)
        if ftz:
            result = ieee.flush(result)
        if sat:
            result = np.clip(
                np.where(np.isnan(result), result.dtype.type(0), result), result.dtype.type(0), result.dtype.type(1)
            )
        return result

    return mapped(b, (type_,) * (sources + 1), finish if ftz or sat else function)


def _mode(b: Builder, key: str = "rnd") -> str:
    mode = b.modifiers.get(key, "rn")
    if b.modifiers["type"] == "f64" and mode != "rn":
        raise b.error("FP64 is modelled with rounding to nearest only")
    return mode


@builds("float.add")
def _add(b: Builder) -> Step:
    mode = _mode(b)
    if b.modifiers["type"] == "f64":
        return _finished(b, lambda p, q: ieee.canonical(np.asarray(p + q)), 2)
    return _finished(b, lambda p, q: ieee.add32(p, q, mode), 2)


@builds("float.sub")
def _sub(b: Builder) -> Step:
    mode = _mode(b)
    if b.modifiers["type"] == "f64":
        return _finished(b, lambda p, q: ieee.canonical(np.asarray(p - q)), 2)
    return _finished(b, lambda p, q: ieee.add32(p, np.negative(q), mode), 2)


@builds("float.mul")
def _mul(b: Builder) -> Step:
    mode = _mode(b)
    if b.modifiers["type"] == "f64":
        return _finished(b, lambda p, q: ieee.canonical(np.asarray(p * q)), 2)
    return _finished(b, lambda p, q: ieee.mul32(p, q, mode), 2)


@builds("float.fma")
def _fma(b: Builder) -> Step:
    mode = _mode(b)
    if b.modifiers["type"] == "f64":
        return _finished(b, ieee.fma64, 3)
    return _finished(b, lambda p, q, r: ieee.fma32(p, q, r, mode), 3)


@builds("float.abs")
def _abs(b: Builder) -> Step:
    return _finished(b, np.abs, 1)


@builds("float.neg")
def _neg(b: Builder) -> Step:
    return _finished(b, np.negative, 1)


def extremum(left: Any, right: Any, largest: bool, keep_nan: bool) -> NDArray:
    """``min`` or ``max`` with PTX's rules: −0 < +0, a NaN loses unless ``keep_nan``."""
    result = np.asarray((np.fmax if largest else np.fmin)(left, right))
    zeros = (np.asarray(left) == 0) & (np.asarray(right) == 0)
    if zeros.any():
        negative = (np.signbit(left) & np.signbit(right)) if largest else (np.signbit(left) | np.signbit(right))
        result = np.where(zeros, np.copysign(result.dtype.type(0), np.where(negative, -1, 1)), result)
    if keep_nan:
        result = np.where(np.isnan(left) | np.isnan(right), ieee.F32_NAN, result)
    return ieee.canonical(result.astype(np.asarray(left).dtype, copy=False))


@builds("float.min", "float.max")
def _min_max(b: Builder) -> Step:
    if "xorsign" in b.modifiers:
        raise b.error(".xorsign is not modelled")
    largest, keep = b.instruction.semantic == "float.max", "NaN" in b.modifiers
    return _finished(b, lambda p, q: extremum(p, q, largest, keep), 2)


def _exact_quotient(left: Any, right: Any, mode: str) -> NDArray[np.float32]:
    """FP32 division: an FP64 quotient of FP32 values never lies wrongly on an FP32 rounding boundary."""
    wide = np.asarray(np.divide(left, right, dtype=np.float64))
    if mode == "rn":
        return ieee.canonical(wide.astype(np.float32))
    remainder = -ieee.two_sum(np.multiply(wide, right, dtype=np.float64), -np.asarray(left).astype(np.float64))[0]
    error = np.where(np.isfinite(remainder), remainder * np.sign(right), 0.0)
    return ieee.canonical(ieee.narrow(ieee.to_odd(wide, error), mode))


@builds("float.div")
def _div(b: Builder) -> Step:
    mode = b.modifiers["mode"]
    if b.modifiers["type"] == "f64":
        _mode(b, "mode")
        return _finished(b, lambda p, q: ieee.canonical(np.asarray(p / q)), 2)
    rounding = "rn" if mode in ("full", "approx") else mode
    return _finished(b, lambda p, q: _exact_quotient(p, q, rounding), 2)


@builds("float.rcp")
def _rcp(b: Builder) -> Step:
    mode = b.modifiers["mode"]
    if b.modifiers["type"] == "f64":
        return _finished(b, lambda p: ieee.canonical(np.asarray(1.0 / p)), 1)
    return _finished(b, lambda p: _exact_quotient(np.float32(1), p, "rn" if mode == "approx" else mode), 1)


@builds("float.sqrt")
def _sqrt(b: Builder) -> Step:
    if b.modifiers["mode"] not in ("rn", "approx"):
        raise b.error("sqrt is modelled with rounding to nearest only")
    return _finished(b, lambda p: ieee.canonical(np.asarray(np.sqrt(p))), 1)


def _through_f64(function: Callable[[NDArray], NDArray]) -> Callable[[Any], NDArray]:
    def rounded(values: Any) -> NDArray:
        values = np.asarray(values)
        return ieee.canonical(np.asarray(function(values.astype(np.float64))).astype(values.dtype))

    return rounded


@builds("float.rsqrt")
def _rsqrt(b: Builder) -> Step:
    return _finished(b, _through_f64(lambda v: 1.0 / np.sqrt(v)), 1)


_APPROXIMATE = {"ex2": np.exp2, "lg2": np.log2, "sin": np.sin, "cos": np.cos, "tanh": np.tanh}


@builds("float.ex2", "float.lg2", "float.sin", "float.cos", "float.tanh")
def _approximate(b: Builder) -> Step:
    return _finished(b, _through_f64(_APPROXIMATE[b.instruction.semantic.split(".")[1]]), 1)


@builds("float.copysign")
def _copysign(b: Builder) -> Step:
    return _finished(b, lambda sign, magnitude: np.copysign(magnitude, sign), 2)


@builds("float.testp")
def _testp(b: Builder) -> Step:
    type_, op = b.modifiers["type"], b.modifiers["op"]
    smallest = _MIN_NORMAL[type_]
    tests: dict[str, Callable[[Any], NDArray]] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda v: ~np.isnan(v),
        "notanumber": np.isnan,
        "normal": lambda v: np.isfinite(v) & (np.abs(v) >= smallest),
        "subnormal": lambda v: (v != 0) & (np.abs(v) < smallest),
    }
    return mapped(b, ("pred", type_), tests[op])


_MIN_NORMAL = {"f32": 2.0**-126, "f64": 2.0**-1022}
