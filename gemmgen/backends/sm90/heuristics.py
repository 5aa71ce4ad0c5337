"""All tuning knowledge for Hopper: which schedules are worth having, what each costs, which one serves which M.

A kernel's time is predicted as ``base + max(steps, memory) + waves · tile``: ``waves`` rounds of CTAs, each with its
steps of K at ``step`` µs, and ``tile`` µs per round that nothing hides. The constants were fitted to one H200
(``docs/performance.md``).
"""

from __future__ import annotations

from dataclasses import dataclass

from gemmgen.backends.capability import Capability
from gemmgen.backends.sm90 import hardware as hw
from gemmgen.errors import ScheduleError
from gemmgen.frontend import scales_per_tile
from gemmgen.schedule import Schedule
from gemmgen.spec.model import GemmSpec, ScheduleHints

STEP_K = 128
M_BOUNDS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144)
"""Where a plan may change kernels; within a range the choice is made for its largest M."""
LARGE_M = 12288
"""The M that stands for everything above the last bound."""
MEMORY_US_PER_BYTE = 1 / 4.2e6
MAX_STAGES = 10
PRODUCER_REGISTERS = 40
MATH_REGISTERS = 232
CLUSTER_FILL = {1: 132, 2: 132, 3: 132, 4: 132, 5: 125, 6: 126, 7: 126, 8: 120}
"""CTAs that fit at once in clusters of each size: clusters do not straddle GPCs, some of which have fewer SMs."""


@dataclass(frozen=True)
class Cost:
    """µs per launch, per step of K and per round of tiles."""

    base: float
    step: float
    tile: float


PLAIN_COSTS: dict[tuple[int, int], Cost] = {
    (128, 32): Cost(3.0, 0.215, 0.56),
    (128, 64): Cost(1.8, 0.296, 0.99),
    (128, 80): Cost(1.0, 0.40, 0.63),
    (128, 96): Cost(0.7, 0.428, 0.66),
    (128, 112): Cost(2.0, 0.50, 0.50),
    (128, 128): Cost(2.6, 0.446, 0.75),
    (128, 160): Cost(1.0, 0.675, 0.40),
    (256, 96): Cost(1.0, 0.62, 1.45),
    (256, 112): Cost(1.0, 0.72, 1.55),
    (256, 128): Cost(1.2, 0.785, 1.60),
}
"""Tiles of [rows of A, rows of B] on two math warpgroups."""

MULTICAST_COST = Cost(2.2, 0.765, 1.60)
"""256 × 128 tiles in clusters of two that share rows of B."""

SWAPPED_ROWS = 64
SWAPPED_ALWAYS = 64
"""Up to this M tokens lie on wgmma's N side: a 64-row tile of tokens would be mostly empty."""
SWAPPED_COLUMNS = (8, 16, 24, 32, 48, 64, 96, 128)
SPLIT_PLAIN = ((128, 64), (128, 128))
SPLIT_BASE, SPLIT_TILE = 2.0, 2.3
SPLITS = (2, 3, 4, 5, 6, 7, 8)


def plan(spec: GemmSpec, target: Capability) -> list[tuple[int, int | None, Schedule]]:
    """The kernels that serve every M of a spec with known N and K, as (smallest M, largest M, schedule)."""
    m, n, k = (spec.problem.dims[name] for name in ("M", "N", "K"))
    n, k = int(n), int(k)
    if isinstance(m, int):
        return [(0, None, choose(spec.schedule, m, n, k, target))]
    chosen: list[tuple[int, int | None, Schedule]] = []
    low = 0
    for high in (*M_BOUNDS, None):
        schedule = choose(spec.schedule, high or LARGE_M, n, k, target)
        if chosen and chosen[-1][2] == schedule:
            chosen[-1] = (chosen[-1][0], high, schedule)
        else:
            chosen.append((low, high, schedule))
        low = (high or 0) + 1
    return chosen


def choose(hints: ScheduleHints, m: int, n: int, k: int, target: Capability) -> Schedule:
    """The schedule with the least predicted time among those that the hints allow.

    Raises:
        ScheduleError: the hints contradict each other or the hardware.
    """
    return min(candidates(hints, m, target), key=lambda schedule: predict(schedule, m, n, k, target))


def candidates(hints: ScheduleHints, m: int, target: Capability) -> list[Schedule]:
    """Every schedule worth trying for M rows: the shipped list, narrowed and overridden by the hints."""
    if hints.tile is not None:
        return [_from_tile(hints, target)]
    shipped = [*_swapped(m), *(_plain() if m > SWAPPED_ALWAYS or hints.swap_ab is False else [])]
    allowed = [_with_hints(schedule, hints, target) for schedule in shipped if _allows(hints, schedule)]
    if not allowed:
        raise ScheduleError("no schedule of this target fits the hints", where="schedule", got=_shown(hints),
                            need="hints that belong together", fix="give schedule.tile, or leave a hint auto")  # fmt: skip
    return allowed


def predict(schedule: Schedule, m: int, n: int, k: int, target: Capability) -> float:
    """Predicted time of one launch on data that is not in L2, in µs."""
    cost = _cost(schedule)
    tiles_m = _round_up(-(-m // schedule.tile[0]), schedule.cluster[0])
    tiles_n = _round_up(-(-n // schedule.tile[1]), schedule.cluster[1])
    ctas = tiles_m * tiles_n * schedule.split_k
    size = schedule.cluster_size
    waves = -(-ctas // (CLUSTER_FILL.get(size, 120) * target.sms // 132))
    steps = waves * -(-(-(-k // STEP_K)) // schedule.split_k) * cost.step
    memory = (m * k + n * k + 2 * m * n) * MEMORY_US_PER_BYTE
    return cost.base + max(steps, memory) + waves * cost.tile


def _cost(schedule: Schedule) -> Cost:
    rows, columns = _rows_and_columns(schedule)
    if schedule.swap_ab:
        found = Cost(3.6, 0.105 + 0.0018 * columns, 0.65)
        scale = rows / (SWAPPED_ROWS * schedule.math_warpgroups) * (1 + 0.3 * (schedule.math_warpgroups - 1))
        found = Cost(found.base, found.step * scale, found.tile)
    else:
        near = min(PLAIN_COSTS, key=lambda tile: abs(tile[0] - rows) * 2 + abs(tile[1] - columns))
        scale = rows * columns / (near[0] * near[1])
        base = PLAIN_COSTS[near] if schedule.cluster_size == 1 or schedule.split_k > 1 else MULTICAST_COST
        found = Cost(base.base, base.step * scale, base.tile)
    if schedule.split_k > 1:
        return Cost(SPLIT_BASE, found.step, SPLIT_TILE + 0.004 * columns)
    return found


def _plain() -> list[Schedule]:
    found = []
    for rows, columns in PLAIN_COSTS:
        for cluster in ((1, 1), (2, 1)) if (rows, columns) == (256, 128) else ((1, 1),):
            found.append(Schedule((rows, columns, STEP_K), 0, cluster, producer_registers=PRODUCER_REGISTERS,
                                  math_registers=MATH_REGISTERS))  # fmt: skip
    for rows, columns in SPLIT_PLAIN:
        found += [Schedule((rows, columns, STEP_K), 0, split_k=parts, producer_registers=PRODUCER_REGISTERS,
                           math_registers=MATH_REGISTERS) for parts in SPLITS]  # fmt: skip
    return found


def _swapped(m: int) -> list[Schedule]:
    columns = next((c for c in SWAPPED_COLUMNS if c >= m), SWAPPED_COLUMNS[-1])
    return [Schedule((columns, SWAPPED_ROWS, STEP_K), 0, split_k=parts, swap_ab=True, math_warpgroups=1)
            for parts in (1, *SPLITS)]  # fmt: skip


def _allows(hints: ScheduleHints, schedule: Schedule) -> bool:
    wanted = {
        "cluster": hints.cluster, "split_k": hints.split_k, "swap_ab": hints.swap_ab, "scheduler": hints.scheduler,
        "math_warpgroups": hints.warps.math,
    }  # fmt: skip
    return all(value is None or getattr(schedule, name) == value for name, value in wanted.items())


def _with_hints(schedule: Schedule, hints: ScheduleHints, target: Capability) -> Schedule:
    changes = {
        "raster_group": hints.raster.group, "raster_along": hints.raster.along, "pdl": hints.pdl,
        "producer_registers": hints.registers.producer, "math_registers": hints.registers.math,
    }  # fmt: skip
    changed = schedule.replace(**{name: value for name, value in changes.items() if value is not None})
    return _checked(changed.replace(stages=hints.stages or most_stages(changed, target)))


def _from_tile(hints: ScheduleHints, target: Capability) -> Schedule:
    """The schedule for a tile that the spec gives."""
    assert hints.tile is not None
    if hints.tile[2] != STEP_K:
        raise ScheduleError("the K extent of a tile", where="schedule.tile", got=hints.tile[2], need=STEP_K,
                            fix=f"write {STEP_K}: one scale block, one swizzle span")  # fmt: skip
    split = hints.split_k or (2 if hints.scheduler == "split_k" else 1)
    if hints.scheduler == "persistent" and split > 1:
        raise ScheduleError("scheduler and split_k contradict each other", where="schedule", got=f"split_k={split}",
                            need="scheduler: split_k", fix="drop one of the two")  # fmt: skip
    rows = hints.tile[1] if hints.swap_ab else hints.tile[0]
    groups = hints.warps.math or (2 if rows % (2 * hw.WGMMA_ROWS) == 0 else 1)
    several = groups > 1
    schedule = Schedule(
        hints.tile, 0, hints.cluster or (1, 1), split, bool(hints.swap_ab), groups,
        PRODUCER_REGISTERS if several else 0, MATH_REGISTERS if several else 0,
    )  # fmt: skip
    return _with_hints(schedule, hints, target)


def _checked(schedule: Schedule) -> Schedule:
    """The schedule, if the hardware can do it."""
    rows, columns = _rows_and_columns(schedule)
    groups = schedule.math_warpgroups
    hw.check_mma_tile(rows, columns, groups)
    threads = groups * hw.GROUP_THREADS + (hw.GROUP_THREADS if schedule.math_registers else 2 * hw.WARP_THREADS)
    limit = schedule.math_registers or hw.launch_registers(threads)
    hw.check_registers(rows, columns, groups, promoted=True, limit=limit)
    if schedule.math_registers or schedule.producer_registers:
        hw.check_setmaxnreg([schedule.math_registers] * groups + [schedule.producer_registers], threads)
    if not schedule.swap_ab and schedule.split_k == 1:
        hw.store_slab_columns(columns)
    if schedule.cluster_size > 8:
        raise ScheduleError("CTAs per cluster", where="schedule", got=schedule.cluster_size, need="at most 8",
                            fix="lower cluster or split_k")  # fmt: skip
    if schedule.split_k > 1 and schedule.cluster != (1, 1):
        raise ScheduleError("a tile split over K fills its cluster", where="schedule.cluster", need="[1, 1]",
                            got=list(schedule.cluster), fix="drop cluster or split_k")  # fmt: skip
    return schedule


def most_stages(schedule: Schedule, target: Capability) -> int:
    """The deepest ring that fits beside the staging tile; at least 1, which the allocation then refuses."""
    rows, columns = _rows_and_columns(schedule)
    scales = sum(-(-4 * count // 16) * 16 for count in scale_counts(schedule))
    stage = (rows + columns) * STEP_K + scales + 16
    staging = 0 if schedule.split_k > 1 else rows * columns * 2
    return max(1, min(MAX_STAGES, (target.smem_per_cta - staging - 64) // stage))


def scale_counts(schedule: Schedule) -> tuple[int, int]:
    """Scales of A and of B that one step of a tile needs."""
    return scales_per_tile(schedule.tile[0], 1), scales_per_tile(schedule.tile[1], STEP_K)


def _rows_and_columns(schedule: Schedule) -> tuple[int, int]:
    """The tile as wgmma sees it: its M side and its N side."""
    m, n, _ = schedule.tile
    return (n, m) if schedule.swap_ab else (m, n)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _shown(hints: ScheduleHints) -> str:
    given = {name: value for name, value in vars(hints).items() if value is not None}
    return ", ".join(f"{name}={value}" for name, value in given.items())
