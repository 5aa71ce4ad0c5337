"""What is changed in a Hopper cubin after ptxas: two scheduling bits of promotion's FFMAs.

Promotion adds ``part * scale`` to a row's sums, so that one register, the scale, is operand B of a run of FFMAs. ptxas
lets every second one give way to other warps and read the scale again, from register banks that wgmma's accumulators
share. It is faster, and takes less power, if several in a row keep the scale in the operand cache and are not
interrupted; how many depends on how long other warps can wait (docs/performance.md). No CUDA or PTX says that, so it
is written into the instructions.

An instruction is 16 bytes, little-endian words ``low`` and ``high``. Nobody documents them; these are the fields used:

====================  =====================================================================
``low`` 0…11, 12…15   opcode, 0x223 for an FFMA of four registers; predicate, 7 for always
``low`` 16…23, 32…39  destination; source B
``high`` 41…44        cycles until the warp's next instruction
``high`` 45           1: the warp stays, 0: it gives way
``high`` 59           source B is kept for the next instruction
====================  =====================================================================

Why values cannot change: B is kept by an FFMA only if the instruction behind it is an FFMA with the same B, and the
FFMA does not write B itself. An FFMA does not branch, so the two run one after the other, and whoever else writes B was
waited for before the first reads it. What is kept is used or dropped by the second, so nothing is left when a run ends,
and a branch into the middle of a run finds an empty cache and reads the register.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise

from gemmgen.errors import CompileError

VERSION = 2
"""Part of the cache's keys: raise it when other bits are set."""
ALWAYS_FFMA = 0x7223
ZERO_REGISTER = 0xFF
STAYS = 1 << 45
KEEPS_B = 1 << 59
SHORT_WAITS = range(1, 12)
"""Cycles after which a warp may stay: ptxas lets it give way wherever it waits longer."""
INSTRUCTION_BYTES = 16

_ELF64_LITTLE = b"\x7fELF\x02\x01"
_ELF_HEADER = struct.Struct("<40xQ10xHHH")
_SECTION = struct.Struct("<I20xQQ24x")
_INSTRUCTION = struct.Struct("<QQ")


@dataclass(frozen=True)
class PromotionBurstPass:
    """The change to a kernel whose schedule has ``promotion_burst``, which says how many FFMAs are a burst."""

    length: int

    @property
    def key(self) -> str:
        """Names the change and its version."""
        return f"promotion-burst {VERSION} {self.length}"

    def __call__(self, cubin: bytes, entry: str) -> tuple[bytes, int]:
        """See ``burst_promotion``."""
        return burst_promotion(cubin, entry, self.length)


def burst_promotion(cubin: bytes, entry: str, length: int) -> tuple[bytes, int]:
    """Set both bits of every FFMA whose successor has the same source B, but of each ``length``-th in a run neither.

    Args:
        cubin: ELF image for sm_90a.
        entry: the kernel's symbol.
        length: FFMAs in a row before the warp gives way, 1 or more.

    Returns:
        The image, and how many FFMAs have both bits because of a run: 0 for a kernel without runs.

    Raises:
        CompileError: it is no ELF image of a cubin, or has no code for the kernel.
    """
    start, size = _code_of(cubin, entry)
    image = bytearray(cubin)
    code = list(_INSTRUCTION.iter_unpack(cubin[start : start + size]))
    count = run = 0
    for index, ((low, high), (following, _)) in enumerate(pairwise(code)):
        if low & 0xFFFF != ALWAYS_FFMA or not _in_a_run(low, high, following):
            run = 0
            continue
        run += 1
        stays = run % length != 0
        count += stays
        bits = high | STAYS | KEEPS_B if stays else high & ~(STAYS | KEEPS_B)
        _INSTRUCTION.pack_into(image, start + index * INSTRUCTION_BYTES, low, bits)
    return bytes(image), count


def _in_a_run(low: int, high: int, following: int) -> bool:
    """Whether an FFMA's source B is the next instruction's too, and may be kept for it."""
    destination, source_b = low >> 16 & 0xFF, low >> 32 & 0xFF
    repeated = following & 0xFFFF == ALWAYS_FFMA and following >> 32 & 0xFF == source_b
    return repeated and source_b not in (destination, ZERO_REGISTER) and (high >> 41 & 0xF) in SHORT_WAITS


def _code_of(cubin: bytes, entry: str) -> tuple[int, int]:
    """Offset and bytes of the kernel's instructions."""
    if len(cubin) < 64 or not cubin.startswith(_ELF64_LITTLE):
        raise _refusal(entry, "a cubin is no ELF image", f"{len(cubin)} bytes that begin with {cubin[:6].hex(' ')}")
    table, entry_size, count, names_index = _ELF_HEADER.unpack_from(cubin)
    if entry_size != _SECTION.size or names_index >= count or table + count * entry_size > len(cubin):
        raise _refusal(entry, "a cubin's section table is damaged", f"{count} sections at byte {table}")
    sections = [_SECTION.unpack_from(cubin, table + index * entry_size) for index in range(count)]
    names = sections[names_index][1]
    wanted = f".text.{entry}".encode() + b"\0"
    for name, offset, size in sections:
        if cubin.startswith(wanted, names + name):
            if offset + size > len(cubin) or size % INSTRUCTION_BYTES:
                raise _refusal(entry, "a cubin's code is damaged", f"{size} bytes at byte {offset} of {len(cubin)}")
            return offset, size
    raise _refusal(entry, "a cubin has no code for its kernel", f"{count} sections, none of them .text.{entry}")


def _refusal(entry: str, what: str, got: str) -> CompileError:
    return CompileError(what, where=entry, got=got, need="what NVRTC makes for sm_90a",
                        fix="report it with NVRTC's version; promotion_burst: 0 does without")  # fmt: skip
