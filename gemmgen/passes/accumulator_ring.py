"""How warp specialisation splits products from what is done with them: a ring of accumulators between two roles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gemmgen.errors import IRError
from gemmgen.ir.async_ops import (
    AcquireOp,
    AsyncMmaOp,
    Buffer,
    CommitOp,
    Engine,
    FetchOp,
    ReadOp,
    ReleaseOp,
    RingOp,
    RingStepOp,
    WaitOp,
    tile_bytes,
)
from gemmgen.ir.builder import Builder
from gemmgen.ir.core import Op, Region, Value
from gemmgen.ir.rewrite import NameSupply, substitute, walk
from gemmgen.ir.tile_ops import ForKOp, ForTilesOp, MmaOp, PromoteOp, YieldOp, ZerosOp, mem
from gemmgen.ir.types import MemType, RingType

BUFFER = "part"
Change = Callable[[ForKOp], tuple[Op, ...]]


@dataclass(frozen=True)
class AccumulatorRing:
    """The ring, and the one product of each step that goes through it.

    A product that starts from zero in every step is handed over in every step, for promotion. One that is added up
    over K is handed over once per tile.

    Attributes:
        ring: its declaration; a stage holds one sum.
        mma: the product.
        part: its result, where it lies in tensor memory.
    """

    ring: RingOp
    mma: MmaOp
    part: Value

    @classmethod
    def of(cls, work: Region, stages: int, names: NameSupply) -> AccumulatorRing:
        """The ring for the product in ``work``.

        Raises:
            IRError: there is not one product per step.
        """
        products = [op for op in walk(work) if isinstance(op, MmaOp)]
        if len(products) != 1:
            raise IRError("one accumulator holds the products of a step", got=f"{len(products)} products", need=1)
        (mma,) = products
        fragment = mem(mma.result)
        kind = MemType("tmem", fragment.dtype, fragment.shape)
        buffer = Buffer(BUFFER, kind, Engine.TENSOR, tile_bytes(kind))
        ring = RingOp(buffers=(buffer,), ctas=mma.ctas, result=Value(names.fresh("parts"), RingType(stages)),
                      origin=mma.origin)  # fmt: skip
        name = mma.result.name if mma.acc is None else names.fresh("part")
        return cls(ring, mma, Value(name, kind))

    @property
    def operands(self) -> tuple[Value | None, ...]:
        """What the product reads."""
        return self.mma.a, self.mma.b, self.mma.scale_a, self.mma.scale_b

    def reading(self, work: Region) -> Region:
        """What is left for those who take the sums: they wait for each, and release it."""
        if self.mma.acc is not None:
            return _changed(_without_zeros(work), self._fetch)
        return substitute(_changed(work, self._read), {self.mma.result: self.part})

    def filling(self, work: Region) -> Region:
        """The loops with nothing but the product in them, for the thread that starts it."""
        return _only_loops(work, self._fill)

    def _fetch(self, loop: ForKOp) -> tuple[Op, ...]:
        """In place of all steps of K: the sum of the tile."""
        b, parts = Builder(origin=self.mma.origin), self.ring.result
        b.add(WaitOp, ring=parts)
        b.add(ReadOp, ring=parts, buffer=BUFFER, result=self.part)
        b.add(FetchOp, source=self.part, result=loop.results[0])
        b.add(ReleaseOp, ring=parts)
        return b.take()

    def _read(self, loop: ForKOp) -> tuple[Op, ...]:
        """Operands are read by the tensor core; a sum is released right behind its promotion."""
        b = Builder(origin=self.mma.origin)
        for op in loop.body.ops:
            if isinstance(op, ReadOp) and op.result in self.operands:
                continue
            if op is not self.mma:
                b.append(op)
            else:
                b.add(WaitOp, ring=self.ring.result)
                b.add(ReadOp, ring=self.ring.result, buffer=BUFFER, result=self.part)
            if isinstance(op, PromoteOp) and op.partial == self.mma.result:
                b.add(ReleaseOp, ring=self.ring.result)
        return (loop.replace(body=Region(loop.body.args, b.take())),)

    def _fill(self, loop: ForKOp) -> tuple[Op, ...]:
        """Wait for the operands and for a free accumulator, multiply, hand both on."""
        mma, parts, whole = self.mma, self.ring.result, self.mma.acc is not None
        b, step = Builder(origin=mma.origin), Builder(origin=mma.origin)
        for op in loop.body.ops:
            if isinstance(op, RingStepOp) or (isinstance(op, ReadOp) and op.result in self.operands):
                step.append(op)
            elif op is mma:
                (b if whole else step).add(AcquireOp, ring=parts)
                step.add(AsyncMmaOp, ring=parts, a=mma.a, b=mma.b, buffer=BUFFER, accumulate=whole,
                         scale_a=mma.scale_a, scale_b=mma.scale_b, trans_a=mma.trans_a, trans_b=mma.trans_b,
                         vector_a=mma.vector_a, vector_b=mma.vector_b, ctas=mma.ctas)  # fmt: skip
                if not whole:
                    step.add(CommitOp, ring=parts)
        body = Region(loop.body.args[:1], (*step.take(), YieldOp(origin=loop.origin)))
        b.append(loop.replace(inits=(), results=(), body=body))
        if whole:
            b.add(CommitOp, ring=parts)
        return b.take()


def _changed(region: Region, change: Change) -> Region:
    """The region with each loop over K changed."""
    ops: list[Op] = []
    for op in region.ops:
        if isinstance(op, ForTilesOp):
            ops.append(op.replace(body=_changed(op.body, change)))
        elif isinstance(op, ForKOp):
            ops += change(op)
        else:
            ops.append(op)
    return Region(region.args, tuple(ops))


def _only_loops(region: Region, change: Change) -> Region:
    """The loops over tiles, with each loop over K changed and nothing else in them."""
    ops: list[Op] = []
    for op in region.ops:
        if isinstance(op, ForTilesOp):
            ops.append(op.replace(body=_only_loops(op.body, change)))
        elif isinstance(op, ForKOp):
            ops += change(op)
    return Region(region.args, tuple(ops))


def _without_zeros(region: Region) -> Region:
    """The region without zeros to start sums from: the first product of a tile overwrites."""
    ops = tuple(op.replace(body=_without_zeros(op.body)) if isinstance(op, ForTilesOp) else op
                for op in region.ops if not isinstance(op, ZerosOp))  # fmt: skip
    return Region(region.args, ops)
