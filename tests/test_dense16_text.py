"""What 16-bit kernels look like at each level, that NVRTC takes them as they are, and which plans there are."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from conftest import Golden
from dense16_support import Case, case, compiled
from ir_texts import PROMOTED, TARGET, edited, opt, refused

from gemmgen import compiler
from gemmgen.backends.capability import capability
from gemmgen.backends.sm90 import hardware as hw
from gemmgen.errors import ScheduleError
from gemmgen.schedule import Schedule
from gemmgen.spec.model import ScheduleHints

LEVELS = {"tile": ".ir", "target": ".ir", "cuda": ".cu"}
GOLDEN = {
    "nt_plain": case("NT", (4096, 4096, 7168), tile=(128, 256, 64), stages=3),
    "tn_cluster": case("TN", (4096, 512, 1024), tile=(128, 96, 64), stages=4, cluster=(2, 1)),
    "nn_f16_split_k_swapped": case("NN", (16, 576, 7168), "f16", tile=(16, 64, 64), stages=6, swap_ab=True, split_k=4),
}
DICE = random.Random(16)
SHAPES = [(8 * DICE.randint(1, 2048), 8 * DICE.randint(1, 1024)) for _ in range(6)] + [(8, 8), (4096, 7168)]
LAYOUTS = ("NT", "NN", "TN", "TT")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", GOLDEN)
def test_text(name: str, level: str, golden: Golden):
    artifact = GOLDEN[name].artifact
    golden(artifact.source if level == "cuda" else artifact.ir[level], LEVELS[level])


def plan_of(layout: str, n: int, k: int, dtype: str = "bf16", **hints: Any) -> list[Schedule]:
    spec = replace(Case(layout, (0, n, k), dtype).spec, schedule=ScheduleHints(**hints))
    return [entry.schedule for entry in compiler.plan(spec, TARGET)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_planned_kernel_is_legal(layout: str):
    """The verifier proves barriers, boxes and registers of each."""
    planned = sorted({schedule for n, k in SHAPES for schedule in plan_of(layout, n, k)}, key=str)
    assert {schedule.swap_ab for schedule in planned} == {schedule.split_k > 1 for schedule in planned} == {True, False}
    assert {schedule.tile[2] for schedule in planned} == {64}
    spec = Case(layout, (0, 4096, 7168)).spec
    for schedule in planned:
        launch = compiler.build(spec, TARGET, schedule).launch
        assert launch.smem_bytes <= capability(TARGET).smem_per_cta


WIDEST = [
    *(case(layout, (8192, 4096, 4096), tile=tile, cluster=cluster)
      for layout in LAYOUTS for tile, cluster in (((256, 128, 64), (1, 2)), ((128, 256, 64), (2, 1)))),
    case("TN", (8192, 4096, 4096), out="f32", tile=(128, 256, 64)),
    case("NT", (64, 4096, 4096), "f16", "f32", tile=(64, 128, 64), swap_ab=True, split_k=4),
    *GOLDEN.values(),
]  # fmt: skip


@pytest.mark.parametrize("what", WIDEST, ids=str)
def test_nvrtc_neither_warns_nor_spills(what: Case):
    artifact = what.artifact
    found = compiled(artifact.source, artifact.name).resources
    assert found.warnings == ()
    assert (found.spill_store_bytes, found.spill_load_bytes, found.stack_frame_bytes) == (0, 0, 0)
    assert found.registers <= hw.launch_registers(artifact.launch.threads)


def test_instructions_say_type_and_transposition():
    texts = {
        layout: case(layout, (128, 64, 64), dtype, tile=(64, 64, 64)).artifact.source
        for layout, dtype in (("NT", "bf16"), ("NN", "f16"), ("TN", "bf16"), ("TT", "f16"))
    }
    for layout, text in texts.items():
        dtype = "bf16" if layout in ("NT", "TN") else "f16"
        transposes = f"{int(layout[0] == 'T')}, {int(layout[1] == 'N')}"
        assert f"wgmma.mma_async.sync.aligned.m64n64k16.f32.{dtype}.{dtype} " in text
        assert f"accumulate, 1, 1, {transposes};" in text
        assert f"cvt.rn.{dtype}x2.f32" in text


def test_scheduler_hints_choose_among_the_shipped_schedules():
    (only,) = plan_of("TN", 512, 4096, swap_ab=True, split_k=4, tile=(16, 64, 64))
    assert (only.split_k, only.swap_ab, only.tile) == (4, True, (16, 64, 64))
    assert {schedule.split_k for schedule in plan_of("NN", 512, 4096, split_k=2)} == {2}


@pytest.mark.parametrize(("layout", "hints", "says"), [
    ("NT", {"tile": (128, 128, 128)}, "write 64: one swizzle span"),
    ("NN", {"tile": (128, 72, 64), "split_k": 2}, "rows of an operand's tile"),
    ("TT", {"tile": (24, 64, 64), "swap_ab": True}, "rows of an operand's tile"),
    ("NT", {"tile": (256, 256, 64)}, "accumulators do not fit"),
])  # fmt: skip
def test_tiles_that_hopper_cannot_do(layout: str, hints: dict[str, Any], says: str):
    with pytest.raises(ScheduleError, match=says) as caught:
        plan_of(layout, 512, 512, **hints)
    assert caught.value.where == "schedule.tile"
    assert caught.value.got
    assert caught.value.need
    assert caught.value.fix


def test_few_tokens_with_m_contiguous_take_the_narrowest_slab():
    assert plan_of("NT", 4096, 7168)[0].tile[0] == 8
    assert plan_of("TT", 4096, 7168)[0].tile[0] == 16


def test_swapping_trades_the_transpositions():
    turned = edited(
        PROMOTED,
        ("%a: gmem<e4m3, [M, 256]>", "%a: gmem<e4m3, [256, M]>"),
        ("source=%a, row=%m0, col=%k0", "source=%a, row=%k0, col=%m0"),
        ("tile.mma(a=%at, b=%bt)", "tile.mma(a=%at, b=%bt) {trans_a=true}"),
    )
    assert opt(turned) == turned
    assert "tile.mma(a=%bt, b=%at) {trans_b=true} : frag<f32, [64, 128]>" in opt(turned, "swap-operands")


def test_a_transposed_operand_has_k_first():
    wrong = edited(PROMOTED, ("tile.mma(a=%at, b=%bt)", "tile.mma(a=%at, b=%bt) {trans_b=true}"))
    refused(wrong, "shapes of a matrix product", "smem<e4m3, [128, 128]> · smem<e4m3, [64, 128]> →")


@pytest.mark.parametrize(("row_bytes", "span"), [(128, 128), (512, 128), (192, 64), (64, 64), (160, 32), (32, 32)])
def test_swizzle_span(row_bytes: int, span: int):
    assert hw.swizzle_span(row_bytes) == span


def test_k_advance():
    """32 bytes of K along a row; 16 elements of K are 2 atoms of 8 rows where rows follow each other along K."""
    assert hw.k_advance_bytes(0, 1) == hw.k_advance_bytes(0, 2) == 32
    assert hw.k_advance_bytes(128, 2) == 2 * 1024
    assert hw.k_advance_bytes(64, 2) == 2 * 512
