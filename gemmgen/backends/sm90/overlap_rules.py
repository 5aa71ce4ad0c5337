"""Laws of overlapped steps of K: played through step by step, since several of them are under way at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from gemmgen.backends.sm90 import math_ops
from gemmgen.backends.sm90.ops import AdvanceOp, KOverlapOp, ReleaseOp, RunStepOp, WaitOp
from gemmgen.backends.sm90.sites import READS_STAGE, Program, area_names
from gemmgen.ir.core import Op, Region, Value
from gemmgen.ir.types import BarrierType
from gemmgen.ir.verifier import fail

PLAYED_STEPS = (1, 2, 3, 4)
"""Numbers of steps that take every path through the loop and its end."""
READS_SCALES = tuple(kind for kind in READS_STAGE if kind is not math_ops.WgmmaOp)
PROMOTES = (math_ops.PromoteRowsOp, math_ops.PromoteColumnsOp, math_ops.AddPartOp)
PLACES = {
    "start": (
        math_ops.StageDescriptorOp,
        WaitOp,
        *READS_SCALES,
        math_ops.KeepOp,
        math_ops.WgmmaOp,
        ReleaseOp,
        *PROMOTES,
        AdvanceOp,
        RunStepOp,
    ),
    "finish": (math_ops.WgmmaWaitOlderOp, *READS_SCALES, ReleaseOp, *PROMOTES, AdvanceOp),
}
"""What a step consists of: loads have loops of their own, and a branch would hide what it does from these laws."""


def check_places(program: Program) -> None:
    """Check that the ops of overlapped steps stand in their regions, and nothing else does.

    Raises:
        IRError: the first op that is out of place.
    """
    loops = [op for _, op in program.all(KOverlapOp)]
    for loop in loops:
        for (name, allowed), region in zip(PLACES.items(), loop.all_regions, strict=True):
            for op in region.ops:
                if not isinstance(op, allowed):
                    fail(op, f"{op.NAME} has no place in region '{name}' of {KOverlapOp.NAME}", got=op.NAME,
                         need=", ".join(kind.NAME for kind in allowed))  # fmt: skip
        _check_kept(loop)
    inside = {id(op) for loop in loops for region in loop.all_regions for op in region.ops}
    for _, op in program.all(math_ops.WgmmaWaitOlderOp, math_ops.KeepOp):
        if id(op) not in inside:
            fail(op, f"{op.NAME} belongs to overlapped steps", got="another place", need=KOverlapOp.NAME)


def _check_kept(loop: KOverlapOp) -> None:
    """What ``finish`` gets beside its fragment, ``start`` has kept: each once, and of its own type."""
    keeps = [op for op in loop.start.ops if isinstance(op, math_ops.KeepOp)]
    wanted = loop.start.args[1:]
    for op in keeps:
        if op.kept not in wanted or op.value.type != op.kept.type:
            fail(op, "values are kept in what the region was given for them", got=f"{op.value.type} in {op.kept}",
                 need=", ".join(f"{value.type} in {value}" for value in wanted))  # fmt: skip
    for value in wanted:
        found = sum(op.kept == value for op in keeps)
        if found != 1:
            fail(loop, f"{value} is kept once for the region that finishes the step", got=f"{found} times",
                 need=math_ops.KeepOp.NAME)  # fmt: skip


def check_overlap(program: Program, filled_by: dict[str, Value], loop: KOverlapOp, held: set[Value]) -> None:
    """Check that stages are read while they are loaded, and fragments touched while they are the threads' own.

    Args:
        program: the module.
        filled_by: the barrier that says that an area's stage is loaded, by area.
        loop: the loop.
        held: barriers for which the threads have waited before the loop.

    Raises:
        IRError: the first law that is broken.
    """
    for steps in PLAYED_STEPS:
        _Play(program, filled_by, loop, held).run(steps)


@dataclass(frozen=True)
class _Group:
    """Products under way: their number in order of start, and the step whose stage they read."""

    number: int
    step: int


@dataclass
class _Play:
    """What has happened so far, by step: every cursor counts its own steps."""

    program: Program
    filled_by: dict[str, Value]
    loop: KOverlapOp
    held: set[Value]
    at: Counter[Value] = field(default_factory=Counter)
    loaded: set[tuple[Value, int]] = field(default_factory=set)
    released: set[int] = field(default_factory=set)
    under_way: dict[Value, _Group] = field(default_factory=dict)
    started: int = 0

    def run(self, steps: int) -> None:
        """Start one step ahead of those that are finished."""
        for step in range(steps + 1):
            if step < steps:
                self._region(self.loop.start, step)
            if step > 0:
                self._region(self.loop.finish, step - 1)
        for value, group in self.under_way.items():
            self._owned(self.loop, value, group)
        if self.released != set(range(steps)):
            fail(self.loop, "every stage is released once its step is finished", got=f"{len(self.released)} of {steps}",
                 need=ReleaseOp.NAME)  # fmt: skip

    def _region(self, region: Region, step: int) -> None:
        partial = self.loop.partials[step % len(self.loop.partials)]
        for op in region.ops:
            touched = [partial if value == region.args[0] else value for value in op.all_operands]
            match op:
                case WaitOp():
                    self._load(op)
                case AdvanceOp() | RunStepOp():
                    self.at[op.cursor] += 1
                case math_ops.WgmmaWaitOlderOp():
                    self._wait(op, region, partial)
                case ReleaseOp():
                    self._release(op)
                case _:
                    self._touch(op, touched, step)

    def _touch(self, op: Op, touched: list[Value], turn: int) -> None:
        for value in touched:
            if value in self.under_way:
                self._owned(op, value, self.under_way[value])
        if not isinstance(op, READS_STAGE):
            return
        step = self.at[op.cursor]
        for name in area_names(op):
            barriers = self.filled_by.get(name)
            if barriers in self.held and step != turn:
                fail(op, f"area '{name}' is read at the step of its products", got=f"step {step}",
                     need=f"step {turn}")  # fmt: skip
            if barriers not in self.held and (barriers, step) not in self.loaded:
                fail(op, f"area '{name}' is read before its stage is loaded", got="no wait before it",
                     need=WaitOp.NAME)  # fmt: skip
        if step in self.released:
            fail(op, "a stage is not read after its release", got=f"{op.NAME} after {ReleaseOp.NAME}")
        if isinstance(op, math_ops.WgmmaOp):
            if op.accumulate:
                fail(op, "a partial sum begins anew in every step", got="accumulate=true", need="accumulate=false")
            self.under_way[touched[0]] = _Group(self.started, step)
            self.started += 1

    def _load(self, op: WaitOp) -> None:
        if op.flip:
            fail(op, "steps that overlap wait for what is loaded", got="flip=true", need="flip=false")
        self.loaded.add((op.barriers, self.at[op.cursor]))
        held = {step for _, step in self.loaded} - self.released
        stages = op.barriers.type.count if isinstance(op.barriers.type, BarrierType) else 0
        if len(held) > stages:
            fail(op, "a stage is waited for that nobody can load yet", got=f"{stages} stages",
                 need=f"{len(held)}: so many are held at once")  # fmt: skip

    def _wait(self, op: math_ops.WgmmaWaitOlderOp, region: Region, partial: Value) -> None:
        """Groups end in the order in which they were started; the wait is counted from this step's."""
        if op.values != region.args[:1]:
            fail(op, "a step waits for its own products", got=", ".join(map(str, op.values)) or "nothing",
                 need=region.args[0])  # fmt: skip
        last = self.under_way[partial].number if partial in self.under_way else -1
        self.under_way = {value: group for value, group in self.under_way.items() if group.number > last}

    def _release(self, op: ReleaseOp) -> None:
        step = self.at[op.cursor]
        if not any(loaded == step for _, loaded in self.loaded) or step in self.released:
            fail(op, "a stage is released once, by those who waited for it", got="another stage", need=WaitOp.NAME)
        if any(group.step == step for group in self.under_way.values()):
            fail(op, "a stage is released while a wgmma reads it", got="products under way",
                 need=math_ops.WgmmaWaitOlderOp.NAME)  # fmt: skip
        self.released.add(step)

    def _owned(self, op: Op, value: Value, group: _Group) -> None:
        fail(op, f"{value} belongs to the tensor core until a wait", got=f"step {group.step} under way",
             need=math_ops.WgmmaWaitOlderOp.NAME)  # fmt: skip
