"""What a warp knows of its warpgroup's wgmma pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field

from gemmgen.emulator.machine.scheduler import AsyncOperation
from gemmgen.emulator.ptx.operands import Reg


@dataclass
class WgmmaState:
    """One warp's view of its warpgroup's wgmma pipeline.

    Attributes:
        groups: operations of each committed group.
        current: operations issued and not committed.
        owned: registers of unfinished operations → (group number, issuing instruction).
        last_shape: accumulator and shape of the last operation; one with the same may follow without a fence.
        fenced: a wgmma.fence has been executed.
        issued: operations so far.
    """

    groups: list[list[AsyncOperation]] = field(default_factory=list)
    current: list[AsyncOperation] = field(default_factory=list)
    owned: dict[Reg, tuple[int, int]] = field(default_factory=dict)
    last_shape: tuple[frozenset[Reg], str] | None = None
    fenced: bool = False
    issued: int = 0
