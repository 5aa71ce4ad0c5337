"""Descriptors and the addresses they stand for, against docs/hardware.md's worked examples and direct layouts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemmgen.emulator.numerics import kinds
from gemmgen.emulator.numerics.descriptors import (
    InstructionDescriptor,
    SmemDescriptor,
    decode_instruction,
    decode_tcgen05,
    decode_wgmma,
    element_bytes,
    encode_instruction,
    encode_tcgen05,
    encode_wgmma,
    operand_addresses,
)
from gemmgen.emulator.numerics.swizzle import Swizzle
from gemmgen.errors import EmulationError

# docs/hardware.md §1.2: (swizzle, LBO, SBO, wgmma word, tcgen05 word)
WORKED = [
    (Swizzle.B128, 16, 1024, 0x4000004000010000, 0x4000404000010000),
    (Swizzle.B64, 16, 512, 0x8000002000010000, 0x8000402000010000),
    (Swizzle.B32, 16, 256, 0xC000001000010000, 0xC000401000010000),
    (Swizzle.NONE, 2048, 128, 0x0000000800800000, 0x0000400800800000),
    (Swizzle.B128, 1024, 2048, 0x4000008000400000, 0x4000408000400000),
]
# docs/hardware.md §5.3
INSTRUCTIONS = [
    (InstructionDescriptor("f8f6f4", 128, 256, "e4m3", "e4m3"), 0x08400010),
    (InstructionDescriptor("f16", 256, 256, "bf16", "bf16"), 0x10400490),
    (InstructionDescriptor("f16", 128, 128, "bf16", "bf16", b_major="MN"), 0x08210490),
    (InstructionDescriptor("tf32", 128, 128, "tf32", "tf32"), 0x08200910),
    (InstructionDescriptor("mxf8f6f4", 128, 128, "e4m3", "e4m3", scale_type="ue8m0"), 0x08A00000),
    (InstructionDescriptor("mxf8f6f4", 128, 128, "e4m3", "e4m3", scale_type="ue8m0", sfa_id=3, sfb_id=3), 0x68A00030),
    (InstructionDescriptor("mxf8f6f4", 256, 256, "e4m3", "e2m1", scale_type="ue8m0"), 0x10C01400),
    (InstructionDescriptor("mxf4nvf4", 128, 256, "e2m1", "e2m1", scale_type="ue4m3"), 0x08400480),
]

offsets = st.integers(0, (1 << 14) - 1).map(lambda units: units * 16)


@pytest.mark.parametrize(("swizzle", "lbo", "sbo", "wgmma", "tcgen05"), WORKED)
def test_worked_descriptors(swizzle: Swizzle, lbo: int, sbo: int, wgmma: int, tcgen05: int) -> None:
    descriptor = SmemDescriptor(0, lbo, sbo, swizzle)
    assert encode_wgmma(descriptor) == wgmma
    assert encode_tcgen05(descriptor) == tcgen05
    assert decode_wgmma(wgmma) == descriptor
    assert decode_tcgen05(tcgen05) == descriptor


@given(offsets, offsets, offsets, st.sampled_from(list(Swizzle)), st.integers(0, 7))
def test_descriptors_round_trip(start: int, lbo: int, sbo: int, swizzle: Swizzle, base_offset: int) -> None:
    descriptor = SmemDescriptor(start, lbo, sbo, swizzle, base_offset)
    if swizzle is not Swizzle.B128_ATOM64:
        assert decode_tcgen05(encode_tcgen05(descriptor)) == descriptor
    if swizzle not in (Swizzle.B128_ATOM32, Swizzle.B128_ATOM64):
        assert decode_wgmma(encode_wgmma(descriptor)) == descriptor


def test_the_start_address_loses_its_upper_bits_and_advances_by_two_per_mma() -> None:
    word = encode_tcgen05(SmemDescriptor(0x400, 16, 1024, Swizzle.B128))
    assert decode_tcgen05(word + 2).start == 0x420


@pytest.mark.parametrize(("word", "message"), [
    (0x4000004000010000, "0b001"),
    (0x4000404000010000 | 1 << 53, "reserved"),
    (0x4000404000010000 | 1 << 14, "reserved"),
    (0x4000404000010000 | 1 << 52, "absolute"),
    (0x6000404000010000, "swizzle code 3"),
])  # fmt: skip
def test_illegal_tcgen05_descriptors(word: int, message: str) -> None:
    with pytest.raises(EmulationError, match=message):
        decode_tcgen05(word)


@pytest.mark.parametrize("bit", [14, 15, 30, 31, 46, 47, 48, 52, 61])
def test_reserved_bits_of_a_wgmma_descriptor(bit: int) -> None:
    with pytest.raises(EmulationError, match="reserved bits"):
        decode_wgmma(0x4000004000010000 | 1 << bit)


def test_fields_that_do_not_fit() -> None:
    with pytest.raises(EmulationError, match="sbo does not fit"):
        encode_wgmma(SmemDescriptor(0, 16, 1 << 18, Swizzle.B128))
    with pytest.raises(EmulationError, match="start does not fit"):
        encode_wgmma(SmemDescriptor(8, 16, 1024, Swizzle.B128))
    with pytest.raises(EmulationError, match="no such swizzle"):
        encode_wgmma(SmemDescriptor(0, 16, 1024, Swizzle.B128_ATOM32))


@pytest.mark.parametrize(("swizzle", "address", "physical"), [
    (Swizzle.B128, 5 * 128 + 40, 760),
    (Swizzle.B64, 3 * 128 + 16, 3 * 128 + (1 ^ 3) * 16),
    (Swizzle.B64, 4 * 128 + 16, 4 * 128 + 16),
    (Swizzle.B32, 128 + 0, 128 + 16),
    (Swizzle.B128_ATOM32, 3 * 128 + 32, 3 * 128 + (1 ^ 3) * 32),
    (Swizzle.B128_ATOM64, 128 + 7, 128 + 64 + 7),
    (Swizzle.NONE, 999, 999),
])  # fmt: skip
def test_swizzles_of_the_table(swizzle: Swizzle, address: int, physical: int) -> None:
    assert swizzle.apply(address) == physical


@pytest.mark.parametrize("swizzle", list(Swizzle))
@pytest.mark.parametrize("base_offset", [0, 3])
def test_swizzles_permute_each_period_and_are_their_own_inverse(swizzle: Swizzle, base_offset: int) -> None:
    addresses = np.arange(4096)
    physical = swizzle.apply(addresses, base_offset)
    np.testing.assert_array_equal(swizzle.apply(physical, base_offset), addresses)
    np.testing.assert_array_equal(np.sort(physical), addresses)
    np.testing.assert_array_equal(physical // 128, addresses // 128)
    np.testing.assert_array_equal(physical % swizzle.atom_bytes, addresses % swizzle.atom_bytes)
    period = swizzle.repeat_bytes
    np.testing.assert_array_equal(physical[period:], physical[:-period] + period)
    assert (
        period
        == {"NONE": 128, "B32": 256, "B64": 512, "B128": 1024, "B128_ATOM32": 512, "B128_ATOM64": 256}[swizzle.name]
    )


def naive_address(descriptor: SmemDescriptor, major: str, size: int, mn: int, k: int, byte: int) -> int:
    """The canonical layouts of PTX 9.7.16.3.3 / docs/hardware.md §1.2, one element at a time."""
    span, lbo, sbo = descriptor.swizzle.value[0], descriptor.lbo, descriptor.sbo
    if major == "K" and descriptor.swizzle is Swizzle.NONE:
        chunk, within = divmod(k * size + byte, 16)
        logical = mn // 8 * sbo + mn % 8 * 16 + chunk * lbo + within
    elif major == "K":
        logical = mn // 8 * sbo + mn % 8 * span + k * size + byte
    elif descriptor.swizzle is Swizzle.NONE:
        chunk, within = divmod(mn * size + byte, 16)
        logical = chunk * sbo + within + k // 8 * lbo + k % 8 * 16
    else:
        rows = 4 if descriptor.swizzle is Swizzle.B128_ATOM32 else 8
        block, within = divmod(mn * size + byte, span)
        logical = block * lbo + within + k // rows * sbo + k % rows * span
    address = descriptor.start + logical
    row = (address // 128 - descriptor.base_offset) % 8
    atoms = {"NONE": 1, "B32": 2, "B64": 4, "B128": 8, "B128_ATOM32": 4}[descriptor.swizzle.name]
    return address ^ row % atoms * descriptor.swizzle.value[1]


@pytest.mark.parametrize(("swizzle", "major", "size"), [
    *[(s, "K", size) for s in (Swizzle.NONE, Swizzle.B32, Swizzle.B64, Swizzle.B128) for size in (1, 2, 4)],
    *[(s, "MN", size) for s in (Swizzle.NONE, Swizzle.B32, Swizzle.B64, Swizzle.B128) for size in (1, 2)],
    (Swizzle.B128_ATOM32, "MN", 4),
])  # fmt: skip
@pytest.mark.parametrize(("start", "base_offset"), [(0x1000, 0), (0x2400, 0), (0x1200, 4)])
def test_operand_addresses_follow_the_canonical_layouts(
    swizzle: Swizzle, major: str, size: int, start: int, base_offset: int
) -> None:
    mn, k = 64, 32 // size
    descriptor = SmemDescriptor(start, 2048, 4096, swizzle, base_offset)
    got = operand_addresses(descriptor, major, size, mn, k)
    want = [
        [naive_address(descriptor, major, size, row, column, byte) for column in range(k) for byte in range(size)]
        for row in range(mn)
    ]
    np.testing.assert_array_equal(got, want)


def test_a_k_major_tile_written_row_by_row_is_read_back() -> None:
    """128 rows of 128 bytes as TMA writes them with SWIZZLE_128B: chunk j of row r at chunk j ^ (r & 7)."""
    tile = np.random.default_rng(0).integers(0, 256, (128, 128)).astype(np.uint8)
    smem = np.zeros(32768, np.uint8)
    for row in range(128):
        for chunk in range(8):
            at = 0x2000 + 128 * row + 16 * (chunk ^ (row & 7))
            smem[at : at + 16] = tile[row, 16 * chunk : 16 * chunk + 16]
    for step in range(4):
        descriptor = SmemDescriptor(0x2000 + 32 * step, 16, 1024, Swizzle.B128)
        addresses = operand_addresses(descriptor, "K", 1, 128, 32)
        np.testing.assert_array_equal(smem[addresses], tile[:, 32 * step : 32 * step + 32])


def test_an_mn_major_bf16_tile_is_read_back() -> None:
    """TMA boxes of 64 MN x 64 k, so SBO = 1024 (8 k) and LBO = 64 * 128; K advances by 2 * SBO."""
    tile = np.random.default_rng(1).integers(0, 65536, (64, 128)).astype(np.uint16)  # [k, mn]
    smem = np.zeros(16384, np.uint8)
    for half in range(2):
        for k in range(64):
            for chunk in range(8):
                at = 8192 * half + 128 * k + 16 * (chunk ^ (k & 7))
                smem[at : at + 16] = tile[k, 64 * half + 8 * chunk : 64 * half + 8 * chunk + 8].view(np.uint8)
    for step in range(4):
        descriptor = SmemDescriptor(2 * 1024 * step, 8192, 1024, Swizzle.B128)
        addresses = operand_addresses(descriptor, "MN", 2, 128, 16)
        np.testing.assert_array_equal(smem[addresses].view(np.uint16), tile[16 * step : 16 * step + 16].T)


@pytest.mark.parametrize(("descriptor", "major", "size", "message"), [
    (SmemDescriptor(112, 16, 1024, Swizzle.B128), "K", 1, "runs past its swizzle span"),
    (SmemDescriptor(0, 16, 1024, Swizzle.B128_ATOM32), "K", 4, "MN-major tf32 only"),
    (SmemDescriptor(0, 16, 1024, Swizzle.B128), "MN", 4, "does not exist for the MN-major"),
    (SmemDescriptor(0, 16, 1024, Swizzle.B128_ATOM32), "MN", 2, "does not exist for the MN-major"),
])  # fmt: skip
def test_illegal_operand_layouts(descriptor: SmemDescriptor, major: str, size: int, message: str) -> None:
    with pytest.raises(EmulationError, match=message):
        operand_addresses(descriptor, major, size, 64, 32 // size)


@pytest.mark.parametrize(("descriptor", "word"), INSTRUCTIONS)
def test_worked_instruction_descriptors(descriptor: InstructionDescriptor, word: int) -> None:
    assert encode_instruction(descriptor) == word
    assert decode_instruction(word, descriptor.kind) == descriptor


@given(st.data())
def test_instruction_descriptors_round_trip(data: st.DataObject) -> None:
    kind = kinds.KINDS[data.draw(st.sampled_from(list(kinds.KINDS)))]
    types = st.sampled_from(kind.types)
    majors = st.sampled_from(["K"] if kind.name in ("mxf4", "mxf4nvf4") else ["K", "MN"])
    ids = st.sampled_from([0, 1, 2, 3] if kind.name == "mxf8f6f4" else [0, 2]) if kind.block_scaled else st.just(0)
    a_type, b_type = data.draw(types), data.draw(types)
    descriptor = InstructionDescriptor(
        kind=kind.name,
        m=data.draw(st.sampled_from([128, 256] if kind.block_scaled else [64, 128, 256])),
        n=data.draw(st.integers(1, 32)) * 8,
        a_type=a_type,
        b_type=b_type,
        d_type="f16" if kind.name == "f16" and a_type == b_type == "f16" else kind.d_types[0],
        a_major=data.draw(majors),
        b_major=data.draw(majors),
        negate_a=data.draw(st.booleans()),
        negate_b=data.draw(st.booleans()),
        saturate=kind.name == "i8" and data.draw(st.booleans()),
        scale_type=data.draw(st.sampled_from([name for name, _ in kind.scales])) if kind.block_scaled else None,
        sfa_id=data.draw(ids),
        sfb_id=data.draw(ids),
    )
    assert decode_instruction(encode_instruction(descriptor), kind.name) == descriptor


@pytest.mark.parametrize(("word", "kind", "message"), [
    (0x08400014, "f8f6f4", "sparsity"),
    (0x08400110, "f8f6f4", "type codes A 2"),
    (0x48400010, "f8f6f4", ".ws shift"),
    (0x08400020, "f8f6f4", "no such types"),
    (0x88400480, "mxf4nvf4", "K=96"),
    (0x08A00490, "mxf4", "scale factor id"),
    (0x08200000, "mxf8f6f4", "scale type"),
])  # fmt: skip
def test_illegal_instruction_descriptors(word: int, kind: str, message: str) -> None:
    with pytest.raises(EmulationError, match=message):
        decode_instruction(word, kind)


@pytest.mark.parametrize(("kind", "group", "m", "n"), [
    ("f16", 1, 64, 8), ("f16", 1, 128, 256), ("f8f6f4", 2, 256, 16), ("i8", 1, 128, 48), ("i8", 2, 128, 32),
    ("mxf8f6f4", 1, 128, 8), ("mxf4", 2, 256, 256),
])  # fmt: skip
def test_legal_tcgen05_shapes(kind: str, group: int, m: int, n: int) -> None:
    kinds.check_tcgen05_shape(kind, group, m, n)


@pytest.mark.parametrize(("kind", "group", "m", "n"), [
    ("f16", 1, 256, 64), ("f16", 2, 64, 64), ("f16", 2, 128, 24), ("mxf4", 1, 64, 64), ("i8", 1, 128, 40),
    ("f16", 1, 128, 264), ("f16", 3, 128, 64), ("f16", 1, 128, 0),
])  # fmt: skip
def test_illegal_tcgen05_shapes(kind: str, group: int, m: int, n: int) -> None:
    with pytest.raises(EmulationError):
        kinds.check_tcgen05_shape(kind, group, m, n)


def test_wgmma_shapes() -> None:
    for n in range(8, 257, 8):
        kinds.check_wgmma_shape(n, "e4m3")
    for n, element in ((0, "bf16"), (12, "bf16"), (264, "e4m3"), (40, "s8")):
        with pytest.raises(EmulationError, match="no such N"):
            kinds.check_wgmma_shape(n, element)


def test_element_bytes_are_those_of_shared_memory() -> None:
    assert [element_bytes(name) for name in ("e2m1", "e3m2", "e4m3", "bf16", "tf32")] == [1, 1, 1, 2, 4]
