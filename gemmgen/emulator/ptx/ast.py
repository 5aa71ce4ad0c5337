"""The syntax tree of a PTX module: what the parser builds and the decoder reads."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SourceLocation:
    """A ``.loc`` directive: where in the CUDA source an instruction comes from.

    Attributes:
        file: the number of the ``.file`` directive.
        line: line of the instruction's own source.
        call_line: line of the outermost call that was inlined, or ``line`` where nothing was.
    """

    file: int
    line: int
    call_line: int


@dataclass(frozen=True, slots=True)
class Name:
    """A register, special register, symbol or label as an operand; ``_`` is the sink."""

    text: str


@dataclass(frozen=True, slots=True)
class Negated:
    """``!%p``: a predicate operand, negated."""

    text: str


@dataclass(frozen=True, slots=True)
class Immediate:
    """A constant.

    Attributes:
        value: the integer, or the bit pattern of a floating-point constant.
        kind: ``int``, ``f32`` or ``f64``.
    """

    value: int
    kind: str = "int"


@dataclass(frozen=True, slots=True)
class Vector:
    """``{a, b, …}``."""

    items: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Address:
    """``[base + offset]``, with the coordinates of a tensor operand where there are any."""

    base: Operand
    offset: int = 0
    coordinates: Vector | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """``a|b``: two destinations."""

    first: str
    second: str


Operand = Name | Negated | Immediate | Vector | Address | Pair


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction as written.

    Attributes:
        opcode: mnemonic with all its modifiers.
        operands: in source order.
        guard: predicate register, or None.
        guard_negated: whether the guard is ``@!p``.
        line: line of the PTX text, from 1.
    """

    opcode: str
    operands: tuple[Operand, ...]
    guard: str | None
    guard_negated: bool
    line: int


@dataclass(frozen=True, slots=True)
class Label:
    """A label that the next instruction carries."""

    name: str
    line: int


@dataclass(frozen=True, slots=True)
class RegisterDeclaration:
    """``.reg .type %r<n>;``: names with their counts, 0 for a single register of that name."""

    type: str
    names: tuple[tuple[str, int], ...]
    line: int


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of a state space.

    Attributes:
        space: ``global``, ``shared``, ``const`` or ``local``.
        type: element type.
        align: alignment in bytes.
        extents: array extents, empty for a scalar; a single None for ``[]``.
        initial: flat initial element values (integers or bit patterns), or None.
        external: whether it is ``.extern`` (dynamic shared memory).
    """

    space: str
    type: str
    name: str
    align: int
    extents: tuple[int | None, ...]
    initial: tuple[int, ...] | None
    external: bool
    line: int


@dataclass(frozen=True, slots=True)
class Block:
    """``{ … }``: a scope of its own for registers, labels and variables."""

    statements: tuple[Statement, ...]
    line: int


Statement = Instruction | Label | RegisterDeclaration | SourceLocation | Variable | Block


@dataclass(frozen=True, slots=True)
class Param:
    """A kernel parameter: ``size`` bytes at a multiple of ``align``; arrays are passed by value."""

    name: str
    type: str
    size: int
    align: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A kernel.

    Attributes:
        name: entry name.
        params: in order.
        performance: directives such as ``maxntid`` → (384, 1, 1).
        body: its outermost block.
    """

    name: str
    params: tuple[Param, ...]
    performance: dict[str, tuple[int, ...]]
    body: Block
    line: int


@dataclass(frozen=True)
class Module:
    """A PTX file."""

    version: str
    target: str
    entries: dict[str, Entry]
    variables: tuple[Variable, ...]
    files: dict[int, str] = field(default_factory=dict)
