"""``cvt``: between integers and floats, and the packed conversions of 16-, 8- and 4-bit floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.numerics import formats
from gemmgen.emulator.ops import ieee
from gemmgen.emulator.ops.builder import Builder, Step, builds, type_id
from gemmgen.emulator.ops.integer import mapped

_INTEGERS = {"u8": np.uint8, "s8": np.int8, "u16": np.uint16, "s16": np.int16, "u32": np.uint32, "s32": np.int32}
_INTEGERS |= {"u64": np.uint64, "s64": np.int64}
_TO_INTEGER = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@builds("cvt.pack2")
def _pack2(b: Builder) -> Step:
    name = b.modifiers["dtype"].removesuffix("x2")
    rounding, relu, saturate = b.modifiers["rnd"], "relu" in b.modifiers, "satfinite" in b.modifiers
    destination = {"bf16": "b32", "f16": "b32", "e2m1": "b8"}.get(name, "b16")
    return mapped(
        b, (destination, "f32", "f32"), lambda hi, lo: formats.cvt_pack(hi, lo, name, rounding, saturate, relu)
    )


@builds("cvt.narrow2")
def _narrow2(b: Builder) -> Step:
    name, relu = b.modifiers["dtype"].removesuffix("x2"), "relu" in b.modifiers

    def convert(packed: Any) -> NDArray:
        high, low = (formats.decode(code, "f16") for code in formats.cvt_unpack(packed, "f16"))
        return formats.cvt_pack(high, low, name, "rn", True, relu)

    return mapped(b, ("b16", "b32"), convert)


@builds("cvt.widen2")
def _widen2(b: Builder) -> Step:
    name, relu = b.modifiers["stype"].removesuffix("x2"), "relu" in b.modifiers

    def convert(packed: Any) -> NDArray:
        high, low = (formats.decode(code, name) for code in formats.cvt_unpack(packed, name))
        return formats.cvt_pack(high, low, "f16", "rn", False, relu)

    return mapped(b, ("b32", "b8" if name == "e2m1" else "b16"), convert)


@builds("cvt.ue8m0")
def _ue8m0(b: Builder) -> Step:
    rounding, saturate = b.modifiers["rnd"], "satfinite" in b.modifiers
    if b.modifiers["stype"] == "f32":
        return mapped(b, ("b16", "f32", "f32"), lambda hi, lo: formats.cvt_pack(hi, lo, "ue8m0", rounding, saturate))

    def convert(packed: Any) -> NDArray:
        high, low = (formats.decode(code, "bf16") for code in formats.cvt_unpack(packed, "bf16"))
        return formats.cvt_pack(high, low, "ue8m0", rounding, saturate)

    return mapped(b, ("b16", "b32"), convert)


@builds("cvt.fromue8m0")
def _from_ue8m0(b: Builder) -> Step:
    def convert(packed: Any) -> NDArray:
        high, low = (formats.decode(code, "ue8m0") for code in formats.cvt_unpack(packed, "ue8m0"))
        return formats.cvt_pack(high, low, "bf16", "rn", False)

    return mapped(b, ("b32", "b16"), convert)


@builds("cvt.tf32")
def _tf32(b: Builder) -> Step:
    rounding, relu, saturate = b.modifiers["rnd"], "relu" in b.modifiers, "satfinite" in b.modifiers
    return mapped(b, ("b32", "f32"), lambda v: formats.encode(v, "tf32", rounding, saturate, relu))


@builds("cvt.half")
def _to_half(b: Builder) -> Step:
    name, relu, saturate = b.modifiers["dtype"], "relu" in b.modifiers, "satfinite" in b.modifiers
    rounding = b.modifiers["rnd"]
    return mapped(b, ("b16", "f32"), lambda v: formats.encode(v, name, rounding, saturate, relu))


def _decoded(values: Any, type_: str) -> NDArray:
    """Source values as integers of their type, or FP64."""
    if type_ in _INTEGERS:
        return np.asarray(values)
    return formats.decode(values, type_) if type_ in ("f16", "bf16") else np.asarray(values).astype(np.float64)


def _to_integer(values: NDArray, dtype: str) -> NDArray:
    """Saturate rounded FP64 values to an integer type; NaN gives 0 (and 2^31, 2^63 where the hardware does so)."""
    info = np.iinfo(_INTEGERS[dtype])
    nan = np.isnan(values)
    top = float(info.max)
    inside = np.clip(np.where(nan, 0.0, values), float(info.min), np.nextafter(top, 0) if top > 2**53 else top)
    result = inside.astype(_INTEGERS[dtype])
    return np.where(values >= top, info.max, result).astype(_INTEGERS[dtype]) if top > 2**53 else result


def _from_integer(values: NDArray, dtype: str, rounding: str) -> NDArray:
    if dtype == "f64":
        return values.astype(np.float64)
    if dtype == "f32" and rounding == "rn":
        return values.astype(np.float32)
    if values.dtype.itemsize == 8 and bool((np.abs(values.astype(np.float64)) > 2**53).any()):
        high = (values >> values.dtype.type(32)).astype(np.float64) * 2.0**32
        total, error = ieee.two_sum(high, (values & values.dtype.type(0xFFFFFFFF)).astype(np.float64))
        wide = ieee.to_odd(total, error)
    else:
        wide = values.astype(np.float64)
    return ieee.narrow(wide, rounding) if dtype == "f32" else formats.encode(wide, dtype, rounding, saturate=False)


@builds("cvt.scalar")
def _scalar(b: Builder) -> Step:
    b.expect(2)
    dtype, stype = b.modifiers["dtype"], b.modifiers["stype"]
    d = b.destination(0, dtype, wider=True)
    key = b.source(1, stype, wider=True)
    destination, source = _carrier(b, 0, dtype), _carrier(b, 1, stype)
    convert = _scalar_function(b, dtype, stype)
    td, ts = type_id(destination), type_id(source)

    def step(x: Any) -> None:
        value = np.atleast_1d(x.views[ts][key])
        if source != stype:
            value = value.astype(_INTEGERS[stype])
        result = convert(value)
        np.copyto(x.views[td][d], result, where=x.where, casting="unsafe")

    return step


def _carrier(b: Builder, operand: int, type_: str) -> str:
    """The type to view a register as: for one wider than the instruction's type, its own width with the type's sign."""
    found = b.operands[operand]
    kind = getattr(found, "kind", "")
    if type_ in _INTEGERS and kind.startswith("b") and kind[1:] != type_[1:]:
        return f"{type_[0]}{kind[1:]}"
    return type_


def _scalar_function(b: Builder, dtype: str, stype: str) -> Callable[[NDArray], NDArray]:
    rounding, sat, ftz = b.modifiers.get("rnd"), "sat" in b.modifiers, "ftz" in b.modifiers
    from_int, to_int = stype in _INTEGERS, dtype in _INTEGERS
    if from_int and to_int:
        if sat:
            info = np.iinfo(_INTEGERS[dtype])
            low, high = max(info.min, np.iinfo(_INTEGERS[stype]).min), min(info.max, np.iinfo(_INTEGERS[stype]).max)
            return lambda v: np.clip(v, low, high).astype(_INTEGERS[dtype])
        return lambda v: v.astype(_INTEGERS[dtype])
    if to_int:
        if rounding not in _TO_INTEGER:
            raise b.error("float to integer needs .rni, .rzi, .rmi or .rpi")
        whole = _TO_INTEGER[rounding]
        return lambda v: _to_integer(whole(_decoded(ieee.flush(v) if ftz else v, stype)), dtype)
    if from_int:
        if rounding not in ("rn", "rz", "rm", "rp"):
            raise b.error("integer to float needs .rn, .rz, .rm or .rp")
        mode = rounding
        return lambda v: _from_integer(v, dtype, mode)
    return _float_to_float(b, dtype, stype, rounding, sat, ftz)


def _float_to_float(
    b: Builder, dtype: str, stype: str, rounding: str | None, sat: bool, ftz: bool
) -> Callable[[NDArray], NDArray]:
    whole = _TO_INTEGER.get(rounding or "")
    mode = "rn" if rounding is None or whole else rounding

    def convert(values: NDArray) -> NDArray:
        exact = _decoded(ieee.flush(values) if ftz and stype == "f32" else values, stype)
        if whole is not None:
            exact = whole(exact)
        if sat:
            exact = np.clip(np.where(np.isnan(exact), 0.0, exact), 0.0, 1.0)
        if dtype == "f64":
            return ieee.canonical(exact)
        if dtype == "f32":
            narrowed = ieee.canonical(ieee.narrow(exact, mode))
            return ieee.flush(narrowed) if ftz else narrowed
        return formats.encode(exact, dtype, mode, saturate=False)

    return convert
