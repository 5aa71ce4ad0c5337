"""The IR's data: values, regions, ops and modules, all frozen; plus the levels and effects that ops declare."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

from gemmgen.errors import IRError
from gemmgen.ir.schema import Arity, FieldSpec, schema_of
from gemmgen.ir.types import Type

RecordType = TypeVar("RecordType")
_LOCATION = re.compile(r"(?P<file>.+?):(?P<line>\d+):(?P<column>\d+)")


class Level(StrEnum):
    """How far down a module is: what is computed, who does it when, and with which instructions."""

    TILE = "tile"
    ASYNC = "async"
    TARGET = "target"


class Effect(StrEnum):
    """What an op does besides computing its results; an op without effects is pure."""

    READS_GMEM = "reads_gmem"
    WRITES_GMEM = "writes_gmem"
    READS_SMEM = "reads_smem"
    WRITES_SMEM = "writes_smem"
    READS_TMEM = "reads_tmem"
    WRITES_TMEM = "writes_tmem"
    READS_BARRIER = "reads_barrier"
    WRITES_BARRIER = "writes_barrier"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an op comes from: a place in a file, the pass that made it, or both. Text: ``a.yaml:3:5 via promote``."""

    file: str = ""
    line: int = 0
    column: int = 0
    pass_name: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.file else ""
        maker = f"via {self.pass_name}" if self.pass_name else ""
        return " ".join(part for part in (place, maker) if part) or "unknown"

    @property
    def known(self) -> bool:
        """Whether the origin says anything."""
        return bool(self.file or self.pass_name)

    def via(self, pass_name: str) -> Origin:
        """The same place, made by ``pass_name``."""
        return dataclasses.replace(self, pass_name=pass_name)

    @classmethod
    def parse(cls, text: str) -> Origin:
        """The origin whose ``str`` is ``text``; text of no known form becomes the file name."""
        place, _, maker = text.rpartition("via ") if "via " in text else (text, "", "")
        match = _LOCATION.fullmatch(place.strip())
        if match:
            return cls(match["file"], int(match["line"]), int(match["column"]), maker)
        return cls("" if place.strip() == "unknown" else place.strip(), pass_name=maker)


UNKNOWN = Origin()


@dataclass(frozen=True, slots=True)
class Value:
    """An SSA value; its name is unique in the module."""

    name: str
    type: Type

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        return f"%{self.name}"


@dataclass(frozen=True)
class Op:
    """Base of all ops: frozen dataclasses whose fields are declared with the specifiers of ``gemmgen.ir.schema``.

    ``NAME`` is ``dialect.op``; ``LEVELS`` says where the op is legal; an op with ``IS_TERMINATOR`` ends its region.
    """

    NAME: ClassVar[str]
    LEVELS: ClassVar[frozenset[Level]]
    EFFECTS: ClassVar[frozenset[Effect]] = frozenset()
    IS_TERMINATOR: ClassVar[bool] = False

    origin: Origin = field(default=UNKNOWN, kw_only=True, compare=False, repr=False)

    def verify(self) -> None:
        """Check what the declaration cannot say; raise IRError (the verifier adds the op and its origin)."""

    @property
    def all_operands(self) -> tuple[Value, ...]:
        """Every value the op itself reads, in order of declaration (its regions not included)."""
        return _flatten(self, schema_of(type(self)).operands)

    @property
    def all_results(self) -> tuple[Value, ...]:
        """Every value the op defines, in order of declaration."""
        return _flatten(self, schema_of(type(self)).results)

    @property
    def all_regions(self) -> tuple[Region, ...]:
        """Every region of the op, in order of declaration."""
        return _flatten(self, schema_of(type(self)).regions)

    @property
    def all_attrs(self) -> dict[str, Any]:
        """Every attribute by name, defaults included."""
        return {spec.name: getattr(self, spec.name) for spec in schema_of(type(self)).attrs}

    def replace(self: OpType, **changes: Any) -> OpType:
        """The same op with some fields changed."""
        return dataclasses.replace(self, **changes)


OpType = TypeVar("OpType", bound=Op)


@dataclass(frozen=True)
class Region:
    """Ops in order, and the values that each entry of the region defines. Values defined inside stay inside."""

    args: tuple[Value, ...] = ()
    ops: tuple[Op, ...] = ()

    @property
    def terminator(self) -> Op | None:
        """The last op, if it ends the region."""
        return self.ops[-1] if self.ops and self.ops[-1].IS_TERMINATOR else None


@dataclass(frozen=True)
class Module:
    """One kernel at one level.

    ``attrs`` holds facts about the whole kernel as (name, value) pairs: numbers, strings, dimension expressions and
    registered records. ``args`` are the kernel's parameters.
    """

    name: str
    level: Level
    target: str
    args: tuple[Value, ...] = ()
    attrs: tuple[tuple[str, Any], ...] = ()
    body: Region = Region()

    def attr(self, name: str) -> Any:
        """The attribute called ``name``.

        Raises:
            IRError: when the module has no such attribute.
        """
        for key, value in self.attrs:
            if key == name:
                return value
        known = ", ".join(key for key, _ in self.attrs) or "no attributes"
        raise IRError(f"module @{self.name} has no attribute '{name}'", got=known, need=name)

    def has_attr(self, name: str) -> bool:
        """Whether there is an attribute called ``name``."""
        return any(key == name for key, _ in self.attrs)

    def record(self, cls: type[RecordType]) -> RecordType:
        """The one attribute that is an instance of ``cls``.

        Raises:
            IRError: when none or several are.
        """
        found = [value for _, value in self.attrs if isinstance(value, cls)]
        if len(found) != 1:
            raise IRError(f"module @{self.name} needs one {cls.__name__} attribute", got=len(found), need=1)
        return found[0]

    def with_attrs(self, **changes: Any) -> Module:
        """The same module with attributes added or changed; existing ones keep their place."""
        return dataclasses.replace(self, attrs=tuple({**dict(self.attrs), **changes}.items()))

    def replace(self, **changes: Any) -> Module:
        """The same module with some fields changed."""
        return dataclasses.replace(self, **changes)

    def __str__(self) -> str:
        from gemmgen.ir.printer import print_module

        return print_module(self)


def _flatten(op: Op, specs: tuple[FieldSpec, ...]) -> tuple[Any, ...]:
    found: list[Any] = []
    for spec in specs:
        value = getattr(op, spec.name)
        if spec.arity is Arity.MANY:
            found.extend(value)
        elif value is not None:
            found.append(value)
    return tuple(found)
