"""Who runs next and when asynchronous work completes: in order, at random, or as inconveniently as possible."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gemmgen.errors import EmulationError

SCHEDULES = ("fifo", "random", "adversarial")


@dataclass(eq=False)
class AsyncOperation:
    """Work that an engine finishes at a moment of the scheduler's choice.

    Attributes:
        run: does it.
        label: the engine and what it does, for messages.
        chain: operations of one chain finish in the order they were issued; None for no order.
        pc: the instruction that issued it.
        done: whether it has run.
    """

    run: Callable[[], None]
    label: str
    chain: Hashable | None
    pc: int
    done: bool = False


class Policy(Protocol):
    """A scheduling policy.

    Attributes:
        gives_up_waits: whether a try_wait may return false before its phase is over.
    """

    gives_up_waits: bool

    def eager(self, pending: int) -> int:
        """How many of the pending operations to finish before the next unit runs."""
        ...

    def pick_operation(self, eligible: int) -> int:
        """Index of the operation to finish."""
        ...

    def pick_unit(self, runnable: int) -> int:
        """Index of the unit to run."""
        ...

    def budget(self) -> int:
        """How many blocks the unit runs at most."""
        ...


class Fifo:
    """Operations finish at once and in order; units take turns."""

    gives_up_waits = False

    def eager(self, pending: int) -> int:
        """How many of the pending operations to finish before the next unit runs."""
        return pending

    def pick_operation(self, eligible: int) -> int:
        """Index of the operation to finish."""
        return 0

    def pick_unit(self, runnable: int) -> int:
        """Index of the unit to run."""
        return 0

    def budget(self) -> int:
        """How many blocks the unit runs at most."""
        return 64


class Random:
    """Everything at random."""

    gives_up_waits = False

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def eager(self, pending: int) -> int:
        """How many of the pending operations to finish before the next unit runs."""
        return int(self._rng.integers(0, pending + 1)) if self._rng.random() < 0.5 else 0

    def pick_operation(self, eligible: int) -> int:
        """Index of the operation to finish."""
        return int(self._rng.integers(eligible))

    def pick_unit(self, runnable: int) -> int:
        """Index of the unit to run."""
        return int(self._rng.integers(runnable))

    def budget(self) -> int:
        """How many blocks the unit runs at most."""
        return int(self._rng.integers(1, 24))


class Adversarial:
    """Operations finish only when nothing else can run, the latest first; one unit runs as far as it can."""

    gives_up_waits = True

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def eager(self, pending: int) -> int:
        """How many of the pending operations to finish before the next unit runs."""
        return 0

    def pick_operation(self, eligible: int) -> int:
        """Index of the operation to finish."""
        return eligible - 1 if self._rng.random() < 0.8 else int(self._rng.integers(eligible))

    def pick_unit(self, runnable: int) -> int:
        """Index of the unit to run."""
        return runnable - 1 if self._rng.random() < 0.7 else int(self._rng.integers(runnable))

    def budget(self) -> int:
        """How many blocks the unit runs at most."""
        return 128


def make_policy(schedule: str, seed: int) -> Policy:
    """The policy of that name.

    Raises:
        EmulationError: there is none.
    """
    if schedule == "fifo":
        return Fifo()
    if schedule == "random":
        return Random(seed)
    if schedule == "adversarial":
        return Adversarial(seed)
    raise EmulationError("unknown schedule", where="schedule", got=schedule, need=" | ".join(SCHEDULES))
