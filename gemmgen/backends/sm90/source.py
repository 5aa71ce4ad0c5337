"""The CUDA file of a target-level module: constants, device functions, signature, body."""

from __future__ import annotations

from gemmgen.backends.sm90 import emitters, math_emitters, names  # noqa: F401  (they register the emitters)
from gemmgen.backends.sm90.ops import Area, Launch
from gemmgen.emit.renderer import Renderer, render
from gemmgen.errors import IRError
from gemmgen.ir.core import Effect, Module, Value
from gemmgen.ir.rewrite import walk
from gemmgen.ir.types import I32, I64, MapType, MemType

DIALECT = "sm90"
POINTER_TYPES = {
    "f32": "float* __restrict__", "bf16": "uint16_t* __restrict__", "f16": "uint16_t* __restrict__",
    "ue8m0x4": "uint32_t* __restrict__",
}  # fmt: skip
AREA_NOTES = {
    "full": "barriers: a stage is loaded",
    "empty": "barriers: a stage is free",
    "words_full": "barriers: scales have landed",
    "words_empty": "barriers: scales have been arranged",
    "runs_full": "barriers: the scales of a tile are loaded",
    "runs_empty": "barriers: a stage for the scales of a tile is free",
    "scales_full": "barriers: a stage of scales is loaded",
    "scales_empty": "barriers: a stage of scales is free",
    "staging": "output tile on its way out",
    "exchange": "partial sums, over the stages of the ring",
    "part_full": "barriers: a partial sum is complete",
    "part_empty": "barriers: a partial sum has been read",
    "tmem_address": "where tensor memory was allocated",
}


def emit_cuda(module: Module) -> str:
    """CUDA C++ for a module of ``sm90.*`` ops; the same module gives the same text byte for byte.

    Raises:
        IRError: an op has no emitter; all of them are named.
    """
    return write(module, Renderer(module, DIALECT))


def write(module: Module, renderer: Renderer) -> str:
    """The file of a module whose launch, areas and parameters are Hopper's records, with the renderer's templates."""
    launch: Launch = module.attr("launch")
    written = {value for op in walk(module) if Effect.WRITES_GMEM in op.EFFECTS for value in op.all_operands}
    body = renderer.body()
    fields = {
        "title": module.name,
        "target": module.target,
        "facts": _facts(module, launch),
        "smem_bytes": launch.smem_bytes,
        "areas": [_area(area) for area in module.attr("areas")],
        "helpers": renderer.helpers(),
        "threads": launch.threads,
        "name": module.name,
        "params": ", ".join(_parameter(value, value in written) for value in module.args),
        "preamble": ["const uint32_t rank = cluster_rank();"] if launch.cluster > 1 else [],
        "body": body,
    }
    if launch.cluster > 1:
        rank = render("helpers/cluster_rank", {}, renderer.folders)
        fields["helpers"] = rank + "\n\n" + fields["helpers"]
    return render("kernel", fields, renderer.folders) + "\n"


def _facts(module: Module, launch: Launch) -> list[str]:
    tile = " x ".join(str(extent) for extent in launch.tile)
    facts = [f"{launch.threads} threads per CTA, {launch.cluster} CTAs per cluster, {tile} of D per scheduler tile."]
    if launch.persistent:
        facts.append("Persistent: launch as many CTAs as SMs; each goes on to further tiles.")
    return facts


def _area(area: Area) -> dict[str, object]:
    stages = f"{area.stages} stages" if area.stages > 1 else "once"
    note = AREA_NOTES.get(area.name, f"tiles of {area.name}")
    constants = [f"{names.offset(area.name)} = {area.offset}"]
    if area.name not in AREA_NOTES:
        constants.append(f"{names.stage_bytes(area.name)} = {area.stage_bytes}")
    return {"constants": ", ".join(constants), "note": f"{note}, {stages}"}


def _parameter(value: Value, written: bool) -> str:
    if isinstance(value.type, MapType):
        return f"const __grid_constant__ TensorMap {value.name}"
    if isinstance(value.type, MemType):
        return f"{'' if written else 'const '}{POINTER_TYPES[value.type.dtype.name]} {value.name}"
    if value.type == I64:
        return f"int64_t {value.name}"
    if value.type == I32:
        return f"uint32_t {value.name}"
    raise IRError(f"{value} cannot be a kernel parameter", got=value.type, need="map, gmem, i64 or i32")
