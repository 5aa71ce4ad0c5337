"""What one ``tcgen05.mma`` or ``tcgen05.cp`` reads, computes and writes, once it is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.machine.memory import SharedMemory
from gemmgen.emulator.numerics import formats, fragments
from gemmgen.emulator.numerics.descriptors import (
    InstructionDescriptor,
    SmemDescriptor,
    element_bytes,
    operand_addresses,
)
from gemmgen.emulator.numerics.kinds import KINDS, check_tcgen05_shape
from gemmgen.emulator.numerics.mma import tcgen05_mma
from gemmgen.emulator.tcgen05.tensor_memory import TensorMemory, Where
from gemmgen.errors import EmulationError

Addresses = NDArray[np.int64]

_OPERAND_BYTES = 32  # every kind reads 32 bytes of K
_OPERAND_COLUMNS = _OPERAND_BYTES // 4
_SUBBYTE_BITS = (4, 6)


@dataclass(frozen=True)
class Access:
    """Memory that an operation touches in one CTA of its group.

    Attributes:
        cta: 0, or 1 for the odd CTA of a pair.
        smem: shared byte addresses it reads.
        reads: tensor memory words it reads.
        writes: tensor memory words it writes.
    """

    cta: int
    smem: tuple[Addresses, ...]
    reads: tuple[Where, ...]
    writes: Where


@dataclass(frozen=True)
class MatrixMultiply:
    """A decoded ``tcgen05.mma``.

    Attributes:
        shape: the instruction descriptor.
        cta_group: 1 or 2.
        d: tensor memory address of D.
        a: shared descriptor, or tensor memory address, of A.
        b: shared descriptor of B.
        accumulate: add to D instead of overwriting it.
        scale_input_d: D is multiplied by 2^-this before.
        disabled: lanes, 128 per CTA, whose D stays as it is; None for no mask.
        scale_a: tensor memory address of A's scale factors, for block-scaled kinds.
        scale_b: the same for B.
        scale_count: scale factors per row: 1, 2 or 4.
    """

    shape: InstructionDescriptor
    cta_group: int
    d: int
    a: SmemDescriptor | int
    b: SmemDescriptor
    accumulate: bool
    scale_input_d: int = 0
    disabled: NDArray[np.bool_] | None = None
    scale_a: int | None = None
    scale_b: int | None = None
    scale_count: int = 0

    def check(self) -> None:
        """Check what does not depend on memory.

        Raises:
            EmulationError: the hardware has no such operation.
        """
        shape = self.shape
        check_tcgen05_shape(shape.kind, self.cta_group, shape.m, shape.n)
        step = 16 * self.cta_group
        if shape.b_major == "MN" and element_bytes(shape.b_type) == 1 and shape.n % step:
            raise EmulationError("MN-major 8-bit B has no such N", got=shape.n, need=f"a multiple of {step}")
        lane = self.d >> 16
        half = shape.m == 64 * self.cta_group and self.cta_group == 1
        if lane not in ((0, 16) if half else (0,)):
            need = "0 or 16" if half else "0"
            raise EmulationError("D starts at an illegal lane of tensor memory", got=lane, need=need)
        if isinstance(self.a, int):
            self._check_tmem_a(lane)
        if self.scale_count and (shape.sfa_id + self.scale_count > 4 or shape.sfb_id + self.scale_count > 4):
            raise EmulationError(
                "scale factor ids run past the word",
                got=f"A {shape.sfa_id}, B {shape.sfb_id} with {self.scale_count} factors per row",
                need=f"at most {4 - self.scale_count}",
            )

    def _check_tmem_a(self, d_lane: int) -> None:
        assert isinstance(self.a, int)
        if self.a >> 16 != d_lane:
            raise EmulationError("A in tensor memory starts at another lane than D", got=self.a >> 16, need=d_lane)
        if self.shape.a_major != "K":
            raise EmulationError("A in tensor memory is K-major", got="the transpose bit of A", need="0")
        if formats.FORMATS[self.shape.a_type].bits in _SUBBYTE_BITS and KINDS[self.shape.kind].padded_types:
            raise EmulationError(
                "4- and 6-bit A of this kind in tensor memory is not modelled: its container layout is published as a "
                "figure only",
                got=self.shape.a_type,
                need="A in shared memory, or an 8-bit type",
            )

    @cached_property
    def identity(self) -> int:
        """A number that is equal for MMAs on the same accumulator with the same shape, and never 0."""
        shape = self.shape
        return hash((self.d, shape.m, shape.n, shape.d_type, self.cta_group)) & 0x7FFFFFFF | 1

    def accesses(self, tmem: Sequence[TensorMemory]) -> list[Access]:
        """What the operation touches, per CTA of the group.

        Raises:
            MemoryFault: tensor memory that is outside or not allocated.
            EmulationError: a descriptor that does not fit the operand.
        """
        return [self._access(cta, tmem[cta]) for cta in range(self.cta_group)]

    def _access(self, cta: int, tmem: TensorMemory) -> Access:
        smem = [self._b_addresses]
        reads = []
        if isinstance(self.a, int):
            reads.append(self._a_words(cta, tmem))
        else:
            smem.append(self._a_addresses)
        reads += self._scale_words(cta, tmem)
        _, enabled = self._d_rows(cta)
        writes = self._d_words(cta, tmem)[enabled]
        if self.accumulate:
            reads.append(writes)
        return Access(cta, tuple(smem), tuple(words.reshape(-1) for words in reads), writes)

    def execute(self, smem: Sequence[SharedMemory], tmem: Sequence[TensorMemory], exact: bool = False) -> None:
        """Compute D from the memories' present contents.

        Args:
            smem: shared memory of each CTA of the group.
            tmem: tensor memory of each.
            exact: round once from float64 instead of the hardware's rule.

        Raises:
            MemoryFault: an operand holds no value.
            EmulationError: replicas of scale factors differ.
        """
        shape, group = self.shape, range(self.cta_group)
        a = np.concatenate([self._a_codes(cta, smem[cta], tmem[cta]) for cta in group])
        b_bytes = np.concatenate([smem[cta].data[self._b_addresses] for cta in group])
        b = _codes(b_bytes, shape.kind, shape.b_type, shape.b_major)
        scales = {}
        if self.scale_count:
            scale_a = np.concatenate([self._scales(cta, tmem[cta], 0) for cta in group])
            scales = {"scale_a": scale_a, "scale_b": self._scales_of_b(tmem)}
        old = self._read_d(tmem) if self.accumulate else None
        result = tcgen05_mma(shape, a, b, old, scale_input_d=self.scale_input_d, exact=exact, **scales)
        self._write_d(tmem, result)

    @cached_property
    def _a_addresses(self) -> Addresses:
        assert isinstance(self.a, SmemDescriptor)
        return self._operand(self.a, self.shape.a_major, self.shape.a_type, self.shape.m // self.cta_group)

    @cached_property
    def _b_addresses(self) -> Addresses:
        return self._operand(self.b, self.shape.b_major, self.shape.b_type, self.shape.n // self.cta_group)

    def _operand(self, descriptor: SmemDescriptor, major: str, element: str, rows: int) -> Addresses:
        size = element_bytes(element)
        return operand_addresses(descriptor, major, size, rows, _OPERAND_BYTES // size)

    def _a_codes(self, cta: int, smem: SharedMemory, tmem: TensorMemory) -> NDArray:
        shape = self.shape
        if isinstance(self.a, SmemDescriptor):
            return _codes(smem.data[self._a_addresses], shape.kind, shape.a_type, shape.a_major)
        copies = tmem.read(self._a_words(cta, tmem))
        if not (copies == copies[0]).all():
            raise EmulationError("the two copies of A in tensor memory differ", need="lanes 64..127 equal to 0..63")
        data = np.ascontiguousarray(copies[0]).view(np.uint8)
        return _codes(data, shape.kind, shape.a_type, "K")

    def _a_words(self, cta: int, tmem: TensorMemory) -> Where:
        """Words [copies, rows, 8] of A in tensor memory."""
        assert isinstance(self.a, int)
        owner, lanes = fragments.operand_a(self.shape.m, self.cta_group)
        return tmem.locate(self.a, lanes[:, owner == cta][..., None], np.arange(_OPERAND_COLUMNS))

    def _scale_words(self, cta: int, tmem: TensorMemory) -> list[Where]:
        """Words [replicas, rows] of A's and of B's scale factors; none for kinds without."""
        if not self.scale_count:
            return []
        assert self.scale_a is not None
        assert self.scale_b is not None
        split = self.cta_group == 2 and self.shape.m == 128
        a_lanes, a_columns = fragments.scale_factor(self.shape.m // self.cta_group)
        b_lanes, b_columns = fragments.scale_factor(self.shape.n, split)
        return [tmem.locate(self.scale_a, a_lanes, a_columns), tmem.locate(self.scale_b, b_lanes, b_columns)]

    def _scales(self, cta: int, tmem: TensorMemory, operand: int) -> NDArray[np.uint8]:
        """Scale codes [rows, count] of A (operand 0) or B (1)."""
        words = tmem.read(self._scale_words(cta, tmem)[operand])
        first = self.shape.sfb_id if operand else self.shape.sfa_id
        codes = (
            np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape, 4)[..., first : first + self.scale_count]
        )
        if not (codes == codes[0]).all():
            row = int(np.argmax((codes != codes[0]).any(axis=(0, 2))))
            raise EmulationError(
                f"scale factors of {'AB'[operand]} differ between the 32-lane partitions of tensor memory",
                got=f"row {row}: {codes[:, row].tolist()}",
                need="the same word in every partition",
                fix="tcgen05.cp with .warpx4",
            )
        return codes[0]

    def _scales_of_b(self, tmem: Sequence[TensorMemory]) -> NDArray[np.uint8]:
        """B's scale codes, of which both CTAs of a pair hold all N."""
        held = [self._scales(cta, tmem[cta], 1) for cta in range(self.cta_group)]
        if not np.array_equal(held[0], held[-1]):
            raise EmulationError("the two CTAs of the pair hold different scale factors of B", need="all N in both")
        return held[0]

    def _d_words(self, cta: int, tmem: TensorMemory) -> Where:
        """Words [rows, n] of D's rows that lie in a CTA."""
        owner, lane, column = fragments.accumulator(self.shape.m, self.shape.n, self.cta_group)
        mine = owner[:, 0] == cta
        return tmem.locate(self.d, lane[mine], column[mine])

    def _d_rows(self, cta: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Per row of D whether it lies in the CTA; per element of those rows whether its lane is enabled."""
        owner, lane, _ = fragments.accumulator(self.shape.m, self.shape.n, self.cta_group)
        mine = owner[:, 0] == cta
        if self.disabled is None:
            return mine, np.ones((int(mine.sum()), self.shape.n), np.bool_)
        return mine, ~self.disabled[cta * fragments.TMEM_LANES + lane[mine] + (self.d >> 16)]

    def _read_d(self, tmem: Sequence[TensorMemory]) -> NDArray:
        """The accumulator; elements of disabled lanes, which need hold no value, read as zero."""
        shape = self.shape
        words = np.zeros((shape.m, shape.n), np.uint32)
        for cta in range(self.cta_group):
            mine, enabled = self._d_rows(cta)
            part = np.zeros(enabled.shape, np.uint32)
            part[enabled] = tmem[cta].read(self._d_words(cta, tmem[cta])[enabled])
            words[mine] = part
        if shape.d_type == "f16":
            return (words & np.uint32(0xFFFF)).astype(np.uint16).view(np.float16)
        return words.view(np.float32 if shape.d_type == "f32" else np.int32)

    def _write_d(self, tmem: Sequence[TensorMemory], result: NDArray) -> None:
        words = result.view(np.uint16).astype(np.uint32) if result.dtype == np.float16 else result.view(np.uint32)
        for cta in range(self.cta_group):
            mine, enabled = self._d_rows(cta)
            tmem[cta].write(self._d_words(cta, tmem[cta])[enabled], words[mine][enabled])


@dataclass(frozen=True)
class Copy:
    """A decoded ``tcgen05.cp``.

    Attributes:
        layout: rows, bytes and lanes of the shape.
        cta_group: with 2, each CTA's tensor memory is filled from its own shared memory at the same offset.
        address: tensor memory address.
        source: shared descriptor, K-major.
    """

    layout: fragments.CopyShape
    cta_group: int
    address: int
    source: SmemDescriptor

    def accesses(self, tmem: Sequence[TensorMemory]) -> list[Access]:
        """What the operation touches, per CTA of the group."""
        return [
            Access(cta, (self._addresses,), (), self._words(tmem[cta]).reshape(-1)) for cta in range(self.cta_group)
        ]

    def execute(self, smem: Sequence[SharedMemory], tmem: Sequence[TensorMemory], exact: bool = False) -> None:
        """Copy from the memories' present contents; ``exact`` changes nothing about a copy."""
        for cta in range(self.cta_group):
            words = smem[cta].data[self._addresses].view(np.uint32)
            where = self._words(tmem[cta])
            tmem[cta].write(where, np.broadcast_to(words, where.shape))

    @cached_property
    def _addresses(self) -> Addresses:
        return operand_addresses(self.source, "K", 1, self.layout.rows, self.layout.row_bytes)

    def _words(self, tmem: TensorMemory) -> Where:
        """Words [copies, rows, columns]."""
        return tmem.locate(self.address, self.layout.lanes[..., None], np.arange(self.layout.row_bytes // 4))


def _codes(data: NDArray[np.uint8], kind: str, element: str, major: str) -> NDArray:
    """Element codes [rows, k] from gathered bytes [rows, 32]."""
    form = formats.FORMATS[element]
    if form.bits >= 8:
        return np.ascontiguousarray(data).view(form.code_dtype)
    if not KINDS[kind].padded_types:
        return formats.unpack_dense(data, form.bits)
    if major == "K":
        return formats.unpack_padded(data, form.bits)
    return formats.unpack_padded(np.ascontiguousarray(data.T), form.bits).T
