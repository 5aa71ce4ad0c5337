"""Where every op of a target-level module runs: by which warps, once per thread or once, and in which loops."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeVar

from gemmgen.backends.sm90 import hardware as hw
from gemmgen.backends.sm90.math_ops import BlockScalesOp, ColumnScalesOp, RowScalesOp, WgmmaOp
from gemmgen.backends.sm90.ops import (
    Area,
    KLoopOp,
    KOverlapOp,
    Launch,
    TensorMap,
    TileLoopOp,
    TmaLoadOp,
    TmaLoadScalesOp,
    WarpsOp,
)
from gemmgen.errors import IRError
from gemmgen.ir.core import Module, Op, Region
from gemmgen.ir.verifier import fail

READS_STAGE = (WgmmaOp, RowScalesOp, ColumnScalesOp, BlockScalesOp)
"""Ops that read a stage of a ring at their cursor."""
OpT = TypeVar("OpT", bound=Op)
RecordT = TypeVar("RecordT")


@dataclass(frozen=True)
class Site:
    """One op, the warps ``first`` … ``first + warps − 1`` that run it, and the loops around it.

    ``elect``: one thread of the one warp runs it; ``leader``: only in the cluster's first CTA. ``role`` is the
    outermost ``sm90.warps`` around it.
    """

    op: Op
    first: int
    warps: int
    elect: bool = False
    leader: bool = False
    role: WarpsOp | None = None
    tiles: TileLoopOp | None = None
    steps: KLoopOp | KOverlapOp | None = None

    @property
    def threads(self) -> int:
        """Threads that run the op."""
        return 1 if self.elect else self.warps * hw.WARP_THREADS

    @property
    def groups(self) -> int:
        """Whole warpgroups that run the op.

        Raises:
            IRError: one thread does, or warps that are no whole warpgroups.
        """
        if self.elect or self.first % hw.GROUP_WARPS or self.warps % hw.GROUP_WARPS:
            who = "one thread" if self.elect else f"warps {self.first} to {self.first + self.warps - 1}"
            fail(self.op, f"{self.op.NAME} is run by whole warpgroups", got=who, need="a multiple of 4 warps, aligned")
        return self.warps // hw.GROUP_WARPS


@dataclass
class Program:
    """A target-level module, its records by name, and the sites of its ops in textual order."""

    module: Module
    launch: Launch
    areas: dict[str, Area]
    maps: dict[str, TensorMap]
    sites: list[Site] = field(default_factory=list)

    @classmethod
    def of(cls, module: Module) -> Program:
        """Read a module.

        Raises:
            IRError: an attribute is missing or no record, a name is used twice, or warps are outside of their parent.
        """
        launch = module.record(Launch)
        areas, maps = _records(module, "areas", Area), _records(module, "maps", TensorMap)
        program = cls(module, launch, {a.name: a for a in areas}, {m.arg: m for m in maps})
        if len(program.areas) != len(areas) or len(program.maps) != len(maps):
            raise IRError(
                "names of areas and maps are unique",
                where=f"module @{module.name}",
                got=", ".join([a.name for a in areas] + [m.arg for m in maps]),
            )
        program._visit(module.body, Site(Op(), 0, launch.threads // hw.WARP_THREADS))
        return program

    def all(self, *kinds: type[OpT]) -> list[tuple[Site, OpT]]:
        """The sites of ops of these kinds, with the op once more for its type."""
        return [(site, site.op) for site in self.sites if isinstance(site.op, kinds)]

    def area(self, op: Op, name: str) -> Area:
        """The area that ``op`` calls ``name``.

        Raises:
            IRError: there is none.
        """
        if name not in self.areas:
            fail(op, f"no area '{name}'", got=name, need=", ".join(self.areas))
        return self.areas[name]

    def _visit(self, region: Region, around: Site) -> None:
        for op in region.ops:
            inside = site = replace(around, op=op)
            self.sites.append(site)
            if isinstance(op, WarpsOp):
                if op.first < around.first or op.first + op.count > around.first + around.warps or op.count < 1:
                    fail(
                        op,
                        f"warps of '{op.label}'",
                        got=f"{op.first} to {op.first + op.count - 1}",
                        need=f"within {around.first} to {around.first + around.warps - 1}",
                    )
                inside = replace(
                    site, first=op.first, warps=op.count, elect=site.elect or op.elect,
                    leader=site.leader or op.leader, role=site.role or op,
                )  # fmt: skip
            elif isinstance(op, TileLoopOp):
                inside = replace(site, tiles=op)
            elif isinstance(op, KLoopOp | KOverlapOp):
                inside = replace(site, steps=op)
            for inner in op.all_regions:
                self._visit(inner, inside)


def landing_bytes(op: TmaLoadOp | TmaLoadScalesOp) -> int:
    """Bytes that arrive in this CTA's stage for a load that every CTA of the cluster runs."""
    return op.rows * op.row_bytes * op.slabs if isinstance(op, TmaLoadOp) else op.count * hw.SCALE_BYTES


def area_names(op: Op) -> tuple[str, ...]:
    """The areas of shared memory that an op names."""
    named = (getattr(op, name, None) for name in ("a", "b", "area"))
    return tuple(name for name in named if isinstance(name, str))


def _records(module: Module, name: str, kind: type[RecordT]) -> tuple[RecordT, ...]:
    found = module.attr(name)
    if not isinstance(found, tuple) or not all(isinstance(item, kind) for item in found):
        raise IRError(
            f"attribute '{name}'", where=f"module @{module.name}", got=found, need=f"a list of {kind.__name__}"
        )
    return found
