"""Element types as gemmgen names them, and their names in torch, NumPy, DLPack and the tensor-map encoder."""

from __future__ import annotations

from typing import Any

PACKED_SCALES = "ue8m0x4"
"""Four UE8M0 exponents, of neighbouring blocks along K, in a 32-bit word, the first in the low byte."""

ITEM_BYTES = {
    "e4m3": 1, "e5m2": 1, "ue8m0": 1, "u8": 1, "bf16": 2, "f16": 2, "u16": 2, PACKED_SCALES: 4, "f32": 4, "i32": 4,
    "u32": 4, "i64": 8, "f64": 8,
}  # fmt: skip

TORCH_NAMES = {
    "torch.float8_e4m3fn": "e4m3",
    "torch.float8_e5m2": "e5m2",
    "torch.float8_e8m0fnu": "ue8m0",
    "torch.bfloat16": "bf16",
    "torch.float16": "f16",
    "torch.float32": "f32",
    "torch.float64": "f64",
    "torch.uint8": "u8",
    "torch.uint16": "u16",
    "torch.int32": "i32",
    "torch.uint32": "u32",
    "torch.int64": "i64",
}
TORCH_ATTRIBUTES = {ours: torch_name.removeprefix("torch.") for torch_name, ours in TORCH_NAMES.items()}
TORCH_ATTRIBUTES[PACKED_SCALES] = "int32"

NUMPY_NAMES = {
    "float8_e4m3fn": "e4m3",
    "float8_e5m2": "e5m2",
    "float8_e8m0fnu": "ue8m0",
    "bfloat16": "bf16",
    "float16": "f16",
    "float32": "f32",
    "float64": "f64",
    "uint8": "u8",
    "uint16": "u16",
    "int32": "i32",
    "uint32": "u32",
    "int64": "i64",
}
NUMPY_ATTRIBUTES = {ours: numpy_name for numpy_name, ours in NUMPY_NAMES.items()}
NUMPY_ATTRIBUTES[PACKED_SCALES] = "uint32"

# DLPack (type code, bits): dlpack.h, DLDataTypeCode.
DLPACK_NAMES = {
    (10, 8): "e4m3",
    (12, 8): "e5m2",
    (14, 8): "ue8m0",
    (4, 16): "bf16",
    (2, 16): "f16",
    (2, 32): "f32",
    (2, 64): "f64",
    (1, 8): "u8",
    (1, 16): "u16",
    (1, 32): "u32",
    (0, 32): "i32",
    (0, 64): "i64",
}

# __cuda_array_interface__ type strings; it has no word for bf16 or FP8, which travel as raw bits.
TYPESTR_NAMES = {
    "<f2": "f16",
    "<f4": "f32",
    "<f8": "f64",
    "|u1": "u8",
    "<u2": "u16",
    "|V1": "u8",
    "<V2": "u16",
    "|V2": "u16",
    "<i4": "i32",
    "<u4": "u32",
    "<i8": "i64",
}

FP8_MAX = {"e4m3": 448.0, "e5m2": 57344.0}


WORD_CARRIERS = ("i32", "u32")
"""What carries packed scales everywhere, since no framework can name them."""


def raw_bits_of(dtype: str) -> str:
    """The unsigned type that carries ``dtype`` through protocols which cannot name it (``e4m3`` → ``u8``)."""
    return {1: "u8", 2: "u16"}.get(ITEM_BYTES[dtype], dtype)


def numpy_dtype(name: str) -> Any:
    """The NumPy dtype of one of gemmgen's element types; those NumPy lacks come from ml_dtypes."""
    import ml_dtypes
    import numpy as np

    attribute = NUMPY_ATTRIBUTES[name]
    return np.dtype(getattr(ml_dtypes, attribute, None) or attribute)
