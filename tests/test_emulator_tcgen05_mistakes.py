"""Mistakes with tcgen05 that the emulator must name, and correct kernels on which it must stay silent."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tcgen05_kernels as kernels
from tcgen05_harness import (
    A_AT,
    B_AT,
    SFA_AT,
    blank,
    check_clean,
    e4m3,
    floats,
    idesc,
    idesc_scaled,
    launch,
    mistake,
    pair_image,
    run,
    scaled_mma,
    sentinels,
    simple_operands,
    small_integers,
)
from tcgen05_kernels import descriptor, frame, issue, k_major, mma

from gemmgen.emulator.report import Kind, Report


@pytest.mark.parametrize("schedule", ["random", "adversarial"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("group", [1, 2])
def test_correct_kernels_are_clean_under_every_schedule(schedule: str, seed: int, group: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = small_integers(rng, (128 * group, 32)), small_integers(rng, (64, 32))
    if group == 1:
        image = blank()
        operands = simple_operands(image[0], a, b)
    else:
        image, operands = pair_image(a, b)
    word = idesc(128 * group, 64, 0, 0)
    steps = mma("f8f6f4", word, group=group) + mma("f8f6f4", word, group=group, accumulate=True)
    text = frame(issue(operands + steps, group=group), group=group)
    out, report = run(text, image, sentinels(64, group), schedule, seed)
    check_clean(report)
    np.testing.assert_array_equal(floats(out.reshape(-1, 64)), 2 * (a @ b.T))


def pipelined(ptx: str, schedule: str = "fifo", seed: int = 0) -> tuple[np.ndarray, np.ndarray, Report]:
    """Run ``kernels.PIPELINE`` (or a broken copy): its output, what it should be, and the report."""
    rng = np.random.default_rng(12)
    a, tiles = small_integers(rng, (128, 32)), [small_integers(rng, (64, 32)) for _ in range(kernels.TILES)]
    image = blank()[0]
    k_major(image, A_AT, e4m3(a), 16)
    for number, b in enumerate(tiles):
        k_major(image, B_AT + 2048 * number, e4m3(b), 16)
    out = np.zeros((kernels.TILES, 128, 64), np.uint32)
    report = launch(ptx, {"image": image, "out": out}, (1, 160), schedule, seed)
    return floats(out), np.stack([a @ b.T for b in tiles]), report


@pytest.mark.parametrize(
    ("schedule", "seed"), [("fifo", 0), *((s, n) for s in ("random", "adversarial") for n in range(6))]
)
def test_a_warp_specialised_pipeline_is_clean(schedule: str, seed: int) -> None:
    out, want, report = pipelined(kernels.PIPELINE, schedule, seed)
    check_clean(report)
    np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("marker", [
    "// mma sees the epilogue", "// epilogue sees the mma", "// loads are done", "// hand over",
])  # fmt: skip
def test_a_pipeline_without_one_of_its_fences_is_caught(marker: str) -> None:
    lines = kernels.PIPELINE.splitlines()
    broken = [line for line in lines if marker not in line]
    assert len(broken) == len(lines) - 1
    _, _, report = pipelined("\n".join(broken))
    assert Kind.TCGEN05_ORDER in report.kinds(), str(report)


@pytest.mark.parametrize(("right", "wrong"), [
    ("xor.b32 parity, phase, 1;", "mov.u32 parity, phase;"),
    ("[full], phase;", "[full], 1;"),
])  # fmt: skip
def test_a_pipeline_with_a_wrong_parity_is_caught(right: str, wrong: str) -> None:
    assert right in kernels.PIPELINE
    _, _, report = pipelined(kernels.PIPELINE.replace(right, wrong))
    assert report.kinds() & {Kind.TCGEN05_ORDER, Kind.DEADLOCK, Kind.UNINITIALIZED_MEMORY, Kind.MBARRIER}, str(report)


ONES = simple_operands(blank()[0], np.ones((128, 32)), np.ones((64, 32)))
WORD = idesc(128, 64, 0, 0)
PLAIN = issue(ONES + mma("f8f6f4", WORD))
WAIT = "WAIT:\n  mbarrier.try_wait.parity.shared::cta.b64 p, [barrier], 0;\n  @!p bra WAIT;\n"
WAIT_ST = "tcgen05.wait::st.sync.aligned;"


def test_the_frame_of_the_mistakes_is_correct() -> None:
    check_clean(mistake(PLAIN))


@pytest.mark.parametrize(("parts", "message"), [
    ({"before_dump": ""}, "fence::after_thread_sync is missing"),
    ({"after_fill": kernels.BEFORE}, "wait::st"),
    ({"after_fill": WAIT_ST}, "fence::before_thread_sync is missing"),
    ({"after_sync": ""}, "fence::after_thread_sync is missing"),
    ({"wait_ld": ""}, "wait::ld"),
])  # fmt: skip
def test_missing_waits_and_thread_sync_fences(parts: dict[str, str], message: str) -> None:
    report = mistake(PLAIN, **parts)
    findings = [finding for finding in report.findings if finding.kind is Kind.TCGEN05_ORDER]
    assert findings, str(report)
    assert any(message in finding.message for finding in findings), str(report)


def test_a_result_read_without_waiting_for_its_commit() -> None:
    report = mistake(issue(ONES + mma("f8f6f4", WORD), wait=False))
    assert any("tcgen05.commit" in f.message for f in report.findings if f.kind is Kind.TCGEN05_ORDER), str(report)


def test_an_mma_that_nothing_commits() -> None:
    report = mistake(issue(ONES + mma("f8f6f4", WORD), commit=False, wait=False))
    assert {Kind.TCGEN05_ORDER, Kind.EXIT_IN_FLIGHT} <= report.kinds(), str(report)


def test_a_commit_by_another_thread_than_the_issuer_covers_nothing() -> None:
    other = "  setp.eq.u32 p, t, 7;\n  @!p bra LATER;\n"
    other += "  tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [barrier];\nLATER:\n"
    other += "  bar.warp.sync 0xffffffff;\n" + WAIT
    report = mistake(issue(ONES + mma("f8f6f4", WORD), commit=False, wait=False) + other)
    assert Kind.TCGEN05_ORDER in report.kinds(), str(report)


def test_operands_written_without_a_proxy_fence() -> None:
    report = mistake(PLAIN, proxy_fence="")
    assert Kind.PROXY_FENCE in report.kinds(), str(report)


def test_operands_overwritten_before_the_commit_completes() -> None:
    body = issue(ONES + mma("f8f6f4", WORD), wait=False) + "  bar.sync 0;\n  st.shared.b32 [base], t;\n"
    body += WAIT
    report = mistake(body)
    assert Kind.SOURCE_REUSED in report.kinds(), str(report)


def copy_then_mma(hand_over: str, take: str) -> str:
    """Warp 0 copies scale factors; warp 1 multiplies with them, a barrier between (PTX 9.7.16.6.4.3)."""
    copies = "".join(
        descriptor("sd", SFA_AT, 0, 128, 0)
        + f"  add.u32 x, taddr, {column};\n  tcgen05.cp.cta_group::1.32x128b.warpx4 [x], sd;\n"
        for column in (64, 68)
    )
    return (
        "  setp.gt.u32 p, w, 1;\n  @p bra ISSUED;\n  elect.sync _|elected, 0xffffffff;\n  @q bra SECOND;\n"
        f"  @!elected bra FIRST;\n{copies}  {hand_over}\nFIRST:\n  bar.warp.sync 0xffffffff;\n  bar.sync 1, 64;\n"
        f"  bra ISSUED;\nSECOND:\n  bar.sync 1, 64;\n  @!elected bra ISSUED;\n  {take}\n{ONES}"
        f"{scaled_mma('mxf8f6f4', '.block32', idesc_scaled(128, 64, 0, 0), 64, 68)}"
        "  tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [barrier];\nISSUED:\n"
        f"  bar.warp.sync 0xffffffff;\n{WAIT}"
    )


def test_an_mma_pipelines_behind_another_threads_copy() -> None:
    check_clean(mistake(copy_then_mma(kernels.BEFORE, kernels.AFTER), columns=128))


@pytest.mark.parametrize(("hand_over", "take"), [("", kernels.AFTER), (kernels.BEFORE, "")])
def test_an_mma_that_is_not_fenced_from_another_threads_copy(hand_over: str, take: str) -> None:
    report = mistake(copy_then_mma(hand_over, take), columns=128)
    assert Kind.TCGEN05_ORDER in report.kinds(), str(report)


def moved(columns: int, instructions: str) -> str:
    """Instructions with another D."""
    return f"  add.u32 taddr, taddr, {columns};\n{instructions}  sub.u32 taddr, taddr, {columns};\n"


@pytest.mark.parametrize(("second", "what"), [
    (mma("f8f6f4", idesc(128, 32, 0, 0)), "another shape"),
    (moved(8, mma("f8f6f4", idesc(128, 32, 0, 0))), "another place"),
    ("  mov.u32 x, taddr;\n" + moved(64, mma("f8f6f4", WORD, a="[x]")), "as A"),
])  # fmt: skip
def test_mmas_that_do_not_pipeline(second: str, what: str) -> None:
    report = mistake(issue(ONES + mma("f8f6f4", WORD) + second), columns=128)
    assert any("same accumulator" in f.message for f in report.findings), f"{what}: {report}"


def test_columns_freed_while_an_mma_may_still_write_them() -> None:
    early = "  @q bra KEPT;\n  tcgen05.dealloc.cta_group::1.sync.aligned.b32 taddr, 64;\n  exit;\nKEPT:\n  exit;\n"
    report = mistake(issue(ONES + mma("f8f6f4", WORD), wait=False) + early)
    assert any("freed" in f.message for f in report.findings if f.kind is Kind.TCGEN05_ORDER), str(report)


@pytest.mark.parametrize(("parts", "message"), [
    ({"dealloc": ""}, "never deallocated"),
    ({"dealloc": "tcgen05.dealloc.cta_group::1.sync.aligned.b32 taddr, 32;"}, "allocated: 0x0 (64 columns)"),
    ({"dealloc": "tcgen05.dealloc.cta_group::1.sync.aligned.b32 32, 64;"}, "dealloc of 64 columns"),
])  # fmt: skip
def test_deallocation_mistakes(parts: dict[str, str], message: str) -> None:
    report = mistake(PLAIN, **parts)
    assert report.kinds() == {Kind.TMEM_ALLOCATION}, str(report)
    assert message in report.findings[0].message, str(report)


ALLOC = "tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [addr], {}"


@pytest.mark.parametrize(("calls", "kind", "message"), [
    (["x"], Kind.TMEM_ALLOCATION, "powers of two"),
    (["32", "64"], Kind.TMEM_ALLOCATION, "must not grow"),
    (["512", "512"], Kind.DEADLOCK, "too few are free"),
])  # fmt: skip
def test_allocation_mistakes(calls: list[str], kind: Kind, message: str) -> None:
    text = ";\n  ".join(ALLOC.format(call) for call in calls)
    body = "  tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;\n"
    ptx = frame(body).replace(ALLOC.format(64), f"mov.u32 x, 48;\n  {text}")
    _, report = run(ptx, blank(), sentinels(64))
    assert any(f.kind is kind and message in f.message for f in report.findings), str(report)


def test_allocation_after_relinquishing_the_permit() -> None:
    body = f"  @q bra ISSUED;\n  mov.u32 addr, slot;\n  {ALLOC.format(32)};\nISSUED:\n"
    report = mistake(body)
    assert any("relinquish" in f.message for f in report.findings if f.kind is Kind.TMEM_ALLOCATION), str(report)


def test_a_pair_allocation_that_only_one_cta_makes() -> None:
    meet = "ALLOCATED:\n  barrier.cluster.arrive.aligned;\n  barrier.cluster.wait.aligned;\n"
    ptx = frame("", group=2).replace("  @q bra ALLOCATED;", "  @q bra ALLOCATED;\n  @odd bra ALLOCATED;")
    ptx = ptx.replace("ALLOCATED:\n", meet)
    _, report = run(ptx, blank(2), sentinels(64, 2))
    assert any("peer CTA" in f.message for f in report.findings if f.kind is Kind.DEADLOCK), str(report)


def test_cta_group_2_without_a_peer() -> None:
    ptx = frame(PLAIN.replace("cta_group::1", "cta_group::2"), group=2).replace(".reqnctapercluster 2", "")
    _, report = run(ptx, blank(), sentinels(64))
    assert any("without a peer" in f.message for f in report.findings if f.kind is Kind.TMEM_ACCESS), str(report)


def test_both_ctas_of_a_pair_issuing() -> None:
    word = idesc(256, 64, 0, 0)
    body = issue(ONES + mma("f8f6f4", word, group=2), group=2).replace("  @odd bra ISSUED;\n", "")
    ptx = frame(body, group=2).replace(
        "mbarrier.init.shared::cta.b64 [barrier], 1", "mbarrier.init.shared::cta.b64 [barrier], 2"
    )
    _, report = run(ptx, blank(2), sentinels(64, 2))
    assert any("both CTAs" in f.message for f in report.findings if f.kind is Kind.TCGEN05_ORDER), str(report)


@pytest.mark.parametrize(("operands", "kind", "message"), [
    (mma("f8f6f4", idesc(128, 64, 2, 0)), Kind.DESCRIPTOR, "type codes"),
    (mma("f8f6f4", idesc(128, 64, 0, 0) | 4), Kind.DESCRIPTOR, "reserved bits"),
    (mma("f8f6f4", idesc(32, 64, 0, 0)), Kind.DESCRIPTOR, "no such shape"),
    (mma("f8f6f4", idesc(128, 24, 0, 0, b_mn=1)), Kind.DESCRIPTOR, "MN-major 8-bit B"),
    ("  mov.u64 da, 0x4000004000010000;\n" + mma("f8f6f4", WORD), Kind.DESCRIPTOR, "0b001"),
    ("  add.u64 da, da, 4095;\n  add.u64 da, da, 4095;\n" + mma("f8f6f4", WORD), Kind.OUT_OF_BOUNDS, "shared bytes"),
    ("  add.u32 taddr, taddr, 0x100000;\n" + mma("f8f6f4", WORD), Kind.DESCRIPTOR, "illegal lane"),
    ("  add.u32 taddr, taddr, 32;\n" + mma("f8f6f4", WORD), Kind.TMEM_ALLOCATION, "is not allocated"),
    ("  add.u32 taddr, taddr, 480;\n" + mma("f8f6f4", WORD), Kind.OUT_OF_BOUNDS, "column 543"),
])  # fmt: skip
def test_illegal_mmas(operands: str, kind: Kind, message: str) -> None:
    report = mistake(issue(ONES + operands))
    assert any(f.kind is kind and message in f.message for f in report.findings), str(report)


def test_an_accumulator_that_nothing_has_written() -> None:
    report = mistake(issue(ONES + mma("f8f6f4", WORD, accumulate=True)), fill_columns=32)
    assert any("lane 0, column 32" in f.message for f in report.findings if f.kind is Kind.UNINITIALIZED_MEMORY), str(
        report
    )


def test_shared_memory_that_nothing_has_written() -> None:
    ptx = frame(PLAIN).replace("setp.lt.u32 p, i, 65536", "setp.lt.u32 p, i, 4096")
    _, report = run(ptx, blank(), sentinels(64))
    assert Kind.UNINITIALIZED_MEMORY in report.kinds(), str(report)


@pytest.mark.parametrize(("address", "kind", "message"), [
    ("  mov.u32 x, taddr;\n", Kind.TMEM_ACCESS, "it reaches lanes"),
    ("  add.u32 x, cell, t;\n", Kind.TMEM_ACCESS, "differs between the lanes"),
    ("  add.u32 x, cell, 64;\n", Kind.TMEM_ALLOCATION, "is not allocated"),
])  # fmt: skip
def test_illegal_tensor_memory_loads(address: str, kind: Kind, message: str) -> None:
    body = address + "  tcgen05.ld.sync.aligned.32x32b.x1.b32 {s0}, [x];\n  tcgen05.wait::ld.sync.aligned;\n"
    report = mistake(body)
    assert any(f.kind is kind and message in f.message for f in report.findings), str(report)


def test_a_load_by_part_of_a_warp() -> None:
    body = "  elect.sync _|elected, 0xffffffff;\n  @!elected bra PART;\n"
    body += "  tcgen05.ld.sync.aligned.32x32b.x1.b32 {s0}, [cell];\nPART:\n  bar.warp.sync 0xffffffff;\n"
    report = mistake(body)
    assert Kind.DIVERGENCE in report.kinds(), str(report)


def test_a_store_read_back_without_waiting() -> None:
    body = (
        "  tcgen05.st.sync.aligned.32x32b.x1.b32 [cell], {t};\n  tcgen05.ld.sync.aligned.32x32b.x1.b32 {s0}, [cell];\n"
    )
    report = mistake(body + "  tcgen05.wait::ld.sync.aligned;\n  tcgen05.wait::st.sync.aligned;\n")
    assert any("wait::st" in f.message for f in report.findings if f.kind is Kind.TCGEN05_ORDER), str(report)


def test_scale_factors_that_are_not_replicated() -> None:
    image = blank()
    operands = simple_operands(image[0], np.ones((128, 32)), np.ones((64, 32)))
    cells = np.full((1, 128, 128), 0x7F7F7F7F, np.uint32)
    cells[0, 70, 65] = 0x7F7F7F80
    operands += scaled_mma("mxf8f6f4", ".block32", idesc_scaled(128, 64, 0, 0), 64, 68)
    _, report = run(frame(issue(operands), columns=128), image, cells)
    assert any("differ between the 32-lane partitions" in f.message for f in report.findings), str(report)


@pytest.mark.skipif(shutil.which("ptxas") is None, reason="no ptxas here: the test kernels were not assembled")
@pytest.mark.parametrize("ptx", [frame(PLAIN), frame("", group=2), kernels.PIPELINE], ids=["cta", "pair", "pipeline"])
def test_ptxas_accepts_the_kernels(ptx: str, tmp_path: Path) -> None:
    (tmp_path / "k.ptx").write_text(ptx)
    command = ["ptxas", "-arch", "sm_100a", "-o", str(tmp_path / "k.cubin"), str(tmp_path / "k.ptx")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_commit_does_not_hand_over_what_its_thread_writes_afterwards() -> None:
    """The issuing thread stores a word after its commit; nothing orders that store before another warp's load."""
    issuing = issue(ONES + mma("f8f6f4", WORD), wait=False).replace("ISSUED:", "  st.shared.b32 [base], t;\nISSUED:", 1)
    report = mistake(issuing + WAIT + "  @!q bra SKIP;\n  ld.shared.b32 x, [base];\nSKIP:\n")
    assert report.kinds() & {Kind.RACE, Kind.SOURCE_REUSED}, str(report)
    assert any("ld.shared.b32 x" in finding.place.ptx for finding in report.findings if finding.place), str(report)
