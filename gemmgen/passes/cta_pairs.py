"""CTA pairs: two neighbouring CTAs multiply together, and each loads half of the operand that they share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from gemmgen.errors import IRError
from gemmgen.ir.async_ops import (
    AcquireOp,
    AsyncLoadOp,
    AsyncLoadScalesOp,
    Buffer,
    CommitOp,
    ReadOp,
    ReleaseOp,
    RingOp,
    RingStepOp,
    WaitOp,
)
from gemmgen.ir.core import Level, Module, Op, Value
from gemmgen.ir.rewrite import NameSupply, map_ops, substitute, walk
from gemmgen.ir.tile_ops import ForTilesOp, MmaOp, PromoteOp
from gemmgen.ir.types import MemType
from gemmgen.passes.base import Pass
from gemmgen.passes.registry import register_pass

PAIR = 2


@register_pass
@dataclass(frozen=True)
class CtaPairsPass(Pass):
    """Let pairs of CTAs multiply together, which halves what each of them loads and reads of the second operand.

    Before: every CTA multiplies a tile for itself.
    After: the CTAs of a cluster of two have tiles that lie side by side along the product's rows. Each loads its own
    rows of the first operand and half of the second one's (``shares``), into a ring of the pair (``ctas``); the
    product is one of both. Scales that other ops than the product read stay each CTA's own, in a ring of their own.
    """

    name: ClassVar[str] = "cta-pairs"
    levels: ClassVar[frozenset[Level]] = frozenset({Level.ASYNC})

    def apply(self, module: Module) -> Module:
        """The module with pairs.

        Raises:
            IRError: there is not one product, or CTAs share operands or a tile in another way already.
        """
        products = [op for op in walk(module) if isinstance(op, MmaOp)]
        loops = [op for op in walk(module) if isinstance(op, ForTilesOp)]
        if len(products) != 1 or len(loops) != 1:
            got = f"{len(products)} products in {len(loops)} loops over tiles"
            raise IRError("a pair of CTAs shares one product", where=f"module @{module.name}", got=got,
                          need="one of each")  # fmt: skip
        if loops[0].cluster != (1, 1) or loops[0].split != 1:
            got = f"cluster={list(loops[0].cluster)}, split={loops[0].split}"
            raise IRError("a pair of CTAs is a cluster of its own", where=f"module @{module.name}", got=got,
                          need="cluster=[1, 1], split=1")  # fmt: skip
        return _Pairing(module, products[0], loops[0]).run()


class _Pairing:
    """The change of one module."""

    def __init__(self, module: Module, product: MmaOp, tiles: ForTilesOp) -> None:
        reads = {op.result: op for op in walk(module) if isinstance(op, ReadOp)}
        self.module, self.product = module, product
        self.ring = reads[product.a].ring
        self.own, self.shared = reads[product.a].buffer, reads[product.b].buffer
        self.half = _halved(product.b, 1 if product.trans_b else 0)
        self.cluster = self._along(tiles)
        promotions = [op for op in walk(module) if isinstance(op, PromoteOp)]
        scales = [scale for op in promotions for scale in (op.row_scale, op.col_scale) if scale is not None]
        self.apart = {reads[scale].buffer for scale in scales}
        stages = next(op for op in module.body.ops if isinstance(op, RingOp) and op.result == self.ring).result.type
        self.scales = Value(NameSupply.of(module).fresh("scales"), stages)

    def run(self) -> Module:
        """The module with pairs."""
        return substitute(map_ops(self.module, self._change), {self.product.b: self.half})

    def _along(self, tiles: ForTilesOp) -> tuple[int, int]:
        """The cluster whose CTAs have different rows of the product, whichever axis of D these are."""
        loads = [op for op in walk(self.module) if isinstance(op, AsyncLoadOp) and op.buffer == self.own]
        m0 = tiles.body.args[0]
        return (PAIR, 1) if any(m0 in (op.row, op.col) for op in loads) else (1, PAIR)

    def _change(self, op: Op) -> Op | tuple[Op, ...] | None:
        match op:
            case ForTilesOp():
                return op.replace(cluster=self.cluster)
            case RingOp() if op.result == self.ring:
                return self._rings(op)
            case AsyncLoadOp() if op.buffer == self.shared:
                return op.replace(shares=PAIR)
            case AsyncLoadScalesOp() | ReadOp() if op.buffer in self.apart:
                return op.replace(ring=self.scales)
            case ReadOp() if op.result == self.product.b:
                return op.replace(result=self.half)
            case MmaOp():
                return op.replace(ctas=PAIR)
            case AcquireOp() | CommitOp() | WaitOp() | ReleaseOp() if self.apart and op.ring == self.ring:
                return self._both(op)
            case _:
                return None

    def _rings(self, op: RingOp) -> Op | tuple[Op, ...]:
        """The pair's ring, and the one of scales if there are any."""
        kept = [self._buffer(buffer) for buffer in op.buffers if buffer.name not in self.apart]
        moved = tuple(buffer for buffer in op.buffers if buffer.name in self.apart)
        pair = op.replace(buffers=tuple(kept), ctas=PAIR)
        return (pair, RingOp(buffers=moved, result=self.scales, origin=op.origin)) if moved else pair

    def _buffer(self, buffer: Buffer) -> Buffer:
        if buffer.name != self.shared:
            return buffer
        assert isinstance(self.half.type, MemType)
        return replace(buffer, type=self.half.type, stage_bytes=buffer.stage_bytes // PAIR)

    def _both(self, op: RingStepOp) -> tuple[Op, ...]:
        return op, op.replace(ring=self.scales)


def _halved(value: Value, axis: int) -> Value:
    assert isinstance(value.type, MemType)
    extents = [int(extent) for extent in value.type.shape]  # pyright: ignore[reportArgumentType]
    if extents[axis] % PAIR:
        raise IRError("a pair of CTAs shares an operand in halves", got=value.type, need="an even number of rows")
    extents[axis] //= PAIR
    return Value(value.name, replace(value.type, shape=tuple(extents)))
