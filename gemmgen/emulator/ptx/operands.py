"""Resolved operands of a decoded instruction."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reg:
    """A register: its kind is ``p`` or the ``b8`` … ``b128`` of its width, its index counts within the kind."""

    kind: str
    index: int
    name: str


@dataclass(frozen=True, slots=True)
class NotReg:
    """A negated predicate register."""

    register: Reg


@dataclass(frozen=True, slots=True)
class Imm:
    """A constant: an integer, or the bits of an ``f32`` or ``f64``."""

    value: int
    kind: str


@dataclass(frozen=True, slots=True)
class Special:
    """A special register such as ``%tid.x``."""

    name: str


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable or parameter; its value is its address in ``space``."""

    name: str
    space: str


@dataclass(frozen=True, slots=True)
class LabelRef:
    """A branch target."""

    target: str


@dataclass(frozen=True, slots=True)
class Sink:
    """``_``: the result is dropped."""


@dataclass(frozen=True, slots=True)
class Vec:
    """``{…}``."""

    items: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Mem:
    """``[base + offset]`` or ``[base, {coordinates}]``."""

    base: Operand
    offset: int
    coordinates: Vec | None


@dataclass(frozen=True, slots=True)
class PairOf:
    """``a|b``."""

    first: Operand
    second: Operand


Operand = Reg | NotReg | Imm | Special | Symbol | LabelRef | Sink | Vec | Mem | PairOf


def registers_in(operand: Operand | None) -> list[Reg]:
    """All registers an operand names, in order."""
    match operand:
        case Reg():
            return [operand]
        case NotReg(register):
            return [register]
        case Vec(items):
            return [register for item in items for register in registers_in(item)]
        case Mem(base, _, coordinates):
            return registers_in(base) + registers_in(coordinates)
        case PairOf(first, second):
            return registers_in(first) + registers_in(second)
        case _:
            return []
