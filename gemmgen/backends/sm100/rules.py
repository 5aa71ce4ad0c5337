"""Laws of the Blackwell target level, checked before NVRTC sees anything: tensor memory, shapes, areas.

``order_rules`` has those about barriers, fences and the order of ops; what Blackwell shares with Hopper (launch, shared
memory, loads, registers) is checked by Hopper's rules. Facts: docs/hardware.md section 5.
"""

from __future__ import annotations

from gemmgen.backends.sm90.hardware import SWIZZLE_ATOM_BYTES
from gemmgen.backends.sm90.rules import check_frame
from gemmgen.backends.sm90.sites import Program, Site
from gemmgen.backends.sm100 import hardware as hw
from gemmgen.backends.sm100.math_ops import FetchOp, PromoteOp, RowScaleOp, StoreColumnsOp, StoreRowsOp, TmaStoreOp
from gemmgen.backends.sm100.ops import (
    CommitOp,
    MmaOp,
    ScaledMmaOp,
    ScaleFactorsOp,
    TmemAddressOp,
    TmemAllocOp,
    TmemFreeOp,
)
from gemmgen.backends.sm100.order_rules import check_order
from gemmgen.errors import IRError, ScheduleError
from gemmgen.ir.core import Level, Module
from gemmgen.ir.rewrite import walk
from gemmgen.ir.tile_ops import extents
from gemmgen.ir.types import BarrierType
from gemmgen.ir.verifier import fail, module_rule

DIALECT = "sm100."
ATOM_BYTES = SWIZZLE_ATOM_BYTES


@module_rule(Level.TARGET)
def check_sm100_module(module: Module) -> None:
    """Check a module of ``sm100.*`` ops.

    Raises:
        IRError: the first law that is broken.
    """
    if not any(op.NAME.startswith(DIALECT) for op in walk(module)):
        return
    program = Program.of(module)
    check_frame(program)
    allocated = _check_allocation(program)
    for site, op in program.all(MmaOp):
        _check_mma(program, site, op, allocated)
    taken: dict[int, ScaleFactorsOp] = {}
    for _, op in program.all(ScaleFactorsOp):
        _check_scale_factors(program, op, allocated, taken)
    for site, op in program.all(PromoteOp, FetchOp):
        _check_reading(program, site, op)
    for _, op in program.all(RowScaleOp):
        if program.area(op, op.area).stage_bytes < 4 * hw.LANES:
            got = program.area(op, op.area).stage_bytes
            fail(op, f"area '{op.area}' has a scale per row", got=got, need=4 * hw.LANES)
    for site, op in program.all(TmaStoreOp):
        _check_store(program, site, op)
    check_order(program)


def _check_allocation(program: Program) -> int:
    """One warp allocates a legal number of columns once, and the same warp frees them once, behind everything."""
    allocs, frees = program.all(TmemAllocOp), program.all(TmemFreeOp)
    for kind, found in ((TmemAllocOp, allocs), (TmemFreeOp, frees), (TmemAddressOp, program.all(TmemAddressOp))):
        if len(found) != 1 or found[0][0].role is not None:
            where = f"module @{program.module.name}"
            got = f"{len(found)}{' inside of a role' if found else ''}"
            raise IRError(f"{kind.NAME} stands once, where all threads pass", where=where, got=got, need=1)
    alloc, free = allocs[0][1], frees[0][1]
    try:
        legal = hw.allocated_columns(alloc.columns)
    except ScheduleError as error:
        fail(alloc, error.what, got=error.got, need=error.need)
    if alloc.columns != legal:
        fail(alloc, "columns of an allocation", got=alloc.columns,
             need=f"a power of two from {hw.MIN_TENSOR_MEMORY_COLUMNS} on")  # fmt: skip
    if (free.columns, free.warp) != (alloc.columns, alloc.warp):
        fail(free, "what is allocated is freed, by the same warp", got=f"{free.columns} columns by warp {free.warp}",
             need=f"{alloc.columns} columns by warp {alloc.warp}")  # fmt: skip
    if not 0 <= alloc.warp < program.launch.threads // hw.LANES_PER_WARP:
        need = f"one of {program.launch.threads} threads"
        fail(alloc, "a whole warp of the CTA allocates", got=f"warp {alloc.warp}", need=need)
    return alloc.columns


def _check_mma(program: Program, site: Site, op: MmaOp, allocated: int) -> None:
    """One thread multiplies whole areas into columns that were allocated."""
    if not site.elect:
        fail(op, "one thread starts a product", got=f"{site.threads} threads", need="sm100.warps with elect")
    try:
        hw.check_mma_tile(op.rows, op.columns, 1)
        hw.mma_kind(op.a_dtype, op.b_dtype)
        if op.ctas > 1:
            hw.check_pair(op.columns, (1, 1))
        if isinstance(op, ScaledMmaOp):
            hw.scale_steps(op.vector_a)
            hw.scale_steps(op.vector_b)
    except ScheduleError as error:
        fail(op, error.what, got=error.got, need=error.need)
    if (op.k is None) != _by_step(program, op):
        fail(op, "a sum that is handed over in every step starts anew in each", got=f"k={op.k}",
             need="k where the accumulator is committed behind the steps")  # fmt: skip
    if op.steps * hw.MMA_K_BYTES != op.row_bytes or op.row_bytes not in hw.SWIZZLE_CODES or not op.row_bytes:
        got = f"{op.steps} of {hw.MMA_K_BYTES} bytes in rows of {op.row_bytes}"
        fail(op, "steps of a product cover one swizzle span", got=got, need="32, 64 or 128 bytes")
    stages = accumulator_stages(program, op)
    if op.first < 0 or op.first + stages * op.columns > allocated:
        fail(op, "accumulators lie inside of the allocation", got=f"{stages} × {op.columns} columns from {op.first} on",
             need=f"{allocated} columns")  # fmt: skip
    for name, rows in ((op.a, op.rows), (op.b, op.columns // op.ctas)):
        area = program.area(op, name)
        if area.offset % ATOM_BYTES or area.stage_bytes % ATOM_BYTES or rows * op.row_bytes != area.stage_bytes:
            got = f"offset {area.offset}, {area.stage_bytes} bytes per stage"
            fail(op, f"a product reads all of area '{name}', in swizzle atoms", got=got,
                 need=f"{rows} rows of {op.row_bytes} bytes, multiples of {ATOM_BYTES}")  # fmt: skip


def _check_scale_factors(
    program: Program, op: ScaleFactorsOp, allocated: int, taken: dict[int, ScaleFactorsOp]
) -> None:
    """Whole groups of words go to columns that were allocated and that no sum and no other scale uses.

    ``taken`` has those of the scales before them, and gets theirs.
    """
    area = program.area(op, op.area)
    if op.groups * hw.SCALE_GROUP_BYTES > area.stage_bytes:
        fail(op, f"a stage of area '{op.area}' holds its groups of scales", got=f"{area.stage_bytes} bytes",
             need=op.groups * hw.SCALE_GROUP_BYTES)  # fmt: skip
    end = op.first + (area.stages - 1) * op.columns + op.groups * hw.SCALE_GROUP_COLUMNS
    sums = max((mma.first + accumulator_stages(program, mma) * mma.columns for _, mma in program.all(MmaOp)), default=0)
    if op.first < sums or end > allocated or op.groups * hw.SCALE_GROUP_COLUMNS > op.columns:
        fail(op, "scales have columns of their own for every stage", got=f"columns {op.first} to {end}",
             need=f"{sums} to {allocated}")  # fmt: skip
    for start in range(op.first, end, op.columns):
        for column in range(start, start + op.groups * hw.SCALE_GROUP_COLUMNS):
            other = taken.setdefault(column, op)
            if other is not op:
                fail(op, "scales have columns of their own for every stage", got=f"column {column}",
                     need=f"none of those of area '{other.area}'")  # fmt: skip


def accumulator_stages(program: Program, op: MmaOp) -> int:
    """Stages of the ring that a product's cursor goes through: those of the barriers that it is used with."""
    for site in program.sites:
        barriers = getattr(site.op, "barriers", None)
        if getattr(site.op, "cursor", None) == op.parts and barriers is not None:
            return barriers.type.count if isinstance(barriers.type, BarrierType) else 0
    fail(op, f"{op.parts} is the place in no ring", got="no barriers", need="waits for a free accumulator")


def _by_step(program: Program, op: MmaOp) -> bool:
    """Whether the accumulator of a product is committed in every step of K."""
    return any(site.steps is not None and commit.cursor == op.parts for site, commit in program.all(CommitOp))


def _check_reading(program: Program, site: Site, op: PromoteOp | FetchOp) -> None:
    """Whole warpgroups, lanes in order, read columns that a product writes, and share them out."""
    products = {(product.first, product.columns) for _, product in program.all(MmaOp)}
    if (op.first, op.columns) not in products:
        need = ", ".join(f"{columns} from {first} on" for first, columns in sorted(products))
        fail(op, "what is read is what a product wrote", got=f"{op.columns} from {op.first} on", need=need)
    fragment = op.result if isinstance(op, FetchOp) else op.acc
    rows, columns = extents(fragment)
    if site.first != 0 or rows != hw.LANES or columns * site.groups != op.columns:
        got = f"{fragment.type} in {site.groups} warpgroups from warp {site.first} on"
        fail(op, "warpgroups share out the columns of a partial sum", got=got, need=f"{hw.LANES} x {op.columns} in all")
    if op.width not in hw.LOAD_COLUMNS or columns % op.width:
        fail(op, "columns of a load from tensor memory", got=op.width, need=f"a divisor of {columns}, at most 32")


def _check_store(program: Program, site: Site, op: TmaStoreOp) -> None:
    """The warpgroups' boxes make up the staging tile, swizzled as the fragments were written."""
    found, area = program.maps.get(op.map.name), program.area(op, op.area)
    if found is None or found.box != tuple(reversed(op.box)):
        got = list(found.box) if found else op.map.type
        fail(op, "a store and its tensor map", got=got, need=f"a box of {list(reversed(op.box))}")
    rows, columns = op.box
    row_bytes = columns * 2
    total = site.groups * op.slabs * rows * row_bytes
    if total != area.stage_bytes or found.swizzle != f"{row_bytes}B":
        got = f"{total} bytes, swizzle {found.swizzle}"
        fail(op, f"stores empty area '{op.area}'", got=got, need=f"{area.stage_bytes} bytes, swizzle {row_bytes}B")
    for what, value in (("area", area.offset), ("slabs", op.slab_bytes), ("groups", op.group_bytes)):
        if value % (hw.SWIZZLE_ROWS * row_bytes):
            fail(op, f"boxes start at swizzle atoms: {what}", got=value, need=f"a multiple of {8 * row_bytes}")
    for _, written in program.all(StoreRowsOp, StoreColumnsOp):
        if written.area == op.area and written.slab != columns:
            fail(written, "fragments are written as they are stored", got=f"slabs of {written.slab}", need=columns)
