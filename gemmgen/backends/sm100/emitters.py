"""Emitters of Blackwell's control ops: Hopper's for the ops that both have, and those of tensor memory."""

from __future__ import annotations

from gemmgen.backends.sm90 import emitters as hopper
from gemmgen.backends.sm90 import math_emitters as hopper_math
from gemmgen.backends.sm90 import ops as hopper_ops
from gemmgen.backends.sm90.emitters import statement
from gemmgen.backends.sm90.hardware import k_advance_bytes
from gemmgen.backends.sm90.names import barrier, offset, stage_address
from gemmgen.backends.sm100 import hardware as hw
from gemmgen.backends.sm100 import ops
from gemmgen.emit.emission import Emission, Helper, emits, helpers, share_emitter
from gemmgen.ir.core import Module

TARGET = "sm100"

NOTES = {
    "full": "until the stage is loaded",
    "empty": "until every reader has released the stage",
    "part_full": "until the partial sum is complete",
    "part_empty": "until the partial sum before it has been read",
}
"""What a wait for each group of barriers waits for."""

for _theirs, _mine in ops.HOPPER.items():
    if _mine not in (ops.WaitOp, ops.ReleaseOp):
        share_emitter(_mine, TARGET, _theirs, hopper.TARGET)
assert hopper_math.TARGET == hopper.TARGET  # both modules have registered what is shared here


@emits(ops.WaitOp, TARGET)
def _wait(op: hopper_ops.WaitOp, module: Module) -> Emission:
    parity = f"{op.cursor.name}.phase ^ 1" if op.flip else f"{op.cursor.name}.phase"
    text = f"mbarrier_wait({barrier(op.barriers, op.cursor)}, {parity});"
    return statement(text, NOTES[op.barriers.name], "mbarrier_wait")


@emits(ops.ReleaseOp, TARGET)
def _release(op: hopper_ops.ReleaseOp, module: Module) -> Emission:
    if op.cluster > 1:
        fields = {"barrier": barrier(op.barriers, op.cursor), "ctas": op.cluster}
        return Emission("release_cluster", fields, helpers("mbarrier_arrive_cluster"))
    what = "the partial sum" if op.barriers.name == "part_empty" else "the stage"
    return Emission("release", {"barrier": barrier(op.barriers, op.cursor), "what": what}, helpers("mbarrier_arrive"))


@emits(ops.TmemAllocOp, TARGET)
def _tmem_alloc(op: ops.TmemAllocOp, module: Module) -> Emission:
    fields = {"warp": op.warp, "columns": op.columns, "address": f"smem + {offset(op.area)}"}
    return Emission("tmem_alloc", fields, helpers("tmem_alloc"))


@emits(ops.TmemAddressOp, TARGET)
def _tmem_address(op: ops.TmemAddressOp, module: Module) -> Emission:
    return statement(f"const uint32_t {op.result.name} = load_shared_word(smem + {offset(op.area)});",
                     "where the columns begin", "load_shared_word")  # fmt: skip


@emits(ops.TmemFreeOp, TARGET)
def _tmem_free(op: ops.TmemFreeOp, module: Module) -> Emission:
    return statement(f"if (warp == {op.warp}) tmem_free<{op.columns}>({op.tmem.name});",
                     "the warp that allocated the columns gives them back", "tmem_free")  # fmt: skip


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
    spans = {"a": op.a_span, "b": op.b_span}
    advances = {name: k_advance_bytes(span, op.item_bytes) >> 4 for name, span in spans.items()}
    kind = hw.mma_kind(op.a_dtype, op.b_dtype)
    instruction = hw.instruction_descriptor(
        op.rows, op.columns, op.a_dtype, op.b_dtype, op.a_span > 0, op.b_span > 0
    )  # fmt: skip
    fields = {
        "a": stage_address(op.a, op.cursor),
        "b": stage_address(op.b, op.cursor),
        **{f"descriptor_{name}": f"mma_descriptor_transposed_{span}" if span else "mma_descriptor"
           for name, span in spans.items()},
        "part": accumulator(op.tmem.name, op.first, op.columns, op.parts.name),
        "instruction": f"0x{instruction:08x}",
        "kind": kind,
        "first": "false" if op.k is None else f"{op.k.name} > 0",
        "shape": f"{op.rows} x {op.columns}, {op.a_dtype} by {op.b_dtype}",
        "later_steps": [{name: step * advance for name, advance in advances.items()} for step in range(1, op.steps)],
        "k_bytes": hw.MMA_K_BYTES,
        "areas": f"{op.a} and {op.b}",
        "what": "The first product overwrites" if op.k is None else "The first product of a tile overwrites",
    }  # fmt: skip
    used = {descriptor_helper(op, span): None for span in spans.values()}
    return Emission("mma", fields, (Helper("mma", (("kind", kind),)), *used))


@emits(ops.CommitOp, TARGET)
def _commit(op: ops.CommitOp, module: Module) -> Emission:
    to = barrier(op.barriers, op.cursor)
    if op.cluster > 1:
        mask = f"0x{(1 << op.cluster) - 1:x}"
        note = f"arrive in all {op.cluster} CTAs when the products are complete"
        return statement(f"mma_commit_cluster({to}, {mask});", note, "mma_commit_cluster")
    return statement(f"mma_commit({to});", "arrive when the products are complete", "mma_commit")


def accumulator(tmem: str, first: int, columns: int, cursor: str) -> str:
    """The tensor-memory address of the accumulator in the cursor's stage."""
    start = f"{tmem} + {first}" if first else tmem
    return f"{start} + {cursor}.stage * {columns}"
