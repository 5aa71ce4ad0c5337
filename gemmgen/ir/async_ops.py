"""Ops of the async level: who does what, and when. Rings hand tiles from loading warps to multiplying warps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from gemmgen.errors import IRError
from gemmgen.ir.attributes import register_record
from gemmgen.ir.core import Effect, Level, Op, Region, Value
from gemmgen.ir.schema import attr, operand, optional_operand, region, register_op, result
from gemmgen.ir.tile_ops import SCALE_GROUP_ROWS, extents, mem
from gemmgen.ir.types import SCALAR_BITS, UE8M0X4, MemType, RingType

ASYNC_ONLY = frozenset({Level.ASYNC})
BARRIER_BYTES = 8
SCALE_GROUP_LANES = 32
"""Rows of a group of scale words that share a column of tensor memory."""


def tile_bytes(kind: MemType) -> int:
    """Bytes of a dense tile whose extents are known."""
    elements = math.prod(int(extent) for extent in kind.shape)  # pyright: ignore[reportArgumentType]
    return elements * SCALAR_BITS[kind.dtype.name] // 8


class Engine(StrEnum):
    """What fills a buffer: the bulk copy engine, 4-byte copies by the lanes of a warp, or the tensor core."""

    BULK = "bulk"
    LANES = "lanes"
    TENSOR = "tensor"


@register_record("buffer")
@dataclass(frozen=True)
class Buffer:
    """One tile of every stage of a ring.

    ``offset`` is the byte offset of stage 0 in the CTA's shared memory, −1 until ``shared-memory-allocation`` ran;
    stage s lies ``stage_bytes`` · s further on. A buffer that the tensor core fills lies in tensor memory: there
    ``offset`` is its first column, set by ``tensor-memory-allocation``, and a stage is as many columns as the tile has.
    """

    name: str
    type: MemType
    engine: Engine
    stage_bytes: int
    offset: int = -1

    @property
    def tile_bytes(self) -> int:
        """Bytes that one load delivers."""
        return tile_bytes(self.type)


@register_op
@dataclass(frozen=True)
class RingOp(Op):
    """A ring of ``stages`` stages, each holding one tile of every buffer, all in shared or all in tensor memory.

    ``cluster`` CTAs write into each other's stages, so a stage is free only when all of them have released it.
    ``ctas`` CTAs, each with stages of its own, multiply together: a stage is full when all of theirs are, which the
    first of them waits for, and free in all of them at once.
    ``steps`` > 0: a stage holds all steps of K of an output tile, so many at most, each with its own tile of every
    buffer. It is acquired, loaded and waited for at the tile's first step, and released at its last.
    ``offset`` is the byte offset of its barriers, two per stage; a ring in tensor memory has the 8 bytes behind them,
    where the address of its allocation is kept.

    ``%ring = async.ring() {stages=5, buffers=[#buffer{name="a", …}]} : ring<5>``
    """

    NAME: ClassVar[str] = "async.ring"
    LEVELS: ClassVar[frozenset[Level]] = ASYNC_ONLY

    buffers: tuple[Buffer, ...] = attr()
    cluster: int = attr(default=1)
    ctas: int = attr(default=1)
    steps: int = attr(default=0)
    offset: int = attr(default=-1)
    result: Value = result()

    @property
    def stages(self) -> int:
        """Number of stages."""
        assert isinstance(self.result.type, RingType)
        return self.result.type.stages

    @property
    def in_tensor_memory(self) -> bool:
        """Whether the stages hold what the tensor core writes."""
        return self.buffers[0].engine is Engine.TENSOR

    @property
    def control_bytes(self) -> int:
        """Shared memory from ``offset`` on."""
        return BARRIER_BYTES * (2 * self.stages + int(self.in_tensor_memory))

    def buffer(self, name: str) -> Buffer:
        """The buffer called ``name``.

        Raises:
            IRError: the ring has none.
        """
        for found in self.buffers:
            if found.name == name:
                return found
        raise IRError(f"{self.result} has no buffer '{name}'", need=", ".join(b.name for b in self.buffers))

    def verify(self) -> None:
        """A ring has a stage, and buffers with different names."""
        names = [buffer.name for buffer in self.buffers]
        if self.stages < 1 or len(set(names)) != len(names) or not names:
            raise IRError("a ring needs stages and distinct buffers", got=f"{self.stages} stages of {names}")
        if self.steps and (self.steps < 0 or any(buffer.engine is not Engine.LANES for buffer in self.buffers)):
            raise IRError("only scales that lanes copy are loaded for all steps of K at once",
                          got=f"{self.steps} steps of {names}", need="no steps, or buffers of lanes")  # fmt: skip
        for buffer in self.buffers:
            space = "tmem" if self.in_tensor_memory else "smem"
            if (buffer.engine is Engine.TENSOR) != self.in_tensor_memory or buffer.type.space != space:
                raise IRError(f"buffer '{buffer.name}' of a ring", got=f"{buffer.type} filled by {buffer.engine}",
                              need="smem filled by copies, or tmem filled by the tensor core")  # fmt: skip


@register_op
@dataclass(frozen=True)
class StagingOp(Op):
    """Shared memory for a tile on its way out.

    ``overlay``: it lies over the stages of the rings, which are idle once the last step of K is done.

    ``%out = async.staging() : smem<bf16, [128, 128]>``
    """

    NAME: ClassVar[str] = "async.staging"
    LEVELS: ClassVar[frozenset[Level]] = ASYNC_ONLY

    offset: int = attr(default=-1)
    overlay: bool = attr(default=False)
    result: Value = result()


@register_op
@dataclass(frozen=True)
class RoleOp(Op):
    """Warps that run the region, beside the other roles of the CTA.

    ``registers`` per thread, 0 for what the launch gives. Roles follow each other in the CTA in order of appearance.

    ``async.role() {name="math", warps=8, registers=232} do { … }``
    """

    NAME: ClassVar[str] = "async.role"
    LEVELS: ClassVar[frozenset[Level]] = ASYNC_ONLY
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.CONTROL})

    name: str = attr()
    warps: int = attr()
    registers: int = attr(default=0)
    body: Region = region()


@dataclass(frozen=True)
class RingStepOp(Op):
    """Base of the ops that move a stage of ``ring`` through its cycle."""

    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_BARRIER, Effect.WRITES_BARRIER})
    LEVELS: ClassVar[frozenset[Level]] = ASYNC_ONLY

    ring: Value = operand()


@register_op
@dataclass(frozen=True)
class AcquireOp(RingStepOp):
    """Loader: wait until the next stage is free: ``async.acquire(ring=%ring)``."""

    NAME: ClassVar[str] = "async.acquire"


@register_op
@dataclass(frozen=True)
class CommitOp(RingStepOp):
    """Loader: the loads issued since ``acquire`` fill this stage; go to the next: ``async.commit(ring=%ring)``."""

    NAME: ClassVar[str] = "async.commit"


@register_op
@dataclass(frozen=True)
class WaitOp(RingStepOp):
    """Reader: wait until every load of the next stage has landed: ``async.wait(ring=%ring)``."""

    NAME: ClassVar[str] = "async.wait"


@register_op
@dataclass(frozen=True)
class ReleaseOp(RingStepOp):
    """Reader: done with this stage; go to the next: ``async.release(ring=%ring)``."""

    NAME: ClassVar[str] = "async.release"


@register_op
@dataclass(frozen=True)
class AsyncLoadOp(Op):
    """Start loading a box into ``buffer`` of the acquired stage.

    ``multicast`` CTAs of the cluster need the same box: each loads its share and writes it to all. ``shares`` CTAs
    multiply with the same box together: each loads its share, in order of rank, and keeps it.

    ``async.load(ring=%ring, source=%a, row=%m0, col=%k0) {buffer="a"}``
    """

    NAME: ClassVar[str] = "async.load"
    LEVELS: ClassVar[frozenset[Level]] = ASYNC_ONLY
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_GMEM, Effect.WRITES_SMEM})

    ring: Value = operand()
    source: Value = operand()
    row: Value = operand()
    col: Value = operand()
    buffer: str = attr()
    multicast: int = attr(default=1)
    shares: int = attr(default=1)

    def verify(self) -> None:
        """Sources are matrices in global memory."""
        if mem(self.source).space != "gmem":
            raise IRError("a load reads global memory", got=self.source.type, need="gmem")


@register_op
@dataclass(frozen=True)
class AsyncLoadScalesOp(Op):
    """Start copying scales into ``buffer`` of the acquired stage; ``engine`` says how.

    ``arranged``: they are words, which are put in the order of ``async.arrange`` on their way.

    ``async.load_scales(ring=%ring, source=%sa, row=%m0, col=%k0) {buffer="sa", block=[1, 128], engine=lanes}``
    """

    NAME: ClassVar[str] = "async.load_scales"
    LEVELS: ClassVar[frozenset[Level]] = ASYNC_ONLY
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_GMEM, Effect.WRITES_SMEM})

    ring: Value = operand()
    source: Value = operand()
    row: Value = operand()
    col: Value = operand()
    buffer: str = attr()
    block: tuple[int, ...] = attr()
    engine: Engine = attr()
    arranged: bool = attr(default=False)


@register_op
@dataclass(frozen=True)
class ArrangeOp(Op):
    """Write scale words into ``buffer`` of the acquired stage, in the order in which the tensor core takes them.

    Of every 128 words, word r goes to place 4 · (r % 32) + r / 32.

    ``async.arrange(ring=%ring, source=%words) {buffer="sa"}``
    """

    NAME: ClassVar[str] = "async.arrange"
    LEVELS: ClassVar[frozenset[Level]] = ASYNC_ONLY
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_SMEM, Effect.WRITES_SMEM})

    ring: Value = operand()
    source: Value = operand()
    buffer: str = attr()

    def verify(self) -> None:
        """Words come in whole groups."""
        (words,) = extents(self.source)
        if mem(self.source).dtype != UE8M0X4 or words % SCALE_GROUP_ROWS:
            raise IRError("scales are arranged in whole groups", got=self.source.type,
                          need=f"{UE8M0X4}, a multiple of {SCALE_GROUP_ROWS}")  # fmt: skip


@register_op
@dataclass(frozen=True)
class AsyncMmaOp(Op):
    """Start ``a · bᵀ`` into ``buffer`` of the acquired stage, which lies in tensor memory.

    With ``accumulate`` the stage is acquired once per tile, and every step after the first adds to it. ``scale_a``,
    ``scale_b``, ``vector_a``, ``vector_b`` and ``ctas`` are those of ``tile.mma``. Scales go to tensor memory before
    they are multiplied with: those of stage s have ``scale_columns`` columns from ``scale_offset`` + s ·
    ``scale_columns`` on, a's before b's; ``scale_offset`` is −1 until ``tensor-memory-allocation`` ran.

    ``async.mma(ring=%parts, a=%at, b=%bt) {buffer="part"}``
    """

    NAME: ClassVar[str] = "async.mma"
    LEVELS: ClassVar[frozenset[Level]] = ASYNC_ONLY
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_SMEM, Effect.WRITES_TMEM})

    ring: Value = operand()
    a: Value = operand()
    b: Value = operand()
    buffer: str = attr()
    accumulate: bool = attr(default=False)
    scale_a: Value | None = optional_operand()
    scale_b: Value | None = optional_operand()
    trans_a: bool = attr(default=False)
    trans_b: bool = attr(default=False)
    vector_a: int = attr(default=0)
    vector_b: int = attr(default=0)
    ctas: int = attr(default=1)
    scale_offset: int = attr(default=-1)

    @property
    def scale_columns(self) -> int:
        """Columns of tensor memory for the scales of a stage: a word for each row, its group's rows side by side."""
        words = sum(extents(scale)[0] for scale in (self.scale_a, self.scale_b) if scale is not None)
        return words // SCALE_GROUP_LANES


@register_op
@dataclass(frozen=True)
class FetchOp(Op):
    """Read a sum from tensor memory into registers: ``%sum = async.fetch(source=%part) : frag<f32, [128, 128]>``."""

    NAME: ClassVar[str] = "async.fetch"
    LEVELS: ClassVar[frozenset[Level]] = ASYNC_ONLY
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_TMEM})

    source: Value = operand()
    result: Value = result()

    def verify(self) -> None:
        """A fragment of the same elements."""
        source, found = mem(self.source), mem(self.result)
        if source.space != "tmem" or (source.dtype, source.shape) != (found.dtype, found.shape):
            raise IRError("a fetch reads tensor memory", got=f"{source} to {found}", need="tmem to a like frag")


@register_op
@dataclass(frozen=True)
class ReadOp(Op):
    """The tile of ``buffer`` in the stage waited for: ``%at = async.read(ring=%ring) {buffer="a"} : smem<…>``."""

    NAME: ClassVar[str] = "async.read"
    LEVELS: ClassVar[frozenset[Level]] = ASYNC_ONLY

    ring: Value = operand()
    buffer: str = attr()
    result: Value = result()


@register_op
@dataclass(frozen=True)
class AsyncStoreOp(Op):
    """Write a fragment into ``staging`` and start storing it to ``dest``; the copy ends in the background.

    ``async.store(value=%out, staging=%buf, dest=%d, row=%m0, col=%n0)``
    """

    NAME: ClassVar[str] = "async.store"
    LEVELS: ClassVar[frozenset[Level]] = ASYNC_ONLY
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.WRITES_SMEM, Effect.WRITES_GMEM})

    value: Value = operand()
    staging: Value = operand()
    dest: Value = operand()
    row: Value = operand()
    col: Value = operand()
    transposed: bool = attr(default=False)
