"""Blackwell's arithmetic as pure functions: descriptors, tensor memory, arrivals, registers, legality.

Facts and their sources: HARDWARE.md sections 5 to 8. What Blackwell shares with Hopper is in ``sm90.hardware``.
"""

from __future__ import annotations

from gemmgen.backends.capability import MIN_TENSOR_MEMORY_COLUMNS, TENSOR_MEMORY_COLUMNS
from gemmgen.errors import ScheduleError

LANES = 128
"""Lanes of tensor memory: the rows of an accumulator."""
LANES_PER_WARP = 32
"""Warp w of a warpgroup reaches lanes 32 · w … + 31."""
MMA_K_BYTES = 32
SWIZZLE_ROWS = 8
"""Rows of a swizzle atom."""
MIN_COLUMNS, MAX_COLUMNS, COLUMN_STEP = 16, 256, 16
"""The N side of tcgen05.mma with 128 rows; steps of 8 are unconfirmed on silicon."""
LOAD_COLUMNS = (32, 16, 8)
"""Columns of one tcgen05.ld, widest first: a thread gets one 32-bit register for each."""
OTHER_REGISTERS = 48
"""Registers a promoting thread needs beside its sums and one load: addresses, loop state, scales."""
STORED_DTYPES = ("bf16", "f16", "f32")
"""Types that the epilogue stores FP32 sums as."""
F32_ACCUMULATOR = 1
TYPE_CODES = {"f8f6f4": {"e4m3": 0, "e5m2": 1}, "f16": {"f16": 0, "bf16": 1}}
"""Operand types in the instruction descriptor, by the kind of tcgen05.mma that takes them."""
SWIZZLE_CODES = {0: 0, 128: 2, 64: 4, 32: 6}
"""Bits 61..63 of a shared-memory descriptor by swizzle span in bytes."""


def mma_kind(a_dtype: str, b_dtype: str) -> str:
    """The kind of tcgen05.mma for these operands.

    Raises:
        ScheduleError: none multiplies them with each other.
    """
    for kind, codes in TYPE_CODES.items():
        if a_dtype in codes and b_dtype in codes:
            return kind
    raise ScheduleError("operand types of tcgen05.mma", where="operands", got=f"{a_dtype}, {b_dtype}",
                        need=" | ".join(", ".join(codes) for codes in TYPE_CODES.values()))  # fmt: skip


def instruction_descriptor(
    rows: int, columns: int, a_dtype: str, b_dtype: str, a_transposed: bool = False, b_transposed: bool = False
) -> int:
    """The 32-bit instruction descriptor of a dense product with FP32 sums; transposed operands are MN-major."""
    codes = TYPE_CODES[mma_kind(a_dtype, b_dtype)]
    types = codes[a_dtype] << 7 | codes[b_dtype] << 10 | a_transposed << 15 | b_transposed << 16
    return F32_ACCUMULATOR << 4 | types | columns >> 3 << 17 | rows >> 4 << 24


def shared_descriptor(swizzle_bytes: int, slab_bytes: int = 16) -> int:
    """A shared-memory descriptor without its start address: 8 rows to the next 8, version, swizzle.

    Args:
        swizzle_bytes: width of the rows.
        slab_bytes: for an MN-major tile, from one slab of rows to the next; K-major tiles have one slab and ignore it.
    """
    atom_bytes = SWIZZLE_ROWS * swizzle_bytes
    return atom_bytes >> 4 << 32 | slab_bytes >> 4 << 16 | 1 << 46 | SWIZZLE_CODES[swizzle_bytes] << 61


def empty_arrivals(math_warps: int, cluster: int) -> int:
    """Arrivals per phase of an "empty" barrier, per CTA: one commit, and every warp that reads scales."""
    return (math_warps + 1) * cluster


def allocated_columns(needed: int) -> int:
    """Columns to allocate for ``needed``: a power of two from 32 on.

    Raises:
        ScheduleError: tensor memory has fewer.
    """
    columns = max(MIN_TENSOR_MEMORY_COLUMNS, 1 << (needed - 1).bit_length())
    if columns > TENSOR_MEMORY_COLUMNS:
        raise ScheduleError("columns of tensor memory", where="schedule.tile", got=needed,
                            need=f"at most {TENSOR_MEMORY_COLUMNS}", fix="use a narrower tile")  # fmt: skip
    return columns


def check_mma_tile(rows: int, columns: int, warpgroups: int) -> None:
    """Raise ScheduleError unless tcgen05.mma can compute the tile and the warpgroups can share out its columns."""
    if rows != LANES:
        raise ScheduleError("tcgen05.mma fills 128 lanes of tensor memory", where="schedule.tile", got=f"{rows} rows",
                            need=LANES, fix="change tile, or swap_ab")  # fmt: skip
    if columns % COLUMN_STEP or not MIN_COLUMNS <= columns <= MAX_COLUMNS:
        raise ScheduleError("the N side of tcgen05.mma", where="schedule.tile", got=f"{columns} columns",
                            need=f"a multiple of {COLUMN_STEP} from {MIN_COLUMNS} to {MAX_COLUMNS}",
                            fix="change tile")  # fmt: skip
    if columns % (warpgroups * COLUMN_STEP):
        raise ScheduleError("warpgroups share the columns of a tile", where="schedule.warps.math",
                            got=f"{warpgroups} for {columns} columns",
                            need=f"equal shares, multiples of {COLUMN_STEP}", fix="use fewer math warps")  # fmt: skip


def load_columns(columns: int, block: int | None = None) -> int:
    """Columns of each tcgen05.ld that a warpgroup reads its ``columns`` with, none of which straddles a ``block``."""
    for width in LOAD_COLUMNS:
        if columns % width == 0 and (block is None or block % width == 0):
            return width
    raise ScheduleError("columns of a warpgroup", where="schedule.tile", got=columns, need="a multiple of 8")


def registers_needed(columns: int) -> int:
    """About how many registers a thread needs that adds up ``columns`` columns in FP32."""
    return columns + load_columns(columns) + OTHER_REGISTERS


def check_registers(columns: int, limit: int) -> None:
    """Raise ScheduleError when FP32 sums of ``columns`` columns do not fit into ``limit`` registers per thread."""
    need = registers_needed(columns)
    if need > limit:
        raise ScheduleError("sums do not fit into registers", where="schedule.tile",
                            got=f"about {need} registers per thread", need=f"at most {limit}",
                            fix="use a narrower tile, or more math warpgroups")  # fmt: skip
