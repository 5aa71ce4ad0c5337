"""Small modules in textual form, one per level, that tests of passes and rules start from; and how to run passes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gemmgen import compiler
from gemmgen.errors import IRError
from gemmgen.ir import parse_module, print_module, verify
from gemmgen.passes.base import PassPipeline
from gemmgen.passes.registry import parse_passes
from gemmgen.schedule import Schedule
from gemmgen.spec.loader import load_spec
from gemmgen.spec.model import GemmSpec, Raster, ScheduleHints

SPECS = Path(__file__).resolve().parents[1] / "specs"
TARGET = "sm_90a"

HEAD = """\
module @k level=tile target=sm_90a (%a: gmem<e4m3, [M, 256]>, %sa: gmem<f32, [M, 2]>, %b: gmem<e4m3, [192, 256]>, \
%sb: gmem<f32, [2, 2]>, %d: gmem<bf16, [M, 192]>) {
  tile.for_tiles() {rows=M, cols=192, tile=[128, 64]} do (%m0: index, %n0: index) {
    %zero = tile.zeros() : frag<f32, [128, 64]>
    %sum = tile.for_k(inits=[%zero]) {extent=256, step=128} : frag<f32, [128, 64]> \
do (%k0: index, %acc: frag<f32, [128, 64]>) {
      %at = tile.load(source=%a, row=%m0, col=%k0) : smem<e4m3, [128, 128]>
      %sat = tile.load_scales(source=%sa, row=%m0, col=%k0) {block=[1, 128]} : smem<f32, [128]>
      %bt = tile.load(source=%b, row=%n0, col=%k0) : smem<e4m3, [64, 128]>
      %sbt = tile.load_scales(source=%sb, row=%n0, col=%k0) {block=[128, 128]} : smem<f32, [1]>
"""
PRODUCT = """\
      %part = tile.mma(a=%at, b=%bt) : frag<f32, [128, 64]>
      %next = tile.promote(acc=%acc, partial=%part, row_scale=%sat, col_scale=%sbt, row=%m0, col=%n0) \
{col_block=128} : frag<f32, [128, 64]>
"""
TAIL = """\
      tile.yield(values=[%next])
    }
    %out = tile.map(acc=%sum) {expression="acc"} : frag<bf16, [128, 64]>
    tile.store(value=%out, dest=%d, row=%m0, col=%n0)
  }
}
"""
TILE = f"""\
{HEAD}\
      %next = tile.scaled_mma(acc=%acc, a=%at, b=%bt, scale_a=%sat, scale_b=%sbt, row=%m0, col=%n0) \
{{block_b=128}} : frag<f32, [128, 64]>
{TAIL}"""
"""What the frontend builds."""
PROMOTED = f"{HEAD}{PRODUCT}{TAIL}"
"""After ``promotion``."""

RING = """\
  %ring = async.ring() {buffers=[\
#buffer{name="a", type=smem<e4m3, [128, 128]>, engine=bulk, stage_bytes=16384}, \
#buffer{name="sa", type=smem<f32, [128]>, engine=lanes, stage_bytes=512}, \
#buffer{name="b", type=smem<e4m3, [64, 128]>, engine=bulk, stage_bytes=8192}, \
#buffer{name="sb", type=smem<f32, [1]>, engine=lanes, stage_bytes=16}]} : ring<3>
"""
STEP = """\
      async.acquire(ring=%ring)
      async.load(ring=%ring, source=%a, row=%m0, col=%k0) {buffer="a"}
      async.load_scales(ring=%ring, source=%sa, row=%m0, col=%k0) {buffer="sa", block=[1, 128], engine=lanes}
      async.load(ring=%ring, source=%b, row=%n0, col=%k0) {buffer="b"}
      async.load_scales(ring=%ring, source=%sb, row=%n0, col=%k0) {buffer="sb", block=[128, 128], engine=lanes}
      async.commit(ring=%ring)
      async.wait(ring=%ring)
      %at = async.read(ring=%ring) {buffer="a"} : smem<e4m3, [128, 128]>
      %sat = async.read(ring=%ring) {buffer="sa"} : smem<f32, [128]>
      %bt = async.read(ring=%ring) {buffer="b"} : smem<e4m3, [64, 128]>
      %sbt = async.read(ring=%ring) {buffer="sb"} : smem<f32, [1]>
"""
_ARGS, _LOOPS = HEAD.split("\n", 1)
ASYNC = (
    _ARGS.replace("level=tile", "level=async")
    + "\n"
    + RING
    + _LOOPS[: _LOOPS.index("      %at = tile.load")]
    + STEP
    + PRODUCT
    + "      async.release(ring=%ring)\n"
    + TAIL
)
"""After ``pipelining{stages=3,scale_copy=lanes}``: a warp's lanes copy all scales."""

_WORDS_HEAD = (
    HEAD.replace("%sa: gmem<f32, [M, 2]>", "%sa: gmem<ue8m0x4, [M, 2]>")
    .replace("%sb: gmem<f32, [2, 2]>", "%sb: gmem<ue8m0x4, [192, 1]>")
    .replace("{block=[1, 128]} : smem<f32, [128]>", "{block=[1, 128]} : smem<ue8m0x4, [128]>")
    .replace("{block=[128, 128]} : smem<f32, [1]>", "{block=[1, 512]} : smem<ue8m0x4, [128]>")
)
WORDS = f"""\
{_WORDS_HEAD}\
      %next = tile.scaled_mma(acc=%acc, a=%at, b=%bt, scale_a=%sat, scale_b=%sbt, row=%m0, col=%n0) \
{{vector_a=32, vector_b=128}} : frag<f32, [128, 64]>
{TAIL}"""
"""What the frontend builds where scales are powers of two, four to a word; 32 of A's elements share one, 128 of B's."""
WORDS_PROMOTED = f"""\
{_WORDS_HEAD}\
      %next = tile.mma(a=%at, b=%bt, acc=%acc, scale_a=%sat, scale_b=%sbt) \
{{vector_a=32, vector_b=128}} : frag<f32, [128, 64]>
{TAIL}"""
"""After ``promotion{block_scaled=true}``."""


def edited(text: str, *changes: tuple[str, str]) -> str:
    """``text`` with each ``old`` replaced by ``new``, once; ``old`` must occur."""
    for old, new in changes:
        assert old in text, f"{old!r} does not occur in\n{text}"
        text = text.replace(old, new, 1)
    return text


def opt(text: str, passes: str = "") -> str:
    """What ``gemmgen opt -p passes`` prints: IR text in, verified between all passes, IR text out."""
    return print_module(PassPipeline(parse_passes(passes)).run(parse_module(text)).module)


def body_of(text: str) -> list[str]:
    """The lines of a module without indentation, braces and header."""
    return [line.strip() for line in text.splitlines()[1:] if line.strip() != "}"]


def roles_of(text: str) -> dict[str, list[str]]:
    """The lines of each role by its name, its own first."""
    roles: dict[str, list[str]] = {}
    found: list[str] = []
    for line in body_of(text):
        if line.startswith("async.role("):
            found = roles[line.partition('name="')[2].partition('"')[0]] = []
        found.append(line)
    return roles


def refused(text: str, *parts: str, passes: str = "") -> IRError:
    """The IRError that ``opt`` raises, whose rendering contains ``parts`` and says what was got or needed."""
    with pytest.raises(IRError) as caught:
        opt(text, passes)
    message = str(caught.value)
    for part in parts:
        assert part in message, message
    return caught.value


def rejected(text: str, *parts: str) -> None:
    """A module that parses and that the verifier refuses with a message that has ``parts``, a place, got and need."""
    module = parse_module(text, "corpus.ir")
    with pytest.raises(IRError) as caught:
        verify(module)
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    assert caught.value.where is not None, str(caught.value)
    assert caught.value.got is not None, str(caught.value)


def spec_of(n: int, k: int, name: str = "fp8_gemm_nt", **hints: Any) -> GemmSpec:
    """A shipped spec with N, K and schedule hints fixed."""
    spec = load_spec(SPECS / f"{name}.yaml").bind(N=n, K=k)
    return replace(spec, schedule=ScheduleHints(**{"pdl": False, **hints}))


def of_one_kernel(n: int, k: int, name: str = "fp8_gemm_nt", **hints: Any) -> GemmSpec:
    """A spec of one tile, whose tiles are visited in one order for every M."""
    return spec_of(n, k, name, raster=Raster(along="m"), **hints)


CASES: dict[str, GemmSpec] = {
    "plain": of_one_kernel(4096, 7168, tile=(128, 128, 128), stages=5),
    "cluster": of_one_kernel(4096, 7168, tile=(256, 128, 128), stages=3, cluster=(2, 1)),
    "split_k_swapped": of_one_kernel(576, 7168, tile=(32, 64, 128), stages=6, swap_ab=True, split_k=4),
    "ragged": of_one_kernel(200, 400, tile=(128, 96, 128), stages=4),
    "direct_store": of_one_kernel(100, 400, tile=(64, 64, 128), stages=3),
    "rowwise": of_one_kernel(512, 1024, "fp8_gemm_nt_rowwise", tile=(128, 64, 128), stages=4, pdl=True),
    "swapped": of_one_kernel(512, 1024, tile=(24, 128, 128), stages=4, swap_ab=True),
    "no_promotion": of_one_kernel(512, 1024, "fp8_gemm_nt_no_promotion", tile=(128, 128, 128), stages=4),
}
"""Kernels whose schedules the hints decide alone, so that no heuristic changes them."""


@cache
def schedule_of(case: str) -> Schedule:
    """The one schedule of a case."""
    (only,) = compiler.plan(CASES[case], TARGET)
    return only.schedule


@cache
def built(case: str) -> compiler.Artifact:
    """Everything generated for a case."""
    return compiler.build(CASES[case], TARGET, schedule_of(case))
