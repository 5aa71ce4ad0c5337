"""What a backend's model says about one kernel and one shape. Each backend's ``model.py`` fills these records."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from gemmgen.schedule import Schedule


@dataclass(frozen=True)
class Rounds:
    """How the tiles of an output are dealt out.

    Attributes:
        tiles: tiles along M and along N, those that only fill up a cluster included.
        ctas: CTAs' worth of work: a tile's K loop, or one part of it.
        at_once: CTAs that run at once.
    """

    tiles: tuple[int, int]
    ctas: int
    at_once: int

    @property
    def count(self) -> int:
        """Rounds, or waves, of CTAs."""
        return -(-self.ctas // self.at_once)

    @property
    def last_fill(self) -> float:
        """The part of the CTAs that could run which have work in the last round."""
        return (self.ctas - (self.count - 1) * self.at_once) / self.at_once


@dataclass(frozen=True)
class Prediction:
    """A launch's predicted time, ``base + max(steps, moving) + tiles``.

    Attributes:
        base_us: µs per launch.
        step_us: µs per step of K.
        tile_us: µs per round that nothing hides.
        memory_us: µs in which the operands and the output can be moved.
        steps_per_tile: steps of K that a CTA makes for a tile.
        rounds: how the tiles are dealt out.
    """

    base_us: float
    step_us: float
    tile_us: float
    memory_us: float
    steps_per_tile: int
    rounds: Rounds

    @property
    def steps_per_cta(self) -> int:
        """Steps of K of the CTA that makes most."""
        return self.rounds.count * self.steps_per_tile

    @property
    def steps_us(self) -> float:
        """µs of all steps that follow each other."""
        return self.steps_per_cta * self.step_us

    @property
    def moving_us(self) -> float:
        """µs in which the CTAs move the bytes: ``memory_us``, or more if the last round has too few for the memory.

        Its CTAs load no faster than they make steps, so such a round takes at least as long as its steps.
        """
        rounds, steps_us = self.rounds, self.steps_per_tile * self.step_us
        if self.memory_us <= self.steps_us or rounds.count == 1:
            return self.memory_us
        full_us = self.memory_us * rounds.at_once / rounds.ctas
        last_us = full_us * rounds.last_fill
        return (rounds.count - 1) * max(steps_us, full_us) + max(steps_us, last_us)

    @property
    def tiles_us(self) -> float:
        """µs of all rounds that nothing hides."""
        return self.rounds.count * self.tile_us

    @property
    def total_us(self) -> float:
        """µs of the launch, on data that is not in L2."""
        return self.base_us + max(self.steps_us, self.moving_us) + self.tiles_us

    @property
    def bound(self) -> str:
        """The longest of the terms that add up: ``base``, ``steps``, ``memory`` or ``tiles``."""
        inner = ("steps", self.steps_us) if self.steps_us >= self.memory_us else ("memory", self.moving_us)
        terms = (inner, ("base", self.base_us), ("tiles", self.tiles_us))
        return max(terms, key=lambda term: term[1])[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, derived ones included."""
        names = ("steps_per_cta", "steps_us", "moving_us", "tiles_us", "total_us", "bound")
        rounds = {"count": self.rounds.count, "last_fill": self.rounds.last_fill}
        return asdict(self) | {name: getattr(self, name) for name in names} | {"rounds": asdict(self.rounds) | rounds}


@dataclass(frozen=True)
class Floor:
    """The time below which the hardware cannot go under load: ``max(memory, compute) + fixed``, in µs.

    Power limits large products, and a chip that has rested does ``rested`` times as many for a while.
    """

    memory_us: float
    compute_us: float
    fixed_us: float
    rested: float = 1.0

    @property
    def total_us(self) -> float:
        """µs of the launch."""
        return max(self.memory_us, self.compute_us) + self.fixed_us

    @property
    def rested_us(self) -> float:
        """µs of the launch on a chip that has rested."""
        return max(self.memory_us, self.compute_us / self.rested) + self.fixed_us

    @property
    def bound(self) -> str:
        """``memory`` or ``compute``."""
        return "memory" if self.memory_us >= self.compute_us else "compute"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, derived ones included."""
        return asdict(self) | {"total_us": self.total_us, "bound": self.bound}


@dataclass(frozen=True)
class Candidate:
    """A schedule among which the plan chose.

    Attributes:
        schedule: the schedule.
        deciding_us: predicted µs at the M for which the choice was made.
        predicted_us: predicted µs at the M that is asked about.
    """

    schedule: Schedule
    deciding_us: float
    predicted_us: float


@dataclass(frozen=True)
class Role:
    """Warps of a CTA and their registers per thread; not ``exact``: as many as the launch could give them."""

    label: str
    warps: int
    registers: int
    exact: bool


@dataclass(frozen=True)
class Launch:
    """Shape of a launch: CTAs, CTAs per cluster, threads and bytes of shared memory per CTA, stages of its ring."""

    ctas: int
    cluster: int
    threads: int
    smem_bytes: int
    stages: int

    @property
    def clusters(self) -> int:
        """Clusters launched."""
        return self.ctas // self.cluster


@dataclass(frozen=True)
class Traffic:
    """Bytes on their way from L2 to shared memory; boxes that stick out of an operand count whole.

    Attributes:
        l2_step_bytes: what a CTA reads from L2 in a step; with multicast, its share.
        landing_step_bytes: what arrives in a CTA's shared memory in a step.
        l2_launch_bytes: what all CTAs read from L2 in a launch.
        flight_cta_bytes: what a CTA's ring has under way at most.
        flight_bytes: the same for all CTAs that run at once.
    """

    l2_step_bytes: int
    landing_step_bytes: int
    l2_launch_bytes: int
    flight_cta_bytes: int
    flight_bytes: int


@dataclass(frozen=True)
class Resource:
    """One resource and how much of it is used.

    Attributes:
        name: what it is.
        used: how much is used, in ``unit``; of an engine: µs in which it is busy.
        limit: how much there is; of an engine: the predicted µs.
        unit: of ``used`` and ``limit``.
        step_cycles: of an engine: clock cycles that a step of K needs.
        step_bytes: of an engine that moves data: bytes that it moves in a step of K.
    """

    name: str
    used: float
    limit: float
    unit: str
    step_cycles: float | None = None
    step_bytes: int | None = None

    @property
    def occupied(self) -> float:
        """The part that is used; more than 1 where the model contradicts the data sheet."""
        return self.used / self.limit


@dataclass(frozen=True)
class KernelModel:
    """Everything the model says about the kernel that serves a shape.

    Attributes:
        basis: what the model rests on, for people.
        deciding_m: the M for which the plan chose the kernel.
        considered: how many schedules it chose among.
        candidates: the kernel itself, then the next best ones for ``deciding_m``.
        prediction: time of the kernel for the shape.
        floor: time below which no kernel can go.
        launch: shape of the launch.
        traffic: bytes loaded.
        roles: warps and registers.
        step_cycles: clock cycles of a predicted step of K.
        resources: engines, then spaces.
    """

    basis: str
    deciding_m: int
    considered: int
    candidates: tuple[Candidate, ...]
    prediction: Prediction
    floor: Floor
    launch: Launch
    traffic: Traffic
    roles: tuple[Role, ...]
    step_cycles: float
    resources: tuple[Resource, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, derived ones included."""
        best = self.candidates[0].deciding_us
        return {
            "basis": self.basis,
            "measured": False,
            "deciding_m": self.deciding_m,
            "considered": self.considered,
            "prediction": self.prediction.to_dict(),
            "floor": self.floor.to_dict(),
            "predicted_to_floor": self.prediction.total_us / self.floor.total_us,
            "runners_up": [
                {"schedule": c.schedule.to_dict(), "deciding_us": c.deciding_us, "predicted_us": c.predicted_us,
                 "ratio": c.deciding_us / best}
                for c in self.candidates[1:]
            ],
            "launch": asdict(self.launch) | {"clusters": self.launch.clusters},
            "traffic": asdict(self.traffic),
            "roles": [asdict(role) for role in self.roles],
            "step_cycles": self.step_cycles,
            "resources": [asdict(found) | {"occupied": found.occupied} for found in self.resources],
        }  # fmt: skip
