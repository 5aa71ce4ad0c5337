"""Hand-written tcgen05.mma kernels on the emulator: layouts of operands, sums and scales (docs/hardware.md §5)."""

from __future__ import annotations

import numpy as np
import pytest
from tcgen05_harness import (
    A_AT,
    B_AT,
    SENTINEL,
    SFA_AT,
    SFB_AT,
    bf16,
    blank,
    check_clean,
    e2m1,
    e4m3,
    floats,
    idesc,
    idesc_scaled,
    pair_image,
    run,
    scaled_mma,
    sentinels,
    simple_operands,
    small_integers,
)
from tcgen05_kernels import descriptor, frame, issue, k_major, mma, mn_major


@pytest.mark.parametrize("span", [128, 64, 32, 16])
@pytest.mark.parametrize("n", [16, 64])
def test_k_major_operands_and_the_128_lane_accumulator(span: int, n: int) -> None:
    rng = np.random.default_rng(span)
    a, b = small_integers(rng, (128, 32)), small_integers(rng, (n, 32))
    image = blank()
    da = descriptor("da", A_AT, *k_major(image[0], A_AT, e4m3(a), span))
    db = descriptor("db", B_AT, *k_major(image[0], B_AT, e4m3(b), span))
    out, report = run(frame(issue(da + db + mma("f8f6f4", idesc(128, n, 0, 0)))), image, sentinels(64))
    check_clean(report)
    np.testing.assert_array_equal(floats(out[0, :, :n]), a @ b.T)
    assert (out[0, :, n:] == SENTINEL).all()


@pytest.mark.parametrize("span", [128, 64, 32, 16])
@pytest.mark.parametrize("kind", ["f16", "f8f6f4"])
@pytest.mark.parametrize("which", ["a", "b", "both"])
def test_mn_major_operands(span: int, kind: str, which: str) -> None:
    rng = np.random.default_rng(span)
    k, code, encode = (16, 1, bf16) if kind == "f16" else (32, 0, e4m3)
    a, b = small_integers(rng, (128, k)), small_integers(rng, (64, k))
    image = blank()
    layouts = []
    for at, matrix, transposed in ((A_AT, a, which != "b"), (B_AT, b, which != "a")):
        codes = encode(matrix)
        layouts.append(
            mn_major(image[0], at, codes, span) if transposed else k_major(image[0], at, codes.view(np.uint8), span)
        )
    da, db = descriptor("da", A_AT, *layouts[0]), descriptor("db", B_AT, *layouts[1])
    word = idesc(128, 64, code, code, a_mn=int(which != "b"), b_mn=int(which != "a"))
    out, report = run(frame(issue(da + db + mma(kind, word))), image, sentinels(64))
    check_clean(report)
    np.testing.assert_array_equal(floats(out[0]), a @ b.T)


def test_mn_major_tf32_uses_atoms_of_32_bytes() -> None:
    """§5.2: only swizzle code 1: 128 bytes of MN by 4 k, XOR of address bits 5:6 with bits 7:8."""
    rng = np.random.default_rng(0)
    a, b = small_integers(rng, (128, 8)), small_integers(rng, (64, 8))
    image = blank()
    for at, matrix in ((A_AT, a), (B_AT, b)):
        words, blocks = image[0].view(np.float32), len(matrix) // 32
        for i in range(len(matrix)):
            for k in range(8):
                atom = 512 * (i // 32 + k // 4 * blocks)
                byte = atom + k % 4 * 128 + ((i % 32 * 4 // 32) ^ k % 4) * 32 + i % 8 * 4
                words[(at + byte) // 4] = matrix[i, k]
    da, db = descriptor("da", A_AT, 512, 2048, 1), descriptor("db", B_AT, 512, 1024, 1)
    out, report = run(frame(issue(da + db + mma("tf32", idesc(128, 64, 2, 2, a_mn=1, b_mn=1)))), image, sentinels(64))
    check_clean(report)
    np.testing.assert_array_equal(floats(out[0]), a @ b.T)


def test_k_advances_by_two_in_the_low_word_and_accumulates() -> None:
    """§1.2: four MMAs over a 128-byte row of K, +32 bytes = +2 each."""
    rng = np.random.default_rng(1)
    a, b = small_integers(rng, (128, 128)), small_integers(rng, (64, 128))
    image = blank()
    for at, matrix in ((A_AT, a), (B_AT, b)):
        for row, codes in enumerate(e4m3(matrix)):
            for chunk in range(8):
                start = at + 128 * row + 16 * (chunk ^ row % 8)
                image[0, start : start + 16] = codes[16 * chunk : 16 * chunk + 16]
    steps = descriptor("da", A_AT, 16, 1024, 2) + descriptor("db", B_AT, 16, 1024, 2)
    for step in range(4):
        steps += mma("f8f6f4", idesc(128, 64, 0, 0), accumulate=step > 0)
        steps += "  add.u64 da, da, 2;\n  add.u64 db, db, 2;\n"
    out, report = run(frame(issue(steps)), image, sentinels(64))
    check_clean(report)
    np.testing.assert_array_equal(floats(out[0]), a @ b.T)


@pytest.mark.parametrize("upper", [0, 16])
def test_m64_uses_sixteen_lanes_of_each_partition(upper: int) -> None:
    """§5.5: row m lies in lane (m % 16) + 32 (m / 16), or 16 lanes higher."""
    rng = np.random.default_rng(2)
    a, b = small_integers(rng, (64, 32)), small_integers(rng, (64, 32))
    image = blank()
    shift = f"  add.u32 taddr, taddr, {upper << 16};\n"
    body = issue(simple_operands(image[0], a, b) + shift + mma("f8f6f4", idesc(64, 64, 0, 0)))
    out, report = run(
        frame(body, dealloc="sub.u32 taddr, cell, 0;\n  tcgen05.dealloc.cta_group::1.sync.aligned.b32 taddr, 64;"),
        image,
        sentinels(64),
    )
    check_clean(report)
    lanes = np.array([m % 16 + 32 * (m // 16) + upper for m in range(64)])
    np.testing.assert_array_equal(floats(out[0, lanes]), a @ b.T)
    assert (np.delete(out[0], lanes, axis=0) == SENTINEL).all()


def test_two_ctas_m256() -> None:
    rng = np.random.default_rng(3)
    a, b = small_integers(rng, (256, 32)), small_integers(rng, (64, 32))
    image, operands = pair_image(a, b)
    body = issue(operands + mma("f8f6f4", idesc(256, 64, 0, 0), group=2), group=2)
    out, report = run(frame(body, group=2), image, sentinels(64, 2))
    check_clean(report)
    np.testing.assert_array_equal(floats(out.reshape(256, 64)), a @ b.T)


def test_two_ctas_m128_splits_columns_between_lane_halves() -> None:
    """§5.5: row m in CTA m/64, lane (m % 64) + 64 (n >= N/2), column n mod N/2."""
    rng = np.random.default_rng(4)
    a, b = small_integers(rng, (128, 32)), small_integers(rng, (64, 32))
    image, operands = pair_image(a, b)
    body = issue(operands + mma("f8f6f4", idesc(128, 64, 0, 0), group=2), group=2)
    out, report = run(frame(body, group=2), image, sentinels(64, 2))
    check_clean(report)
    want = a @ b.T
    for cta in range(2):
        rows = want[64 * cta : 64 * cta + 64]
        np.testing.assert_array_equal(floats(out[cta, :64, :32]), rows[:, :32])
        np.testing.assert_array_equal(floats(out[cta, 64:, :32]), rows[:, 32:])
    assert (out[:, :, 32:] == SENTINEL).all()


def test_f16_accumulators_lie_in_the_low_half_of_a_word() -> None:
    rng = np.random.default_rng(5)
    a, b = small_integers(rng, (128, 16)), small_integers(rng, (64, 16))
    image = blank()
    da = descriptor("da", A_AT, *k_major(image[0], A_AT, a.astype(np.float16).view(np.uint8), 32))
    db = descriptor("db", B_AT, *k_major(image[0], B_AT, b.astype(np.float16).view(np.uint8), 32))
    out, report = run(frame(issue(da + db + mma("f16", idesc(128, 64, 0, 0, d=0)))), image, sentinels(64))
    check_clean(report)
    assert (out >> 16 == 0).all()
    np.testing.assert_array_equal(out[0].astype(np.uint16).view(np.float16), (a @ b.T).astype(np.float16))


@pytest.mark.parametrize(("m", "group"), [(128, 1), (64, 1), (256, 2), (128, 2)])
def test_a_in_tensor_memory(m: int, group: int) -> None:
    """Row-major in eight columns; M = 128 over two CTAs keeps 64 rows twice."""
    rng = np.random.default_rng(6)
    a, b = small_integers(rng, (m, 32)), small_integers(rng, (64, 32))
    image, cells = blank(group), sentinels(128, group)
    words = e4m3(a).view(np.uint32)
    for row in range(m):
        cta = row // (m // group)
        lane = row % 16 + 32 * (row // 16) if m == 64 else row % (m // group)
        for copy in (0, 64) if (m, group) == (128, 2) else (0,):
            cells[cta, lane + copy, 64:72] = words[row]
    operands = ""
    for cta in range(group):
        part = e4m3(b[cta * 64 // group : (cta + 1) * 64 // group])
        operands = descriptor("db", B_AT, *k_major(image[cta], B_AT, part, 16))
    operands += "  add.u32 x, taddr, 64;\n"
    body = issue(operands + mma("f8f6f4", idesc(m, 64, 0, 0), a="[x]", group=group), group=group)
    out, report = run(frame(body, columns=128, group=group), image, cells)
    check_clean(report)
    want = a @ b.T
    if (m, group) == (128, 2):
        got = np.concatenate([np.concatenate([floats(o[:64, :32]), floats(o[64:, :32])], axis=1) for o in out])
    elif m == 64:
        got = floats(out[0][[row % 16 + 32 * (row // 16) for row in range(64)], :64])
    else:
        got = np.concatenate([floats(o[:, :64]) for o in out])
    np.testing.assert_array_equal(got, want)


def test_disabled_lanes_keep_their_contents() -> None:
    rng = np.random.default_rng(7)
    a, b = small_integers(rng, (128, 32)), small_integers(rng, (64, 32))
    image = blank()
    masks = [0x80000001, 0, 0xFFFF0000, 0x00000010]
    operands = simple_operands(image[0], a, b)
    operands += "".join(f"  mov.u32 r{i}, {mask:#x};\n" for i, mask in enumerate(masks))
    body = issue(operands + mma("f8f6f4", idesc(128, 64, 0, 0), extra="{r0, r1, r2, r3}, "))
    out, report = run(frame(body), image, sentinels(64))
    check_clean(report)
    disabled = np.array([masks[lane // 32] >> lane % 32 & 1 for lane in range(128)], np.bool_)
    assert (out[0, disabled] == SENTINEL).all()
    np.testing.assert_array_equal(floats(out[0, ~disabled]), (a @ b.T)[~disabled])


def test_accumulation_negation_and_scale_input_d() -> None:
    rng = np.random.default_rng(8)
    a, b = small_integers(rng, (128, 16)), small_integers(rng, (64, 16))
    image, cells = blank(), np.full((1, 128, 64), np.float32(64).view(np.uint32), np.uint32)
    da = descriptor("da", A_AT, *k_major(image[0], A_AT, bf16(a).view(np.uint8), 32))
    db = descriptor("db", B_AT, *k_major(image[0], B_AT, bf16(b).view(np.uint8), 32))
    word = idesc(128, 64, 1, 1, negate_a=1)
    text = f"  mov.u32 idesc, {word:#x};\n  tcgen05.mma.cta_group::1.kind::f16 [taddr], da, db, idesc, yes, 3;\n"
    out, report = run(frame(issue(da + db + text)), image, cells)
    check_clean(report)
    np.testing.assert_array_equal(floats(out[0]), 8 - a @ b.T)


def scale_atoms(image: np.ndarray, at: int, scales: np.ndarray) -> None:
    """Write scales [rows, 4] as 512-byte atoms of 128 rows: 16 (r % 32) + 4 (r / 32) + s (§5.6)."""
    for row in range(len(scales)):
        for s in range(4):
            image[at + 512 * (row // 128) + 16 * (row % 32) + 4 * (row % 128 // 32) + s] = scales[row, s]


def copy_scales(at: int, column: int, atoms: int, group: int = 1) -> str:
    """``tcgen05.cp`` of 32x128b atoms: no swizzle, SBO 128."""
    text = ""
    for atom in range(atoms):
        text += descriptor("sd", at + 512 * atom, 0, 128, 0) + f"  add.u32 x, taddr, {column + 4 * atom};\n"
        text += f"  tcgen05.cp.cta_group::{group}.32x128b.warpx4 [x], sd;\n"
    return text


@pytest.mark.parametrize(("sfa_id", "sfb_id"), [(0, 0), (1, 3), (3, 2)])
@pytest.mark.parametrize("n", [64, 256])
def test_mxf8f6f4_scale_ids_select_bytes(sfa_id: int, sfb_id: int, n: int) -> None:
    rng = np.random.default_rng(n + sfa_id)
    a, b = small_integers(rng, (128, 32)), small_integers(rng, (n, 32))
    sa, sb = (rng.integers(120, 134, (rows, 4)).astype(np.uint8) for rows in (128, max(n, 128)))
    image = blank()
    scale_atoms(image[0], SFA_AT, sa)
    scale_atoms(image[0], SFB_AT, sb)
    operands = (
        simple_operands(image[0], a, b) + copy_scales(SFA_AT, 256, 1) + copy_scales(SFB_AT, 260, max(n, 128) // 128)
    )
    operands += scaled_mma("mxf8f6f4", ".block32", idesc_scaled(128, n, 0, 0, sfa_id=sfa_id, sfb_id=sfb_id), 256, 260)
    out, report = run(frame(issue(operands), columns=512), image, sentinels(512))
    check_clean(report)
    scale = 2.0 ** (sa[:, None, sfa_id].astype(float) - 127) * 2.0 ** (sb[None, :n, sfb_id].astype(float) - 127)
    np.testing.assert_array_equal(floats(out[0, :, :n]), (a @ b.T * scale).astype(np.float32))


def test_mxf8f6f4_across_two_ctas() -> None:
    """§5.6: SFA holds the CTA's own 128 rows, SFB all N in both CTAs; one cp fills both."""
    rng = np.random.default_rng(9)
    a, b = small_integers(rng, (256, 32)), small_integers(rng, (64, 32))
    sa, sb = rng.integers(120, 134, (256, 4)).astype(np.uint8), rng.integers(120, 134, (128, 4)).astype(np.uint8)
    image, operands = pair_image(a, b)
    for cta in range(2):
        scale_atoms(image[cta], SFA_AT, sa[128 * cta : 128 * cta + 128])
        scale_atoms(image[cta], SFB_AT, sb)
    operands += copy_scales(SFA_AT, 64, 1, 2) + copy_scales(SFB_AT, 68, 1, 2)
    operands += scaled_mma("mxf8f6f4", ".block32", idesc_scaled(256, 64, 0, 0, sfa_id=1, sfb_id=2), 64, 68, 2)
    out, report = run(frame(issue(operands, group=2), columns=128, group=2), image, sentinels(128, 2))
    check_clean(report)
    scale = 2.0 ** (sa[:, None, 1].astype(float) - 127) * 2.0 ** (sb[None, :64, 2].astype(float) - 127)
    np.testing.assert_array_equal(floats(out[:, :, :64].reshape(256, 64)), (a @ b.T * scale).astype(np.float32))


def test_mxf8f6f4_m128_across_two_ctas_keeps_each_half_of_sfb_beside_its_columns() -> None:
    rng = np.random.default_rng(10)
    a, b = small_integers(rng, (128, 32)), small_integers(rng, (64, 32))
    sa, sb = rng.integers(120, 134, 128).astype(np.uint32), rng.integers(120, 134, 64).astype(np.uint32)
    image, operands = pair_image(a, b)
    cells = sentinels(128, 2)
    for cta in range(2):
        for lane in range(128):
            for column in range(2):
                cells[cta, lane, 64 + column] = sa[64 * cta + 32 * column + lane % 32]
            cells[cta, lane, 68] = sb[32 * (lane // 64) + lane % 32]
    operands += scaled_mma("mxf8f6f4", ".block32", idesc_scaled(128, 64, 0, 0), 64, 68, 2)
    out, report = run(frame(issue(operands, group=2), columns=128, group=2), image, cells)
    check_clean(report)
    got = np.concatenate([np.concatenate([floats(o[:64, :32]), floats(o[64:, :32])], axis=1) for o in out])
    scale = 2.0 ** (sa[:, None].astype(float) - 127) * 2.0 ** (sb[None].astype(float) - 127)
    np.testing.assert_array_equal(got, (a @ b.T * scale).astype(np.float32))


@pytest.mark.parametrize(("kind", "block", "ue8m0", "count", "first"), [
    ("mxf4", "", 1, 2, 2), ("mxf4", ".block32", 1, 2, 0), ("mxf4nvf4", ".block32", 1, 2, 2),
    ("mxf4nvf4", ".block16", 1, 4, 0), ("mxf4nvf4", ".scale_vec::4X", 0, 4, 0),
])  # fmt: skip
def test_fp4_kinds_read_packed_pairs_and_two_or_four_scales(
    kind: str, block: str, ue8m0: int, count: int, first: int
) -> None:
    rng = np.random.default_rng(count + first)
    a, b = small_integers(rng, (128, 64)), small_integers(rng, (64, 64))
    low, high = (125, 130) if ue8m0 else (0x30, 0x48)
    sa, sb = (rng.integers(low, high, (128, 4)).astype(np.uint8) for _ in "ab")
    image = blank()
    scale_atoms(image[0], SFA_AT, sa)
    scale_atoms(image[0], SFB_AT, sb)
    packed = [e2m1(x)[:, 0::2] | e2m1(x)[:, 1::2] << 4 for x in (a, b)]
    operands = descriptor("da", A_AT, *k_major(image[0], A_AT, packed[0], 32))
    operands += descriptor("db", B_AT, *k_major(image[0], B_AT, packed[1], 32))
    operands += copy_scales(SFA_AT, 64, 1) + copy_scales(SFB_AT, 68, 1)
    operands += scaled_mma(kind, block, idesc_scaled(128, 64, 1, 1, ue8m0=ue8m0, sfa_id=first, sfb_id=first), 64, 68)
    out, report = run(frame(issue(operands), columns=128), image, sentinels(128))
    check_clean(report)

    def value(codes: np.ndarray) -> np.ndarray:
        if ue8m0:
            return 2.0 ** (codes.astype(float) - 127)
        return (1 + (codes & 7) / 8) * 2.0 ** ((codes >> 3).astype(float) - 7)  # normal ue4m3

    width = 64 // count
    want = sum(
        (a[:, width * s : width * s + width] @ b[:, width * s : width * s + width].T)
        * value(sa[:, first + s])[:, None]
        * value(sb[:64, first + s])[None]
        for s in range(count)
    )
    np.testing.assert_array_equal(floats(out[0, :, :64]), np.asarray(want, np.float32))


def test_e2m1_beside_e4m3_is_padded_to_a_byte_per_element() -> None:
    """§5.4: 16 elements take 8 bytes of data and 8 of padding."""
    rng = np.random.default_rng(11)
    a, b = small_integers(rng, (128, 32)), small_integers(rng, (64, 32))
    padded = np.full((64, 2, 16), 0xEE, np.uint8)
    codes = e2m1(b).reshape(64, 2, 16)
    padded[:, :, :8] = codes[:, :, 0::2] | codes[:, :, 1::2] << 4
    image = blank()
    operands = descriptor("da", A_AT, *k_major(image[0], A_AT, e4m3(a), 128))
    operands += descriptor("db", B_AT, *k_major(image[0], B_AT, padded.reshape(64, 32), 128))
    out, report = run(frame(issue(operands + mma("f8f6f4", idesc(128, 64, 0, 5)))), image, sentinels(64))
    check_clean(report)
    np.testing.assert_array_equal(floats(out[0]), a @ b.T)
