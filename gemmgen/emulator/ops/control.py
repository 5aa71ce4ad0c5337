"""Control instructions that are not branches: traps, dependent launch, register reallocation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gemmgen.emulator.machine.unit import Dissolve, Wait
from gemmgen.emulator.ops.builder import Builder, Step, builds
from gemmgen.emulator.ops.warp import require_converged
from gemmgen.emulator.report import Kind

if TYPE_CHECKING:
    from gemmgen.emulator.machine.unit import Unit

MIN_REGISTERS, MAX_REGISTERS, REGISTER_STEP = 24, 256, 8


@builds("control.trap")
def _trap(b: Builder) -> Step:
    def step(x: Unit) -> None:
        raise b.fault(x, Kind.TRAP, "the kernel trapped")

    return step


@builds("control.nop")
def _nop(b: Builder) -> Step:
    return lambda x: None


@builds("control.nanosleep")
def _nanosleep(b: Builder) -> Step:
    b.expect(1)
    b.source(0, "u32")
    return lambda x: None


@builds("control.griddep")
def _griddep(b: Builder) -> Step:
    b.expect(0)
    return lambda x: None


@builds("control.setmaxnreg")
def _setmaxnreg(b: Builder) -> Step:
    b.expect(1)
    wanted = b.immediate(0)
    increase = b.modifiers["op"] == "inc"
    if not MIN_REGISTERS <= wanted <= MAX_REGISTERS or wanted % REGISTER_STEP:
        raise b.error(f"register count {wanted}", need="24 to 256 in steps of 8")

    def step(x: Unit) -> Wait | None:
        waiting = require_converged(b, x)
        if waiting is not None:
            return waiting
        cta = x.cta
        currents = {cta.registers_of[warp.index] for warp in x.warps}
        if len(currents) > 1:
            raise Dissolve
        current = currents.pop()
        if (wanted < current) if increase else (wanted > current):
            b.finding(x, Kind.REGISTER_POOL, f"setmaxnreg.{b.modifiers['op']} from {current} to {wanted} registers")
        needed = (wanted - current) * x.width
        if needed > cta.register_pool:
            text = f"setmaxnreg to {wanted} needs {needed} more registers, the CTA's pool holds {cta.register_pool}"
            return Wait(lambda: cta.register_pool >= needed, lambda: text, "registers", b.pc)
        cta.register_pool -= needed
        for warp in x.warps:
            cta.registers_of[warp.index] = wanted
        cta.machine.progress += 1
        x.sync_warps()
        return None

    return step
