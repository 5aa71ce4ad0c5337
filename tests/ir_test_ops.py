"""Ops, records and passes of a small dialect that only the tests of the IR framework use."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any, ClassVar

import sympy

from gemmgen.errors import IRError
from gemmgen.ir import Dim, Effect, Level, Op, Region, Value, register_op, register_record
from gemmgen.ir.schema import attr, operand, operands, optional_operand, optional_region, region, result, results
from gemmgen.ir.types import ScalarType, Type

ALL_LEVELS = frozenset(Level)


class Swizzle(Enum):
    NONE = "none"
    B128 = "128B"
    LINEAR = "linear"


class Axis(StrEnum):
    M = "m"
    N = "n"


@dataclass(frozen=True)
class Plan:
    """Base of two registered records."""


@register_record("test_point")
@dataclass(frozen=True)
class Point(Plan):
    x: int
    scale: float = 1.0
    names: tuple[str, ...] = ()
    axis: Axis = Axis.M
    inner: Point | None = None


@register_record("test_span")
@dataclass(frozen=True)
class Span(Plan):
    extent: Dim
    sizes: tuple[int, ...] = field(default_factory=lambda: (1, 2))


@register_op
@dataclass(frozen=True)
class LeafOp(Op):
    """``%a, %b = test.leaf(x=%x, more=[%y]) {count=1} : f32, f32``."""

    NAME: ClassVar[str] = "test.leaf"
    LEVELS: ClassVar[frozenset[Level]] = ALL_LEVELS

    x: Value | None = optional_operand()
    more: tuple[Value, ...] = operands()
    results: tuple[Value, ...] = results()


@register_op
@dataclass(frozen=True)
class MmaOp(Op):
    """``%part = test.mma(a=%a, b=%b) {shape=[64, 128, 32]} : f32``."""

    NAME: ClassVar[str] = "test.mma"
    LEVELS: ClassVar[frozenset[Level]] = frozenset({Level.TILE, Level.ASYNC})
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.READS_SMEM})

    a: Value = operand()
    b: Value = operand()
    shape: tuple[int, int, int] = attr()
    result: Value = result()

    def verify(self) -> None:
        if self.shape[2] % 32:
            raise IRError("k is not a multiple of 32", got=self.shape[2], need=32, fix="pad k")


@register_op
@dataclass(frozen=True)
class AttrsOp(Op):
    """``test.attrs() {count=K/128, swizzle="128B"}``: an attribute of every kind."""

    NAME: ClassVar[str] = "test.attrs"
    LEVELS: ClassVar[frozenset[Level]] = ALL_LEVELS

    flag: bool = attr(default=False)
    number: int = attr(default=0)
    real: float = attr(default=0.0)
    text: str = attr(default="")
    swizzle: Swizzle = attr(default=Swizzle.NONE)
    axis: Axis | None = attr(default=None)
    count: sympy.Expr = attr()
    dims: tuple[Dim, ...] = attr(default=())
    nested: tuple[tuple[int, str], ...] = attr(default=())
    choice: int | str | None = attr(default=None)
    dtype: ScalarType | None = attr(default=None)
    kind: Type | None = attr(default=None)
    plan: Plan | None = attr(default=None)
    anything: Any = attr(default=None)


@register_op
@dataclass(frozen=True)
class ForOp(Op):
    """``test.for(inits=[%x]) {count=8} : f32 do (%i: index) { … }``."""

    NAME: ClassVar[str] = "test.for"
    LEVELS: ClassVar[frozenset[Level]] = ALL_LEVELS
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset({Effect.CONTROL})

    inits: tuple[Value, ...] = operands()
    count: Dim = attr()
    results: tuple[Value, ...] = results()
    body: Region = region()


@register_op
@dataclass(frozen=True)
class IfOp(Op):
    """``%first, %rest = test.if(cond=%c) : f32, f32 do then { … } do otherwise { … }``."""

    NAME: ClassVar[str] = "test.if"
    LEVELS: ClassVar[frozenset[Level]] = ALL_LEVELS

    cond: Value = operand()
    first: Value = result()
    rest: tuple[Value, ...] = results()
    then: Region = region()
    otherwise: Region | None = optional_region()


@register_op
@dataclass(frozen=True)
class YieldOp(Op):
    """``test.yield(values=[%a])``."""

    NAME: ClassVar[str] = "test.yield"
    LEVELS: ClassVar[frozenset[Level]] = ALL_LEVELS
    IS_TERMINATOR: ClassVar[bool] = True

    values: tuple[Value, ...] = operands()


@register_op
@dataclass(frozen=True)
class AsyncOnlyOp(Op):
    """``test.async_only()``."""

    NAME: ClassVar[str] = "test.async_only"
    LEVELS: ClassVar[frozenset[Level]] = frozenset({Level.ASYNC})
