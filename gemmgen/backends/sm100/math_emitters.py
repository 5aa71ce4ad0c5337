"""Emitters of Blackwell's promoting and storing ops."""

from __future__ import annotations

from typing import Any

from gemmgen.backends.sm90.emitters import statement
from gemmgen.backends.sm90.math_emitters import direct_store, pack
from gemmgen.backends.sm90.names import dim, offset, stage_address
from gemmgen.backends.sm100 import hardware as hw
from gemmgen.backends.sm100 import math_ops as ops
from gemmgen.backends.sm100.emitters import TARGET, accumulator
from gemmgen.emit.emission import Emission, Helper, emits, helpers
from gemmgen.ir.core import Module, Value
from gemmgen.ir.tile_ops import extents
from gemmgen.ir.types import F32

CHUNK_COLUMNS = 8
"""Columns of bf16 in 16 bytes, the unit that swizzling moves."""
CHUNK_BYTES = 16


@emits(ops.ThreadPositionOp, TARGET)
def _thread_position(op: ops.ThreadPositionOp, module: Module) -> Emission:
    return Emission("thread_position", {"lanes": op.result.name, "tmem": op.tmem.name, "rows": hw.LANES_PER_WARP})


@emits(ops.ZeroOp, TARGET)
def _zero(op: ops.ZeroOp, module: Module) -> Emission:
    return statement(f"float {op.result.name}[{_columns(op.result)}] = {{}};", "FP32 registers of this thread's row")


@emits(ops.RowScaleOp, TARGET)
def _row_scale(op: ops.RowScaleOp, module: Module) -> Emission:
    text = f"const float {op.result.name} = load_shared({stage_address(op.area, op.cursor)} + 4 * row);"
    return statement(text, f"this thread's row of {op.area}", "load_shared")


@emits(ops.PromoteRowsOp, TARGET)
def _promote_rows(op: ops.PromoteRowsOp, module: Module) -> Emission:
    fields = {
        **_sums(op), "row": op.row.name, "blocks": op.blocks.name, "col": op.col.name, "block": op.block,
        "later_blocks": [{"index": index, "start": index * op.block} for index in range(1, extents(op.blocks)[0])],
    }  # fmt: skip
    return Emission("promote_rows", fields, (load_helper(op.width),))


@emits(ops.PromoteColumnsOp, TARGET)
def _promote_columns(op: ops.PromoteColumnsOp, module: Module) -> Emission:
    factor = op.factor.name if op.factor.type == F32 else f"{op.factor.name}[0]"
    fields = {**_sums(op), "factor": factor, "scales": stage_address(op.area, op.cursor), "area": op.area}
    return Emission("promote_columns", fields, (load_helper(op.width), *helpers("load_shared_4")))


@emits(ops.AddPartOp, TARGET)
def _add_part(op: ops.AddPartOp, module: Module) -> Emission:
    return Emission("add_part", _sums(op), (load_helper(op.width),))


@emits(ops.FetchOp, TARGET)
def _fetch(op: ops.FetchOp, module: Module) -> Emission:
    fields = {
        "name": op.result.name, "part": accumulator(op.lanes.name, op.first, op.columns, op.parts.name),
        "columns": _columns(op.result), "width": op.width,
    }  # fmt: skip
    return Emission("fetch", fields, (load_helper(op.width),))


def _sums(op: ops.PromoteOp) -> dict[str, Any]:
    """The fields of a promotion: this thread's row of the partial sum, and its registers."""
    columns = _columns(op.acc)
    return {"acc": op.acc.name, "part": accumulator(op.lanes.name, op.first, op.columns, op.parts.name),
            "columns": columns, "width": op.width}  # fmt: skip


def load_helper(width: int) -> Helper:
    """The device function that reads ``width`` columns of this thread's lane."""
    fields = (
        ("width", width),
        ("registers", ", ".join(f"%{index}" for index in range(width))),
        ("outputs", tuple(range(width))),
        ("address", f"%{width}"),
    )
    return Helper("tmem_load", fields)


@emits(ops.ScaleOp, TARGET)
def _scale(op: ops.ScaleOp, module: Module) -> Emission:
    columns = _columns(op.value)
    fields = {
        "value": op.value.name, "columns": columns, "width": hw.load_columns(columns), "row_scale": op.row_scale.name,
        "row_stride": op.row_stride.name, "rows": dim(op.rows), "col_scale": op.col_scale.name,
        "col_stride": op.col_stride.name, "cols": dim(op.cols), "row": op.row.name, "col": op.col.name,
    }  # fmt: skip
    return Emission("scale", fields, helpers("load_scale"))


@emits(ops.StoreRowsOp, TARGET)
def _store_rows(op: ops.StoreRowsOp, module: Module) -> Emission:
    rows, columns = extents(op.value)
    row_bytes = 2 * op.slab
    fields = {
        "value": op.value.name, "columns": columns, "slab": op.slab, "row_bytes": row_bytes, "dtype": op.dtype,
        "slabs": columns // op.slab, "slab_bytes": rows * row_bytes, "base": f"smem + {offset(op.area)}",
        "chunk_mask": row_bytes // CHUNK_BYTES - 1,
    }  # fmt: skip
    return Emission("store_rows", fields, (pack(op.dtype), *helpers("store_shared_4")))


@emits(ops.StoreColumnsOp, TARGET)
def _store_columns(op: ops.StoreColumnsOp, module: Module) -> Emission:
    row_bytes = 2 * op.slab
    fields = {
        "value": op.value.name, "columns": _columns(op.value), "slab": op.slab, "row_bytes": row_bytes,
        "dtype": op.dtype, "slab_bytes": op.lines * row_bytes, "base": f"smem + {offset(op.area)}",
        "chunk_columns": CHUNK_COLUMNS, "chunk_mask": row_bytes // CHUNK_BYTES - 1,
    }  # fmt: skip
    return Emission("store_columns", fields, (pack(op.dtype), *helpers("store_shared_half")))


@emits(ops.TmaStoreOp, TARGET)
def _tma_store(op: ops.TmaStoreOp, module: Module) -> Emission:
    rows, columns = op.box
    along_rows = f" + warpgroup * {rows}" if op.transposed else ""
    along_columns = "" if op.transposed else f" + warpgroup * {op.slabs * columns}"
    base = f"smem + {offset(op.area)} + warpgroup * {op.group_bytes}"
    boxes = [
        {
            "address": base + (f" + {slab * op.slab_bytes}" if slab else ""),
            "col": f"{op.col.name}{along_columns}" + (f" + {slab * columns}" if slab else ""),
        }
        for slab in range(op.slabs)
    ]
    fields = {"map": op.map.name, "row": f"{op.row.name}{along_rows}", "boxes": boxes}
    return Emission("tma_store", fields, helpers("tma_store"))


@emits(ops.StoreDirectOp, TARGET)
def _store_direct(op: ops.StoreDirectOp, module: Module) -> Emission:
    count = _columns(op.value)
    along, across = "row", f"warpgroup * {count} + i"
    return direct_store(op, count, *((across, along) if op.transposed else (along, across)))


def _columns(value: Value) -> int:
    """Columns of a warpgroup's fragment: registers per thread."""
    return extents(value)[1]
