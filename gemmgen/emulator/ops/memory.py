"""Loads and stores of every space, cache hints, and address-space conversions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gemmgen.emulator.machine import access
from gemmgen.emulator.machine.clocks import SyncClock
from gemmgen.emulator.machine.memory import MemoryFault
from gemmgen.emulator.ops.builder import Builder, Step, builds, type_id
from gemmgen.emulator.ptx.operands import Imm, Operand, Sink
from gemmgen.emulator.ptx.parser import TYPE_BYTES

if TYPE_CHECKING:
    from gemmgen.emulator.machine.unit import Unit

_VECTOR = {"v2": 2, "v4": 4, "v8": 8}
_STRONG = ("relaxed", "acquire", "release", "volatile")


def _elements(b: Builder, operand: int) -> tuple[Operand, ...]:
    return b.vector(operand, _VECTOR.get(b.modifiers.get("vec", ""), 1))


def _register_type(b: Builder, item: Operand, type_: str) -> str:
    """The type to view a register as that may be wider than the memory type."""
    kind = getattr(item, "kind", type_)
    if isinstance(item, Imm) or not isinstance(kind, str) or kind[1:] == type_[1:] or kind not in ("b16", "b32", "b64"):
        return type_
    if type_[0] == "f":
        raise b.error(f"register and .{type_} differ in width")
    return f"{'s' if type_[0] == 's' else 'u'}{kind[1:]}"


@builds("mem.ld")
def _ld(b: Builder) -> Step:
    b.expect(2, 3)
    type_ = b.modifiers["type"]
    if type_ == "b128":
        return _ld_b128(b)
    items = _elements(b, 0)
    space = b.modifiers.get("space", "generic")
    strong, acquire = b.modifiers.get("sem") in _STRONG, b.modifiers.get("sem") == "acquire"
    address, pc, size = b.address(1), b.pc, TYPE_BYTES[type_]
    total = size * len(items)
    _check_cache_policy(b, 2)
    targets: list[tuple[int, int] | None] = []
    for item in items:
        if isinstance(item, Sink):
            targets.append(None)
            continue
        view = _register_type(b, item, type_)
        targets.append((type_id(view), b.destination(item, type_, wider=True)))
    dtype = np.dtype({"b": "u", "u": "u", "s": "i", "f": "f"}[type_[0]] + str(size))

    def step(x: Unit) -> None:
        where = address(x)
        try:
            data = access.load(x, space, where, total, pc, racy=strong)
        except MemoryFault as fault:
            raise b.fault(x, fault.kind, str(fault)) from None
        values = data.view(dtype)
        for position, target in enumerate(targets):
            if target is not None:
                np.copyto(x.views[target[0]][target[1]], values[:, position], where=x.mask, casting="unsafe")
        if strong:
            observe(x, where, acquire)

    return step


def _ld_b128(b: Builder) -> Step:
    d, address, pc, space = b.destination(0, "b128"), b.address(1), b.pc, b.modifiers.get("space", "generic")

    def step(x: Unit) -> None:
        try:
            data = access.load(x, space, address(x), 16, pc)
        except MemoryFault as fault:
            raise b.fault(x, fault.kind, str(fault)) from None
        np.copyto(x.views[type_id("b128")][d], data.view(np.uint64), where=x.mask[:, None])

    return step


def _check_cache_policy(b: Builder, position: int) -> None:
    wants = "hint" in b.modifiers
    if wants != (len(b.operands) > position):
        raise b.error("a cache policy operand goes with .L2::cache_hint, and only with it")
    if wants:
        b.source(position, "b64")


@builds("mem.st")
def _st(b: Builder) -> Step:
    b.expect(2, 3)
    type_ = b.modifiers["type"]
    space = b.modifiers.get("space", "generic")
    strong, release = b.modifiers.get("sem") in _STRONG, b.modifiers.get("sem") == "release"
    address, pc, size = b.address(0), b.pc, TYPE_BYTES[type_]
    items = _elements(b, 1)
    _check_cache_policy(b, 2)
    keys = [(type_id(_register_type(b, item, type_)), b.source(item, type_, wider=True)) for item in items]
    dtype = np.dtype({"b": "u", "u": "u", "s": "i", "f": "f"}[type_[0]] + str(size))

    def step(x: Unit) -> None:
        where = address(x)
        values = np.empty((x.width, len(keys)), dtype)
        for position, (t, key) in enumerate(keys):
            np.copyto(values[:, position], x.views[t][key], casting="unsafe")
        if strong:
            publish(x, where, release)
        try:
            access.store(x, space, where, values.view(np.uint8), pc, racy=strong)
        except MemoryFault as fault:
            raise b.fault(x, fault.kind, str(fault)) from None

    return step


def _locations(x: Unit, addresses: Any) -> list[tuple[Any, set[int]]]:
    """Each thread's active addresses."""
    result = []
    for thread in list(x.threads()):
        lanes = x.thread_lanes(thread)
        active = addresses[lanes][x.mask[lanes]]
        result.append((thread, {int(a) for a in active}))
    return result


def publish(x: Unit, addresses: Any, release: bool) -> None:
    """A strong write: whoever reads the location strongly later learns what this thread releases."""
    machine = x.cta.machine
    for thread, found in _locations(x, addresses):
        if x.full:
            thread.warp.gather()
        if not release and not machine.clocks.fenced[thread.row].any():
            continue  # nothing was fenced, so the write hands nothing over
        for address in found:
            clock = machine.sync_objects.setdefault(("global", address), SyncClock())
            if release:
                machine.clocks.release(thread.row, clock)
            else:
                machine.clocks.release_relaxed(thread.row, clock)
        machine.clocks.tick(thread.row, thread.agent)


def observe(x: Unit, addresses: Any, acquire: bool) -> None:
    """A strong read: the thread learns what the location's writers released."""
    machine = x.cta.machine
    for thread, found in _locations(x, addresses):
        for address in found:
            clock = machine.sync_objects.get(("global", address))
            if clock is None:
                continue
            if acquire:
                machine.clocks.acquire(thread.row, clock)
            else:
                machine.clocks.acquire_relaxed(thread.row, clock)


@builds("mem.prefetch")
def _prefetch(b: Builder) -> Step:
    b.expect(1)
    b.memory(0)
    return lambda x: None


@builds("mem.prefetch_map")
def _prefetch_map(b: Builder) -> Step:
    from gemmgen.emulator.ops.bulk_common import map_address

    b.expect(1)
    locate = map_address(b, 0)

    def step(x: Unit) -> None:
        locate(x)

    return step


@builds("mem.policy")
def _policy(b: Builder) -> Step:
    b.expect(1, 2)
    d, t = b.destination(0, "b64"), type_id("b64")
    primary = {"L2::evict_unchanged": 0, "L2::evict_first": 1, "L2::evict_last": 2, "L2::evict_normal": 3}
    secondary = 1 if b.modifiers.get("secondary") == "L2::evict_first" else 0
    fraction = 1.0
    if len(b.operands) == 2:
        operand = b.operands[1]
        if not isinstance(operand, Imm) or operand.kind != "f32":
            raise b.error("the fraction must be an FP32 constant")
        fraction = float(np.uint32(operand.value).view(np.float32))
    if not 0 < fraction <= 1:
        raise b.error("the fraction must lie in (0, 1]")
    sixteenths = max(0, round(fraction * 16) - 1)
    word = (0x100 | primary[b.modifiers["primary"]] << 5 | secondary << 4 | sixteenths) << 52
    constant = np.uint64(word)

    def step(x: Unit) -> None:
        np.copyto(x.views[t][d], constant, where=x.where)

    return step


@builds("mem.stbulk")
def _stbulk(b: Builder) -> Step:
    b.expect(3)
    address, size, pc = b.address(0), b.source(1, "u64"), b.pc
    if b.immediate(2) != 0:
        raise b.error("st.bulk stores zeros only")
    t = type_id("u64")

    def step(x: Unit) -> None:
        count = np.broadcast_to(x.views[t][size], (x.width,))
        where = address(x)
        for lane in np.flatnonzero(x.mask):
            outer = x.mask
            only = np.zeros(x.width, np.bool_)
            only[lane] = True
            x.set_mask(only)
            try:
                for part in range(0, int(count[lane]), 8):
                    access.store(x, "shared", where + part, np.zeros((x.width, 8), np.uint8), pc)
            except MemoryFault as fault:
                raise b.fault(x, fault.kind, str(fault)) from None
            finally:
                x.set_mask(outer)

    return step
