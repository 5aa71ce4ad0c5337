"""What a warp knows of its warpgroup's wgmma pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field

from gemmgen.emulator.machine.scheduler import AsyncOperation
from gemmgen.emulator.ptx.operands import Reg

Accumulator = tuple[tuple[Reg, ...], str]
"""An accumulator's registers in order, and the shape of the multiplication."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The unfinished operation that owns a register.

    Attributes:
        epoch: its group's number, from 1.
        pc: the instruction that issued it.
        accumulator: the accumulator that the register is of; None for a fragment of A.
    """

    epoch: int
    pc: int
    accumulator: Accumulator | None


@dataclass
class WgmmaState:
    """One warp's view of its warpgroup's wgmma pipeline.

    Attributes:
        groups: operations of each committed group.
        current: operations issued and not committed.
        owned: registers of unfinished operations and their copies.
        fenced: a wgmma.fence has been executed.
        issued: operations so far.
    """

    groups: list[list[AsyncOperation]] = field(default_factory=list)
    current: list[AsyncOperation] = field(default_factory=list)
    owned: dict[Reg, Owner] = field(default_factory=dict)
    fenced: bool = False
    issued: int = 0
