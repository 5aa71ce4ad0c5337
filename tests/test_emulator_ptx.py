"""Parsing and decoding of PTX: what NVRTC writes is read, anything else is an error and nothing but an error."""

from __future__ import annotations

import contextlib

import emulator_support as support
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemmgen.emulator.ops.builder import registered
from gemmgen.emulator.ptx import forms
from gemmgen.emulator.ptx.dataflow import find_maybe_undefined
from gemmgen.emulator.ptx.parser import parse
from gemmgen.emulator.ptx.program import decode
from gemmgen.errors import EmulationError

_MINIMAL = """.version 9.0
.target sm_90a
.address_size 64
.const .align 4 .f32 table[2] = {0f3F800000, 0f40000000};
.global .align 4 .u32 counter = 7;
.visible .entry k(.param .u64 p, .param .align 64 .b8 map[128]) .maxntid 128, 1, 1 .minnctapersm 1
{
  .reg .pred %p<3>;
  .reg .b32 %r<4>, x;
  .loc 1 10 3
  mov.u32 %r1, %tid.x; // comment
  /* longer
     comment */
  { .reg .b32 x; .reg .pred p;
    LOOP: add.u32 x, %r1, -1; setp.eq.u32 p|%p2, x, 0; @!p bra DONE; bra.uni LOOP; DONE: }
  .loc 1 4 1, function_name $L__info0, inlined_at 1 12 5
  ld.global.u32 %r2, [%r3+-4];
$L__BB0_1:
  ret;
}
.file 1 "kernel.cu"
.section .debug_str { $L__info0: .b8 97,0 }
"""


def test_the_parts_of_a_module() -> None:
    module = parse(_MINIMAL)
    assert (module.version, module.target, module.files) == ("9.0", "sm_90a", {1: "kernel.cu"})
    kernel = module.entries["k"]
    assert [(p.name, p.size, p.align) for p in kernel.params] == [("p", 8, 8), ("map", 128, 64)]
    assert kernel.performance == {"maxntid": (128, 1, 1), "minnctapersm": (1,)}
    assert [v.initial for v in module.variables] == [(0x3F800000, 0x40000000), (7,)]


def test_scopes_locations_and_blocks() -> None:
    program = decode(parse(_MINIMAL), "k", _MINIMAL)
    load = next(i for i in program.instructions if i.semantic == "mem.ld")
    assert load.location is not None
    assert (load.location.line, load.location.call_line) == (4, 12)
    assert program.register_counts["p"] == 2
    assert [block.reconverge for block in program.blocks] == [1, 3, 1, 4, -1]
    undefined = find_maybe_undefined(program)
    assert {register.name for register in undefined.registers} == {"%r3"}


def test_every_form_has_an_executor() -> None:
    control = {"control.bra", "control.exit"}
    assert forms.semantics() - registered() == control
    assert not registered() - forms.semantics()


@pytest.mark.parametrize(
    "opcode",
    [
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint",
        "cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.bulk_group.L2::cache_hint",
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16",
        "mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64",
        "ld.global.nc.L1::no_allocate.L2::256B.v4.b32",
        "red.global.add.noftz.v8.bf16",
        "tcgen05.mma.cta_group::2.kind::mxf4nvf4.block_scale.block16",
        "fence.proxy.tensormap::generic.acquire.gpu",
        "cvt.rn.satfinite.relu.e4m3x2.f32",
    ],
)
def test_assembled_forms_are_known(opcode: str) -> None:
    forms.match(opcode, "here")


@pytest.mark.parametrize(
    "opcode",
    [
        "add",
        "add.u33",
        "add.rn.u32",
        "ld.global.v3.b32",
        "bar.async",
        "wgmma.mma_async.sync.m64n8k16.f32.bf16.bf16",
        "frob.b32",
    ],
)
def test_other_forms_are_refused(opcode: str) -> None:
    with pytest.raises(EmulationError, match="unknown"):
        forms.match(opcode, "here")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (".version 9.0\n", "", "no .version"),
        (".address_size 64", ".address_size 32", "64-bit"),
        ("ret;\n}", "ret;", "ends too early|not PTX"),
        ("ret;", "add.u32 %r1, %r1, 1;", "past its last"),
        ("bra DONE", "bra ELSEWHERE", "unknown label"),
        ("LOOP: add", "LOOP: LOOP: add", "twice"),
        ("%r<4>, x;", "%r<4>, x, x;", "twice"),
        ("%r2, [%r3+-4]", "%r9, [%r3]", "unknown register"),
        ("%r2, [%r3+-4]", "%r2, [%r3", "not PTX"),
    ],
)
def test_malformed_modules(old: str, new: str, message: str) -> None:
    assert old in _MINIMAL
    text = _MINIMAL.replace(old, new, 1)
    with pytest.raises(EmulationError, match=message):
        decode(parse(text, "file.ptx"), "k", text)


def test_syntax_errors_name_their_place() -> None:
    with pytest.raises(EmulationError, match=r"file\.ptx:11:"):
        parse(_MINIMAL.replace("mov.u32 %r1, %tid.x;", "mov.u32 %r1 %tid.x;"), "file.ptx")


def _reads_or_refuses(text: str) -> None:
    with contextlib.suppress(EmulationError):
        decode(parse(text), None, text)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_edited_ptx_is_read_or_refused(data: st.DataObject) -> None:
    text = _MINIMAL
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 12)))
        insert = data.draw(
            st.one_of(
                st.sampled_from(["{", "}", ";", "[", "]", ",", ".", "%r1", "@", "::", "0x", '"', "\x00"]),
                st.text(max_size=4),
            )
        )
        text = text[:start] + insert + text[end:]
    _reads_or_refuses(text)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_kernels_with_lines_exchanged_or_lost_are_read_or_refused(data: st.DataObject) -> None:
    lines = support.hopper_ptx(1).splitlines()[:400]
    first, second = (data.draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    lines[first], lines[second] = lines[second], lines[first][: data.draw(st.integers(0, 80))]
    _reads_or_refuses("\n".join(lines))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
def test_text_is_refused(text: str) -> None:
    with pytest.raises(EmulationError):
        parse(text)
