"""Comparison and selection."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.ops.builder import Builder, Step, builds, type_id
from gemmgen.emulator.ops.integer import mapped
from gemmgen.emulator.ptx.operands import Operand, PairOf, Reg, Sink

if TYPE_CHECKING:
    from gemmgen.emulator.machine.unit import Unit

_INTEGER = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_INTEGER |= {"lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
_COMBINE = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
_FLOATS = ("f16", "bf16", "f32", "f64")


def _as_float(values: Any, type_: str) -> NDArray:
    if type_ == "f16":
        return np.asarray(values).view(np.float16).astype(np.float32)
    if type_ == "bf16":
        return (np.asarray(values).astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values


def comparison(b: Builder, type_: str) -> Callable[[Any, Any], NDArray[np.bool_]]:
    """The comparison of two values of a type."""
    op = b.modifiers["op"]
    if type_ not in _FLOATS:
        if op not in _INTEGER or (op in ("lo", "ls", "hi", "hs") and type_[0] == "s"):
            raise b.error(f"comparison {op} does not exist for .{type_}")
        return _INTEGER[op]
    flush = "ftz" in b.modifiers

    def prepared(values: Any) -> NDArray:
        floats = np.asarray(_as_float(values, type_))
        return np.where(np.abs(floats) < 2.0**-126, np.float32(0), floats) if flush else floats

    if op in ("num", "nan"):
        return lambda p, q: (np.isnan(prepared(p)) | np.isnan(prepared(q))) == (op == "nan")
    unordered = op.endswith("u") and op != "u"
    name = op[:-1] if unordered else op
    if name not in _INTEGER or name in ("lo", "ls", "hi", "hs"):
        raise b.error(f"comparison {op} does not exist for .{type_}")
    base = _INTEGER[name]

    def compare(p: Any, q: Any) -> NDArray[np.bool_]:
        left, right = prepared(p), prepared(q)
        result = base(left, right)
        has_nan = np.isnan(left) | np.isnan(right)
        return result | has_nan if unordered else result & ~has_nan

    return compare


@builds("cmp.setp")
def _setp(b: Builder) -> Step:
    combine = b.modifiers.get("combine")
    b.expect(4 if combine else 3)
    type_ = b.modifiers["type"]
    t, left, right = type_id(type_), b.source(1, type_), b.source(2, type_)
    compare = comparison(b, type_)
    first, second = _targets(b, b.operands[0])
    other = b.predicate(b.operands[3]) if combine else None
    if other is None and second is None and first is not None and isinstance(compare, np.ufunc):
        target = first

        def simple(x: Unit) -> None:
            v = x.views[t]
            compare(v[left], v[right], out=x.pred[target], where=x.where)

        return simple

    def step(x: Unit) -> None:
        v = x.views[t]
        result = np.broadcast_to(compare(v[left], v[right]), (x.width,))
        inverse = ~result
        if other is not None and combine is not None:
            third = other(x)
            result, inverse = _COMBINE[combine](result, third), _COMBINE[combine](inverse, third)
        if first is not None:
            np.copyto(x.pred[first], result, where=x.where)
        if second is not None:
            np.copyto(x.pred[second], inverse, where=x.where)

    return step


def _targets(b: Builder, operand: Operand) -> tuple[int | None, int | None]:
    parts = (operand.first, operand.second) if isinstance(operand, PairOf) else (operand, Sink())
    keys: list[int | None] = []
    for part in parts:
        if isinstance(part, Reg) and part.kind == "p":
            keys.append(part.index)
        elif isinstance(part, Sink):
            keys.append(None)
        else:
            raise b.error("the destination is not a predicate")
    return keys[0], keys[1]


@builds("cmp.set")
def _set(b: Builder) -> Step:
    if "combine" in b.modifiers:
        raise b.error("set with a boolean operator is not modelled")
    type_, dtype = b.modifiers["type"], b.modifiers["dtype"]
    compare = comparison(b, type_)
    true = np.float32(1) if dtype == "f32" else np.uint32(0xFFFFFFFF)
    target = "f32" if dtype == "f32" else "u32"
    return mapped(b, (target, type_, type_), lambda p, q: np.where(compare(p, q), true, true.dtype.type(0)))


@builds("cmp.selp")
def _selp(b: Builder) -> Step:
    b.expect(4)
    type_ = b.modifiers["type"]
    t, d, yes, no = type_id(type_), b.destination(0, type_), b.source(1, type_), b.source(2, type_)
    chosen = b.predicate(b.operands[3])

    def step(x: Unit) -> None:
        v = x.views[t]
        np.copyto(v[d], np.where(chosen(x), v[yes], v[no]), where=x.where)

    return step


@builds("cmp.slct")
def _slct(b: Builder) -> Step:
    type_, ctype = b.modifiers["type"], b.modifiers["ctype"]
    return mapped(b, (type_, type_, type_, ctype), lambda p, q, c: np.where(c >= 0, p, q))
