"""Number formats: bit patterns to values and back, with the rounding and special values of PTX's ``cvt``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from gemmgen.errors import EmulationError

CANONICAL_F32_NAN = 0x7FFFFFFF
CANONICAL_F16_NAN = 0x7FFF
_F64_EXPONENT_MASK = np.int64(0x7FF0000000000000)


@dataclass(frozen=True)
class NumberFormat:
    """A binary floating-point (or 8-bit integer) format.

    Attributes:
        name: gemmgen's and PTX's name.
        bits: bits of one element in memory.
        exponent_bits: width of the exponent field; 0 for integers.
        mantissa_bits: stored fraction bits.
        bias: exponent bias.
        max_code: magnitude code of the largest finite value.
        nan_code: code that ``cvt`` writes for NaN; None where the format has no NaN.
        inf_code: magnitude code of infinity; None where the format has none.
        code_shift: low bits of a code that the format ignores (13 for tf32, which lives in a 32-bit word).
    """

    name: str
    bits: int
    exponent_bits: int
    mantissa_bits: int
    bias: int
    max_code: int
    nan_code: int | None = None
    inf_code: int | None = None
    code_shift: int = 0

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal value, which subnormals share; ue8m0 has no subnormals."""
        return 1 - self.bias if self.mantissa_bits else -self.bias

    @property
    def code_dtype(self) -> np.dtype:
        """The unsigned numpy dtype that holds one code."""
        return np.dtype(np.uint8 if self.bits <= 8 else np.uint16 if self.bits == 16 else np.uint32)

    @property
    def sign_code(self) -> int:
        """The code of minus zero."""
        return 1 << (self.bits - 1)


FORMATS: dict[str, NumberFormat] = {
    form.name: form
    for form in (
        NumberFormat("e4m3", 8, 4, 3, 7, max_code=0x7E, nan_code=0x7F),
        NumberFormat("e5m2", 8, 5, 2, 15, max_code=0x7B, nan_code=0x7F, inf_code=0x7C),
        NumberFormat("e2m1", 4, 2, 1, 1, max_code=0x7),
        NumberFormat("e2m3", 6, 2, 3, 1, max_code=0x1F),
        NumberFormat("e3m2", 6, 3, 2, 3, max_code=0x1F),
        NumberFormat("ue8m0", 8, 8, 0, 127, max_code=0xFE, nan_code=0xFF),
        NumberFormat("ue4m3", 8, 4, 3, 7, max_code=0x7E, nan_code=0x7F),
        NumberFormat("bf16", 16, 8, 7, 127, max_code=0x7F7F, nan_code=0x7FFF, inf_code=0x7F80),
        NumberFormat("f16", 16, 5, 10, 15, max_code=0x7BFF, nan_code=CANONICAL_F16_NAN, inf_code=0x7C00),
        NumberFormat(
            "tf32", 32, 8, 10, 127, max_code=0x7F7FE000, nan_code=CANONICAL_F32_NAN, inf_code=0x7F800000, code_shift=13
        ),
        NumberFormat("f32", 32, 8, 23, 127, max_code=0x7F7FFFFF, nan_code=CANONICAL_F32_NAN, inf_code=0x7F800000),
        NumberFormat("s8", 8, 0, 7, 0, max_code=0x7F),
        NumberFormat("u8", 8, 0, 8, 0, max_code=0xFF),
    )
}

_ML_DTYPES: dict[str, type] = {
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "ue8m0": ml_dtypes.float8_e8m0fnu,
    "s8": np.int8,
    "u8": np.uint8,
}


def number_format(name: str) -> NumberFormat:
    """The format of that name.

    Raises:
        EmulationError: there is none.
    """
    if name not in FORMATS:
        raise EmulationError("unknown number format", got=name, need=", ".join(FORMATS))
    return FORMATS[name]


def decode(codes: ArrayLike, name: str) -> NDArray[np.float64]:
    """The values of codes, exactly.

    Args:
        codes: unsigned codes of any shape; bits above the format's width must be 0.
        name: the format. ``ue4m3`` ignores the sign bit, ``tf32`` the low 13 bits.

    Returns:
        float64 values of the same shape.
    """
    form = number_format(name)
    codes = np.asarray(codes)
    if form.bits <= 8:
        return _value_table(name)[codes]
    codes = codes.astype(form.code_dtype, copy=False)
    if name == "f16":
        values = codes.view(np.float16)
    elif name == "bf16":
        values = (codes.astype(np.uint32) << np.uint32(16)).view(np.float32)
    else:
        values = (codes & ~np.uint32((1 << form.code_shift) - 1)).view(np.float32)
    with np.errstate(invalid="ignore"):  # a signalling NaN is no error here
        return values.astype(np.float64)


def decode_f32(codes: ArrayLike, name: str) -> NDArray[np.float32]:
    """``decode`` as float32, which holds every value of every format here."""
    with np.errstate(invalid="ignore"):
        return decode(codes, name).astype(np.float32)


def leading_exponent(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """The power of two at which the tensor core places a value's leading digit.

    Args:
        values: finite float64 (or float32) values that the format holds.
        name: the format; its subnormals count at the minimum exponent.

    Returns:
        float64 ``2**e``, and 0 for zeros.
    """
    values = np.asarray(values, np.float64)
    power = (values.view(np.int64) & _F64_EXPONENT_MASK).view(np.float64)
    floor = 2.0 ** number_format(name).min_exponent
    return np.where(values != 0, np.maximum(power, floor), 0.0)


def encode(
    values: ArrayLike, name: str, rounding: str = "rn", saturate: bool = True, relu: bool = False
) -> NDArray[np.unsignedinteger]:
    """Convert values as PTX's ``cvt`` does.

    Args:
        values: float32 or float64, any shape.
        name: the destination format, not s8 or u8.
        rounding: ``rn`` nearest even, ``rna`` nearest away, ``rz``, ``rm``, ``rp``.
        saturate: ``.satfinite``: what is too large, and infinity, becomes the largest finite value. Formats without
            infinity always saturate, as PTX requires of them.
        relu: ``.relu``: negative results become +0.

    Returns:
        Codes of ``values``' shape. NaN becomes the format's NaN; e2m1, e2m3 and e3m2, which have none, get +max.

    Raises:
        EmulationError: the format or the rounding does not exist for ``cvt``.
    """
    form = number_format(name)
    values = np.asarray(values, np.float64)
    if name == "ue8m0":
        return _encode_ue8m0(values, rounding, saturate)
    if form.exponent_bits == 0 or rounding not in _ROUNDINGS:
        raise EmulationError("no such conversion", got=f"cvt.{rounding} to {name}", need=", ".join(_ROUNDINGS))
    negative = np.signbit(values)
    infinite, nan = np.isinf(values), np.isnan(values)
    magnitude = np.where(infinite | nan, 0.0, np.abs(values))
    exponent = np.where(magnitude > 0, np.maximum(np.frexp(magnitude)[1] - 1, form.min_exponent), form.min_exponent)
    units = _ROUNDINGS[rounding](np.ldexp(magnitude, form.mantissa_bits - exponent), negative).astype(np.int64)
    codes = (((exponent - form.min_exponent).astype(np.int64) << form.mantissa_bits) + units) << form.code_shift
    infinity = form.max_code if saturate or form.inf_code is None else form.inf_code
    codes = np.where(codes > form.max_code, _overflow(form.max_code, infinity, rounding, negative), codes)
    codes = np.where(infinite, infinity, codes)
    codes = np.where(negative, 0 if relu or name == "ue4m3" else codes | form.sign_code, codes)
    codes = np.where(nan, form.max_code if form.nan_code is None else form.nan_code, codes)
    return codes.astype(form.code_dtype)


def cvt_pack(
    high: ArrayLike, low: ArrayLike, name: str, rounding: str = "rn", saturate: bool = True, relu: bool = False
) -> NDArray[np.unsignedinteger]:
    """The two-element ``cvt``: the first source goes to the high half.

    Returns:
        uint8 for e2m1x2; uint16 for 6-bit and 8-bit formats (6-bit codes padded to a byte); uint32 for bf16x2, f16x2.
    """
    width, dtype = _pair_layout(name)
    codes = [encode(source, name, rounding, saturate, relu).astype(dtype) for source in (high, low)]
    return codes[0] << dtype.type(width) | codes[1]


def cvt_unpack(packed: ArrayLike, name: str) -> tuple[NDArray[np.unsignedinteger], NDArray[np.unsignedinteger]]:
    """Split a packed pair into ``(high, low)`` codes of the format."""
    width, dtype = _pair_layout(name)
    form = number_format(name)
    words = np.asarray(packed).astype(dtype, copy=False)
    mask = dtype.type((1 << form.bits) - 1)
    return (words >> dtype.type(width) & mask).astype(form.code_dtype), (words & mask).astype(form.code_dtype)


def f32_to_tf32_rna(values: ArrayLike) -> NDArray[np.float32]:
    """``cvt.rna.tf32.f32``: nearest, ties away from zero, low 13 bits zero; overflow gives infinity."""
    return encode(values, "tf32", "rna", saturate=False).view(np.float32)


def unpack_dense(data: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes of 4-bit elements stored two to a byte, the low nibble first; 8-bit data is returned as it is.

    Args:
        data: uint8 [..., n].
        bits: 4 or 8.

    Returns:
        uint8 [..., n * 8 / bits].
    """
    if bits == 8:
        return data
    if bits != 4:
        raise EmulationError("dense packing holds 4-bit elements", got=f"{bits} bits", need="4 or 8")
    return np.stack((data & np.uint8(0xF), data >> np.uint8(4)), axis=-1).reshape(*data.shape[:-1], -1)


def pack_dense(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The inverse of ``unpack_dense``; the last extent must be even for 4 bits."""
    if bits == 8:
        return codes
    if bits != 4 or codes.shape[-1] % 2:
        raise EmulationError("dense packing needs pairs of 4-bit codes", got=f"{codes.shape}, {bits} bits")
    return codes[..., 0::2] | codes[..., 1::2] << np.uint8(4)


def unpack_padded(data: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes of 4- or 6-bit elements that occupy 16 bytes per 16 elements, data first, then padding.

    Args:
        data: uint8 [..., 16 * g].
        bits: 4, 6 or 8.

    Returns:
        uint8 [..., 16 * g].
    """
    if bits == 8:
        return data
    groups = data.reshape(*data.shape[:-1], -1, 16)
    stream = np.unpackbits(groups[..., : 2 * bits], axis=-1, bitorder="little")
    fields = stream.reshape(*groups.shape[:-1], 16, bits)
    return np.packbits(fields, axis=-1, bitorder="little")[..., 0].reshape(data.shape)


def pack_padded(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The inverse of ``unpack_padded``; padding bytes are zero."""
    if bits == 8:
        return codes
    groups = codes.reshape(*codes.shape[:-1], -1, 16)
    fields = np.unpackbits(groups[..., None], axis=-1, bitorder="little")[..., :bits]
    stream = np.packbits(fields.reshape(*groups.shape[:-1], 16 * bits), axis=-1, bitorder="little")
    padding = [(0, 0)] * (stream.ndim - 1) + [(0, 16 - 2 * bits)]
    return np.pad(stream, padding).reshape(codes.shape)


_Rounding = Callable[[NDArray[np.float64], NDArray[np.bool_]], NDArray[np.float64]]
_ROUNDINGS: dict[str, _Rounding] = {
    "rn": lambda magnitude, negative: np.rint(magnitude),
    "rna": lambda magnitude, negative: np.floor(magnitude + 0.5),
    "rz": lambda magnitude, negative: np.floor(magnitude),
    "rm": lambda magnitude, negative: np.where(negative, np.ceil(magnitude), np.floor(magnitude)),
    "rp": lambda magnitude, negative: np.where(negative, np.floor(magnitude), np.ceil(magnitude)),
}


def _overflow(largest: int, infinity: int, rounding: str, negative: NDArray[np.bool_]) -> NDArray[np.int64]:
    """What a finite value beyond the largest becomes: infinity unless the rounding points toward zero."""
    away = {"rn": True, "rna": True, "rz": False, "rm": negative, "rp": ~negative}[rounding]
    return np.where(away, infinity, largest)


def _encode_ue8m0(values: NDArray[np.float64], rounding: str, saturate: bool) -> NDArray[np.uint8]:
    """As the emulation in NVIDIA's cuda_fp8.hpp: the sign is ignored, and what is below 2**-127 becomes code 0."""
    if rounding not in ("rz", "rp"):
        raise EmulationError("no such conversion", got=f"cvt.{rounding} to ue8m0", need="rz or rp")
    magnitude = np.abs(values)
    fraction, exponent = np.frexp(np.where(np.isfinite(magnitude), magnitude, 1.0))
    codes = exponent.astype(np.int64) + 126
    if rounding == "rp":
        codes += fraction > 0.5
    codes = np.where(magnitude == 0, 0, np.maximum(codes, 0))
    codes = np.where(np.isinf(magnitude), 0xFF, codes)
    codes = np.minimum(codes, 0xFE if saturate else 0xFF)
    return np.where(np.isnan(values), 0xFF, codes).astype(np.uint8)


def _pair_layout(name: str) -> tuple[int, np.dtype]:
    """Bits of one half, and the dtype of the whole pair."""
    bits = number_format(name).bits
    if bits == 4:
        return 4, np.dtype(np.uint8)
    if bits > 16:
        raise EmulationError("no packed pair of this format", got=name)
    return (8, np.dtype(np.uint16)) if bits <= 8 else (16, np.dtype(np.uint32))


@cache
def _value_table(name: str) -> NDArray[np.float64]:
    """float64 value of every code of a format of at most 8 bits."""
    form = number_format(name)
    codes = np.arange(1 << form.bits, dtype=np.uint8)
    if name == "ue4m3":
        return _value_table("e4m3")[codes & 0x7F]
    table = codes.view(_ML_DTYPES[name]).astype(np.float64)
    table.flags.writeable = False
    return table
