"""Plain moves of registers that wgmma owns: what ptxas can give one register is clean, everything else is reported.

The verdicts follow ptxas 13.0, which was given the same edits in a kernel of one wgmma whose results are all stored: it
injects a wait (C7517) or a fence (C7519) where there is a mistake, and nothing where there is none. Copies that are
overwritten before the wait are an exception: ptxas drops them as dead, the emulator reports them.
"""

from __future__ import annotations

import re

import emulator_support as support
import pytest

SHAPE = (128, 128, 256)
_WAIT = "wgmma.wait_group.sync.aligned 0;"
_FENCE = "wgmma.fence.sync.aligned;"
_ENTRY = "setmaxnreg.inc.sync.aligned.u32 232;"
_DECLARED = ".reg .pred c; .reg .f32 x, y; .reg .b32 s<4>; .reg .f32 z<4>; mov.f32 x, 0f00000000;"


def _accumulator(ptx: str, index: int) -> str:
    registers = re.search(r"wgmma\.mma_async[^{]*\{([^}]*)\}", ptx)
    assert registers
    return registers[1].split(", ")[index]


def _filled(text: str, ptx: str) -> str:
    """``A`` and ``B`` are the first two registers of the accumulator."""
    return re.sub(r"\b([AB])\b", lambda found: _accumulator(ptx, "AB".index(found[1])), text)


def moved(flying: str = "", *, fenced: str = "", between: str = "", waited: str = "") -> str:
    """The GEMM with instructions after the fence, between the first two wgmma, before and after the wait."""
    ptx = support.hopper_ptx(1)
    waited, flying, fenced, between = (_filled(text, ptx) for text in (waited, flying, fenced, between))
    second = list(re.finditer(r"\{\n\.reg \.pred p;\nsetp\.ne\.b32 p, %r\d+, 0;\nwgmma", ptx))[1]
    ptx = ptx[: second.start()] + between + "\n" + ptx[second.start() :]
    assert ptx.count(_ENTRY) == ptx.count(_FENCE) == ptx.count(_WAIT) == 1
    ptx = ptx.replace(_ENTRY, f"{_ENTRY}\n{_DECLARED}").replace(_FENCE, f"{_FENCE}\n{fenced}")
    return ptx.replace(_WAIT, f"{flying}\n{_WAIT}\n{waited}")


RS_WGMMA = (
    "mov.b32 s0, A; mov.b32 s1, A; mov.b32 s2, A; mov.b32 s3, A; setp.ne.u32 c, 0, 0;\n"
    "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {z0, z1, z2, z3}, {s0, s1, s2, s3}, %rd11, c, 1, 1;\n"
    "wgmma.commit_group.sync.aligned;"
)

REGISTER_MISTAKES = {
    "arithmetic on a copy": moved("mov.f32 x, A; add.f32 y, x, x;"),
    "a copy stored": moved("mov.f32 x, A; st.shared.f32 [%r88], x;"),
    "a copy of a copy read": moved("mov.f32 x, A; mov.f32 y, x; add.f32 y, y, y;"),
    "a copy computed anew": moved("mov.f32 x, A; mul.f32 x, %f129, %f129;"),
    "a copy overwritten by a move": moved("mov.f32 x, A; mov.f32 x, %f129;"),
    "a copy overwritten by a constant": moved("mov.f32 x, A; mov.f32 x, 0f00000000;"),
    "an accumulator overwritten by a move": moved("mov.f32 A, %f129;"),
    "an accumulator overwritten by a constant": moved("mov.f32 A, 0f00000000;"),
    "accumulators exchanged in flight": moved("mov.f32 x, A; mov.f32 A, B; mov.f32 B, x;"),
    "a guarded move": moved("setp.ne.u32 c, %r5, 0; @c mov.f32 x, A;"),
    "packed with another": moved(".reg .b64 w; mov.b64 w, {A, B};"),
    "a copy between two wgmma, used after the wait": moved(between="mov.f32 x, A;", waited="add.f32 y, x, x;"),
    "a copy of such a copy": moved(between="mov.f32 x, A;", waited="mov.f32 y, x; add.f32 y, y, y;"),
    "such a copy, copied in flight": moved("mov.f32 y, x;", between="mov.f32 x, A;", waited="add.f32 y, y, y;"),
    "a copy as another wgmma's A": moved(RS_WGMMA),
    "in a lane's own branch": moved(
        "mov.u32 s0, %tid.x; and.b32 s0, s0, 1; setp.eq.u32 c, s0, 0;\nmov.f32 x, 0f00000000; @c bra OVER;\n"
        "mov.f32 x, A;\nOVER:\n"
    ),
}

FENCE_MISTAKES = {
    "a computed value moved into the accumulator": moved(fenced="cvt.rn.f32.s32 x, %r5; mov.f32 A, x;"),
    "moved twice": moved(fenced="cvt.rn.f32.s32 x, %r5; mov.f32 y, x; mov.f32 A, y;"),
    "a guarded move into the accumulator": moved(fenced="setp.ne.u32 c, %r5, 0; @c mov.f32 A, 0f00000000;"),
    "an old value changed and moved back": moved(fenced="add.f32 y, x, x; mov.f32 A, y;", waited="mov.f32 x, A;"),
}

LEGAL = {
    "a copy used after the wait": moved("mov.f32 x, A;", waited="mov.f32 A, 0f00000000; mov.f32 A, x;"),
    "a copy of a copy": moved("mov.f32 x, A; mov.f32 y, x;", waited="add.f32 x, A, A; mov.f32 A, y;"),
    "copied back": moved("mov.f32 x, A; mov.f32 A, x;"),
    "the copy of another register": moved("mov.f32 x, B; mov.f32 x, A;", waited="mov.f32 A, x;"),
    "a copy between two wgmma that nothing uses": moved(between="mov.f32 x, A;"),
    "a copy between two wgmma, made again": moved("mov.f32 x, A;", between="mov.f32 x, A;", waited="mov.f32 A, x;"),
    "zeros after the fence": moved(
        fenced="mov.f32 y, 0f00000000; setp.ne.u32 c, %r81, 0; @c bra OVER;\nmov.f32 A, y;\nOVER:\n"
    ),
    "an old value moved after the fence": moved(fenced="mov.f32 A, x;", waited="mov.f32 x, A;"),
}


@pytest.mark.parametrize("name", REGISTER_MISTAKES)
def test_what_one_register_cannot_hold_is_reported(name: str) -> None:
    report, _ = support.run_hopper(REGISTER_MISTAKES[name], SHAPE)
    found = [finding for finding in report.findings if str(finding.kind) == "wgmma-register"]
    assert found, str(report)
    assert all(finding.place and finding.place.ptx_line and finding.place.cuda_line for finding in found), str(report)


@pytest.mark.parametrize("name", FENCE_MISTAKES)
def test_what_a_fence_should_cover_is_reported(name: str) -> None:
    report, _ = support.run_hopper(FENCE_MISTAKES[name], SHAPE)
    assert "missing-wgmma-fence" in map(str, report.kinds()), str(report)


@pytest.mark.parametrize("name", LEGAL)
@pytest.mark.parametrize("schedule", ["fifo", "adversarial"])
def test_what_one_register_can_hold_is_clean(name: str, schedule: str) -> None:
    report, error = support.run_hopper(LEGAL[name], SHAPE, schedule=schedule)
    assert report.ok, str(report)
    _, expected = support.run_hopper(support.hopper_ptx(1), SHAPE)
    assert error == expected


def renamed(taken_back: bool) -> str:
    """The GEMM whose second wgmma goes on with copies of the accumulator; ``taken_back`` moves them back at the end."""
    ptx = support.hopper_ptx(1)
    found = re.search(r"wgmma\.mma_async[^{]*(\{[^}]*\})", ptx)
    assert found
    names = found[1].strip("{}").split(", ")
    copies = [f"v{index}" for index in range(len(names))]
    there = " ".join(f"mov.f32 {copy}, {name};" for copy, name in zip(copies, names, strict=True))
    back = " ".join(f"mov.f32 {name}, {copy};" for copy, name in zip(copies, names, strict=True))
    ptx = moved(between=there, waited=back if taken_back else "").replace(
        _DECLARED, f"{_DECLARED} .reg .f32 v<{len(names)}>;"
    )
    first, *others = ptx.split(found[1])
    return first + found[1] + f"{{{', '.join(copies)}}}".join(others)


def test_an_accumulator_may_go_on_under_another_name() -> None:
    report, error = support.run_hopper(renamed(taken_back=True), SHAPE)
    assert report.ok, str(report)
    assert error == support.run_hopper(support.hopper_ptx(1), SHAPE)[1]


def test_the_old_name_of_an_accumulator_is_left_behind() -> None:
    report, _ = support.run_hopper(renamed(taken_back=False), SHAPE)
    assert "wgmma-register" in map(str, report.kinds()), str(report)
