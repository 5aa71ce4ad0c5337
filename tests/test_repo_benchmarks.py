"""The arithmetic behind the benchmarks' numbers, on the CPU: an error here would make every result wrong."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gemmgen  # noqa: E402
from benchmarks import checks, compare, dense_fp8, findings, peers, sanitize, sweep, unseen  # noqa: E402
from benchmarks.harness import Layout, Shape, Timing, check, dequantize, diff, make_inputs, quantize, reference  # noqa: E402
from gemmgen import compiler  # noqa: E402
from gemmgen.backends.capability import capability  # noqa: E402
from gemmgen.backends.sm90 import heuristics  # noqa: E402
from gemmgen.schedule import Schedule  # noqa: E402
from gemmgen.spec import load_spec  # noqa: E402
from gemmgen.spec.model import ScheduleHints  # noqa: E402

PADDED = Layout(pad_k=16, pad_n=8, sa_mn_major=False, sb_mn_major=True, pad_scale=3)


def row(shape: Shape, us: float, cublas_us: float = math.nan, **others: float) -> compare.Row:
    nan = math.nan
    return dataclasses.replace(
        compare.Row(shape.m, shape.n, shape.k, 1, us, us, us, 1e-6, cublas_us, nan, shape.floor_us),
        speed_cublas=cublas_us / us,
        speed_floor=shape.floor_us / us,
        **others,
    )


def test_bytes_agree_with_the_recorded_bandwidth():
    assert Shape(1, 2112, 7168).bytes / 12.779 / 1e3 == pytest.approx(1185.5, rel=1e-4)


def test_set_counts_are_the_recorded_ones():
    assert len(peers.recorded_dense()) == 63
    assert [s for s, record in peers.recorded_dense().items() if s.sets != record.sets] == []


def test_diff_of_a_scaled_copy():
    x = torch.randn(2000, 3)
    assert diff(x, x * 1.01) == pytest.approx(1 - 2 * 1.01 / (1 + 1.01**2), rel=1e-3)
    assert math.isnan(diff(x, x.clone().fill_(math.nan)))


@pytest.mark.parametrize("block_rows", [1, 128])
def test_quantisation_error_is_that_of_e4m3(block_rows):
    x = torch.randn(200, 300)
    back = dequantize(*quantize(x, block_rows), block_rows)
    assert back.shape == x.shape
    assert ((back - x).abs() <= x.abs() / 16 + x.abs().max() / 448 / 512).all()


@pytest.mark.parametrize("layout", [Layout(), PADDED])
def test_reference_is_the_blockwise_product(layout):
    x = make_inputs(Shape(3, 130, 272), 0, layout=layout, device="cpu")
    expected = torch.zeros(3, 130, dtype=torch.float64)
    for k in range(272):
        a = x.a[:, k].double() * x.sa[:, k // 128].double()
        b = x.b[:, k].double() * x.sb[:, k // 128].double().repeat_interleave(128)[:130]
        expected += a[:, None] * b[None, :]
    assert diff(reference(x), expected) < 1e-12


def test_check_sees_unwritten_and_overwritten_elements():
    x = make_inputs(Shape(5, 200, 256), 0, layout=PADDED, device="cpu")
    assert check(lambda: x.out.copy_(reference(x)), x) < 5e-6
    assert math.isnan(check(lambda: x.out[:4].copy_(reference(x)[:4]), x))
    with pytest.raises(AssertionError, match="8 elements outside"):
        check(lambda: x.out_buffer[8].fill_(1.0), x)


def test_deepgemm_is_normalised_by_the_drift_of_cublas():
    with_cublas, without = Shape(16, 2112, 7168), Shape(1, 2112, 7168)
    cublas = {with_cublas: 1.1 * 14.841, Shape(64, 2112, 7168): 0.9 * 22.349}
    assert peers.deepgemm_us(with_cublas, cublas) == pytest.approx(1.1 * 10.399)
    assert peers.deepgemm_us(without, cublas) == pytest.approx(math.sqrt(1.1 * 0.9) * 12.779)
    assert math.isnan(peers.deepgemm_us(Shape(3, 3, 3), cublas))


def test_cublas_gets_rows_in_multiples_of_16():
    data, scale = quantize(torch.randn(200, 256), 1)
    for x in (data, scale):
        padded = peers.padded_rows(x)
        assert padded.shape == (208, x.shape[1])
        assert torch.equal(padded[:200].float(), x.float())
        assert not padded[200:].float().any()
    assert [peers.cublas_supports(Shape(m, 576, 7168)) for m in (0, 1, 8, 200)] == [False, False, True, True]


def test_bf16_multiplies_the_same_elements():
    x = make_inputs(Shape(8, 130, 256), 0, device="cpu")
    product = peers.bf16_launch(x)()
    assert diff(product, x.a.float() @ x.b.float().t()) < 5e-6


def test_kernels_are_timed_in_a_symmetric_order(monkeypatch):
    turns = []

    def timed(launches, replays, load_s):
        turns.append((launches[0](), load_s))
        return Timing(len(turns), 0.0, 9.0, replays)

    monkeypatch.setattr(compare, "time_launches", timed)
    launches = {name: [lambda name=name: name] for name in ("ours", "cublas", "bf16")}
    times = compare._time_in_turns(launches, 7, 0.25)
    assert turns == turns[::-1] == [(name, 0.25) for name in ("cublas", "ours", "bf16", "ours", "cublas")]
    assert {name: timing.median_us for name, timing in times.items()} == {"cublas": 3, "ours": 3, "bf16": 3}
    assert list(compare._time_in_turns({**launches, "cublas": [], "bf16": []}, 7)) == ["ours"]


def test_summary_groups_by_m_and_counts_failures():
    rows = [row(Shape(128, 64, 64), 2.0, 4.0), row(Shape(64, 64, 64), 1.0, 8.0), row(Shape(200, 64, 64), 3.0, 3.0)]
    rows[2] = dataclasses.replace(rows[2], diff=1e-5)
    summary = findings.summary(rows)
    assert summary["m_le_128.speed_cublas"] == pytest.approx(4.0)
    assert summary["m_gt_128.speed_cublas"] == pytest.approx(1.0)
    assert summary["failures"] == 1


def test_time_may_not_fall_when_m_grows():
    rows = [row(Shape(m, 64, 128), us) for m, us in ((200, 10.4), (1, 10.2), (48, 10.0), (8, 11.0))]
    others = [row(Shape(1000, 64, 256), 1.0), row(Shape(3000, 64, 256), math.nan)]
    pairs = [(x.m, y.m) for x, y in findings.falls([*rows, *others])]
    assert pairs == [(8, 48), (8, 200)]
    assert findings.named(rows)["falls"] == [["8x64x128", "48x64x128"], ["8x64x128", "200x64x128"]]
    assert "when M grows: no: 8x64x128 11.00 us > 10.00 us at M = 48, 8x64x128 11.00 us >" in findings.text(rows)
    assert findings.text(rows[:3]).endswith("time does not fall when M grows: yes")


def test_slower_shapes_are_named_worst_first():
    speeds = {1: 1.5, 8: 0.9, 48: 0.75, 3000: math.nan}
    rows = [row(Shape(m, 64, 128), 10.0, speed_bf16=speed, speed_deepgemm=speed) for m, speed in speeds.items()]
    assert [r.m for r in findings.slower(rows, "deepgemm")] == [48, 8]
    assert "slower than DeepGEMM: 2 of 3 shapes: 48x64x128 0.75, 8x64x128 0.90" in findings.text(rows)
    answer = "FP8 never slower than BF16 for M <= 64: "
    assert answer + "no, slower at 2 of 3 shapes, worst ratio 0.75 at 48x64x128" in findings.text(rows)
    assert answer + "yes, worst ratio 1.50 at 1x64x128" in findings.text(rows[:1])
    assert findings.summary(rows)["worst_speed_bf16"] == 0.75
    assert findings.named(rows)["slower_than_bf16"] == ["48x64x128", "8x64x128"]


def test_summary_copes_without_deepgemm():
    rows = [row(shape, 10.0, 12.0) for shape in unseen.shapes()]
    text = findings.text(rows)
    assert "DeepGEMM" not in text
    assert "nan" not in text
    assert "recorded" not in text
    assert "slower than cuBLASLt: 0 of 40 shapes\n" in text
    assert text.splitlines()[0].startswith("M <= 128: 1.200x cuBLASLt, ")


def test_summary_of_the_peers_alone_speaks_of_no_kernel():
    rows = [dataclasses.replace(row(Shape(16, 64, 128), math.nan, 12.0), diff=math.nan, recorded_cublas_us=10.0)]
    assert findings.text(rows) == "cuBLASLt now / recorded: 1.200; 0 of 1 shapes failed"


def test_written_files_name_the_shapes(tmp_path, monkeypatch):
    about = {"gpu": "NVIDIA H200", "date": "2026-11-20", "torch": "2", "cuda": "13"}
    monkeypatch.setattr(compare, "machine", lambda: about)
    rows = [row(Shape(1, 64, 128), 12.0, bf16_us=6.0, speed_bf16=0.5), row(Shape(3000, 64, 128), 10.0, 8.0)]
    data, page = compare.write(rows, "dense_fp8_unseen", tmp_path)
    assert data.name == "2026-11-20_h200_dense_fp8_unseen.json"
    written = json.loads(data.read_text())
    assert written["findings"] == {
        "slower_than_deepgemm": [],
        "slower_than_cublas": ["3000x64x128"],
        "slower_than_bf16": ["1x64x128"],
        "falls": [["1x64x128", "3000x64x128"]],
    }
    assert written["rows"][0]["bf16_us"] == 6.0
    assert written["summary"]["m_le_128.speed_deepgemm"] is None
    assert findings.text(rows).splitlines()[-1] in page.read_text()
    assert "| 1x64x128 | 12.00 | – | – | 6.00 |" in page.read_text()


def test_table_of_all_shapes_fits_a_device_reply():
    slow = {"deepgemm_us": 1234.56, "speed_deepgemm": 0.9, "bf16_us": 123.45, "speed_bf16": 0.9}
    rows = [row(shape, 1234.56, 1111.11, **slow) for shape in peers.recorded_dense()]
    assert len(compare.table(rows) + findings.text(rows)) < 11_000


def test_unseen_shapes_are_40_that_nobody_recorded():
    shapes = unseen.shapes()
    assert len(shapes) == len(set(shapes)) == 40
    recorded = {(s.n, s.k) for s in peers.recorded_dense()}
    assert {(s.n, s.k) for s in shapes}.isdisjoint(recorded)
    assert {s.m for s in shapes} == set(unseen.EVERY_M)


@pytest.mark.parametrize("words", [["--unseen", "--quick"], ["--unseen", "--shapes", "1x576x7168"]])
def test_sets_of_shapes_exclude_each_other(words, capsys):
    with pytest.raises(SystemExit):
        dense_fp8.main(words)
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize(("outliers", "limit"), [(False, 5e-6), (True, 1e-2)])
def test_what_promotion_buys_is_seen_on_the_emulator(outliers, limit):
    x = checks.outlier_inputs(Shape(16, 64, 16384), 6, outliers, device="cpu")
    errors = []
    for spec in ("fp8_gemm_nt_rowwise", "fp8_gemm_nt_no_promotion"):
        kernel = gemmgen.compile(spec, target="sm_90a", N=64, K=16384)
        d, _ = kernel.emulate(x.a, x.sa, x.b, x.sb)
        errors.append(diff(torch.from_numpy(d.astype("float32")), reference(x)))
    assert errors[0] < limit
    assert errors[0] * 5 < errors[1]


def test_a_sweep_measures_what_the_heuristics_choose():
    hopper = capability(sweep.TARGET)
    for shape in (*compare.baseline_shapes(), *unseen.shapes()):
        _, chosen = heuristics.ranked(ScheduleHints(), shape.m, shape.n, shape.k, hopper)[0]
        assert chosen in sweep.worth_measuring(shape, hopper), shape


def sanitized() -> list[tuple[Shape, Schedule]]:
    """Each case of the sanitizer with its kernel's schedule."""
    found = []
    for case, hints in sanitize.CASES:
        shape, layout = case.shape, case.layout
        spec = dataclasses.replace(load_spec(sanitize.SPEC).bind(N=shape.n, K=shape.k), schedule=hints)
        entries = compiler.plan(spec, "sm_90a", "bulk" if layout.sa_mn_major else "lanes")
        found.append((shape, next(e.schedule for e in reversed(entries) if e.m_min <= shape.m)))
    return found


def test_the_sanitizer_sees_a_split_tile():
    assert any(schedule.split_k > 1 for _, schedule in sanitized())


def test_the_sanitizer_sees_rings_wrap():
    """With scales in the stages, copied by lanes or by the copy engine, in a ring of their own, and in a cluster."""
    wrapping = [schedule for shape, schedule in sanitized() if shape.k > schedule.stages * schedule.tile[2]]
    kinds = {(s.scales_ahead, s.scale_copy, s.cluster_size > 1) for s in wrapping}
    assert {(False, "bulk", False), (False, "lanes", False), (True, "bulk", False), (True, "bulk", True)} <= kinds
    assert any(s.lookahead and s.unroll for s in wrapping)
