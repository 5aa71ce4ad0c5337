"""The arithmetic behind the benchmarks' numbers, on the CPU: an error here would make every result wrong."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import compare, peers  # noqa: E402
from benchmarks.harness import Layout, Shape, check, dequantize, diff, make_inputs, quantize, reference  # noqa: E402

PADDED = Layout(pad_k=16, pad_n=8, sa_mn_major=False, sb_mn_major=True, pad_scale=3)


def row(shape: Shape, us: float, cublas_us: float) -> compare.Row:
    nan = math.nan
    return dataclasses.replace(
        compare.Row(shape.m, shape.n, shape.k, 1, us, us, us, 1e-6, cublas_us, nan, shape.floor_us),
        speed_cublas=cublas_us / us,
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


def test_summary_groups_by_m_and_counts_failures():
    rows = [row(Shape(128, 64, 64), 2.0, 4.0), row(Shape(64, 64, 64), 1.0, 8.0), row(Shape(256, 64, 64), 3.0, 3.0)]
    rows[2] = dataclasses.replace(rows[2], diff=1e-5)
    summary = compare.summary(rows)
    assert summary["m_le_128.speed_cublas"] == pytest.approx(4.0)
    assert summary["m_ge_256.speed_cublas"] == pytest.approx(1.0)
    assert summary["failures"] == 1


def test_table_of_all_shapes_fits_a_device_reply():
    rows = [row(shape, 1234.56, 1234.56) for shape in peers.recorded_dense()]
    assert len(compare.table(rows) + compare.summary_text(rows)) < 11_000
