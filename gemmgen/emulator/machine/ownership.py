"""What a unit knows of the registers that asynchronous instructions use."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from gemmgen.emulator.ptx.operands import Reg


@dataclass
class Ownership:
    """Registers that must not be touched now, and what has happened to registers since the last ``wgmma.fence``.

    Attributes:
        owned: registers of unfinished wgmma and tcgen05.ld, and their copies → the instruction that owns them.
        copies: copies of owned registers, made by plain moves → the register they are copies of.
        stale: copies whose register a later wgmma has taken before anyone waited → that wgmma. They stay here after the
            wait too: the value between two multiplications in flight cannot be had.
        accessed: registers accessed since the last fence by anything but plain moves.
        computed: registers whose value something but a plain move has made since the last fence.
    """

    owned: dict[Reg, int] = field(default_factory=dict)
    copies: dict[Reg, Reg] = field(default_factory=dict)
    stale: dict[Reg, int] = field(default_factory=dict)
    accessed: set[Reg] = field(default_factory=set)
    computed: set[Reg] = field(default_factory=set)

    def copy(self) -> Ownership:
        """The same knowledge for another unit."""
        return Ownership(**{part.name: getattr(self, part.name).copy() for part in fields(self)})

    def root(self, register: Reg) -> Reg:
        """The register that an owned one is a copy of, or itself."""
        return self.copies.get(register, register)

    def release(self, register: Reg) -> None:
        """Its owner has been waited for."""
        self.owned.pop(register, None)
        self.copies.pop(register, None)

    def fence(self) -> None:
        """``wgmma.fence``: what was accessed before is ordered before the next wgmma."""
        self.accessed.clear()
        self.computed.clear()

    def move(self, target: Reg, source: Reg | None) -> None:
        """A plain move takes along what is known of the value; a source of None is a constant."""
        if source in self.computed:
            self.computed.add(target)
            self.accessed.add(target)
        else:
            self.computed.discard(target)
        if source in self.stale:
            self.stale[target] = self.stale[source]
        else:
            self.stale.pop(target, None)
