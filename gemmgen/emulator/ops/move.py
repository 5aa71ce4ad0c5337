"""Moves, packing, and conversions between address spaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gemmgen.emulator.machine.access import WINDOWS
from gemmgen.emulator.machine.memory import RANK_SHIFT, WINDOW_BYTES
from gemmgen.emulator.ops.builder import Builder, Step, builds, type_id
from gemmgen.emulator.ops.integer import mapped
from gemmgen.emulator.ptx.operands import Sink, Vec

if TYPE_CHECKING:
    from gemmgen.emulator.machine.unit import Unit

_BITS = {"b16": 16, "b32": 32, "b64": 64, "b128": 128}


@builds("mov")
def _mov(b: Builder) -> Step:
    b.expect(2)
    type_ = b.modifiers["type"]
    if isinstance(b.operands[0], Vec):
        return _unpack(b, type_)
    if isinstance(b.operands[1], Vec):
        return _pack(b, type_)
    if type_ == "b128":
        d, s, t = b.destination(0, type_), b.source(1, type_), type_id(type_)

        def step_b128(x: Unit) -> None:
            np.copyto(x.views[t][d], x.views[t][s], where=x.mask[:, None])

        return step_b128
    d, s, t = b.destination(0, type_), b.source(1, type_), type_id(type_)

    def step(x: Unit) -> None:
        v = x.views[t]
        np.copyto(v[d], v[s], where=x.where)

    return step


def _part_type(b: Builder, type_: str, count: int) -> str:
    bits = _BITS.get(type_, 0) // count
    if bits not in (8, 16, 32, 64) or bits * count != _BITS.get(type_):
        raise b.error(f"{count} parts do not make a .{type_}")
    return f"b{bits}"


def _pack(b: Builder, type_: str) -> Step:
    items = b.vector(1)
    part = _part_type(b, type_, len(items))
    d, t, tp = b.destination(0, type_), type_id(type_), type_id(part)
    keys = [b.source(item, part) for item in items]
    dtype = np.dtype(f"u{_BITS[part] // 8}")

    def step(x: Unit) -> None:
        v = x.views[tp]
        rows = np.empty((x.width, len(keys)), dtype)
        for position, key in enumerate(keys):
            rows[:, position] = v[key]
        target = x.views[t][d]
        if target.ndim == 2:
            np.copyto(target, rows.view(np.uint64), where=x.mask[:, None])
        else:
            np.copyto(target, rows.view(target.dtype)[:, 0], where=x.where)

    return step


def _unpack(b: Builder, type_: str) -> Step:
    items = b.vector(0)
    part = _part_type(b, type_, len(items))
    s, t, tp = b.source(1, type_), type_id(type_), type_id(part)
    targets = [None if isinstance(item, Sink) else b.destination(item, part) for item in items]
    dtype = np.dtype(f"u{_BITS[part] // 8}")

    def step(x: Unit) -> None:
        source = x.views[t][s]
        if np.ndim(source) == 0:
            source = np.full(x.width, source)
        rows = np.ascontiguousarray(source).view(dtype).reshape(x.width, len(targets))
        for position, target in enumerate(targets):
            if target is not None:
                np.copyto(x.views[tp][target], rows[:, position], where=x.where)

    return step


def _window(b: Builder) -> int:
    return WINDOWS[b.modifiers["space"].split("::")[0]]


@builds("cvta.to")
def _cvta_to(b: Builder) -> Step:
    base = np.uint64(_window(b))
    return mapped(b, ("u64", "u64"), lambda v: v - base)


@builds("cvta.from")
def _cvta_from(b: Builder) -> Step:
    base = np.uint64(_window(b))
    return mapped(b, ("u64", "u64"), lambda v: v + base)


@builds("isspacep")
def _isspacep(b: Builder) -> Step:
    space = b.modifiers["space"]
    base = _window(b)

    def inside(values: np.ndarray) -> np.ndarray:
        if space == "global":
            return values < np.uint64(min(w for name, w in WINDOWS.items() if name != "global"))
        return (values >= np.uint64(base)) & (values < np.uint64(base + WINDOW_BYTES))

    return mapped(b, ("pred", "u64"), inside)


@builds("cluster.mapa")
def _mapa(b: Builder) -> Step:
    type_ = b.modifiers["type"]
    in_window = "space" in b.modifiers
    if not in_window and type_ != "u64":
        raise b.error("mapa of a generic address needs .u64")
    d, s, rank, t, tr = b.destination(0, type_), b.source(1, type_), b.source(2, "u32"), type_id(type_), type_id("u32")

    def step(x: Unit) -> None:
        ranks = x.views[tr][rank]
        active = np.broadcast_to(ranks, (x.width,))[x.mask]
        if bool((active >= x.cta.machine.cluster_size).any()):
            from gemmgen.emulator.report import Kind

            raise b.fault(
                x, Kind.OUT_OF_BOUNDS, f"mapa to CTA rank {int(active.max())} of {x.cta.machine.cluster_size}"
            )
        value = x.views[t][s]
        dtype = np.asarray(value).dtype.type
        cleared = value & ~dtype(0xFF << RANK_SHIFT)
        np.copyto(x.views[t][d], cleared | (np.asarray(ranks).astype(dtype) << dtype(RANK_SHIFT)), where=x.where)

    return step


@builds("cluster.getctarank")
def _getctarank(b: Builder) -> Step:
    type_ = b.modifiers["type"]
    return mapped(b, ("u32", type_), lambda v: (v >> v.dtype.type(RANK_SHIFT)) & v.dtype.type(0xFF))
