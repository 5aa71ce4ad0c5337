"""Building IR op by op, with fresh deterministic names and a current origin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from gemmgen.ir.core import UNKNOWN, Op, Origin, Region, Value
from gemmgen.ir.rewrite import NameSupply
from gemmgen.ir.schema import Arity, FieldSpec, schema_of
from gemmgen.ir.types import Type

OpType = TypeVar("OpType", bound=Op)


@dataclass
class RegionScope:
    """A region under construction: its arguments at once, the frozen ``region`` when the ``with`` block has ended."""

    args: tuple[Value, ...]
    region: Region


class Builder:
    """Appends ops to the innermost open region.

    Example::

        b = Builder(NameSupply.of(module), origin)
        with b.region(k=INDEX) as body:
            part = b.add(MmaOp, a=x, b=y, shape=(64, 128, 32), result=("part", frag(F32, 64, 128)))
        b.add(ForOp, count=8, body=body.region)
        ops = b.take()
    """

    def __init__(self, names: NameSupply | None = None, origin: Origin = UNKNOWN) -> None:
        self.names = names or NameSupply()
        self.origin = origin
        self._open: list[list[Op]] = [[]]

    def value(self, hint: str, kind: Type) -> Value:
        """A new value whose name starts with ``hint``."""
        return Value(self.names.fresh(hint), kind)

    def add(self, cls: type[OpType], **fields: Any) -> OpType:
        """Create an op, append it and return it.

        Each result field takes a Value, a Type (the hint is then the field's name) or a (hint, Type) pair; a variadic
        one takes a sequence of those. Lists become tuples.
        """
        for spec in schema_of(cls).results:
            if spec.name in fields:
                fields[spec.name] = self._results(spec, fields[spec.name])
        frozen = {name: tuple(held) if isinstance(held, list) else held for name, held in fields.items()}
        op = cls(**{"origin": self.origin, **frozen})
        return self.append(op)

    def append(self, op: OpType) -> OpType:
        """Append an existing op and return it."""
        self._open[-1].append(op)
        return op

    def extend(self, ops: Sequence[Op]) -> None:
        """Append existing ops."""
        self._open[-1].extend(ops)

    @contextmanager
    def region(self, **args: Type) -> Iterator[RegionScope]:
        """Collect the ops added inside the ``with`` block into a region whose arguments are named by keyword."""
        scope = RegionScope(tuple(self.value(hint, kind) for hint, kind in args.items()), Region())
        self._open.append([])
        try:
            yield scope
        finally:
            scope.region = Region(scope.args, tuple(self._open.pop()))

    @contextmanager
    def at(self, origin: Origin) -> Iterator[None]:
        """Give the ops added inside the ``with`` block this origin."""
        outer, self.origin = self.origin, origin
        try:
            yield
        finally:
            self.origin = outer

    def take(self) -> tuple[Op, ...]:
        """The ops of the innermost open region so far, which is empty afterwards."""
        ops = tuple(self._open[-1])
        self._open[-1].clear()
        return ops

    def _results(self, spec: FieldSpec, given: Any) -> Any:
        if spec.arity is Arity.MANY:
            return tuple(self._result(spec.name, item) for item in given)
        return self._result(spec.name, given)

    def _result(self, name: str, given: Value | Type | tuple[str, Type]) -> Value:
        if isinstance(given, Value):
            return given
        hint, kind = given if isinstance(given, tuple) else (name, given)
        return self.value(hint, kind)
