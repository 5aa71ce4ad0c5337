"""Laws of the async level: every stage of a ring is filled, waited for and released in order, by roles that agree.

The verifier runs them on every async-level module, after the laws that hold at all levels.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import prod

from gemmgen.errors import IRError
from gemmgen.ir.async_memory_rules import check_places, check_stores
from gemmgen.ir.async_ops import (
    AcquireOp,
    ArrangeOp,
    AsyncLoadOp,
    AsyncLoadScalesOp,
    AsyncMmaOp,
    Buffer,
    CommitOp,
    Engine,
    ReadOp,
    ReleaseOp,
    RingOp,
    RingStepOp,
    RoleOp,
    StagingOp,
    WaitOp,
)
from gemmgen.ir.core import Level, Module, Op, Region, Value
from gemmgen.ir.rewrite import walk
from gemmgen.ir.tile_ops import ForKOp, ForTilesOp, YieldOp, check_mma, check_scale_words, extents
from gemmgen.ir.verifier import fail, module_rule

Load = AsyncLoadOp | AsyncLoadScalesOp | ArrangeOp | AsyncMmaOp
"""What fills a stage: loads, words put in order, and products in tensor memory."""
LOADING = (AcquireOp, CommitOp, AsyncLoadOp, AsyncLoadScalesOp, ArrangeOp, AsyncMmaOp)
DECLARATIONS = (RingOp, StagingOp)
CYCLE = "acquire, loads, commit; wait, reads, release"


@module_rule(Level.ASYNC)
def check_async_module(module: Module) -> None:
    """Check roles, ring cycles, multicast and shared memory.

    Raises:
        IRError: the first law that is broken.
    """
    rings = {op.result: op for op in module.body.ops if isinstance(op, RingOp)}
    agents = _agents(module, frozenset(value for value, ring in rings.items() if ring.in_tensor_memory))
    _check_roles(agents)
    _check_routes([agent for agent in agents if agent.region.ops])
    by_tile = {value for agent in agents for value in agent.by_tile}
    _check_steps({value: ring for value, ring in rings.items() if value not in by_tile}, agents, by_tile)
    _check_tiles({value: ring for value, ring in rings.items() if value in by_tile}, agents)
    stagings = {op.result: op for op in module.body.ops if isinstance(op, StagingOp)}
    check_stores(module, stagings)
    check_places(module, rings, stagings)


@dataclass
class _Agent:
    """A role, or the whole CTA where there are none, and what it does.

    ``route`` holds each loop it runs with the loop's attributes; ``steps`` each K loop with the tile loop around it;
    ``by_tile`` the rings whose stages it uses once per tile.
    """

    name: str
    region: Region
    role: RoleOp | None = None
    route: list[tuple[object, ...]] = field(default_factory=list)
    steps: list[tuple[ForTilesOp, ForKOp]] = field(default_factory=list)
    tiles: list[ForTilesOp] = field(default_factory=list)
    by_tile: list[Value] = field(default_factory=list)
    computes: bool = False

    @property
    def skips_steps(self) -> bool:
        """Whether it takes a whole tile's sum from a ring, and has nothing to do in the steps of K."""
        return bool(self.by_tile) and not self.steps


def _agents(module: Module, sums: frozenset[Value]) -> list[_Agent]:
    roles = [op for op in module.body.ops if isinstance(op, RoleOp)]
    work = tuple(op for op in module.body.ops if not isinstance(op, (RoleOp, *DECLARATIONS)))
    if roles and work:
        fail(work[0], "work outside the roles", got=work[0].NAME, need="every op but rings and staging in a role")
    agents = [_Agent(role.name, role.body, role) for role in roles] or [_Agent("all", Region((), work))]
    for agent in agents:
        _visit(agent, agent.region, None, None, sums)
    return agents


def _visit(
    agent: _Agent, region: Region, tiles: ForTilesOp | None, loop: ForKOp | None, sums: frozenset[Value]
) -> None:
    """Record the loops below ``region``, and refuse ops that stand at the wrong depth; ``sums``: tensor memory."""
    for op in region.ops:
        if isinstance(op, (RoleOp, *DECLARATIONS)):
            fail(op, f"{op.NAME} stands at the top level", got="a place inside another op", need="the module's body")
        if isinstance(op, Load | RingStepOp | ReadOp) and loop is None:
            if tiles is None or op.ring not in sums:
                fail(op, "a ring turns with the steps of K", got=f"{op.NAME} outside of them", need=ForKOp.NAME)
            agent.by_tile.append(op.ring)
        if isinstance(op, ForKOp) and (tiles is None or loop is not None):
            got = "no tile loop around them" if tiles is None else "nested steps"
            fail(op, "steps of K belong to one tile", got=got, need=f"{ForKOp.NAME} in {ForTilesOp.NAME}")
        if isinstance(op, ForTilesOp | ForKOp):
            # How far a role starts ahead is its own affair.
            agent.route.append((op.NAME, *(entry for entry in op.all_attrs.items() if entry[0] != "ahead")))
        elif not isinstance(op, (*LOADING, RingStepOp, ReadOp, YieldOp)):
            agent.computes = True
        if isinstance(op, ForKOp) and tiles is not None:
            agent.steps.append((tiles, op))
        if isinstance(op, ForTilesOp):
            agent.tiles.append(op)
        inner_tiles = op if isinstance(op, ForTilesOp) else tiles
        inner_loop = op if isinstance(op, ForKOp) else loop
        for inner in op.all_regions:
            _visit(agent, inner, inner_tiles, inner_loop, sums)


def _check_roles(agents: list[_Agent]) -> None:
    roles = [agent.role for agent in agents if agent.role is not None]
    if not roles:
        return
    name, count = Counter(role.name for role in roles).most_common(1)[0]
    if count > 1:
        fail(roles[0], f"roles need names of their own: '{name}'", got=f"{count} roles", need=1)
    for role in roles:
        if role.warps < 1:
            fail(role, f"role '{role.name}' has no warps", got=role.warps, need="at least 1")
    computing = [agent.name for agent in agents if agent.computes]
    if len(computing) != 1:
        fail(roles[0], "one role computes", got=", ".join(computing) or "none", need="one role with more than loads")


def _check_routes(agents: list[_Agent]) -> None:
    """All roles go through the same tiles and the same steps of K, else their rings would fall out of step."""
    for agent in agents[1:]:
        if agent.role is None:
            continue
        if agent.skips_steps or agents[0].skips_steps:
            _check_tile_routes(agent, agents[0])
            continue
        what = f"role '{agent.name}' takes another way than role '{agents[0].name}'"
        for mine, first in zip(agent.route, agents[0].route, strict=False):
            if mine != first:
                got = ", ".join(f"{key}={value}" for key, value in _differing(mine, first)) or mine[0]
                need = ", ".join(f"{key}={value}" for key, value in _differing(first, mine)) or first[0]
                fail(agent.role, what, got=got, need=need)
        if len(agent.route) != len(agents[0].route):
            fail(agent.role, what, got=f"{len(agent.route)} loops", need=f"{len(agents[0].route)} loops")


def _check_tile_routes(agent: _Agent, first: _Agent) -> None:
    """Roles of which one has nothing to do in the steps of K go through the same tiles."""
    mine, others = ([op.all_attrs for op in one.tiles] for one in (agent, first))
    if mine != others and agent.role is not None:
        what = f"role '{agent.name}' takes another way than role '{first.name}'"
        fail(agent.role, what, got=f"{len(mine)} tile loops", need=f"the {len(others)} of the other, alike")


def _differing(mine: tuple[object, ...], other: tuple[object, ...]) -> list[tuple[object, object]]:
    """The (name, value) attributes of one loop that the other one lacks."""
    return [item for item in mine if isinstance(item, tuple) and item not in other]


@dataclass
class _Cycle:
    """How far one role has taken one ring's stage within a step."""

    ring: RingOp
    done: tuple[type[Op], ...] = ()
    loads: list[Load] = field(default_factory=list)

    def turn(self, op: RingStepOp) -> None:
        """Acquire, commit, wait or release the stage."""
        kind = type(op)
        if kind in self.done:
            fail(op, f"one step uses one stage of {op.ring}", got=f"a second {kind.NAME}", need=CYCLE)
        before = {CommitOp: AcquireOp, ReleaseOp: WaitOp}.get(kind)
        if before is not None and before not in self.done:
            what = f"{kind.NAME} of a stage that this role does not hold"
            fail(op, what, got=f"no {before.NAME} before it", need=CYCLE)
        if kind is CommitOp and not self.loads:
            fail(op, "an empty stage is committed", got="no loads since acquire", need=CYCLE)
        if kind is AcquireOp and WaitOp in self.done:
            fail(op, "a stage is waited for before it is filled", got="acquire after wait", need=CYCLE)
        if kind is WaitOp and self.is_filling:
            fail(op, "a stage is waited for while it is being filled", got="wait before commit", need=CYCLE)
        self.done += (kind,)

    @property
    def is_filling(self) -> bool:
        """Whether the role is between acquire and commit."""
        return AcquireOp in self.done and CommitOp not in self.done

    @property
    def is_reading(self) -> bool:
        """Whether the role is between wait and release."""
        return WaitOp in self.done and ReleaseOp not in self.done

    def load(self, op: Load) -> None:
        """Start a load into the stage."""
        if not self.is_filling:
            fail(op, "a load fills an acquired stage", got="a load outside of acquire and commit", need=CYCLE)
        buffer = _in_ring(self.ring, op)
        engine = _engine(op)
        if buffer.engine is not engine:
            fail(
                op,
                f"{op.NAME} by {engine} into buffer '{op.buffer}'",
                got=f"a buffer filled by {buffer.engine}",
                need=engine,
            )
        if isinstance(op, AsyncMmaOp):
            self._check_product(op, buffer)
        if isinstance(op, ArrangeOp) and op.source.type != buffer.type:
            fail(op, f"{op.source} is arranged into buffer '{op.buffer}'", got=op.source.type, need=buffer.type)
        together = {AsyncLoadOp: "shares", AsyncMmaOp: "ctas"}.get(type(op))
        if together is not None and getattr(op, together) not in (1, self.ring.ctas):
            fail(op, f"{self.ring.result} and the {together} of what fills it", got=getattr(op, together),
                 need=f"1 or {self.ring.ctas}")  # fmt: skip
        self.loads.append(op)

    @staticmethod
    def _check_product(op: AsyncMmaOp, buffer: Buffer) -> None:
        """A product has the shape of the accumulator that it fills."""
        try:
            check_mma(op.a, op.b, Value(op.buffer, buffer.type), op.trans_a, op.trans_b, op.ctas)
            check_scale_words(op.scale_a, op.vector_a)
            check_scale_words(op.scale_b, op.vector_b)
        except IRError as error:
            fail(op, error.what, got=error.got, need=error.need)

    def read(self, op: ReadOp) -> None:
        """Name a tile of the stage."""
        if not self.is_reading:
            fail(
                op,
                "a read needs a stage that has been waited for",
                got="a read outside of wait and release",
                need=CYCLE,
            )
        buffer = _in_ring(self.ring, op)
        if op.result.type != buffer.type:
            fail(op, f"{op.result} is not buffer '{op.buffer}'", got=op.result.type, need=buffer.type)

    def end(self, loop: ForTilesOp | ForKOp, name: str) -> None:
        """The step is over; nothing may be left open."""
        if self.is_filling or self.is_reading:
            lacking = CommitOp if self.is_filling else ReleaseOp
            fail(loop, f"role '{name}' leaves a stage of {self.ring.result} open", got=f"no {lacking.NAME}", need=CYCLE)


def _check_tiles(rings: dict[Value, RingOp], agents: list[_Agent]) -> None:
    """The cycles of every ring that turns with the tiles."""
    working = [agent for agent in agents if agent.tiles]
    for index in range(max((len(agent.tiles) for agent in working), default=0)):
        loops = [(agent, agent.tiles[index]) for agent in working]
        cycles = [_cycles(rings, agent.name, loop, None) for agent, loop in loops]
        for ring in rings.values():
            mine = [found[ring.result] for found in cycles]
            _check_handover(ring, loops[0][1], mine)
            _check_ring(ring, loops[0][1], [op for cycle in mine for op in cycle.loads])


def _check_steps(rings: dict[Value, RingOp], agents: list[_Agent], by_tile: set[Value]) -> None:
    """The cycles of every other ring within each step, per role and over all roles."""
    working = [agent for agent in agents if agent.region.ops and not agent.skips_steps]
    count = max((len(agent.steps) for agent in working), default=0)
    if rings and not count:
        fail(next(iter(rings.values())), "a ring turns with the steps of K", got="no steps", need=ForKOp.NAME)
    for index in range(count):
        taken = [(agent, *agent.steps[index]) for agent in working]
        cycles = [_cycles(rings, agent.name, loop, by_tile) for agent, _, loop in taken]
        for ring in rings.values():
            mine = [found[ring.result] for found in cycles]
            _check_handover(ring, taken[0][2], mine)
            _check_ring(ring, taken[0][1], [op for cycle in mine for op in cycle.loads])
            for (_, tiles, _), cycle in zip(taken, mine, strict=True):
                _check_shared(ring, tiles, cycle.loads)


def _cycles(
    rings: dict[Value, RingOp], name: str, loop: ForTilesOp | ForKOp, others: set[Value] | None
) -> dict[Value, _Cycle]:
    """Follow one role through one tile or step; ``others`` are further rings, None for whatever else there is."""
    cycles = {value: _Cycle(ring) for value, ring in rings.items()}
    readings: dict[Value, Value] = {}
    for op in walk(loop.body):
        for value in op.all_operands:
            if value in readings and not cycles[readings[value]].is_reading:
                fail(op, f"{value} is used after its stage was released", got=op.NAME, need="uses before async.release")
        if not isinstance(op, RingStepOp | Load | ReadOp):
            continue
        cycle = cycles.get(op.ring)
        if cycle is None and (others is None or op.ring in others):
            continue
        if cycle is None:
            fail(op, f"{op.ring} is not a ring", got=op.ring.type, need=f"the result of {RingOp.NAME}")
        if isinstance(op, RingStepOp):
            cycle.turn(op)
        elif isinstance(op, Load):
            cycle.load(op)
        else:
            cycle.read(op)
            readings[op.result] = op.ring
    for cycle in cycles.values():
        cycle.end(loop, name)
    return cycles


def _check_handover(ring: RingOp, loop: ForTilesOp | ForKOp, cycles: list[_Cycle]) -> None:
    """Over all roles, a step fills every buffer once, and a role waits for it."""
    loaded = Counter(op.buffer for cycle in cycles for op in cycle.loads)
    for buffer in ring.buffers:
        if loaded[buffer.name] != 1:
            fail(loop, f"buffer '{buffer.name}' of {ring.result}", got=f"{loaded[buffer.name]} loads in a step", need=1)
    if not any(WaitOp in cycle.done for cycle in cycles):
        fail(loop, f"nobody waits for {ring.result}", got="a ring that fills up and blocks", need="wait and release")


def _check_ring(ring: RingOp, tiles: ForTilesOp, loads: list[Load]) -> None:
    """CTAs that share loads, or multiply together, are those that the scheduler puts on neighbouring tiles.

    A stage that no other CTA writes into is its CTA's own, and so are accumulators.
    """
    size, boxes = prod(tiles.cluster), [op for op in loads if isinstance(op, AsyncLoadOp)]
    wanted = size if any(op.multicast > 1 for op in boxes) else 1
    if ring.cluster != wanted:
        need = f"{wanted}, for {ForTilesOp.NAME} in clusters of {list(tiles.cluster)}"
        fail(ring, f"{ring.result} and the tiles disagree about the cluster", got=ring.cluster, need=need)
    shared = sum(op.shares > 1 for op in boxes)
    if ring.ctas > 1 and (ring.ctas != size or (shared != 1 and not ring.in_tensor_memory)):
        got = f"ctas={ring.ctas}, shares={[op.shares for op in boxes]}, clusters of {list(tiles.cluster)}"
        fail(ring, "the CTAs of a cluster multiply together, and share one operand", got=got, need=f"ctas={size}")


def _check_shared(ring: RingOp, tiles: ForTilesOp, loads: list[Load]) -> None:
    """A box that CTAs share is the same one for all of them, and goes to the whole cluster."""
    size = prod(tiles.cluster)
    for op in loads:
        if not isinstance(op, AsyncLoadOp) or op.multicast == op.shares == 1:
            continue
        if op.multicast not in (1, size):
            fail(op, "a shared box goes to the whole cluster", got=f"multicast={op.multicast}", need=f"1 or {size}")
        own = [arg for arg, count in zip(tiles.body.args, tiles.cluster, strict=True) if count > 1]
        for value in own:
            if value in (op.row, op.col):
                got = f"a box at {value}, which differs in the cluster"
                fail(op, "CTAs that share a box need the same one", got=got, need="a box that does not depend on it")
        rows = extents(Value(op.buffer, ring.buffer(op.buffer).type))[0]
        if rows % op.multicast:
            got, need = f"{rows} rows", f"a multiple of {op.multicast}"
            fail(op, "a shared box is loaded in equal shares", got=got, need=need)


def _engine(op: Load) -> Engine:
    """What carries a load out."""
    if isinstance(op, AsyncLoadScalesOp):
        return op.engine
    return {AsyncMmaOp: Engine.TENSOR, ArrangeOp: Engine.LANES}.get(type(op), Engine.BULK)


def _in_ring(ring: RingOp, op: Load | ReadOp) -> Buffer:
    """The buffer that ``op`` names."""
    names = {buffer.name: buffer for buffer in ring.buffers}
    if op.buffer not in names:
        fail(op, f"{ring.result} has no buffer '{op.buffer}'", got=op.buffer, need=", ".join(names))
    return names[op.buffer]
