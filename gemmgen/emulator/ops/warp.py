"""Communication within a warp: shuffles, votes, elections, warp barriers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.machine.unit import WARP, Wait
from gemmgen.emulator.ops.builder import Builder, Step, builds, type_id
from gemmgen.emulator.ptx.operands import Operand, PairOf, Reg, Sink
from gemmgen.emulator.report import Kind

if TYPE_CHECKING:
    from gemmgen.emulator.machine.unit import Unit

_ALL_LANES = 0xFFFFFFFF
_LANE = np.arange(WARP)


def require_converged(b: Builder, x: Unit) -> Wait | None:
    """An ``.aligned`` instruction: all live lanes must execute it together; None when they do."""
    if x.full:
        return None
    return _gather_lanes(b, x, x.live)


def require_members(b: Builder, x: Unit, members: NDArray[np.bool_]) -> Wait | None:
    """A ``.sync`` instruction with a member mask: its live lanes must be here; None when they are."""
    if not (members & x.live & ~x.mask).any():
        return None
    return _gather_lanes(b, x, members & x.live)


def _gather_lanes(b: Builder, x: Unit, needed: NDArray[np.bool_]) -> Wait:
    fragment = x.fragment
    assert fragment is not None
    if not (needed & ~fragment.mask).any():
        raise b.fault(x, Kind.DIVERGENCE, f"{b.instruction.opcode} is executed by some lanes only")
    needed = needed.copy()

    def ready() -> bool:
        together = [
            f for f in x.fragments if (f.block, f.step) == (fragment.block, fragment.step) and f.joins == fragment.joins
        ]
        union = np.logical_or.reduce([f.mask for f in together])
        if (needed & x.live & ~union).any():
            return False
        fragment.mask = union
        for other in together:
            if other is not fragment:
                x.fragments.remove(other)
        return True

    def describe() -> str:
        lanes = np.flatnonzero(needed & ~fragment.mask) % WARP
        return f"{b.instruction.opcode} needs lanes {', '.join(map(str, lanes[:4]))}… which are elsewhere"

    return Wait(ready, describe, "converge", b.pc)


def member_mask(b: Builder, operand: int) -> Any:
    """A function that gives a member-mask operand as a mask over the unit's lanes."""
    key, t = b.source(operand, "u32"), type_id("u32")

    def members(x: Unit) -> NDArray[np.bool_]:
        value = x.views[t][key]
        bits = np.broadcast_to(value, (x.width,))
        if np.ndim(value) == 0 and int(value) == _ALL_LANES:
            return np.ones(x.width, np.bool_)
        lanes = np.arange(x.width) % WARP
        first = x.mask.reshape(-1, WARP).argmax(axis=1) + np.arange(0, x.width, WARP)
        per_warp = np.repeat(bits[first], WARP)
        return (per_warp >> lanes.astype(np.uint32)) & np.uint32(1) == 1

    return members


def _two_targets(b: Builder, operand: Operand) -> tuple[int | None, int | None]:
    first, second = (operand.first, operand.second) if isinstance(operand, PairOf) else (operand, Sink())
    value = None if isinstance(first, Sink) else b.destination(first, "b32")
    flag = second.index if isinstance(second, Reg) and second.kind == "p" else None
    return value, flag


@builds("warp.shfl")
def _shfl(b: Builder) -> Step:
    b.expect(5)
    d, flag = _two_targets(b, b.operands[0])
    source, shift, clamp = b.source(1, "b32"), b.source(2, "u32"), b.source(3, "u32")
    members = member_mask(b, 4)
    mode, t = b.modifiers["mode"], type_id("u32")

    def step(x: Unit) -> Wait | None:
        needed = members(x)
        waiting = require_members(b, x, needed)
        if waiting is not None:
            return waiting
        v = x.views[t]
        lanes = np.arange(x.width)
        lane = lanes % WARP
        offset = (np.broadcast_to(v[shift], (x.width,)) & 31).astype(np.int64)
        control = np.broadcast_to(v[clamp], (x.width,)).astype(np.int64)
        segment = (control >> 8) & 31
        highest = (lane & segment) | (control & 31 & ~segment)
        if mode == "up":
            other = lane - offset
            valid = other >= highest
        elif mode == "down":
            other = lane + offset
            valid = other <= highest
        elif mode == "bfly":
            other = lane ^ offset
            valid = other <= highest
        else:
            other = (lane & segment) | (offset & ~segment)
            valid = other <= highest
        picked = lanes - lane + np.where(valid, other, lane)
        values = np.broadcast_to(v[source], (x.width,))[picked]
        if (x.mask & ~x.mask[picked]).any():
            b.finding(x, Kind.DIVERGENCE, "shfl reads a lane that does not take part")
        if d is not None:
            np.copyto(v[d], values, where=x.where)
        if flag is not None:
            np.copyto(x.pred[flag], valid, where=x.where)
        return None

    return step


def _per_warp(x: Unit, values: NDArray) -> NDArray:
    return values.reshape(-1, WARP)


@builds("warp.vote")
def _vote(b: Builder) -> Step:
    b.expect(3)
    mode, type_ = b.modifiers["mode"], b.modifiers["type"]
    if (mode == "ballot") != (type_ == "b32"):
        raise b.error("vote.ballot gives .b32, the other votes give .pred")
    d, t = b.destination(0, type_), type_id(type_)
    source, members = b.predicate(b.operands[1]), member_mask(b, 2)

    def step(x: Unit) -> Wait | None:
        needed = members(x)
        waiting = require_members(b, x, needed)
        if waiting is not None:
            return waiting
        votes = _per_warp(x, source(x) & x.mask)
        active = _per_warp(x, x.mask)
        if mode == "ballot":
            result = (votes.astype(np.uint64) << _LANE.astype(np.uint64)).sum(axis=1).astype(np.uint32)
        elif mode == "any":
            result = votes.any(axis=1)
        elif mode == "all":
            result = (votes | ~active).all(axis=1)
        else:
            result = (votes | ~active).all(axis=1) | ~votes.any(axis=1)
        np.copyto(x.views[t][d], np.repeat(result, WARP), where=x.where)
        return None

    return step


@builds("warp.match")
def _match(b: Builder) -> Step:
    b.expect(3)
    d, flag = _two_targets(b, b.operands[0])
    type_ = b.modifiers["type"]
    source, members, t = b.source(1, type_), member_mask(b, 2), type_id(type_)
    need_all = b.modifiers["mode"] == "all"

    def step(x: Unit) -> Wait | None:
        waiting = require_members(b, x, members(x))
        if waiting is not None:
            return waiting
        values = _per_warp(x, np.broadcast_to(x.views[t][source], (x.width,)))
        active = _per_warp(x, x.mask)
        same = (values[:, :, None] == values[:, None, :]) & active[:, None, :]
        found = (same.astype(np.uint64) << _LANE.astype(np.uint64)).sum(axis=2).astype(np.uint32)
        if need_all:
            everyone = (active.astype(np.uint64) << _LANE.astype(np.uint64)).sum(axis=1).astype(np.uint32)
            agree = found == everyone[:, None]
            found = np.where(agree, found, np.uint32(0))
            if flag is not None:
                np.copyto(x.pred[flag], agree.reshape(-1), where=x.where)
        if d is not None:
            np.copyto(x.u32[d], found.reshape(-1), where=x.where)
        return None

    return step


_REDUCTIONS = {"add": np.add, "min": np.minimum, "max": np.maximum}
_REDUCTIONS |= {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


@builds("warp.redux")
def _redux(b: Builder) -> Step:
    b.expect(3)
    type_ = b.modifiers["type"]
    d, source, members, t = b.destination(0, type_), b.source(1, type_), member_mask(b, 2), type_id(type_)
    function = _REDUCTIONS[b.modifiers["op"]]
    absolute, keep_nan = "abs" in b.modifiers, "NaN" in b.modifiers
    if type_ == "f32" and b.modifiers["op"] in ("min", "max") and not keep_nan:
        function = np.fmin if b.modifiers["op"] == "min" else np.fmax

    def step(x: Unit) -> Wait | None:
        needed = members(x)
        waiting = require_members(b, x, needed)
        if waiting is not None:
            return waiting
        values = np.broadcast_to(x.views[t][source], (x.width,))
        if absolute:
            values = np.abs(values)
        result = np.empty(x.width, values.dtype)
        for first in range(0, x.width, WARP):
            lanes = slice(first, first + WARP)
            active = x.mask[lanes]
            if active.any():
                result[lanes] = function.reduce(values[lanes][active])
        np.copyto(x.views[t][d], result, where=x.where)
        return None

    return step


@builds("warp.elect")
def _elect(b: Builder) -> Step:
    b.expect(2)
    d, flag = _two_targets(b, b.operands[0])
    members = member_mask(b, 1)

    def step(x: Unit) -> Wait | None:
        needed = members(x)
        waiting = require_members(b, x, needed)
        if waiting is not None:
            return waiting
        leaders = _per_warp(x, x.mask & needed).argmax(axis=1)
        lead = np.repeat(leaders, WARP)
        if d is not None:
            np.copyto(x.u32[d], lead, where=x.where, casting="unsafe")
        if flag is not None:
            np.copyto(x.pred[flag], np.arange(x.width) % WARP == lead, where=x.where)
        return None

    return step


@builds("warp.sync")
def _warp_sync(b: Builder) -> Step:
    b.expect(1)
    members = member_mask(b, 0)

    def step(x: Unit) -> Wait | None:
        waiting = require_members(b, x, members(x))
        if waiting is not None:
            return waiting
        if x.full:
            x.sync_warps()
        return None

    return step


@builds("warp.activemask")
def _activemask(b: Builder) -> Step:
    b.expect(1)
    d = b.destination(0, "b32")

    def step(x: Unit) -> None:
        bits = (_per_warp(x, x.mask).astype(np.uint64) << _LANE.astype(np.uint64)).sum(axis=1)
        np.copyto(x.u32[d], np.repeat(bits.astype(np.uint32), WARP), where=x.where)

    return step
