"""Promotion overlap: the CUDA cores promote one step of K while the tensor core multiplies the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gemmgen.errors import IRError
from gemmgen.ir.async_ops import RoleOp
from gemmgen.ir.core import Level, Module, Op
from gemmgen.ir.rewrite import map_ops, walk
from gemmgen.ir.tile_ops import ForKOp, PromoteOp
from gemmgen.passes.base import Pass
from gemmgen.passes.registry import register_pass


@register_pass
@dataclass(frozen=True)
class PromotionOverlapPass(Pass):
    """Start the products of the next step before a step is promoted.

    Before: a role waits for a step's products, promotes them, and only then starts the next step.
    After: its loop over K says ``ahead=1``: two partial sums take turns, and two stages are held at once. Without
    ``enabled`` the module stays as it is.
    """

    enabled: bool = True

    name: ClassVar[str] = "promotion-overlap"
    levels: ClassVar[frozenset[Level]] = frozenset({Level.ASYNC})

    def apply(self, module: Module) -> Module:
        """The module with promoting loops marked."""
        if not self.enabled:
            return module
        roles = [op for op in module.body.ops if isinstance(op, RoleOp)]
        if not any(isinstance(op, PromoteOp) for role in roles for op in walk(role)):
            raise IRError("nothing to overlap: no role promotes", where=f"module @{module.name}",
                          got=", ".join(role.name for role in roles) or "no roles",
                          fix="run promotion and warp-specialization first")  # fmt: skip
        return map_ops(module, lambda op: op.replace(ahead=1) if _promotes(op) else None)


def _promotes(op: Op) -> bool:
    return isinstance(op, ForKOp) and any(isinstance(inner, PromoteOp) for inner in op.body.ops)
