"""Registers that asynchronous instructions own: wgmma until its group is waited for, tcgen05.ld until wait::ld."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gemmgen.emulator.machine.scheduler import AsyncOperation
from gemmgen.emulator.ptx.dataflow import destinations, sources
from gemmgen.emulator.ptx.operands import Reg, Vec
from gemmgen.emulator.ptx.program import Decoded
from gemmgen.emulator.report import Kind

if TYPE_CHECKING:
    from gemmgen.emulator.machine.machine import Machine
    from gemmgen.emulator.machine.unit import Unit, Wait

Step = Callable[["Unit"], "Wait | None"]


def owned_registers(instructions: list[Decoded]) -> frozenset[Reg]:
    """Registers that asynchronous instructions may own, and copies of them."""
    found: set[Reg] = set()
    for instruction in instructions:
        if instruction.semantic in ("wgmma.mma", "tcgen05.ld"):
            for operand in instruction.operands[: 2 if instruction.semantic == "wgmma.mma" else 1]:
                if isinstance(operand, Vec):
                    found.update(item for item in operand.items if isinstance(item, Reg))
    size = -1
    while size != len(found):
        size = len(found)
        found.update(i.operands[0] for i in instructions if _renames(i) and i.operands[1] in found)  # type: ignore[misc]
    return frozenset(found)


def guard_owned_registers(machine: Machine, instruction: Decoded, owned: frozenset[Reg], step: Step) -> Step:
    """Report registers that an unfinished wgmma owns, and remember accesses that a wgmma.fence must follow."""
    touched = frozenset(r for r in (*sources(instruction), *destinations(instruction)) if r in owned)
    if not touched:
        return step
    renaming = instruction.operands if _renames(instruction) else None
    # Compilers place plain moves wherever they like, after a wgmma.fence too, and ptxas orders them itself.
    accessed = frozenset() if instruction.semantic == "mov" else touched

    def watched(x: Unit) -> Wait | None:
        if x.owned and not touched.isdisjoint(x.owned):
            if renaming and renaming[1] in x.owned and renaming[0] not in x.owned:
                _rename_owned(x, renaming[0], renaming[1], instruction.index)  # type: ignore[arg-type]
                return None
            register = next(r for r in touched if r in x.owned)
            loaded = _is_load(machine, x.owned[register])
            owner = "tcgen05.ld" if loaded else "wgmma"
            text = f"{register.name} is touched while a {owner} that was not waited for owns it"
            kind = Kind.TCGEN05_ORDER if loaded else Kind.WGMMA_REGISTER
            machine.recorder.add(kind, text, instruction.index, x.name, x.owned[register])
        x.dirty |= accessed
        return step(x)

    return watched


def own_loaded_registers(instruction: Decoded, step: Step) -> Step:
    """The registers of a tcgen05.ld may not be touched before tcgen05.wait::ld."""
    registers = destinations(instruction)

    def owning(x: Unit) -> Wait | None:
        wait = step(x)
        if wait is None:
            x.owned.update(dict.fromkeys(registers, instruction.index))
        return wait

    return owning


def disown_loaded_registers(machine: Machine, step: Step) -> Step:
    """After tcgen05.wait::ld the registers of all loads are free."""

    def disowning(x: Unit) -> Wait | None:
        wait = step(x)
        if wait is None:
            for register in [register for register, pc in x.owned.items() if _is_load(machine, pc)]:
                del x.owned[register]
        return wait

    return disowning


def _rename_owned(x: Unit, target: Reg, source: Reg, pc: int) -> None:
    """Copy a register that a running wgmma will write: the copy happens when that wgmma is done.

    ptxas gives both names one register, so the compiler's copies at loop edges are no accesses; using the copy before
    the wait is one.
    """
    cta = x.cta
    words = x.base["b32"]
    x.owned[target] = x.owned[source]
    if _is_load(cta.machine, x.owned[source]):
        np.copyto(words[target.index], words[source.index], where=x.where)
        return
    to, origin = target.index, source.index

    def run() -> None:
        words[to] = words[origin]

    chain = ("wgmma", cta.index, x.warps[0].index // 4)
    operation = cta.machine.issue(AsyncOperation(run, "register copy", chain, pc))
    for warp in x.warps:
        state = cta.wgmma_states[warp.index]
        epoch, issuer = state.owned[source]
        state.owned[target] = (epoch, issuer)
        group = state.groups[epoch - 1] if epoch <= len(state.groups) else state.current
        group.append(operation)


def _renames(instruction: Decoded) -> bool:
    """A plain register copy, as the compiler makes at the joins of control flow."""
    plain = instruction.semantic == "mov" and instruction.guard is None
    return plain and all(isinstance(operand, Reg) and operand.kind == "b32" for operand in instruction.operands)


def _is_load(machine: Machine, pc: int) -> bool:
    return machine.program.instructions[pc].semantic == "tcgen05.ld"
