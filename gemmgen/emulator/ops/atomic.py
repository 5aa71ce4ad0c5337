"""Atomics and reductions, one lane after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.machine import access, tma
from gemmgen.emulator.machine.memory import MemoryFault
from gemmgen.emulator.ops.builder import Builder, Step, builds, type_id
from gemmgen.emulator.ops.memory import observe, publish
from gemmgen.emulator.ptx.operands import Sink
from gemmgen.emulator.ptx.parser import TYPE_BYTES

if TYPE_CHECKING:
    from gemmgen.emulator.machine.unit import Unit

_VECTOR = {"v2": 2, "v4": 4, "v8": 8}


def _element(b: Builder) -> str:
    """The element type as ``reduce_values`` knows it; FP32 reductions in global memory flush subnormals."""
    type_ = b.modifiers["type"]
    if type_ in ("f16x2", "bf16x2"):
        return type_[:-2]
    return "f32.ftz" if type_ == "f32" and b.modifiers.get("space") == "global" else type_


def _check_type(b: Builder) -> None:
    op, type_ = b.modifiers["op"], b.modifiers["type"]
    bitwise = op in ("and", "or", "xor", "exch", "cas")
    if bitwise != (type_[0] == "b" and not type_.startswith("bf")):
        raise b.error(f".{op} does not exist for .{type_}")
    if type_ in ("f16", "bf16", "f16x2", "bf16x2") and op == "add" and "noftz" not in b.modifiers:
        raise b.error("a 16-bit floating-point add needs .noftz")


@builds("mem.red")
def _red(b: Builder) -> Step:
    b.expect(2, 3)
    return _atomic(b, None, 0)


@builds("mem.atom")
def _atom(b: Builder) -> Step:
    b.expect(3, 5)
    return _atomic(b, 0, 1)


def _atomic(b: Builder, result: int | None, first: int) -> Step:
    _check_type(b)
    type_, op = b.modifiers["type"], b.modifiers["op"]
    if type_ == "b128":
        raise b.error("128-bit atomics are not modelled")
    count = _VECTOR.get(b.modifiers.get("vec", ""), 1)
    space, address, pc = b.modifiers.get("space", "generic"), b.address(first), b.pc
    keys = [b.source(item, type_) for item in b.vector(first + 1, count)]
    swap = b.source(first + 2, type_) if op == "cas" else None
    targets: list[int | None] = []
    if result is not None:
        targets = [None if isinstance(i, Sink) else b.destination(i, type_) for i in b.vector(result, count)]
    t, size = type_id(type_), TYPE_BYTES[type_]
    dtype = np.dtype(f"u{size}")
    semantics = b.modifiers.get("sem", "relaxed")
    combine = _combiner(b, _element(b))

    def step(x: Unit) -> None:
        where = address(x)
        values = _rows(x, t, keys, dtype)
        swaps = None if swap is None else _rows(x, t, [swap], dtype)
        old = np.zeros((x.width, size * count), np.uint8)
        publish(x, where, semantics in ("release", "acq_rel"))
        try:
            for lane in np.flatnonzero(x.mask):
                old[lane] = _one_lane(x, space, where, int(lane), values[lane], swaps, combine, pc)
        except MemoryFault as fault:
            raise b.fault(x, fault.kind, str(fault)) from None
        words = old.view(dtype)
        for position, target in enumerate(targets):
            if target is not None:
                np.copyto(x.views[t][target].view(dtype), words[:, position], where=x.where)
        if targets:
            observe(x, where, semantics in ("acquire", "acq_rel"))

    return step


def _rows(x: Unit, t: int, keys: list[int], dtype: np.dtype) -> NDArray[np.uint8]:
    values = np.empty((x.width, len(keys)), dtype)
    for position, key in enumerate(keys):
        values[:, position] = np.asarray(x.views[t][key]).view(dtype)
    return values.view(np.uint8)


def _combiner(b: Builder, element: str) -> Callable[[NDArray, NDArray, NDArray | None], NDArray]:
    op = b.modifiers["op"]
    if op == "exch":
        return lambda old, new, swap: new
    if op == "cas":
        return lambda old, new, swap: swap if swap is not None and (old == new).all() else old
    return lambda old, new, swap: tma.reduce_values(old, new, op, element)


def _one_lane(
    x: Unit, space: str, where: NDArray, lane: int, value: NDArray, swaps: NDArray | None, combine: Callable, pc: int
) -> NDArray:
    outer, wide, full = x.mask, x.where, x.full
    only = np.zeros(x.width, np.bool_)
    only[lane] = True
    x.mask, x.where, x.full = only, only, False
    try:
        old = access.load(x, space, where, len(value), pc, racy=True)[lane]
        new = combine(old, value, None if swaps is None else swaps[lane])
        data = np.zeros((x.width, len(value)), np.uint8)
        data[lane] = new
        access.store(x, space, where, data, pc, racy=True)
    finally:
        x.mask, x.where, x.full = outer, wide, full
    return old
