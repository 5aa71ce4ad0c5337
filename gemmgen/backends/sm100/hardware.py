"""Blackwell's arithmetic as pure functions: descriptors, tensor memory, arrivals, registers, legality.

Facts and their sources: docs/hardware.md sections 5 to 8. What Blackwell shares with Hopper is in ``sm90.hardware``.
"""

from __future__ import annotations

from gemmgen.backends.capability import MIN_TENSOR_MEMORY_COLUMNS, TENSOR_MEMORY_COLUMNS
from gemmgen.errors import ScheduleError

LANES = 128
"""Lanes of tensor memory: the rows of an accumulator."""
LANES_PER_WARP = 32
"""Warp w of a warpgroup reaches lanes 32 · w … + 31."""
MMA_K_BYTES = 32
STEP_ELEMENTS = 128
"""Elements of K in a step with scales: one swizzle span of FP8."""
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
SCALED_KIND, SCALED_KIND_CODES = "mxf8f6f4", TYPE_CODES["f8f6f4"]
"""The kind that scales its operands itself, by powers of two for every 32 elements of K."""
SCALES_PER_WORD = 4
SCALE_GROUP_ROWS, SCALE_GROUP_COLUMNS, SCALE_GROUP_BYTES = 128, 4, 512
"""Scales reach tensor memory in groups of 128 words, one per row: 4 columns, from 512 bytes of shared memory."""
POWER_OF_TWO_SCALES = 1
WHOLE_WORD = 0xFFFFFFFF
PAIR = 2
"""CTAs that multiply together."""
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


def scale_groups(rows: int) -> int:
    """Groups of scale words for so many rows of an operand."""
    return -(-rows // SCALE_GROUP_ROWS)


def scale_columns(rows: int, columns: int) -> int:
    """Columns of tensor memory for the scales of a step's operands."""
    return SCALE_GROUP_COLUMNS * (scale_groups(rows) + scale_groups(columns))


def pairs_share(columns: int, narrowest: int = 1) -> bool:
    """Whether a pair of CTAs can have half of an operand with so many rows each.

    Args:
        columns: the tile's extent on the tensor core's N side.
        narrowest: rows of which an operand's tile must be a multiple.
    """
    return columns % (PAIR * COLUMN_STEP) == 0 and columns // PAIR % narrowest == 0


def check_pair(columns: int, cluster: tuple[int, int]) -> None:
    """Raise ScheduleError unless a pair of CTAs can multiply tiles of so many columns together."""
    if not pairs_share(columns):
        raise ScheduleError("a pair of CTAs shares the N side of tcgen05.mma", where="schedule.tile",
                            got=f"{columns} columns", need=f"a multiple of {PAIR * COLUMN_STEP}",
                            fix="change tile, or write cta_group: 1")  # fmt: skip
    if cluster != (1, 1):
        raise ScheduleError("a pair of CTAs is a cluster of its own", where="schedule.cluster", got=list(cluster),
                            need=[1, 1], fix="leave cluster auto, or write cta_group: 1")  # fmt: skip


def scaled_instruction_descriptor(
    rows: int, columns: int, a_dtype: str, b_dtype: str, a_transposed: bool = False, b_transposed: bool = False
) -> int:
    """The 32-bit instruction descriptor of a product with scales, for the first scale of each word."""
    codes = SCALED_KIND_CODES
    types = codes[a_dtype] << 7 | codes[b_dtype] << 10 | a_transposed << 15 | b_transposed << 16
    return types | columns >> 3 << 17 | POWER_OF_TWO_SCALES << 23 | rows >> 7 << 27


def scale_ids(a: int, b: int) -> int:
    """The bits of an instruction descriptor that choose the scales of a and of b in their words."""
    return a << 29 | b << 4


def scale_descriptor() -> int:
    """The shared-memory descriptor of a group of scale words, rows of 16 bytes, without its start address."""
    return SWIZZLE_ROWS * 16 >> 4 << 32 | 1 << 46


def scale_steps(vector: int) -> tuple[int, ...]:
    """By how much the place in its word of a product's scale exceeds that of a step's first product.

    Args:
        vector: elements of K that share a scale.

    Raises:
        ScheduleError: a product's elements would have several scales, or a step would need several words.
    """
    products = STEP_ELEMENTS // MMA_K_BYTES
    if vector % MMA_K_BYTES or STEP_ELEMENTS % vector:
        raise ScheduleError("elements of K that share a scale", where="operands", got=vector,
                            need=f"{MMA_K_BYTES}, {2 * MMA_K_BYTES} or {STEP_ELEMENTS}")  # fmt: skip
    return tuple(index * MMA_K_BYTES // vector for index in range(products))


def scales_within(extent: int, step: int, vector: int) -> int:
    """The bytes of a scale word, as a mask, up to the last one that the last step of K multiplies something by.

    Args:
        extent: elements of K.
        step: those of a step.
        vector: those that share a scale; a word whose scales last for several steps is never read behind K.
    """
    if vector >= step:
        return WHOLE_WORD
    before = (extent - 1) // step * step // vector % SCALES_PER_WORD
    used = before + -(-((extent - 1) % step + 1) // vector)
    return WHOLE_WORD >> 8 * (SCALES_PER_WORD - used)


def shared_descriptor(swizzle_bytes: int, slab_bytes: int = 16) -> int:
    """A shared-memory descriptor without its start address: 8 rows to the next 8, version, swizzle.

    Args:
        swizzle_bytes: width of the rows.
        slab_bytes: for an MN-major tile, from one slab of rows to the next; K-major tiles have one slab and ignore it.
    """
    atom_bytes = SWIZZLE_ROWS * swizzle_bytes
    return atom_bytes >> 4 << 32 | slab_bytes >> 4 << 16 | 1 << 46 | SWIZZLE_CODES[swizzle_bytes] << 61


def empty_arrivals(warps: int, commits: int, cluster: int) -> int:
    """Arrivals per phase of an "empty" barrier: reading warps and commits, from each CTA that fills the stage."""
    return (warps + commits) * cluster


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
