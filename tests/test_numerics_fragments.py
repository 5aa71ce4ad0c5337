"""Layouts: worked examples, bijections, and agreement with independent descriptions of the same layout."""

from __future__ import annotations

import numpy as np
import pytest

from gemmgen.emulator.numerics import fragments
from gemmgen.errors import EmulationError


def covers(shape: tuple[int, ...], *index: np.ndarray) -> bool:
    """Whether the index arrays hit every cell of ``shape`` exactly once."""
    flat = np.ravel_multi_index([array.ravel() for array in index], shape)
    return len(flat) == np.prod(shape) and len(np.unique(flat)) == len(flat)


def test_thread_37_element_6_of_d() -> None:
    """docs/hardware.md §1.3: warp 1, lane 5, i = 6 is row 25, column 10."""
    row, column = fragments.wgmma_d(128)
    assert (row[37, 6], column[37, 6]) == (25, 10)


@pytest.mark.parametrize("n", [8, 64, 128, 256])
def test_d_fragments_cover_the_tile_and_tile_by_eight_columns(n: int) -> None:
    row, column = fragments.wgmma_d(n)
    assert row.shape == (128, n // 2)
    assert covers((64, n), row, column)
    np.testing.assert_array_equal(column[:, :4] + n - 8, column[:, -4:])
    np.testing.assert_array_equal(row // 16, np.arange(128)[:, None] // 32 * np.ones((1, n // 2), int))


@pytest.mark.parametrize("element_bits", [8, 16, 32])
def test_a_fragments_cover_the_tile(element_bits: int) -> None:
    row, k = fragments.wgmma_a(element_bits)
    assert row.shape == (128, 128 // element_bits)
    assert covers((64, 256 // element_bits), row, k)


def test_sixteen_bit_d_chains_into_a_without_moving() -> None:
    """§1.3: D columns 16j..16j+15 of a thread are A's elements of the same thread in order."""
    d_row, d_column = fragments.wgmma_d(64)
    a_row, a_k = fragments.wgmma_a(16)
    for j in range(4):
        np.testing.assert_array_equal(d_row[:, 8 * j : 8 * j + 8], a_row)
        np.testing.assert_array_equal(d_column[:, 8 * j : 8 * j + 8], a_k + 16 * j)


def test_eight_bit_a_needs_a_lane_exchange() -> None:
    a_row, a_k = fragments.wgmma_a(8)
    assert a_k[1, :4].tolist() == [4, 5, 6, 7]
    assert (a_row[1, 4], a_k[1, 4], a_k[1, 8]) == (8, 4, 20)
    assert fragments.wgmma_d(32)[1][1, :2].tolist() == [2, 3]


def test_matrix_lanes_hold_packed_pairs_of_d() -> None:
    row, column = fragments.matrix_8x8()
    assert covers((8, 8), row, column)
    d_row, d_column = fragments.wgmma_d(8)
    np.testing.assert_array_equal(row, d_row[:32, :2])
    np.testing.assert_array_equal(column, d_column[:32, :2])
    t_row, t_column = fragments.matrix_8x8(transposed=True)
    np.testing.assert_array_equal(t_row, column)
    np.testing.assert_array_equal(t_column, row)


@pytest.mark.parametrize(("shape", "registers", "columns", "lanes"), [
    ("32x32b", 1, 1, 32), ("16x64b", 1, 2, 16), ("16x128b", 2, 4, 16), ("16x256b", 4, 8, 16),
])  # fmt: skip
@pytest.mark.parametrize("num", [1, 2, 8, 32])
def test_tmem_loads_cover_their_rectangle(shape: str, registers: int, columns: int, lanes: int, num: int) -> None:
    lane, column = fragments.tmem_load(shape, num)
    assert lane.shape == (32, registers * num)
    assert covers((lanes, columns * num), lane, column)
    assert fragments.tmem_lanes(shape) == lanes


def test_tmem_load_elements_of_the_table() -> None:
    assert [int(x[5, 3]) for x in fragments.tmem_load("32x32b", 4)] == [5, 3]
    assert [int(x[6, 1]) for x in fragments.tmem_load("16x64b", 2)] == [1, 1 + 2]
    assert [int(x[7, 0]) for x in fragments.tmem_load("16x64b", 2)] == [1 + 8, 1]
    assert [int(x[9, 3]) for x in fragments.tmem_load("16x128b", 2)] == [2 + 8, 1 + 4]
    assert [int(x[9, 6]) for x in fragments.tmem_load("16x256b", 2)] == [2 + 8, 2 + 8]


def test_16x256b_is_the_mma_fragment() -> None:
    lane, column = fragments.tmem_load("16x256b", 4)
    row, d_column = fragments.wgmma_d(32)
    np.testing.assert_array_equal(lane, row[:32])
    np.testing.assert_array_equal(column, d_column[:32])


def test_16x32bx2_reads_two_halves() -> None:
    lane, column = fragments.tmem_load("16x32bx2", 2, 64)
    assert (lane[3, 1], column[3, 1]) == (3, 1)
    assert (lane[19, 1], column[19, 1]) == (3, 65)


@pytest.mark.parametrize(("shape", "num"), [("16x128b", 128), ("16x256b", 64), ("32x32b", 3), ("64x32b", 1)])
def test_tmem_shapes_that_ptxas_rejects(shape: str, num: int) -> None:
    with pytest.raises(EmulationError, match="no such shape"):
        fragments.tmem_load(shape, num)


@pytest.mark.parametrize(("m", "group", "lanes"), [(128, 1, 128), (64, 1, 64), (256, 2, 128), (128, 2, 128)])
def test_accumulators_are_injective_and_use_the_lanes_they_should(m: int, group: int, lanes: int) -> None:
    cta, lane, column = fragments.accumulator(m, 32, group)
    cells = np.ravel_multi_index([cta.ravel(), lane.ravel(), column.ravel()], (2, 128, 32))
    assert len(np.unique(cells)) == m * 32
    assert len(np.unique(lane)) == lanes
    assert cta.max() == group - 1


def test_accumulator_elements_of_the_table() -> None:
    assert [int(x[70, 9]) for x in fragments.accumulator(128, 16, 1)] == [0, 70, 9]
    assert [int(x[37, 9]) for x in fragments.accumulator(64, 16, 1)] == [0, 5 + 64, 9]
    assert [int(x[200, 9]) for x in fragments.accumulator(256, 16, 2)] == [1, 72, 9]
    assert [int(x[70, 3]) for x in fragments.accumulator(128, 16, 2)] == [1, 6, 3]
    assert [int(x[70, 9]) for x in fragments.accumulator(128, 16, 2)] == [1, 6 + 64, 1]
    with pytest.raises(EmulationError, match="no such accumulator"):
        fragments.accumulator(64, 16, 2)


def test_scale_atom_row_70_scale_2_is_byte_106() -> None:
    atom = fragments.scale_atom()
    assert atom[70, 2] == 106
    np.testing.assert_array_equal(np.sort(atom.ravel()), np.arange(512))


def test_copying_an_atom_with_32x128b_puts_each_row_where_the_mma_reads_it() -> None:
    """The 512-byte atom through tcgen05.cp.32x128b.warpx4 must give the scale-factor layout, in all four replicas."""
    smem = np.zeros(512, np.uint8)
    atom = fragments.scale_atom()
    for row in range(128):
        smem[atom[row]] = [row, 0, 1, 2]
    copy = fragments.tmem_copy("32x128b", "warpx4")
    tmem = np.full((128, 4), 0xFFFFFFFF, np.uint32)
    source = smem.reshape(copy.rows, copy.row_bytes).view(np.uint32)
    for lanes in copy.lanes:
        tmem[lanes] = source
    lanes, column = fragments.scale_factor(128)
    assert len(lanes) == 4
    for replica in lanes:
        np.testing.assert_array_equal(tmem[replica, column] & 0xFF, np.arange(128))


def test_scale_factors_of_the_table() -> None:
    """§5.6: column r/32, lane r%32, replicated at +32, +64 and +96; N = 256 takes eight columns."""
    lanes, column = fragments.scale_factor(256)
    assert (lanes[:, 70].tolist(), int(column[70])) == ([6, 38, 70, 102], 2)
    assert int(column.max()) == 7


def test_split_scale_factors_keep_each_half_of_n_beside_its_accumulators() -> None:
    """M = 128 over two CTAs computes columns n < N/2 in lanes 0..63 and the rest in 64..127; so lie B's factors."""
    _, d_lane, _ = fragments.accumulator(128, 128, 2)
    lanes, column = fragments.scale_factor(128, split=True)
    for n in (0, 40, 63, 64, 127):
        assert set(lanes[:, n] // 64) == {int(d_lane[0, n]) // 64}
    assert covers((128, 2), np.concatenate([lanes[0], lanes[1]]), np.concatenate([column, column]))


def test_operand_a_in_tensor_memory() -> None:
    cta, lanes = fragments.operand_a(128, 2)
    assert (int(cta[70]), lanes[:, 70].tolist()) == (1, [6, 70])
    cta, lanes = fragments.operand_a(64, 1)
    assert lanes.tolist() == [[32 * (m // 16) + m % 16 for m in range(64)]]
    assert fragments.operand_a(256, 2)[1][0, 200] == 72


def test_cp_shapes() -> None:
    full = fragments.tmem_copy("128x256b")
    assert (full.rows, full.row_bytes, full.lanes.tolist()) == (128, 32, [list(range(128))])
    assert fragments.tmem_copy("128x128b").row_bytes == 16
    pairs = fragments.tmem_copy("64x128b", "warpx2::02_13")
    assert (pairs.lanes[:, 5].tolist(), pairs.lanes[:, 40].tolist()) == ([5, 69], [40, 104])
    pairs = fragments.tmem_copy("64x128b", "warpx2::01_23")
    assert (pairs.lanes[:, 5].tolist(), pairs.lanes[:, 40].tolist()) == ([5, 37], [72, 104])
    assert fragments.tmem_copy("4x256b").lanes.tolist() == [[0, 32, 64, 96]]
    with pytest.raises(EmulationError, match=r"tcgen05\.cp has no such shape"):
        fragments.tmem_copy("64x128b")


def test_layouts_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        fragments.wgmma_d(8)[0][0, 0] = 1
