"""Named barriers and cluster barriers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.machine.barriers import Generation
from gemmgen.emulator.machine.cta import NUM_NAMED_BARRIERS
from gemmgen.emulator.machine.unit import WARP, Dissolve, Wait
from gemmgen.emulator.ops.builder import Builder, Step, builds, type_id
from gemmgen.emulator.ops.warp import require_converged
from gemmgen.emulator.report import Kind

if TYPE_CHECKING:
    from gemmgen.emulator.machine.unit import Thread, Unit


def _uniform(b: Builder, x: Unit, values: NDArray | np.generic, what: str) -> int:
    """The one value that all active lanes hold; warps that differ go separate ways."""
    if np.ndim(values) == 0:
        return int(values)
    active = np.asarray(values)[x.mask]
    first = int(active[0])
    if (active != first).any():
        if len(x.warps) > 1:
            raise Dissolve
        raise b.fault(x, Kind.BARRIER, f"{what} differs between the lanes of a warp")
    return first


def _barrier_operands(b: Builder, first: int):
    """Functions that give the barrier's number and its thread count."""
    key, t = b.source(first, "u32"), type_id("u32")
    count = b.source(first + 1, "u32") if len(b.operands) > first + 1 else None

    def number(x: Unit) -> int:
        index = _uniform(b, x, x.views[t][key], "the barrier's number")
        if not 0 <= index < NUM_NAMED_BARRIERS:
            raise b.fault(x, Kind.BARRIER, f"there is no barrier {index}, only 0 to 15")
        return index

    def threads(x: Unit) -> int:
        if count is None:
            return WARP * len(x.cta.warps)
        needed = _uniform(b, x, x.views[t][count], "the barrier's thread count")
        if needed <= 0 or needed % WARP or needed > WARP * len(x.cta.warps):
            limit = WARP * len(x.cta.warps)
            raise b.fault(x, Kind.BARRIER, f"{needed} threads at a barrier: need a multiple of 32 up to {limit}")
        return needed

    return number, threads


def _arrive(b: Builder, x: Unit, thread: Thread, index: int, needed: int, value: int = 0) -> Generation:
    """A warp arrives: it hands over what it knows."""
    clocks = x.cta.machine.clocks
    warp = thread.warp
    generation = x.cta.named[index].generation
    if x.full:
        warp.gather()
    clocks.release(thread.row, generation.clock)
    generation.values.append((value, warp.index))
    clocks.tick(thread.row, thread.agent)
    try:
        x.cta.named[index].arrive(warp.index, WARP, needed, b.pc)
    except ValueError as problem:
        raise b.fault(x, Kind.BARRIER, str(problem)) from None
    x.cta.machine.progress += 1
    return generation


def _barrier_wait(b: Builder, x: Unit, index: int) -> Wait:
    fragment = x.fragment
    assert fragment is not None
    generations = list(fragment.tokens.values())

    def describe() -> str:
        current = generations[0]
        here = ", ".join(f"warp {w}" for w in sorted(current.arrivals))
        return f"barrier {index} has {current.arrived} of {current.needed} threads ({here})"

    return Wait(lambda: all(g.done for g in generations), describe, "barrier", b.pc)


@builds("bar.sync")
def _bar(b: Builder) -> Step:
    b.expect(1, 2)
    number, threads = _barrier_operands(b, 0)
    if b.modifiers["op"] == "arrive":
        if len(b.operands) != 2:
            raise b.error("bar.arrive needs a thread count")
        return _bar_arrive(b, number, threads)

    def step(x: Unit) -> Wait | None:
        waiting = require_converged(b, x)
        if waiting is not None:
            return waiting
        fragment = x.fragment
        assert fragment is not None
        index, needed = number(x), threads(x)
        for thread in list(x.threads()):
            if thread.warp.index not in fragment.tokens:
                fragment.tokens[thread.warp.index] = _arrive(b, x, thread, index, needed)
        if not all(generation.done for generation in fragment.tokens.values()):
            return _barrier_wait(b, x, index)
        _leave(x)
        return None

    return step


def _leave(x: Unit) -> None:
    """Everyone has come: each warp learns what the others handed over."""
    fragment = x.fragment
    assert fragment is not None
    clocks = x.cta.machine.clocks
    for warp in x.warps:
        generation = fragment.tokens.pop(warp.index, None)
        if generation is not None:
            clocks.acquire(warp.row, generation.clock)
        warp.sync()


def _bar_arrive(b: Builder, number, threads) -> Step:
    def step(x: Unit) -> Wait | None:
        waiting = require_converged(b, x)
        if waiting is not None:
            return waiting
        index, needed = number(x), threads(x)
        for thread in list(x.threads()):
            _arrive(b, x, thread, index, needed)
        return None

    return step


@builds("bar.red")
def _bar_red(b: Builder) -> Step:
    b.expect(3, 4)
    type_, op = b.modifiers["type"], b.modifiers["op"]
    if (op == "popc") != (type_ == "u32"):
        raise b.error("bar.red.popc gives .u32, .and and .or give .pred")
    d, t = b.destination(0, type_), type_id(type_)
    number, threads = _barrier_operands_red(b)
    source = b.predicate(b.operands[-1])

    def step(x: Unit) -> Wait | None:
        waiting = require_converged(b, x)
        if waiting is not None:
            return waiting
        fragment = x.fragment
        assert fragment is not None
        index, needed = number(x), threads(x)
        votes = source(x) & x.mask
        for thread in list(x.threads()):
            if thread.warp.index not in fragment.tokens:
                count = int(votes[x.thread_lanes(thread)].sum())
                fragment.tokens[thread.warp.index] = _arrive(b, x, thread, index, needed, count)
        generations = list(fragment.tokens.values())
        if not all(generation.done for generation in generations):
            return _barrier_wait(b, x, index)
        total = sum(value for value, _ in generations[0].values)
        result = {"popc": total, "or": total > 0, "and": total == generations[0].needed}[op]
        np.copyto(x.views[t][d], np.asarray(result), where=x.where, casting="unsafe")
        _leave(x)
        return None

    return step


def _barrier_operands_red(b: Builder):
    """As ``_barrier_operands``, where the last operand is the predicate."""
    trimmed = Builder(b.machine, b.instruction)
    trimmed.operands = b.operands[:-1]
    return _barrier_operands(trimmed, 1)


@builds("bar.cluster")
def _cluster(b: Builder) -> Step:
    b.expect(0)
    return _cluster_arrive(b) if b.modifiers["op"] == "arrive" else _cluster_wait(b)


def _cluster_arrive(b: Builder) -> Step:
    relaxed = b.modifiers.get("sem") == "relaxed"

    def step(x: Unit) -> Wait | None:
        waiting = require_converged(b, x)
        if waiting is not None:
            return waiting
        clocks, cta = x.cta.machine.clocks, x.cta
        barrier = cta.cluster.barrier
        for position, warp in enumerate(x.warps):
            if warp.index in cta.cluster_tokens:
                raise b.fault(
                    x, Kind.BARRIER, f"warp {warp.index} arrives at the cluster barrier again without waiting"
                )
            generation = barrier.generation
            warp.sync()
            if relaxed:
                clocks.release_relaxed(warp.row, generation.clock)
            else:
                clocks.release(warp.row, generation.clock)
            clocks.tick(warp.row, warp.agent)
            live = int(x.live[WARP * position : WARP * position + WARP].sum())
            cta.cluster_tokens[warp.index] = barrier.arrive((cta.rank, warp.index), live, b.pc)
        cta.machine.progress += 1
        return None

    return step


def _cluster_wait(b: Builder) -> Step:
    def step(x: Unit) -> Wait | None:
        waiting = require_converged(b, x)
        if waiting is not None:
            return waiting
        cta = x.cta
        tokens = []
        for warp in x.warps:
            if warp.index not in cta.cluster_tokens:
                raise b.fault(x, Kind.BARRIER, f"warp {warp.index} waits at the cluster barrier without having arrived")
            tokens.append(cta.cluster_tokens[warp.index])
        if not all(generation.done for generation in tokens):
            return Wait(lambda: all(g.done for g in tokens), lambda: _cluster_state(cta, tokens[0]), "cluster", b.pc)
        for warp, generation in zip(x.warps, tokens, strict=True):
            del cta.cluster_tokens[warp.index]
            cta.machine.clocks.acquire(warp.row, generation.clock)
            warp.sync()
        return None

    return step


def _cluster_state(cta: object, generation: Generation) -> str:
    here = [f"rank {code // 64} warp {code % 64}" for code in sorted(generation.arrivals)]
    return f"cluster barrier has {generation.arrived} of {generation.needed} threads ({', '.join(here[:8])})"
