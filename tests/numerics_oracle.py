"""The tensor cores' accumulation rule in exact rational arithmetic, one output at a time: slow and plainly right."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from fractions import Fraction

# name -> (exponent bits, mantissa bits, bias, has infinity, has NaN only at all ones)
LAYOUTS = {
    "e4m3": (4, 3, 7, False, True),
    "ue4m3": (4, 3, 7, False, True),
    "e5m2": (5, 2, 15, True, False),
    "e2m1": (2, 1, 1, False, False),
    "e2m3": (2, 3, 1, False, False),
    "e3m2": (3, 2, 3, False, False),
    "f16": (5, 10, 15, True, False),
    "bf16": (8, 7, 127, True, False),
    "tf32": (8, 10, 127, True, False),
    "f32": (8, 23, 127, True, False),
}


@dataclass(frozen=True)
class Number:
    """A decoded value: exact, with the exponent its leading digit is aligned at."""

    value: Fraction
    exponent: int
    special: str = ""  # "nan", "inf", "-inf"


def number(code: int, name: str) -> Number:
    if name == "ue8m0":
        return Number(Fraction(0), 0, "nan") if code == 255 else Number(Fraction(2) ** (code - 127), code - 127)
    exponent_bits, mantissa_bits, bias, has_inf, nan_at_ones = LAYOUTS[name]
    if name == "tf32":
        code >>= 13
    mantissa = code & ((1 << mantissa_bits) - 1)
    field = code >> mantissa_bits & ((1 << exponent_bits) - 1)
    negative = name != "ue4m3" and code >> (mantissa_bits + exponent_bits) & 1
    top = (1 << exponent_bits) - 1
    if has_inf and field == top:
        return Number(Fraction(0), 0, "nan" if mantissa else "-inf" if negative else "inf")
    if nan_at_ones and field == top and mantissa == (1 << mantissa_bits) - 1:
        return Number(Fraction(0), 0, "nan")
    exponent = max(field, 1) - bias
    significand = mantissa + ((1 << mantissa_bits) if field else 0)
    value = Fraction(significand) * Fraction(2) ** (exponent - mantissa_bits)
    return Number(-value if negative else value, exponent)


def cut(value: Fraction, unit_exponent: int) -> Fraction:
    unit = Fraction(2) ** unit_exponent
    return math.trunc(value / unit) * unit


def accumulate(terms: list[tuple[Fraction, int]], c: Number, fraction_bits: int) -> Fraction:
    """Sum of (value, exponent) terms and C, each cut at the largest exponent minus ``fraction_bits``."""
    live = [term for term in terms if term[0]] + ([(c.value, c.exponent)] if c.value else [])
    if not live:
        return Fraction(0)
    unit = max(exponent for _, exponent in live) - fraction_bits
    return sum((cut(value, unit) for value, _ in live), Fraction(0))


def f32_bits(value: Fraction, fraction_bits: int) -> int:
    """Cut toward zero to float32 with so many fraction bits."""
    if not value:
        return 0
    exponent = max(floor_log2(abs(value)), -126)
    value = cut(value, exponent - fraction_bits)
    if abs(value) >= Fraction(2) ** 128:
        return 0xFF800000 if value < 0 else 0x7F800000
    bits: int = struct.unpack("<I", struct.pack("<f", float(value)))[0]
    return bits if value else 0x80000000 if value < 0 else bits


def f16_bits(value: Fraction) -> int:
    """Round to float16, ties to even."""
    if not value:
        return 0
    exponent = max(floor_log2(abs(value)), -14)
    units = round(abs(value) / Fraction(2) ** (exponent - 10))  # Python rounds ties to even
    code = min((exponent + 14 << 10) + units, 0x7C00)
    return code | (0x8000 if value < 0 else 0)


def floor_log2(value: Fraction) -> int:
    guess = value.numerator.bit_length() - value.denominator.bit_length()
    return guess if Fraction(2) ** guess <= value else guess - 1


def special_sum(pairs: list[tuple[Number, Number]], c: Number) -> str:
    """ "" where all is finite, else "nan", "inf" or "-inf", by IEEE rules."""
    signs = set()
    for a, b in pairs:
        kinds = {a.special, b.special}
        if "nan" in kinds:
            return "nan"
        if kinds == {""}:
            continue
        if (not a.special and not a.value) or (not b.special and not b.value):
            return "nan"
        signs.add(_sign(a) * _sign(b))
    if c.special == "nan":
        return "nan"
    if c.special:
        signs.add(_sign(c))
    if len(signs) == 2:
        return "nan"
    return {(): "", (1,): "inf", (-1,): "-inf"}[tuple(signs)]


def _sign(x: Number) -> int:
    return -1 if x.special == "-inf" or x.value < 0 else 1
