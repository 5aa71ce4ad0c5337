"""Changing tensor maps on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gemmgen.emulator.machine import access
from gemmgen.emulator.machine.memory import MemoryFault
from gemmgen.emulator.machine.unit import Wait
from gemmgen.emulator.ops.builder import Builder, Step, builds, type_id
from gemmgen.emulator.ops.bulk_common import active_lanes
from gemmgen.emulator.ops.warp import require_converged
from gemmgen.emulator.ptx.operands import Imm
from gemmgen.emulator.report import Kind
from gemmgen.emulator.tensor_map import MAP_BYTES, ORDINAL_FIELDS, REPLACE_FIELDS

if TYPE_CHECKING:
    from gemmgen.emulator.machine.unit import Unit

_IMMEDIATE_ONLY = frozenset(["elemtype", "interleave_layout", "swizzle_mode", "fill_mode", "swizzle_atomicity"])
_WIDE = frozenset(["global_address", "global_stride"])
MAX_DIMENSIONS = 5


@builds("map.replace")
def _replace(b: Builder) -> Step:
    name, type_ = b.modifiers["field"], b.modifiers["type"]
    ordinal_form = name in ORDINAL_FIELDS
    b.expect(3 if ordinal_form else 2)
    if (type_ == "b64") != (name in _WIDE):
        raise b.error(f"tensormap field {name} has another width than .{type_}")
    if name in _IMMEDIATE_ONLY and not isinstance(b.operands[-1], Imm):
        raise b.error(f"tensormap field {name} takes a constant only")
    offset, size = REPLACE_FIELDS[name]
    ordinal = b.immediate(1) if ordinal_form else 0
    if not 0 <= ordinal < MAX_DIMENSIONS:
        raise b.error(f"dimension {ordinal} of a tensor map")
    address, key, t = b.address(0), b.source(len(b.operands) - 1, type_), type_id(type_)
    space = b.modifiers["space"]
    bias = 1 if name == "rank" else 0

    def step(x: Unit) -> None:
        base = address(x)
        if (base[x.mask] % MAP_BYTES).any():
            raise b.fault(x, Kind.MISALIGNED, "tensormap.replace needs a map at a multiple of 128")
        values = np.broadcast_to(x.views[t][key], (x.width,)).astype(np.uint64) + np.uint64(bias)
        rows = np.ascontiguousarray(values).view(np.uint8).reshape(x.width, 8)[:, :size]
        try:
            access.store(x, space, base + offset + ordinal * size, np.ascontiguousarray(rows), b.pc)
        except MemoryFault as fault:
            raise b.fault(x, fault.kind, str(fault)) from None

    return step


@builds("map.copy")
def _copy(b: Builder) -> Step:
    b.expect(3)
    destination, source = b.address(0), b.address(1)
    if b.immediate(2) != MAP_BYTES:
        raise b.error("tensormap.cp_fenceproxy copies 128 bytes")

    def step(x: Unit) -> Wait | None:
        waiting = require_converged(b, x)
        if waiting is not None:
            return waiting
        x.sync_warps()
        targets, sources = destination(x), source(x)
        outer = x.mask
        for thread, lane in list(active_lanes(x)):
            if lane % 32:
                continue
            only = np.zeros(x.width, np.bool_)
            only[lane] = True
            x.set_mask(only)
            try:
                for part in range(0, MAP_BYTES, 8):
                    data = access.load(x, "shared::cta", sources + part, 8, b.pc)
                    access.store(x, "global", targets + part, data, b.pc)
            except MemoryFault as fault:
                raise b.fault(x, fault.kind, str(fault)) from None
            finally:
                x.set_mask(outer)
            x.cta.machine.clocks.memory_fence(thread.row)
        x.sync_warps()
        return None

    return step


@builds("fence.tensormap")
def _fence(b: Builder) -> Step:
    acquires = b.modifiers["sem"] in ("acquire", "acq_rel")
    b.expect(2 if acquires else 0)
    if not acquires:
        return _release_fence
    address = b.address(0)
    if b.immediate(1) != MAP_BYTES:
        raise b.error("fence.proxy.tensormap acquires 128 bytes")

    def step(x: Unit) -> None:
        machine = x.cta.machine
        addresses = address(x)
        for thread, lane in active_lanes(x):
            where = int(addresses[lane])
            machine.clocks.memory_fence(thread.row)
            buffer = machine.memory.find(where)
            if buffer.shadow is not None:
                start = (where - buffer.base) // buffer.granule
                epochs = buffer.shadow.write_epoch[start : start + MAP_BYTES // buffer.granule]
                machine.acquired_maps[(thread.warp.agent, where)] = int(epochs.max())

    return step


def _release_fence(x: Unit) -> None:
    clocks = x.cta.machine.clocks
    for thread in list(x.threads()):
        clocks.memory_fence(thread.row)
        clocks.tick(thread.row, thread.agent)
