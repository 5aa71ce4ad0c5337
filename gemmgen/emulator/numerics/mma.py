"""Matrix multiply-accumulate as the tensor cores do it, bit for bit.

The rule (HARDWARE.md §7, confirmed on an H200 in §10): align all K products and the accumulator at the largest of their
exponents, cut each toward zero a fixed number of bits below it, add exactly, convert once. A product's exponent is the
sum of its operands' exponents; zero products do not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.numerics.formats import CANONICAL_F16_NAN, CANONICAL_F32_NAN, FORMATS, decode, leading_exponent
from gemmgen.emulator.numerics.kinds import FP8_TYPES, KINDS, Kind, check_tcgen05_types, check_wgmma_types
from gemmgen.errors import EmulationError

Codes = NDArray[np.unsignedinteger]
Values = NDArray[np.float64]

_D_DTYPES: dict[str, np.dtype] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "s32": np.dtype(np.int32),
}
_SCALE_GROUP = 16  # mxf4 and mxf4nvf4 add 16 products exactly before they scale


@dataclass(frozen=True)
class AccumulationRule:
    """How one tensor core adds.

    Attributes:
        fraction_bits: bits kept below the largest exponent when terms are aligned.
        result_bits: fraction bits of the result.
        d_type: ``f32``, cut toward zero, or ``f16``, rounded to nearest even.
    """

    fraction_bits: int
    result_bits: int
    d_type: str


WGMMA_FP8 = AccumulationRule(13, 13, "f32")
WGMMA_FP8_F16 = AccumulationRule(13, 10, "f16")
WIDE = AccumulationRule(25, 23, "f32")
WIDE_F16 = AccumulationRule(25, 10, "f16")
BLOCK_FP4 = AccumulationRule(35, 23, "f32")


def wgmma(
    a: Codes,
    b: Codes,
    c: NDArray | None,
    a_type: str,
    b_type: str,
    d_type: str,
    *,
    scale_a: int = 1,
    scale_b: int = 1,
    saturate: bool = False,
    exact: bool = False,
) -> NDArray:
    """One Hopper ``wgmma.mma_async``: D = (±A)(±B)ᵀ + C.

    Args:
        a: codes [M, K]; K is 32 bytes of elements.
        b: codes [N, K].
        c: accumulator [M, N] of D's dtype, or None for D = A Bᵀ.
        a_type: e4m3, e5m2, bf16, f16, tf32, s8 or u8.
        b_type: the same type, or any mix within FP8 or within the integers.
        d_type: f32, f16 or s32.
        scale_a: imm-scale-a, 1 or -1.
        scale_b: imm-scale-b, 1 or -1.
        saturate: ``.satfinite`` of the integer forms.
        exact: add in float64 and round once, instead of the hardware's rule.

    Returns:
        D [M, N] as float32, float16 or int32.

    Raises:
        EmulationError: the hardware has no such combination of types, or K is wrong.
    """
    check_wgmma_types(a_type, b_type, d_type)
    _check_operands(a, b, 256 // FORMATS[a_type].bits)
    if d_type == "s32":
        return _integer_mma(a, b, c, a_type, b_type, saturate)
    rules = (WGMMA_FP8, WGMMA_FP8_F16) if a_type in FP8_TYPES else (WIDE, WIDE_F16)
    rule = rules[d_type == "f16"]
    return mma_accumulate(a, b, c, a_type, b_type, rule, negate=scale_a * scale_b < 0, exact=exact)


def tcgen05_mma(
    kind: str,
    a: Codes,
    b: Codes,
    c: NDArray | None,
    a_type: str,
    b_type: str,
    d_type: str,
    *,
    negate_a: bool = False,
    negate_b: bool = False,
    scale_a: Codes | None = None,
    scale_b: Codes | None = None,
    scale_type: str = "ue8m0",
    scale_input_d: int = 0,
    saturate: bool = False,
    exact: bool = False,
) -> NDArray:
    """One Blackwell ``tcgen05.mma``, over whole matrices whatever the CTA group: D = (±A)(±B)ᵀ + C·2^-s.

    Args:
        kind: f16, tf32, f8f6f4, i8, mxf8f6f4, mxf4 or mxf4nvf4.
        a: codes [M, K], unpacked to one code per entry.
        b: codes [N, K].
        c: accumulator [M, N] of D's dtype, or None.
        a_type: element type of A.
        b_type: element type of B.
        d_type: f32, f16 or s32.
        negate_a: bit 13 of the instruction descriptor.
        negate_b: bit 14.
        scale_a: codes [M, K / block]; the block kinds need it, the others refuse it.
        scale_b: codes [N, K / block].
        scale_type: ue8m0, or ue4m3 for mxf4nvf4.
        scale_input_d: s of C·2^-s, 0..15.
        saturate: bit 3 of the instruction descriptor, integers only.
        exact: add in float64 and round once, instead of the hardware's rule.

    Returns:
        D [M, N] as float32, float16 or int32.

    Raises:
        EmulationError: the kind has no such types, scales or K.
    """
    check_tcgen05_types(kind, a_type, b_type, d_type)
    _check_operands(a, b, KINDS[kind].k)
    if kind == "i8":
        return _integer_mma(a, b, c, a_type, b_type, saturate)
    if c is not None and scale_input_d:
        c = np.ldexp(c.astype(np.float64), -scale_input_d)
    negate = negate_a != negate_b
    scales = _decode_scales(KINDS[kind], scale_a, scale_b, scale_type)
    if kind in ("mxf4", "mxf4nvf4") and scales is not None:
        return _block_fp4(a, b, c, scales, scale_type, negate, exact)
    rule = WIDE_F16 if d_type == "f16" else WIDE
    return mma_accumulate(a, b, c, a_type, b_type, rule, negate=negate, scales=scales, exact=exact)


def mma_accumulate(
    a: Codes,
    b: Codes,
    c: NDArray | None,
    a_type: str,
    b_type: str,
    rule: AccumulationRule,
    *,
    negate: bool = False,
    scales: tuple[Values, Values] | None = None,
    exact: bool = False,
) -> NDArray:
    """The accumulation rule for any K as one group.

    Args:
        a: codes [M, K].
        b: codes [N, K].
        c: accumulator [M, N] as float values, or None.
        a_type: element type of A.
        b_type: element type of B.
        rule: bits kept while adding, and the result's form.
        negate: subtract the products instead.
        scales: power-of-two (or NaN) factors [M, 1] and [N, 1] whose exponents join those of the products.
        exact: add in float64 and round once.

    Returns:
        D [M, N] as float32 or float16. NaN is 0x7FFFFFFF (f16: 0x7FFF); an exact zero is +0.
    """
    a_values, b_values = decode(a, a_type), decode(b, b_type)
    if negate:
        a_values = -a_values
    a_leading, b_leading = leading_exponent(a_values, a_type), leading_exponent(b_values, b_type)
    if scales is not None:
        a_values, b_values = a_values * scales[0], b_values * scales[1]
        a_leading, b_leading = a_leading * scales[0], b_leading * scales[1]
    total = np.zeros((len(a), len(b))) if c is None else c.astype(np.float64)
    if exact:
        return _round(a_values @ b_values.T + total, rule.d_type)
    special = _special_results(a_values, b_values, total)
    if special is not None:
        a_values, b_values, total = (np.where(np.isfinite(x), x, 0.0) for x in (a_values, b_values, total))
        a_leading, b_leading = (np.where(np.isfinite(x), x, 0.0) for x in (a_leading, b_leading))
    dtype = np.float32 if rule.fraction_bits <= 13 and scales is None else np.float64
    aligned = _align_and_add(a_values, b_values, a_leading, b_leading, total, rule, dtype)
    return _convert(aligned, special, rule)


def truncate_f32(values: Values, fraction_bits: int) -> NDArray[np.float32]:
    """Cut toward zero to a float32 with that many fraction bits; subnormals keep bits above 2^-(126+fraction_bits)."""
    kept = (values.view(np.int64) & np.int64(-1 << (52 - fraction_bits))).view(np.float64)
    small = np.abs(values) < 2.0**-126
    if small.any():
        kept = np.where(small, np.ldexp(np.trunc(np.ldexp(values, 126 + fraction_bits)), -126 - fraction_bits), kept)
    with np.errstate(over="ignore"):
        return kept.astype(np.float32)


def _align_and_add(
    a: Values, b: Values, a_leading: Values, b_leading: Values, c: Values, rule: AccumulationRule, dtype: type
) -> Values:
    """The aligned, truncated, exact sum as float64 [M, N], from finite operands.

    One pass per k over [M, N] keeps the working set in cache. In float32 (13 fraction bits, 8-bit operands) every step
    is exact: products have 8 significant bits and truncated terms stay below 2^22.
    """
    a_columns, a_leads = np.asfortranarray(a, dtype), np.asfortranarray(a_leading, dtype)
    b_rows, b_leads = np.ascontiguousarray(b.T, dtype), np.ascontiguousarray(b_leading.T, dtype)
    term = np.empty(c.shape, dtype)
    largest = np.zeros(c.shape, dtype)
    for k in range(a.shape[1]):
        np.multiply(a_leads[:, k, None], b_leads[k], out=term)
        np.maximum(largest, term, out=largest)
    quantum, per_quantum = _quantum(largest.astype(np.float64), c, rule)
    # A huge factor belongs to an all-zero (m, n) only; it must stay finite so that 0 times it is 0.
    factor = np.minimum(per_quantum, 2.0**100).astype(dtype) if dtype is np.float32 else per_quantum
    units = np.zeros(c.shape, dtype)
    for k in range(a.shape[1]):
        np.multiply(a_columns[:, k, None], b_rows[k], out=term)
        np.multiply(term, factor, out=term)
        np.trunc(term, out=term)
        np.add(units, term, out=units)
    return (units + np.trunc(c * per_quantum)) * quantum


def _quantum(largest: Values, c: Values, rule: AccumulationRule) -> tuple[Values, Values]:
    """Unit of the aligned sum and its reciprocal, powers of two, from the products' largest exponent and C."""
    largest = np.maximum(largest, leading_exponent(c, rule.d_type))
    largest[largest == 0] = 1.0
    quantum = np.ldexp(largest, -rule.fraction_bits)
    return quantum, 1.0 / quantum


def _block_fp4(
    a: Codes, b: Codes, c: NDArray | None, scales: tuple[Values, Values], scale_type: str, negate: bool, exact: bool
) -> NDArray:
    """mxf4 and mxf4nvf4: exact sums of 16 products, scaled; only the scales' exponents align the sums.

    A group whose products cancel still counts in the alignment, as in MMA-Sim, the only source (no B200 was measured).
    """
    a_values, b_values = decode(a, "e2m1"), decode(b, "e2m1")
    if negate:
        a_values = -a_values
    groups = a.shape[1] // _SCALE_GROUP
    a_scale, b_scale = (np.repeat(scale, groups // scale.shape[1], axis=1) for scale in scales)
    total = np.zeros((len(a), len(b))) if c is None else c.astype(np.float64)
    special = _special_results(a_scale, b_scale, total)
    if special is not None:
        a_scale, b_scale, total = (np.where(np.isfinite(x), x, 0.0) for x in (a_scale, b_scale, total))
    sums, largest = [], np.zeros(total.shape)
    a_leading, b_leading = leading_exponent(a_scale, scale_type), leading_exponent(b_scale, scale_type)
    for group in range(groups):
        part = slice(group * _SCALE_GROUP, (group + 1) * _SCALE_GROUP)
        sums.append(a_values[:, part] @ b_values[:, part].T * (a_scale[:, group, None] * b_scale[:, group]))
        largest = np.maximum(largest, a_leading[:, group, None] * b_leading[:, group])
    if exact:
        return _merge_special(_round(sum(sums, total), "f32"), special)
    quantum, per_quantum = _quantum(largest, total, BLOCK_FP4)
    units = sum((np.trunc(group_sum * per_quantum) for group_sum in sums), np.trunc(total * per_quantum))
    return _convert(units * quantum, special, BLOCK_FP4)


def _integer_mma(a: Codes, b: Codes, c: NDArray | None, a_type: str, b_type: str, saturate: bool) -> NDArray[np.int32]:
    """Exact integer product; the sum with C wraps modulo 2^32 or saturates."""
    products = (decode(a, a_type) @ decode(b, b_type).T).astype(np.int64)
    total = products if c is None else products + c.astype(np.int64)
    if saturate:
        total = np.clip(total, -(2**31), 2**31 - 1)
    return total.astype(np.uint32).view(np.int32)


def _special_results(a: Values, b: Values, c: Values) -> Values | None:
    """What IEEE arithmetic gives where NaN or infinity takes part, else None; finite entries mean nothing."""
    if np.isfinite(a).all() and np.isfinite(b).all() and np.isfinite(c).all():
        return None
    total = c.copy()
    with np.errstate(invalid="ignore"):
        for k in range(a.shape[1]):
            total += a[:, k, None] * b[:, k]
    return total


def _convert(values: Values, special: Values | None, rule: AccumulationRule) -> NDArray:
    """Aligned sums to D, the specials put in."""
    values = values + 0.0  # an exact zero is +0
    result = truncate_f32(values, rule.result_bits) if rule.d_type == "f32" else _round(values, "f16")
    return _merge_special(result, special)


def _merge_special(result: NDArray, special: Values | None) -> NDArray:
    """Infinities and canonical NaNs where ``special`` has them."""
    if special is None:
        return result
    result = np.where(np.isinf(special), special, result).astype(result.dtype)
    if result.dtype == np.float32:
        result.view(np.uint32)[np.isnan(special)] = CANONICAL_F32_NAN
    else:
        result.view(np.uint16)[np.isnan(special)] = CANONICAL_F16_NAN
    return result


def _round(values: Values, d_type: str) -> NDArray:
    """Nearest-even to D's dtype, NaN canonical."""
    with np.errstate(over="ignore", invalid="ignore"):
        result = values.astype(_D_DTYPES[d_type])
    return _merge_special(result, values) if np.isnan(values).any() else result


def _check_operands(a: Codes, b: Codes, k: int) -> None:
    """Both operands are matrices with the instruction's K."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != k or b.shape[1] != k:
        got = f"A {a.shape}, B {b.shape}"
        raise EmulationError("operands have the wrong shape", got=got, need=f"A [M, {k}], B [N, {k}]")


def _decode_scales(
    kind: Kind, scale_a: Codes | None, scale_b: Codes | None, scale_type: str
) -> tuple[Values, Values] | None:
    """Scale factors as values, checked against what the kind takes."""
    if not kind.block_scaled:
        if scale_a is not None or scale_b is not None:
            raise EmulationError(f"kind::{kind.name} takes no scale factors", got="scales", need="none")
        return None
    counts = dict(kind.scales).get(scale_type, ())
    if scale_a is None or scale_b is None or scale_a.shape[1] != scale_b.shape[1] or scale_a.shape[1] not in counts:
        shapes = [None if scale is None else scale.shape for scale in (scale_a, scale_b)]
        need = "; ".join(f"{name}: {' or '.join(map(str, n))} per row" for name, n in kind.scales)
        raise EmulationError(f"kind::{kind.name} needs other scale factors", got=f"{scale_type} {shapes}", need=need)
    return decode(scale_a, scale_type), decode(scale_b, scale_type)
