"""What the scales of a call must be, and how they can reach shared memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gemmgen.errors import ArgumentError
from gemmgen.runtime.dtypes import PACKED_SCALES, WORD_CARRIERS
from gemmgen.runtime.tensormap import ALIGN_BYTES
from gemmgen.runtime.tensors import TensorArg
from gemmgen.scales import CODE_CARRIERS, F32, SCALES_PER_WORD, UE8M0, words_for

Block = tuple[int | str, int | str]


class ScaleRule(NamedTuple):
    """The scales of an operand, as a spec says.

    Attributes:
        block: elements that share a scale, rows × K.
        format: ``f32``, or ``ue8m0``: words of four exponents each.
    """

    block: Block
    format: str = F32

    @property
    def along_k(self) -> bool:
        """Whether every row has scales of its own that change along K, so that a kernel loads them step by step."""
        return self.block[0] == 1 and isinstance(self.block[1], int)

    def counts(self, rows: int, k: int) -> tuple[int, int]:
        """Blocks of an operand along its rows and K."""
        along_rows, along_k = (extent if isinstance(extent, int) else max(1, size)
                               for extent, size in zip(self.block, (rows, k), strict=True))  # fmt: skip
        return -(-rows // along_rows), -(-k // along_k)

    def __str__(self) -> str:
        kind = "packed UE8M0 exponent" if self.format == UE8M0 else "f32 scale"
        return f"one {kind} per {self.block[0]} × {self.block[1]} block"


def check_scale(scale: TensorArg, rows: int, k: int, rule: ScaleRule) -> TensorArg:
    """Check an operand's scales; their strides may be any.

    Args:
        scale: the argument, ``sa`` or ``sb``.
        rows: rows of its operand, M or N.
        k: elements of a row.
        rule: what they must be.

    Returns:
        The scales as kernels read them: exponents that are not packed but lie like words are read as words.

    Raises:
        ArgumentError: another element type or shape, or exponents that cannot be read as words.
    """
    if rule.format == UE8M0:
        return _check_packed(scale, rule.counts(rows, k), f"{rule} of {rows} × {k} elements", rule)
    if scale.dtype != F32:
        packed = scale.dtype in (*WORD_CARRIERS, *CODE_CARRIERS)
        fix = "compile a spec with scale format ue8m0" if packed else f"pass {scale.name}.float()"
        raise ArgumentError(
            "scales have the wrong element type", where=scale.name, got=scale.dtype, need=f"f32, {rule}", fix=fix
        )
    _check_shape(scale, rule.counts(rows, k), f"{rule} of {rows} × {k} elements", rule)
    return scale


def packing_fix(rule: ScaleRule) -> str:
    """How to get packed scales from others."""
    return (
        "pass gemmgen.pack_scales(q) of the quantised tensor, which refuses scales that are not powers of two unless "
        f"requantize=True lets it lose precision, or {quantize_call(rule)}"
    )


def quantize_call(rule: ScaleRule) -> str:
    """The call that makes what a rule asks for."""
    extra = f', scale_format="{rule.format}"' if rule.format != F32 else ""
    return f"gemmgen.quantize(x, block=({rule.block[0]}, {rule.block[1]}){extra})"


def scale_copy_of(rules: Mapping[str, ScaleRule | None], scales: Mapping[str, TensorArg]) -> str:
    """How one scale per row and block of K can reach shared memory.

    Args:
        rules: what ``sa`` and ``sb`` must be.
        scales: the checked arguments by the same names; may hold others.

    Returns:
        ``bulk`` if the copy engine can load all of them, else ``lanes``.
    """
    loaded = (scales[name] for name, rule in rules.items() if rule is not None and rule.along_k and name in scales)
    return "bulk" if all(_copy_engine_loads(scale) for scale in loaded) else "lanes"


def _copy_engine_loads(scale: TensorArg) -> bool:
    """Whether rows are adjacent, and columns a multiple of 16 bytes apart, from an aligned address on."""
    (rows, columns), (row_stride, column_stride) = scale.shape, scale.strides
    adjacent = rows == 1 or row_stride == 1
    apart = columns == 1 or (column_stride * scale.item_bytes % ALIGN_BYTES == 0 and column_stride >= rows)
    return adjacent and apart and scale.address % ALIGN_BYTES == 0


def _check_packed(scale: TensorArg, counts: tuple[int, int], meaning: str, rule: ScaleRule) -> TensorArg:
    if scale.dtype in CODE_CARRIERS:
        _check_shape(scale, counts, f"{meaning}, or words of four", rule)
        return _as_words(scale)
    if not scale.holds(PACKED_SCALES):
        raise ArgumentError(
            "this kernel takes scales as packed UE8M0 exponents",
            where=scale.name,
            got=scale.dtype,
            need=f"int32 or uint32 words of four exponents, {rule}",
            fix=packing_fix(rule),
        )
    _check_shape(scale, (counts[0], words_for(counts[1])), f"{meaning}, four to a word", rule)
    return scale


def _as_words(codes: TensorArg) -> TensorArg:
    """Exponents that are not packed, seen as words without a copy."""
    (rows, blocks), (row_stride, block_stride) = codes.shape, codes.strides
    whole = blocks % SCALES_PER_WORD == 0 and block_stride == 1
    if not whole or (rows > 1 and row_stride % SCALES_PER_WORD):
        raise ArgumentError(
            "these exponents do not lie like words",
            where=codes.name,
            got=f"shape {codes.shape}, strides {tuple(codes.strides)}",
            need="a multiple of 4 blocks, adjacent along K, in rows a multiple of 4 bytes apart",
            fix=f"pass gemmgen.pack_exponents({codes.name})",
        )
    return codes._replace(
        shape=(rows, blocks // SCALES_PER_WORD), strides=(row_stride // SCALES_PER_WORD, 1), dtype=PACKED_SCALES
    )


def _check_shape(scale: TensorArg, wanted: tuple[int, int], meaning: str, rule: ScaleRule) -> None:
    if scale.shape == wanted:
        return
    raise ArgumentError(
        "scales have the wrong shape",
        where=scale.name,
        got=scale.shape,
        need=f"{wanted}: {meaning}, any strides",
        fix=f"pass {scale.name}.T" if scale.shape == wanted[::-1] else f"use {quantize_call(rule)}",
    )
