"""Asynchronous reductions, and the small asynchronous stores of distributed shared memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gemmgen.emulator.machine import tma
from gemmgen.emulator.machine.memory import GRANULE
from gemmgen.emulator.ops.builder import Builder, Step, builds, type_id
from gemmgen.emulator.ops.bulk import bulk_store_step, push_step, rank_of, tensor_store_step
from gemmgen.emulator.ops.bulk_common import (
    Data,
    active_lanes,
    coordinates,
    deliver,
    issue_access,
    lane_value,
    map_address,
    place,
    tracked_barrier,
    write_shared,
)
from gemmgen.emulator.ptx.parser import TYPE_BYTES

if TYPE_CHECKING:
    from gemmgen.emulator.machine.cta import Cta
    from gemmgen.emulator.machine.unit import Unit


@builds("bulk.tensor_reduce")
def _tensor_reduce(b: Builder) -> Step:
    b.expect(3 if "hint" in b.modifiers else 2)
    return tensor_store_step(b, map_address(b, 0), coordinates(b, 0, rank_of(b)), b.address(1), b.modifiers["op"])


@builds("bulk.reduce")
def _reduce(b: Builder) -> Step:
    b.expect(4 if "hint" in b.modifiers else 3)
    type_ = b.modifiers["type"]
    if type_ in ("f16", "bf16") and b.modifiers["op"] == "add" and "noftz" not in b.modifiers:
        raise b.error("a 16-bit floating-point add needs .noftz")
    element = "f32.ftz" if type_ == "f32" else type_
    return bulk_store_step(b, b.address(0), b.address(1), lane_value(b, 2, "u32"), (b.modifiers["op"], element))


@builds("bulk.reduce_push")
def _reduce_push(b: Builder) -> Step:
    b.expect(4)
    return push_step(b, (b.modifiers["op"], b.modifiers["type"]))


@builds("async.st")
def _st(b: Builder) -> Step:
    b.expect(3)
    type_ = b.modifiers["type"]
    items = b.vector(1, {"v2": 2, "v4": 4}.get(b.modifiers.get("vec", ""), 1))
    bits = f"b{8 * TYPE_BYTES[type_]}"
    return _small_store(b, [b.source(item, type_) for item in items], type_, bits, None)


@builds("async.red")
def _red(b: Builder) -> Step:
    b.expect(3)
    type_ = b.modifiers["type"]
    return _small_store(b, [b.source(1, type_)], type_, type_, b.modifiers["op"])


def _small_store(b: Builder, keys: list[int], type_: str, element: str, op: str | None) -> Step:
    """A step that sends registers of each lane to shared memory of the cluster and counts their bytes there."""
    destination, barrier_at, t = b.address(0), b.address(2), type_id(type_)
    size = TYPE_BYTES[type_] * len(keys)
    dtype = np.dtype(f"u{TYPE_BYTES[type_]}")

    def step(x: Unit) -> None:
        targets, barriers = destination(x), barrier_at(x)
        values = np.empty((x.width, len(keys)), dtype)
        for position, key in enumerate(keys):
            values[:, position] = np.asarray(x.views[t][key]).view(dtype)
        rows = values.view(np.uint8)
        for thread, lane in active_lanes(x):
            owner, offset = place(b, x, "shared::cluster", int(targets[lane]), size, size, "the destination")
            found = tracked_barrier(b, x, thread, "shared::cluster", int(barriers[lane]), owner, False)
            if op is None:
                access = issue_access(x, thread, found[1].agent, found[1].epoch, b.pc)
                granules = slice(offset // GRANULE, (offset + size) // GRANULE)
                write_shared(b, x, owner, access, granules, slice(offset, offset + size))
            write = _writer(owner, offset, rows[lane].copy(), op, element)
            deliver(b, x, found, owner, size, f"asynchronous store to cta {owner.index}", write)

    return step


def _writer(owner: Cta, offset: int, data: Data, op: str | None, element: str) -> Callable[[], None]:
    def write() -> None:
        target = owner.shared.data[offset : offset + len(data)]
        target[...] = data if op is None else tma.reduce_values(target, data, op, element)

    return write
