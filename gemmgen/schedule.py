"""The schedule: every number that the spec leaves open, decided. Heuristics make it, passes read it, people read it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from gemmgen.errors import ScheduleError


@dataclass(frozen=True)
class Schedule:
    """How one kernel works.

    Attributes:
        tile: rows of D, columns of D and elements of K per CTA and step.
        stages: stages of the shared-memory ring.
        cluster: CTAs along (m, n) that share operands by multicast.
        split_k: CTAs that share one output tile, each with a part of K.
        swap_ab: rows of D lie on the tensor core's N side.
        math_warpgroups: warpgroups that multiply; with tensor memory, that promote and store.
        producer_registers: registers per thread of the loading warps; 0 leaves them as launched.
        math_registers: the same for multiplying warps.
        raster_group: tiles along ``raster_along`` that are visited before the other axis advances.
        raster_along: ``m`` or ``n``.
        scale_copy: ``bulk`` has the copy engine load row scales, which must lie column by column; ``lanes`` has a warp
            gather them, whatever their strides.
        scales_ahead: a warp copies the scales of blocks for all steps of a tile at once, into a ring of their own,
            instead of with every step into its stage.
        pdl: the kernel is launched with programmatic stream serialization.
        promotion_overlap: a step is promoted while the tensor core multiplies the next one; takes a second partial sum.
        accumulators: partial sums in tensor memory that may be under way at once; 0 where there is none.
        cta_group: CTAs that multiply together: 2 for pairs, which share the operand on the tensor core's N side.
        promotion_burst: promotion's multiply-adds by one scale that a warp issues in a row, keeping the scale, before
            it gives way; set in the cubin, after ptxas, whose own choice 0 leaves as it is.
        lookahead: before a step is promoted, the multiplying warps work out where the next one's operands and scales
            are, and look whether they are loaded.
        unroll: steps of K that follow each other in the code of the multiplying loop; 0 leaves it to the compiler.
        deal_columns: a tile's columns are no neighbours but runs whose widths are powers of two (144 = 128 + 16), so
            that each lies in one scale block, wherever the tile starts.
        evict_first: B's lines leave L2 before others, for the launch will not read them again.
    """

    tile: tuple[int, int, int]
    stages: int
    cluster: tuple[int, int] = (1, 1)
    split_k: int = 1
    swap_ab: bool = False
    math_warpgroups: int = 2
    producer_registers: int = 0
    math_registers: int = 0
    raster_group: int = 8
    raster_along: str = "m"
    scale_copy: str = "bulk"
    scales_ahead: bool = False
    pdl: bool = False
    promotion_overlap: bool = False
    accumulators: int = 0
    cta_group: int = 1
    promotion_burst: int = 0
    lookahead: bool = False
    unroll: int = 0
    deal_columns: bool = False
    evict_first: bool = False

    @property
    def cluster_size(self) -> int:
        """CTAs per cluster, whatever they share."""
        return self.cluster[0] * self.cluster[1] * self.split_k * self.cta_group

    @property
    def ctas(self) -> tuple[int, int]:
        """CTAs of a cluster along (m, n) that have tiles of their own; pairs lie along the tensor core's M side."""
        m, n = self.cluster
        return (m, n * self.cta_group) if self.swap_ab else (m * self.cta_group, n)

    @property
    def scheduler(self) -> str:
        """The name of the way tiles are dealt out: ``persistent`` or ``split_k``."""
        return "split_k" if self.split_k > 1 else "persistent"

    def replace(self, **changes: Any) -> Schedule:
        """The same schedule with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; ``from_dict`` reads them back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Schedule:
        """The schedule that ``to_dict`` wrote.

        Raises:
            ScheduleError: a field is missing or unknown.
        """
        try:
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
            return cls(**values)
        except TypeError as error:
            raise ScheduleError("not a schedule", got=fields, need="the fields of Schedule", fix=str(error)) from None

    def __str__(self) -> str:
        m, n, k = self.tile
        parts = [f"{m}x{n}x{k}", f"stages={self.stages}", f"warpgroups={self.math_warpgroups}"]
        parts += [f"cluster={self.cluster[0]}x{self.cluster[1]}"] if self.cluster != (1, 1) else []
        parts += [f"split_k={self.split_k}"] if self.split_k > 1 else []
        parts += ["swap_ab"] if self.swap_ab else []
        parts += ["cta_pairs"] if self.cta_group > 1 else []
        parts += [f"scales={self.scale_copy}"] if self.scale_copy != "bulk" else []
        parts += ["scales_ahead"] if self.scales_ahead else []
        parts += ["deal_columns"] if self.deal_columns else []
        parts += ["promotion_overlap"] if self.promotion_overlap else []
        parts += [f"promotion_burst={self.promotion_burst}"] if self.promotion_burst else []
        parts += ["lookahead"] if self.lookahead else []
        parts += [f"unroll={self.unroll}"] if self.unroll else []
        parts += ["evict_first"] if self.evict_first else []
        parts += ["pdl"] if self.pdl else []
        parts += [f"accumulators={self.accumulators}"] if self.accumulators else []
        return " ".join(parts)
