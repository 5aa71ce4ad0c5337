"""Memory and proxy fences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gemmgen.emulator.ops.builder import Builder, Step, builds

if TYPE_CHECKING:
    from gemmgen.emulator.machine.unit import Unit


@builds("fence.thread", "fence.mbarrier_init", "fence.restrict")
def _thread_fence(b: Builder) -> Step:
    b.expect(0)

    def step(x: Unit) -> None:
        clocks = x.cta.machine.clocks
        for thread in list(x.threads()):
            clocks.memory_fence(thread.row)
            clocks.tick(thread.row, thread.agent)

    return step


@builds("fence.proxy_async")
def _proxy_fence(b: Builder) -> Step:
    b.expect(0)

    def step(x: Unit) -> None:
        clocks = x.cta.machine.clocks
        for thread in list(x.threads()):
            clocks.proxy_fence(thread.row)
            clocks.tick(thread.row, thread.agent)

    return step


@builds("fence.proxy_alias")
def _alias_fence(b: Builder) -> Step:
    b.expect(0)
    return lambda x: None
