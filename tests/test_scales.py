"""Scales as arrays: powers of two and their exponents, words of four, layouts."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gemmgen
from gemmgen.errors import ArgumentError
from gemmgen.runtime.tensors import read_tensor
from gemmgen.scales import expand_blocks, next_powers, powers_of_two

FRAMEWORKS = pytest.mark.parametrize("to_array", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
SHAPES = st.tuples(st.integers(0, 9), st.integers(0, 21))


def codes_of(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@FRAMEWORKS
@given(shape=SHAPES, seed=st.integers(0, 99), major=st.sampled_from(["mn", "k"]))
@settings(max_examples=60, deadline=None)
def test_packing_loses_nothing(to_array: Any, shape: tuple[int, int], seed: int, major: str) -> None:
    codes = codes_of(shape, seed)
    words = gemmgen.pack_exponents(to_array(codes), major)
    assert tuple(words.shape) == (shape[0], -(-shape[1] // 4))
    assert np.array_equal(np.asarray(gemmgen.unpack_exponents(words, shape[1])), codes)
    assert not np.asarray(gemmgen.unpack_exponents(words))[:, shape[1] :].any()


@FRAMEWORKS
def test_the_first_block_is_in_the_low_byte(to_array: Any) -> None:
    words = gemmgen.pack_exponents(to_array(np.array([[1, 2, 3, 0x84, 5]], np.uint8)))
    assert [int(word) & 0xFFFFFFFF for word in words[0]] == [0x84030201, 5]
    assert str(words.dtype) in ("uint32", "torch.int32")


@FRAMEWORKS
def test_words_lie_along_rows_or_along_k(to_array: Any) -> None:
    codes = to_array(codes_of((10, 9)))
    by_rows, by_k = gemmgen.pack_exponents(codes), gemmgen.pack_exponents(codes, "k")
    assert [tuple(element_strides(x)) for x in (by_rows, by_k)] == [(1, 12), (3, 1)]
    assert (by_rows == by_k).all()


def element_strides(x: Any) -> Any:
    return x.stride() if isinstance(x, torch.Tensor) else [stride // x.itemsize for stride in x.strides]


def test_exponents_of_every_type_pack_alike() -> None:
    codes = codes_of((3, 6))
    words = gemmgen.pack_exponents(codes)
    assert np.array_equal(gemmgen.pack_exponents(codes.view(ml_dtypes.float8_e8m0fnu)), words)
    packed = gemmgen.pack_exponents(torch.from_numpy(codes).view(torch.float8_e8m0fnu))
    assert np.array_equal(packed.numpy().view(np.uint32), words)
    assert np.array_equal(gemmgen.unpack_exponents(words.view(np.int32), 6), codes)
    assert torch.equal(gemmgen.unpack_exponents(packed.view(torch.uint32), 6), torch.from_numpy(codes))


@FRAMEWORKS
def test_codes_are_the_type_that_torch_and_numpy_have(to_array: Any) -> None:
    values = powers_of_two(to_array(np.arange(256, dtype=np.uint8)))
    theirs = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    assert np.array_equal(np.asarray(values), theirs, equal_nan=True)
    assert np.array_equal(np.asarray(next_powers(values)), np.arange(256))


@FRAMEWORKS
@given(value=st.floats(2.0**-127, 2.0**127, width=32))
@settings(max_examples=200, deadline=None)
def test_the_next_power_is_the_smallest_that_is_not_below(to_array: Any, value: float) -> None:
    code = int(next_powers(to_array(np.array([[value]], np.float32)))[0, 0])
    assert 2.0 ** (code - 127) >= value
    assert code == 0 or 2.0 ** (code - 128) < value


@FRAMEWORKS
def test_values_without_a_code(to_array: Any) -> None:
    values = np.array([[np.inf, np.nan, -np.nan, 3.4e38, 1e-45, 2.0**-127 * 0.75]], np.float32)
    assert np.asarray(next_powers(abs(to_array(values)))).tolist() == [[255, 255, 255, 255, 0, 0]]


@FRAMEWORKS
def test_factors_of_cut_blocks(to_array: Any) -> None:
    factors = to_array(np.array([[1, 2], [3, 4]], np.float32))
    assert np.asarray(expand_blocks(factors, (2, 3), (3, 4))).tolist() == [[1, 1, 1, 2], [1, 1, 1, 2], [3, 3, 3, 4]]


@pytest.mark.parametrize(
    ("call", "where", "says"),
    [
        (lambda: gemmgen.pack_exponents(np.zeros((2, 2), np.float32)), "codes", "gemmgen.pack_scales"),
        (lambda: gemmgen.pack_exponents(torch.zeros(2, 2)), "codes", "uint8 or float8_e8m0fnu"),
        (lambda: gemmgen.pack_exponents(np.zeros(2, np.uint8)), "codes", "2 dimensions"),
        (lambda: gemmgen.pack_exponents([[1]]), "codes", "a torch tensor or NumPy array"),
        (lambda: gemmgen.pack_exponents(np.zeros((2, 2), np.uint8), "rows"), "scale_major", "mn or k"),
        (lambda: gemmgen.unpack_exponents(np.zeros((2, 2), np.uint8)), "words", "gemmgen.pack_exponents"),
        (lambda: gemmgen.unpack_exponents(np.zeros((2, 2), np.uint32), 4), "blocks", "1 words per row"),
        (lambda: gemmgen.unpack_exponents(np.zeros((2, 2), np.uint32), 9), "blocks", "3 words per row"),
    ],
)
def test_refusals(call: Any, where: str, says: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        call()
    assert caught.value.where == where
    assert caught.value.got
    assert says in str(caught.value)


@FRAMEWORKS
def test_words_count_as_packed_scales(to_array: Any) -> None:
    words = read_tensor(gemmgen.pack_exponents(to_array(codes_of((3, 5)))), "sa")
    assert words.holds("ue8m0x4")
    assert not words.holds("f32")
    assert not read_tensor(to_array(codes_of((3, 4))), "sa").holds("ue8m0x4")
