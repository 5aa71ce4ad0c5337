"""Matrix multiply-accumulate as the tensor cores do it, bit for bit.

The rule (docs/hardware.md §7, confirmed on an H200 in §10): align all K products and the accumulator at the largest of
their exponents, cut each toward zero a fixed number of bits below it, add exactly, convert once. A product's exponent
is the sum of its operands' exponents; zero products do not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.numerics.descriptors import InstructionDescriptor
from gemmgen.emulator.numerics.formats import CANONICAL_F16_NAN, CANONICAL_F32_NAN, FORMATS, decode, leading_exponent
from gemmgen.emulator.numerics.kinds import FP8_TYPES, Kind, check_tcgen05_types, check_wgmma_types, tensor_kind
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
    return mma_accumulate(operand(a, a_type, float(scale_a * scale_b)), operand(b, b_type), c, rule, exact)


def tcgen05_mma(
    instruction: InstructionDescriptor,
    a: Codes,
    b: Codes,
    c: NDArray | None,
    *,
    scale_a: Codes | None = None,
    scale_b: Codes | None = None,
    scale_input_d: int = 0,
    exact: bool = False,
) -> NDArray:
    """One Blackwell ``tcgen05.mma``, over whole matrices whatever the CTA group: D = (±A)(±B)ᵀ + C·2^-s.

    Args:
        instruction: kind, types, negation, saturation and scale type; its M and N are not looked at.
        a: codes [M, K], unpacked to one code per entry.
        b: codes [N, K].
        c: accumulator [M, N] of D's dtype, or None.
        scale_a: codes [M, K / block]; the block kinds need it, the others refuse it.
        scale_b: codes [N, K / block].
        scale_input_d: s of C·2^-s, 0..15.
        exact: add in float64 and round once, instead of the hardware's rule.

    Returns:
        D [M, N] as float32, float16 or int32.

    Raises:
        EmulationError: the kind has no such types, scales or K.
    """
    kind = tensor_kind(instruction.kind)
    a_type, b_type, d_type = instruction.a_type, instruction.b_type, instruction.d_type
    check_tcgen05_types(kind.name, a_type, b_type, d_type)
    _check_operands(a, b, kind.k)
    if kind.name == "i8":
        return _integer_mma(a, b, c, a_type, b_type, instruction.saturate)
    if c is not None and scale_input_d:
        c = np.ldexp(c.astype(np.float64), -scale_input_d)
    sign = -1.0 if instruction.negate_a != instruction.negate_b else 1.0
    scales = _decode_scales(kind, scale_a, scale_b, instruction.scale_type)
    if scales is not None and kind.name != "mxf8f6f4":
        return _block_fp4(sign * decode(a, a_type), decode(b, b_type), c, scales, exact)
    if scales is None:
        left, right = operand(a, a_type, sign), operand(b, b_type)
    else:
        left, right = operand(a, a_type, sign * scales[0].values), operand(b, b_type, scales[1].values)
    return mma_accumulate(left, right, c, WIDE_F16 if d_type == "f16" else WIDE, exact)


@dataclass(frozen=True)
class Operand:
    """A decoded operand [rows, K].

    Attributes:
        values: its values, signs and scales included.
        leading: the power of two at which the hardware places each value's leading digit; 0 for zeros.
        narrow: whether products fit float32 exactly (unscaled elements of at most 8 bits).
    """

    values: Values
    leading: Values
    narrow: bool


def operand(codes: Codes, element: str, factor: float | Values = 1.0) -> Operand:
    """Decode an operand.

    Args:
        codes: codes [rows, K].
        element: element type.
        factor: ±1, or powers of two (or NaN) [rows, 1], whose exponents join those of the elements.
    """
    values = decode(codes, element)
    leading = leading_exponent(values, element)
    with np.errstate(invalid="ignore"):
        scaled = values * factor
    if np.ndim(factor) == 0:
        return Operand(scaled, leading, FORMATS[element].bits <= 8)
    return Operand(scaled, leading * np.abs(factor), narrow=False)


def mma_accumulate(a: Operand, b: Operand, c: NDArray | None, rule: AccumulationRule, exact: bool = False) -> NDArray:
    """The accumulation rule for any K as one group.

    Args:
        a: operand [M, K].
        b: operand [N, K].
        c: accumulator [M, N] as float values, or None.
        rule: bits kept while adding, and the result's form.
        exact: add in float64 and round once.

    Returns:
        D [M, N] as float32 or float16. NaN is 0x7FFFFFFF (f16: 0x7FFF); an exact zero is +0; a sum of 2^128 or more
        (f16: what rounds to 2^16) is infinity.
    """
    total = np.zeros((len(a.values), len(b.values))) if c is None else c.astype(np.float64)
    if exact:
        return _round(a.values @ b.values.T + total, rule.d_type)
    special = _special_results(a.values, b.values, total)
    if special is not None:
        a, b, total = _without_specials(a), _without_specials(b), _finite(total)
    dtype = np.float32 if rule.fraction_bits <= 13 and a.narrow and b.narrow else np.float64
    return _convert(_align_and_add(a, b, total, rule, dtype), special, rule)


def truncate_f32(values: Values, fraction_bits: int) -> NDArray[np.float32]:
    """Cut toward zero to a float32 with that many fraction bits; subnormals keep bits above 2^-(126+fraction_bits)."""
    kept = (values.view(np.int64) & np.int64(-1 << (52 - fraction_bits))).view(np.float64)
    small = np.abs(values) < 2.0**-126
    if small.any():
        kept = np.where(small, np.ldexp(np.trunc(np.ldexp(values, 126 + fraction_bits)), -126 - fraction_bits), kept)
    with np.errstate(over="ignore"):
        return kept.astype(np.float32)


def _finite(values: Values) -> Values:
    return np.where(np.isfinite(values), values, 0.0)


def _without_specials(x: Operand) -> Operand:
    """The operand with zeros for infinities and NaNs, whose results are known."""
    return Operand(_finite(x.values), _finite(x.leading), x.narrow)


def _align_and_add(a: Operand, b: Operand, c: Values, rule: AccumulationRule, dtype: type) -> Values:
    """The aligned, truncated, exact sum as float64 [M, N], from finite operands.

    One pass per k over [M, N] keeps the working set in cache. In float32 (13 fraction bits, 8-bit operands) every step
    is exact: products have 8 significant bits and truncated terms stay below 2^22.
    """
    a_columns, a_leads = np.asfortranarray(a.values, dtype), np.asfortranarray(a.leading, dtype)
    b_rows, b_leads = np.ascontiguousarray(b.values.T, dtype), np.ascontiguousarray(b.leading.T, dtype)
    term = np.empty(c.shape, dtype)
    largest = np.zeros(c.shape, dtype)
    for k in range(a.values.shape[1]):
        np.multiply(a_leads[:, k, None], b_leads[k], out=term)
        np.maximum(largest, term, out=largest)
    quantum, per_quantum = _quantum(largest.astype(np.float64), c, rule)
    # A huge factor belongs to an all-zero (m, n) only; it must stay finite so that 0 times it is 0.
    factor = np.minimum(per_quantum, 2.0**100).astype(dtype) if dtype is np.float32 else per_quantum
    units = np.zeros(c.shape, dtype)
    for k in range(a.values.shape[1]):
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


def _block_fp4(a: Values, b: Values, c: NDArray | None, scales: tuple[Operand, Operand], exact: bool) -> NDArray:
    """mxf4 and mxf4nvf4: exact sums of 16 products, scaled; only the scales' exponents align the sums.

    A group whose products cancel still counts in the alignment, as in MMA-Sim, the only source (no B200 was measured).
    """
    groups = a.shape[1] // _SCALE_GROUP
    a_scale, b_scale = (_spread(scale, groups) for scale in scales)
    total = np.zeros((len(a), len(b))) if c is None else c.astype(np.float64)
    special = _special_results(a_scale.values, b_scale.values, total)
    if special is not None:
        a_scale, b_scale, total = _without_specials(a_scale), _without_specials(b_scale), _finite(total)
    sums, largest = [], np.zeros(total.shape)
    for group in range(groups):
        part = slice(group * _SCALE_GROUP, (group + 1) * _SCALE_GROUP)
        factor = a_scale.values[:, group, None] * b_scale.values[:, group]
        sums.append(a[:, part] @ b[:, part].T * factor)
        largest = np.maximum(largest, a_scale.leading[:, group, None] * b_scale.leading[:, group])
    if exact:
        return _merge_special(_round(sum(sums, total), "f32"), special)
    quantum, per_quantum = _quantum(largest, total, BLOCK_FP4)
    units = sum((np.trunc(group_sum * per_quantum) for group_sum in sums), np.trunc(total * per_quantum))
    return _convert(units * quantum, special, BLOCK_FP4)


def _spread(scales: Operand, groups: int) -> Operand:
    """One scale factor per group of products, where a factor serves one or more groups."""
    times = groups // scales.values.shape[1]
    return Operand(np.repeat(scales.values, times, axis=1), np.repeat(scales.leading, times, axis=1), scales.narrow)


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
    kind: Kind, scale_a: Codes | None, scale_b: Codes | None, scale_type: str | None
) -> tuple[Operand, Operand] | None:
    """Scale factors, checked against what the kind takes."""
    if not kind.block_scaled:
        if scale_a is not None or scale_b is not None:
            raise EmulationError(f"kind::{kind.name} takes no scale factors", got="scales", need="none")
        return None
    counts = dict(kind.scales).get(scale_type or "", ())
    if scale_a is None or scale_b is None or scale_a.shape[1] != scale_b.shape[1] or scale_a.shape[1] not in counts:
        shapes = [None if scale is None else scale.shape for scale in (scale_a, scale_b)]
        need = "; ".join(f"{name}: {' or '.join(map(str, n))} per row" for name, n in kind.scales)
        raise EmulationError(f"kind::{kind.name} needs other scale factors", got=f"{scale_type} {shapes}", need=need)
    assert scale_type is not None
    return operand(scale_a, scale_type), operand(scale_b, scale_type)
