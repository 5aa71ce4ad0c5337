"""Emitters of Blackwell's control ops: Hopper's for the ops that both have, and those of tensor memory."""

from __future__ import annotations

from typing import Any

from gemmgen.backends.sm90 import emitters as hopper
from gemmgen.backends.sm90 import math_emitters as hopper_math
from gemmgen.backends.sm90 import ops as hopper_ops
from gemmgen.backends.sm90.emitters import statement
from gemmgen.backends.sm90.hardware import k_advance_bytes
from gemmgen.backends.sm90.names import barrier, dim, offset, stage_address
from gemmgen.backends.sm100 import hardware as hw
from gemmgen.backends.sm100 import ops
from gemmgen.emit.emission import Emission, Helper, emits, helpers, share_emitter
from gemmgen.ir.core import Module, Value

TARGET = "sm100"

LOADED, RELEASED = "until the stage is loaded", "until every reader has released the stage"
NOTES = {
    "part_full": "until the partial sum is complete",
    "part_empty": "until the partial sum before it has been read",
}
"""What a wait for the barriers of accumulators waits for; others wait for a stage to be ``LOADED`` or ``RELEASED``."""
OWN_EMITTERS = (ops.WaitOp, ops.ReleaseOp, ops.ExpectOp, ops.TmaLoadOp)

for _theirs, _mine in ops.HOPPER.items():
    if _mine not in OWN_EMITTERS:
        share_emitter(_mine, TARGET, _theirs, hopper.TARGET)
assert hopper_math.TARGET == hopper.TARGET  # both modules have registered what is shared here


@emits(ops.WaitOp, TARGET)
def _wait(op: hopper_ops.WaitOp, module: Module) -> Emission:
    parity = f"{op.cursor.name}.phase ^ 1" if op.flip else f"{op.cursor.name}.phase"
    text = f"mbarrier_wait({barrier(op.barriers, op.cursor)}, {parity});"
    return statement(text, NOTES.get(op.barriers.name, RELEASED if op.flip else LOADED), "mbarrier_wait")


def led(barriers: Value, module: Module) -> bool:
    """Whether a group of barriers is the first CTA's, on behalf of all."""
    return any(isinstance(op, ops.BarriersOp) and op.result == barriers and op.leader for op in module.body.ops)


def arrival(barriers: Value, cursor: Value, module: Module) -> tuple[str, str]:
    """The call that arrives once at the cursor's barrier, and the device function it needs."""
    to = barrier(barriers, cursor)
    if led(barriers, module):
        return f"mbarrier_arrive_cluster({to}, 0)", "mbarrier_arrive_cluster"
    return f"mbarrier_arrive({to})", "mbarrier_arrive"


@emits(ops.ExpectOp, TARGET)
def _expect(op: hopper_ops.ExpectOp, module: Module) -> Emission:
    text = f"mbarrier_expect({barrier(op.barriers, op.cursor)}, {op.transfer_bytes});"
    if led(op.barriers, module):
        return statement(f"if (rank == 0) {text}", "bytes that will land in both CTAs' stages", "mbarrier_expect")
    return statement(text, "bytes that will land in this stage", "mbarrier_expect")


@emits(ops.TmaLoadOp, TARGET)
def _tma_load(op: hopper_ops.TmaLoadOp, module: Module) -> Emission:
    return hopper.tma_load(op, module, "tma_load_pair" if led(op.barriers, module) else "tma_load")


@emits(ops.ReleaseOp, TARGET)
def _release(op: hopper_ops.ReleaseOp, module: Module) -> Emission:
    if op.cluster > 1:
        fields = {"barrier": barrier(op.barriers, op.cursor), "ctas": op.cluster}
        return Emission("release_cluster", fields, helpers("mbarrier_arrive_cluster"))
    what = "the partial sum" if op.barriers.name == "part_empty" else "the stage"
    call, helper = arrival(op.barriers, op.cursor, module)
    return Emission("release", {"arrive": call, "what": what}, helpers(helper))


@emits(ops.TmemAllocOp, TARGET)
def _tmem_alloc(op: ops.TmemAllocOp, module: Module) -> Emission:
    fields = {"warp": op.warp, "columns": op.columns, "address": f"smem + {offset(op.area)}"}
    return Emission("tmem_alloc", fields, (of_group("tmem_alloc", op.ctas),))


def of_group(template: str, ctas: int) -> Helper:
    """A device function whose instruction is one CTA's or a pair's."""
    return Helper(template, (("ctas", ctas),))


@emits(ops.TmemAddressOp, TARGET)
def _tmem_address(op: ops.TmemAddressOp, module: Module) -> Emission:
    return statement(f"const uint32_t {op.result.name} = load_shared_word(smem + {offset(op.area)});",
                     "where the columns begin", "load_shared_word")  # fmt: skip


@emits(ops.TmemFreeOp, TARGET)
def _tmem_free(op: ops.TmemFreeOp, module: Module) -> Emission:
    text = f"if (warp == {op.warp}) tmem_free<{op.columns}>({op.tmem.name});"
    note = "the warp that allocated the columns gives them back"
    return Emission("statement", {"text": text, "note": note}, (of_group("tmem_free", op.ctas),))


@emits(ops.FenceOp, TARGET)
def _fence(op: ops.FenceOp, module: Module) -> Emission:
    note = {"before": "what was done in tensor memory comes before the next barrier",
            "after": "what is done in tensor memory comes after that barrier"}[op.side]  # fmt: skip
    return statement(f"tmem_fence_{op.side}();", note, "tmem_fence")


def descriptor_helper(op: ops.MmaOp, span: int) -> Helper:
    """The device function that makes descriptors of operand tiles; ``span`` > 0 for transposed ones."""
    if not span:
        bits = hw.shared_descriptor(op.row_bytes)
        return Helper("mma_descriptor", (("row_bytes", op.row_bytes), ("bits", f"0x{bits:x}")))
    slab_bytes = op.row_bytes // op.item_bytes * span
    bits = hw.shared_descriptor(span, slab_bytes)
    fields = (("span", span), ("slab_bytes", slab_bytes), ("bits", f"0x{bits:x}"))
    return Helper("mma_descriptor_transposed", fields)


@emits(ops.MmaOp, TARGET)
def _mma(op: ops.MmaOp, module: Module) -> Emission:
    kind = hw.mma_kind(op.a_dtype, op.b_dtype)
    instruction = hw.instruction_descriptor(
        op.rows * op.ctas, op.columns, op.a_dtype, op.b_dtype, op.a_span > 0, op.b_span > 0
    )
    fields = {**_product(op, kind), "instruction": f"0x{instruction:08x}"}
    return Emission("mma", fields, (Helper("mma", (("kind", kind), ("ctas", op.ctas))), *_descriptor_helpers(op)))


@emits(ops.ScaledMmaOp, TARGET)
def _scaled_mma(op: ops.ScaledMmaOp, module: Module) -> Emission:
    kind = hw.SCALED_KIND
    instruction = hw.scaled_instruction_descriptor(
        op.rows * op.ctas, op.columns, op.a_dtype, op.b_dtype, op.a_span > 0, op.b_span > 0
    )
    steps = list(zip(hw.scale_steps(op.vector_a), hw.scale_steps(op.vector_b), strict=True))
    fields = _product(op, kind)
    for later, (a, b) in zip(fields["later_steps"], steps[1:], strict=True):
        later["ids"] = f" + 0x{hw.scale_ids(a, b):x}" if a or b else ""
    assert op.k is not None
    stage = f"{op.tmem.name} + {{}} + {op.cursor.name}.stage * {op.scale_columns}"
    fields |= {
        "instruction": " | ".join([f"0x{instruction:08x}", *_first_ids(op.k, op.vector_a, op.vector_b)]),
        "ids": "of each word of four scales, products take the one of their elements of K",
        "scale_a": stage.format(op.scale_a), "scale_b": stage.format(op.scale_b),
    }  # fmt: skip
    return Emission("scaled_mma", fields, (Helper("scaled_mma", (("kind", kind), ("ctas", op.ctas))),
                                           *_descriptor_helpers(op)))  # fmt: skip


def _first_ids(k: Value, a: int, b: int) -> list[str]:
    """The bits that choose the scales of a step's first product, where a word lasts for several steps."""
    places = {vector: f"{k.name} / {vector} % {hw.SCALES_PER_WORD}" for vector in (a, b)}
    shifts = {"a": hw.scale_ids(1, 0).bit_length() - 1, "b": hw.scale_ids(0, 1).bit_length() - 1}
    lasting = {name: vector for name, vector in (("a", a), ("b", b)) if hw.SCALES_PER_WORD * vector > hw.STEP_ELEMENTS}
    return [f"{places[vector]} << {shifts[name]}" for name, vector in lasting.items()]


def _product(op: ops.MmaOp, kind: str) -> dict[str, Any]:
    """The fields of a product, with scales or without."""
    spans = {"a": op.a_span, "b": op.b_span}
    advances = {name: k_advance_bytes(span, op.item_bytes) >> 4 for name, span in spans.items()}
    return {
        "a": stage_address(op.a, op.cursor),
        "b": stage_address(op.b, op.cursor),
        **{f"descriptor_{name}": f"mma_descriptor_transposed_{span}" if span else "mma_descriptor"
           for name, span in spans.items()},
        "part": accumulator(op.tmem.name, op.first, op.columns, op.parts.name),
        "kind": kind,
        "first": "false" if op.k is None else f"{op.k.name} > 0",
        "shape": f"{op.rows * op.ctas} x {op.columns}, {op.a_dtype} by {op.b_dtype}",
        "later_steps": [{name: step * advance for name, advance in advances.items()} for step in range(1, op.steps)],
        "k_bytes": hw.MMA_K_BYTES,
        "areas": f"{op.a} and {op.b}",
        "what": "The first product overwrites" if op.k is None else "The first product of a tile overwrites",
    }  # fmt: skip


def _descriptor_helpers(op: ops.MmaOp) -> tuple[Helper, ...]:
    return tuple({descriptor_helper(op, span): None for span in (op.a_span, op.b_span)})


@emits(ops.ScaleFactorsOp, TARGET)
def _scale_factors(op: ops.ScaleFactorsOp, module: Module) -> Emission:
    columns, address = f"{op.tmem.name} + {op.first}", stage_address(op.area, op.cursor)
    groups = [
        {"columns": f"{columns} + {op.cursor.name}.stage * {op.columns}" + _plus(index * hw.SCALE_GROUP_COLUMNS),
         "address": address + _plus(index * hw.SCALE_GROUP_BYTES)}
        for index in range(op.groups)
    ]  # fmt: skip
    fields = {"groups": groups, "area": op.area, "group_columns": hw.SCALE_GROUP_COLUMNS}
    descriptor = Helper("scale_descriptor", (("bits", f"0x{hw.scale_descriptor():x}"),))
    return Emission("scale_factors", fields, (of_group("copy_scale_factors", op.ctas), descriptor))


def _plus(offset: int) -> str:
    return f" + {offset}" if offset else ""


@emits(ops.ArrangeScalesOp, TARGET)
def _arrange_scales(op: ops.ArrangeScalesOp, module: Module) -> Emission:
    fields = {
        **_arranged(op), "area": op.area, "from": stage_address(op.area, op.landed),
        "group_bytes": hw.SCALE_GROUP_BYTES,
    }  # fmt: skip
    return Emission("arrange_scales", fields, helpers("load_shared_word", "store_shared_4"))


@emits(ops.GatherScalesOp, TARGET)
def _gather_scales(op: ops.GatherScalesOp, module: Module) -> Emission:
    fields = {
        **_arranged(op), "source": op.source.name, "row": op.row.name, "column": f"{op.col.name} / {op.block[1]}",
        "row_stride": op.row_stride.name, "col_stride": op.col_stride.name, "limit": dim(op.limit),
        "group_rows": hw.SCALE_GROUP_ROWS, "group_bytes": hw.SCALE_GROUP_BYTES,
    }  # fmt: skip
    return Emission("gather_scales", fields, helpers("store_shared_4"))


def _arranged(op: ops.ArrangeScalesOp | ops.GatherScalesOp) -> dict[str, Any]:
    """Where words go, and which of their bytes."""
    masks = [] if op.k is None else [f"{op.k.name} < {op.last} ? 0x{hw.WHOLE_WORD:08x} : 0x{op.mask:08x}"]
    masked = " & kept" if masks else ""
    return {"to": stage_address(op.to, op.cursor), "groups": op.groups, "masks": masks, "masked": masked}


@emits(ops.PublishScalesOp, TARGET)
def _publish_scales(op: ops.PublishScalesOp, module: Module) -> Emission:
    call, helper = arrival(op.barriers, op.cursor, module)
    return Emission("publish_scales", {"arrive": call}, helpers("fence_async_shared", helper))


@emits(ops.OwnShareOp, TARGET)
def _own_share(op: ops.OwnShareOp, module: Module) -> Emission:
    text = f"const uint32_t {op.result.name} = {op.start.name} + rank * {op.extent};"
    return statement(text, "where this CTA's share begins")


@emits(ops.CommitOp, TARGET)
def _commit(op: ops.CommitOp, module: Module) -> Emission:
    to = barrier(op.barriers, op.cursor)
    if op.cluster > 1:
        text = f"mma_commit_cluster({to}, 0x{(1 << op.cluster) - 1:x});"
        note = f"arrive in all {op.cluster} CTAs when the products are complete"
        return Emission("statement", {"text": text, "note": note}, (of_group("mma_commit_cluster", op.ctas),))
    note = "arrive when the products are complete"
    return Emission("statement", {"text": f"mma_commit({to});", "note": note}, (of_group("mma_commit", op.ctas),))


def accumulator(tmem: str, first: int, columns: int, cursor: str) -> str:
    """The tensor-memory address of the accumulator in the cursor's stage."""
    start = f"{tmem} + {first}" if first else tmem
    return f"{start} + {cursor}.stage * {columns}"
