"""Turn a launch that cannot go on into a report of who waits for what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gemmgen.emulator.report import Kind, LaunchAborted

if TYPE_CHECKING:
    from gemmgen.emulator.machine.machine import Machine
    from gemmgen.emulator.machine.unit import Fragment, Unit


def report_deadlock(machine: Machine) -> LaunchAborted:
    """Record the deadlock and its likely cause; raise what is returned."""
    blocked = [
        (unit, f) for cluster in machine.resident for cta in cluster.ctas for unit in cta.units for f in unit.fragments
    ]
    lines = [_describe(machine, unit, fragment) for unit, fragment in blocked]
    cause = _cause(machine, blocked)
    pc = cause[2] if cause else (blocked[0][1].wait.pc if blocked and blocked[0][1].wait else None)
    if cause:
        machine.recorder.add(cause[0], cause[1], cause[2])
    return machine.recorder.fatal(Kind.DEADLOCK, "no thread can go on\n    " + "\n    ".join(_merge(lines)), pc)


def report_livelock(machine: Machine, runnable: list[Unit]) -> LaunchAborted:
    """Record that threads spin without any effect; raise what is returned."""
    names = ", ".join(sorted({unit.name for unit in runnable}))
    fragment = runnable[0].fragments[0]
    pc = machine.program.blocks[fragment.block].start
    what = "threads spin and nothing changes"
    if machine.report.instructions > machine.max_instructions:
        what = f"no end after {machine.max_instructions} warp instructions"
    return machine.recorder.fatal(Kind.LIVELOCK, f"{what}: {names}", pc, runnable[0].name)


def _describe(machine: Machine, unit: Unit, fragment: Fragment) -> str:
    wait = fragment.wait
    lanes = "" if unit.full or fragment.mask.all() else f" lanes {_lanes(fragment)}"
    if wait is None:
        first = machine.program.instructions[machine.program.blocks[fragment.block].start]
        return f"{unit.name}{lanes} at PTX line {first.line}"
    place = machine.recorder.place(wait.pc)
    return f"{unit.name}{lanes} waits: {wait.describe()}; {place}"


def _lanes(fragment: Fragment) -> str:
    active = [str(lane % 32) for lane in fragment.mask.nonzero()[0]]
    return ",".join(active[:4]) + ("…" if len(active) > 4 else "")


def _merge(lines: list[str]) -> list[str]:
    return list(dict.fromkeys(lines))[:40]


def _cause(machine: Machine, blocked: list[tuple[Unit, Fragment]]) -> tuple[Kind, str, int] | None:
    """What a barrier's state alone shows to be wrong."""
    for unit, fragment in blocked:
        if fragment.wait is not None and fragment.wait.kind == "converge":
            return Kind.DIVERGENCE, f"{unit.name}: {fragment.wait.describe()}", fragment.wait.pc
    for unit, fragment in blocked:
        if fragment.wait is not None and fragment.wait.kind == "registers":
            return Kind.REGISTER_POOL, f"{unit.name}: {fragment.wait.describe()}", fragment.wait.pc
    for unit, _ in blocked:
        for barrier in unit.cta.mbarriers.values():
            if barrier.pending == 0 and barrier.transactions and barrier.in_flight == 0:
                missing = barrier.transactions
                text = f"{barrier.name} {barrier.state()}, and nothing is in flight: expect_tx "
                text += f"announced {abs(missing)} bytes too {'many' if missing > 0 else 'few'}"
                return Kind.TRANSACTION, text, barrier.arrivals[-1][1] if barrier.arrivals else -1
    return None
