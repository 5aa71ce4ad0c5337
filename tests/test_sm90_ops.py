"""Hopper's ops and records: each emitted, each legal at the target level only, records round-trip as text."""

from __future__ import annotations

import pytest
from ir_texts import built, rejected

from gemmgen.backends.sm90.math_ops import WgmmaOp
from gemmgen.backends.sm90.ops import Area, Launch, Sm90Op, TensorMap, WarpsOp
from gemmgen.backends.sm90.source import DIALECT
from gemmgen.emit import emission
from gemmgen.ir import Level, parse_module, print_module
from gemmgen.ir.core import Effect
from gemmgen.ir.schema import registered_ops

OPS = {name: cls for name, cls in registered_ops().items() if cls.__module__.startswith("gemmgen.backends.sm90")}


@pytest.mark.parametrize("name", OPS)
def test_every_op_has_an_emitter_and_one_level(name: str):
    assert OPS[name] in {op for target, op in emission._EMITTERS if target == DIALECT}
    assert issubclass(OPS[name], Sm90Op)
    assert list(OPS[name].LEVELS) == [Level.TARGET]


def test_math_ops_are_known_to_the_parser():
    """They stand in a module of their own, which reading ``sm90.`` has to import."""
    assert OPS["sm90.wgmma"] is WgmmaOp


def test_waits_and_loads_declare_what_they_touch():
    effects = {name: cls.EFFECTS for name, cls in OPS.items()}
    assert Effect.READS_BARRIER in effects["sm90.wait"]
    assert {Effect.READS_GMEM, Effect.WRITES_SMEM} <= effects["sm90.tma_load"]
    assert {Effect.READS_SMEM, Effect.WRITES_GMEM} <= effects["sm90.tma_store"]
    assert Effect.READS_SMEM in effects["sm90.wgmma"]
    assert Effect.WRITES_GMEM in effects["sm90.store_direct"]


def test_records_are_text():
    module = built("cluster").result.module
    again = parse_module(print_module(module))
    assert again.record(Launch) == module.record(Launch)
    assert again.attr("areas") == module.attr("areas")
    assert again.attr("maps") == module.attr("maps")
    assert isinstance(again.attr("areas")[0], Area)
    assert isinstance(again.attr("maps")[0], TensorMap)


TWO_ELECT = '  sm90.warps() {label="x", first=0, count=2, elect=true} do {\n  }\n'
OVERLAPPING = """\
  sm90.dispatch() do {
    sm90.warps() {label="x", first=0, count=2} do {
    }
    sm90.warps() {label="y", first=1, count=2} do {
    }
  }
"""


@pytest.mark.parametrize(
    ("ops", "parts"),
    [
        ('  sm90.sync() {scope="grid"}\n', ("scope of a sync", "got: grid", "cta or cluster")),
        (TWO_ELECT, ("elect.sync elects one thread", "2 warps")),
        ("  sm90.dispatch() do {\n    sm90.grid_wait()\n  }\n", ("branches of a dispatch", "got: sm90.grid_wait")),
        (OVERLAPPING, ("branches of a dispatch", "need: sm90.warps in ascending order")),
    ],
)
def test_rules_of_single_ops(ops: str, parts: tuple[str, ...]):
    rejected("module @k level=target target=sm_90a () {\n" + ops + "}\n", *parts)


def test_hopper_ops_do_not_belong_to_blackwell():
    text = 'module @k level=target target=sm_100a () {\n  sm90.sync() {scope="cta"}\n}\n'
    rejected(text, "sm90.sync belongs to another target", "ops of sm100")


def test_a_region_is_kept():
    op = WarpsOp(label="x", first=0, count=1, body=built("plain").result.module.body)
    assert op.all_regions == (built("plain").result.module.body,)
