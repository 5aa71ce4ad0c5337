"""Emitters of Hopper's computing and storing ops."""

from __future__ import annotations

from math import gcd
from typing import Any

from gemmgen.backends.sm90 import hardware as hw
from gemmgen.backends.sm90 import math_ops as ops
from gemmgen.backends.sm90.emitters import TARGET, statement, wgmma_helper, wgmma_suffix
from gemmgen.backends.sm90.names import (
    barrier,
    dim,
    offset,
    run_start,
    stage_address,
    stage_bytes,
    wave_index,
    wave_rows,
)
from gemmgen.backends.sm90.ops import LookAheadOp
from gemmgen.emit.emission import Emission, Helper, emits, helpers
from gemmgen.ir.core import Module, Value
from gemmgen.ir.rewrite import walk
from gemmgen.ir.tile_ops import extents, mem
from gemmgen.ir.types import SCALAR_BITS

DESCRIPTOR = Helper(
    "wgmma_descriptor",
    (
        ("row_bytes", hw.SWIZZLE_BYTES),
        ("atom_bytes", hw.SWIZZLE_ATOM_BYTES),
        ("code", hw.wgmma_swizzle_code(hw.SWIZZLE_BYTES)),
    ),
)
"""The device function that makes shared-memory descriptors of operand tiles with K along their rows."""


def descriptor_transposed(op: ops.DescriptorOp) -> Helper:
    """The device function for a tile whose rows follow each other along K in slabs of ``span`` bytes."""
    rows = op.row_bytes * 8 // SCALAR_BITS[op.dtype]
    return Helper(
        "wgmma_descriptor_transposed",
        (
            ("span", op.span),
            ("atom_bytes", hw.ATOM_ROWS * op.span),
            ("slab_bytes", rows * op.span),
            ("code", hw.wgmma_swizzle_code(op.span)),
        ),
    )


def pack(dtype: str) -> Helper:
    """The device function that rounds two FP32 values to one 32-bit word."""
    return Helper("pack", (("dtype", dtype),))


@emits(ops.ThreadPositionOp, TARGET)
def _thread_position(op: ops.ThreadPositionOp, module: Module) -> Emission:
    return Emission("thread_position")


@emits(ops.ZeroOp, TARGET)
def _zero(op: ops.ZeroOp, module: Module) -> Emission:
    return statement(f"float {op.result.name}[{_count(op.result)}] = {{}};", "FP32 registers of this thread")


@emits(ops.DescriptorOp, TARGET)
def _descriptor(op: ops.DescriptorOp, module: Module) -> Emission:
    rows = f" + {wave_rows(op.waves, op.wave)} * {op.row_bytes}" if op.waves else ""
    make = f"wgmma_descriptor_transposed_{op.span}" if op.span else "wgmma_descriptor"
    helper = descriptor_transposed(op) if op.span else DESCRIPTOR
    note = f"this warpgroup's 64 rows of {op.area}" if op.waves else f"all of {op.area}"
    text = f"const uint64_t {op.result.name} = {make}(smem + {offset(op.area)}{rows});"
    return Emission("statement", {"text": text, "note": f"{note}, in stage 0"}, (helper,))


@emits(ops.PlaceOp, TARGET)
def _place(op: ops.PlaceOp, module: Module) -> Emission:
    what = "this operand" if op.base is not None else "this thread's row scales"
    return statement(f"uint32_t {op.result.name} = {_first_place(op)};", f"{what} in the step to come")


def _first_place(op: ops.PlaceOp) -> str:
    """What a place is in stage 0."""
    if op.base is not None:
        return f"uint32_t({op.base.name})"
    return f"smem + {offset(op.area)} + 4 * ({wave_rows(op.waves, op.wave)} + row)"


@emits(LookAheadOp, TARGET)
def _look_ahead(op: LookAheadOp, module: Module) -> Emission:
    made = {found.result: found for found in walk(module) if isinstance(found, ops.PlaceOp)}
    places = [
        {"name": place.name, "first": _first_place(made[place]), "bytes": stage_bytes(made[place].area),
         "shift": " >> 4" if made[place].base is not None else ""}
        for place in op.places
    ]  # fmt: skip
    fields = {"places": places, "stage": f"{op.moved.name}.stage", "loaded": op.loaded.name,
              "barrier": barrier(op.barriers, op.moved), "parity": f"{op.moved.name}.phase"}  # fmt: skip
    return Emission("look_ahead", fields, helpers("mbarrier_test"))


@emits(ops.StageDescriptorOp, TARGET)
def _stage_descriptor(op: ops.StageDescriptorOp, module: Module) -> Emission:
    if op.place is not None:
        text = f"const uint64_t {op.result.name} = {op.base.name} >> 32 << 32 | {op.place.name};"
        return statement(text, "in this stage, which the step before looked for")
    text = f"const uint64_t {op.result.name} = {op.base.name} + {op.cursor.name}.stage * ({stage_bytes(op.area)} >> 4);"
    return statement(text, "in this stage; it does not wait for the loads")


@emits(ops.WgmmaOp, TARGET)
def _wgmma(op: ops.WgmmaOp, module: Module) -> Emission:
    spans = {"a": op.a_span, "b": op.b_span}
    advances = {name: hw.k_advance_bytes(span, op.item_bytes) >> 4 for name, span in spans.items()}
    fields = {
        "part": op.part.name,
        "a": op.desc_a.name,
        "b": op.desc_b.name,
        "later_steps": [{name: step * advance for name, advance in advances.items()} for step in range(1, op.steps)],
        "suffix": wgmma_suffix(op),
        "rows": f"rows of {op.a}, all of {op.b}",
        "step": f"{op.k} elements" if any(spans.values()) else f"{hw.MMA_K_BYTES} bytes",
    }
    fields["first"] = "wgmma_add" if op.accumulate else "wgmma_start"
    kinds = dict.fromkeys((fields["first"], "wgmma_add"))
    return Emission("wgmma", fields, (*helpers("wgmma_sync"), *(wgmma_helper(kind, op) for kind in kinds)))


@emits(ops.WgmmaWaitOp, TARGET)
def _wgmma_wait(op: ops.WgmmaWaitOp, module: Module) -> Emission:
    names = ", ".join(value.name for value in op.values)
    return statement(f"wgmma_wait<{op.pending}>({names});", "the products are in registers", "wgmma_wait")


@emits(ops.WgmmaWaitOlderOp, TARGET)
def _wgmma_wait_older(op: ops.WgmmaWaitOlderOp, module: Module) -> Emission:
    names = ", ".join(value.name for value in op.values)
    return statement(f"wgmma_wait_older({names}, younger);",
                     "these products are in registers; the next step's may be under way",
                     "wgmma_wait", "wgmma_wait_older")  # fmt: skip


@emits(ops.KeepOp, TARGET)
def _keep(op: ops.KeepOp, module: Module) -> Emission:
    return Emission("keep", {"kept": op.kept.name, "value": op.value.name, "count": extents(op.value)[0]})


@emits(ops.RowScalesOp, TARGET)
def _row_scales(op: ops.RowScalesOp, module: Module) -> Emission:
    if op.place is not None:
        text = f"const float {op.result.name}[] = {{load_shared({op.place.name}), load_shared({op.place.name} + 32)}};"
        return statement(text, f"this thread's two rows of {op.area}", "load_shared")
    fields = {"name": op.result.name, "address": stage_address(op.area, op.cursor),
              "rows": wave_rows(op.waves, op.wave), "area": op.area}  # fmt: skip
    return Emission("row_scales", fields, helpers("load_shared"))


@emits(ops.ColumnScalesOp, TARGET)
def _column_scales(op: ops.ColumnScalesOp, module: Module) -> Emission:
    fields = {"name": op.result.name, "address": stage_address(op.area, op.cursor), "area": op.area,
              "count": extents(op.result)[0]}  # fmt: skip
    return Emission("column_scales", fields, helpers("load_shared_2"))


@emits(ops.BlockScalesOp, TARGET)
def _block_scales(op: ops.BlockScalesOp, module: Module) -> Emission:
    address = stage_address(op.area, op.cursor)
    if op.run:
        address += f" + 4 * {op.cursor.name}.step"
    loads = [f"load_shared({address})"]
    loads += [f"load_shared({address} + {4 * max(1, op.run) * index})" for index in range(1, extents(op.result)[0])]
    text = f"const float {op.result.name}[] = {{{', '.join(loads)}}};"
    return statement(text, f"one scale per block of {op.area}", "load_shared")


@emits(ops.PromoteRowsOp, TARGET)
def _promote_rows(op: ops.PromoteRowsOp, module: Module) -> Emission:
    blocks, columns = extents(op.blocks)[0], extents(op.acc)[1]
    fields = {"acc": op.acc.name, "part": op.part.name, "rows": op.rows.name, "blocks": op.blocks.name}
    if op.runs:
        ends = [sum(op.runs[: run + 1]) // hw.MATRIX_COLS for run in range(len(op.runs))]
        bounds = enumerate(zip((0, *ends), ends, strict=False))
        parts = [{"index": run, "from": start, "to": end} for run, (start, end) in bounds]
        return Emission("promote_row_runs", {**fields, "runs": parts})
    if blocks == 1:
        return Emission("promote_rows", {**fields, "groups": columns // hw.MATRIX_COLS})
    # Tiles start at multiples of their columns, so that a block can end only at multiples of the common divisor.
    fields |= {
        "first": op.first.name, "block": op.block, "columns": columns, "run": gcd(columns, op.block),
        "later_blocks": [{"index": index, "start": index * op.block} for index in range(1, blocks)],
    }  # fmt: skip
    return Emission("promote_row_blocks", fields)


@emits(ops.PromoteColumnsOp, TARGET)
def _promote_columns(op: ops.PromoteColumnsOp, module: Module) -> Emission:
    fields = {"acc": op.acc.name, "part": op.part.name, "blocks": op.blocks.name, "columns": op.columns.name,
              "groups": extents(op.acc)[1] // hw.MATRIX_COLS}  # fmt: skip
    return Emission("promote_columns", fields)


@emits(ops.AddPartOp, TARGET)
def _add_part(op: ops.AddPartOp, module: Module) -> Emission:
    return Emission("add_part", {"acc": op.acc.name, "part": op.part.name, "count": _count(op.acc)})


@emits(ops.ScaleOp, TARGET)
def _scale(op: ops.ScaleOp, module: Module) -> Emission:
    fields = {
        "value": op.value.name, "groups": extents(op.value)[1] // hw.MATRIX_COLS,
        "row_scale": op.row_scale.name, "row_stride": op.row_stride.name, "rows": dim(op.rows),
        "col_scale": op.col_scale.name, "col_stride": op.col_stride.name, "cols": dim(op.cols),
        "first_row": f"{op.row.name} + {wave_rows(op.waves, op.wave)} + row", "col": op.col.name,
    }  # fmt: skip
    return Emission("scale", fields, helpers("load_scale"))


@emits(ops.StagingWaitOp, TARGET)
def _staging_wait(op: ops.StagingWaitOp, module: Module) -> Emission:
    return Emission("staging_wait", {}, helpers("tma_store_sync", "named_barrier"))


@emits(ops.StagingPublishOp, TARGET)
def _staging_publish(op: ops.StagingPublishOp, module: Module) -> Emission:
    return Emission("staging_publish", {}, helpers("fence_async_shared", "named_barrier"))


@emits(ops.StoreRowsOp, TARGET)
def _store_rows(op: ops.StoreRowsOp, module: Module) -> Emission:
    columns = extents(op.value)[1]
    row_bytes = 2 * op.slab
    fields = {
        "value": op.value.name, "base": f"smem + {offset(op.area)}", "wave": wave_index(op.waves, op.wave),
        "wave_bytes": hw.WGMMA_ROWS * columns * 2, "groups": columns // 16, "slab": op.slab,
        "slab_bytes": hw.WGMMA_ROWS * row_bytes, "row_bytes": row_bytes, "chunk_mask": row_bytes // 16 - 1,
        "dtype": op.dtype,
    }  # fmt: skip
    return Emission("store_rows", fields, (pack(op.dtype), *helpers("stmatrix_4")))


@emits(ops.StoreColumnsOp, TARGET)
def _store_columns(op: ops.StoreColumnsOp, module: Module) -> Emission:
    columns = extents(op.value)[1]
    fields = {
        "value": op.value.name, "base": f"smem + {offset(op.area)}", "wave": wave_index(op.waves, op.wave),
        "wave_bytes": columns * hw.SWIZZLE_BYTES, "row_bytes": hw.SWIZZLE_BYTES,
        "pairs": [columns // 16] if columns >= 16 else [], "odd": [columns // 8 - 1] if columns % 16 else [],
        "dtype": op.dtype,
    }  # fmt: skip
    names = ["stmatrix_4_transposed"] * (columns >= 16) + ["stmatrix_2_transposed"] * (columns % 16 > 0)
    return Emission("store_columns", fields, (pack(op.dtype), *helpers(*names)))


@emits(ops.TmaStoreOp, TARGET)
def _tma_store(op: ops.TmaStoreOp, module: Module) -> Emission:
    box_bytes = op.box[0] * op.box[1] * 2
    wave, along = wave_index(op.waves, op.wave), wave_rows(op.waves, op.wave)
    row = op.row.name if op.transposed else f"{op.row.name} + {along}"
    col = f"{op.col.name} + {along}" if op.transposed else op.col.name
    base = f"smem + {offset(op.area)} + {wave} * {op.slabs * box_bytes}"
    starts = _slab_columns(op) if op.runs else [(col, slab * op.box[1]) for slab in range(op.slabs)]
    boxes = [
        {
            "address": base + (f" + {slab * box_bytes}" if slab else ""),
            "col": start + (f" + {further}" if further else ""),
        }
        for slab, (start, further) in enumerate(starts)
    ]
    return Emission("tma_store", {"map": op.map.name, "row": row, "boxes": boxes}, helpers("tma_store"))


def _slab_columns(op: ops.TmaStoreOp) -> list[tuple[str, int]]:
    """Where each slab of columns goes that are dealt in runs: the start of its run, and how far behind it."""
    return [
        (run_start(op.col, run), further) for run, width in enumerate(op.runs) for further in range(0, width, op.box[1])
    ]


@emits(ops.StoreCommitOp, TARGET)
def _store_commit(op: ops.StoreCommitOp, module: Module) -> Emission:
    return statement("if (threadIdx.x % 128 == 0) tma_store_commit();", "these stores are one group", "tma_store_sync")


@emits(ops.StoreDrainOp, TARGET)
def _store_drain(op: ops.StoreDrainOp, module: Module) -> Emission:
    return statement("if (threadIdx.x % 128 == 0) tma_store_wait_read();",
                     "shared memory lives until the stores have read it", "tma_store_sync")  # fmt: skip


@emits(ops.StoreDirectOp, TARGET)
def _store_direct(op: ops.StoreDirectOp, module: Module) -> Emission:
    along, across = f"{wave_rows(op.waves, op.wave)} + row + i / 2 % 2 * 8", "i / 4 * 8 + 2 * quad + i % 2"
    return direct_store(op, _count(op.value), *((across, along) if op.transposed else (along, across)))


def direct_store(op: Any, count: int, in_m: str, in_n: str) -> Emission:
    """The text of a target's ``store_direct``: a thread's element i of ``count`` lies at (in_m, in_n) of the tile."""
    dtype, element = mem(op.dest).dtype.name, f"{op.value.name}[i]"
    rounded = dtype != "f32"
    fields = {
        "count": count, "dest": op.dest.name, "stride": op.stride.name,
        "m": f"{op.row.name} + {in_m}", "n": f"{op.col.name} + {in_n}", "rows": dim(op.rows), "cols": dim(op.cols),
        "element": f"uint16_t(pack_{dtype}({element}, 0.0f))" if rounded else element,
        "why": "Rows of D do not end on 16 bytes, where the copy engine would clip" if rounded
        else "FP32 results fill whole sectors without the copy engine's help",
    }  # fmt: skip
    return Emission("store_direct", fields, (pack(dtype),) if rounded else ())


@emits(ops.GroupSyncOp, TARGET)
def _group_sync(op: ops.GroupSyncOp, module: Module) -> Emission:
    return statement(f"named_barrier_sync({op.id}, {op.threads});", "all multiplying threads of the CTA meet",
                     "named_barrier")  # fmt: skip


@emits(ops.WritePartialOp, TARGET)
def _write_partial(op: ops.WritePartialOp, module: Module) -> Emission:
    fields = {
        "value": op.value.name, "count": _count(op.value), "base": f"smem + {offset(op.area)}",
        "rows": wave_rows(op.waves, op.wave), "row_pitch": op.row_pitch, "col_pitch": op.col_pitch,
    }  # fmt: skip
    return Emission("write_partial", fields, helpers("store_shared"))


@emits(ops.ReduceStoreOp, TARGET)
def _reduce_store(op: ops.ReduceStoreOp, module: Module) -> Emission:
    rows, columns = op.tile
    dtype = mem(op.dest).dtype.name
    rounded = dtype != "f32"
    fields = {
        "base": f"smem + {offset(op.area)}", "dest": op.dest.name, "stride": op.stride.name, "row": op.row.name,
        "col": op.col.name, "quads": columns // 4, "elements": rows * columns // 4, "pitch": op.pitch,
        "parts": op.parts, "threads": op.threads, "rows": dim(op.rows), "cols": dim(op.cols), "dtype": dtype,
        "total": f"pack_{dtype}(total.x, total.y), pack_{dtype}(total.z, total.w)" if rounded else "total",
    }  # fmt: skip
    store = (pack(dtype), Helper("store_4", (("dtype", dtype),))) if rounded else helpers("store_f32_4")
    return Emission("reduce_store", fields, (*helpers("load_shared_cluster_4"), *store))


def _count(value: Value) -> int:
    """Registers per thread of a 64-row FP32 fragment."""
    return hw.accumulator_registers(extents(value)[1])
