"""Which registers an instruction writes and reads, and which reads may see a register that nothing wrote."""

from __future__ import annotations

from dataclasses import dataclass

from gemmgen.emulator.ptx.operands import Mem, PairOf, Reg, Vec, registers_in
from gemmgen.emulator.ptx.program import Decoded, Program

_NO_DESTINATION_FAMILIES = ("control", "fence", "bulk", "cp", "map", "async", "tcgen05")
_NO_DESTINATION = frozenset(
    (
        *(
            "mem.st",
            "mem.red",
            "mem.stmatrix",
            "mem.prefetch",
            "mem.prefetch_map",
            "mem.stbulk",
            "bar.sync",
            "bar.cluster",
        ),
        *("mbar.init", "mbar.inval", "mbar.tx", "warp.sync", "wgmma.fence", "wgmma.commit", "wgmma.wait"),
    )
)


def destinations(instruction: Decoded) -> list[Reg]:
    """The registers an instruction writes."""
    semantic = instruction.semantic
    if semantic == "tcgen05.ld":
        return registers_in(instruction.operands[0])
    if semantic in _NO_DESTINATION or semantic.split(".")[0] in _NO_DESTINATION_FAMILIES or not instruction.operands:
        return []
    first = instruction.operands[0]
    return [] if isinstance(first, Mem) else registers_in(first)


def sources(instruction: Decoded) -> list[Reg]:
    """The registers an instruction reads, its guard included; wgmma's accumulator is not, since a flag decides."""
    operands = instruction.operands
    if destinations(instruction) or (
        operands and isinstance(operands[0], (Vec, PairOf)) and _writes_first(instruction)
    ):
        operands = operands[1:]
    found = [register for operand in operands for register in registers_in(operand)]
    return found if instruction.guard is None else [instruction.guard, *found]


def _writes_first(instruction: Decoded) -> bool:
    return instruction.semantic in ("warp.shfl", "warp.elect", "mem.ld", "tcgen05.ld")


@dataclass(frozen=True)
class Undefined:
    """Result of ``find_maybe_undefined``.

    Attributes:
        registers: registers that some read may see unwritten; only their definedness is tracked at run time.
        reads: per instruction index, the registers to check there.
    """

    registers: frozenset[Reg]
    reads: dict[int, tuple[Reg, ...]]


def find_maybe_undefined(program: Program) -> Undefined:
    """Registers that are not written on every path to a read (guarded writes count as not written)."""
    masks: dict[Reg, int] = {}
    everything = 0
    for instruction in program.instructions:
        for register in (*destinations(instruction), *sources(instruction)):
            if register not in masks:
                masks[register] = 1 << len(masks)
                everything |= masks[register]
    written = [_written_in(program, block.start, block.end, masks) for block in program.blocks]
    defined_at = _solve(program, written, everything)
    reads: dict[int, tuple[Reg, ...]] = {}
    for block in program.blocks:
        defined = defined_at[block.index]
        for instruction in program.instructions[block.start : block.end]:
            missing = tuple(r for r in _checked_reads(instruction) if not masks[r] & defined)
            if missing:
                reads[instruction.index] = tuple(dict.fromkeys(missing))
            if instruction.guard is None:
                for register in destinations(instruction):
                    defined |= masks[register]
    return Undefined(frozenset(r for group in reads.values() for r in group), reads)


def _checked_reads(instruction: Decoded) -> list[Reg]:
    if instruction.semantic == "wgmma.mma":
        return sources(instruction) + destinations(instruction)
    return sources(instruction)


def _written_in(program: Program, start: int, end: int, masks: dict[Reg, int]) -> int:
    written = 0
    for instruction in program.instructions[start:end]:
        if instruction.guard is None:
            for register in destinations(instruction):
                written |= masks[register]
    return written


def _solve(program: Program, written: list[int], everything: int) -> list[int]:
    predecessors: list[list[int]] = [[] for _ in program.blocks]
    for block in program.blocks:
        for successor in block.successors:
            predecessors[successor].append(block.index)
    entry = [everything] * len(program.blocks)
    entry[0] = 0
    changed = True
    while changed:
        changed = False
        for block in program.blocks[1:]:
            value = everything
            for predecessor in predecessors[block.index]:
                value &= entry[predecessor] | written[predecessor]
            if value != entry[block.index]:
                entry[block.index] = value
                changed = True
    return entry
