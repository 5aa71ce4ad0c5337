"""Who holds which element: register fragments, tensor memory and scale-factor layouts, as index arrays.

Every function is cached and returns read-only int32 arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from gemmgen.errors import EmulationError

Index = NDArray[np.int32]

TMEM_LANES = 128
TMEM_COLUMNS = 512
_WARP = 32
_WARPGROUP = 128

# tcgen05.ld/st shape -> registers per lane at .x1, columns at .x1, largest .num
_LOAD_SHAPES: dict[str, tuple[int, int, int]] = {
    "32x32b": (1, 1, 128),
    "16x64b": (1, 2, 128),
    "16x128b": (2, 4, 64),
    "16x256b": (4, 8, 32),
    "16x32bx2": (1, 1, 128),
}


@dataclass(frozen=True)
class CopyShape:
    """What one ``tcgen05.cp`` moves.

    Attributes:
        rows: rows of the source matrix in shared memory, K-major as its descriptor says.
        row_bytes: bytes per row; ``row_bytes / 4`` TMEM columns.
        lanes: int32 [copies, rows]: TMEM lanes, relative to the address, that row r is written to.
    """

    rows: int
    row_bytes: int
    lanes: Index


@cache
def wgmma_d(n: int) -> tuple[Index, Index]:
    """D of wgmma m64nN: element i of thread t of the warpgroup.

    Returns:
        (row, column), each [128, n / 2]. f32 and s32 hold element i in register i; f16 holds elements 2j and 2j+1 in
        the low and high half of register j.
    """
    thread, i = _grid(_WARPGROUP, n // 2)
    row, quad = _first_row(thread), thread % 4
    return _frozen(row + 8 * (i >> 1 & 1)), _frozen(8 * (i >> 2) + 2 * quad + (i & 1))


@cache
def wgmma_a(element_bits: int) -> tuple[Index, Index]:
    """A of wgmma in four registers: element i of thread t, in register ``i * element_bits // 32``, low bits first.

    Args:
        element_bits: 8, 16 or 32.

    Returns:
        (row, k), each [128, 128 / element_bits].
    """
    if element_bits not in (8, 16, 32):
        raise EmulationError(
            "wgmma holds no such elements in registers", got=f"{element_bits} bits", need="8, 16 or 32"
        )
    thread, i = _grid(_WARPGROUP, 128 // element_bits)
    row, quad = _first_row(thread), thread % 4
    if element_bits == 8:
        return _frozen(row + 8 * (i >> 2 & 1)), _frozen(4 * quad + (i & 3) + 16 * (i >> 3))
    if element_bits == 16:
        return _frozen(row + 8 * (i >> 1 & 1)), _frozen(2 * quad + (i & 1) + 8 * (i >> 2))
    return _frozen(row + 8 * (i & 1)), _frozen(quad + 4 * (i >> 1))


@cache
def matrix_8x8(transposed: bool = False) -> tuple[Index, Index]:
    """The pair of 16-bit elements that each lane holds of an 8x8 matrix in ldmatrix and stmatrix.

    Matrix m of an ``.x4`` is in register m; its row r is at the address that lane 8m + r gives.

    Returns:
        (row, column), each [32, 2], of the matrix in memory; with ``transposed`` as for ``.trans``.
    """
    lane, half = _grid(_WARP, 2)
    row, column = lane // 4, 2 * (lane % 4) + half
    first, second = (column, row) if transposed else (row, column)
    return _frozen(first), _frozen(second)


@cache
def tmem_load(shape: str, num: int, half_split: int = 0) -> tuple[Index, Index]:
    """Where register r of lane l of ``tcgen05.ld``/``st`` lies, relative to the address.

    With ``.pack::16b``/``.unpack::16b`` a register holds the low halves of columns 2c (low) and 2c+1 (high), c being
    the column given here.

    Args:
        shape: 32x32b, 16x64b, 16x128b, 16x256b or 16x32bx2.
        num: the ``.xN`` factor.
        half_split: column distance of the second half of 16x32bx2.

    Returns:
        (lane, column), each [32, registers].

    Raises:
        EmulationError: no such shape or factor.
    """
    if shape not in _LOAD_SHAPES or num not in (1, 2, 4, 8, 16, 32, 64, 128) or num > _LOAD_SHAPES[shape][2]:
        raise EmulationError("tcgen05.ld/st has no such shape", got=f"{shape}.x{num}", need=", ".join(_LOAD_SHAPES))
    lane, r = _grid(_WARP, _LOAD_SHAPES[shape][0] * num)
    if shape == "32x32b":
        return _frozen(lane), _frozen(r)
    if shape == "16x32bx2":
        return _frozen(lane % 16), _frozen(r + lane // 16 * half_split)
    if shape == "16x64b":
        return _frozen(lane // 4 + 8 * (lane % 2)), _frozen(lane // 2 % 2 + 2 * r)
    if shape == "16x128b":
        return _frozen(lane // 4 + 8 * (r % 2)), _frozen(lane % 4 + 4 * (r // 2))
    return _frozen(lane // 4 + 8 * (r // 2 % 2)), _frozen(2 * (lane % 4) + r % 2 + 8 * (r // 4))


def tmem_lanes(shape: str) -> int:
    """Lanes that one ``tcgen05.ld``/``st`` of this shape reaches: 32 or 16."""
    return 32 if shape == "32x32b" else 16


@cache
def accumulator(m: int, n: int, cta_group: int) -> tuple[Index, Index, Index]:
    """Where element (m, n) of D lies in tensor memory, relative to D's address.

    Returns:
        (cta, lane, column), each [m, n]; cta 0 is the even CTA of a pair.

    Raises:
        EmulationError: no such M for the CTA group.
    """
    row, column = _grid(m, n)
    zero = np.zeros_like(row)
    if (cta_group, m) == (1, 128):
        return _frozen(zero), _frozen(row), _frozen(column)
    if (cta_group, m) == (1, 64):
        return _frozen(zero), _frozen(row % 16 + 32 * (row // 16)), _frozen(column)
    if (cta_group, m) == (2, 256):
        return _frozen(row // 128), _frozen(row % 128), _frozen(column)
    if (cta_group, m) == (2, 128):
        right = column >= n // 2
        return _frozen(row // 64), _frozen(row % 64 + 64 * right), _frozen(column % (n // 2))
    raise EmulationError("no such accumulator", got=f"M={m}, cta_group::{cta_group}", need="64, 128 or 128, 256")


@cache
def operand_a(m: int, cta_group: int) -> tuple[Index, Index]:
    """Lanes that hold each row of an A operand in tensor memory, relative to its address.

    M = 128 across two CTAs keeps each CTA's 64 rows twice, in lanes 0..63 and 64..127 (CUTLASS's Duplicated mode).

    Returns:
        (cta [m], lanes [copies, m]).
    """
    if (cta_group, m) == (2, 128):
        row = np.arange(128)
        return _frozen(row // 64), _frozen(row % 64 + np.array([[0], [64]]))
    cta, lane, _ = accumulator(m, 1, cta_group)
    return _frozen(cta[:, 0]), _frozen(lane[None, :, 0])


@cache
def scale_factor(rows: int, split: bool = False) -> tuple[Index, Index]:
    """TMEM words that hold the (up to four) scale factors of each row, relative to the scale matrix's address.

    Args:
        rows: rows of A in this CTA, or all N of B.
        split: the arrangement of B's factors for M = 128 across two CTAs: the first half of N in lanes 0..63, the
            second in lanes 64..127 (CUTLASS's ScaleFactorDuplicated2by2).

    Returns:
        (lanes [replicas, rows], column [rows]): four replicas, two where split.
    """
    row = np.arange(rows)
    if not split:
        return _frozen(row % 32 + np.array([[0], [32], [64], [96]])), _frozen(row // 32)
    half, within = row // (rows // 2), row % (rows // 2)
    return _frozen(within % 32 + 64 * half + np.array([[0], [32]])), _frozen(within // 32)


@cache
def scale_atom(rows: int = 128) -> Index:
    """Byte offset of scale s of row r in the 128x4 atom of shared (and CUTLASS's global) memory.

    Args:
        rows: at most 128; further rows are in the next atom.

    Returns:
        int32 [rows, 4].
    """
    if not 0 < rows <= 128:
        raise EmulationError("a scale atom has 128 rows", got=rows)
    row, scale = _grid(rows, 4)
    return _frozen(16 * (row % 32) + 4 * (row // 32) + scale)


@cache
def tmem_copy(shape: str, multicast: str | None = None) -> CopyShape:
    """Rows, bytes and destination lanes of a ``tcgen05.cp``.

    Args:
        shape: 128x256b, 128x128b, 64x128b, 32x128b or 4x256b.
        multicast: warpx2::02_13 or warpx2::01_23 for 64x128b, warpx4 for 32x128b, else None.

    Raises:
        EmulationError: PTX has no such combination.
    """
    row = np.arange(128)
    lanes: dict[tuple[str, str | None], NDArray[np.int64]] = {
        ("128x256b", None): row[None],
        ("128x128b", None): row[None],
        ("4x256b", None): 32 * row[None, :4],
        ("64x128b", "warpx2::02_13"): row[:64] + np.array([[0], [64]]),
        ("64x128b", "warpx2::01_23"): row[:64] % 32 + 64 * (row[:64] // 32) + np.array([[0], [32]]),
        ("32x128b", "warpx4"): row[:32] + np.array([[0], [32], [64], [96]]),
    }
    if (shape, multicast) not in lanes:
        legal = ", ".join(f"{name}.{cast}" if cast else name for name, cast in lanes)
        raise EmulationError("tcgen05.cp has no such shape", got=f"{shape}.{multicast}", need=legal)
    destination = _frozen(lanes[shape, multicast])
    return CopyShape(rows=destination.shape[1], row_bytes=int(shape.split("x")[1][:-1]) // 8, lanes=destination)


def _grid(rows: int, columns: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    row, column = np.indices((rows, columns))
    return row, column


def _first_row(thread: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row of a warpgroup thread's first element: 16 rows per warp, 4 lanes per row."""
    return 16 * (thread // _WARP) + thread % _WARP // 4


def _frozen(array: NDArray) -> Index:
    result = np.ascontiguousarray(array, np.int32)
    result.flags.writeable = False
    return result
