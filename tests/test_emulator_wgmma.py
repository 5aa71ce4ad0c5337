"""wgmma on the emulator: every operand type, both major orders, operands in registers, against plain matrix products.

Operand layouts are written down from docs/hardware.md §1.2 and §1.3 with explicit loops, apart from the emulator's own
code.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from gemmgen.emulator import Kind, Report, Uninitialized, emulate

N = 16
IMAGE = 16384
B_OFFSET = 8192
_TYPES = {
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "bf16": ml_dtypes.bfloat16,
    "f16": np.float16,
    "tf32": np.float32,
    "s8": np.int8,
    "u8": np.uint8,
}
_TEMPLATE = """.version 9.0
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 image, .param .u64 fragment, .param .u64 out) {{
  .shared .align 1024 .b8 smem[{image}];
  .reg .pred p;  .reg .b32 t, i, a, x<4>, d<{registers}>;  .reg .b64 g, o, da, db;
  mov.u32 t, %tid.x;  ld.param.u64 g, [image];  shl.b32 i, t, 4;
COPY:
  cvt.u64.u32 o, i;  add.u64 o, g, o;  ld.global.v4.b32 {{x0, x1, x2, x3}}, [o];
  mov.u32 a, smem;  add.u32 a, a, i;  st.shared.v4.b32 [a], {{x0, x1, x2, x3}};
  add.u32 i, i, 2048;  setp.lt.u32 p, i, {image};  @p bra COPY;
  fence.proxy.async.shared::cta;
  bar.sync 0;
  ld.param.u64 g, [fragment];  mul.wide.u32 o, t, 16;  add.u64 o, g, o;
  ld.global.v4.b32 {{x0, x1, x2, x3}}, [o];
  mov.u32 a, smem;  shr.u32 a, a, 4;
  cvt.u64.u32 da, a;  or.b64 da, da, {desc_a};
  cvt.u64.u32 db, a;  add.u64 db, db, {b_units};  or.b64 db, db, {desc_b};
{zeros}
  setp.ne.u32 p, {accumulate}, 0;
  wgmma.fence.sync.aligned;
  wgmma.mma_async.sync.aligned.m64n{n}k{k}.{dtype}.{atype}.{btype} {{{d}}}, {left}, db, p{flags};
  wgmma.commit_group.sync.aligned;
  wgmma.wait_group.sync.aligned 0;
  ld.param.u64 g, [out];  mul.wide.u32 o, t, {row};  add.u64 g, g, o;
{stores}
  ret;
}}
"""


def k_major(matrix: np.ndarray) -> np.ndarray:
    """Unswizzled K-major: core matrices of 8 rows x 16 bytes, along K 128 bytes apart, 8 rows further 256 bytes."""
    data = matrix.view(np.uint8).reshape(len(matrix), -1)
    out = np.zeros(len(matrix) * 32, np.uint8)
    for row in range(len(matrix)):
        for byte in range(32):
            out[row // 8 * 256 + byte // 16 * 128 + row % 8 * 16 + byte % 16] = data[row, byte]
    return out


def mn_major(matrix: np.ndarray) -> np.ndarray:
    """Unswizzled MN-major 16-bit: 8 rows x 8 k per core matrix; 8 k further 128 bytes, 8 rows further 256 bytes."""
    codes = matrix.view(np.uint16)
    out = np.zeros(codes.size, np.uint16)
    for row in range(len(codes)):
        for k in range(codes.shape[1]):
            out[(row // 8 * 256 + k // 8 * 128 + k % 8 * 16) // 2 + row % 8] = codes[row, k]
    return out.view(np.uint8)


def fragment_a(matrix: np.ndarray) -> np.ndarray:
    """A in registers: 128 threads x 16 bytes."""
    size = matrix.itemsize
    out = np.zeros((128, 16 // size), matrix.dtype)
    for thread in range(128):
        row, quad = 16 * (thread // 32) + thread % 32 // 4, thread % 4
        for i in range(16 // size):
            if size == 1:
                at = row + 8 * (i >> 2 & 1), 4 * quad + (i & 3) + 16 * (i >> 3)
            elif size == 2:
                at = row + 8 * (i >> 1 & 1), 2 * quad + (i & 1) + 8 * (i >> 2)
            else:
                at = row + 8 * (i & 1), quad + 4 * (i >> 1)
            out[thread, i] = matrix[at]
    return out


def multiply(
    types: tuple[str, str, str],
    *,
    majors: tuple[str, str] = ("K", "K"),
    in_registers: bool = False,
    accumulate: bool = False,
    signs: tuple[int, int] = (1, 1),
    wait: bool = True,
    first_row: tuple[float, ...] = (),
    numerics: str = "hardware",
) -> tuple[np.ndarray, np.ndarray, Report]:
    """Run one wgmma of small integers; returns D as its registers say, the exact product, and the report."""
    a_type, b_type, d_type = types
    rng = np.random.default_rng(7)
    size = np.dtype(_TYPES[a_type]).itemsize
    k = 32 // size
    low = 0 if a_type == "u8" else -3
    a = rng.integers(low, 4, (64, k)).astype(_TYPES[a_type])
    b = rng.integers(0 if b_type == "u8" else -3, 4, (N, k)).astype(_TYPES[b_type])
    a[0, : len(first_row)] = b[0, : len(first_row)] = np.array(first_row)
    image = np.zeros(IMAGE, np.uint8)
    layout = {"K": k_major, "MN": mn_major}
    steps = {"K": (128, 256), "MN": (128, 256)}
    for matrix, major, offset in ((a, majors[0], 0), (b, majors[1], B_OFFSET)):
        data = layout[major](matrix)
        image[offset : offset + len(data)] = data
    descriptors = [steps[major][0] >> 4 << 16 | steps[major][1] >> 4 << 32 for major in majors]
    registers = N // 2 if d_type != "f16" else N // 4
    transposed = [str(int(major == "MN")) for major in majors][1 if in_registers else 0 :]
    flags = [] if d_type == "s32" else [str(sign) for sign in signs]
    flags += transposed if a_type in ("bf16", "f16") else []
    names = [f"d{i}" for i in range(registers)]
    ptx = _TEMPLATE.format(
        image=IMAGE,
        registers=registers,
        desc_a=descriptors[0],
        desc_b=descriptors[1],
        b_units=B_OFFSET >> 4,
        zeros="\n".join(f"  mov.b32 {name}, 0;" for name in names),
        accumulate=int(accumulate),
        n=N,
        k=k,
        dtype=d_type,
        atype=a_type,
        btype=b_type,
        d=", ".join(names),
        left="{x0, x1, x2, x3}" if in_registers else "da",
        flags="".join(f", {flag}" for flag in flags),
        row=4 * registers,
        stores="\n".join(f"  st.global.b32 [g+{4 * i}], {name};" for i, name in enumerate(names)),
    )
    if not wait:
        ptx = ptx.replace("wgmma.wait_group.sync.aligned 0;", "")
    out = np.zeros((128, registers), np.uint32)
    params = [image, fragment_a(a).view(np.uint8), Uninitialized(out)]
    report = emulate(ptx, "k", 1, 128, 1, 0, params, numerics=numerics)
    values = out.view({"f32": np.float32, "f16": np.float16, "s32": np.int32}[d_type])
    exact = signs[0] * signs[1] * (a.astype(np.float64) @ b.astype(np.float64).T)
    return _from_registers(values), exact, report


def _from_registers(values: np.ndarray) -> np.ndarray:
    result = np.zeros((64, N))
    for thread in range(128):
        row, quad = 16 * (thread // 32) + thread % 32 // 4, thread % 4
        for i in range(N // 2):
            result[row + 8 * (i >> 1 & 1), 8 * (i >> 2) + 2 * quad + (i & 1)] = values[thread, i]
    return result


@pytest.mark.parametrize(
    "types",
    [
        ("e4m3", "e4m3", "f32"),
        ("e4m3", "e5m2", "f32"),
        ("e5m2", "e5m2", "f16"),
        ("bf16", "bf16", "f32"),
        ("f16", "f16", "f32"),
        ("f16", "f16", "f16"),
        ("tf32", "tf32", "f32"),
        ("s8", "s8", "s32"),
        ("u8", "s8", "s32"),
    ],
)
@pytest.mark.parametrize("in_registers", [False, True])
def test_operand_types(types: tuple[str, str, str], in_registers: bool) -> None:
    got, exact, report = multiply(types, in_registers=in_registers)
    assert report.ok, str(report)
    assert (got == exact).all()


@pytest.mark.parametrize("majors", [("K", "MN"), ("MN", "K"), ("MN", "MN")])
def test_mn_major_operands(majors: tuple[str, str]) -> None:
    got, exact, report = multiply(("bf16", "bf16", "f32"), majors=majors)
    assert report.ok, str(report)
    assert (got == exact).all()


def test_accumulation_and_signs() -> None:
    got, exact, report = multiply(("f16", "f16", "f32"), accumulate=True, signs=(-1, 1))
    assert report.ok, str(report)
    assert (got == exact).all()
    assert exact.any()


def test_registers_read_before_the_wait() -> None:
    _, _, report = multiply(("bf16", "bf16", "f32"), wait=False)
    assert Kind.WGMMA_REGISTER in report.kinds()
    assert Kind.WGMMA_UNCOMMITTED in report.kinds()


@pytest.mark.parametrize(("numerics", "kept"), [("hardware", 0), ("fp32", 4)])
def test_small_products_vanish_beside_large_ones_as_in_hardware(numerics: str, kept: int) -> None:
    """448 * 448 puts the last of the 13 bits at 16, so that products of 2 * 2 are cut off."""
    row = (448.0, 2.0, *(0.0 for _ in range(30)))
    got, _, report = multiply(("e4m3", "e4m3", "f32"), first_row=row, numerics=numerics)
    assert report.ok, str(report)
    assert got[0, 0] == 448 * 448 + kept
