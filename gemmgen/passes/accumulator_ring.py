"""How warp specialisation splits products from promotion: a ring of accumulators in tensor memory between two roles."""

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
    ReadOp,
    ReleaseOp,
    RingOp,
    WaitOp,
    tile_bytes,
)
from gemmgen.ir.builder import Builder
from gemmgen.ir.core import Op, Region, Value
from gemmgen.ir.rewrite import NameSupply, substitute, walk
from gemmgen.ir.tile_ops import ForKOp, ForTilesOp, MmaOp, PromoteOp, YieldOp, mem
from gemmgen.ir.types import MemType, RingType

BUFFER = "part"


@dataclass(frozen=True)
class AccumulatorRing:
    """The ring, and the one product of each step that goes through it.

    Attributes:
        ring: its declaration; a stage holds one partial sum.
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
            IRError: there is not one product per step, or it is not promoted.
        """
        products = [op for op in walk(work) if isinstance(op, MmaOp)]
        if len(products) != 1 or products[0].acc is not None:
            raise IRError(
                "accumulators in tensor memory are handed over after every step of K",
                got=f"{len(products)} products, {sum(op.acc is not None for op in products)} of them added up over K",
                need="one product per step that starts from zero",
                fix="run promotion first",
            )
        (mma,) = products
        fragment = mem(mma.result)
        kind = MemType("tmem", fragment.dtype, fragment.shape)
        buffer = Buffer(BUFFER, kind, Engine.TENSOR, tile_bytes(kind))
        ring = RingOp(buffers=(buffer,), result=Value(names.fresh("parts"), RingType(stages)), origin=mma.origin)
        return cls(ring, mma, Value(mma.result.name, kind))

    def reading(self, work: Region) -> Region:
        """What is left for those who promote: in place of the product they wait for a partial sum and release it."""
        return substitute(_in_steps(work, self._read), {self.mma.result: self.part})

    def filling(self, work: Region) -> Region:
        """The loops with nothing but the product in them, for the thread that starts it."""
        return _only_steps(work, self._fill)

    def _read(self, ops: tuple[Op, ...]) -> tuple[Op, ...]:
        """Operands are read by the tensor core; a sum is released right behind its promotion."""
        b = Builder(origin=self.mma.origin)
        for op in ops:
            if isinstance(op, ReadOp) and op.result in (self.mma.a, self.mma.b):
                continue
            if op is not self.mma:
                b.append(op)
            else:
                b.add(WaitOp, ring=self.ring.result)
                b.add(ReadOp, ring=self.ring.result, buffer=BUFFER, result=self.part)
            if isinstance(op, PromoteOp) and op.partial == self.mma.result:
                b.add(ReleaseOp, ring=self.ring.result)
        return b.take()

    def _fill(self, ops: tuple[Op, ...]) -> tuple[Op, ...]:
        """A step: wait for the operands and for a free accumulator, multiply, hand both on."""
        mma, parts = self.mma, self.ring.result
        b = Builder(origin=mma.origin)
        for op in ops:
            if isinstance(op, WaitOp) or (isinstance(op, ReadOp) and op.result in (mma.a, mma.b)):
                b.append(op)
            elif op is mma:
                b.add(AcquireOp, ring=parts)
                b.add(AsyncMmaOp, ring=parts, a=mma.a, b=mma.b, buffer=BUFFER, trans_a=mma.trans_a, trans_b=mma.trans_b)
                b.add(CommitOp, ring=parts)
            elif isinstance(op, ReleaseOp):
                b.append(op)
        return b.take()


def _in_steps(region: Region, change: Callable[[tuple[Op, ...]], tuple[Op, ...]]) -> Region:
    """The region with the ops of each step of K changed."""

    def visit(op: Op) -> Op:
        if isinstance(op, ForTilesOp):
            return op.replace(body=_in_steps(op.body, change))
        if isinstance(op, ForKOp):
            return op.replace(body=Region(op.body.args, change(op.body.ops)))
        return op

    return Region(region.args, tuple(visit(op) for op in region.ops))


def _only_steps(region: Region, change: Callable[[tuple[Op, ...]], tuple[Op, ...]]) -> Region:
    """The loops of the region, without carried values, with the changed ops of each step of K and nothing else."""
    ops: list[Op] = []
    for op in region.ops:
        if isinstance(op, ForTilesOp):
            ops.append(op.replace(body=_only_steps(op.body, change)))
        elif isinstance(op, ForKOp):
            step = Region(op.body.args[:1], (*change(op.body.ops), YieldOp(origin=op.origin)))
            ops.append(op.replace(inits=(), results=(), body=step))
    return Region(region.args, tuple(ops))
