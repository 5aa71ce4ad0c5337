"""Tensor maps: the hardware's rules without a driver, and what is handed to the encoder."""

from __future__ import annotations

import ctypes
import struct
from dataclasses import replace
from typing import Any

import pytest
from cuda.bindings import driver as real
from runtime_fakes import PARAMS, FakeCuda, fake_cuda  # noqa: F401

from gemmgen.errors import ArgumentError, DriverError
from gemmgen.runtime.launch_plan import TensorMapParam
from gemmgen.runtime.tensormap import MapWriter, check_tma_address, check_tma_layout
from gemmgen.runtime.tensors import TensorArg

MATRIX = TensorArg("b", 0x1000, (100, 192), (256, 1), "e4m3", 0)
PARAM = TensorMapParam("tma_b", "b", "e4m3", (64, 128), "64B", "128B")


@pytest.mark.parametrize(
    ("changes", "dtype", "says"),
    [
        ({"strides": (264, 1)}, "e4m3", "multiple of 16 elements"),
        ({"strides": (264, 2)}, "e4m3", "stride 1 along the last"),
        ({"strides": (260, 1)}, "bf16", "multiple of 8 elements"),
        ({"strides": (176, 1)}, "e4m3", "at least 192 elements"),
        ({"strides": (0, 1)}, "e4m3", "at least 192 elements"),
        ({"strides": (1 << 40, 1)}, "e4m3", "less than 2^40 bytes"),
        ({"strides": (1 << 39, 1)}, "bf16", "less than 2^40 bytes"),
        ({"shape": ((1 << 32) + 1, 192)}, "e4m3", "at most 2^32"),
    ],
)
def test_layout_rules(changes: dict[str, Any], dtype: str, says: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        check_tma_layout(MATRIX._replace(**changes), dtype)
    assert caught.value.where == "b"
    assert says in str(caught.value.need)


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({}, "e4m3"),
        ({"strides": (264, 1)}, "bf16"),
        ({"shape": (1, 192), "strides": (3, 1)}, "e4m3"),
        ({"shape": (100, 1), "strides": (16, 7)}, "e4m3"),
        ({"strides": ((1 << 40) - 16, 1)}, "e4m3"),
    ],
)
def test_legal_layouts(changes: dict[str, Any], dtype: str) -> None:
    check_tma_layout(MATRIX._replace(**changes), dtype)


def test_address_rule() -> None:
    check_tma_address(MATRIX, "e4m3")
    with pytest.raises(ArgumentError, match="8 bytes past a multiple of 16") as caught:
        check_tma_address(MATRIX._replace(address=0x1008), "bf16")
    assert caught.value.need == "slices that start at a multiple of 8 elements"


def test_packed_scales_are_words_to_the_driver(cuda: FakeCuda) -> None:
    block = (ctypes.c_char * 256)()
    destination = ctypes.addressof(block) + -ctypes.addressof(block) % 128
    words = TensorArg("sa", 0x2000, (100, 5), (1, 104), "i32", 0)
    MapWriter(TensorMapParam("tma_sa", "sa", "ue8m0x4", (128, 1), "none", transposed=True)).write(destination, words)
    found = struct.unpack("<5Q", ctypes.string_at(destination, 40))
    assert found == (0x2000, 100, 5, 416, int(real.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_UINT32))


def test_the_encoder_gets_the_operand_and_the_parameter(cuda: FakeCuda) -> None:
    seen: list[Any] = []
    original = cuda._encode_tiled

    def record(destination: int, *arguments: Any) -> int:
        dtype, rank, address, extents, strides, box, steps, *modes = arguments
        seen.append((dtype, rank, address, extents[:2], strides[0], box[:2], steps[:2], modes))
        return original(destination, *arguments)

    cuda._encode = type(cuda._encode)(record)
    block = (ctypes.c_char * 256)()
    destination = ctypes.addressof(block) + -ctypes.addressof(block) % 128
    MapWriter(PARAM).write(destination, MATRIX)
    one_row = MATRIX._replace(shape=(1, 100), strides=(7, 1))
    MapWriter(replace(PARAMS[2], swizzle="none", l2_promotion="none")).write(destination, one_row)
    types, swizzles = real.CUtensorMapDataType, real.CUtensorMapSwizzle
    assert seen == [
        (int(types.CU_TENSOR_MAP_DATA_TYPE_UINT8), 2, 0x1000, [192, 100], 256, [64, 128], [1, 1],
         [0, int(swizzles.CU_TENSOR_MAP_SWIZZLE_64B), 2, 0]),
        (int(types.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16), 2, 0x1000, [100, 1], 208, [64, 128], [1, 1], [0, 0, 0, 0]),
    ]  # fmt: skip
    assert struct.unpack("<5Q", ctypes.string_at(destination, 40))[:4] == (0x1000, 100, 1, 208)


def test_refusals_of_the_encoder_are_driver_errors(cuda: FakeCuda) -> None:
    with pytest.raises(DriverError, match="CUDA_ERROR_INVALID_VALUE"):
        MapWriter(PARAM).write(8, MATRIX)
