"""The spec of one family of kernels, as frozen dataclasses.

Every field's rule, meaning and default stands here once; the loader, the JSON schema and the reference read it.
A spec built in Python is checked exactly like one read from YAML:
``GemmSpec(name="g", problem={"kind": "dense", …}, …)``.
"""

# ruff: noqa: RUF009 — entry() declares a field; what it is called with is frozen

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gemmgen.spec import vocabulary as words
from gemmgen.spec.fields import Choice, FieldError, Flag, Identifier, Integer, Items, ScaleBlock, Special, Words, auto
from gemmgen.spec.fields import optional as nullable
from gemmgen.spec.frozen_map import FrozenMap
from gemmgen.spec.part import Nested, SpecPart, entry
from gemmgen.spec.text_fields import Dims, Epilogue

if TYPE_CHECKING:
    import sympy


@dataclass(frozen=True, kw_only=True)
class Problem(SpecPart):
    """What is multiplied."""

    kind: str = entry(Choice(tuple(words.KINDS)), "the family of the problem")
    layout: str = entry(Choice(tuple(words.LAYOUTS)), "how A and B lie in memory", default="NT")
    dims: Mapping[str, int | str] = entry(Dims(), "the size of every dimension; `dynamic` ones are run-time arguments")

    def __post_init__(self) -> None:
        super().__post_init__()
        own = words.KINDS[self.kind].dims
        for name in own:
            if name not in self.dims:
                raise FieldError(
                    f"dimension {name} is missing",
                    path=("dims",),
                    got=", ".join(self.dims) or "none",
                    need=", ".join(own),
                    fix=f"add {name}: dynamic",
                )
        # One order for all, so that equal problems have equal canonical text.
        order = (*own, *sorted(self.dims.keys() - set(own)))
        object.__setattr__(self, "dims", FrozenMap({name: self.dims[name] for name in order}))

    def dim(self, name: str) -> sympy.Expr:
        """A dimension as a sympy expression of the dynamic dimensions it depends on."""
        from gemmgen.spec.binding import dim_expression

        return dim_expression(self.dims, name)


@dataclass(frozen=True, kw_only=True)
class Scale(SpecPart):
    """The scale factors of an operand: a scaled element is ``data * scale``."""

    block: tuple[int | str, int | str] = entry(ScaleBlock(), "elements that share one scale, [along m or n, along k]")
    format: str = entry(Choice(tuple(words.SCALE_FORMATS)), "how a scale is stored", default="f32")

    def block_extents(self, rows: int, cols: int) -> tuple[int, int]:
        """Rows and columns of one block in a matrix of ``rows`` (along m or n) by ``cols`` (along k)."""
        along_mn, along_k = self.block
        return along_mn if isinstance(along_mn, int) else rows, along_k if isinstance(along_k, int) else cols


@dataclass(frozen=True, kw_only=True)
class Operand(SpecPart):
    """One matrix."""

    dtype: str = entry(Choice(tuple(words.DTYPES)), "element type")
    scale: Scale | None = entry(nullable(Nested(Scale)), "scale factors, for FP8 and FP4", default=None)


@dataclass(frozen=True, kw_only=True)
class Operands(SpecPart):
    """The matrices of the problem."""

    a: Operand = entry(Nested(Operand), "left factor, M × K")
    b: Operand = entry(Nested(Operand), "right factor, N × K")
    c: Operand | None = entry(nullable(Nested(Operand)), "matrix added in the epilogue, M × N", default=None)
    d: Operand = entry(Nested(Operand), "result, M × N")


@dataclass(frozen=True, kw_only=True)
class Accumulate(SpecPart):
    """How products are summed."""

    dtype: str = entry(Choice(tuple(words.ACCUMULATE_DTYPES)), "type of the accumulator", default="f32")
    promote_every: int | str | None = entry(
        Special(Integer(32, 1024, 32), ((words.AUTO, words.AUTO), (None, None))),
        "elements of K after which the tensor core's partial sum is scaled and added to the accumulator; `null` never"
        " promotes; `auto` follows the FP32 scale blocks",
        default=words.AUTO,
    )


@dataclass(frozen=True, kw_only=True)
class Warps(SpecPart):
    """How many warps play each role."""

    producer: int | None = entry(auto(Integer(1, 4)), "warps that load", default=None)
    math: int | None = entry(auto(Integer(1, 4)), "warpgroups (of 4 warps) that multiply", default=None)


@dataclass(frozen=True, kw_only=True)
class Registers(SpecPart):
    """Registers per thread of each role (`setmaxnreg`)."""

    producer: int | None = entry(auto(Integer(24, 256, 8)), "registers of a loading thread", default=None)
    math: int | None = entry(auto(Integer(24, 256, 8)), "registers of a multiplying thread", default=None)


@dataclass(frozen=True, kw_only=True)
class Raster(SpecPart):
    """The order in which output tiles are visited, which decides what L2 can reuse."""

    group: int | None = entry(auto(Integer(1, 256)), "tiles per group across the other axis", default=None)
    along: str | None = entry(auto(Choice(tuple(words.RASTER_AXES))), "the axis visited first", default=None)


@dataclass(frozen=True, kw_only=True)
class ScheduleHints(SpecPart):
    """How the kernel works; None (written `auto`) leaves a choice to the compiler."""

    tile: tuple[int, int, int] | None = entry(
        auto(Items(("m", "n", "k"), Integer(8, 512, 8))), "output tile and K step of one CTA", default=None
    )
    stages: int | None = entry(auto(Integer(1, 32)), "slots of the shared-memory ring", default=None)
    cluster: tuple[int, int] | None = entry(
        auto(Items(("m", "n"), Integer(1, 16), max_product=16)), "CTAs of a cluster along m and n", default=None
    )
    warps: Warps = entry(Nested(Warps, may_be_auto=True), "warps per role", default=Warps())
    registers: Registers = entry(
        Nested(Registers, may_be_auto=True), "registers per thread and role", default=Registers()
    )
    scheduler: str | None = entry(
        auto(Choice(tuple(words.SCHEDULERS))), "how output tiles are shared out between CTAs", default=None
    )
    split_k: int | None = entry(auto(Integer(1, 64)), "CTAs that share one output tile", default=None)
    swap_ab: bool | None = entry(auto(Flag()), "put rows of D on the tensor core's N side, for small M", default=None)
    cta_group: int | None = entry(auto(Integer(1, 2)), "CTAs that multiply together, on Blackwell", default=None)
    raster: Raster = entry(Nested(Raster, may_be_auto=True), "order of the output tiles", default=Raster())
    pdl: bool | None = entry(auto(Flag()), "programmatic dependent launch", default=None)
    promotion_overlap: bool | None = entry(
        auto(Flag()), "promote a step while the next one is multiplied, on Hopper", default=None
    )
    scales_ahead: bool | None = entry(
        auto(Flag()), "copy the scales of blocks for all steps of a tile at once, on Hopper", default=None
    )
    promotion_burst: int | None = entry(
        auto(Integer(0, 256)), "multiply-adds of promotion that a warp issues in a row, on Hopper", default=None
    )
    lookahead: bool | None = entry(
        auto(Flag()), "look for the next step's operands before a step is promoted, on Hopper", default=None
    )
    unroll: int | None = entry(
        auto(Integer(0, 16)),
        "steps of K in a row in the code of the multiplying loop, on Hopper; 0 leaves it to the compiler",
        default=None,
    )
    deal_columns: bool | None = entry(
        auto(Flag()), "deal a tile's columns in runs that each lie in one scale block, on Hopper", default=None
    )
    evict_first: bool | None = entry(auto(Flag()), "let B's lines leave L2 before others, on Hopper", default=None)
    epilogue_overlap: bool | None = entry(auto(Flag()), "store a tile while the next one is multiplied", default=None)


@dataclass(frozen=True, kw_only=True)
class GemmSpec(SpecPart):
    """A family of matrix multiplications and how to compile it.

    Raises:
        SpecError: on construction, for a value outside the language or an impossible combination.
    """

    version: int = entry(
        Integer(words.SPEC_VERSION, words.SPEC_VERSION),
        "version of the spec language",
        default=words.SPEC_VERSION,
        key="gemmgen",
    )
    name: str = entry(Identifier(), "name of the kernel; it appears in the generated source")
    problem: Problem = entry(Nested(Problem), "what is multiplied")
    operands: Operands = entry(Nested(Operands), "element types and scales")
    accumulate: Accumulate = entry(Nested(Accumulate), "how products are summed", default=Accumulate())
    epilogue: str = entry(Epilogue(), "what is stored for an accumulator `acc`", default="acc")
    schedule: ScheduleHints = entry(
        Nested(ScheduleHints, may_be_auto=True), "how the kernel works", default=ScheduleHints()
    )
    targets: tuple[str, ...] = entry(Words(tuple(words.TARGETS)), "architectures to compile for")
    positions: Mapping[str, str] = field(default_factory=FrozenMap[str, str], compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        from gemmgen.spec.rules import check_combinations, promotion_interval

        object.__setattr__(self, "positions", FrozenMap(self.positions))
        if self.accumulate.promote_every == words.AUTO:
            resolved = Accumulate(dtype=self.accumulate.dtype, promote_every=promotion_interval(self))
            object.__setattr__(self, "accumulate", resolved)
        check_combinations(self)

    def position(self, path: str) -> str:
        """Where a key such as ``schedule.tile`` was written: ``file:line:column``, or its path if it came from Python.

        A key that was left out answers with the nearest enclosing mapping that was written.
        """
        parts = path.split(".")
        for count in range(len(parts), 0, -1):
            found = self.positions.get(".".join(parts[:count]))
            if found:
                return found
        return path

    def bind(self, **dims: int) -> GemmSpec:
        """The same spec with some dimensions fixed; expressions that become constant turn into ints.

        Raises:
            SpecError: an unknown dimension, a value outside 0..2³¹-1, or one that contradicts a fixed dimension.
        """
        from gemmgen.spec.binding import bind

        return bind(self, dims)

    def dim(self, name: str) -> sympy.Expr:
        """A dimension as a sympy expression of the dynamic dimensions it depends on."""
        return self.problem.dim(name)

    def canonical(self) -> str:
        """Deterministic YAML text of every field, defaults included; equal specs have equal text."""
        from gemmgen.spec.writer import to_yaml

        return to_yaml(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain values of every key as they stand in YAML."""
        return super().to_dict()
