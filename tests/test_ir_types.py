from __future__ import annotations

import pytest

from gemmgen.errors import IRError
from gemmgen.ir import ceildiv, dim_symbol, parse_type
from gemmgen.ir.types import (
    BF16,
    E4M3,
    F32,
    INDEX,
    MAP,
    SCALAR_BITS,
    TILE,
    BarrierType,
    MemType,
    RingType,
    ScalarType,
    frag,
    gmem,
    smem,
    tmem,
)

M, K = dim_symbol("M"), dim_symbol("K")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (gmem(E4M3, M, K), "gmem<e4m3, [M, K]>"),
        (gmem(F32, M, ceildiv(K, 128)), "gmem<f32, [M, ceildiv(K, 128)]>"),
        (smem(E4M3, 128, 128), "smem<e4m3, [128, 128]>"),
        (frag(BF16, 64, 4 * M), "frag<bf16, [64, 4*M]>"),
        (tmem(F32), "tmem<f32, []>"),
        (RingType(5), "ring<5>"),
        (BarrierType(), "barrier<1>"),
        (INDEX, "index"),
        (TILE, "tile"),
        (MAP, "map"),
        *((ScalarType(name), name) for name in SCALAR_BITS),
    ],
)
def test_round_trip(kind, text):
    assert str(kind) == text
    assert parse_type(text) == kind


def test_shapes_compare_by_value():
    assert gmem(F32, ceildiv(256, 128)) == gmem(F32, 2)
    assert type(gmem(F32, 2 * M / M).shape[0]) is int


def test_bits():
    assert [ScalarType(name).bits for name in ("f32", "bf16", "e4m3", "e2m1")] == [32, 16, 8, 4]


def test_constructors_refuse_unknown_names():
    with pytest.raises(IRError, match="unknown scalar type"):
        ScalarType("f31")
    with pytest.raises(IRError, match="unknown memory space"):
        MemType("lmem", F32, (1,))
    with pytest.raises(IRError, match="scalar element type"):
        MemType("smem", TILE, (1,))


@pytest.mark.parametrize(
    ("text", "what", "where", "detail"),
    [
        ("gmme<f32, [M]>", "unknown type", "<type>:1:1", "did you mean 'gmem'?"),
        ("f23", "unknown type", "<type>:1:1", "did you mean 'f32'?"),
        ("gmem<f32>", "wrong parameters of gmem", "<type>:1:1", "gmem<dtype, [dim, …]>"),
        ("gmem<tile, [M]>", "not an element type", "<type>:1:6", "bf16"),
        ('gmem<f32, ["x"]>', "not a dimension", "<type>:1:12", "ceildiv"),
        ("ring<M>", "wrong parameters of ring", "<type>:1:1", "ring<5>"),
        ("ring", "ring needs parameters", "<type>:1:1", "ring<5>"),
        ("smem", "smem needs parameters", "<type>:1:1", "smem<f32, [128, 128]>"),
        ("gmem<f32, [M]", "syntax error", "<type>:1:14", "'>'"),
        ("5", "syntax error", "<type>:1:1", "a name"),
    ],
)
def test_errors(text, what, where, detail):
    with pytest.raises(IRError) as error:
        parse_type(text)
    assert error.value.what == what
    assert error.value.where == where
    assert detail in f"{error.value.need} {error.value.fix}"
