"""The tcgen05 state of a launch: tensor memory per CTA, ordering, and the calls in which two CTAs of a pair meet."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from gemmgen.emulator.machine.memory import MemoryFault
from gemmgen.emulator.machine.scheduler import Adversarial
from gemmgen.emulator.report import Kind
from gemmgen.emulator.tcgen05.order import TensorOrder
from gemmgen.emulator.tcgen05.tensor_memory import TensorMemory

if TYPE_CHECKING:
    from gemmgen.emulator.machine.cta import Cta
    from gemmgen.emulator.machine.machine import Machine


@dataclass(eq=False)
class PairCall:
    """A warp's half of an allocation or deallocation that both CTAs of a pair make.

    Attributes:
        memory: the tensor memory of the warp's CTA.
        columns: its operand.
        address: its tensor memory address (deallocation), or the result (allocation).
        pc: the instruction.
        done: both halves have met and the operation has been carried out.
    """

    memory: TensorMemory
    columns: int
    address: int
    pc: int
    done: bool = False


@dataclass
class _Meeting:
    """Calls of one kind that wait for the peer, by CTA rank parity."""

    waiting: tuple[deque[PairCall], deque[PairCall]] = field(default_factory=lambda: (deque(), deque()))


class TensorCores:
    """Everything tcgen05 in a launch; ``tensor_cores(machine)`` gives the one of a machine.

    Attributes:
        order: the ordering state.
        cta_group: the group of all instructions, 1 or 2; 0 until one is built.
        issuers: per pair, the rank of the CTA that issues its ``cta_group::2`` operations.
    """

    def __init__(self, machine: Machine) -> None:
        self.order = TensorOrder(machine.clocks)
        self.cta_group = 0
        self.issuers: dict[tuple[int, int], int] = {}
        self._clocks = machine.clocks
        self._recorder = machine.recorder
        self._from_top = isinstance(machine.policy, Adversarial)
        self._memories: dict[int, TensorMemory] = {}
        self._meetings: dict[tuple[int, int, str], _Meeting] = {}

    def memory(self, cta: Cta) -> TensorMemory:
        """A CTA's tensor memory, made when first asked for."""
        memory = self._memories.get(cta.index)
        if memory is None:
            # Nothing kept here may refer to the machine: the table of all states holds it weakly.
            memory = TensorMemory(f"tensor memory of cta {cta.index}", self._clocks, self._from_top)
            self._memories[cta.index] = memory
            cta.exit_checks.append(lambda: self._check_exit(cta, memory))
        return memory

    def group(self, cta: Cta, cta_group: int) -> list[Cta]:
        """The CTAs that an operation works on: the CTA itself, or its pair, the even one first.

        Raises:
            MemoryFault: the CTA has no peer, or the peer has exited.
        """
        if cta_group == 1:
            return [cta]
        even = cta.rank & ~1
        by_rank = {other.rank: other for other in cta.cluster.ctas}
        if even + 1 not in by_rank:
            raise MemoryFault(Kind.TMEM_ACCESS, "cta_group::2 in a cluster without a peer CTA")
        pair = [by_rank[even], by_rank[even + 1]]
        for other in pair:
            if other.exited:
                raise MemoryFault(Kind.EXIT_PEER, f"cta_group::2 after the peer, cta {other.index}, has exited")
        return pair

    def pair_key(self, cta: Cta) -> tuple[int, int]:
        """What identifies a CTA's pair."""
        return cta.cluster.index, cta.rank & ~1

    def meet(self, kind: str, cta: Cta, call: PairCall) -> None:
        """Enter one half of a pair's call; ``advance`` carries it out once both are there."""
        meeting = self._meetings.setdefault((*self.pair_key(cta), kind), _Meeting())
        meeting.waiting[cta.rank & 1].append(call)

    def can_advance(self, kind: str, cta: Cta) -> bool:
        """Whether ``advance`` would carry a call out, or find it illegal."""
        meeting = self._meetings[(*self.pair_key(cta), kind)]
        if not all(meeting.waiting):
            return False
        return kind == "dealloc" or all(queue[0].memory.has_room(queue[0].columns) for queue in meeting.waiting)

    def advance(self, kind: str, cta: Cta) -> None:
        """Carry out the next call of the pair if both halves are there and the columns are free.

        Raises:
            MemoryFault: the halves disagree, or the call is illegal.
        """
        meeting = self._meetings[(*self.pair_key(cta), kind)]
        if not all(meeting.waiting):
            return
        halves = [queue[0] for queue in meeting.waiting]
        if halves[0].columns != halves[1].columns or (kind == "dealloc" and halves[0].address != halves[1].address):
            raise MemoryFault(
                Kind.TMEM_ALLOCATION,
                f"the CTAs of a pair call tcgen05.{kind} with different operands: "
                + " and ".join(f"{half.columns} columns at 0x{half.address:x}" for half in halves),
            )
        if kind == "dealloc":
            for half in halves:
                half.memory.release(half.address, half.columns)
        elif not self._allocate_both(halves):
            return
        for queue in meeting.waiting:
            queue.popleft().done = True

    @staticmethod
    def _allocate_both(halves: list[PairCall]) -> bool:
        if any(half.memory.find(half.columns) is None for half in halves):
            return False
        for half in halves:
            half.address = half.memory.allocate(half.columns, half.pc) or 0
        return True

    def _check_exit(self, cta: Cta, memory: TensorMemory) -> None:
        """Nothing may stay allocated or in flight when a CTA's last thread leaves."""
        recorder, who = self._recorder, f"cta {cta.index}"
        self._memories.pop(cta.index, None)
        for allocation in memory.allocations.values():
            text = f"{allocation.columns} columns at 0x{allocation.column:x} are never deallocated"
            recorder.add(Kind.TMEM_ALLOCATION, text, allocation.pc, who)
        known = cta.exit_clock.order
        for warp in cta.warps:
            for source in self.order.pipes_of(warp):
                if source.done >= len(known) or known[source.done] < source.epoch:
                    text = f"{who} exits and nothing has waited for the last tcgen05 operations of {warp.label}"
                    recorder.add(Kind.EXIT_IN_FLIGHT, text, source.pc, who)


_STATES: WeakKeyDictionary[Machine, TensorCores] = WeakKeyDictionary()


def tensor_cores(machine: Machine) -> TensorCores:
    """The tcgen05 state of a machine."""
    if machine not in _STATES:
        _STATES[machine] = TensorCores(machine)
    return _STATES[machine]
