"""Logic, shifts and permutations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.ops.builder import Builder, Step, builds, type_id
from gemmgen.emulator.ops.integer import binary, mapped
from gemmgen.emulator.ptx.operands import Imm

if TYPE_CHECKING:
    from gemmgen.emulator.machine.unit import Unit

_SHIFT_BITS = {"16": 16, "32": 32, "64": 64}


@builds("bit.and")
def _and(b: Builder) -> Step:
    return binary(b, b.modifiers["type"], np.bitwise_and)


@builds("bit.or")
def _or(b: Builder) -> Step:
    return binary(b, b.modifiers["type"], np.bitwise_or)


@builds("bit.xor")
def _xor(b: Builder) -> Step:
    return binary(b, b.modifiers["type"], np.bitwise_xor)


@builds("bit.not")
def _not(b: Builder) -> Step:
    return mapped(b, (b.modifiers["type"],) * 2, np.invert)


@builds("bit.cnot")
def _cnot(b: Builder) -> Step:
    return mapped(b, (b.modifiers["type"],) * 2, lambda v: v == 0)


@builds("bit.lop3")
def _lop3(b: Builder) -> Step:
    b.expect(5)
    d = b.destination(0, "b32")
    keys = [b.source(n, "b32") for n in (1, 2, 3)]
    table = b.immediate(4)
    t = type_id("b32")

    def step(x: Unit) -> None:
        v = x.views[t]
        p, q, r = (v[k] for k in keys)
        total = np.zeros(x.width, np.uint32)
        for case in range(8):
            if table >> case & 1:
                total |= (p if case & 4 else ~p) & (q if case & 2 else ~q) & (r if case & 1 else ~r)
        np.copyto(v[d], total, where=x.where)

    return step


@builds("bit.shl")
def _shl(b: Builder) -> Step:
    return _shift(b, np.left_shift)


@builds("bit.shr")
def _shr(b: Builder) -> Step:
    return _shift(b, np.right_shift)


def _shift(b: Builder, function: Any) -> Step:
    """Shifts of the width or more give 0, or the sign."""
    b.expect(3)
    type_ = b.modifiers["type"]
    bits = _SHIFT_BITS[type_[1:]]
    d, value, t, u32 = b.destination(0, type_), b.source(1, type_), type_id(type_), type_id("u32")
    amount = b.operands[2]
    signed = type_[0] == "s"
    if isinstance(amount, Imm) and 0 <= amount.value < bits:
        constant = b.machine.constants.key(amount.value, np.dtype(f"{'i' if signed else 'u'}{bits // 8}"))

        def constant_step(x: Unit) -> None:
            v = x.views[t]
            function(v[value], v[constant], out=v[d], where=x.where)

        return constant_step
    count = b.source(2, "u32")

    def step(x: Unit) -> None:
        v = x.views[t]
        shift = x.views[u32][count]
        capped = np.minimum(shift, np.uint32(bits - 1)).astype(v[d].dtype)
        shifted = function(v[value], capped)
        if not signed:
            shifted = np.where(shift < bits, shifted, np.zeros_like(shifted))
        np.copyto(v[d], shifted, where=x.where)

    return step


@builds("bit.shf")
def _shf(b: Builder) -> Step:
    left, wrap = b.modifiers["direction"] == "l", b.modifiers["mode"] == "wrap"

    def funnel(low: Any, high: Any, count: Any) -> NDArray:
        count = np.uint64(count)
        count = count & np.uint64(31) if wrap else np.minimum(count, np.uint64(32))
        whole = (np.uint64(high) << np.uint64(32)) | np.uint64(low)
        if left:
            return (whole << count) >> np.uint64(32) & np.uint64(0xFFFFFFFF)
        return whole >> count & np.uint64(0xFFFFFFFF)

    return mapped(b, ("b32", "b32", "b32", "u32"), funnel)


@builds("bit.prmt")
def _prmt(b: Builder) -> Step:
    if "mode" in b.modifiers:
        raise b.error("only the generic mode of prmt is modelled")

    def permute(low: Any, high: Any, selector: Any) -> NDArray:
        whole = (np.uint64(high) << np.uint64(32)) | np.uint64(low)
        selector = np.uint64(selector)
        result = np.zeros(np.broadcast(whole, selector).shape, np.uint64)
        for byte in range(4):
            nibble = (selector >> np.uint64(4 * byte)) & np.uint64(15)
            picked = (whole >> ((nibble & np.uint64(7)) * np.uint64(8))) & np.uint64(0xFF)
            sign = np.where(picked & np.uint64(0x80), np.uint64(0xFF), np.uint64(0))
            result |= np.where(nibble & np.uint64(8), sign, picked) << np.uint64(8 * byte)
        return result

    return mapped(b, ("b32",) * 4, permute)
