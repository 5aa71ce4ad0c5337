"""CTAs, their warpgroups, and clusters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gemmgen.emulator.machine.barriers import ClusterBarrier, Generation, NamedBarrier
from gemmgen.emulator.machine.bulk_groups import BulkGroups
from gemmgen.emulator.machine.clocks import SyncClock
from gemmgen.emulator.machine.mbarrier import MBarrier
from gemmgen.emulator.machine.memory import RANK_SHIFT, SHARED_RESERVED, SharedMemory
from gemmgen.emulator.machine.registers import RegisterFile
from gemmgen.emulator.machine.unit import WARP, Fragment, Unit, Warp
from gemmgen.emulator.machine.wgmma_state import WgmmaState
from gemmgen.emulator.report import Kind

if TYPE_CHECKING:
    from gemmgen.emulator.machine.machine import Machine

NUM_NAMED_BARRIERS = 16
WARPS_PER_GROUP = 4


class WarpGroup:
    """Up to four warps that start at a multiple of four, as one unit or as one unit each.

    Attributes:
        gang: the unit of all warps; None for an incomplete group.
        singles: one unit per warp.
        units: the units that run now.
    """

    def __init__(self, cta: Cta, warps: list[Warp]) -> None:
        self.cta = cta
        self.warps = warps
        lanes = WARP * len(warps)
        self.registers = RegisterFile(cta.machine.program.register_counts, lanes)
        self.live = np.ones(lanes, np.bool_)
        threads = cta.machine.block_threads - WARP * warps[0].index
        self.live[max(0, threads) :] = False
        self.singles = [
            Unit(cta, [warp], self.registers, self.live[WARP * n : WARP * n + WARP]) for n, warp in enumerate(warps)
        ]
        whole = len(warps) == WARPS_PER_GROUP and bool(self.live.all())
        self.gang = Unit(cta, warps, self.registers, self.live) if whole else None
        self.units: list[Unit] = [self.gang] if self.gang else list(self.singles)
        for unit in self.units:
            unit.fragments = [Fragment(0, 0, unit.live.copy())]
        self.label = f"cta {cta.index} warps {warps[0].index}-{warps[-1].index}"
        self.wgmma_agent = 0
        self.wgmma_log: dict[int, Any] = {}

    @property
    def dissolved(self) -> bool:
        """Whether the warps of a whole group run on their own."""
        return self.gang is not None and self.units[0] is not self.gang

    def dissolve(self) -> None:
        """Give every warp its own unit, at the place where it stands."""
        assert self.gang is not None
        gang = self.gang
        for position, single in enumerate(self.singles):
            lanes = slice(WARP * position, WARP * position + WARP)
            joins: dict[int, Any] = {}
            single.fragments = []
            for fragment in gang.fragments:
                if not fragment.mask[lanes].any():
                    continue
                copy = Fragment(
                    fragment.block,
                    fragment.step,
                    fragment.mask[lanes].copy(),
                    _slice_joins(fragment.joins, lanes, joins),
                )
                copy.solo = (copy.block, copy.step)
                index = single.warps[0].index
                if index in fragment.tokens:
                    copy.tokens[index] = fragment.tokens[index]
                single.fragments.append(copy)
            _drop_empty_joins(single)
            single.ownership = gang.ownership.copy()
        gang.fragments = []
        self.units = list(self.singles)

    def try_gang(self) -> Unit | None:
        """Join the warps into one unit if all stand at the same place, converged."""
        if not self.dissolved or not all(unit.lockstep() for unit in self.singles):
            return None
        fragments = [unit.fragments[0] for unit in self.singles]
        first = fragments[0]
        here = (first.block, first.step)
        if any((f.block, f.step) != here or f.solo == here or not f.parked for f in fragments):
            return None
        if not self.live.all() or any(f.wait is not None and not f.wait.ready() for f in fragments):
            return None
        if len({self.cta.wgmma_states[warp.index].issued for warp in self.warps}) > 1:
            return None
        if any(unit.ownership != self.singles[0].ownership for unit in self.singles):
            return None
        assert self.gang is not None
        tokens = {index: token for f in fragments for index, token in f.tokens.items()}
        if tokens and len(tokens) != WARPS_PER_GROUP:
            return None
        self.gang.fragments = [Fragment(first.block, first.step, self.live.copy(), (), None, tokens)]
        self.gang.ownership = self.singles[0].ownership.copy()
        for unit in self.singles:
            unit.fragments = []
        self.units = [self.gang]
        return self.gang


def _slice_joins(joins: tuple[Any, ...], lanes: slice, copies: dict[int, Any]) -> tuple[Any, ...]:
    result = []
    for meeting in joins:
        if id(meeting) not in copies:
            copies[id(meeting)] = type(meeting)(
                meeting.block, meeting.pending[lanes].copy(), meeting.arrived[lanes].copy()
            )
        result.append(copies[id(meeting)])
    return tuple(result)


def _drop_empty_joins(unit: Unit) -> None:
    """A warp whose lanes all stand in one fragment, or have arrived, need not meet anyone."""
    for fragment in unit.fragments:
        while fragment.joins:
            meeting = fragment.joins[-1]
            if not (meeting.pending == fragment.mask).all():
                break
            fragment.joins = fragment.joins[:-1]


class Cta:
    """One CTA.

    Attributes:
        index: linear index in the grid.
        ctaid: its coordinates.
        cluster: its cluster; ``rank`` is its place there.
        shared: shared memory.
        mbarriers: initialised mbarriers by shared-memory offset.
        register_pool: registers that setmaxnreg may hand out, per CTA.
        exited: every thread has left.
    """

    def __init__(self, machine: Machine, index: int, ctaid: tuple[int, int, int], cluster: Cluster, rank: int) -> None:
        self.machine = machine
        self.index = index
        self.ctaid = ctaid
        self.cluster = cluster
        self.rank = rank
        self.shared = SharedMemory(machine.shared_bytes, machine.clocks)
        self.mbarriers: dict[int, MBarrier] = {}
        self.named = [NamedBarrier(n) for n in range(NUM_NAMED_BARRIERS)]
        count = -(-machine.block_threads // WARP)
        self.warps = [Warp(self, n) for n in range(count)]
        self.groups = [WarpGroup(self, self.warps[n : n + WARPS_PER_GROUP]) for n in range(0, count, WARPS_PER_GROUP)]
        self.groups_by_warp = {warp.index: group for group in self.groups for warp in group.warps}
        self.local: dict[int, Any] = {}
        self.exited = False
        self.exit_clock = SyncClock()
        self.remote_uses: dict[int, tuple[int, int]] = {}
        self.registers_of = dict.fromkeys(range(count), machine.launch_registers)
        self.register_pool = 0
        self.wgmma_states = {warp.index: WgmmaState() for warp in self.warps}
        self.bulk_groups: dict[tuple[int, int], BulkGroups] = {}
        self.copy_groups: dict[int, Any] = {}
        self.cluster_tokens: dict[int, Generation] = {}
        self.exit_checks: list[Callable[[], None]] = []

    def peer(self, rank: int) -> Cta:
        """The CTA of that rank in the same cluster."""
        return next(cta for cta in self.cluster.ctas if cta.rank == rank)

    def check_exit(self) -> None:
        """What must not be left undone when the last thread leaves."""
        clocks, recorder = self.machine.clocks, self.machine.recorder
        order = self.exit_clock.order
        for agent, (epoch, pc) in self.remote_uses.items():
            if agent >= len(order) or order[agent] < epoch:
                text = f"cta {self.index} exits while its shared memory may still be used by {clocks.labels[agent]}"
                recorder.add(Kind.EXIT_PEER, text, pc, f"cta {self.index}")
        for group in self.groups:
            counts = {self.registers_of[warp.index] for warp in group.warps}
            if len(counts) > 1:
                text = f"{group.label} end with different register counts: setmaxnreg must run in all four warps"
                recorder.add(Kind.REGISTER_POOL, text, None, group.label)
        for barrier in self.mbarriers.values():
            known = order[barrier.agent] if barrier.agent < len(order) else 0
            if barrier.issued_epoch > known:
                text = f"cta {self.index} exits while transfers that {barrier.name} tracks may be in flight"
                recorder.add(Kind.EXIT_IN_FLIGHT, text, barrier.issued_pc, f"cta {self.index}")
        for index, state in self.wgmma_states.items():
            if state.owned:
                register, owner = next(iter(state.owned.items()))
                what = "uncommitted" if state.current else "committed but not waited for"
                text = f"warp {index} ends with a wgmma {what}, which owns {register.name}"
                recorder.add(Kind.WGMMA_UNCOMMITTED, text, owner.pc, f"cta {self.index} warp {index}")
        for check in self.exit_checks:
            check()

    @property
    def units(self) -> list[Unit]:
        """The units that run now."""
        return [unit for group in self.groups for unit in group.units]

    @property
    def shared_base(self) -> int:
        """Address of the shared window in the cluster's shared address space."""
        return self.rank << RANK_SHIFT

    def symbol_address(self, name: str, offset: int) -> int:
        """Address of a variable or parameter in its own space, plus ``offset``."""
        machine = self.machine
        if name in machine.shared_layout:
            return self.shared_base + machine.shared_layout[name] + offset
        return machine.symbol_addresses[name] + offset

    def special(self, name: str, unit: Unit) -> Any:
        """Value of a special register: an array over the unit's lanes, or one integer."""
        lanes = np.arange(unit.width) + WARP * unit.warps[0].index
        machine = self.machine
        stem, _, axis = name.partition(".")
        if axis:
            return self._triple(stem, "xyz".index(axis), lanes)
        values = {
            "%laneid": lanes % WARP,
            "%warpid": lanes // WARP,
            "%nwarpid": len(self.warps),
            "%smid": self.index % machine.num_sms,
            "%nsmid": machine.num_sms,
            "%gridid": 1,
            "%cluster_ctarank": self.rank,
            "%cluster_nctarank": machine.cluster_size,
            "%is_explicit_cluster": int(machine.cluster_size > 1),
            "%lanemask_eq": 1 << (lanes % WARP),
            "%lanemask_lt": (1 << (lanes % WARP)) - 1,
            "%lanemask_le": (2 << (lanes % WARP)) - 1,
            "%lanemask_gt": 0xFFFFFFFF ^ ((2 << (lanes % WARP)) - 1),
            "%lanemask_ge": 0xFFFFFFFF ^ ((1 << (lanes % WARP)) - 1),
            "%total_smem_size": machine.shared_bytes - SHARED_RESERVED,
            "%aggr_smem_size": machine.shared_bytes,
            "%dynamic_smem_size": machine.dynamic_shared,
        }
        if name in values:
            return values[name]
        raise self.machine.recorder.fatal(Kind.TRAP, f"{name} has no meaning in the emulator", None, unit.name)

    def _triple(self, stem: str, axis: int, lanes: Any) -> Any:
        machine = self.machine
        nx, ny, _ = machine.block
        if stem == "%tid":
            return (lanes % nx, lanes // nx % ny, lanes // (nx * ny))[axis]
        cluster_shape = machine.cluster
        return {
            "%ntid": machine.block[axis],
            "%ctaid": self.ctaid[axis],
            "%nctaid": machine.grid[axis],
            "%clusterid": self.ctaid[axis] // cluster_shape[axis],
            "%nclusterid": machine.grid[axis] // cluster_shape[axis],
            "%cluster_ctaid": self.ctaid[axis] % cluster_shape[axis],
            "%cluster_nctaid": cluster_shape[axis],
        }[stem]


class Cluster:
    """CTAs that run at the same time and see each other's shared memory; a single CTA is a cluster of one."""

    def __init__(self, machine: Machine, index: int) -> None:
        self.machine = machine
        self.index = index
        self.ctas: list[Cta] = []
        self.barrier = ClusterBarrier(self)

    @property
    def exited(self) -> bool:
        """Whether every CTA has ended."""
        return all(cta.exited for cta in self.ctas)
