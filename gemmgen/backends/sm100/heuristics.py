"""All tuning knowledge for Blackwell: which schedules are worth having, and which one serves which M.

The choice rests on a static model, made of data-sheet rates and instruction counts. Nothing in this file was measured:
no Blackwell GPU was at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemmgen.backends.capability import Capability
from gemmgen.backends.m_ranges import MRanges
from gemmgen.backends.model import Prediction, Rounds
from gemmgen.backends.sm90 import hardware as hopper
from gemmgen.backends.sm100 import hardware as hw
from gemmgen.errors import ScheduleError
from gemmgen.frontend import scales_per_tile
from gemmgen.schedule import Schedule
from gemmgen.spec.model import GemmSpec, ScheduleHints
from gemmgen.spec.vocabulary import DTYPES, rows_contiguous

STEP_BYTES = hopper.SWIZZLE_BYTES
"""A step of K is one swizzle span of every operand: 128 elements of FP8, 64 of 16 bits."""
M_RANGES = MRanges((16, 32, 64, 128, 256, 512, 1024, 2048, 4096), large=8192)
PLAIN_COLUMNS = (64, 96, 128, 160, 192, 224, 256)
SWAPPED_COLUMNS = (16, 32, 64, 128)
SWAPPED_UP_TO = 128
MAX_STAGES = 10
MAX_CLUSTER = 8
"""CTAs that share operands by multicast, where a hint asks for it."""
WANTED_STAGES = 4
"""Stages below which a second accumulator is not worth the columns of their scales."""
MAX_ACCUMULATORS = {True: 4, False: 2}
"""Sums under way at once, by whether they are handed over in every step: or else per tile, for the epilogue."""
PRODUCER_REGISTERS, MATH_REGISTERS = 40, 232

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
    scales = sum(WORD_BYTES * count for count, _ in _scales(schedule, operands))
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


def plan(spec: GemmSpec, target: Capability, scale_copy: str = "bulk") -> list[tuple[int, int | None, Schedule]]:
    """The kernels that serve every M of a spec with known N and K, as (smallest M, largest M, schedule).

    Args:
        spec: the spec.
        target: what the hardware can do.
        scale_copy: how row scales reach shared memory, see ``Schedule``.
    """
    m, n, k = (spec.problem.dims[name] for name in ("M", "N", "K"))
    n, k, operands = int(n), int(k), Operands.of(spec)
    if isinstance(m, int):
        return [(0, None, choose(spec.schedule, m, n, k, target, scale_copy, operands))]
    return M_RANGES.plan(lambda rows: choose(spec.schedule, rows, n, k, target, scale_copy, operands))


def choose(
    hints: ScheduleHints, m: int, n: int, k: int, target: Capability, scale_copy: str = "bulk", operands: Operands = FP8
) -> Schedule:
    """The schedule with the least predicted time among those that the hints allow.

    Raises:
        ScheduleError: the hints contradict each other or the hardware, or ask for what this target cannot do yet.
    """
    return ranked(hints, m, n, k, target, scale_copy, operands)[0][1]


def ranked(
    hints: ScheduleHints, m: int, n: int, k: int, target: Capability, scale_copy: str = "bulk", operands: Operands = FP8
) -> list[tuple[Prediction, Schedule]]:
    """Every schedule that the hints allow with its prediction, the fastest first.

    Raises:
        ScheduleError: as ``choose``.
    """
    _refuse_hints(hints)
    found: list[Schedule] = []
    refused: ScheduleError | None = None
    for schedule in _candidates(hints, m, scale_copy, operands):
        try:
            found.append(_with_hints(schedule, hints, target, operands))
        except ScheduleError as error:
            refused = refused or error
    if not found and refused is not None:
        raise refused
    timed = [(prediction(schedule, m, n, k, target, operands), schedule) for schedule in found]
    return sorted(timed, key=lambda pair: (pair[0].total_us, str(pair[1])))


def predict(schedule: Schedule, m: int, n: int, k: int, target: Capability, operands: Operands = FP8) -> float:
    """Time of one launch on data that is not in L2, in µs, by the static model."""
    return prediction(schedule, m, n, k, target, operands).total_us


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


def most_stages(schedule: Schedule, target: Capability, operands: Operands = FP8) -> int:
    """The deepest ring that fits beside the staging tile; at least 1, which the allocation then refuses."""
    rows, columns = rows_and_columns(schedule)
    scales = sum(-(-4 * count // pitch) * pitch for count, pitch in _scales(schedule, operands))
    copies = 2 if operands.in_words and schedule.scale_copy == "bulk" else 1
    stage = (rows + columns // schedule.cta_group) * STEP_BYTES + copies * scales + 32
    rest = rows * columns * 2 + 16 * schedule.accumulators + 64
    fits = (target.smem_per_cta - rest) // stage
    if operands.in_words:
        left = hw.TENSOR_MEMORY_COLUMNS - columns * schedule.accumulators
        fits = min(fits, left // hw.scale_columns(rows, columns))
    return max(1, min(MAX_STAGES, fits))


def most_accumulators(columns: int, operands: Operands = FP8) -> int:
    """Sums of so many columns that tensor memory holds, up to what can be under way at once.

    Scales that the tensor core applies have columns too, for every stage.
    """
    most = MAX_ACCUMULATORS[operands.promoted]
    scales = WANTED_STAGES * hw.scale_columns(hw.LANES, columns) if operands.in_words else 0
    return max(1, min(most, (hw.TENSOR_MEMORY_COLUMNS - scales) // columns))


def _candidates(hints: ScheduleHints, m: int, scale_copy: str, operands: Operands) -> list[Schedule]:
    """Schedules worth trying for M rows: the given tile, or the shipped list as far as the hints allow it."""
    step_k, groups = operands.step_k, hints.warps.math
    if hints.tile is not None:
        if hints.tile[2] != step_k:
            raise ScheduleError("the K extent of a tile", where="schedule.tile", got=hints.tile[2], need=step_k,
                                fix=f"write {step_k}: one swizzle span")  # fmt: skip
        tiles, swapped = [hints.tile], bool(hints.swap_ab)
        return [_schedule(hints.tile, swapped, groups, scale_copy, operands, hints.cta_group or 1)]
    swapped = hints.swap_ab if hints.swap_ab is not None else m <= SWAPPED_UP_TO
    across = operands.a_rows_contiguous if swapped else operands.b_rows_contiguous
    narrowest = hopper.SWIZZLE_SPANS[-1] // operands.item_bytes if across else 1
    columns = [c for c in (SWAPPED_COLUMNS if swapped else PLAIN_COLUMNS) if c % narrowest == 0]
    tiles = [(c, hw.LANES, step_k) if swapped else (hw.LANES, c, step_k) for c in columns]
    alone = hints.cluster is not None
    sizes = (hints.cta_group,) if hints.cta_group is not None else (1,) if alone else (1, hw.PAIR)
    return [
        _schedule(tile, swapped, groups, scale_copy, operands, size)
        for tile, count in zip(tiles, columns, strict=True)
        for size in sizes
        if size == 1 or hw.pairs_share(count, narrowest)
    ]


def _schedule(
    tile: tuple[int, int, int],
    swapped: bool,
    groups: int | None,
    scale_copy: str,
    operands: Operands,
    cta_group: int,
) -> Schedule:
    columns = tile[0] if swapped else tile[1]
    groups = groups or (2 if columns % (2 * hw.COLUMN_STEP) == 0 and columns > hw.COLUMN_STEP * 2 else 1)
    short = hw.registers_needed(columns // groups) > hopper.launch_registers(_threads(groups))
    return Schedule(
        tile, 0, swap_ab=swapped, math_warpgroups=groups, scale_copy=scale_copy,
        producer_registers=PRODUCER_REGISTERS if short else 0, math_registers=MATH_REGISTERS if short else 0,
        accumulators=most_accumulators(columns, operands), cta_group=cta_group,
    )  # fmt: skip


def _threads(groups: int) -> int:
    """Threads per CTA as the register file counts them: warps for loads, scales and products make a warpgroup."""
    return (groups + 1) * hopper.GROUP_THREADS


def _with_hints(schedule: Schedule, hints: ScheduleHints, target: Capability, operands: Operands) -> Schedule:
    changes = {
        "raster_group": hints.raster.group, "raster_along": hints.raster.along, "pdl": hints.pdl,
        "producer_registers": hints.registers.producer, "math_registers": hints.registers.math,
        "cluster": hints.cluster,
    }  # fmt: skip
    changed = schedule.replace(**{name: value for name, value in changes.items() if value is not None})
    return _checked(changed.replace(stages=hints.stages or most_stages(changed, target, operands)), operands)


def _refuse_hints(hints: ScheduleHints) -> None:
    """Raise ScheduleError for what other targets can do and this one cannot yet."""
    for name, value, only in (("split_k", hints.split_k, 1), ("scheduler", hints.scheduler, "persistent")):
        if value not in (None, only):
            raise ScheduleError(f"schedule.{name} on Blackwell", where=f"schedule.{name}", got=value, need=only,
                                fix=f"leave {name} auto")  # fmt: skip


def _checked(schedule: Schedule, operands: Operands) -> Schedule:
    """The schedule, if the hardware can do it."""
    rows, columns = rows_and_columns(schedule)
    groups = schedule.math_warpgroups
    hw.check_mma_tile(rows, columns, groups)
    hw.allocated_columns(columns * schedule.accumulators)
    if schedule.cta_group > 1:
        hw.check_pair(columns, schedule.cluster)
    if operands.a_rows_contiguous if schedule.swap_ab else operands.b_rows_contiguous:
        hopper.swizzle_span(columns // schedule.cta_group * operands.item_bytes)
    threads = _threads(groups)
    hw.check_registers(columns // groups, schedule.math_registers or hopper.launch_registers(threads))
    shared_b = schedule.cluster[0] > 1
    transposed = operands.b_rows_contiguous if shared_b else operands.a_rows_contiguous
    hopper.check_multicast(schedule.cluster, None if transposed else schedule.tile[1 if shared_b else 0])
    if schedule.cluster_size > MAX_CLUSTER:
        raise ScheduleError("CTAs per cluster", where="schedule.cluster", got=schedule.cluster_size,
                            need=f"at most {MAX_CLUSTER}", fix="lower cluster")  # fmt: skip
    if schedule.math_registers or schedule.producer_registers:
        hopper.check_setmaxnreg([schedule.math_registers] * groups + [schedule.producer_registers], threads)
        hopper.check_register_trade(schedule.math_registers, schedule.producer_registers, threads)
    return schedule


def _scales(schedule: Schedule, operands: Operands) -> list[tuple[int, int]]:
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
