"""Hopper's arithmetic as pure functions: barrier arrivals, transaction bytes, descriptors, registers, legality.

Facts and their sources: docs/hardware.md sections 1 to 4, 8 and 10.
"""

from __future__ import annotations

from gemmgen.errors import ScheduleError

WGMMA_ROWS = 64
MMA_K_BYTES = 32
WARP_THREADS = 32
GROUP_WARPS = 4
GROUP_THREADS = GROUP_WARPS * WARP_THREADS
SWIZZLE_BYTES = 128
SWIZZLE_ATOM_BYTES = 8 * SWIZZLE_BYTES
SWIZZLE_SPANS = (128, 64, 32)
"""Bytes of a row that is swizzled as a whole; 8 such rows are an atom."""
ATOM_ROWS = 8
MATRIX_COLS = 8
MAX_BOX = 256
"""Elements of a TMA box along each axis."""
BULK_ALIGN_BYTES = 128
"""Alignment of what TMA writes into shared memory."""
STORE_GRANULE_BYTES = 16
"""Units in which a TMA store clips at the end of a row, as measured on an H200."""
BULK_GRANULE_BYTES = 16
"""Bytes of a box's rows are a multiple of this."""
SCALE_BYTES = 4
OUTPUT_DTYPES = ("bf16", "f16", "f32")
"""Types that a fragment can leave as."""
REGISTER_STEP = 8
MIN_REGISTERS = 24
MAX_REGISTERS = 256
REGISTERS_PER_SM = 65536
OTHER_REGISTERS, OVERLAP_REGISTERS = 24, 32
"""Registers a multiplying thread needs beside its accumulators for addresses, loop state and scales: at least, and if
steps overlap. Which kernels spill, only ptxas knows."""


def accumulator_registers(columns: int) -> int:
    """Registers per thread of one 64 × ``columns`` FP32 wgmma accumulator."""
    return WGMMA_ROWS * columns // GROUP_THREADS


def wgmma_swizzle_code(swizzle_bytes: int) -> int:
    """Bits 62..63 of wgmma's shared-memory descriptor."""
    return {128: 1, 64: 2, 32: 3}[swizzle_bytes]


def copying_lanes(counts: list[int]) -> int:
    """Lanes of a warp that have something to copy when they share out buffers of these many elements."""
    return min(WARP_THREADS, max(counts, default=0))


def full_arrivals(bulk: bool, lanes: int) -> int:
    """Arrivals per phase of a "full" barrier: one for the bulk loads of this CTA, one per lane that copies scales."""
    return int(bulk) + lanes


def warp_arrivals(cluster: int, lanes: bool) -> int:
    """Arrivals at an "empty" barrier, per phase, of one warp in each of ``cluster`` CTAs.

    With ``lanes`` every lane arrives at its own CTA's barrier; elsewhere one lane arrives for its warp.
    """
    return (WARP_THREADS if lanes else 1) + cluster - 1


def launch_registers(threads: int) -> int:
    """Registers per thread that a launch of ``threads`` threads, one CTA per SM, can give; a multiple of 8."""
    return min(REGISTERS_PER_SM // threads // REGISTER_STEP * REGISTER_STEP, MAX_REGISTERS - 1)


def check_mma_tile(rows: int, columns: int, warpgroups: int) -> None:
    """Raise ScheduleError unless wgmma can compute a ``rows`` × ``columns`` tile with ``warpgroups`` warpgroups."""
    if rows % (WGMMA_ROWS * warpgroups) or rows < 1:
        raise ScheduleError("wgmma multiplies 64 rows per warpgroup", where="schedule.tile", got=f"{rows} rows for "
                            f"{warpgroups} warpgroups", need=f"a multiple of {WGMMA_ROWS * warpgroups}",
                            fix="change tile or warps.math")  # fmt: skip
    if rows > MAX_BOX:
        raise ScheduleError("a tile's rows are one TMA box", where="schedule.tile", got=f"{rows} rows",
                            need=f"at most {MAX_BOX}", fix="change tile")  # fmt: skip
    if columns % 8 or not 8 <= columns <= 256:
        raise ScheduleError("wgmma's N side", where="schedule.tile", got=f"{columns} columns",
                            need="a multiple of 8 from 8 to 256", fix="change tile")  # fmt: skip


def column_scale_registers(columns: int) -> int:
    """Registers per thread that hold the scales of a fragment's columns: a thread has two of every 8."""
    return columns // MATRIX_COLS * 2


def check_registers(rows: int, columns: int, warpgroups: int, partials: int, limit: int) -> None:
    """Raise ScheduleError when accumulators do not fit into ``limit`` registers per thread.

    A promoted tile needs its FP32 sum, and ``partials`` partial sums of 64 rows at a time.
    """
    waves = rows // WGMMA_ROWS // warpgroups
    need = accumulator_registers(columns) * (waves + partials) + OTHER_REGISTERS
    if need > limit:
        raise ScheduleError("accumulators do not fit into registers", where="schedule.tile",
                            got=f"about {need} registers per thread", need=f"at most {limit}",
                            fix="use a smaller tile, or more math warpgroups")  # fmt: skip


def check_setmaxnreg(role_registers: list[int], threads: int) -> None:
    """Raise ScheduleError unless the warpgroups' registers are legal and fit into the SM.

    Args:
        role_registers: registers per thread of each warpgroup.
        threads: threads per CTA, which fix what the launch gives.
    """
    for count in role_registers:
        if count % REGISTER_STEP or not MIN_REGISTERS <= count <= MAX_REGISTERS:
            raise ScheduleError("setmaxnreg", where="schedule.registers", got=count,
                                need=f"a multiple of 8 from {MIN_REGISTERS} to {MAX_REGISTERS}")  # fmt: skip
    pool = launch_registers(threads) * len(role_registers)
    if sum(role_registers) > pool:
        raise ScheduleError("the warpgroups want more registers than the launch gives", where="schedule.registers",
                            got=f"{role_registers} = {sum(role_registers)} per thread column", need=f"at most {pool}",
                            fix="lower registers.math")  # fmt: skip


def check_multicast(cluster: tuple[int, int], shared_rows: int | None) -> None:
    """Raise ScheduleError unless CTAs of the cluster can load an operand's box together.

    Args:
        cluster: CTAs along (m, n).
        shared_rows: rows of the box that they share; None where K runs along its rows, which always suits.
    """
    if min(cluster) > 1:
        raise ScheduleError("operands are shared along one axis", where="schedule.cluster", got=list(cluster),
                            need="[c, 1] or [1, c]", fix="write 1 for one of them")  # fmt: skip
    unit = ATOM_ROWS * max(cluster)
    if max(cluster) > 1 and shared_rows is not None and shared_rows % unit:
        raise ScheduleError("CTAs of a cluster load equal shares of a box, in whole swizzle atoms",
                            where="schedule.cluster", got=f"{shared_rows} rows over {max(cluster)} CTAs",
                            need=f"a multiple of {unit} rows", fix="lower cluster, or change tile")  # fmt: skip


def check_register_trade(math: int, producer: int, threads: int) -> None:
    """Raise ScheduleError unless multiplying warps take registers and loading warps give them away.

    ``setmaxnreg.inc`` below, or ``.dec`` above, what a thread has is undefined.
    """
    given = launch_registers(threads)
    if not producer <= given <= math:
        raise ScheduleError("registers are traded around what the launch gives", where="schedule.registers",
                            got=f"producer {producer}, math {math}", need=f"producer <= {given} <= math",
                            fix="leave registers auto")  # fmt: skip


def swizzle_span(row_bytes: int) -> int:
    """Bytes of the slabs that a tile with rows of ``row_bytes`` is cut into: the widest swizzle span that divides them.

    Raises:
        ScheduleError: none does.
    """
    for span in SWIZZLE_SPANS:
        if row_bytes % span == 0:
            return span
    raise ScheduleError("rows of an operand's tile", where="schedule.tile", got=f"{row_bytes} bytes",
                        need=f"a multiple of {SWIZZLE_SPANS[-1]} bytes", fix="change tile")  # fmt: skip


def k_advance_bytes(span: int, item_bytes: int) -> int:
    """Bytes from the operands of one wgmma to those of the next, which lie MMA_K_BYTES of K further on.

    Args:
        span: bytes of a slab's rows where these follow each other along K; 0 where K runs along the rows.
        item_bytes: bytes of an element.
    """
    return MMA_K_BYTES // item_bytes * span if span else MMA_K_BYTES


def store_slab_columns(columns: int) -> int:
    """Columns of 16-bit elements of one TMA store: the widest of 64, 32, 16, 8 that divides the tile."""
    for width in (64, 32, 16):
        if columns % width == 0:
            return width
    raise ScheduleError("columns of the output tile", where="schedule.tile", got=columns, need="a multiple of 16",
                        fix="change tile")  # fmt: skip
