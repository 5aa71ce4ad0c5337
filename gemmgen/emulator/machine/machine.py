"""A launch: its CTAs, memories and pending asynchronous work, and the loop that runs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gemmgen.emulator.machine.clocks import Clocks, SyncClock
from gemmgen.emulator.machine.cta import Cluster, Cta
from gemmgen.emulator.machine.deadlock import report_deadlock, report_livelock
from gemmgen.emulator.machine.layout import SymbolLayout
from gemmgen.emulator.machine.memory import GlobalMemory
from gemmgen.emulator.machine.registers import ConstantPool
from gemmgen.emulator.machine.scheduler import AsyncOperation, Policy
from gemmgen.emulator.machine.unit import Dissolve, Fragment, Unit
from gemmgen.emulator.ptx.program import Program
from gemmgen.emulator.report import Kind, LaunchAborted, Recorder, Report

if TYPE_CHECKING:
    from gemmgen.emulator.ops.builder import CompiledBlock
    from gemmgen.emulator.ptx.operands import Reg

Step = Callable[[Unit], Any]
IDLE_RUNS_BEFORE_LIVELOCK = 4000
DEFAULT_RESIDENT_CTAS = 16
DEFAULT_MAX_INSTRUCTIONS = 100_000_000
LAUNCH_REGISTER_STEP = 8


class Machine:
    """Everything one launch needs.

    Args:
        program: the kernel.
        layout: where its variables and parameters live.
        memory: global memory with the arguments mapped.
        grid, block, cluster: extents in x, y, z.
        policy: the scheduler's choices.
        recorder: where findings go.
        exact: FP32-exact tensor cores instead of the hardware's rule.
        num_sms: what ``%nsmid`` says and how ``%smid`` wraps.
        max_instructions: warp instructions after which the launch is given up as endless.
    """

    def __init__(
        self,
        program: Program,
        layout: SymbolLayout,
        memory: GlobalMemory,
        dims: tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]],
        policy: Policy,
        recorder: Recorder,
        *,
        exact: bool = False,
        num_sms: int = 132,
        max_instructions: int = DEFAULT_MAX_INSTRUCTIONS,
    ) -> None:
        self.program = program
        self.memory = memory
        self.grid, self.block, self.cluster = dims
        self.policy = policy
        self.recorder = recorder
        self.report: Report = recorder.report
        self.exact = exact
        self.num_sms = num_sms
        self.max_instructions = max_instructions
        self.clocks = Clocks()
        self.constants = ConstantPool()
        self.layout = layout
        self.shared_layout = layout.shared
        self.symbol_addresses = layout.addresses
        self.shared_bytes = layout.shared_bytes
        self.dynamic_shared = layout.dynamic_bytes
        self.param_block = layout.param_block
        self.const_block = layout.const_block
        self.block_threads = int(np.prod(self.block))
        self.cluster_size = int(np.prod(self.cluster))
        self.launch_registers = self._launch_registers()
        self.blocks: list[CompiledBlock] = []
        self.maybe_undefined: dict[int, tuple[Reg, ...]] = {}
        self.operations: list[AsyncOperation] = []
        self.resident: list[Cluster] = []
        self.progress = 0
        self.sync_objects: dict[tuple[str, int], SyncClock] = {}
        self.acquired_maps: dict[tuple[int, int], int] = {}
        self.counters: dict[str, int] = {}
        self._waiting_clusters = self._cluster_origins()
        self._next_cluster = 0
        self._idle = 0

    def _launch_registers(self) -> int:
        threads = self.program.performance.get("maxntid") or self.program.performance.get("reqntid") or self.block
        per_sm = self.program.performance.get("minnctapersm", (1,))[0]
        registers = 65536 // (int(np.prod(threads)) * max(1, per_sm)) // LAUNCH_REGISTER_STEP * LAUNCH_REGISTER_STEP
        registers = min(registers, 255 // LAUNCH_REGISTER_STEP * LAUNCH_REGISTER_STEP)
        maxnreg = self.program.performance.get("maxnreg")
        return min(registers, maxnreg[0]) if maxnreg else registers

    def _cluster_origins(self) -> list[tuple[int, int, int]]:
        cx, cy, cz = self.cluster
        gx, gy, gz = self.grid
        return [(x, y, z) for z in range(0, gz, cz) for y in range(0, gy, cy) for x in range(0, gx, cx)]

    def count(self, name: str, amount: int = 1) -> None:
        """Count an event for the report."""
        self.counters[name] = self.counters.get(name, 0) + amount

    def issue(self, operation: AsyncOperation) -> AsyncOperation:
        """Hand an operation to its engine."""
        self.operations.append(operation)
        return operation

    def run(self) -> None:
        """Run the launch to its end, a deadlock, or a fault; findings are in the recorder."""
        try:
            with np.errstate(all="ignore"):
                self._loop()
            self.report.completed = True
        except LaunchAborted:
            self.report.completed = False
        self.report.counters = dict(self.counters)

    def _loop(self) -> None:
        self._admit()
        while True:
            for _ in range(self.policy.eager(len(self.operations))):
                if self.operations:
                    self._complete_one()
            units = [unit for cluster in self.resident for cta in cluster.ctas if not cta.exited for unit in cta.units]
            runnable = [unit for unit in units if self._runnable(unit)]
            if not runnable or self._idle > 2 * len(units) + 8:
                if self.operations:
                    self._complete_one()
                    continue
                if self._admit():
                    continue
            if not runnable:
                if not any(unit.fragments for unit in units):
                    break
                raise report_deadlock(self)
            if self._idle > IDLE_RUNS_BEFORE_LIVELOCK or self.report.instructions > self.max_instructions:
                raise report_livelock(self, runnable)
            self._run_unit(self._choose(runnable))
        while self.operations:
            self._complete_one()

    def _admit(self) -> bool:
        """Start the next clusters: as many as may be resident, or one more when nothing else can go on."""
        started = False
        while self._next_cluster < len(self._waiting_clusters):
            live = sum(len(c.ctas) for c in self.resident if not c.exited)
            if started and live + self.cluster_size > DEFAULT_RESIDENT_CTAS:
                break
            self._start_cluster(self._waiting_clusters[self._next_cluster])
            started = True
        return started

    def _start_cluster(self, origin: tuple[int, int, int]) -> None:
        cluster = Cluster(self, self._next_cluster)
        self._next_cluster += 1
        cx, cy, _ = self.cluster
        for rank in range(self.cluster_size):
            offset = (rank % cx, rank // cx % cy, rank // (cx * cy))
            ctaid = tuple(o + d for o, d in zip(origin, offset, strict=True))
            index = ctaid[0] + self.grid[0] * (ctaid[1] + self.grid[1] * ctaid[2])
            cluster.ctas.append(Cta(self, index, ctaid, cluster, rank))  # type: ignore[arg-type]
        self.resident = [c for c in self.resident if not c.exited]
        self.resident.append(cluster)
        self._idle = 0
        self.progress += 1

    def _runnable(self, unit: Unit) -> bool:
        return any(fragment.wait is None or fragment.wait.ready() for fragment in unit.fragments)

    def _choose(self, runnable: list[Unit]) -> Unit:
        """The policy's unit, joined with its warpgroup where possible; it moves to the end of the line."""
        unit = runnable[self.policy.pick_unit(len(runnable))]
        group = unit.cta.groups_by_warp[unit.warps[0].index]
        if group.dissolved:
            unit = group.try_gang() or unit
        cluster = unit.cta.cluster
        units = group.units
        if len(units) > 1:
            units.remove(unit)
            units.append(unit)
        groups = unit.cta.groups
        groups.remove(group)
        groups.append(group)
        cluster.ctas.remove(unit.cta)
        cluster.ctas.append(unit.cta)
        self.resident.remove(cluster)
        self.resident.append(cluster)
        return unit

    def _complete_one(self) -> None:
        seen: set[Any] = set()
        eligible = []
        for operation in self.operations:
            if operation.chain is None or operation.chain not in seen:
                eligible.append(operation)
            if operation.chain is not None:
                seen.add(operation.chain)
        operation = eligible[self.policy.pick_operation(len(eligible))]
        self.operations.remove(operation)
        operation.run()
        operation.done = True
        self.progress += 1
        self._idle = 0

    def _run_unit(self, unit: Unit) -> None:
        before = self.progress
        fragment = next(f for f in unit.fragments if f.wait is None or f.wait.ready())
        fragment.wait = None
        unit.enter(fragment)
        try:
            self._run_fragment(unit, fragment, self.policy.budget())
        except Dissolve:
            unit.cta.groups_by_warp[unit.warps[0].index].dissolve()
        self._idle = 0 if self.progress != before else self._idle + 1

    def _run_fragment(self, unit: Unit, fragment: Fragment, budget: int) -> None:
        group = unit.cta.groups_by_warp[unit.warps[0].index]
        count = len(unit.warps)
        while budget:
            block = self.blocks[fragment.block]
            steps, position = block.steps, fragment.step
            last = len(steps)
            while position < last:
                fragment.step = position
                if position in block.sync_steps and group.dissolved and not fragment.parked:
                    fragment.parked = True
                    return
                wait = steps[position](unit)
                if wait is not None:
                    if count > 1 and not unit.full:
                        raise Dissolve
                    fragment.wait = wait
                    return
                fragment.parked = False
                position += 1
            fragment.step = last
            self.report.instructions += block.instructions * count
            budget -= 1
            if not self._leave_block(unit, fragment, block):
                return
            unit.enter(fragment)

    def _leave_block(self, unit: Unit, fragment: Fragment, block: CompiledBlock) -> bool:
        """Follow the block's end; False when the fragment is no longer there to run."""
        if block.exits:
            leaving = fragment.mask if block.condition is None else fragment.mask & block.condition(unit)
            if leaving.any():
                self._exit(unit, fragment, leaving)
            if fragment not in unit.fragments:
                return False
            assert block.fallthrough is not None
            unit.jump(fragment, block.fallthrough)
            return fragment in unit.fragments
        if block.condition is None:
            unit.jump(fragment, block.fallthrough if block.target is None else block.target)  # type: ignore[arg-type]
            return fragment in unit.fragments
        taken = fragment.mask & block.condition(unit)
        assert block.target is not None
        assert block.fallthrough is not None
        if not taken.any():
            unit.jump(fragment, block.fallthrough)
        elif (taken == fragment.mask).all():
            unit.jump(fragment, block.target)
        else:
            if len(unit.warps) > 1:
                _check_same_split(taken, fragment.mask)
            unit.diverge(fragment, taken, block.target, block.fallthrough, block.reconverge)
            return False
        return fragment in unit.fragments

    def _exit(self, unit: Unit, fragment: Fragment, lanes: Any) -> None:
        cta = unit.cta
        unit.set_mask(lanes)
        for thread in list(unit.threads()):
            if thread.agent == thread.warp.agent:
                thread.warp.gather()
            self.clocks.release(thread.row, cta.exit_clock)
        unit.exit_lanes(fragment, lanes.copy())
        self.progress += 1
        cta.cluster.barrier.update()
        if not any(bool(group.live.any()) for group in cta.groups):
            cta.exited = True
            cta.check_exit()


def _check_same_split(taken: Any, mask: Any) -> None:
    """Four warps stay together at a divergent branch only if each of them diverges."""
    per_warp_taken = taken.reshape(-1, 32).any(axis=1)
    per_warp_not = (mask & ~taken).reshape(-1, 32).any(axis=1)
    if (per_warp_taken != per_warp_not).any():
        raise Dissolve


__all__ = ["Kind", "Machine", "Step"]
