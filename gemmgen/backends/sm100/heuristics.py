"""All tuning knowledge for Blackwell: which schedules are worth having, and which one serves which M.

The choice rests on the static model of ``costs.py``. Nothing was measured: no Blackwell GPU was at hand.
"""

from __future__ import annotations

from gemmgen.backends.capability import Capability
from gemmgen.backends.m_ranges import MRanges
from gemmgen.backends.model import Prediction
from gemmgen.backends.sm90 import hardware as hopper
from gemmgen.backends.sm100 import hardware as hw
from gemmgen.backends.sm100.costs import FP8, STEP_BYTES, Operands, prediction, ring_scales, rows_and_columns
from gemmgen.errors import ScheduleError
from gemmgen.schedule import Schedule
from gemmgen.spec.model import GemmSpec, ScheduleHints

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


def most_stages(schedule: Schedule, target: Capability, operands: Operands = FP8) -> int:
    """The deepest ring that fits beside the staging tile; at least 1, which the allocation then refuses."""
    rows, columns = rows_and_columns(schedule)
    scales = sum(-(-4 * count // pitch) * pitch for count, pitch in ring_scales(schedule, operands))
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
