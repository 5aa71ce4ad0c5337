"""tcgen05.cp, ld and st on the emulator: every shape of docs/hardware.md §5.6 and §5.7."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tcgen05_harness import A_AT, blank, check_clean, mistake, run, sentinels
from tcgen05_kernels import descriptor, frame, issue

from gemmgen.errors import EmulationError


@pytest.mark.parametrize(("shape", "rows", "row_bytes", "lanes_of_row"), [
    ("128x256b", 128, 32, lambda r: [r]),
    ("128x128b", 128, 16, lambda r: [r]),
    ("64x128b.warpx2::02_13", 64, 16, lambda r: [r, r + 64]),
    ("64x128b.warpx2::01_23", 64, 16, lambda r: [r, r + 32] if r < 32 else [r + 32, r + 64]),
    ("32x128b.warpx4", 32, 16, lambda r: [r, r + 32, r + 64, r + 96]),
    ("4x256b", 4, 32, lambda r: [32 * r]),
])  # fmt: skip
def test_cp_shapes(shape: str, rows: int, row_bytes: int, lanes_of_row: Callable[[int], list[int]]) -> None:
    """A core matrix is 8 rows of 16 bytes; the next 16 bytes follow at LBO, the next 8 rows at SBO."""
    rng = np.random.default_rng(rows)
    data = rng.integers(0, 256, (rows, row_bytes)).astype(np.uint8)
    image = blank()
    for row in range(rows):
        for chunk in range(row_bytes // 16):
            at = A_AT + row // 8 * 512 + row % 8 * 16 + chunk * 128
            image[0, at : at + 16] = data[row, 16 * chunk : 16 * chunk + 16]
    text = descriptor("sd", A_AT, 128, 512, 0) + f"  add.u32 x, taddr, 8;\n  tcgen05.cp.cta_group::1.{shape} [x], sd;\n"
    out, report = run(frame(issue(text), columns=32), image, sentinels(32))
    check_clean(report)
    want = sentinels(32)
    for row in range(rows):
        for lane in lanes_of_row(row):
            want[0, lane, 8 : 8 + row_bytes // 4] = data[row].view(np.uint32)
    np.testing.assert_array_equal(out, want)


# §5.7: register r of lane l lies at (lane, column)
CELLS = {
    "32x32b": (1, lambda lane, r: (lane, r)),
    "16x64b": (1, lambda lane, r: (lane // 4 + 8 * (lane % 2), lane // 2 % 2 + 2 * r)),
    "16x128b": (2, lambda lane, r: (lane // 4 + 8 * (r % 2), lane % 4 + 4 * (r // 2))),
    "16x256b": (4, lambda lane, r: (lane // 4 + 8 * (r // 2 % 2), 2 * (lane % 4) + r % 2 + 8 * (r // 4))),
    "16x32bx2": (1, lambda lane, r: (lane % 16, r + 24 * (lane // 16))),
}


def transfer_texts(shape: str, num: int, high: int, suffix: str = "") -> tuple[str, str, int]:
    """Instructions that load and store through a shape from registers r0.., and how many registers that takes."""
    count = CELLS[shape][0] * num
    registers = ", ".join(f"s{i}" for i in range(count))
    half = ", 24" if shape == "16x32bx2" else ""
    address = f"  add.u32 x, cell, {high << 16};\n"
    load = f"{address}  tcgen05.ld.sync.aligned.{shape}.x{num}{suffix}.b32 {{{registers}}}, [x]{half};\n"
    unpack = suffix.replace("pack", "unpack")
    store = f"{address}  tcgen05.st.sync.aligned.{shape}.x{num}{unpack}.b32 [x]{half}, {{{registers}}};\n"
    return load, store, count


@pytest.mark.parametrize(("shape", "num", "high"), [
    ("32x32b", 1, 0), ("32x32b", 8, 0), ("16x64b", 1, 0), ("16x64b", 4, 16), ("16x128b", 2, 0), ("16x128b", 1, 16),
    ("16x256b", 1, 0), ("16x256b", 2, 16), ("16x32bx2", 4, 0),
])  # fmt: skip
def test_ld_shapes(shape: str, num: int, high: int) -> None:
    """Load through a shape, then put register r back as column 32 + r of the thread's own lane."""
    load, _, count = transfer_texts(shape, num, high)
    body = load + "  tcgen05.wait::ld.sync.aligned;\n"
    body += "".join(
        f"  add.u32 x, cell, {32 + i};\n  tcgen05.st.sync.aligned.32x32b.x1.b32 [x], {{s{i}}};\n" for i in range(count)
    )
    body += "  tcgen05.wait::st.sync.aligned;\n"
    cells = np.arange(128 * 64, dtype=np.uint32).reshape(1, 128, 64)
    out, report = run(frame(body), blank(), cells)
    check_clean(report)
    for warp in range(4):
        for lane in range(32):
            for r in range(count):
                at, column = CELLS[shape][1](lane, r)
                assert out[0, 32 * warp + lane, 32 + r] == cells[0, 32 * warp + high + at, column], (warp, lane, r)


@pytest.mark.parametrize(("shape", "num", "high"), [
    ("32x32b", 2, 0), ("16x64b", 2, 16), ("16x128b", 1, 0), ("16x256b", 2, 0), ("16x32bx2", 2, 16),
])  # fmt: skip
def test_st_shapes(shape: str, num: int, high: int) -> None:
    """Store values that name their thread and register, and look where they are."""
    _, store, count = transfer_texts(shape, num, high)
    body = "".join(f"  mad.lo.u32 s{i}, t, 1000, {i};\n" for i in range(count)) + store
    body += "  tcgen05.wait::st.sync.aligned;\n"
    out, report = run(frame(body), blank(), sentinels(64))
    check_clean(report)
    want = sentinels(64)
    for warp in range(4):
        for lane in range(32):
            for r in range(count):
                at, column = CELLS[shape][1](lane, r)
                want[0, 32 * warp + high + at, column] = 1000 * (32 * warp + lane) + r
    np.testing.assert_array_equal(out, want)


def test_pack_and_unpack_merge_adjacent_columns() -> None:
    load, store, count = transfer_texts("32x32b", 4, 0, ".pack::16b")
    body = load + "  tcgen05.wait::ld.sync.aligned;\n  add.u32 cell, cell, 16;\n" + store
    body += "  tcgen05.wait::st.sync.aligned;\n  sub.u32 cell, cell, 16;\n"
    cells = np.random.default_rng(0).integers(0, 2**32, (1, 128, 64), dtype=np.uint64).astype(np.uint32)
    out, report = run(frame(body), blank(), cells)
    check_clean(report)
    assert count == 4
    np.testing.assert_array_equal(out[0, :, 16:24], cells[0, :, :8] & 0xFFFF)


def test_decompressing_copies_are_refused_by_name() -> None:
    text = descriptor("sd", A_AT, 128, 512, 0) + "  tcgen05.cp.cta_group::1.128x256b.b8x16.b4x16_p64 [taddr], sd;\n"
    with pytest.raises(EmulationError, match="decompression is not modelled"):
        mistake(issue(text))
