"""What lowering to Blackwell refuses, and how the numbers in it come about."""

from __future__ import annotations

import pytest
from ir_texts import ASYNC, edited, opt, refused
from sm100_cases import built

from gemmgen.backends.sm90.sites import Program
from gemmgen.backends.sm100.ops import BarriersOp, CommitOp, MmaOp, TmemAllocOp
from gemmgen.errors import ScheduleError

TEXT = edited(ASYNC, ("target=sm_90a", "target=sm_100a"))
MEMORY = "tensor-memory-allocation,shared-memory-allocation,lower-sm100"


@pytest.mark.parametrize(
    ("passes", "error"),
    [
        (f"epilogue-staging,warp-specialization,{MEMORY}", "one ring of accumulators in tensor memory"),
        (f"epilogue-staging,{MEMORY}", "one ring of accumulators in tensor memory"),
        ("epilogue-staging,warp-specialization{accumulators=2},tensor-memory-allocation,lower-sm100",
         "lowering needs one ring that has its place"),
    ],
)  # fmt: skip
def test_what_must_come_before(passes: str, error: str):
    refused(TEXT, error, passes=passes)


def test_columns_must_be_allocated():
    passes = "epilogue-staging,warp-specialization{accumulators=2},shared-memory-allocation,lower-sm100"
    refused(TEXT, "one ring of accumulators in tensor memory", passes=passes)


def test_tiles_that_the_instruction_does_not_have():
    narrow = TEXT.replace("[128, 64]", "[64, 64]").replace("smem<e4m3, [128, 128]>", "smem<e4m3, [64, 128]>")
    narrow = narrow.replace("smem<f32, [128]>", "smem<f32, [64]>")
    with pytest.raises(ScheduleError, match="128 lanes"):
        opt(narrow, f"epilogue-staging,warp-specialization{{accumulators=2}},{MEMORY}")


def test_other_epilogues_are_refused():
    other = edited(TEXT, ('{expression="acc"}', '{expression="acc * 2"}'))
    refused(other, "sm_100a's epilogue", passes=f"warp-specialization{{accumulators=2}},{MEMORY}")


@pytest.mark.parametrize(("name", "empty"), [("plain", 9), ("one_group", 5), ("bf16_nt", 1), ("cluster", 18)])
def test_arrivals(name: str, empty: int):
    """Warps that read scales, and a commit; sums over all of K leave the stages to the tensor core; clusters add up."""
    program = Program.of(built(name).result.module)
    arrivals = {op.area: op.arrivals for _, op in program.all(BarriersOp)}
    assert arrivals["empty"] == empty
    assert arrivals["part_full"] == 1
    assert arrivals["part_empty"] == 4 * built(name).schedule.math_warpgroups


def test_commits_go_where_loads_come_from():
    program = Program.of(built("cluster").result.module)
    assert [op.cluster for _, op in program.all(CommitOp)] == [2, 1]


def test_accumulators_fill_their_allocation():
    program = Program.of(built("wide").result.module)
    ((_, alloc),), ((_, mma),) = program.all(TmemAllocOp), program.all(MmaOp)
    assert (alloc.columns, mma.columns, built("wide").schedule.accumulators) == (512, 256, 2)


@pytest.mark.parametrize(("name", "spans"), [("bf16_nt", (0, 0)), ("bf16_nn", (0, 64)), ("bf16_tn", (128, 128)),
                                             ("fp8_nn", (0, 32)), ("fp8_tn_swapped", (128, 32))])  # fmt: skip
def test_spans_of_transposed_operands(name: str, spans: tuple[int, int]):
    """The widest swizzle span that divides a row: 96 columns of bf16 are 192 bytes, three spans of 64."""
    ((_, mma),) = Program.of(built(name).result.module).all(MmaOp)
    assert (mma.a_span, mma.b_span) == spans
