"""What Hopper's schedules depend on in the operands, and how a tile lies on the tensor core."""

from __future__ import annotations

from dataclasses import dataclass

from gemmgen.backends.sm90 import hardware as hw
from gemmgen.passes.epilogue_staging import EpilogueStagingPass
from gemmgen.schedule import Schedule
from gemmgen.spec.model import GemmSpec
from gemmgen.spec.vocabulary import DTYPES, rows_contiguous

STEP_BYTES = hw.SWIZZLE_BYTES
"""A step of K is one swizzle span of every operand: 128 elements of FP8, 64 of 16 bits."""


@dataclass(frozen=True)
class Operands:
    """What schedules depend on in the operands.

    Attributes:
        item_bytes: bytes of an element of A and B; those of one byte have scales and are promoted.
        a_rows_contiguous: A has M contiguous instead of K.
        b_rows_contiguous: B has N contiguous instead of K.
        promoted: partial sums are added up by the CUDA cores.
        scaled_by_step: promotion multiplies by scales of its step, one per row; else scales wait for the whole sum.
        blocks: scales of blocks of rows come with the steps of K.
        steps: steps of K; 0 if K is not known.
        columns: columns of D; 0 if N is not known.
        d_item_bytes: bytes of an element of D.
    """

    item_bytes: int = 1
    a_rows_contiguous: bool = False
    b_rows_contiguous: bool = False
    promoted: bool = True
    scaled_by_step: bool = True
    blocks: bool = True
    steps: int = 0
    columns: int = 0
    d_item_bytes: int = 2

    @classmethod
    def of(cls, spec: GemmSpec) -> Operands:
        """The operands of a spec."""
        layout = spec.problem.layout
        item_bytes = DTYPES[spec.operands.a.dtype].bits // 8
        promoted = spec.accumulate.promote_every is not None
        scale = spec.operands.a.scale
        by_step = promoted and scale is not None and isinstance(scale.block[1], int)
        scales = [side.scale.block for side in (spec.operands.a, spec.operands.b) if side.scale is not None]
        blocks = any(isinstance(rows, int) and rows > 1 and isinstance(step, int) for rows, step in scales)
        layouts = rows_contiguous(layout, "a"), rows_contiguous(layout, "b")
        d_item_bytes = DTYPES[spec.operands.d.dtype].bits // 8
        return cls(item_bytes, *layouts, promoted, by_step, blocks, d_item_bytes=d_item_bytes)

    @property
    def staged(self) -> bool:
        """Whether tiles of D are known to leave through shared memory, by the copy engine."""
        return self.columns > 0 and EpilogueStagingPass().stages_rows(self.columns, 8 * self.d_item_bytes)

    @property
    def step_k(self) -> int:
        """Elements of K in a step."""
        return STEP_BYTES // self.item_bytes


FP8 = Operands()


def rows_and_columns(schedule: Schedule) -> tuple[int, int]:
    """The tile as wgmma sees it: its M side and its N side."""
    m, n, _ = schedule.tile
    return (n, m) if schedule.swap_ab else (m, n)
