"""``tcgen05.mma``, ``cp`` and ``commit``: what one thread hands to the tensor cores.

Ordering and bounds are checked when an operation is issued; it reads and writes when the scheduler completes it. All
operations of a CTA (or pair) complete in the order of their issue, which the hardware promises for mma after mma on one
accumulator and mma after cp, and on which DeepGEMM relies for cp after mma.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.machine.clocks import SyncClock
from gemmgen.emulator.machine.mbarrier import BarrierFault, MBarrier
from gemmgen.emulator.machine.memory import RANK_SHIFT, MemoryFault
from gemmgen.emulator.machine.scheduler import AsyncOperation
from gemmgen.emulator.machine.shadow import Access
from gemmgen.emulator.numerics.descriptors import decode_instruction, decode_tcgen05
from gemmgen.emulator.numerics.fragments import tmem_copy
from gemmgen.emulator.ops.builder import Builder, Step, builds, type_id
from gemmgen.emulator.ops.mbarriers import find_barrier, finish_phase
from gemmgen.emulator.ptx.operands import Mem, Vec
from gemmgen.emulator.report import Kind
from gemmgen.emulator.tcgen05 import matrix
from gemmgen.emulator.tcgen05.management import cta_group
from gemmgen.emulator.tcgen05.order import Source
from gemmgen.emulator.tcgen05.state import TensorCores, tensor_cores
from gemmgen.emulator.tcgen05.tensor_memory import TensorMemory
from gemmgen.emulator.tcgen05.transfer import report_conflict
from gemmgen.errors import EmulationError

if TYPE_CHECKING:
    from gemmgen.emulator.machine.cta import Cta
    from gemmgen.emulator.machine.unit import Thread, Unit

Operation = matrix.MatrixMultiply | matrix.Copy
Decode = Callable[["Unit", int], Operation]

_SCALE_COUNTS = {"scale_vec::1X": 1, "scale_vec::2X": 2, "scale_vec::4X": 4, "block16": 4}
_MAX_INPUT_SCALE = 15


@builds("tcgen05.mma", "tcgen05.mma_scaled")
def _mma(b: Builder) -> Step:
    b.expect(5, 8)
    return _issuing(b, _MmaOperands(b))


@builds("tcgen05.cp")
def _cp(b: Builder) -> Step:
    b.expect(2)
    if "dtype" in b.modifiers or "stype" in b.modifiers:
        raise b.error("tcgen05.cp with decompression is not modelled: its formats are published as figures only")
    layout = tmem_copy(b.modifiers["shape"], b.modifiers.get("multicast"))
    address, source, group = b.address(0), b.source(1, "u64"), cta_group(b)
    u64 = type_id("u64")

    def decode(x: Unit, lane: int) -> matrix.Copy:
        return matrix.Copy(layout, group, int(address(x)[lane]), decode_tcgen05(_at(x.views[u64][source], lane)))

    return _issuing(b, decode)


@builds("tcgen05.commit")
def _commit(b: Builder) -> Step:
    multicast = "multicast" in b.modifiers
    b.expect(2 if multicast else 1)
    cores, group, space = tensor_cores(b.machine), cta_group(b), b.modifiers.get("space", "generic")
    address, u16 = b.address(0), type_id("u16")
    ranks = b.source(1, "u16") if multicast else None

    def step(x: Unit) -> None:
        for thread, lane, position in _lanes(x):
            found = find_barrier(b, x, space, int(address(x)[position]), thread)
            targets = [found]
            if ranks is not None:
                targets = _multicast(b, x, found, _at(x.views[u16][ranks], position))
            try:
                chain = _chain(cores.group(x.cta, group))
            except MemoryFault as fault:
                raise b.fault(x, fault.kind, str(fault)) from None
            _signal(b, x, targets, cores.order.pipe(thread.warp, lane), chain, thread.row)
            b.machine.clocks.tick(thread.row, thread.agent)

    return step


def _multicast(b: Builder, x: Unit, found: tuple[Cta, MBarrier], ranks: int) -> list[tuple[Cta, MBarrier]]:
    """The barriers at one offset in every CTA of a mask."""
    owner, barrier = found
    offset = next(at for at, known in owner.mbarriers.items() if known is barrier)
    targets = []
    for rank in range(16):
        if ranks >> rank & 1:
            targets.append(find_barrier(b, x, "shared::cluster", rank << RANK_SHIFT | offset, None))
    return targets


def _signal(
    b: Builder, x: Unit, targets: list[tuple[Cta, MBarrier]], pipe: Source, chain: tuple[str, int], row: int
) -> None:
    """Arrive at barriers once everything the pipe has issued so far is complete.

    The operations happened after what their issuer (clock ``row``) knew, so whoever waits learns that too.
    """
    machine, who = b.machine, f"tcgen05.commit by {x.name}"
    epochs = {**pipe.follows, pipe.done: pipe.epoch, pipe.told: pipe.epoch}
    known = SyncClock()
    machine.clocks.release(row, known)
    for owner, _ in targets:
        if owner is not x.cta:
            owner.remote_uses[pipe.done] = (pipe.epoch, b.pc)

    def run() -> None:
        for owner, barrier in targets:
            barrier.arriving.join(known)
            for agent, epoch in epochs.items():
                barrier.arriving.add_epoch(agent, epoch)
            try:
                barrier.arrive(1, who, b.pc)
            except BarrierFault as fault:
                raise machine.recorder.fatal(fault.kind, str(fault), b.pc, who) from None
            finish_phase(b, None, barrier, owner)

    machine.count("tcgen05.commit")
    machine.issue(AsyncOperation(run, who, chain, b.pc))


class _MmaOperands:
    """Reads the operands of a ``tcgen05.mma`` for one lane."""

    def __init__(self, b: Builder) -> None:
        self.kind = b.modifiers["kind"].removeprefix("kind::")
        self.group = cta_group(b)
        self._u32, self._u64 = type_id("u32"), type_id("u64")
        self._d = b.address(0)
        self._a_in_tmem = isinstance(b.operands[1], Mem)
        self._a: Any = b.address(1) if self._a_in_tmem else b.source(1, "u64")
        self._b = b.source(2, "u64")
        self._idesc = b.source(3, "u32")
        self._scales: list[Callable[[Unit], NDArray[np.int64]]] = []
        self._mask: list[Any] = []
        position = 4
        if b.instruction.semantic == "tcgen05.mma_scaled":
            self._scales = [b.address(4), b.address(5)]
            position = 6
        elif isinstance(b.operands[4], Vec):
            self._mask = [b.source(item, "u32") for item in b.vector(4, 4 * self.group)]
            position = 5
        self._accumulate = b.predicate(b.operands[position])
        self._scale_count = self._count_scales(b)
        self._scale_input_d = 0
        if len(b.operands) > position + 1:
            self._scale_input_d = b.immediate(position + 1)
            if self.kind not in ("f16", "tf32") or not 0 <= self._scale_input_d <= _MAX_INPUT_SCALE:
                raise b.error("scale-input-d is for kind::f16 and kind::tf32", need="0 to 15")

    def _count_scales(self, b: Builder) -> int:
        if not self._scales:
            return 0
        block = b.modifiers.get("block")
        if block in _SCALE_COUNTS:
            return _SCALE_COUNTS[block]
        if block is None and self.kind == "mxf4nvf4":
            raise b.error("kind::mxf4nvf4 needs the size of its scale vector", need=".block16 or .block32")
        return 1 if self.kind == "mxf8f6f4" else 2

    def __call__(self, x: Unit, lane: int) -> matrix.MatrixMultiply:
        """The operation one lane issues.

        Raises:
            EmulationError: an illegal descriptor.
        """
        words, longs = x.views[self._u32], x.views[self._u64]
        a = int(self._a(x)[lane]) if self._a_in_tmem else decode_tcgen05(_at(longs[self._a], lane))
        disabled = None
        if self._mask:
            masks = np.array([_at(words[key], lane) for key in self._mask], np.uint32)
            disabled = np.unpackbits(masks.view(np.uint8), bitorder="little").astype(np.bool_)
        scales = [int(address(x)[lane]) for address in self._scales] or [None, None]
        operation = matrix.MatrixMultiply(
            shape=decode_instruction(_at(words[self._idesc], lane), self.kind),
            cta_group=self.group,
            d=int(self._d(x)[lane]),
            a=a,
            b=decode_tcgen05(_at(longs[self._b], lane)),
            accumulate=bool(self._accumulate(x)[lane]),
            scale_input_d=self._scale_input_d,
            disabled=disabled,
            scale_a=scales[0],
            scale_b=scales[1],
            scale_count=self._scale_count,
        )
        operation.check()
        return operation


def _at(values: Any, lane: int) -> int:
    """The value of a register or constant in one lane."""
    return int(values[lane]) if np.ndim(values) else int(values)


def _lanes(x: Unit) -> Iterator[tuple[Thread, int, int]]:
    """Every active lane: the thread it acts as, its number in the warp, and in the unit."""
    for thread in x.threads():
        first = x.thread_lanes(thread).start
        for lane in np.flatnonzero(x.mask[first : first + 32]).tolist():
            yield thread, lane, first + lane


def _issuing(b: Builder, decode: Decode) -> Step:
    """A step in which every active lane issues the operation it decodes to."""
    cores, group = tensor_cores(b.machine), cta_group(b)

    def step(x: Unit) -> None:
        for thread, lane, position in _lanes(x):
            try:
                ctas = cores.group(x.cta, group)
                operation = decode(x, position)
                pipe = cores.order.pipe(thread.warp, lane)
                _issue(b, x, cores, ctas, thread, pipe, operation)
            except MemoryFault as fault:
                raise b.fault(x, fault.kind, str(fault)) from None
            except EmulationError as error:
                raise b.fault(x, Kind.DESCRIPTOR, _one_line(error)) from None

    return step


def _issue(
    b: Builder, x: Unit, cores: TensorCores, ctas: list[Cta], thread: Thread, pipe: Source, operation: Operation
) -> None:
    """Check an operation and hand it to the tensor cores.

    Raises:
        MemoryFault, EmulationError: it cannot be carried out.
    """
    machine = b.machine
    memories = [cores.memory(cta) for cta in ctas]
    touched = operation.accesses(memories)
    access = cores.order.access(thread, pipe, b.pc)
    identity = operation.identity if isinstance(operation, matrix.MatrixMultiply) else 0
    if len(ctas) > 1 and cores.issuers.setdefault(cores.pair_key(x.cta), x.cta.rank) != x.cta.rank:
        b.finding(x, Kind.TCGEN05_ORDER, "both CTAs of a pair issue cta_group::2 operations; only one may")
    for part in touched:
        _check_tensor_memory(b, x, cores, thread, access, memories[part.cta], part, identity)
        _check_shared_memory(b, x, thread, access, ctas[part.cta], part)
        if ctas[part.cta] is not x.cta:
            ctas[part.cta].remote_uses[access.agent] = (access.epoch, b.pc)
    label = f"{b.instruction.semantic} of {thread.warp.label}"
    shared = [cta.shared for cta in ctas]

    def run() -> None:
        try:
            operation.execute(shared, memories, machine.exact)
        except MemoryFault as fault:
            raise machine.recorder.fatal(fault.kind, str(fault), b.pc, label) from None
        except EmulationError as error:
            raise machine.recorder.fatal(Kind.TMEM_ACCESS, _one_line(error), b.pc, label) from None

    machine.count(b.instruction.semantic)
    machine.issue(AsyncOperation(run, label, _chain(ctas), b.pc))


def _chain(ctas: list[Cta]) -> tuple[str, int]:
    return "tcgen05", ctas[0].index


def _one_line(error: EmulationError) -> str:
    """An error as the text of a finding."""
    details = [f"{label} {text}" for label, text in (("got", error.got), ("need", error.need)) if text]
    return "; ".join([error.what, *details])


def _check_tensor_memory(
    b: Builder,
    x: Unit,
    cores: TensorCores,
    thread: Thread,
    access: Access,
    memory: TensorMemory,
    part: matrix.Access,
    identity: int,
) -> None:
    """Report tensor memory that something unordered, or an mma that does not pipeline with this one, uses."""
    shadow = memory.shadow
    for words in (*part.reads, part.writes):
        writer = shadow.writer[words]
        other = memory.accumulator[words]
        incomplete = shadow.write_epoch[words] > access.visible[writer]
        if ((other != 0) & (other != identity) & incomplete).any():
            at = int(np.argmax((other != 0) & (other != identity) & incomplete))
            text = "it uses the accumulator of an earlier tcgen05.mma that may be in flight; only mma on the same"
            text += " accumulator with the same shape follow each other without a commit and a wait"
            b.finding(x, Kind.TCGEN05_ORDER, text, int(shadow.write_pc[words][at]))
            break
    for words in part.reads:
        report_conflict(b, x, cores, thread, shadow.read(access, words), "it reads")
    report_conflict(b, x, cores, thread, shadow.write(access, part.writes), "it overwrites")
    memory.accumulator[part.writes] = identity


def _check_shared_memory(b: Builder, x: Unit, thread: Thread, access: Access, cta: Cta, part: matrix.Access) -> None:
    """Report operands in shared memory that are out of bounds, not written, or not ordered before."""
    clocks, shared = b.machine.clocks, cta.shared
    mine = Access(access.agent, access.epoch, clocks.order[thread.row], clocks.visible[thread.row], b.pc, True)
    for addresses in part.smem:
        shared.check(int(addresses.min()), int(addresses.max()) + 1)
        if not shared.written[addresses].all():
            offset = int(addresses.reshape(-1)[np.argmin(shared.written[addresses])])
            text = f"an operand includes shared byte {offset} of cta {cta.index}, which nothing has written"
            b.finding(x, Kind.UNINITIALIZED_MEMORY, text)
        conflict = shared.shadow.read(mine, _granules(addresses))
        if conflict is not None:
            label = clocks.labels[conflict.agent]
            text = f"an operand in shared memory of cta {cta.index} is not ordered after a {conflict.what} by {label}"
            b.finding(x, conflict.kind, text, conflict.pc)


def _granules(addresses: NDArray[np.int64]) -> NDArray[np.int64]:
    """The 4-byte granules of an operand's byte addresses, without repetition."""
    if (addresses[:, 3::4] - addresses[:, ::4] == 3).all():
        return addresses[:, ::4].reshape(-1) >> 2
    return np.unique(addresses >> 2)
