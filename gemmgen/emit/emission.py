"""What an emitter says about an op, and the registry of emitters keyed by (op, target)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gemmgen.errors import IRError
from gemmgen.ir.core import Module, Op
from gemmgen.ir.rewrite import walk

OpT = TypeVar("OpT", bound=Op)


@dataclass(frozen=True)
class Emission:
    """The text of one op: a template, the fields it names, and the device functions it calls.

    The text of the op's region, if it has one, is the further field ``body``; several go by their own names.
    """

    template: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    helpers: tuple[Helper, ...] = ()


@dataclass(frozen=True)
class Helper:
    """A device function: a template and its fields; equal helpers are emitted once."""

    template: str
    fields: tuple[tuple[str, Any], ...] = ()


def helpers(*names: str) -> tuple[Helper, ...]:
    """Helpers whose templates take no fields."""
    return tuple(Helper(name) for name in names)


Emitter = Callable[[Any, Module], Emission]
_EMITTERS: dict[tuple[str, type[Op]], Emitter] = {}


def emits(
    op: type[OpT], target: str
) -> Callable[[Callable[[OpT, Module], Emission]], Callable[[OpT, Module], Emission]]:
    """Decorator: the function is the emitter of ``op`` for the target dialect ``target``.

    Raises:
        IRError: the pair has an emitter already.
    """

    def register(function: Callable[[OpT, Module], Emission]) -> Callable[[OpT, Module], Emission]:
        if (target, op) in _EMITTERS:
            raise IRError(f"two emitters for {op.NAME}", got=function.__qualname__, need="one per (op, target)")
        _EMITTERS[target, op] = function
        return function

    return register


def share_emitter(op: type[Op], target: str, other: type[Op], other_target: str) -> None:
    """Spell ``op`` on ``target`` as ``other`` is spelled on ``other_target``."""
    emits(op, target)(_EMITTERS[other_target, other])


def find_emitter(op: Op, target: str) -> Emitter:
    """The emitter of an op; ``require_emitters`` has made sure that there is one."""
    return _EMITTERS[target, type(op)]


def require_emitters(module: Module, target: str) -> None:
    """Raise IRError, naming all of them, unless every op of the module has an emitter."""
    missing = sorted({op.NAME for op in walk(module) if (target, type(op)) not in _EMITTERS})
    if missing:
        raise IRError(f"no emitter for target {target}", where=f"module @{module.name}", got=", ".join(missing),
                      need="ops of this target", fix="run the pass that lowers to the target")  # fmt: skip
