"""Arrays of block scales: how they lie in memory, and powers of two as UE8M0 exponents, four to a word.

A UE8M0 code ``c`` stands for 2^(c - 127), and 255 for NaN. A word holds the codes of four neighbouring blocks along K,
the first in its low byte. Every function takes torch tensors, on any device, and NumPy arrays, and returns the same.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from gemmgen.errors import ArgumentError
from gemmgen.runtime.dtypes import NUMPY_NAMES, TORCH_NAMES, WORD_CARRIERS
from gemmgen.runtime.tensors import is_torch_tensor

F32, UE8M0 = "f32", "ue8m0"
SCALE_FORMATS = (F32, UE8M0)
SCALE_MAJORS = ("mn", "k")
SCALES_PER_WORD = 4
CODE_CARRIERS = ("u8", UE8M0)
"""Element types that an unpacked exponent may have."""
MIN_POWER, MAX_POWER = 2.0**-127, 2.0**127
_ALIGN_ELEMS = 4
_FRACTION_BITS = 23
_FRACTION = (1 << _FRACTION_BITS) - 1
_TOP_FRACTION_BIT = 1 << (_FRACTION_BITS - 1)
_NAN_CODE = 255


def words_for(blocks: int) -> int:
    """Words that hold the exponents of so many blocks."""
    return -(-blocks // SCALES_PER_WORD)


def lay_out_scale(scale: Any, layout: str) -> Any:
    """A copy of a 2-D array of 32-bit scales, ``mn``: columns contiguous and 16-byte aligned, or ``k``: rows."""
    rows, cols = scale.shape
    pitch = -(-rows // _ALIGN_ELEMS) * _ALIGN_ELEMS
    if is_torch_tensor(scale):
        laid_out = scale.new_empty(cols, pitch).T[:rows] if layout == "mn" else scale.new_empty(rows, cols)
        return laid_out.copy_(scale)
    dtype = scale.dtype
    laid_out = np.empty((cols, pitch), dtype).T[:rows] if layout == "mn" else np.empty((rows, cols), dtype)
    laid_out[...] = scale
    return laid_out


def expand_blocks(factors: Any, block: tuple[int, int], shape: tuple[int, int]) -> Any:
    """One factor per element of a matrix, from one per block; blocks at the edges are cut."""
    rows, cols = shape
    if is_torch_tensor(factors):
        return factors.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:rows, :cols]
    return factors.repeat(block[0], 0).repeat(block[1], 1)[:rows, :cols]


def pack_exponents(codes: Any, scale_major: str = "mn") -> Any:
    """UE8M0 exponents as the words that kernels take.

    Args:
        codes: ``[rows, blocks]``, uint8 or float8_e8m0fnu: one exponent per row and block of K.
        scale_major: ``mn`` lays the words out with stride 1 along rows, which kernels read fastest; ``k`` along K.

    Returns:
        ``[rows, ceil(blocks / 4)]``, torch int32 or NumPy uint32; bytes beyond the last block are 0.

    Raises:
        ArgumentError: ``codes`` is no matrix of exponents.
    """
    if scale_major not in SCALE_MAJORS:
        raise ArgumentError("not supported", where="scale_major", got=repr(scale_major), need=" or ".join(SCALE_MAJORS))
    _check_matrix("codes", codes, CODE_CARRIERS, "uint8 or float8_e8m0fnu",
                  "pass FP32 scales with their data to gemmgen.pack_scales")  # fmt: skip
    rows, blocks = codes.shape
    lib, size = _library(codes), (rows, words_for(blocks))
    words = codes.new_zeros(size, dtype=lib.int32) if is_torch_tensor(codes) else np.zeros(size, np.uint32)
    words.view(lib.uint8)[:, :blocks] = codes.view(lib.uint8)
    return lay_out_scale(words, scale_major)


def unpack_exponents(words: Any, blocks: int | None = None) -> Any:
    """The exponents in packed words.

    Args:
        words: ``[rows, words]``, int32 or uint32, any strides.
        blocks: how many blocks of K there are; by default four per word.

    Returns:
        uint8 ``[rows, blocks]``, row-major.

    Raises:
        ArgumentError: ``words`` is no matrix of words, or has fewer or more than ``blocks`` need.
    """
    _check_matrix("words", words, WORD_CARRIERS, "int32 or uint32", "pass what gemmgen.pack_exponents returns")
    if blocks is not None and words_for(blocks) != words.shape[1]:
        raise ArgumentError(
            "another number of blocks is packed here",
            where="blocks",
            got=f"{blocks} blocks, {words.shape[1]} words per row",
            need=f"{words_for(blocks)} words per row, four blocks in each",
        )
    return lay_out_scale(words, "k").view(_library(words).uint8)[:, :blocks]


def next_powers(scale: Any) -> Any:
    """UE8M0 codes, uint8, of the smallest powers of two that are not below these f32 scales.

    What lies beyond 2^127, or is NaN, gives the code of NaN; what lies below 2^-127, the smallest code.
    """
    bits = scale.view(_library(scale).int32)
    exponent, fraction = bits >> _FRACTION_BITS, bits & _FRACTION
    # The smallest code, 2^-127, is a subnormal f32: its exponent bits are 0 and its top fraction bit is set.
    codes = exponent + (fraction > (exponent == 0) * _TOP_FRACTION_BIT)
    return _cast(codes.clip(0, _NAN_CODE), "uint8")


def powers_of_two(codes: Any) -> Any:
    """The f32 values of UE8M0 codes, uint8."""
    wide = _cast(codes, "int32")
    special = _cast((wide == 0) | (wide == _NAN_CODE), "int32")
    return ((wide << _FRACTION_BITS) | (special * _TOP_FRACTION_BIT)).view(_library(codes).float32)


def _cast(x: Any, dtype: str) -> Any:
    wanted = getattr(_library(x), dtype)
    return x.to(wanted) if is_torch_tensor(x) else x.astype(wanted)


def _library(x: Any) -> ModuleType:
    """Torch or NumPy, which have the same names for what is used here."""
    if not is_torch_tensor(x):
        return np
    import torch

    return torch


def _check_matrix(name: str, x: Any, dtypes: tuple[str, ...], need: str, fix: str) -> None:
    names = TORCH_NAMES if is_torch_tensor(x) else NUMPY_NAMES
    if not is_torch_tensor(x) and not isinstance(x, np.ndarray):
        raise ArgumentError("this is no array", where=name, got=type(x).__name__, need="a torch tensor or NumPy array")
    if names.get(str(x.dtype)) not in dtypes:
        raise ArgumentError("wrong element type", where=name, got=x.dtype, need=need, fix=fix)
    if x.ndim != 2:
        raise ArgumentError("this is no matrix", where=name, got=f"shape {tuple(x.shape)}", need="2 dimensions")
