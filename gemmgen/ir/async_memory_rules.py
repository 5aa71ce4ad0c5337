"""Laws of the async level about memory: staging tiles fit their fragments, and nothing overlaps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gemmgen.ir.async_ops import (
    BARRIER_BYTES,
    AsyncMmaOp,
    AsyncStoreOp,
    Engine,
    ReadOp,
    RingOp,
    StagingOp,
    tile_bytes,
)
from gemmgen.ir.core import Module, Op, Value
from gemmgen.ir.rewrite import walk
from gemmgen.ir.tile_ops import ReducePartsOp, mem
from gemmgen.ir.types import MemType
from gemmgen.ir.verifier import fail

TILE_ALIGN_BYTES = 128
BULK_ALIGN_BYTES = 128
"""The copy engine's least alignment in shared memory; a target may ask for more."""
LANES_ALIGN_BYTES = 4
TENSOR_LANE_BYTES = 4
"""Bytes of a column of tensor memory in one of its lanes."""


def check_stores(module: Module, stagings: dict[Value, StagingOp]) -> None:
    """Fragments leave through tiles made for them."""
    for op in walk(module):
        if isinstance(op, AsyncStoreOp):
            staging, value = stagings.get(op.staging), mem(op.value)
            if staging is None or staging.overlay:
                fail(
                    op,
                    f"{op.staging} is no staging tile of its own",
                    got=staging.NAME + " with overlay" if staging else op.staging.type,
                    need="async.staging without overlay",
                )
            tile = mem(op.staging)
            if (tile.dtype, tile.shape) != (value.dtype, value.shape):
                fail(op, "fragment and staging tile differ", got=value, need=tile)
        elif isinstance(op, ReducePartsOp) and op.exchange is not None:
            staging = stagings.get(op.exchange)
            if staging is None or not staging.overlay:
                fail(
                    op,
                    f"{op.exchange} is no exchange tile",
                    got=staging.NAME if staging else op.exchange.type,
                    need="async.staging with overlay",
                )


@dataclass(frozen=True)
class _Place:
    """A part of shared memory; ``kind`` is ``stage``, ``overlay`` or ``own``."""

    owner: Op
    name: str
    start: int
    size: int
    align: int
    kind: str = "own"

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.size

    def collides(self, other: _Place) -> bool:
        """Whether both may hold data at once in the same bytes."""
        if {self.kind, other.kind} == {"stage", "overlay"}:
            return False
        return self.start < other.end and other.start < self.end


def check_places(module: Module, rings: dict[Value, RingOp], stagings: dict[Value, StagingOp]) -> None:
    """Once shared memory is allocated, everything has an aligned place of its own inside it."""
    for value, op in stagings.items():
        _check_known(op, str(value), mem(value))
    for ring in rings.values():
        for buffer in ring.buffers:
            _check_known(ring, f"buffer '{buffer.name}'", buffer.type)
            if buffer.stage_bytes < buffer.tile_bytes:
                fail(
                    ring,
                    f"buffer '{buffer.name}' does not hold its tile",
                    got=f"{buffer.stage_bytes} bytes",
                    need=f"at least {buffer.tile_bytes}",
                )
    _check_columns(module, rings)
    places = [*_ring_places(rings), *_staging_places(stagings)]
    if all(place.start < 0 for place in places):
        return
    total = module.attr("smem_bytes")
    for index, place in enumerate(places):
        if place.start < 0 or place.start % place.align:
            fail(
                place.owner,
                f"{place.name} has no usable place",
                got=f"offset {place.start}",
                need=f"a multiple of {place.align}",
            )
        if place.end > total:
            fail(place.owner, f"{place.name} lies outside of shared memory", got=f"bytes up to {place.end}", need=total)
        for other in places[:index]:
            if place.collides(other):
                fail(
                    place.owner,
                    f"{place.name} overlaps {other.name}",
                    got=f"bytes {place.start} to {place.end}",
                    need=f"nothing of bytes {other.start} to {other.end}",
                )


def _check_known(op: Op, name: str, kind: MemType) -> None:
    if not all(isinstance(extent, int) for extent in kind.shape):
        fail(op, f"{name} needs a known shape", got=kind, need="integers")


def _check_columns(module: Module, rings: dict[Value, RingOp]) -> None:
    """Once tensor memory is allocated, accumulators and scales have columns of their own inside the allocation."""
    taken: list[_Place] = []
    for value, ring in rings.items():
        for buffer in ring.buffers if ring.in_tensor_memory else ():
            columns = ring.stages * tensor_columns(buffer.type)
            taken.append(_Place(ring, f"buffer '{buffer.name}' of {value}", buffer.offset, columns, 1))
    stages = {op.result: rings[op.ring].stages for op in walk(module) if isinstance(op, ReadOp) and op.ring in rings}
    for op in walk(module):
        if isinstance(op, AsyncMmaOp) and op.scale_a is not None:
            columns = stages.get(op.scale_a, 1) * op.scale_columns
            taken.append(_Place(op, f"the scales of {op.ring}'s product", op.scale_offset, columns, 1))
    if all(place.start < 0 for place in taken):
        return
    total = int(module.attr("tmem_columns"))
    for index, place in enumerate(taken):
        if place.start < 0 or place.end > total:
            got = f"columns {place.start} to {place.end}"
            fail(place.owner, f"{place.name} lies outside of tensor memory", got=got, need=f"0 to {total}")
        for other in taken[:index]:
            if place.collides(other):
                fail(place.owner, f"{place.name} overlaps {other.name}", got=f"columns {place.start} to {place.end}",
                     need=f"nothing of columns {other.start} to {other.end}")  # fmt: skip


def tensor_columns(kind: MemType) -> int:
    """Columns that a tile takes in tensor memory: one row per lane, 32 bits per column."""
    return int(kind.shape[1]) * -(-kind.dtype.bits // (8 * TENSOR_LANE_BYTES))  # pyright: ignore[reportArgumentType]


def _ring_places(rings: dict[Value, RingOp]) -> Iterator[_Place]:
    for value, ring in rings.items():
        for buffer in () if ring.in_tensor_memory else ring.buffers:
            align = LANES_ALIGN_BYTES
            if buffer.engine is Engine.BULK:
                align = TILE_ALIGN_BYTES if len(buffer.type.shape) > 1 else BULK_ALIGN_BYTES
            size = ring.stages * buffer.stage_bytes
            yield _Place(ring, f"buffer '{buffer.name}' of {value}", buffer.offset, size, align, "stage")
        yield _Place(ring, f"the barriers of {value}", ring.offset, ring.control_bytes, BARRIER_BYTES)


def _staging_places(stagings: dict[Value, StagingOp]) -> Iterator[_Place]:
    for value, op in stagings.items():
        kind = "overlay" if op.overlay else "own"
        yield _Place(op, str(value), op.offset, tile_bytes(mem(value)), TILE_ALIGN_BYTES, kind)
