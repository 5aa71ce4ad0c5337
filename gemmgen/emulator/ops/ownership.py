"""Registers that asynchronous instructions own: wgmma until its group is waited for, tcgen05.ld until wait::ld.

NVVM moves accumulators between registers where it likes, next to multiplications in flight too, and ptxas gives both
names one register. So a plain move of an owned register makes a *copy*, which is owned as well and gets the value when
the owner is done; touching a copy is touching what it is a copy of. Where one register cannot serve, ptxas must wait,
and a finding says so: a move under divergence or a guard, a move of something else over an owned register, the use of a
copy after a later wgmma took the register it is a copy of.

A plain move after wgmma.fence is no access either, unless what it moves was computed after the fence. NVVM puts the
zeros of accumulators there, in shipped kernels too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from gemmgen.emulator.machine.scheduler import AsyncOperation
from gemmgen.emulator.machine.wgmma_state import Accumulator, Owner
from gemmgen.emulator.ptx.dataflow import destinations, sources
from gemmgen.emulator.ptx.operands import Reg, Vec
from gemmgen.emulator.ptx.program import Decoded
from gemmgen.emulator.report import Kind

if TYPE_CHECKING:
    from gemmgen.emulator.machine.machine import Machine
    from gemmgen.emulator.machine.unit import Unit, Wait

Step = Callable[["Unit"], "Wait | None"]
_WIDE_MOVES = ("b64", "u64", "s64", "f64")


class RegisterGuard:
    """Wraps the steps of a program that touch registers which asynchronous instructions use."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        instructions = machine.program.instructions
        operands = frozenset(_asynchronous_operands(instructions, ("wgmma.mma", "tcgen05.ld")))
        multiplied = frozenset(_asynchronous_operands(instructions, ("wgmma.mma",)))
        renames = [(i.operands[0], i.operands[1]) for i in instructions if _is_rename(i)]
        self._ownable = _closure(operands, renames)
        self._feeding = _closure(multiplied, [(source, target) for target, source in renames])

    def wrap(self, instruction: Decoded, step: Step) -> Step:
        """The step with the checks that its registers need."""
        written = destinations(instruction)
        touched = frozenset(r for r in (*sources(instruction), *written) if r in self._ownable)
        computed = frozenset(r for r in written if r in self._feeding)
        if not touched and not computed:
            return step
        if _is_plain_move(instruction):
            return self._move(instruction, step)
        return self._access(instruction, step, touched, computed)

    def _access(self, instruction: Decoded, step: Step, touched: frozenset[Reg], computed: frozenset[Reg]) -> Step:
        free = _is_wide_move(instruction)
        accessed = frozenset() if free else touched
        computed = frozenset() if free else computed
        read = frozenset(sources(instruction))
        written = frozenset(destinations(instruction))

        def watched(x: Unit) -> Wait | None:
            known = x.ownership
            if known.owned and not touched.isdisjoint(known.owned):
                self._report_owned(x, touched, instruction.index)
            if known.stale:
                self._report_stale(x, read, instruction.index)
                for register in written & known.stale.keys():
                    del known.stale[register]
            known.accessed |= accessed
            if computed:
                known.computed |= computed
            return step(x)

        return watched

    def _move(self, instruction: Decoded, step: Step) -> Step:
        target, other = instruction.operands
        assert isinstance(target, Reg)
        source = other if isinstance(other, Reg) else None
        moved = frozenset((target,) if source is None else (target, source))

        def watched(x: Unit) -> Wait | None:
            known = x.ownership
            if known.owned and not moved.isdisjoint(known.owned):
                if source is not None and x.full and _copy_owned(x, target, source, instruction.index):
                    return None
                self._report_owned(x, moved, instruction.index)
            known.move(target, source)
            return step(x)

        return watched

    def _report_owned(self, x: Unit, touched: frozenset[Reg], pc: int) -> None:
        known = x.ownership
        register = min((r for r in touched if r in known.owned), key=lambda r: r.index)
        issuer = known.owned[register]
        loaded = _is_load(self._machine, issuer)
        root = known.root(register)
        name = register.name if root == register else f"{register.name}, a copy of {root.name},"
        text = f"{name} is touched while a {'tcgen05.ld' if loaded else 'wgmma'} that was not waited for owns it"
        kind = Kind.TCGEN05_ORDER if loaded else Kind.WGMMA_REGISTER
        self._machine.recorder.add(kind, text, pc, x.name, issuer)

    def _report_stale(self, x: Unit, read: Iterable[Reg], pc: int) -> None:
        known = x.ownership
        for register in read:
            if register in known.stale:
                text = stale_text(register)
                self._machine.recorder.add(Kind.WGMMA_REGISTER, text, pc, x.name, known.stale[register])
                return


def stale_text(register: Reg) -> str:
    """The finding about a copy that was made between two multiplications in flight."""
    return f"{register.name} was copied from an accumulator in flight with which a later wgmma then went on"


def own_operands(x: Unit, d_registers: tuple[Reg, ...], a_registers: tuple[Reg, ...], shape: str, pc: int) -> None:
    """A wgmma of the group that is being filled takes its registers; copies of its accumulator are left behind."""
    known = x.ownership
    if known.copies:
        _leave_copies(x, frozenset(d_registers), pc)
    accumulator: Accumulator = (d_registers, shape)
    taken: dict[int, dict[Reg, Owner]] = {}
    for warp in x.warps:
        state = x.cta.wgmma_states[warp.index]
        epoch = len(state.groups) + 1
        if epoch not in taken:
            taken[epoch] = dict.fromkeys(a_registers, Owner(epoch, pc, None))
            taken[epoch].update(dict.fromkeys(d_registers, Owner(epoch, pc, accumulator)))
        state.owned.update(taken[epoch])
    known.owned.update(dict.fromkeys((*d_registers, *a_registers), pc))
    for register in d_registers if known.stale else ():
        known.stale.pop(register, None)


def _leave_copies(x: Unit, taken: frozenset[Reg], pc: int) -> None:
    """Everything that shares a register with the operands a wgmma takes holds the value before it from now on."""
    known = x.ownership
    roots = {known.root(register) for register in taken}
    for register in [r for r in known.owned if known.root(r) in roots and r not in taken]:
        known.stale[register] = pc
    for register in taken:
        known.copies.pop(register, None)


def conflicting_operand(x: Unit, d_registers: tuple[Reg, ...], a_registers: tuple[Reg, ...], shape: str) -> Reg | None:
    """A register of a wgmma that an unfinished one uses in another way; None if they may follow each other.

    Only wgmma of one shape on one accumulator do without a wait, and fragments of A may be read twice.
    """
    known, owned = x.ownership, x.cta.wgmma_states[x.warps[0].index].owned
    if not owned:
        return None
    accumulator: Accumulator = (tuple(map(known.root, d_registers)), shape)
    checked = None
    for register, root in zip(d_registers, accumulator[0], strict=True):
        owner = owned.get(root)
        if owner is not None and owner is not checked and owner.accumulator != accumulator:
            return register
        checked = owner
    for register in a_registers:
        owner = owned.get(known.root(register))
        if owner is not None and owner.accumulator is not None:
            return register
    return None


def own_loaded_registers(instruction: Decoded, step: Step) -> Step:
    """The registers of a tcgen05.ld may not be touched before tcgen05.wait::ld."""
    registers = destinations(instruction)

    def owning(x: Unit) -> Wait | None:
        wait = step(x)
        if wait is None:
            x.ownership.owned.update(dict.fromkeys(registers, instruction.index))
        return wait

    return owning


def disown_loaded_registers(machine: Machine, step: Step) -> Step:
    """After tcgen05.wait::ld the registers of all loads are free."""

    def disowning(x: Unit) -> Wait | None:
        wait = step(x)
        if wait is None:
            known = x.ownership
            for register in [register for register, pc in known.owned.items() if _is_load(machine, pc)]:
                known.release(register)
        return wait

    return disowning


def _copy_owned(x: Unit, target: Reg, source: Reg, pc: int) -> bool:
    """Copy an owned register: the copy gets its value when the owner is done.

    Returns:
        Whether ptxas can give both names one register.
    """
    known = x.ownership
    if source not in known.owned or source in known.stale:
        return False
    root = known.root(source)
    if target in known.owned and target not in known.copies:
        return target == root
    issuer = known.owned[root]
    known.owned[target], known.copies[target] = issuer, root
    known.stale.pop(target, None)
    words = x.base["b32"]
    if _is_load(x.cta.machine, issuer):
        np.copyto(words[target.index], words[source.index], where=x.where)
        return True
    _copy_when_done(x, target, source, pc)
    return True


def _copy_when_done(x: Unit, target: Reg, source: Reg, pc: int) -> None:
    cta, words = x.cta, x.base["b32"]
    to, origin = target.index, source.index

    def run() -> None:
        words[to] = words[origin]

    chain = ("wgmma", cta.index, x.warps[0].index // 4)
    operation = cta.machine.issue(AsyncOperation(run, "register copy", chain, pc))
    for warp in x.warps:
        state = cta.wgmma_states[warp.index]
        owner = state.owned[target] = state.owned[source]
        group = state.groups[owner.epoch - 1] if owner.epoch <= len(state.groups) else state.current
        group.append(operation)


def _asynchronous_operands(instructions: list[Decoded], semantics: tuple[str, ...]) -> Iterable[Reg]:
    """Registers that an engine reads or writes while the thread goes on."""
    for instruction in instructions:
        if instruction.semantic in semantics:
            for operand in instruction.operands[: 2 if instruction.semantic == "wgmma.mma" else 1]:
                if isinstance(operand, Vec):
                    yield from (item for item in operand.items if isinstance(item, Reg))


def _closure(registers: frozenset[Reg], edges: list[tuple]) -> frozenset[Reg]:
    """Registers and every first end of an edge whose second end is among them."""
    found, size = set(registers), -1
    while size != len(found):
        size = len(found)
        found.update(first for first, second in edges if second in found)
    return frozenset(found)


def _is_plain_move(instruction: Decoded) -> bool:
    """A move of one register or constant into a 32-bit register, in every lane."""
    if instruction.semantic != "mov" or instruction.guard is not None or len(instruction.operands) != 2:
        return False
    target, source = instruction.operands
    return isinstance(target, Reg) and target.kind == "b32" and not isinstance(source, Vec)


def _is_rename(instruction: Decoded) -> bool:
    """A plain move between registers, as the compiler makes at the joins of control flow."""
    return _is_plain_move(instruction) and isinstance(instruction.operands[1], Reg)


def _is_wide_move(instruction: Decoded) -> bool:
    """Two registers as one of 64 bits, which costs ptxas nothing."""
    return instruction.semantic == "mov" and instruction.guard is None and instruction.modifiers["type"] in _WIDE_MOVES


def _is_load(machine: Machine, pc: int) -> bool:
    return machine.program.instructions[pc].semantic == "tcgen05.ld"
