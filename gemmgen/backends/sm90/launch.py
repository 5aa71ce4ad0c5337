"""How to launch a target-level module: its parameters and grid as a LaunchPlan."""

from __future__ import annotations

from gemmgen.backends.sm90.ops import Launch, TensorMap
from gemmgen.errors import IRError
from gemmgen.ir.core import Module, Value
from gemmgen.ir.types import I32, I64, MapType, MemType
from gemmgen.runtime.launch_plan import LaunchPlan, Param, PointerParam, ScalarParam, TensorMapParam

AXES = {"row": 0, "col": 1}


def launch_plan(module: Module) -> LaunchPlan:
    """The launch plan of a module of ``sm90.*`` ops."""
    launch: Launch = module.attr("launch")
    maps = {tensor_map.arg: tensor_map for tensor_map in module.attr("maps")}
    return LaunchPlan(
        entry=module.name,
        target=module.target,
        threads=launch.threads,
        cluster=launch.cluster,
        smem_bytes=launch.smem_bytes,
        tiles=(launch.tile[0], launch.tile[1], launch.ctas_per_tile),
        persistent=launch.persistent,
        params=tuple(_param(value, maps) for value in module.args),
        pdl=launch.pdl,
    )


def _param(value: Value, maps: dict[str, TensorMap]) -> Param:
    if isinstance(value.type, MapType):
        found = maps[value.name]
        return TensorMapParam(
            value.name, found.operand, found.dtype, found.box, found.swizzle, transposed=found.transposed
        )
    if isinstance(value.type, MemType):
        return PointerParam(value.name, value.name)
    if value.type == I64:
        operand, _, axis = value.name.partition("_stride_")
        return ScalarParam(value.name, "int64", f"stride:{operand}:{AXES[axis]}")
    if value.type == I32:
        return ScalarParam(value.name, "uint32", value.name)
    raise IRError(f"{value} cannot be a kernel parameter", got=value.type, need="map, gmem, i64 or i32")
