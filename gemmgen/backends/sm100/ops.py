"""Ops of the Blackwell target level that control and copy: Hopper's under this dialect's prefix, and tensor memory.

Blackwell kept mbarriers, TMA, setmaxnreg and named barriers, so their ops derive from Hopper's: the same fields, the
same laws, the same spelling. ``HOPPER`` says which op stands for which.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from gemmgen.backends.sm90 import math_ops as hopper_math
from gemmgen.backends.sm90 import ops as hopper
from gemmgen.ir.core import Effect, Level, Module, Op, Value
from gemmgen.ir.dims import Dim
from gemmgen.ir.rewrite import map_ops
from gemmgen.ir.schema import attr, operand, optional_operand, register_op, result

OpClass = TypeVar("OpClass", bound="type[Op]")
HOPPER: dict[type[Op], type[Op]] = {}
"""This dialect's op for each of Hopper's that Blackwell has too."""


def adopt(base: OpClass) -> OpClass:
    """Hopper's op as one of this dialect."""
    name = base.NAME.replace("sm90.", "sm100.")
    members = {"NAME": name, "__doc__": base.__doc__, "__module__": __name__}
    HOPPER[base] = register_op(dataclass(frozen=True)(type(base.__name__, (base,), members)))
    return HOPPER[base]  # pyright: ignore[reportReturnType]


BarriersOp = adopt(hopper.BarriersOp)
InitBarriersOp = adopt(hopper.InitBarriersOp)
SyncOp = adopt(hopper.SyncOp)
GridWaitOp = adopt(hopper.GridWaitOp)
GridLaunchOp = adopt(hopper.GridLaunchOp)
DispatchOp = adopt(hopper.DispatchOp)
WarpsOp = adopt(hopper.WarpsOp)
SetRegistersOp = adopt(hopper.SetRegistersOp)
CursorOp = adopt(hopper.CursorOp)
AdvanceOp = adopt(hopper.AdvanceOp)
TileLoopOp = adopt(hopper.TileLoopOp)
KLoopOp = adopt(hopper.KLoopOp)
WaitOp = adopt(hopper.WaitOp)
ExpectOp = adopt(hopper.ExpectOp)
TmaLoadOp = adopt(hopper.TmaLoadOp)
TmaLoadScalesOp = adopt(hopper.TmaLoadScalesOp)
CopyScalesOp = adopt(hopper.CopyScalesOp)
CopyArriveOp = adopt(hopper.CopyArriveOp)
ReleaseOp = adopt(hopper.ReleaseOp)
BlockScalesOp = adopt(hopper_math.BlockScalesOp)
StagingWaitOp = adopt(hopper_math.StagingWaitOp)
StagingPublishOp = adopt(hopper_math.StagingPublishOp)
StoreCommitOp = adopt(hopper_math.StoreCommitOp)
StoreDrainOp = adopt(hopper_math.StoreDrainOp)


def renamed(module: Module) -> Module:
    """The module with Hopper's ops under this dialect's names."""

    def rename(op: Op) -> Op | None:
        mine = HOPPER.get(type(op))
        if mine is None:
            return None
        return mine(**{field.name: getattr(op, field.name) for field in dataclasses.fields(op)})

    return map_ops(module, rename)


@dataclass(frozen=True)
class Sm100Op(hopper.Sm90Op):
    """Base of the ops that only this target has."""

    LEVELS: ClassVar[frozenset[Level]] = hopper.TARGET


@register_op
@dataclass(frozen=True)
class TmemAllocOp(Sm100Op):
    """Warp ``warp`` allocates ``columns`` columns of tensor memory; their address is written to area ``area``.

    ``ctas`` = 2: that warp in both CTAs of a pair, whose tensor memory is allocated alike; so for all other ops.
    """

    NAME: ClassVar[str] = "sm100.tmem_alloc"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.WRITES_SMEM})

    area: str = attr()
    columns: int = attr()
    warp: int = attr()
    ctas: int = attr(default=1)


@register_op
@dataclass(frozen=True)
class TmemAddressOp(Sm100Op):
    """The address of the CTA's tensor memory, once all threads have met after its allocation."""

    NAME: ClassVar[str] = "sm100.tmem_address"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_SMEM})

    area: str = attr()
    result: Value = result()


@register_op
@dataclass(frozen=True)
class TmemFreeOp(Sm100Op):
    """Warp ``warp``, which allocated them, gives the columns back; nobody may use tensor memory afterwards."""

    NAME: ClassVar[str] = "sm100.tmem_free"

    tmem: Value = operand()
    columns: int = attr()
    warp: int = attr()
    ctas: int = attr(default=1)


@register_op
@dataclass(frozen=True)
class FenceOp(Sm100Op):
    """Order this thread's tensor-memory operations around a barrier: ``side`` is ``before`` or ``after`` it."""

    NAME: ClassVar[str] = "sm100.fence"

    side: str = attr()


@register_op
@dataclass(frozen=True)
class MmaOp(Sm100Op):
    """One thread starts ``a · bᵀ`` of the ring's stage into the accumulator of ``parts``' stage.

    ``steps`` tcgen05.mma of 32 bytes of K. The first overwrites; where ``k`` is given, it does so only at k = 0, and
    the sum runs on over K. The accumulator is ``rows`` lanes by ``columns`` columns of ``tmem`` from ``first`` +
    ``columns`` · stage on. Operand rows are ``row_bytes`` of K, swizzled. ``a_span`` > 0: a lies transposed, its rows
    follow each other along K in slabs of so many bytes; ``b_span`` likewise. ``ctas`` = 2: for both CTAs of a pair,
    each of which has its own ``rows`` of a and of the accumulator, and half of b's rows.
    """

    NAME: ClassVar[str] = "sm100.mma"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_SMEM, Effect.WRITES_TMEM})

    tmem: Value = operand()
    cursor: Value = operand()
    parts: Value = operand()
    k: Value | None = optional_operand()
    a: str = attr()
    b: str = attr()
    a_dtype: str = attr()
    b_dtype: str = attr()
    rows: int = attr()
    columns: int = attr()
    first: int = attr()
    steps: int = attr()
    row_bytes: int = attr()
    item_bytes: int = attr(default=1)
    a_span: int = attr(default=0)
    b_span: int = attr(default=0)
    ctas: int = attr(default=1)


@register_op
@dataclass(frozen=True)
class ScaledMmaOp(MmaOp):
    """A product whose operands the tensor core scales by powers of two, which ``sm100.scale_factors`` has copied.

    The scales of a and b are words of four in the ``scale_columns`` columns of the cursor's stage, a's from column
    ``scale_a`` of ``tmem`` on and b's from ``scale_b`` on at stage 0. ``vector_a`` elements of K share a scale of a.
    """

    NAME: ClassVar[str] = "sm100.scaled_mma"

    scale_a: int = attr()
    scale_b: int = attr()
    scale_columns: int = attr()
    vector_a: int = attr()
    vector_b: int = attr()


@register_op
@dataclass(frozen=True)
class ScaleFactorsOp(Sm100Op):
    """One thread starts copying ``groups`` × 128 words of ``area`` from the cursor's stage to tensor memory.

    A group is ``sm100.arrange_scales``'s, and takes 4 columns; at stage 0 they start at column ``first`` of ``tmem``,
    at the next one ``columns`` further on. Products that the thread starts afterwards see them.
    """

    NAME: ClassVar[str] = "sm100.scale_factors"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_SMEM, Effect.WRITES_TMEM})

    tmem: Value = operand()
    cursor: Value = operand()
    area: str = attr()
    groups: int = attr()
    first: int = attr()
    columns: int = attr()
    ctas: int = attr(default=1)


@register_op
@dataclass(frozen=True)
class ArrangeScalesOp(Sm100Op):
    """A warp puts ``groups`` × 128 words in the order of the tensor core: word r goes to place 4 · (r % 32) + r / 32.

    They are read from ``area`` of the stage of ``landed``, and written to ``to`` of the cursor's stage. Where ``k`` is
    given, only the bytes of ``mask`` are kept in the step that starts at ``last``: what lies behind K has no scales.
    """

    NAME: ClassVar[str] = "sm100.arrange_scales"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_SMEM, Effect.WRITES_SMEM})

    landed: Value = operand()
    cursor: Value = operand()
    k: Value | None = optional_operand()
    area: str = attr()
    to: str = attr()
    groups: int = attr()
    last: int = attr(default=0)
    mask: int = attr(default=0xFFFFFFFF)


@register_op
@dataclass(frozen=True)
class GatherScalesOp(Sm100Op):
    """A warp reads ``groups`` × 128 words from global memory, and writes them as ``sm100.arrange_scales`` does.

    ``source`` has ``limit`` rows of words; those beyond are zeros. ``block`` elements share a word; strides are in
    words. ``k``, ``last`` and ``mask`` as there.
    """

    NAME: ClassVar[str] = "sm100.gather_scales"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_GMEM, Effect.WRITES_SMEM})

    source: Value = operand()
    row_stride: Value = operand()
    col_stride: Value = operand()
    cursor: Value = operand()
    row: Value = operand()
    col: Value = operand()
    k: Value | None = optional_operand()
    to: str = attr()
    groups: int = attr()
    block: tuple[int, ...] = attr()
    limit: Dim = attr()
    last: int = attr(default=0)
    mask: int = attr(default=0xFFFFFFFF)


@register_op
@dataclass(frozen=True)
class PublishScalesOp(Sm100Op):
    """A warp's writes to the cursor's stage become visible to the tensor core, and the warp arrives once."""

    NAME: ClassVar[str] = "sm100.publish_scales"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.WRITES_BARRIER})

    barriers: Value = operand()
    cursor: Value = operand()


@register_op
@dataclass(frozen=True)
class OwnShareOp(Sm100Op):
    """Where this CTA's share of ``extent`` rows or columns starts, of those from ``start`` on."""

    NAME: ClassVar[str] = "sm100.own_share"

    start: Value = operand()
    extent: int = attr()
    result: Value = result()


@register_op
@dataclass(frozen=True)
class CommitOp(Sm100Op):
    """Arrive at the cursor's barrier, in each of ``cluster`` CTAs, when this thread's tcgen05.mma are complete."""

    NAME: ClassVar[str] = "sm100.commit"
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.WRITES_BARRIER})

    barriers: Value = operand()
    cursor: Value = operand()
    cluster: int = attr(default=1)
    ctas: int = attr(default=1)
