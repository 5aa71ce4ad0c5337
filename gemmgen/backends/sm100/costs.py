"""What Blackwell kernels cost, by a static model of data-sheet rates and instruction counts. ``heuristics.py`` uses it.

Nothing in this file was measured: no Blackwell GPU was at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemmgen.backends.capability import Capability
from gemmgen.backends.model import Prediction, Rounds
from gemmgen.backends.sm90 import hardware as hopper
from gemmgen.backends.sm100 import hardware as hw
from gemmgen.frontend import scales_per_tile
from gemmgen.schedule import Schedule
from gemmgen.spec.model import GemmSpec
from gemmgen.spec.vocabulary import DTYPES, rows_contiguous

STEP_BYTES = hopper.SWIZZLE_BYTES
"""A step of K is one swizzle span of every operand: 128 elements of FP8, 64 of 16 bits."""
CYCLES_PER_US = 1850
DRAM_BYTES_PER_US = 8.0e6
MAC_BYTES_PER_CYCLE = 8192
"""Products per SM and cycle, times bytes of an element: 4.5 PFLOP/s of FP8 over 148 SMs."""
SHARED_BYTES_PER_CYCLE = 128
WORD_BYTES = 4
"""A scale or a word of them, and a word of tensor memory."""
L2_BYTES_PER_CYCLE = 64
"""What an SM takes from L2; known of the generations before, and assumed here."""
FMA_PER_CYCLE = 128
TMEM_LOAD_WORDS_PER_CYCLE = 512
STAGED_PASSES, STAGED_BYTES = 2, 2
"""A stored tile passes through shared memory: written, and read by the copy engine, two bytes per element."""
LAUNCH_US = 2.0
TILE_CYCLES = 1200
"""Filling the ring and emptying the last partial sum, where no other tile hides it."""


@dataclass(frozen=True)
class Operands:
    """What schedules depend on in the operands.

    Attributes:
        item_bytes: bytes of an element of A and B.
        promoted: partial sums of a step are scaled and added up on the CUDA cores.
        scales_in_ring: scales change along K, so a step loads some.
        b_block_rows: rows of B that share a scale.
        in_words: scales are powers of two, which the tensor core applies.
        a_rows_contiguous: A has M contiguous instead of K.
        b_rows_contiguous: B has N contiguous instead of K.
    """

    item_bytes: int = 1
    promoted: bool = True
    scales_in_ring: bool = True
    b_block_rows: int = 128
    in_words: bool = False
    a_rows_contiguous: bool = False
    b_rows_contiguous: bool = False

    @classmethod
    def of(cls, spec: GemmSpec) -> Operands:
        """The operands of a spec."""
        a, b, layout = spec.operands.a, spec.operands.b, spec.problem.layout
        block_rows = b.scale.block[0] if b.scale is not None else 1
        return cls(
            item_bytes=DTYPES[a.dtype].bits // 8,
            promoted=spec.accumulate.promote_every is not None,
            scales_in_ring=a.scale is not None and a.scale.block[1] != "K",
            b_block_rows=block_rows if isinstance(block_rows, int) else 1,
            in_words=a.scale is not None and a.scale.format == "ue8m0",
            a_rows_contiguous=rows_contiguous(layout, "a"),
            b_rows_contiguous=rows_contiguous(layout, "b"),
        )

    @property
    def step_k(self) -> int:
        """Elements of K in a step."""
        return STEP_BYTES // self.item_bytes


FP8 = Operands()


@dataclass(frozen=True)
class StepModel:
    """What one step of K costs a CTA, by the static model; cycles of engines that work side by side.

    Attributes:
        mma_cycles: the tensor core at its data-sheet rate.
        promotion_cycles: reading the partial sum from tensor memory and adding it up on the CUDA cores; 0 without.
        shared_bytes: operands that the tensor core reads.
        tmem_bytes: partial sums read from tensor memory for promotion, or scales written there.
        l2_bytes: operands and scales loaded; a pair's CTAs load half of the shared operand each.
    """

    mma_cycles: float
    promotion_cycles: float
    shared_bytes: int
    tmem_bytes: int
    l2_bytes: int

    @property
    def shared_cycles(self) -> float:
        """The tensor core's reads of both operands from shared memory."""
        return self.shared_bytes / SHARED_BYTES_PER_CYCLE

    @property
    def l2_cycles(self) -> float:
        """Loading from L2."""
        return self.l2_bytes / L2_BYTES_PER_CYCLE

    @property
    def engines(self) -> dict[str, float]:
        """Cycles by engine: ``mma``, ``shared memory``, ``promotion`` and ``L2``."""
        return {"mma": self.mma_cycles, "shared memory": self.shared_cycles, "promotion": self.promotion_cycles,
                "L2": self.l2_cycles}  # fmt: skip

    @property
    def cycles(self) -> float:
        """Cycles of the engine that takes longest."""
        return max(self.engines.values())

    @property
    def bound(self) -> str:
        """The engine that takes longest."""
        return max(self.engines, key=lambda name: self.engines[name])


def model_step(schedule: Schedule, operands: Operands = FP8) -> StepModel:
    """The static model of a schedule's step of K. Nothing in it was measured."""
    rows, columns = rows_and_columns(schedule)
    sums = rows * columns
    scales = sum(WORD_BYTES * count for count, _ in ring_scales(schedule, operands))
    scale_words = hw.LANES * hw.scale_columns(rows, columns) if operands.in_words else 0
    operand_bytes = (rows + columns // schedule.cta_group) * STEP_BYTES
    promotion = sums / FMA_PER_CYCLE + sums / TMEM_LOAD_WORDS_PER_CYCLE
    return StepModel(
        mma_cycles=sums * STEP_BYTES / MAC_BYTES_PER_CYCLE,
        promotion_cycles=promotion if operands.promoted else 0.0,
        shared_bytes=operand_bytes,
        tmem_bytes=WORD_BYTES * (sums if operands.promoted else scale_words),
        l2_bytes=operand_bytes + scales,
    )


def prediction(schedule: Schedule, m: int, n: int, k: int, target: Capability, operands: Operands = FP8) -> Prediction:
    """The terms of ``predict``."""
    along_m, along_n = schedule.ctas
    tiles = (_tiles(m, schedule.tile[0], along_m), _tiles(n, schedule.tile[1], along_n))
    memory = ((m * k + n * k) * operands.item_bytes + 2 * m * n) / DRAM_BYTES_PER_US
    return Prediction(
        base_us=LAUNCH_US,
        step_us=model_step(schedule, operands).cycles / CYCLES_PER_US,
        tile_us=(TILE_CYCLES + exposed_cycles(schedule)) / CYCLES_PER_US,
        memory_us=memory,
        steps_per_tile=max(1, -(-k // operands.step_k)),
        rounds=Rounds(tiles, max(1, tiles[0] * tiles[1]), target.sms),
    )


def exposed_cycles(schedule: Schedule) -> float:
    """Cycles of storing a tile that hold up the next one: all where there is one accumulator, none otherwise."""
    if schedule.accumulators > 1:
        return 0.0
    rows, columns = rows_and_columns(schedule)
    return STAGED_PASSES * rows * columns * STAGED_BYTES / SHARED_BYTES_PER_CYCLE


def _tiles(extent: int, tile: int, cluster: int) -> int:
    """Tiles along one axis, those included that only fill up a cluster."""
    return -(-extent // (tile * cluster)) * cluster


def ring_scales(schedule: Schedule, operands: Operands) -> list[tuple[int, int]]:
    """Scales, or words of them, that a stage holds, A's and B's, with the bytes that their place is rounded up to."""
    if not operands.scales_in_ring:
        return []
    found = []
    for extent, block in zip(schedule.tile[:2], (1, operands.b_block_rows), strict=True):
        count = scales_per_tile(extent, block)
        if operands.in_words:
            count = hw.scale_groups(count) * hw.SCALE_GROUP_ROWS
        by_engine = block == 1 and schedule.scale_copy == "bulk"
        found.append((count, hopper.BULK_ALIGN_BYTES if by_engine else 16))
    return found


def rows_and_columns(schedule: Schedule) -> tuple[int, int]:
    """The tile as tcgen05.mma sees it: its M side and its N side."""
    m, n, _ = schedule.tile
    return (n, m) if schedule.swap_ab else (m, n)
