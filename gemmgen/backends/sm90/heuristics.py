"""All tuning knowledge for Hopper: which schedules are worth having, what each costs, which one serves which M.

A kernel's time is predicted as ``base + max(steps, memory) + waves · tile``: ``waves`` rounds of CTAs, each with its
steps of K at ``step`` µs, and ``tile`` µs per round that nothing hides. The numbers stand in ``costs.py``.
"""

from __future__ import annotations

from dataclasses import replace

from gemmgen.backends.capability import Capability
from gemmgen.backends.m_ranges import MRanges
from gemmgen.backends.model import Prediction, Rounds
from gemmgen.backends.sm90 import hardware as hw
from gemmgen.backends.sm90 import levers
from gemmgen.backends.sm90.costs import (
    BYTES_PER_US,
    CLUSTER_FILL,
    CROWDED_FROM,
    CROWDED_US,
    OUTSIDE_ROW_US,
    SHIPPED,
    Cost,
    Costs,
    CostTables,
)
from gemmgen.backends.sm90.operands import FP8, STEP_BYTES, Operands, rows_and_columns
from gemmgen.errors import ScheduleError
from gemmgen.frontend import column_runs, scales_per_tile
from gemmgen.passes.pipelining import RUN_STAGES, round_up
from gemmgen.schedule import Schedule
from gemmgen.spec.model import GemmSpec, ScheduleHints

M_RANGES = MRanges(
    (8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192), large=12288
)
MAX_STAGES = 10
D_ITEM_BYTES = 2
MAX_SPLIT = 8
PRODUCER_REGISTERS = 40
MATH_REGISTERS = 232
MULTICAST_TILE, MULTICAST_CLUSTER = (256, 128), (1, 2)
MULTICAST_TILE_16, MULTICAST_CLUSTER_16 = (128, 256), (2, 1)
"""A wgmma of 256 columns reads less shared memory per product than two of 128: A goes half as often."""

MULTICAST_FROM_US = 100.0
"""Predicted time from which on pairs pay: they spare power, but wait for each other (1024×4096×7168: 2 % slower)."""
PDL_UP_TO_US, PDL_BY_MEMORY_UP_TO_US = 27.0, 18.0
"""Predicted time up to which the next launch may start early, and where memory bounds it: measured, that saves 1.1 µs
at best. Longer launches get slower by 1 to 5 %, unless there is room for the next one's CTAs beside theirs."""
PDL_UNEVEN_UP_TO_US = 12.0
"""The same for launches that memory bounds and that leave SMs idle: CTAs that start early take the idle SMs, wherever
they are, and then share what their part of the chip can load (48×5120×12288: 23 instead of 20 µs)."""
SWAPPED_ALWAYS = 64
"""Up to this M tokens lie on wgmma's N side: a 64-row tile of tokens would be mostly empty."""
SWAPPED_UP_TO = 128
NARROW_FROM, NARROW_UP_TO = 32, 512
"""M above which 64 rows of A are not mostly padding, and up to which such small tiles are worth pricing."""
SWAPPED_COLUMNS = (8, 16, 24, 32, 48, 64, 96)


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
    hints: ScheduleHints,
    m: int,
    n: int,
    k: int,
    target: Capability,
    scale_copy: str = "bulk",
    operands: Operands = FP8,
) -> Schedule:
    """The schedule with the least predicted time among those that the hints allow.

    Raises:
        ScheduleError: the hints contradict each other or the hardware.
    """
    return ranked(hints, m, n, k, target, scale_copy, operands)[0][1]


def ranked(
    hints: ScheduleHints,
    m: int,
    n: int,
    k: int,
    target: Capability,
    scale_copy: str = "bulk",
    operands: Operands = FP8,
) -> list[tuple[Prediction, Schedule]]:
    """The schedules that the hints allow and that suit the shape, least predicted time first.

    Raises:
        ScheduleError: the hints contradict each other or the hardware.
    """
    steps = max(1, -(-k // operands.step_k))
    operands = replace(operands, steps=_ceil(k, operands.step_k), columns=n)
    found = [(prediction(s, m, n, k, target), s) for s in candidates(hints, m, target, scale_copy, operands)]
    useful = [(p, s) for p, s in found if s.split_k == 1 or (s.split_k <= steps and p.rounds.count == 1)]
    useful = [(p, s) for p, s in useful if not _stored_by_threads(n) or s.tile[:2] != MULTICAST_TILE]
    if hints.cluster is None and operands.item_bytes == 1:
        useful = [(p, s) for p, s in useful if s.cluster == (1, 1) or p.total_us >= MULTICAST_FROM_US]
    best_first = sorted(useful or found, key=preference)
    return [(p, with_time(p, s, hints, target, operands)) for p, s in best_first]


def with_time(
    predicted: Prediction, schedule: Schedule, hints: ScheduleHints, target: Capability, operands: Operands
) -> Schedule:
    """The schedule with what depends on the problem's size."""
    return schedule.replace(
        pdl=starts_early(predicted, schedule, target) if hints.pdl is None else hints.pdl,
        unroll=levers.unrolled(schedule, hints.unroll, operands, predicted.total_us),
        evict_first=levers.evicts(schedule, hints.evict_first, operands, predicted),
        raster_along=levers.raster_along(schedule, hints.raster.along, predicted.rounds.tiles),
    )


def starts_early(predicted: Prediction, schedule: Schedule, target: Capability) -> bool:
    """Whether the next launch may start before this one ends, unless a hint says otherwise."""
    rounds = predicted.rounds
    limit = PDL_UP_TO_US
    if predicted.memory_us > predicted.steps_us:
        uneven = rounds.ctas < CROWDED_FROM * rounds.at_once
        limit = PDL_UNEVEN_UP_TO_US if uneven else PDL_BY_MEMORY_UP_TO_US
    return predicted.total_us <= limit or _leaves_room(schedule, target)


def preference(pair: tuple[Prediction, Schedule]) -> tuple[float, float, str]:
    """Least predicted time first; where memory hides the steps, the schedule with fewer of them."""
    predicted, schedule = pair
    return predicted.total_us, predicted.steps_us, str(schedule)


def candidates(
    hints: ScheduleHints, m: int, target: Capability, scale_copy: str = "bulk", operands: Operands = FP8
) -> list[Schedule]:
    """Every schedule worth trying for M rows: the shipped list, narrowed and overridden by the hints."""
    if hints.tile is not None:
        return [_from_tile(hints, target, scale_copy, operands)]
    sharing = hints.cluster[1] if hints.cluster is not None else 1
    shipped = _swapped(m, operands, sharing) if m <= SWAPPED_UP_TO or hints.swap_ab else []
    if NARROW_FROM < m <= NARROW_UP_TO and operands.item_bytes == 1:
        shipped += _narrow(operands)
    if m > SWAPPED_ALWAYS or hints.swap_ab is False:
        shipped += _plain(operands)
    allowed: list[Schedule] = []
    refused: ScheduleError | None = None
    for schedule in dict.fromkeys(_clustered(found, hints).replace(scale_copy=scale_copy) for found in shipped):
        try:
            allowed += [_with_hints(schedule, hints, target, operands)] if _allows(hints, schedule) else []
        except ScheduleError as error:
            refused = error
    if not allowed and refused is not None:
        raise refused
    if not allowed:
        raise ScheduleError(
            "no schedule of this target fits the hints",
            where="schedule",
            got=_shown(hints),
            need="hints that belong together",
            fix="give schedule.tile, or leave a hint auto",
        )
    return allowed


def completed(schedule: Schedule, target: Capability, operands: Operands = FP8) -> Schedule:
    """The schedule with everything decided that follows from its tile, its warps, and how CTAs share work.

    Raises:
        ScheduleError: the hardware cannot do it.
    """
    return _with_hints(schedule, ScheduleHints(), target, operands)


def predict(schedule: Schedule, m: int, n: int, k: int, target: Capability) -> float:
    """Predicted time of one launch on data that is not in L2, in µs."""
    return prediction(schedule, m, n, k, target).total_us


def prediction(
    schedule: Schedule, m: int, n: int, k: int, target: Capability, tables: CostTables = SHIPPED
) -> Prediction:
    """The terms of a launch's predicted time, by the shipped costs or others."""
    cost = _cost(schedule, tables)
    steps = _ceil(_ceil(k, schedule.tile[2]), schedule.split_k)
    memory = ((m * k + n * k) * _item_bytes(schedule) + 2 * m * n) / BYTES_PER_US
    rounds = _rounds(schedule, m, n, target)
    step = max(cost.step, OUTSIDE_ROW_US * rows_outside(schedule, m, rounds))
    crowded = schedule.split_k > 1 and rounds.ctas > CROWDED_FROM * rounds.at_once
    return Prediction(cost.base + CROWDED_US * crowded, step, cost.tile, memory, steps, rounds)


def rows_outside(schedule: Schedule, m: int, rounds: Rounds) -> float:
    """Rows beyond A that the CTAs of a round load in a step; a tile that is not larger than D lies inside of it."""
    return max(0, schedule.tile[0] - m) * min(rounds.ctas, rounds.at_once)


def _stored_by_threads(n: int) -> bool:
    """Whether rows of D end between 16-byte units; the addresses of such stores cost the largest tile its registers."""
    return n * D_ITEM_BYTES % hw.STORE_GRANULE_BYTES != 0


def _rounds(schedule: Schedule, m: int, n: int, target: Capability) -> Rounds:
    """How the output's tiles, whole clusters of them, are dealt out, one CTA per SM."""
    tiles_m = round_up(_ceil(m, schedule.tile[0]), schedule.cluster[0])
    tiles_n = round_up(_ceil(n, schedule.tile[1]), schedule.cluster[1])
    at_once = CLUSTER_FILL.get(schedule.cluster_size, schedule.cluster_size) * target.sms // CLUSTER_FILL[1]
    return Rounds((tiles_m, tiles_n), tiles_m * tiles_n * schedule.split_k, at_once)


def _cost(schedule: Schedule, tables: CostTables) -> Cost:
    rows, columns = rows_and_columns(schedule)
    by_rows = tables.by_rows(schedule.swap_ab, schedule.split_k > 1, _item_bytes(schedule))
    nearest = min(by_rows, key=lambda known: abs(known - rows))
    found = _interpolated(by_rows[nearest], columns)
    scale = rows / nearest
    if schedule.cluster_size > schedule.split_k:
        return Cost(found.base + tables.multicast_base, found.step * scale * tables.multicast_step, found.tile)
    return Cost(found.base, found.step * scale, found.tile)


def _interpolated(costs: Costs, columns: int) -> Cost:
    known = sorted(costs)
    if columns in costs or not known[0] < columns < known[-1]:
        return costs[min(known, key=lambda c: abs(c - columns))]
    low = max(c for c in known if c < columns)
    high = min(c for c in known if c > columns)
    return costs[low].between(costs[high], (columns - low) / (high - low))


def _plain(operands: Operands) -> list[Schedule]:
    """Rows of A on the M side: every tile alone, some sharing K, the largest one in pairs too."""
    step, narrow = operands.step_k, operands.item_bytes == 1
    pairs = (MULTICAST_TILE, MULTICAST_CLUSTER) if narrow else (MULTICAST_TILE_16, MULTICAST_CLUSTER_16)
    alone = SHIPPED.plain if narrow else SHIPPED.plain_16
    tiles = [(rows, columns) for rows, costs in alone.items() for columns in costs if rows > hw.WGMMA_ROWS]
    found = [_two_groups((rows, columns, step)) for rows, columns in tiles]
    found.append(_two_groups((*pairs[0], step)).replace(cluster=pairs[1]))
    for columns in SHIPPED.split_plain:
        found += [_two_groups((128, columns, step)).replace(split_k=parts) for parts in range(2, MAX_SPLIT + 1)]
    return found


def _narrow(operands: Operands) -> list[Schedule]:
    """64 rows of A on the M side, for one math warpgroup: every tile alone, and sharing K."""
    alone = [
        Schedule((hw.WGMMA_ROWS, columns, operands.step_k), 0, math_warpgroups=1)
        for columns in SHIPPED.plain[hw.WGMMA_ROWS]
    ]
    return [found.replace(split_k=parts) for found in alone for parts in range(1, MAX_SPLIT + 1)]


def _two_groups(tile: tuple[int, int, int]) -> Schedule:
    return Schedule(tile, 0, producer_registers=PRODUCER_REGISTERS, math_registers=MATH_REGISTERS)


def _swapped(m: int, operands: Operands, sharing: int) -> list[Schedule]:
    """Tokens on the N side: tiles that hold all of them, or a part; ``sharing`` CTAs of a cluster load one together."""
    step = operands.step_k
    narrowest = hw.SWIZZLE_SPANS[-1] // operands.item_bytes if operands.a_rows_contiguous else hw.ATOM_ROWS * sharing
    legal = [c for c in SWAPPED_COLUMNS if c % narrowest == 0]
    enough = next((c for c in legal if c >= m), legal[-1])
    found = []
    for columns in {enough, *(c for c in (32, 64) if c < m)}:
        for parts in range(1, MAX_SPLIT + 1):
            alone = Schedule((columns, 64, step), 0, split_k=parts, swap_ab=True, math_warpgroups=1)
            found += [alone, _two_groups((columns, 128, step)).replace(split_k=parts, swap_ab=True)]
    return found


def _clustered(schedule: Schedule, hints: ScheduleHints) -> Schedule:
    """The schedule with the cluster that a hint wants; the CTAs that share a tile are one already."""
    return schedule if hints.cluster is None or schedule.split_k > 1 else schedule.replace(cluster=hints.cluster)


def _allows(hints: ScheduleHints, schedule: Schedule) -> bool:
    wanted = {
        "cluster": hints.cluster, "split_k": hints.split_k, "swap_ab": hints.swap_ab, "scheduler": hints.scheduler,
        "math_warpgroups": hints.warps.math,
    }  # fmt: skip
    return all(value is None or getattr(schedule, name) == value for name, value in wanted.items())


def _alone(hints: ScheduleHints) -> bool:
    """Whether hints ask for what only steps that do not overlap can do, and leave that open."""
    return hints.promotion_overlap is None and bool(hints.lookahead or hints.unroll)


def _with_hints(schedule: Schedule, hints: ScheduleHints, target: Capability, operands: Operands) -> Schedule:
    changes = {
        "raster_group": hints.raster.group, "raster_along": hints.raster.along, "pdl": hints.pdl,
        "producer_registers": hints.registers.producer, "math_registers": hints.registers.math,
    }  # fmt: skip
    changed = schedule.replace(**{name: value for name, value in changes.items() if value is not None})
    changed = changed.replace(deal_columns=levers.deals(changed, hints.deal_columns, operands))
    changed = changed.replace(scales_ahead=levers.scales_ahead(changed, hints.scales_ahead, operands))
    changed = changed.replace(stages=hints.stages or most_stages(changed, target, operands.steps))
    overlap = False if _alone(hints) else hints.promotion_overlap
    changed = changed.replace(promotion_overlap=levers.overlaps(changed, overlap, operands))
    changed = changed.replace(
        promotion_burst=levers.bursts(changed, hints.promotion_burst, operands),
        lookahead=levers.looks_ahead(changed, hints.lookahead, operands),
        unroll=levers.unrolled(changed, hints.unroll, operands, 0.0),
    )
    return _checked(changed, operands)


def _from_tile(hints: ScheduleHints, target: Capability, scale_copy: str, operands: Operands) -> Schedule:
    """The schedule for a tile that the spec gives."""
    assert hints.tile is not None
    if hints.tile[2] != operands.step_k:
        why = "one scale block, one swizzle span" if operands.item_bytes == 1 else "one swizzle span"
        raise ScheduleError("the K extent of a tile", where="schedule.tile", got=hints.tile[2], need=operands.step_k,
                            fix=f"write {operands.step_k}: {why}")  # fmt: skip
    split = hints.split_k or (2 if hints.scheduler == "split_k" else 1)
    rows = hints.tile[1] if hints.swap_ab else hints.tile[0]
    groups = hints.warps.math or (2 if rows % (2 * hw.WGMMA_ROWS) == 0 else 1)
    several = groups > 1
    schedule = Schedule(
        hints.tile, 0, hints.cluster or (1, 1), split, bool(hints.swap_ab), groups,
        PRODUCER_REGISTERS if several else 0, MATH_REGISTERS if several else 0,
    )  # fmt: skip
    return _with_hints(schedule.replace(scale_copy=scale_copy), hints, target, operands)


def _checked(schedule: Schedule, operands: Operands) -> Schedule:
    """The schedule, if the hardware can do it."""
    rows, columns = rows_and_columns(schedule)
    groups = schedule.math_warpgroups
    hw.check_mma_tile(rows, columns, groups)
    threads = levers.threads(schedule)
    partials = int(operands.promoted) + int(schedule.promotion_overlap)
    hw.check_registers(rows, columns, groups, partials, levers.math_registers(schedule))
    if schedule.math_registers or schedule.producer_registers:
        hw.check_setmaxnreg([schedule.math_registers] * groups + [schedule.producer_registers], threads)
        hw.check_register_trade(schedule.math_registers, schedule.producer_registers, threads)
    if not schedule.swap_ab and schedule.split_k == 1:
        hw.store_slab_columns(columns)
    if operands.a_rows_contiguous if schedule.swap_ab else operands.b_rows_contiguous:
        hw.swizzle_span(columns * operands.item_bytes)
    shared_b = schedule.cluster[0] > 1
    transposed = operands.b_rows_contiguous if shared_b else operands.a_rows_contiguous
    hw.check_multicast(schedule.cluster, None if transposed else schedule.tile[1 if shared_b else 0])
    if schedule.cluster_size > 8:
        raise ScheduleError("CTAs per cluster", where="schedule", got=schedule.cluster_size, need="at most 8",
                            fix="lower cluster or split_k")  # fmt: skip
    if schedule.split_k > 1 and schedule.cluster != (1, 1):
        raise ScheduleError("a tile split over K fills its cluster", where="schedule.cluster", need="[1, 1]",
                            got=list(schedule.cluster), fix="drop cluster or split_k")  # fmt: skip
    return schedule


def most_stages(schedule: Schedule, target: Capability, steps: int = 0) -> int:
    """The deepest ring that fits beside the staging tile; at least 1, which the allocation then refuses.

    ``steps`` of K count where scales are copied ahead.
    """
    stage, rest = _smem_bytes(schedule, steps)
    return max(1, min(MAX_STAGES, (target.smem_per_cta - rest) // stage))


def _smem_bytes(schedule: Schedule, steps: int) -> tuple[int, int]:
    """Bytes of a stage, its barriers included, and of what stands beside the ring.

    That is the staging tile, the scales that are copied ahead for ``steps`` of K, and 64 to spare.
    """
    rows, columns = rows_and_columns(schedule)
    scales = sum(round_up(4 * count, pitch) for count, pitch in ring_scales(schedule))
    run = round_up(4 * _ceil(steps, schedule.split_k) * _blocks(schedule), 16) + 16
    runs = RUN_STAGES * run if schedule.scales_ahead else 0
    staging = 0 if schedule.split_k > 1 else rows * columns * D_ITEM_BYTES
    return (rows + columns) * STEP_BYTES + scales + 16, staging + runs + 64


def _leaves_room(schedule: Schedule, target: Capability) -> bool:
    """Whether two CTAs fit on an SM: the next launch's starts while this one's still runs."""
    stage, rest = _smem_bytes(schedule, 0)
    room = target.smem_per_sm // 2 - target.smem_reserved
    return schedule.math_warpgroups == 1 and schedule.stages * stage + rest <= room


def ring_scales(schedule: Schedule) -> list[tuple[int, int]]:
    """Scales that a stage holds, A's and B's, with the bytes that their place is rounded up to."""
    if _item_bytes(schedule) > 1:
        return []
    rows = scales_per_tile(schedule.tile[0], 1), hw.BULK_ALIGN_BYTES if schedule.scale_copy == "bulk" else 16
    return [rows] if schedule.scales_ahead else [rows, (_blocks(schedule), 16)]


def _blocks(schedule: Schedule) -> int:
    """Scales of B's blocks that a tile touches."""
    columns = schedule.tile[1]
    runs = column_runs(columns, levers.SCALE_BLOCK) if schedule.deal_columns else ()
    return len(runs) or scales_per_tile(columns, levers.SCALE_BLOCK)


def _item_bytes(schedule: Schedule) -> int:
    """Bytes of an element of A and B."""
    return STEP_BYTES // schedule.tile[2]


def _ceil(value: int, step: int) -> int:
    return -(-value // step)


def _shown(hints: ScheduleHints) -> str:
    given = {name: value for name, value in vars(hints).items() if value is not None}
    return ", ".join(f"{name}={value}" for name, value in given.items())
