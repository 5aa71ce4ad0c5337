"""Shadow state of a memory: who wrote and read each granule last, and the checks that turn it into findings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.report import Kind

if TYPE_CHECKING:
    from gemmgen.emulator.machine.clocks import Clock, Clocks

Index = NDArray[np.int64] | slice


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two accesses that nothing orders.

    Attributes:
        kind: the class of finding.
        agent: the earlier access's agent.
        pc: the earlier access's instruction.
        what: ``write`` or ``read``, the earlier access.
        granule: index of the granule.
    """

    kind: Kind
    agent: int
    pc: int
    what: str
    granule: int


@dataclass(slots=True)
class Access:
    """Who accesses memory.

    Attributes:
        agent, epoch: what is recorded.
        order, visible: the clocks of the thread that accesses or that issued the asynchronous operation.
        pc: the instruction.
        asynchronous: whether the access is made through the async proxy.
        siblings: agents of the same warp, whose accesses count as ordered; their clocks start at this epoch.
    """

    agent: int
    epoch: int
    order: Clock
    visible: Clock
    pc: int
    asynchronous: bool = False
    siblings: frozenset[int] = frozenset()


class Shadow:
    """Shadow state of ``granules`` granules of memory."""

    def __init__(self, granules: int, clocks: Clocks) -> None:
        self._clocks = clocks
        self.writer = np.zeros(granules, np.int32)
        self.write_epoch = np.zeros(granules, np.int32)
        self.write_pc = np.full(granules, -1, np.int32)
        self.write_async = np.zeros(granules, np.bool_)
        self._reads: dict[int, NDArray[np.int32]] = {}
        self._read_pc: dict[int, int] = {}
        self._read_async: dict[int, bool] = {}

    def read(self, access: Access, where: Index) -> Conflict | None:
        """Check and record a read."""
        conflict = self._against_write(access, where)
        row = self._reads.get(access.agent)
        if row is None:
            row = self._reads[access.agent] = np.zeros(len(self.writer), np.int32)
        row[where] = access.epoch
        self._read_pc[access.agent] = access.pc
        self._read_async[access.agent] = access.asynchronous
        return conflict

    def unordered_writes(self, access: Access, where: Index) -> NDArray[np.bool_]:
        """Which granules an agent wrote last in no order with this access."""
        writer = self.writer[where]
        late = self.write_epoch[where] > access.order[writer]
        return late & ~np.isin(writer, list(access.siblings)) if access.siblings else late

    def check_write(self, access: Access, where: Index) -> Conflict | None:
        """Check a write that is not recorded."""
        return self._against_write(access, where, writing=True) or self._against_reads(access, where)

    def write(self, access: Access, where: Index) -> Conflict | None:
        """Check and record a write."""
        conflict = self.check_write(access, where)
        self.writer[where] = access.agent
        self.write_epoch[where] = access.epoch
        self.write_pc[where] = access.pc
        self.write_async[where] = access.asynchronous
        return conflict

    def _against_write(self, access: Access, where: Index, writing: bool = False) -> Conflict | None:
        writer = self.writer[where]
        epoch = self.write_epoch[where]
        first = int(writer[0]) if len(writer) else 0
        if len(writer) and (writer == first).all():
            return self._against_one_writer(access, where, first, int(epoch.max()), writing)
        late = epoch > access.order[writer]
        if access.siblings:
            late &= ~np.isin(writer, list(access.siblings))
        if late.any():
            at = int(np.argmax(late))
            return self._conflict(access, where, at, int(writer[at]), writing)
        if access.asynchronous:
            hidden = (epoch > access.visible[writer]) & ~self.write_async[where] & (writer != 0)
            if hidden.any():
                at = int(np.argmax(hidden))
                return Conflict(
                    Kind.PROXY_FENCE, int(writer[at]), int(self.write_pc[where][at]), "write", self._granule(where, at)
                )
        return None

    def _against_one_writer(
        self, access: Access, where: Index, writer: int, epoch: int, writing: bool
    ) -> Conflict | None:
        if writer == 0:
            return None
        if epoch > access.order[writer] and writer not in access.siblings:
            at = int(np.argmax(self.write_epoch[where] == epoch))
            return self._conflict(access, where, at, writer, writing)
        if access.asynchronous and epoch > access.visible[writer]:
            hidden = (self.write_epoch[where] > access.visible[writer]) & ~self.write_async[where]
            if hidden.any():
                at = int(np.argmax(hidden))
                return Conflict(
                    Kind.PROXY_FENCE, writer, int(self.write_pc[where][at]), "write", self._granule(where, at)
                )
        return None

    def _conflict(self, access: Access, where: Index, at: int, writer: int, writing: bool) -> Conflict:
        earlier_async = bool(self.write_async[where][at])
        if earlier_async and not writing:
            kind = Kind.ASYNC_READ_EARLY
        elif access.asynchronous and writing:
            kind = Kind.ASYNC_OVERWRITE
        else:
            kind = Kind.RACE
        return Conflict(kind, writer, int(self.write_pc[where][at]), "write", self._granule(where, at))

    def _against_reads(self, access: Access, where: Index) -> Conflict | None:
        for agent, row in self._reads.items():
            if agent == access.agent or agent in access.siblings:
                continue
            epochs = row[where]
            if len(epochs) and epochs.max() > access.order[agent]:
                at = int(np.argmax(epochs > access.order[agent]))
                if access.asynchronous:
                    kind = Kind.ASYNC_OVERWRITE
                else:
                    kind = Kind.SOURCE_REUSED if self._read_async[agent] else Kind.RACE
                return Conflict(kind, agent, self._read_pc[agent], "read", self._granule(where, at))
        return None

    @staticmethod
    def _granule(where: Index, at: int) -> int:
        return (where.start or 0) + at if isinstance(where, slice) else int(where[at])
