"""What reports say: where findings are, who waits for whom, and launches of gemmgen's own plans."""

from __future__ import annotations

import re

import emulator_small_kernels as small
import emulator_support as support
import ml_dtypes
import numpy as np
import pytest

import gemmgen
from gemmgen.emulator import Kind, emulate, emulate_plan
from gemmgen.errors import EmulationError

SHAPE = (128, 128, 640)


def test_a_deadlock_names_everyone_who_waits() -> None:
    ptx = support.edit(support.hopper_ptx(1), r"\tmbarrier\.arrive\.shared::cta\.b64 _, \[%r\d+\];", "")
    report, _ = support.run_hopper(ptx, SHAPE)
    assert report.kinds() == {Kind.DEADLOCK}
    text = report.findings[0].message
    assert re.search(r"cta 0 warp 0 lanes 0 waits: mbarrier at shared byte 165920 of cta 0 for parity 0", text)
    assert "has 0 of 8 arrivals" in text
    assert re.search(r"cta 0 warps 4-7 waits: mbarrier .* for parity 1; phase 1 \(parity 1\) has 0 of 1", text)
    assert "CUDA line" in text


def test_a_missing_transaction_names_the_bytes() -> None:
    ptx = support.edit(support.hopper_ptx(1), r"(expect_tx\.shared::cta\.b64 _, \[%r\d+\]), %r\d+;", r"\1, 33296;")
    report, _ = support.run_hopper(ptx, SHAPE)
    message = next(f.message for f in report.findings if f.kind is Kind.TRANSACTION)
    assert "announced 16 bytes too many" in message


def test_findings_name_ptx_cuda_and_ir() -> None:
    ptx = support.edit(support.hopper_ptx(1), r"wgmma\.fence\.sync\.aligned;", "")
    source = (support.KERNELS / "hopper.cu").read_text()
    line = next(n for n, text in enumerate(source.splitlines(), 1) if "wgmma_n128(d, da" in text)
    marked = source.splitlines()
    marked[line - 2] += "  // products [sm90.wgmma]"
    report, _ = support.run_hopper(ptx, SHAPE, source="\n".join(marked))
    finding = report.findings[0]
    assert finding.kind is Kind.WGMMA_FENCE
    assert finding.place is not None
    assert finding.place.cuda_line == line
    assert finding.place.ir_op == "sm90.wgmma"
    assert finding.place.ptx.startswith("wgmma.mma_async")
    assert ptx.splitlines()[finding.place.ptx_line - 1].strip() == finding.place.ptx
    assert finding.as_dict()["ir_op"] == "sm90.wgmma"
    assert "wgmma.mma_async" in str(report)


def test_the_same_seed_gives_the_same_report() -> None:
    ptx = support.edit(support.hopper_ptx(2), r"cp\.async\.bulk\.wait_group\.read 0;", "")
    reports = [support.run_hopper(ptx, (256, 256, 640), 2, 2, schedule="random", seed=seed)[0] for seed in (5, 5, 6)]
    assert str(reports[0]) == str(reports[1])
    assert all(Kind.SOURCE_REUSED in report.kinds() for report in reports)


def test_an_endless_launch_is_given_up() -> None:
    counting = support.edit(small.FLAG, r"bra READER;", "add.u32 t, t, 1; st.global.b32 [o], t; bra READER;", -1)
    flag = support.edit(counting, r"mov\.u32 v, 1;", "mov.u32 v, 0;")
    params = [np.zeros(1, np.uint32) for _ in range(3)]
    report = emulate(flag, "k", 2, 32, 1, 0, params, max_instructions=20_000)
    assert report.kinds() == {Kind.LIVELOCK}
    assert "no end after 20000" in report.findings[0].message


def test_more_ctas_than_are_resident() -> None:
    report, error = support.run_hopper(support.hopper_ptx(1), (128 * 5, 128 * 4, 128))
    assert report.ok, str(report)
    assert error < support.TOLERANCE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": 3, "cluster": 2}, "whole number of clusters"),
        ({"block": 2000}, "too many threads"),
        ({"params": []}, "wrong number"),
        ({"params": ["x"]}, "cannot be passed"),
        ({"params": [np.zeros(4)[::-1]]}, "negative strides"),
        ({"schedule": "lifo"}, "unknown schedule"),
        ({"numerics": "fp8"}, "unknown numerics"),
        ({"smem_bytes": 1 << 20}, "more shared memory"),
        ({"entry": "absent"}, "no such kernel"),
    ],
)
def test_launch_mistakes(changes: dict, message: str) -> None:
    launch = {
        "entry": "k",
        "grid": 2,
        "block": 128,
        "cluster": 2,
        "smem_bytes": 0,
        "params": [np.zeros(256, np.uint32)],
    }
    with pytest.raises(EmulationError, match=message):
        emulate(small.CLUSTER, **{**launch, **changes})


@pytest.mark.parametrize("schedule", ["fifo", "random", "adversarial"])
@pytest.mark.parametrize(("name", "m"), [("fp8_gemm_nt", 5), ("fp8_gemm_nt", 130), ("fp8_gemm_nt_split_k", 1)])
def test_compiled_kernels(name: str, m: int, schedule: str) -> None:
    n, k = 192, 320
    plan = gemmgen.compile(f"specs/{name}.yaml", N=n, K=k).plan()
    variant = plan.variant_for(m)
    binary = variant.binary(False)
    rng = np.random.default_rng(m)
    blocks = -(-k // 128)
    a, b = (rng.normal(size=(rows, k)).astype(ml_dtypes.float8_e4m3fn) for rows in (m, n))
    sa = rng.uniform(0.5, 2, (blocks, -(-m // 4) * 4)).astype(np.float32)[:, :m].T
    sb = rng.uniform(0.5, 2, (-(-n // 128), blocks)).astype(np.float32)
    d = np.full((m, n), np.nan, ml_dtypes.bfloat16)
    operands = {"a": a, "b": b, "sa": sa, "sb": sb, "d": d}
    report = emulate_plan(
        binary.launch, binary.ptx, operands, (m, n, k), schedule=schedule, source=variant.source, num_sms=8
    )
    assert report.ok, str(report)
    left = a.astype(np.float64) * np.repeat(sa, 128, 1)[:, :k]
    right = b.astype(np.float64) * np.repeat(np.repeat(sb, 128, 0)[:n], 128, 1)[:, :k]
    exact = left @ right.T
    assert np.abs(d.astype(np.float64) - exact).max() < support.TOLERANCE * np.abs(exact).max()
