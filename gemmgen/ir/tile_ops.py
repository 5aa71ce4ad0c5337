"""Ops of the tile level: what is computed for one output tile, in order, by nobody in particular.

Matrices keep the problem's names: D[M, N] = A[M, K] · B[N, K]ᵀ. A fragment is [rows, cols] of what the tensor core
calls M and N; after ``swap-operands`` its rows are columns of D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gemmgen.errors import IRError
from gemmgen.ir.core import Effect, Level, Op, Region, Value
from gemmgen.ir.dims import Dim
from gemmgen.ir.schema import attr, operand, operands, optional_operand, region, register_op, result, results
from gemmgen.ir.types import INDEX, UE8M0X4, MemType

TILE_AND_ASYNC = frozenset({Level.TILE, Level.ASYNC})
TILE_ONLY = frozenset({Level.TILE})
SCALE_GROUP_ROWS = 128
"""The tensor core takes words of scales in groups of so many rows."""


def mem(value: Value) -> MemType:
    """The memory type of a value.

    Raises:
        IRError: the value is a scalar or a handle.
    """
    if not isinstance(value.type, MemType):
        raise IRError(f"{value} is not a tile", got=value.type, need="a gmem, smem or frag type")
    return value.type


def extents(value: Value) -> tuple[int, ...]:
    """The shape of a tile whose extents are all known.

    Raises:
        IRError: an extent is symbolic.
    """
    shape = mem(value).shape
    if not all(isinstance(extent, int) for extent in shape):
        raise IRError(f"{value} needs a known shape", got=value.type, need="integers")
    return tuple(int(extent) for extent in shape)  # pyright: ignore[reportArgumentType]


@register_op
@dataclass(frozen=True)
class ForTilesOp(Op):
    """Visit the output tiles of D[rows, cols] that this CTA owns; the region gets a tile's first row and column.

    ``cluster`` CTAs take neighbouring tiles along (m, n); ``split`` CTAs share one tile, each with a part of K.
    ``persistent``: a CTA goes on to further tiles. ``raster_group`` tiles along ``raster_along`` are visited before
    the other axis advances, so that they find each other's operands in L2.
    ``runs``: a tile's columns are no neighbours but runs of so many, widest first. First every tile is dealt a run of
    the first width, in order, then one of the second; where a width divides a scale block's, each run has one scale.

    ``tile.for_tiles() {rows=M, cols=4096, tile=[128, 128], persistent=true} do (%m0: index, %n0: index) { … }``
    """

    NAME: ClassVar[str] = "tile.for_tiles"
    LEVELS: ClassVar[frozenset[Level]] = TILE_AND_ASYNC
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.CONTROL})

    rows: Dim = attr()
    cols: Dim = attr()
    tile: tuple[int, ...] = attr()
    cluster: tuple[int, ...] = attr(default=(1, 1))
    split: int = attr(default=1)
    persistent: bool = attr(default=True)
    raster_group: int = attr(default=8)
    raster_along: str = attr(default="m")
    runs: tuple[int, ...] = attr(default=())
    body: Region = region()

    def verify(self) -> None:
        """A tile and a cluster have two extents; a shared tile is not multicast and not persistent."""
        if len(self.tile) != 2 or len(self.cluster) != 2:
            raise IRError("tile and cluster are [m, n]", got=f"tile={self.tile}, cluster={self.cluster}")
        check_indices(self.body, 2)
        check_runs(self.runs, self.tile[1])
        if self.raster_along not in ("m", "n"):
            raise IRError("raster_along names an axis", got=self.raster_along, need="m or n")
        if self.split > 1 and (self.persistent or self.cluster != (1, 1)):
            raise IRError(
                "a tile split over K fills its whole cluster and its CTAs stop after it",
                got=f"split={self.split}, persistent={self.persistent}, cluster={list(self.cluster)}",
                need="persistent=false, cluster=[1, 1]",
            )


@register_op
@dataclass(frozen=True)
class ForKOp(Op):
    """Step through K; the region gets the first k of the step and the carried values, and yields their successors.

    ``parts`` > 1: the steps are dealt out in equal runs to the CTAs that share the tile. ``ahead``: the products of so
    many later steps are started before a step is promoted.

    ``%sum = tile.for_k(inits=[%zero]) {extent=7168, step=128} do (%k0: index, %acc: frag<…>) { … } : frag<…>``
    """

    NAME: ClassVar[str] = "tile.for_k"
    LEVELS: ClassVar[frozenset[Level]] = TILE_AND_ASYNC
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.CONTROL})

    inits: tuple[Value, ...] = operands()
    extent: Dim = attr()
    step: int = attr()
    parts: int = attr(default=1)
    ahead: int = attr(default=0)
    results: tuple[Value, ...] = results()
    body: Region = region()

    def verify(self) -> None:
        """Initial values, carried values, yielded values and results agree in number and type."""
        check_indices(self.body, 1)
        last = self.body.terminator
        if not isinstance(last, YieldOp):
            raise IRError(
                "a step of K ends with its carried values",
                got=last.NAME if last else "no terminator",
                need=YieldOp.NAME,
            )
        yielded = last.values
        carried = [value.type for value in self.body.args[1:]]
        for label, values in (("inits", self.inits), ("yielded values", yielded), ("results", self.results)):
            if [value.type for value in values] != carried:
                raise IRError(f"{label} differ from the carried values", got=[str(v.type) for v in values],
                              need=[str(t) for t in carried])  # fmt: skip


@register_op
@dataclass(frozen=True)
class YieldOp(Op):
    """End a loop's region with the carried values of the next step: ``tile.yield(values=[%next])``."""

    NAME: ClassVar[str] = "tile.yield"
    LEVELS: ClassVar[frozenset[Level]] = TILE_AND_ASYNC
    IS_TERMINATOR: ClassVar[bool] = True

    values: tuple[Value, ...] = operands()


@register_op
@dataclass(frozen=True)
class ZerosOp(Op):
    """A fragment of zeros: ``%zero = tile.zeros() : frag<f32, [128, 128]>``."""

    NAME: ClassVar[str] = "tile.zeros"
    LEVELS: ClassVar[frozenset[Level]] = TILE_AND_ASYNC

    result: Value = result()


@register_op
@dataclass(frozen=True)
class LoadOp(Op):
    """The box of ``source`` that starts at (row, col), zeros where it lies outside.

    ``%at = tile.load(source=%a, row=%m0, col=%k0) : smem<e4m3, [128, 128]>``
    """

    NAME: ClassVar[str] = "tile.load"
    LEVELS: ClassVar[frozenset[Level]] = TILE_ONLY
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_GMEM})

    source: Value = operand()
    row: Value = operand()
    col: Value = operand()
    result: Value = result()

    def verify(self) -> None:
        """A box has its source's element type."""
        if mem(self.source).dtype != mem(self.result).dtype:
            raise IRError("a load keeps the element type", got=self.result.type, need=mem(self.source).dtype)


@register_op
@dataclass(frozen=True)
class LoadScalesOp(Op):
    """The scales that cover the box of an operand that starts at element (row, col); zeros outside.

    ``block`` elements of the operand share one scale. The result holds one scale per block of rows that the box
    can touch.

    ``%sat = tile.load_scales(source=%sa, row=%m0, col=%k0) {block=[1, 128]} : smem<f32, [128]>``
    """

    NAME: ClassVar[str] = "tile.load_scales"
    LEVELS: ClassVar[frozenset[Level]] = TILE_ONLY
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_GMEM})

    source: Value = operand()
    row: Value = operand()
    col: Value = operand()
    block: tuple[int, ...] = attr()
    result: Value = result()


@register_op
@dataclass(frozen=True)
class ScaledMmaOp(Op):
    """``acc + (a · scale_a) (b · scale_b)ᵀ`` in FP32, or ``acc + a · bᵀ``; the ``promotion`` pass says how.

    ``trans_a``, ``trans_b`` and, for scales in words, ``vector_a`` and ``vector_b`` as for ``tile.mma``.

    ``%next = tile.scaled_mma(acc=%acc, a=%at, b=%bt, scale_a=%sat, scale_b=%sbt, row=%m0, col=%n0)
    {block_a=1, block_b=128} : frag<…>``
    """

    NAME: ClassVar[str] = "tile.scaled_mma"
    LEVELS: ClassVar[frozenset[Level]] = TILE_ONLY

    acc: Value = operand()
    a: Value = operand()
    b: Value = operand()
    scale_a: Value | None = optional_operand()
    scale_b: Value | None = optional_operand()
    row: Value = operand()
    col: Value = operand()
    block_a: int = attr(default=1)
    block_b: int = attr(default=1)
    vector_a: int = attr(default=0)
    vector_b: int = attr(default=0)
    trans_a: bool = attr(default=False)
    trans_b: bool = attr(default=False)
    result: Value = result()

    def verify(self) -> None:
        """Shapes of a, b and acc agree."""
        check_mma(self.a, self.b, self.acc, self.trans_a, self.trans_b)


@register_op
@dataclass(frozen=True)
class MmaOp(Op):
    """``a · bᵀ``, or ``acc + a · bᵀ``, as the tensor core sums it: ``%part = tile.mma(a=%at, b=%bt) : frag<…>``.

    a is [m, k] and b [n, k]; ``trans_a``: a is [k, m], as it lies where M is contiguous; ``trans_b``: b is [k, n].
    With ``scale_a`` and ``scale_b``, words of four powers of two, it is (a · scale_a) (b · scale_b)ᵀ: ``vector_a``
    elements of K share a scale of a. ``ctas`` = 2: two CTAs multiply together, each with its own a, and b is this
    CTA's half of the rows.
    """

    NAME: ClassVar[str] = "tile.mma"
    LEVELS: ClassVar[frozenset[Level]] = TILE_AND_ASYNC
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_SMEM})

    a: Value = operand()
    b: Value = operand()
    acc: Value | None = optional_operand()
    scale_a: Value | None = optional_operand()
    scale_b: Value | None = optional_operand()
    trans_a: bool = attr(default=False)
    trans_b: bool = attr(default=False)
    vector_a: int = attr(default=0)
    vector_b: int = attr(default=0)
    ctas: int = attr(default=1)
    result: Value = result()

    def verify(self) -> None:
        """Shapes of a, b and the result agree, and scales are words that say how far each reaches."""
        check_mma(self.a, self.b, self.result, self.trans_a, self.trans_b, self.ctas)
        check_scale_words(self.scale_a, self.vector_a)
        check_scale_words(self.scale_b, self.vector_b)


@register_op
@dataclass(frozen=True)
class PromoteOp(Op):
    """``acc + partial · row_scale · col_scale``, or ``acc + partial``, in FP32 on the CUDA cores.

    A scale covers ``row_block`` rows (``col_block`` columns) of the fragment; ``row`` and ``col`` are the fragment's
    first row and column in the problem, which say where a block ends.

    ``%next = tile.promote(acc=%acc, partial=%part, row_scale=%sat, col_scale=%sbt, row=%m0, col=%n0)
    {row_block=1, col_block=128} : frag<…>``
    """

    NAME: ClassVar[str] = "tile.promote"
    LEVELS: ClassVar[frozenset[Level]] = TILE_AND_ASYNC
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_SMEM})

    acc: Value = operand()
    partial: Value = operand()
    row_scale: Value | None = optional_operand()
    col_scale: Value | None = optional_operand()
    row: Value = operand()
    col: Value = operand()
    row_block: int = attr(default=1)
    col_block: int = attr(default=1)
    result: Value = result()

    def verify(self) -> None:
        """Accumulator and partial sum have one shape; the partial sum may lie in tensor memory."""
        partial = mem(self.partial)
        same = (partial.dtype, partial.shape) == (mem(self.acc).dtype, mem(self.acc).shape)
        if self.acc.type != self.result.type or not same or partial.space not in ("frag", "tmem"):
            raise IRError("acc, partial and result differ", got=f"{self.acc.type}, {self.partial.type}",
                          need=self.result.type)  # fmt: skip


@register_op
@dataclass(frozen=True)
class ScaleOp(Op):
    """``value · row_scale · col_scale``: one scale per row and one per column of the fragment, read from global memory.

    ``row`` and ``col`` are the fragment's first row and column in the problem.

    ``%scaled = tile.scale(value=%sum, row_scale=%sa, col_scale=%sb, row=%m0, col=%n0) : frag<f32, [128, 128]>``
    """

    NAME: ClassVar[str] = "tile.scale"
    LEVELS: ClassVar[frozenset[Level]] = TILE_AND_ASYNC
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_GMEM})

    value: Value = operand()
    row_scale: Value = operand()
    col_scale: Value = operand()
    row: Value = operand()
    col: Value = operand()
    result: Value = result()

    def verify(self) -> None:
        """Scales are [rows, 1] matrices in global memory, and the fragment keeps its type."""
        if self.value.type != self.result.type or any(mem(s).space != "gmem" for s in (self.row_scale, self.col_scale)):
            got = f"{self.value.type} to {self.result.type}"
            raise IRError("a scaled fragment", got=got, need="one type, gmem scales")


@register_op
@dataclass(frozen=True)
class ReducePartsOp(Op):
    """Sum the fragments of the ``parts`` CTAs that share a tile, in order of their rank; each keeps a slice.

    The partial sums meet in ``exchange``, a shared-memory tile [rows of D, padded columns of D].

    ``%total = tile.reduce_parts(value=%sum) {parts=8} : frag<f32, [128, 128]>``
    """

    NAME: ClassVar[str] = "tile.reduce_parts"
    LEVELS: ClassVar[frozenset[Level]] = TILE_AND_ASYNC
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_SMEM, Effect.WRITES_SMEM})

    value: Value = operand()
    exchange: Value | None = optional_operand()
    parts: int = attr()
    transposed: bool = attr(default=False)
    result: Value = result()


@register_op
@dataclass(frozen=True)
class MapOp(Op):
    """The epilogue: ``expression`` of every accumulator element ``acc``, rounded to the result's type.

    ``%out = tile.map(acc=%sum) {expression="acc"} : frag<bf16, [128, 128]>``
    """

    NAME: ClassVar[str] = "tile.map"
    LEVELS: ClassVar[frozenset[Level]] = TILE_AND_ASYNC

    acc: Value = operand()
    expression: str = attr()
    result: Value = result()


@register_op
@dataclass(frozen=True)
class StoreOp(Op):
    """Write a fragment to ``dest`` at (row, col); what lies outside is dropped. ``transposed``: rows are columns of D.

    ``tile.store(value=%out, dest=%d, row=%m0, col=%n0)``
    """

    NAME: ClassVar[str] = "tile.store"
    LEVELS: ClassVar[frozenset[Level]] = TILE_AND_ASYNC
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.WRITES_GMEM})

    value: Value = operand()
    dest: Value = operand()
    row: Value = operand()
    col: Value = operand()
    transposed: bool = attr(default=False)


def check_runs(runs: tuple[int, ...], columns: int) -> None:
    """Raise IRError unless a tile's runs make up its columns, and every run of a width starts at a multiple of it."""
    if not runs:
        return
    divide = all(width > 0 and before % width == 0 for before, width in zip((runs[0], *runs), runs, strict=False))
    if not divide or sum(runs) != columns:
        raise IRError("runs of a tile's columns", got=list(runs),
                      need=f"widths that each divide the one before, {columns} in all")  # fmt: skip


def check_indices(body: Region, count: int) -> None:
    """Raise IRError unless the first ``count`` arguments of a loop's region are indices."""
    kinds = [value.type for value in body.args[:count]]
    if kinds != [INDEX] * count:
        raise IRError("a loop's region gets its place", got=", ".join(map(str, kinds)) or "nothing",
                      need=", ".join(["index"] * count))  # fmt: skip


def check_mma(a: Value, b: Value, acc: Value, trans_a: bool = False, trans_b: bool = False, ctas: int = 1) -> None:
    """Raise IRError unless a is [m, k] (transposed: [k, m]), b is [n / ctas, k] ([k, n / ctas]) and acc is [m, n]."""
    (m, ka), (share, kb) = _turned(extents(a), trans_a), _turned(extents(b), trans_b)
    n = share * ctas
    if ka != kb or extents(acc) != (m, n):
        left, right = f"{a.type}{'ᵀ' * trans_a}", f"{b.type}{'ᵀ' * (not trans_b)}"
        raise IRError("shapes of a matrix product", got=f"{left} · {right} → {acc.type}", need=f"[{m}, {n}]")


def check_scale_words(scale: Value | None, vector: int) -> None:
    """Raise IRError unless ``scale`` is words of four scales for ``vector`` elements of K each, or there is neither."""
    words = scale is not None and mem(scale).dtype == UE8M0X4
    if words != (vector > 0) or (scale is not None and not words):
        got = f"{scale.type if scale is not None else 'none'}, {vector} elements of K each"
        raise IRError("scales of a matrix product", got=got, need=f"{UE8M0X4} and the elements of K that share one")


def _turned(shape: tuple[int, ...], transposed: bool) -> tuple[int, ...]:
    return shape[::-1] if transposed else shape
