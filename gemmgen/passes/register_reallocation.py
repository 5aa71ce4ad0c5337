"""Register reallocation: loading warps give registers away, computing warps take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gemmgen.errors import IRError
from gemmgen.ir.async_ops import RoleOp
from gemmgen.ir.core import Level, Module, Op, Region
from gemmgen.ir.rewrite import map_ops
from gemmgen.passes.base import Pass
from gemmgen.passes.registry import register_pass

WARPS_PER_GROUP = 4


@register_pass
@dataclass(frozen=True)
class RegisterReallocationPass(Pass):
    """Set the registers per thread of every role.

    Before: roles have what the launch gives every thread.
    After: role ``math`` has ``math`` registers and all others ``producer``; registers change hands per warpgroup, so a
    last role ``idle`` fills up the loading warps' group. Zero for both leaves the module as it is.
    """

    producer: int = 0
    math: int = 0

    name: ClassVar[str] = "register-reallocation"
    levels: ClassVar[frozenset[Level]] = frozenset({Level.ASYNC})

    def apply(self, module: Module) -> Module:
        """The module with registers assigned."""
        if not self.producer and not self.math:
            return module
        roles = [op for op in module.body.ops if isinstance(op, RoleOp)]
        if not roles:
            raise IRError("no roles to give registers to", where=f"module @{module.name}",
                          fix="run warp-specialization first")  # fmt: skip
        if roles[0].name != "math" or roles[0].warps % WARPS_PER_GROUP:
            raise IRError("registers change hands per warpgroup", got=f"first role '{roles[0].name}', "
                          f"{roles[0].warps} warps", need="role 'math' first, a multiple of 4 warps")  # fmt: skip
        spare = -sum(role.warps for role in roles) % WARPS_PER_GROUP
        sized = map_ops(module, lambda op: self._sized(op))
        idle = (RoleOp(name="idle", warps=spare, registers=self.producer, body=Region()),) if spare else ()
        return sized.replace(body=Region((), (*sized.body.ops, *idle)))

    def _sized(self, op: Op) -> Op | None:
        if not isinstance(op, RoleOp):
            return None
        return op.replace(registers=self.math if op.name == "math" else self.producer)
