"""Laws of the Hopper target level, checked before NVRTC sees anything: launch, shared memory, tensor maps, registers.

``order_rules`` has those about barriers and the order of ops. Facts: docs/hardware.md sections 1 to 4.
"""

from __future__ import annotations

from math import prod

from gemmgen.backends.capability import capability
from gemmgen.backends.sm90 import hardware as hw
from gemmgen.backends.sm90.math_ops import (
    DescriptorOp,
    ReduceStoreOp,
    StageDescriptorOp,
    StoreColumnsOp,
    StoreRowsOp,
    TmaStoreOp,
    WgmmaOp,
    WritePartialOp,
)
from gemmgen.backends.sm90.ops import (
    CopyScalesOp,
    EvictFirstOp,
    Launch,
    SetRegistersOp,
    Sm90Op,
    TensorMap,
    TileLoopOp,
    TmaLoadOp,
    TmaLoadScalesOp,
)
from gemmgen.backends.sm90.order_rules import check_order
from gemmgen.backends.sm90.run_rules import check_column_runs
from gemmgen.backends.sm90.sites import Program, Site, area_names, landing_bytes
from gemmgen.errors import IRError, ScheduleError
from gemmgen.ir.core import Level, Module, Op
from gemmgen.ir.rewrite import walk
from gemmgen.ir.tile_ops import extents
from gemmgen.ir.types import MAP, SCALAR_BITS
from gemmgen.ir.verifier import fail, module_rule

DIALECT = "sm90."


@module_rule(Level.TARGET)
def check_sm90_module(module: Module) -> None:
    """Check a module of ``sm90.*`` ops.

    Raises:
        IRError: the first law that is broken.
    """
    if not any(isinstance(op, Sm90Op) and op.NAME.startswith(DIALECT) for op in walk(module)):
        return
    program = Program.of(module)
    check_frame(program)
    for site, op in program.all(TmaStoreOp):
        _check_tma_store(program, site, op)
    for site, op in program.all(WgmmaOp):
        _check_wgmma(program, site, op)
    for _, op in program.all(ReduceStoreOp):
        _check_fits(program, op, op.area, 4 * op.tile[0] * op.pitch)
    check_order(program)
    for site, op in program.all(WgmmaOp):
        _check_descriptors(program, site, op)


def check_frame(program: Program) -> None:
    """Check what does not depend on the tensor core, for every target that has Hopper's copy engine and barriers.

    Raises:
        IRError: the first law that is broken.
    """
    _check_launch(program)
    _check_areas(program)
    for site, op in program.all(TmaLoadOp):
        _check_tma_load(program, site, op)
    check_column_runs(program)
    for site, op in program.all(TmaLoadScalesOp):
        _check_tma_load_scales(program, site, op)
    for _, op in program.all(CopyScalesOp):
        _check_fits(program, op, op.area, hw.SCALE_BYTES * op.count * max(1, op.run))
    _check_registers(program)


def _check_launch(program: Program) -> None:
    """The launch is one that the GPU accepts, and every loop over tiles assumes the same one."""
    launch, record = program.launch, capability(program.module.target)
    limits = (
        (
            "threads per CTA",
            launch.threads,
            launch.threads % 32 == 0 and 32 <= launch.threads <= record.threads_per_cta,
            f"a multiple of 32 up to {record.threads_per_cta}",
        ),
        (
            "bytes of shared memory",
            launch.smem_bytes,
            0 <= launch.smem_bytes <= record.smem_per_cta,
            f"at most {record.smem_per_cta}",
        ),
        ("CTAs per cluster", launch.cluster, 1 <= launch.cluster <= record.max_cluster, f"1 to {record.max_cluster}"),
    )
    for what, got, legal, need in limits:
        if not legal:
            raise IRError(f"launch: {what}", where=f"module @{program.module.name}", got=got, need=need)
    for _, op in program.all(TileLoopOp):
        ctas = prod(op.cluster) * op.split
        found = (tuple(extent * count for extent, count in zip(op.tile, op.cluster, strict=False)), ctas, ctas)
        if found != (launch.tile, launch.ctas_per_tile, launch.cluster):
            fail(
                op,
                "loop and launch disagree about a scheduler tile and its CTAs",
                got=_scheduler_text(*found),
                need=_scheduler_text(launch.tile, launch.ctas_per_tile, launch.cluster),
            )


def _scheduler_text(tile: tuple[int, ...], ctas: int, cluster: int) -> str:
    return f"{' x '.join(map(str, tile))} for {ctas} CTAs in clusters of {cluster}"


def _check_areas(program: Program) -> None:
    """Areas lie inside of shared memory and apart; partial sums may lie over the stages that loads fill."""
    module = program.module
    over = {op.area for _, op in program.all(WritePartialOp)}
    under = {op.area for _, op in program.all(TmaLoadOp, TmaLoadScalesOp, CopyScalesOp)}
    for site in program.sites:
        for name in area_names(site.op):
            program.area(site.op, name)
    placed = list(program.areas.values())
    for index, area in enumerate(placed):
        end = area.offset + area.stages * area.stage_bytes
        if area.offset < 0 or end > program.launch.smem_bytes or area.stages < 1:
            raise IRError(
                f"area '{area.name}' lies outside of shared memory",
                where=f"module @{module.name}",
                got=f"bytes {area.offset} to {end}",
                need=f"0 to {program.launch.smem_bytes}",
            )
        for other in placed[:index]:
            pair = {area.name, other.name}
            other_end = other.offset + other.stages * other.stage_bytes
            if area.offset < other_end and other.offset < end and not (pair & over and pair - over <= under):
                raise IRError(
                    f"areas '{other.name}' and '{area.name}' overlap",
                    where=f"module @{module.name}",
                    got=f"bytes {area.offset} to {end} and {other.offset} to {other_end}",
                )


def _check_fits(program: Program, op: Op, name: str, need_bytes: int) -> None:
    """Raise IRError unless a stage of an area holds ``need_bytes``."""
    area = program.area(op, name)
    if need_bytes > area.stage_bytes:
        fail(
            op, f"a stage of area '{name}' is too small", got=f"{area.stage_bytes} bytes", need=f"at least {need_bytes}"
        )


def _map_of(program: Program, op: TmaLoadOp | TmaLoadScalesOp | TmaStoreOp) -> tuple[TensorMap, int]:
    """The tensor map of a copy, whose box is one that TMA takes, and the bytes of one of the box's rows."""
    found = program.maps.get(op.map.name)
    if found is None or op.map.type != MAP:
        fail(
            op, f"{op.map} is not a tensor map of the launch", got=op.map.type, need=", ".join(program.maps) or "a map"
        )
    if not all(1 <= extent <= hw.MAX_BOX for extent in found.box) or len(found.box) != 2:
        fail(op, "the box of a tensor map", got=list(found.box), need=f"two extents of 1 to {hw.MAX_BOX} elements")
    inner = found.box[0] * SCALAR_BITS.get(found.dtype, 0) // 8
    if found.swizzle == "none":
        if inner % hw.BULK_GRANULE_BYTES or not inner:
            fail(op, "bytes of a box row", got=inner, need=f"a multiple of {hw.BULK_GRANULE_BYTES}")
    elif found.swizzle != f"{inner}B" or inner not in (32, 64, 128):
        fail(
            op, "a box row is one swizzle span", got=f"{inner} bytes with swizzle {found.swizzle}", need="32, 64 or 128"
        )
    return found, inner


def _check_tma_load(program: Program, site: Site, op: TmaLoadOp) -> None:
    """One thread loads whole swizzle atoms; the shares of the cluster make up the stage."""
    (tensor_map, inner), area = _map_of(program, op), program.area(op, op.area)
    _need_one_thread(site, op)
    if op.multicast not in (1, program.launch.cluster):
        fail(op, "a box is shared by the whole cluster", got=op.multicast, need=f"1 or {program.launch.cluster}")
    made = {policy.result for _, policy in program.all(EvictFirstOp)}
    if op.policy is not None and (op.policy not in made or op.multicast > 1 or op.slabs > 1):
        fail(op, "a cache policy is for one box that this CTA loads for itself", got=op.policy,
             need=f"the result of {EvictFirstOp.NAME}, multicast=1, slabs=1")  # fmt: skip
    rows, rest = op.share_rows, 0 if op.leader else op.rows % op.multicast
    if rest or inner != op.row_bytes or tensor_map.box[1] != rows or tensor_map.swizzle != f"{op.row_bytes}B":
        fail(
            op,
            "a load and its tensor map",
            got=f"a box of {tensor_map.box[1]} rows of {inner} bytes, swizzle {tensor_map.swizzle}",
            need=f"{rows} of {op.rows} rows of {op.row_bytes} bytes, swizzle {op.row_bytes}B",
        )
    for what, value, atom in (
        ("offset", area.offset, hw.SWIZZLE_ATOM_BYTES),
        ("share", rows * op.row_bytes, hw.ATOM_ROWS * op.row_bytes),
    ):
        if value % atom:
            fail(
                op,
                f"swizzled areas consist of whole atoms: the {what} of '{op.area}'",
                got=value,
                need=f"a multiple of {atom}",
            )


def _check_tma_load_scales(program: Program, site: Site, op: TmaLoadScalesOp) -> None:
    """One thread loads a row of scales, one per row of the operand, from a map whose innermost axis they are."""
    (tensor_map, inner), area = _map_of(program, op), program.area(op, op.area)
    _need_one_thread(site, op)
    boxes = [load for _, load in program.all(TmaLoadOp) if (load.barriers, load.row) == (op.barriers, op.row)]
    if op.multicast not in (1, *(load.multicast for load in boxes)):
        fail(op, "scales are shared by CTAs that share their rows", got=op.multicast,
             need=max((load.multicast for load in boxes), default=1))  # fmt: skip
    if tensor_map.box != (op.count, 1) or inner != landing_bytes(op) or not tensor_map.transposed:
        fail(
            op, "a load and its tensor map", got=f"a box of {list(tensor_map.box)}", need=f"[{op.count}, 1], transposed"
        )
    _check_fits(program, op, op.area, landing_bytes(op))
    if area.offset % hw.BULK_ALIGN_BYTES or area.stage_bytes % hw.BULK_ALIGN_BYTES:
        got = f"offset {area.offset}, {area.stage_bytes} bytes"
        fail(op, f"area '{op.area}' is filled by TMA", got=got, need=f"multiples of {hw.BULK_ALIGN_BYTES}")


def _need_one_thread(site: Site, op: Op) -> None:
    if not site.elect:
        fail(op, "one thread starts a bulk load", got=f"{site.threads} threads", need="sm90.warps with elect")


def _check_tma_store(program: Program, site: Site, op: TmaStoreOp) -> None:
    """The warpgroups' boxes make up the staging tile, swizzled as the fragments were written."""
    (tensor_map, row_bytes), area = _map_of(program, op), program.area(op, op.area)
    if tuple(reversed(op.box)) != tensor_map.box:
        fail(op, "a store and its tensor map", got=f"a box of {list(tensor_map.box)}", need=list(reversed(op.box)))
    box_bytes = tensor_map.box[1] * row_bytes
    total = site.groups * op.waves * op.slabs * box_bytes
    if total != area.stage_bytes:
        fail(op, f"stores empty area '{op.area}'", got=f"{total} bytes", need=area.stage_bytes)
    if area.offset % hw.SWIZZLE_ATOM_BYTES or box_bytes % (8 * row_bytes):
        fail(
            op,
            "boxes start at swizzle atoms",
            got=f"offset {area.offset}, boxes of {box_bytes} bytes",
            need=f"multiples of {hw.SWIZZLE_ATOM_BYTES} and {8 * row_bytes}",
        )
    for _, written in program.all(StoreRowsOp, StoreColumnsOp):
        width = written.slab if isinstance(written, StoreRowsOp) else hw.WGMMA_ROWS
        if written.area == op.area and width != tensor_map.box[0]:
            fail(
                written,
                "fragments are written as they are stored",
                got=f"slabs of {width} columns",
                need=tensor_map.box[0],
            )


def _check_wgmma(program: Program, site: Site, op: WgmmaOp) -> None:
    """Descriptors point at swizzle atoms, and the warpgroups' fragments cover both operands."""
    rows, columns = extents(op.part)
    if rows != hw.WGMMA_ROWS or columns % 8 or not 8 <= columns <= 256:
        fail(op, "shape of a wgmma", got=op.part.type, need="64 rows, 8 to 256 columns in steps of 8")
    if op.steps * hw.MMA_K_BYTES != op.row_bytes or op.row_bytes != hw.SWIZZLE_BYTES:
        fail(
            op,
            "steps of a wgmma cover one swizzle span",
            got=f"{op.steps} of {hw.MMA_K_BYTES} bytes in rows of {op.row_bytes}",
            need=hw.SWIZZLE_BYTES,
        )
    if site.first != 0:
        fail(op, "fragments are numbered from the first warpgroup", got=f"warp {site.first}", need="warp 0")
    for name, span, extent in ((op.a, op.a_span, rows), (op.b, op.b_span, columns)):
        _check_span(program, op, name, span, extent * op.item_bytes)
    for name, count in ((op.a, site.groups * op.waves * rows), (op.b, columns)):
        area = program.area(op, name)
        if area.offset % hw.SWIZZLE_ATOM_BYTES or area.stage_bytes % hw.SWIZZLE_ATOM_BYTES:
            fail(
                op,
                f"wgmma reads swizzle atoms: area '{name}'",
                got=f"offset {area.offset}, {area.stage_bytes} bytes",
                need=f"multiples of {hw.SWIZZLE_ATOM_BYTES}",
            )
        if count * op.row_bytes != area.stage_bytes:
            fail(
                op,
                f"wgmma reads all of area '{name}'",
                got=f"{count} rows of {op.row_bytes} bytes",
                need=f"{area.stage_bytes} bytes",
            )


def _check_descriptors(program: Program, site: Site, op: WgmmaOp) -> None:
    """The descriptors are those of the op's rows, in the stage where the cursor is in this step."""
    bases = {made.result: made for _, made in program.all(DescriptorOp)}
    moved = {made.result: made for at, made in program.all(StageDescriptorOp) if at.steps is site.steps}
    a = (op.a, op.a_dtype, op.row_bytes, op.a_span, op.waves, op.wave)
    b = (op.b, op.b_dtype, op.row_bytes, op.b_span, 0, 0)
    for value, (area, *need) in ((op.desc_a, a), (op.desc_b, b)):
        here = moved.get(value)
        base = bases.get(here.base) if here is not None else None
        if here is None or base is None or (here.area, base.area, here.cursor) != (area, area, op.cursor):
            fail(op, f"{value} is the descriptor of area '{area}' in the cursor's stage",
                 got=here.NAME if here is not None else "another value", need=StageDescriptorOp.NAME)  # fmt: skip
        found = [base.dtype, base.row_bytes, base.span, base.waves, base.wave]
        if found != need:
            fail(op, f"{value} says which rows of area '{area}' are multiplied", got=found, need=need)


def _check_span(program: Program, op: WgmmaOp, name: str, span: int, extent_bytes: int) -> None:
    """An operand is multiplied as it was loaded: K along its rows, or its rows along K in slabs of ``span`` bytes.

    ``extent_bytes``: what one wgmma takes along M or N; whole slabs of it where rows follow each other along K.
    """
    if span and (op.item_bytes != 2 or span not in hw.SWIZZLE_SPANS or extent_bytes % span):
        fail(
            op,
            f"wgmma transposes 16-bit operands in whole slabs: area '{name}'",
            got=f"slabs of {span} bytes, {extent_bytes} bytes of {op.a_dtype}",
            need="bf16 or f16, slabs of 32, 64 or 128 bytes",
        )
    need = (op.row_bytes // op.item_bytes, span) if span else (None, op.row_bytes)
    for _, load in program.all(TmaLoadOp):
        found = (load.rows if span else None, load.row_bytes)
        if load.area == name and (found != need or (load.slabs > 1 and not span)):
            fail(
                op,
                f"area '{name}' is read as it was loaded",
                got=f"{load.slabs} slabs of {load.rows} rows of {load.row_bytes} bytes",
                need=f"slabs of {need[0]} rows of {span} bytes" if span else f"rows of {op.row_bytes} bytes",
            )


def _check_registers(program: Program) -> None:
    """Either nobody changes registers, or every warpgroup does once, within what the launch gives."""
    found = program.all(SetRegistersOp)
    if not found:
        return
    launch: Launch = program.launch
    counts: dict[int, int] = {}
    for site, op in found:
        for group in range(site.first // hw.GROUP_WARPS, site.first // hw.GROUP_WARPS + site.groups):
            if group in counts:
                fail(op, "a warpgroup changes its registers once", got=f"warpgroup {group} twice", need=1)
            counts[group] = op.count
    last = found[-1][1]
    if len(counts) * hw.GROUP_THREADS != launch.threads:
        fail(
            last,
            "every warpgroup sets its registers, or none",
            got=f"{len(counts)} warpgroups of {launch.threads} threads",
            need=f"{launch.threads / hw.GROUP_THREADS:g}",
        )
    try:
        hw.check_setmaxnreg(list(counts.values()), launch.threads)
    except ScheduleError as error:
        raise IRError(error.what, where=f"{last.NAME} ({last.origin})", got=error.got, need=error.need) from None
    given = hw.launch_registers(launch.threads)
    for _, op in found:
        if (op.grow and op.count < given) or (not op.grow and op.count > given):
            fail(
                op,
                f"registers {'grow' if op.grow else 'shrink'} from what the launch gives",
                got=op.count,
                need=f"{'at least' if op.grow else 'at most'} {given}",
            )
