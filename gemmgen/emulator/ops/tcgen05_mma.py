"""tcgen05.mma in all its dense kinds, block-scaled ones included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.machine.access import note_remote
from gemmgen.emulator.machine.memory import GRANULE
from gemmgen.emulator.machine.scheduler import AsyncOperation
from gemmgen.emulator.machine.tmem import after_clock
from gemmgen.emulator.machine.unit import Thread
from gemmgen.emulator.numerics import descriptors, formats, fragments, kinds, mma
from gemmgen.emulator.numerics.descriptors import InstructionDescriptor
from gemmgen.emulator.ops.builder import Builder, Step, builds
from gemmgen.emulator.ops.bulk_common import active_lanes, issue_access, lane_value, read_shared
from gemmgen.emulator.ops.tcgen05 import smem_operand
from gemmgen.emulator.ops.tcgen05_common import group_of, padded, pair, pipeline, read_words, tensor_access, tensor_memory, write_words
from gemmgen.emulator.ptx.operands import Mem, Vec
from gemmgen.emulator.report import Kind
from gemmgen.errors import EmulationError

if TYPE_CHECKING:
    from gemmgen.emulator.machine.cta import Cta
    from gemmgen.emulator.machine.unit import Unit

_COLUMN_MASK = 0xFFFF
_SCALES = {"mxf8f6f4": 1, "mxf4": 2}
_BLOCKS = {"scale_vec::1X": 1, "scale_vec::2X": 2, "scale_vec::4X": 4, "block32": None, "block16": 4}
_PACKED_FP4 = ("mxf4", "mxf4nvf4")
MASK_WORDS = {1: 4, 2: 8}


@dataclass(frozen=True)
class _Call:
    """One multiplication: its operands, resolved.

    Attributes:
        d: accumulator address.
        a: descriptor of A, or its tensor memory address where ``a_in_tmem``.
        b: descriptor of B.
        masked: lanes of each CTA that are not written, or None.
        scales: tensor memory addresses of A's and B's scale factors, or None.
    """

    d: int
    a: int
    a_in_tmem: bool
    b: int
    accumulate: bool
    input_scale: int
    masked: NDArray[np.bool_] | None
    scales: tuple[int, int] | None


@builds("tcgen05.mma", "tcgen05.mma_scaled")
def _mma(b: Builder) -> Step:
    kind = b.modifiers["kind"].removeprefix("kind::")
    group = group_of(b)
    d_at, a_in_tmem = b.address(0), isinstance(b.operands[1], Mem)
    a_at = b.address(1) if a_in_tmem else None
    a_word = None if a_in_tmem else lane_value(b, 1, "b64")
    b_word, idesc = lane_value(b, 2, "b64"), lane_value(b, 3, "b32")
    position, mask, scale_at = 4, None, None
    scaled = b.instruction.semantic == "tcgen05.mma_scaled"
    if scaled:
        scale_at = (b.address(4), b.address(5))
        position = 6
    elif isinstance(b.operands[4], Vec):
        mask = [b.source(item, "b32") for item in b.vector(4, MASK_WORDS[group])]
        position = 5
    accumulate = b.predicate(b.operands[position])
    has_input_scale = len(b.operands) > position + 1
    b.expect(position + 1, position + (2 if kind in ("f16", "tf32") else 1))
    input_scale = b.immediate(position + 1) if has_input_scale else 0
    if not 0 <= input_scale <= 15:
        raise b.error("scale-input-d must be 0 to 15")
    per_row = _scales_per_row(b, kind) if scaled else 0

    def step(x: Unit) -> None:
        count = int(x.mask.sum())
        if count != 1:
            b.finding(x, Kind.DIVERGENCE, f"tcgen05.mma is issued by {count} lanes: one thread issues it")
        for thread, lane in active_lanes(x):
            shape = _shape(b, x, idesc(x, lane), kind, group)
            masked = None
            if mask is not None:
                held = [np.broadcast_to(x.u32[key], (x.width,))[lane] for key in mask]
                masked = np.unpackbits(np.array(held, np.uint32).view(np.uint8), bitorder="little").astype(np.bool_)
            call = _Call(
                int(d_at(x)[lane]),
                int(a_at(x)[lane]) if a_at is not None else a_word(x, lane),  # type: ignore[misc]
                a_in_tmem,
                b_word(x, lane),
                bool(accumulate(x)[lane]),
                input_scale,
                masked,
                None if scale_at is None else (int(scale_at[0](x)[lane]), int(scale_at[1](x)[lane])),
            )
            _Multiplication(b, x, thread, shape, call, per_row).issue()

    return step


def _scales_per_row(b: Builder, kind: str) -> int:
    block = b.modifiers.get("block")
    if block is None:
        if kind == "mxf4nvf4":
            raise b.error("kind::mxf4nvf4 needs .block16, .block32 or .scale_vec")
        return _SCALES[kind]
    count = _BLOCKS[block] or (1 if kind == "mxf8f6f4" else 2)
    legal = {"mxf8f6f4": (1,), "mxf4": (2,), "mxf4nvf4": (2, 4)}[kind]
    if count not in legal:
        raise b.error(f"{block} does not exist for kind::{kind}")
    return count


def _shape(b: Builder, x: Unit, bits: int, kind: str, group: int) -> InstructionDescriptor:
    try:
        shape = descriptors.decode_instruction(bits, kind)
        kinds.check_tcgen05_shape(kind, group, shape.m, shape.n)
        kinds.check_tcgen05_types(kind, shape.a_type, shape.b_type, shape.d_type)
    except EmulationError as error:
        text = " ".join(filter(None, (error.what, error.got, error.need and f"need {error.need}")))
        raise b.fault(x, Kind.DESCRIPTOR, f"instruction descriptor 0x{bits:08x}: {text}") from None
    return shape


class _Multiplication:
    """Checks one tcgen05.mma at its issue and queues it."""

    def __init__(self, b: Builder, x: Unit, thread: Thread, shape: InstructionDescriptor, call: _Call, per_row: int) -> None:
        self.b, self.x, self.thread, self.shape, self.call, self.per_row = b, x, thread, shape, call, per_row
        self.ctas = pair(b, x)
        self.group = len(self.ctas)
        self.k = kinds.KINDS[shape.kind].k
        self.pipe = pipeline(x, thread)
        if self.group == 2 and x.cta.rank & 1:
            b.finding(x, Kind.TMEM_ACCESS, "cta_group::2 operations are issued by the even CTA of a pair")

    def issue(self) -> None:
        """Check all operands and queue the multiplication."""
        x, b = self.x, self.b
        order = padded(after_clock(x.cta, self.thread.row), len(x.cta.machine.clocks.labels) + 8)
        self.access = tensor_access(self.pipe.agent, self.pipe.epoch, order, b.pc, frozenset([self.pipe.agent]))
        a_parts = [self._operand_a(n, cta) for n, cta in enumerate(self.ctas)]
        b_parts = [self._operand_b(cta) for cta in self.ctas]
        scales = None if self.call.scales is None else self._scales()
        cta_of, lanes, columns = self._accumulator()
        self._check_shape_order(columns)
        for n, cta in enumerate(self.ctas):
            chosen = cta_of == n
            if self.call.accumulate:
                read_words(b, x, cta, self.access, lanes[chosen], columns[chosen], "tcgen05.mma")
            write_words(b, x, cta, self.access, lanes[chosen], columns[chosen], "tcgen05.mma")
            note_remote(x, cta, self.access, b.pc)
        self.pipe.uncommitted_pc = b.pc

        def run() -> None:
            left = np.concatenate([part() for part in a_parts])
            right = np.concatenate([part() for part in b_parts])
            factors = (None, None) if scales is None else (scales[0](), scales[1]())
            self._execute(left, right, factors, (cta_of, lanes, columns))

        x.cta.machine.issue(AsyncOperation(run, "tcgen05.mma", ("tcgen05", self.pipe.agent), b.pc))
        x.cta.machine.count("tcgen05.mma")

    def _accumulator(self) -> tuple[NDArray, NDArray, NDArray]:
        cta_of, lanes, columns = fragments.accumulator(self.shape.m, self.shape.n, self.group)
        return cta_of, lanes + (self.call.d >> 16), columns + (self.call.d & _COLUMN_MASK)

    def _check_shape_order(self, columns: NDArray) -> None:
        """Multiplications on one accumulator are ordered only if they have the same shape."""
        first = int(columns.min())
        shape = (self.shape.m, self.shape.n)
        last = self.pipe.shapes.get(first)
        if last is not None and last != shape:
            self.b.finding(self.x, Kind.TCGEN05_ORDER, f"shapes {last} and {shape} follow each other on one accumulator")
        self.pipe.shapes[first] = shape

    def _codes(self, cta: Cta, found: NDArray, type_: str) -> NDArray:
        return _decode(np.ascontiguousarray(cta.shared.data[found]), type_, self.shape.kind)

    def _smem(self, cta: Cta, word: int, major: str, type_: str, rows: int):  # noqa: ANN202
        """A function that reads an operand's codes from shared memory, after its checks."""
        packed = self.shape.kind in _PACKED_FP4
        size = 1 if packed else max(1, formats.FORMATS[type_].bits // 8)
        found = smem_operand(self.b, self.x, cta, word, major, size, rows, self.k // 2 if packed else self.k)
        access = issue_access(self.x, self.thread, self.pipe.agent, self.pipe.epoch, self.b.pc)
        granules = np.unique(found // GRANULE)
        read_shared(self.b, self.x, cta, access, granules, found)
        return lambda: self._codes(cta, found, type_)

    def _operand_a(self, n: int, cta: Cta):  # noqa: ANN202
        rows = self.shape.m // self.group
        if not self.call.a_in_tmem:
            return self._smem(cta, self.call.a, self.shape.a_major, self.shape.a_type, rows)
        cta_of, copies = fragments.operand_a(self.shape.m, self.group)
        lanes = copies[:, cta_of == n] + (self.call.a >> 16)
        width = self.k * formats.FORMATS[self.shape.a_type].bits // 32
        if kinds.KINDS[self.shape.kind].padded_types:
            width = self.k // 4
        columns = np.arange(width) + (self.call.a & _COLUMN_MASK)
        read_words(self.b, self.x, cta, self.access, lanes[:, :, None], columns[None, None], "tcgen05.mma (A)")

        def read() -> NDArray:
            words = tensor_memory(cta).data[lanes[0][:, None], columns[None]]
            return _decode(np.ascontiguousarray(words).view(np.uint8), self.shape.a_type, self.shape.kind)

        return read

    def _operand_b(self, cta: Cta):  # noqa: ANN202
        return self._smem(cta, self.call.b, self.shape.b_major, self.shape.b_type, self.shape.n // self.group)

    def _scales(self):  # noqa: ANN202
        """Functions that read the scale factors of all of A's and B's rows."""
        assert self.call.scales is not None
        sfa, sfb = self.call.scales
        rows = self.shape.m // self.group
        a_parts = [self._scale_rows(cta, sfa, rows, self.shape.sfa_id, False) for cta in self.ctas]
        split = self.group == 2 and self.shape.m == 128
        b_parts = [self._scale_rows(cta, sfb, self.shape.n, self.shape.sfb_id, split) for cta in self.ctas]
        return (lambda: np.concatenate([part() for part in a_parts])), b_parts[0]

    def _scale_rows(self, cta: Cta, address: int, rows: int, first_byte: int, split: bool):  # noqa: ANN202
        if first_byte + self.per_row > 4:
            raise self.b.fault(self.x, Kind.DESCRIPTOR, f"scale id {first_byte} with {self.per_row} scales per row")
        lanes, columns = fragments.scale_factor(rows, split)
        columns = np.broadcast_to(columns + (address & _COLUMN_MASK), lanes.shape)
        read_words(self.b, self.x, cta, self.access, lanes, columns, "tcgen05.mma (scales)")

        def read() -> NDArray:
            words = tensor_memory(cta).data[lanes, columns]
            if (words != words[0]).any():
                self.b.finding(self.x, Kind.TMEM_ACCESS, "the replicas of a scale factor differ between lane quarters")
            return np.ascontiguousarray(words[0]).view(np.uint8).reshape(rows, 4)[:, first_byte : first_byte + self.per_row]

        return read

    def _execute(self, left: NDArray, right: NDArray, factors: tuple, where: tuple[NDArray, NDArray, NDArray]) -> None:
        shape, call = self.shape, self.call
        old = self._gather(where) if call.accumulate else None
        result = mma.tcgen05_mma(
            shape.kind,
            left,
            right,
            old,
            shape.a_type,
            shape.b_type,
            shape.d_type,
            negate_a=shape.negate_a,
            negate_b=shape.negate_b,
            scale_a=factors[0],
            scale_b=factors[1],
            scale_type=shape.scale_type or "ue8m0",
            scale_input_d=call.input_scale,
            saturate=shape.saturate,
            exact=self.x.cta.machine.exact,
        )
        self._scatter(where, result)

    def _gather(self, where: tuple[NDArray, NDArray, NDArray]) -> NDArray:
        cta_of, lanes, columns = where
        words = np.empty(lanes.shape, np.uint32)
        for n, cta in enumerate(self.ctas):
            chosen = cta_of == n
            words[chosen] = tensor_memory(cta).data[lanes[chosen], columns[chosen]]
        if self.shape.d_type == "f16":
            return words.astype(np.uint16).view(np.float16)
        return words.view(np.float32 if self.shape.d_type == "f32" else np.int32)

    def _scatter(self, where: tuple[NDArray, NDArray, NDArray], result: NDArray) -> None:
        cta_of, lanes, columns = where
        if self.shape.d_type == "f16":
            words = np.ascontiguousarray(result).view(np.uint16).astype(np.uint32)
        else:
            words = np.ascontiguousarray(result).view(np.uint32)
        for n, cta in enumerate(self.ctas):
            chosen = cta_of == n
            if self.call.masked is not None:
                chosen = chosen & ~self.call.masked[128 * n + lanes]
            tensor_memory(cta).data[lanes[chosen], columns[chosen]] = words[chosen]


def _decode(data: NDArray[np.uint8], type_: str, kind: str) -> NDArray:
    """Codes [rows, k] of an operand's bytes."""
    bits = formats.FORMATS[type_].bits
    if kind in _PACKED_FP4:
        return formats.unpack_dense(data, 4)
    if bits < 8:
        return formats.unpack_padded(data, bits)
    return data.view(formats.FORMATS[type_].code_dtype)
