"""Turn a program into steps: closures over operand keys that run an instruction for all active lanes of a unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.machine.registers import TYPE_ID, TYPES
from gemmgen.emulator.ops.ownership import RegisterGuard, disown_loaded_registers, own_loaded_registers
from gemmgen.emulator.ptx.control_flow import ends_block
from gemmgen.emulator.ptx.dataflow import Undefined, destinations, find_maybe_undefined, sources
from gemmgen.emulator.ptx.operands import Imm, Mem, NotReg, Operand, Reg, Sink, Special, Symbol, Vec
from gemmgen.emulator.ptx.program import Decoded
from gemmgen.emulator.report import Kind
from gemmgen.errors import EmulationError

if TYPE_CHECKING:
    from gemmgen.emulator.machine.machine import Machine
    from gemmgen.emulator.machine.unit import Unit, Wait

Step = Callable[["Unit"], "Wait | None"]
Build = Callable[["Builder"], Step]
_FAMILIES = (
    *("integer", "bits", "compare", "floating", "half", "convert", "move", "control", "warp"),
    *("memory", "atomic", "matrix", "fences", "barriers", "mbarriers"),
    *("cp_async", "bulk", "bulk_sync", "bulk_reduce", "tensormap", "wgmma", "tcgen05"),
)
_REGISTRY: dict[str, Build] = {}
SYNC_SEMANTICS = frozenset(
    ["mbar.wait", "bar.sync", "bar.cluster", "bar.red", "wgmma.wait", "bulk.wait", "control.setmaxnreg"]
)


def builds(*semantics: str) -> Callable[[Build], Build]:
    """Register the builder of one or more semantics."""

    def register(build: Build) -> Build:
        for semantic in semantics:
            if semantic in _REGISTRY:
                raise EmulationError("two builders for one semantic", got=semantic)
            _REGISTRY[semantic] = build
        return build

    return register


def registered() -> frozenset[str]:
    """All semantics that have a builder."""
    _load_families()
    return frozenset(_REGISTRY)


def _load_families() -> None:
    for family in _FAMILIES:
        import_module(f"gemmgen.emulator.ops.{family}")


@dataclass
class CompiledBlock:
    """A basic block ready to run.

    Attributes:
        steps: its instructions, the branch at the end excepted.
        sync_steps: positions of steps that may wait for others.
        instructions: how many PTX instructions the block holds.
        condition: lanes that take the branch (or exit), or None when all do.
        exits: the block ends in ``ret``.
        target, fallthrough, reconverge: block numbers.
    """

    steps: list[Step] = field(default_factory=list)
    sync_steps: frozenset[int] = frozenset()
    instructions: int = 0
    condition: Callable[[Unit], NDArray[np.bool_]] | None = None
    exits: bool = False
    target: int | None = None
    fallthrough: int | None = None
    reconverge: int = -1


class Builder:
    """One instruction being built, with checked access to its operands."""

    def __init__(self, machine: Machine, instruction: Decoded) -> None:
        self.machine = machine
        self.instruction = instruction
        self.modifiers = instruction.modifiers
        self.operands = instruction.operands
        self.pc = instruction.index

    def error(self, what: str, need: str | None = None) -> EmulationError:
        """An error at this instruction."""
        return EmulationError(what, where=f"PTX line {self.instruction.line}", got=self.instruction.opcode, need=need)

    def expect(self, low: int, high: int | None = None) -> None:
        """Check the number of operands."""
        if not low <= len(self.operands) <= (low if high is None else high):
            need = str(low) if high is None else f"{low} to {high}"
            raise self.error(f"{len(self.operands)} operands", need=f"{need} operands")

    def source(self, operand: int | Operand, type_: str, *, wider: bool = False) -> Any:
        """The key of a source operand in the views of ``type_``.

        Args:
            operand: its position, or the operand itself.
            type_: the instruction's type for it.
            wider: whether a register wider than the type may stand here (``ld``, ``st``, ``cvt``).
        """
        found = self.operands[operand] if isinstance(operand, int) else operand
        kind, dtype = TYPES[type_]
        match found:
            case Reg():
                self._check_kind(found, kind, type_, wider)
                return found.index
            case Imm(value, "int") if np.dtype(dtype).kind != "f":
                return self.machine.constants.key(value, dtype)
            case Imm(value, literal) if literal == type_ or (literal == "f32" and type_ in ("b32", "u32")):
                return self.machine.constants.key(value, dtype)
            case Imm(value, "f64") if type_ in ("b64", "u64"):
                return self.machine.constants.key(value, dtype)
            case Special(name):
                return name
            case Symbol(name, _):
                return (name, 0)
        raise self.error(
            f"an operand of type {type_} is of another kind", need=f"a register or constant of type {type_}"
        )

    def destination(self, operand: int | Operand, type_: str, *, wider: bool = False) -> int:
        """The key of a destination register."""
        found = self.operands[operand] if isinstance(operand, int) else operand
        if not isinstance(found, Reg):
            raise self.error("the destination is not a register")
        self._check_kind(found, TYPES[type_][0], type_, wider)
        return found.index

    def _check_kind(self, register: Reg, kind: str, type_: str, wider: bool) -> None:
        widths = ("b8", "b16", "b32", "b64")
        fits = register.kind == kind
        if wider and register.kind in widths and kind in widths:
            fits = widths.index(register.kind) >= widths.index(kind)
        if not fits:
            raise self.error(f"register {register.name} has another width than .{type_}")

    def vector(self, operand: int, count: int | None = None) -> tuple[Operand, ...]:
        """The items of a vector operand, or a scalar operand as one item."""
        found = self.operands[operand]
        items = found.items if isinstance(found, Vec) else (found,)
        if count is not None and len(items) != count:
            raise self.error(f"{len(items)} vector elements", need=f"{count}")
        return items

    def memory(self, operand: int) -> Mem:
        """A ``[…]`` operand."""
        found = self.operands[operand]
        if not isinstance(found, Mem):
            raise self.error(f"operand {operand + 1} is not an address", need="[register + offset]")
        return found

    def address(self, operand: int, *, coordinates: bool = False) -> Callable[[Unit], NDArray[np.int64]]:
        """A function that gives the int64 byte addresses of a ``[…]`` operand, one per lane."""
        found = self.memory(operand)
        if found.coordinates is not None and not coordinates:
            raise self.error("coordinates in an address that takes none")
        offset = np.int64(found.offset)
        match found.base:
            case Reg(kind="b32", index=index):
                return lambda x: x.u32[index].astype(np.int64) + offset
            case Reg(kind="b64", index=index):
                return lambda x: x.u64[index].astype(np.int64) + offset
            case Symbol(name, _):
                total = found.offset
                return lambda x: np.full(x.width, x.cta.symbol_address(name, total), np.int64)
            case Imm(value, "int"):
                return lambda x: np.full(x.width, value, np.int64) + offset
        raise self.error("an address needs a 32- or 64-bit register, a variable or a constant")

    def predicate(self, operand: Operand) -> Callable[[Unit], NDArray[np.bool_]]:
        """A function that gives a predicate operand's value, one per lane."""
        match operand:
            case Reg(kind="p", index=index):
                return lambda x: x.pred[index]
            case NotReg(register):
                return lambda x: ~x.pred[register.index]
            case Imm(value, "int"):
                return lambda x: np.full(x.width, bool(value))
        raise self.error("an operand is not a predicate")

    def immediate(self, operand: int) -> int:
        """An integer constant operand."""
        found = self.operands[operand]
        if not isinstance(found, Imm) or found.kind != "int":
            raise self.error(f"operand {operand + 1} must be an integer constant")
        return found.value

    def is_sink(self, operand: int) -> bool:
        """Whether an operand is ``_``."""
        return isinstance(self.operands[operand], Sink)

    def fault(self, x: Unit, kind: Kind, message: str) -> Exception:
        """Record a finding that ends the launch; raise what is returned."""
        return self.machine.recorder.fatal(kind, message, self.pc, x.name)

    def finding(self, x: Unit, kind: Kind, message: str, other_pc: int | None = None) -> None:
        """Record a finding after which the launch goes on."""
        self.machine.recorder.add(kind, message, self.pc, x.name, other_pc)


def type_id(type_: str) -> int:
    """Position of a type's views in ``Unit.views``."""
    return TYPE_ID[type_]


def compile_blocks(machine: Machine) -> list[CompiledBlock]:
    """Build every block of the machine's program.

    Raises:
        EmulationError: an instruction has operands that its form does not take.
    """
    _load_families()
    undefined = find_maybe_undefined(machine.program)
    machine.maybe_undefined = undefined.reads
    guard = RegisterGuard(machine)
    blocks = []
    for block in machine.program.blocks:
        compiled = CompiledBlock(target=block.target, fallthrough=block.fallthrough, reconverge=block.reconverge)
        sync_steps = set()
        for instruction in machine.program.instructions[block.start : block.end]:
            compiled.instructions += 1
            if ends_block(instruction) and instruction.semantic != "control.trap":
                _build_end(machine, instruction, compiled, undefined)
                continue
            if instruction.semantic in SYNC_SEMANTICS:
                sync_steps.add(len(compiled.steps))
            compiled.steps.append(_build_step(machine, instruction, undefined, guard))
        compiled.sync_steps = frozenset(sync_steps)
        blocks.append(compiled)
    return blocks


def _build_end(machine: Machine, instruction: Decoded, block: CompiledBlock, undefined: Undefined) -> None:
    block.exits = instruction.semantic == "control.exit"
    if instruction.guard is None:
        return
    index = instruction.guard.index
    if instruction.index in undefined.reads:
        block.steps.append(_check_defined(machine, instruction, undefined.reads[instruction.index]))
    if instruction.guard_negated:
        block.condition = lambda x: ~x.pred[index]
    else:
        block.condition = lambda x: x.pred[index]


def _build_step(machine: Machine, instruction: Decoded, undefined: Undefined, guard: RegisterGuard) -> Step:
    build = _REGISTRY.get(instruction.semantic)
    builder = Builder(machine, instruction)
    if build is None:
        raise builder.error("the emulator has no executor for this instruction")
    step = build(builder)
    if not instruction.semantic.startswith("wgmma."):
        step = guard.wrap(instruction, step)
    if instruction.semantic == "tcgen05.ld":
        step = own_loaded_registers(instruction, step)
    if instruction.opcode.startswith("tcgen05.wait::ld"):
        step = disown_loaded_registers(machine, step)
    tracked = [r for r in destinations(instruction) if r in undefined.registers]
    if tracked:
        step = _mark_defined(tracked, step)
    if instruction.index in undefined.reads:
        reads = undefined.reads[instruction.index]
        if instruction.semantic == "wgmma.mma":
            reads = tuple(r for r in reads if r in sources(instruction))
        if reads:
            check = _check_defined(machine, instruction, tuple(r for r in reads if r != instruction.guard))
            step = _then(check, step)
    if instruction.guard is not None:
        step = _guarded(instruction.guard.index, instruction.guard_negated, step)
        if instruction.guard in undefined.reads.get(instruction.index, ()):
            step = _then(_check_defined(machine, instruction, (instruction.guard,)), step)
    return step


def _then(first: Step, second: Step) -> Step:
    def both(x: Unit) -> Wait | None:
        first(x)
        return second(x)

    return both


def _guarded(index: int, negated: bool, step: Step) -> Step:
    """Run a step only in the lanes whose guard holds."""

    def guarded(x: Unit) -> Wait | None:
        outer = x.mask
        guard = x.pred[index]
        active = outer & ~guard if negated else outer & guard
        if not active.any():
            return None
        if (active == outer).all():
            return step(x)
        x.set_mask(active)
        try:
            return step(x)
        finally:
            x.set_mask(outer)

    return guarded


def _mark_defined(registers: list[Reg], step: Step) -> Step:
    def marked(x: Unit) -> Wait | None:
        wait = step(x)
        if wait is None:
            for register in registers:
                x.defined[register.kind][register.index] |= x.mask
        return wait

    return marked


def _check_defined(machine: Machine, instruction: Decoded, registers: tuple[Reg, ...]) -> Step:
    def check(x: Unit) -> None:
        for register in registers:
            missing = x.mask & ~x.defined[register.kind][register.index]
            if missing.any():
                lane = int(np.argmax(missing))
                text = f"{register.name} is read in lane {lane % 32} and nothing has written it"
                machine.recorder.add(Kind.UNINITIALIZED_REGISTER, text, instruction.index, x.name)

    return check
