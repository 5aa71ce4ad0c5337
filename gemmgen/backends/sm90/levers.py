"""Which levers of a schedule are used: as a hint says, else where it was measured that they pay.

Each function refuses a hint that the rest of the schedule does not allow.
"""

from __future__ import annotations

from gemmgen.backends.model import Prediction
from gemmgen.backends.sm90 import hardware as hw
from gemmgen.backends.sm90.operands import FP8, Operands, rows_and_columns
from gemmgen.errors import ScheduleError
from gemmgen.frontend import column_runs
from gemmgen.schedule import Schedule

SCALE_BLOCK = 128
OVERLAP_FROM_COLUMNS = 16
"""With 8 columns a step's promotion is four FMAs, and ptxas lets the next product wait for them."""

DEALT_UNLESS, FEW_RUNS = 32, 3
"""Blocks end in few places of tiles with a multiple of so many columns, so that choosing among scales costs little; and
runs from which on scales that are copied ahead are slower where steps do not overlap."""

SCALE_STEPS = 512
"""Steps of K whose block scales may be copied ahead: 2 KB per block and stage, 65,536 elements of K."""

STAGES_HELD = 2
"""Stages that overlapped steps hold at once: a ring of fewer would wait for itself."""

BURST_ALONE, BURST_WAVES, BURST_WIDE, BURST_NARROW = 4, 8, 8, 256
"""Multiply-adds of promotion in a row: where it overlaps with nothing and a warpgroup has one fragment of the tile, or
several, or columns are dealt; where it overlaps and tiles have `WIDE_COLUMNS` or more, or fewer, whose sums are
promoted in one go."""
WIDE_COLUMNS = 128
UNROLLED, UNROLL_FROM_US = 4, 18.0
"""Steps of K in a row in launches of such a predicted time: 1 to 4 % faster, and NVRTC takes twice as long."""
EVICT_UP_TO_ROWS, EVICT_FROM_US = 64, 3.0
"""Rows of a tile, and time of the memory, for which B's lines leave L2 first: 64×4096×7168 3 % faster."""
SHARED_ROWS_TILES = 4
"""Tiles along N that are visited together, so that rows of A are loaded once, if D has no more (4096×576×7168: 3 %)."""


def scales_ahead(schedule: Schedule, hint: bool | None, operands: Operands) -> bool:
    """Whether block scales are copied for all steps of a tile at once: as the hint says, else wherever it pays.

    Copied with every step they disturb the multiplying warps: cp.async goes through L1, whose memory wgmma reads.
    """
    fits = max(1, schedule.split_k) <= operands.steps <= SCALE_STEPS * schedule.split_k
    may = operands.blocks and schedule.scale_copy == "bulk" and fits
    if hint and not may:
        got = f"row scales copied by {schedule.scale_copy}, {operands.steps} steps of K"
        raise ScheduleError("scales cannot be copied ahead", where="schedule.scales_ahead",
                            got=got if operands.blocks else "no scales of blocks",
                            need="scales of blocks, beside row scales that the copy engine loads, and "
                                 f"1 to {SCALE_STEPS} steps of K for every CTA",
                            fix="leave scales_ahead auto")  # fmt: skip
    return may and _pays_ahead(schedule) if hint is None else hint


def deals(schedule: Schedule, hint: bool | None, operands: Operands) -> bool:
    """Whether a tile's columns are dealt in runs: as the hint says, else where blocks may end in many places of a tile.

    There it costs time to choose among their scales. Columns of split tiles, or that threads store, are neighbours.
    """
    alone = schedule.split_k == 1 and not schedule.swap_ab
    may = operands.blocks and operands.scaled_by_step and operands.staged and alone
    if hint and not may:
        got = "swap_ab" if schedule.swap_ab else f"split_k={schedule.split_k}, {operands.columns} columns of D"
        raise ScheduleError("columns cannot be dealt in runs", where="schedule.deal_columns",
                            got=got if operands.blocks and operands.scaled_by_step else "no scales of blocks",
                            need="scales of blocks, rows of D on wgmma's M side, no split_k, a D of 16-bit elements "
                                 f"whose rows are a multiple of {hw.STORE_GRANULE_BYTES} bytes",
                            fix="leave deal_columns auto")  # fmt: skip
    return may and schedule.tile[1] % DEALT_UNLESS != 0 if hint is None else hint


def _pays_ahead(schedule: Schedule) -> bool:
    """Whether copying block scales ahead is faster: measured with two warpgroups and few scales for a step.

    Three, of columns that are dealt in as many runs, come with every step where promotion does not overlap.
    """
    rows, columns = schedule.tile[:2]
    few = columns % (SCALE_BLOCK // 2) == 0 or columns > SCALE_BLOCK
    if schedule.deal_columns:
        one_fragment = rows == hw.WGMMA_ROWS * schedule.math_warpgroups and columns <= SCALE_BLOCK
        few = one_fragment or len(column_runs(columns, SCALE_BLOCK)) < FEW_RUNS
    return schedule.math_warpgroups > 1 and not schedule.swap_ab and schedule.split_k == 1 and few


def overlaps(schedule: Schedule, hint: bool | None, operands: Operands) -> bool:
    """Whether promotion overlaps with products: where the hint says so, else wherever it may."""
    if hint and not _can_overlap(schedule, operands):
        got = (
            f"{schedule.math_warpgroups} warpgroups for {rows_and_columns(schedule)[0]} rows, {schedule.stages} stages"
        )
        raise ScheduleError("promotion cannot overlap", where="schedule.promotion_overlap",
                            got=got if operands.promoted else "no promotion",
                            need=f"promotion, {hw.WGMMA_ROWS} rows per math warpgroup, {STAGES_HELD} stages or more",
                            fix="leave promotion_overlap auto")  # fmt: skip
    return may_overlap(schedule, operands) if hint is None else hint


def may_overlap(schedule: Schedule, operands: Operands = FP8) -> bool:
    """Whether promotion overlaps with products unless a hint forbids it: it pays wherever two partial sums fit."""
    columns = rows_and_columns(schedule)[1]
    scales = 2 * hw.column_scale_registers(columns) if schedule.swap_ab else 0
    need = 3 * hw.accumulator_registers(columns) + scales + hw.OVERLAP_REGISTERS
    fits = need <= math_registers(schedule)
    return _can_overlap(schedule, operands) and columns >= OVERLAP_FROM_COLUMNS and fits


def bursts(schedule: Schedule, hint: int | None, operands: Operands) -> int:
    """Multiply-adds of a burst of promotion: as the hint says, else what was measured to be fastest.

    A warp that promotes beside its own products may go on for long. Elsewhere others must be let through to start
    theirs. With swapped operands a scale is a column's, of which a thread has two elements, and two
    instructions are no burst.
    """
    may = operands.scaled_by_step and not schedule.swap_ab
    if hint and not may:
        raise ScheduleError("promotion cannot burst", where="schedule.promotion_burst",
                            got="swap_ab: columns have scales of their own" if schedule.swap_ab
                            else "steps without scales of their own",
                            need="a scale per row and step, and rows of D on wgmma's M side",
                            fix="leave promotion_burst auto: it is on wherever it may be")  # fmt: skip
    if hint is not None:
        return hint
    if not may:
        return 0
    rows, columns = rows_and_columns(schedule)
    if not schedule.promotion_overlap:
        waves = rows > hw.WGMMA_ROWS * schedule.math_warpgroups
        return BURST_WAVES if waves or schedule.deal_columns else BURST_ALONE
    return BURST_WIDE if columns >= WIDE_COLUMNS else BURST_NARROW


def looks_ahead(schedule: Schedule, hint: bool | None, operands: Operands) -> bool:
    """Whether the next step is looked for before this one is promoted: as the hint says, else where it was measured.

    Where steps overlap, the next one's products have been started by then.
    """
    may = operands.promoted and not schedule.promotion_overlap
    if hint and not may:
        raise ScheduleError("steps of K do not look ahead", where="schedule.lookahead",
                            got="promotion_overlap" if schedule.promotion_overlap else "no promotion",
                            need="promotion that overlaps with nothing", fix="leave lookahead auto")  # fmt: skip
    return may and schedule.math_warpgroups > 1 if hint is None else hint


def unrolled(schedule: Schedule, hint: int | None, operands: Operands, predicted_us: float) -> int:
    """Steps of K in a row in the multiplying loop's code: as the hint says, else in launches that last.

    Where steps overlap, two of them are in a row already; with more, the compiler copies partial sums that the tensor
    core still writes.
    """
    if hint and schedule.promotion_overlap:
        raise ScheduleError("steps of K that overlap are not unrolled", where="schedule.unroll", got=hint,
                            need="auto or 0, or promotion_overlap: false", fix="leave unroll auto")  # fmt: skip
    if hint is not None:
        return hint
    may = operands.promoted and schedule.math_warpgroups > 1 and not schedule.promotion_overlap
    return UNROLLED if may and predicted_us >= UNROLL_FROM_US else 0


def evicts(schedule: Schedule, hint: bool | None, operands: Operands, predicted: Prediction) -> bool:
    """Whether B's lines leave L2 first: as the hint says, else where few rows read much of B once, in one round.

    In launches of several rounds, or of more rows, it is slower by up to 18 %.
    """
    alone = schedule.cluster == (1, 1) and not operands.b_rows_contiguous
    if hint and not alone:
        got = "N contiguous in B" if operands.b_rows_contiguous else f"cluster {list(schedule.cluster)}"
        raise ScheduleError("B's lines cannot leave L2 first", where="schedule.evict_first", got=got,
                            need="a B whose rows run along K, that every CTA loads for itself",
                            fix="leave evict_first auto")  # fmt: skip
    if hint is not None:
        return hint
    once = predicted.rounds.count == 1 and predicted.rounds.tiles[0] == 1 and schedule.tile[0] <= EVICT_UP_TO_ROWS
    much = predicted.memory_us > max(predicted.steps_us, EVICT_FROM_US)
    return alone and operands.item_bytes == 1 and once and much


def raster_along(schedule: Schedule, hint: str | None, tiles: tuple[int, int]) -> str:
    """The axis along which tiles are visited first: as the hint says, else N where few tiles share rows of A."""
    if hint is not None:
        return hint
    return "n" if tiles[1] <= SHARED_ROWS_TILES < tiles[0] else schedule.raster_along


def _can_overlap(schedule: Schedule, operands: Operands) -> bool:
    """Whether there is promotion, one fragment of the tile per warpgroup, and a stage for each of the two steps."""
    one_fragment = rows_and_columns(schedule)[0] == hw.WGMMA_ROWS * schedule.math_warpgroups
    return operands.promoted and one_fragment and schedule.stages >= STAGES_HELD


def math_registers(schedule: Schedule) -> int:
    """Registers that a multiplying thread has."""
    return schedule.math_registers or hw.launch_registers(threads(schedule))


def threads(schedule: Schedule) -> int:
    """Threads of a CTA."""
    loading = hw.GROUP_THREADS if schedule.math_registers else 2 * hw.WARP_THREADS
    return schedule.math_warpgroups * hw.GROUP_THREADS + loading
