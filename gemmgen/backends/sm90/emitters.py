"""Emitters of Hopper's control ops: barriers, roles, loops, loads. Each names a template and fills its fields."""

from __future__ import annotations

from gemmgen.backends.sm90 import hardware as hw
from gemmgen.backends.sm90 import math_ops, ops
from gemmgen.backends.sm90.names import barrier, dim, offset, run_start, stage_address
from gemmgen.emit.emission import Emission, Helper, emits, helpers
from gemmgen.ir.core import Module, Op, Value
from gemmgen.ir.tile_ops import extents

TARGET = "sm90"


def statement(text: str, note: str, *names: str) -> Emission:
    """One statement with a comment that says why it stands there."""
    return Emission("statement", {"text": text, "note": note}, helpers(*names))


@emits(ops.BarriersOp, TARGET)
def _barriers(op: ops.BarriersOp, module: Module) -> Emission:
    return statement(f"const uint32_t {op.result.name} = smem + {offset(op.area)};",
                     f"one mbarrier per stage; {op.arrivals} arrivals and all expected bytes end a phase")  # fmt: skip


@emits(ops.InitBarriersOp, TARGET)
def _init_barriers(op: ops.InitBarriersOp, module: Module) -> Emission:
    areas = {area.name: area.stages for area in module.attr("areas")}
    declared = {o.result: o for o in module.body.ops if isinstance(o, ops.BarriersOp)}
    groups = [{"name": value.name, "stages": areas[declared[value].area], "arrivals": declared[value].arrivals}
              for value in op.barriers]  # fmt: skip
    return Emission("init_barriers", {"groups": groups}, helpers("mbarrier_init", "fence_barrier_init"))


@emits(ops.SyncOp, TARGET)
def _sync(op: ops.SyncOp, module: Module) -> Emission:
    if op.scope == "cta":
        return statement("__syncthreads();", "all threads of the CTA meet")
    return statement("cluster_sync();", "all threads of the cluster meet", "cluster_sync")


@emits(ops.GridWaitOp, TARGET)
def _grid_wait(op: ops.GridWaitOp, module: Module) -> Emission:
    return statement("grid_dependency_wait();", "the kernels before this one have written what it reads",
                     "grid_dependency")  # fmt: skip


@emits(ops.GridLaunchOp, TARGET)
def _grid_launch(op: ops.GridLaunchOp, module: Module) -> Emission:
    return statement("grid_dependency_launch();", "the next kernel may start", "grid_dependency")


@emits(ops.DispatchOp, TARGET)
def _dispatch(op: ops.DispatchOp, module: Module) -> Emission:
    return Emission("dispatch", {"separator": " else "})


@emits(ops.WarpsOp, TARGET)
def _warps(op: ops.WarpsOp, module: Module) -> Emission:
    last = op.first + op.count - 1
    if op.count == 1:
        condition, who = f"warp == {op.first}", f"warp {op.first}"
    elif op.first == 0:
        condition, who = f"warp < {op.count}", f"warps 0 to {last}"
    else:
        condition, who = f"warp >= {op.first} && warp <= {last}", f"warps {op.first} to {last}"
    if op.leader:
        condition, who = f"{condition} && rank == 0", f"{who} of the first CTA"
    if op.elect:
        condition, who = f"{condition} && elect_one()", f"one thread of {who}"
    fields = {"condition": condition, "who": who, "label": op.label}
    return Emission("warps", fields, helpers("elect_one") if op.elect else ())


@emits(ops.SetRegistersOp, TARGET)
def _set_registers(op: ops.SetRegistersOp, module: Module) -> Emission:
    if op.grow:
        return statement(f"take_registers<{op.count}>();", "take the registers that the loading warps gave up",
                         "set_registers")  # fmt: skip
    return statement(f"give_registers<{op.count}>();", "give registers to the multiplying warps", "set_registers")


@emits(ops.CursorOp, TARGET)
def _cursor(op: ops.CursorOp, module: Module) -> Emission:
    if op.steps:
        return statement(f"RunCursor {op.result.name};", "its place in a ring whose stages hold all steps of a tile",
                         "run_cursor")  # fmt: skip
    return statement(f"RingCursor {op.result.name};", "this role's place in the ring", "ring_cursor")


@emits(ops.AdvanceOp, TARGET)
def _advance(op: ops.AdvanceOp, module: Module) -> Emission:
    return statement(f"{op.cursor.name}.advance<{op.stages}>();", "next stage", "ring_cursor")


@emits(ops.RunStepOp, TARGET)
def _run_step(op: ops.RunStepOp, module: Module) -> Emission:
    return statement(f"++{op.cursor.name}.step;", "the next step's scales lie behind this one's", "run_cursor")


@emits(ops.TileLoopOp, TARGET)
def _tile_loop(op: ops.TileLoopOp, module: Module) -> Emission:
    launch: ops.Launch = module.attr("launch")
    cluster_m, cluster_n = op.cluster
    along_m = op.raster_along == "m"
    index_m, index_n = ("position.along", "position.across") if along_m else ("position.across", "position.along")
    fields = {
        "m0": op.body.args[0].name,
        "n0": op.body.args[1].name,
        "tiles_m": f"({dim(op.rows)} + {op.tile[0] * cluster_m - 1}u) / {op.tile[0] * cluster_m}u",
        "tiles_n": f"({dim(op.cols)} + {op.tile[1] * cluster_n - 1}u) / {op.tile[1] * cluster_n}u",
        "start_m": _start(_share(index_m, cluster_m), op.tile[0], dim(op.rows) if op.inside_m else None),
        "start_n": _start(
            _share(index_n, cluster_n), op.runs[0] if op.runs else op.tile[1], dim(op.cols) if op.inside_n else None
        ),
        "runs": [
            {
                "name": run_start(op.body.args[1], run),
                "before": cluster_n * sum(op.runs[:run]),
                "index": _share(index_n, cluster_n),
                "width": op.runs[run],
            }
            for run in range(1, len(op.runs))
        ],
        "dealt": [" + ".join(map(str, op.runs))] if op.runs else [],
        "first": _per_cluster("blockIdx.x", launch.cluster),
        "step": _per_cluster("gridDim.x", launch.cluster),
        "group": op.raster_group,
        "along": "tiles_m" if along_m else "tiles_n",
        "across": "tiles_n" if along_m else "tiles_m",
        "axis": op.raster_along,
    }
    moved = helpers("tile_start") if op.inside_m or op.inside_n else ()
    return Emission("tile_loop", fields, (*helpers("rasterize"), *moved))


def _start(index: str, tile: int, extent: str | None) -> str:
    """The first row or column of a tile; given D's extent, the last tile ends with it."""
    return f"{index} * {tile}" if extent is None else f"tile_start<{tile}>({index}, {extent})"


def _share(index: str, ctas: int) -> str:
    """The tile index of this CTA when ``ctas`` CTAs of the cluster take neighbouring tiles."""
    return index if ctas == 1 else f"({index} * {ctas} + rank)"


def _per_cluster(index: str, cluster: int) -> str:
    return index if cluster == 1 else f"{index} / {cluster}"


@emits(ops.KLoopOp, TARGET)
def _k_loop(op: ops.KLoopOp, module: Module) -> Emission:
    fields = {"k0": op.body.args[0].name, "extent": dim(op.extent), "step": op.step, "stride": op.step * op.run,
              "unrolled": [op.unroll] if op.unroll else [],
              "note": "steps of K" if op.run == 1 else "all steps of K at once"}  # fmt: skip
    if op.parts == 1:
        return Emission("k_loop", fields)
    return Emission("k_loop_part", {**fields, "blocks": _k_blocks(op), "parts": op.parts})


@emits(ops.KOverlapOp, TARGET)
def _k_overlap(op: ops.KOverlapOp, module: Module) -> Emission:
    blocks = _k_blocks(op)
    steps = blocks if op.parts == 1 else f"{blocks} * (rank + 1) / {op.parts} - {blocks} * rank / {op.parts}"
    count = hw.accumulator_registers(extents(op.partials[0])[1])
    kept = [(f"{value.name}_turns", *_registers(value)) for value in op.finish.args[1:]]
    turns = [[op.partials[turn].name, *(f"{name}[{turn}]" for name, _, _ in kept)] for turn in range(2)]
    kinds = [("float", count), *((kind, length) for _, kind, length in kept)]
    started, finished = (
        ", ".join(f"{kind} (&{value.name})[{length}]" for value, (kind, length) in zip(inner.args, kinds, strict=True))
        for inner in (op.start, op.finish)
    )
    fields = {
        "steps": steps, "this": ", ".join(turns[0]), "other": ", ".join(turns[1]),
        "started": started, "finished": finished,
        "kept": [{"kind": kind, "name": name, "count": length} for name, kind, length in kept],
    }  # fmt: skip
    return Emission("k_overlap", fields)


def _registers(value: Value) -> tuple[str, int]:
    """The C++ type of the elements of a thread's scales, and their number."""
    count, *pair = extents(value)
    return "float2" if pair else "float", count


def _k_blocks(op: ops.KLoopOp | ops.KOverlapOp) -> str:
    return f"({dim(op.extent)} + {op.step - 1}u) / {op.step}u"


@emits(ops.WaitOp, TARGET)
def _wait(op: ops.WaitOp, module: Module) -> Emission:
    parity = f"{op.cursor.name}.phase ^ 1" if op.flip else f"{op.cursor.name}.phase"
    note = "until every reader has released the stage" if op.flip else "until the stage is loaded"
    if op.unless is not None:
        text = f"if (!{op.unless.name}) mbarrier_wait({barrier(op.barriers, op.cursor)}, {parity});"
        return statement(text, note, "mbarrier_wait")
    return statement(f"mbarrier_wait({barrier(op.barriers, op.cursor)}, {parity});", note, "mbarrier_wait")


@emits(ops.LoadedOp, TARGET)
def _loaded(op: ops.LoadedOp, module: Module) -> Emission:
    return statement(f"bool {op.result.name} = false;", "whether the step to come was seen to be loaded")


@emits(ops.EvictFirstOp, TARGET)
def _evict_first(op: ops.EvictFirstOp, module: Module) -> Emission:
    return statement(f"const uint64_t {op.result.name} = evict_first_policy();",
                     "what is read once leaves L2 before what is read again", "evict_first_policy")  # fmt: skip


@emits(ops.ExpectOp, TARGET)
def _expect(op: ops.ExpectOp, module: Module) -> Emission:
    return statement(f"mbarrier_expect({barrier(op.barriers, op.cursor)}, {op.transfer_bytes});",
                     "bytes that will land in this stage", "mbarrier_expect")  # fmt: skip


@emits(ops.TmaLoadOp, TARGET)
def _tma_load(op: ops.TmaLoadOp, module: Module) -> Emission:
    return tma_load(op, module, "tma_load")


def tma_load(op: ops.TmaLoadOp, module: Module, load: str) -> Emission:
    """The loads of a stage; ``load`` is the device function that starts one that is not multicast."""
    address, to = stage_address(op.area, op.cursor), barrier(op.barriers, op.cursor)
    address += f" + {op.at * op.row_bytes}" if op.at else ""
    row = run_start(op.row, op.run)
    slab_bytes, slab_columns = op.rows * op.row_bytes, module_map(module, op.map.name).box[0]
    slabs = [
        {"address": address + (f" + {slab * slab_bytes}" if slab else ""),
         "col": op.col.name + (f" + {slab * slab_columns}" if slab else "")}
        for slab in range(op.slabs)
    ]  # fmt: skip
    if op.policy is not None:
        text = f"tma_load_policy({address}, &{op.map.name}, {to}, {op.col.name}, {row}, {op.policy.name});"
        return statement(text, f"{op.rows} rows of {op.area}, read once", "tma_load_policy")
    if op.multicast == 1 and op.slabs == 1:
        text = f"{load}({address}, &{op.map.name}, {to}, {op.col.name}, {row});"
        return statement(text, f"{op.rows} rows of {op.area}", load)
    fields = {"slabs": slabs, "map": op.map.name, "barrier": to, "row": row, "area": op.area}
    if op.multicast == 1:
        fields |= {"rows": op.rows, "row_bytes": op.row_bytes, "load": load}
        return Emission("tma_load_slabs", fields, helpers(load))
    rows = op.share_rows
    fields |= {
        "share_bytes": rows * op.row_bytes, "share_rows": rows, "ctas": op.multicast, "mask": _all_of(op.multicast),
    }  # fmt: skip
    if op.leader:
        return Emission("tma_load_leader", fields, helpers("tma_load_multicast"))
    return Emission("tma_load_multicast", fields, helpers("tma_load_multicast"))


def _all_of(ctas: int) -> str:
    """The mask of a cluster's CTAs."""
    return f"0x{(1 << ctas) - 1:x}"


def module_map(module: Module, name: str) -> ops.TensorMap:
    """The tensor map called ``name``."""
    return next(found for found in module.attr("maps") if found.arg == name)


@emits(ops.TmaLoadScalesOp, TARGET)
def _tma_load_scales(op: ops.TmaLoadScalesOp, module: Module) -> Emission:
    address, to = stage_address(op.area, op.cursor), barrier(op.barriers, op.cursor)
    row, col = _block_index(op.row.name, op.block[0]), _block_index(op.col.name, op.block[1])
    note = f"{op.count} scales of one block of K; the map runs along rows first"
    if op.multicast > 1:
        text = f"tma_load_multicast({address}, &{op.map.name}, {to}, {row}, {col}, {_all_of(op.multicast)});"
        return statement(f"if (rank == 0) {text}", f"{note}; for all CTAs", "tma_load_multicast")
    return statement(f"tma_load({address}, &{op.map.name}, {to}, {row}, {col});", note, "tma_load")


@emits(ops.CopyScalesOp, TARGET)
def _copy_scales(op: ops.CopyScalesOp, module: Module) -> Emission:
    index = f"i / {op.run}" if op.run else "i"
    first = _block_index(op.row.name, op.block[0])
    fields = {
        "address": stage_address(op.area, op.cursor), "source": op.source.name, "count": op.count,
        "row_stride": op.row_stride.name, "col_stride": op.col_stride.name,
        "block": f"{_dealt(op, index)} / {op.block[0]}" if op.runs else f"{first} + {index}",
        "column": _block_index(op.col.name, op.block[1]),
        "limit": dim(op.limit), "run": op.run, "columns": dim(op.columns),
    }  # fmt: skip
    if op.run:
        return Emission("copy_scale_runs", {**fields, "total": op.run * op.count}, helpers("copy_async_4"))
    return Emission("copy_scales", fields, helpers("copy_async_4"))


def _dealt(op: ops.CopyScalesOp, index: str) -> str:
    """Where the run with a number starts."""
    *others, last = (run_start(op.row, run) for run in range(len(op.runs)))
    chosen = "".join(f"{index} == {run} ? {start} : " for run, start in enumerate(others))
    return f"({chosen}{last})" if others else last


def _block_index(position: str, block: int) -> str:
    return position if block == 1 else f"{position} / {block}"


@emits(ops.CopyArriveOp, TARGET)
def _copy_arrive(op: ops.CopyArriveOp, module: Module) -> Emission:
    guard = "" if op.lanes == hw.WARP_THREADS else f"if (lane < {op.lanes}) "
    return statement(f"{guard}copy_async_arrive({barrier(op.barriers, op.cursor)});",
                     "arrive when this lane's copies have landed", "copy_async_arrive")  # fmt: skip


@emits(ops.ReleaseOp, TARGET)
def _release(op: ops.ReleaseOp, module: Module) -> Emission:
    to = barrier(op.barriers, op.cursor)
    if op.lanes and op.cluster == 1:
        return statement(f"mbarrier_arrive({to});", "this lane has read the stage", "mbarrier_arrive")
    if op.lanes:
        used = helpers("mbarrier_arrive", "mbarrier_arrive_cluster")
        return Emission("release_lanes", {"barrier": to, "ctas": op.cluster}, used)
    if op.cluster == 1:
        return Emission("release", {"barrier": to}, helpers("mbarrier_arrive"))
    return Emission("release_cluster", {"barrier": to, "ctas": op.cluster}, helpers("mbarrier_arrive_cluster"))


def wgmma_helper(template: str, op: math_ops.WgmmaOp) -> Helper:
    """The device function of one wgmma shape: its register operands are spelled out."""
    columns = extents(op.part)[1]
    count = columns // 2
    transposes = [int(span > 0) for span in (op.a_span, op.b_span)] if op.item_bytes == 2 else []
    fields = (
        ("columns", columns),
        ("k", op.k),
        ("count", count),
        ("types", f"{op.a_dtype}.{op.b_dtype}"),
        ("suffix", wgmma_suffix(op)),
        ("registers", ", ".join(f"%{index}" for index in range(count))),
        ("outputs", tuple(range(count))),
        ("desc_a", f"%{count}"),
        ("desc_b", f"%{count + 1}"),
        ("immediates", ", ".join(map(str, [1, 1, *transposes]))),
    )
    return Helper(template, fields)


def wgmma_suffix(op: math_ops.WgmmaOp) -> str:
    """What tells the device functions of wgmma shapes apart."""
    transposed = [f"_{name}t" for name, span in (("a", op.a_span), ("b", op.b_span)) if span]
    return f"m64n{extents(op.part)[1]}k{op.k}_{op.a_dtype}_{op.b_dtype}{''.join(transposed)}"


def children(op: Op) -> tuple[Op, ...]:
    """The ops directly inside an op's regions."""
    return tuple(inner for region in op.all_regions for inner in region.ops)
