"""Shared-memory and instruction descriptors of wgmma and tcgen05, and the addresses they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.numerics.formats import FORMATS
from gemmgen.emulator.numerics.kinds import Kind, check_tcgen05_types, tensor_kind
from gemmgen.emulator.numerics.swizzle import Swizzle
from gemmgen.errors import EmulationError

_WGMMA_SWIZZLES = {0: Swizzle.NONE, 1: Swizzle.B128, 2: Swizzle.B64, 3: Swizzle.B32}
_TCGEN05_SWIZZLES = {0: Swizzle.NONE, 1: Swizzle.B128_ATOM32, 2: Swizzle.B128, 4: Swizzle.B64, 6: Swizzle.B32}
_WGMMA_RESERVED = 0xC000_C000_C000 | 0x3FF1_0000_0000_0000
_TCGEN05_RESERVED = 0xC000_C000 | 0x1FE0_0000_0000_0000
_ADDRESS_WINDOW = 1 << 18
_REPEAT_BYTES = 1024  # the longest swizzle period: addresses are cached relative to it


@dataclass(frozen=True)
class SmemDescriptor:
    """Where an operand tile lies in shared memory; every field in bytes except ``base_offset``.

    Attributes:
        start: address of the first element, a multiple of 16 below 256 KB.
        lbo: leading byte offset (see ``operand_addresses``).
        sbo: stride byte offset.
        swizzle: the XOR mode.
        base_offset: ``(pattern_start >> 7) & 7`` when the swizzle pattern does not start on its boundary.
    """

    start: int
    lbo: int
    sbo: int
    swizzle: Swizzle
    base_offset: int = 0


@dataclass(frozen=True)
class InstructionDescriptor:
    """The 32-bit descriptor of a dense ``tcgen05.mma``.

    Attributes:
        kind: kind name.
        m: rows of D.
        n: columns of D.
        a_type: element type of A.
        b_type: element type of B.
        d_type: f32, f16 or s32.
        a_major: ``K`` or ``MN``.
        b_major: ``K`` or ``MN``.
        negate_a: multiply A by -1.
        negate_b: multiply B by -1.
        saturate: clamp s32 results (kind i8).
        scale_type: ue8m0 or ue4m3 for block-scaled kinds, else None.
        sfa_id: byte of each 32-bit TMEM word where A's scale factors start.
        sfb_id: the same for B.
    """

    kind: str
    m: int
    n: int
    a_type: str
    b_type: str
    d_type: str = "f32"
    a_major: str = "K"
    b_major: str = "K"
    negate_a: bool = False
    negate_b: bool = False
    saturate: bool = False
    scale_type: str | None = None
    sfa_id: int = 0
    sfb_id: int = 0


def decode_wgmma(bits: int) -> SmemDescriptor:
    """Decode the 64-bit operand descriptor of wgmma.

    Raises:
        EmulationError: a reserved bit is set.
    """
    if bits & _WGMMA_RESERVED:
        raise _illegal(bits, "reserved bits set", f"bits {_WGMMA_RESERVED:#018x} zero")
    return _decode_fields(bits, _WGMMA_SWIZZLES[bits >> 62])


def encode_wgmma(descriptor: SmemDescriptor) -> int:
    """The inverse of ``decode_wgmma``."""
    return _encode_fields(descriptor) | _swizzle_code(descriptor.swizzle, _WGMMA_SWIZZLES) << 62


def decode_tcgen05(bits: int) -> SmemDescriptor:
    """Decode the 64-bit descriptor of tcgen05.mma and tcgen05.cp on sm_100a.

    Raises:
        EmulationError: a fixed field is wrong, the swizzle code does not exist, or the absolute LBO mode is used.
    """
    if (bits >> 46) & 7 != 1:
        raise _illegal(bits, "bits 46:48 are not 0b001", "the constant 0b001, which marks a Blackwell descriptor")
    if bits & _TCGEN05_RESERVED:
        raise _illegal(bits, "reserved bits set", f"bits {_TCGEN05_RESERVED:#018x} zero")
    if (bits >> 52) & 1:
        raise _illegal(bits, "absolute leading-dimension mode", "bit 52 zero: that mode exists on sm_103a only")
    code = bits >> 61
    if code not in _TCGEN05_SWIZZLES:
        raise _illegal(bits, f"swizzle code {code}", "0 none, 1 128B with 32B atoms, 2 128B, 4 64B or 6 32B")
    return _decode_fields(bits, _TCGEN05_SWIZZLES[code])


def encode_tcgen05(descriptor: SmemDescriptor) -> int:
    """The inverse of ``decode_tcgen05``."""
    return _encode_fields(descriptor) | 1 << 46 | _swizzle_code(descriptor.swizzle, _TCGEN05_SWIZZLES) << 61


def operand_addresses(descriptor: SmemDescriptor, major: str, element_bytes: int, mn: int, k: int) -> NDArray[np.int64]:
    """Absolute shared byte addresses of an operand tile.

    ``smem[addresses].view(code_dtype)`` is the [mn, k] matrix of codes. Packed 4-bit operands (mxf4, mxf4nvf4) count
    bytes: ``element_bytes=1`` and half the elements for ``k``; then ``formats.unpack_dense``.

    Args:
        descriptor: where the tile lies.
        major: ``K`` or ``MN``: the contiguous dimension.
        element_bytes: 1, 2 or 4.
        mn: rows (of A: M, of B: N).
        k: elements along K.

    Returns:
        int64 [mn, k * element_bytes].

    Raises:
        EmulationError: a K-major tile runs past its swizzle span, or the mode does not exist for this major-ness.
    """
    base = descriptor.start & -_REPEAT_BYTES
    relative = SmemDescriptor(
        descriptor.start - base, descriptor.lbo, descriptor.sbo, descriptor.swizzle, descriptor.base_offset
    )
    return _relative_addresses(relative, major, element_bytes, mn, k) + base


def decode_instruction(bits: int, kind: str) -> InstructionDescriptor:
    """Decode the instruction descriptor of a dense ``tcgen05.mma``.

    Args:
        bits: the 32-bit word.
        kind: the instruction's kind, which decides the layout.

    Raises:
        EmulationError: reserved bits, sparsity, a type code or scale ids that the kind does not have.
    """
    rule = tensor_kind(kind)
    reserved = _reserved_instruction_bits(rule)
    if bits & reserved:
        raise _illegal(bits, "unsupported or reserved bits set (sparsity, .ws shift, K=96)", f"bits {reserved:#x} zero")
    types = {code: name for name, code in _type_codes(kind).items()}
    a_code, b_code = bits >> 7 & 7, bits >> 10 & 7
    if a_code not in types or b_code not in types:
        raise _illegal(bits, f"type codes A {a_code}, B {b_code}", f"for kind::{kind}: {types}")
    d_types = {0: "f16", 1: "f32", 2: "s32"}
    decoded = InstructionDescriptor(
        kind=kind,
        m=(bits >> 24 & 0x1F) << 4,
        n=(bits >> 17 & 0x3F) << 3,
        a_type=types[a_code],
        b_type=types[b_code],
        d_type="f32" if rule.block_scaled else d_types.get(bits >> 4 & 3, "?"),
        a_major="MN" if bits >> 15 & 1 else "K",
        b_major="MN" if bits >> 16 & 1 else "K",
        negate_a=bool(bits >> 13 & 1),
        negate_b=bool(bits >> 14 & 1),
        saturate=kind == "i8" and bool(bits >> 3 & 1),
        scale_type=("ue8m0" if bits >> 23 & 1 else "ue4m3") if rule.block_scaled else None,
        sfa_id=bits >> 29 & 3 if rule.block_scaled else 0,
        sfb_id=bits >> 4 & 3 if rule.block_scaled else 0,
    )
    _check_instruction(decoded, rule)
    return decoded


def encode_instruction(descriptor: InstructionDescriptor) -> int:
    """The inverse of ``decode_instruction``."""
    rule = tensor_kind(descriptor.kind)
    _check_instruction(descriptor, rule)
    codes = _type_codes(descriptor.kind)
    bits = codes[descriptor.a_type] << 7 | codes[descriptor.b_type] << 10
    bits |= descriptor.negate_a << 13 | descriptor.negate_b << 14
    bits |= (descriptor.a_major == "MN") << 15 | (descriptor.b_major == "MN") << 16
    bits |= (descriptor.n >> 3) << 17 | (descriptor.m >> 4) << 24
    if rule.block_scaled:
        bits |= descriptor.sfb_id << 4 | (descriptor.scale_type == "ue8m0") << 23 | descriptor.sfa_id << 29
        return bits
    return bits | {"f16": 0, "f32": 1, "s32": 2}[descriptor.d_type] << 4 | descriptor.saturate << 3


@lru_cache(maxsize=1024)
def _relative_addresses(
    descriptor: SmemDescriptor, major: str, element_bytes: int, mn: int, k: int
) -> NDArray[np.int64]:
    """``operand_addresses`` for a start within the first swizzle period."""
    swizzle, lbo, sbo = descriptor.swizzle, descriptor.lbo, descriptor.sbo
    span = swizzle.span_bytes
    if major == "K":
        _check_k_major(descriptor, k * element_bytes)
        rows, k_bytes = np.arange(mn)[:, None], np.arange(k * element_bytes)
        columns = k_bytes if swizzle is not Swizzle.NONE else k_bytes // 16 * lbo + k_bytes % 16
        logical = rows // 8 * sbo + rows % 8 * span + columns
    else:
        _check_mn_major(descriptor, element_bytes)
        rows_per_atom = 4 if swizzle is Swizzle.B128_ATOM32 else 8
        mn_step, k_step = (sbo, lbo) if swizzle is Swizzle.NONE else (lbo, sbo)
        mn_bytes = (np.arange(mn) * element_bytes)[:, None, None] + np.arange(element_bytes)
        ks = np.arange(k)[:, None]
        columns = mn_bytes // span * mn_step + mn_bytes % span
        logical = (columns + ks // rows_per_atom * k_step + ks % rows_per_atom * span).reshape(mn, k * element_bytes)
    addresses = swizzle.apply(descriptor.start + logical.astype(np.int64), descriptor.base_offset)
    addresses.flags.writeable = False
    return addresses


def _check_k_major(descriptor: SmemDescriptor, k_bytes: int) -> None:
    span = descriptor.swizzle.span_bytes
    if descriptor.swizzle.atom_bytes != 16:
        raise EmulationError("swizzles of 32-byte atoms are for MN-major tf32 only", got="a K-major operand")
    if descriptor.swizzle is not Swizzle.NONE and descriptor.start % span + k_bytes > span:
        raise EmulationError(
            "a K-major operand runs past its swizzle span",
            got=f"start address {descriptor.start % span} bytes into a {span}-byte row, {k_bytes} bytes of K",
            need="start offset plus K bytes within the span",
            fix="step to the next column of atoms instead",
        )


def _check_mn_major(descriptor: SmemDescriptor, element_bytes: int) -> None:
    wide_atoms = descriptor.swizzle is Swizzle.B128_ATOM32
    if wide_atoms != (element_bytes == 4):
        raise EmulationError(
            "this swizzle does not exist for the MN-major operand",
            got=f"{descriptor.swizzle.name}, {element_bytes}-byte elements",
            need="B128_ATOM32 for tf32, any other mode for smaller elements",
        )


def _decode_fields(bits: int, swizzle: Swizzle) -> SmemDescriptor:
    fields = [(bits >> shift & 0x3FFF) << 4 for shift in (0, 16, 32)]
    return SmemDescriptor(*fields, swizzle=swizzle, base_offset=bits >> 49 & 7)


def _encode_fields(descriptor: SmemDescriptor) -> int:
    bits = 0
    for name, shift in (("start", 0), ("lbo", 16), ("sbo", 32)):
        value = getattr(descriptor, name)
        if value % 16 or not 0 <= value < _ADDRESS_WINDOW:
            raise EmulationError(
                f"{name} does not fit a matrix descriptor", got=value, need="a multiple of 16 from 0 to 262128"
            )
        bits |= value >> 4 << shift
    if not 0 <= descriptor.base_offset < 8:
        raise EmulationError("base offset does not fit a matrix descriptor", got=descriptor.base_offset, need="0..7")
    return bits | descriptor.base_offset << 49


def _swizzle_code(swizzle: Swizzle, codes: dict[int, Swizzle]) -> int:
    for code, candidate in codes.items():
        if candidate is swizzle:
            return code
    legal = ", ".join(mode.name for mode in codes.values())
    raise EmulationError("matrix descriptors have no such swizzle", got=swizzle.name, need=legal)


def _type_codes(kind: str) -> dict[str, int]:
    """Codes of the A and B type fields."""
    if kind in ("f8f6f4", "mxf8f6f4"):
        return {"e4m3": 0, "e5m2": 1, "e2m3": 3, "e3m2": 4, "e2m1": 5}
    return {"f16": {"f16": 0, "bf16": 1}, "tf32": {"tf32": 2}, "i8": {"u8": 0, "s8": 1}}.get(kind, {"e2m1": 1})


def _reserved_instruction_bits(rule: Kind) -> int:
    """Bits that must be zero for a dense instruction without ``.ws`` on sm_100a."""
    if rule.name in ("mxf4", "mxf4nvf4"):
        return 0x8701_904F
    if rule.block_scaled:
        return 0x8700_004F
    return 0xE080_0047 | (0 if rule.name == "i8" else 0x8)


def _check_instruction(descriptor: InstructionDescriptor, rule: Kind) -> None:
    check_tcgen05_types(rule.name, descriptor.a_type, descriptor.b_type, descriptor.d_type)
    where = "instruction descriptor"
    if not rule.block_scaled:
        return
    if descriptor.scale_type not in dict(rule.scales):
        legal = ", ".join(dict(rule.scales))
        raise EmulationError("no such scale type for the kind", where=where, got=descriptor.scale_type, need=legal)
    ids = (0, 1, 2, 3) if rule.name == "mxf8f6f4" else (0, 2)
    if descriptor.sfa_id not in ids or descriptor.sfb_id not in ids:
        got = f"A {descriptor.sfa_id}, B {descriptor.sfb_id}"
        raise EmulationError("scale factor id does not exist for the kind", where=where, got=got, need=f"one of {ids}")


def _illegal(bits: int, what: str, need: str) -> EmulationError:
    return EmulationError(f"illegal descriptor: {what}", got=f"{bits:#x}", need=need)


def element_bytes(element_type: str) -> int:
    """Bytes of pitch of one operand element in shared memory; 4- and 6-bit elements are padded to one."""
    return max(1, FORMATS[element_type].bits // 8)
