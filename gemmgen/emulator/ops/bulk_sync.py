"""Committing bulk copies to groups and waiting for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gemmgen.emulator.machine.bulk_groups import BulkGroups
from gemmgen.emulator.machine.clocks import Clocks
from gemmgen.emulator.machine.unit import WARP, Thread, Wait
from gemmgen.emulator.ops.builder import Builder, Step, builds
from gemmgen.emulator.ops.bulk_common import active_lanes

if TYPE_CHECKING:
    from gemmgen.emulator.machine.unit import Unit


@builds("bulk.commit")
def _commit(b: Builder) -> Step:
    b.expect(0)

    def step(x: Unit) -> None:
        for _, groups in _existing_groups(x):
            groups.commit()

    return step


@builds("bulk.wait")
def _wait(b: Builder) -> Step:
    b.expect(1)
    allowed, reads_only = b.immediate(0), "read" in b.modifiers

    def step(x: Unit) -> Wait | None:
        waiting = _existing_groups(x)
        if not all(groups.finished(allowed, reads_only) for _, groups in waiting):
            return Wait(
                lambda: all(groups.finished(allowed, reads_only) for _, groups in waiting),
                lambda: "bulk groups",
                "group",
                b.pc,
            )
        clocks: Clocks = x.cta.machine.clocks
        for thread, groups in waiting:
            done = max(0, len(groups.groups) - allowed)
            clocks.learn(thread.row, groups.read_agent, done)
            if not reads_only:
                clocks.learn(thread.row, groups.write_agent, done)
        return None

    return step


def _existing_groups(x: Unit) -> list[tuple[Thread, BulkGroups]]:
    """The bulk groups of active lanes that have issued something; empty groups before that change nothing."""
    known = x.cta.bulk_groups
    warps = {warp.index for warp in x.warps}
    if not any(warp in warps for warp, _ in known):
        return []
    found = ((thread, known.get((thread.warp.index, lane % WARP))) for thread, lane in active_lanes(x))
    return [(thread, groups) for thread, groups in found if groups is not None]
