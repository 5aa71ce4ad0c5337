"""An entry as a flat, resolved program: instructions with their forms, registers, blocks and post-dominators."""

from __future__ import annotations

from dataclasses import dataclass, field

from gemmgen.emulator.ptx import ast, forms
from gemmgen.emulator.ptx.control_flow import Block, build_blocks
from gemmgen.emulator.ptx.operands import Imm, LabelRef, Mem, NotReg, Operand, PairOf, Reg, Sink, Special, Symbol, Vec
from gemmgen.emulator.ptx.special import is_special_register
from gemmgen.errors import EmulationError

_KINDS = {"pred": "p", "b8": "b8", "u8": "b8", "s8": "b8", "b128": "b128"}
_KINDS |= dict.fromkeys(("b16", "u16", "s16", "f16", "bf16"), "b16")
_KINDS |= dict.fromkeys(("b32", "u32", "s32", "f32", "f16x2", "bf16x2"), "b32")
_KINDS |= dict.fromkeys(("b64", "u64", "s64", "f64"), "b64")


@dataclass(frozen=True)
class Decoded:
    """An instruction ready to be built.

    Attributes:
        index: position in the program.
        opcode: as written.
        semantic: the form's name.
        modifiers: the form's modifiers by key.
        operands: resolved operands.
        guard: guard predicate, or None.
        guard_negated: the guard is ``@!p``.
        line: PTX line, from 1.
        location: where it comes from in the CUDA source, or None.
    """

    index: int
    opcode: str
    semantic: str
    modifiers: dict[str, str]
    operands: tuple[Operand, ...]
    guard: Reg | None
    guard_negated: bool
    line: int
    location: ast.SourceLocation | None

    def has(self, modifier: str) -> bool:
        """Whether an optional modifier is present."""
        return modifier in self.modifiers


@dataclass
class Program:
    """A kernel, decoded.

    Attributes:
        name: entry name.
        target: ``sm_90a`` and the like.
        params: kernel parameters in order, with their byte offsets in ``param_offsets``.
        instructions: all instructions.
        blocks: basic blocks in order; block 0 is the entry.
        register_counts: registers of each kind.
        variables: module and local variables by (scoped) name.
        performance: directives such as ``maxntid``.
        files: source files by number.
        text: the PTX lines.
    """

    name: str
    target: str
    params: tuple[ast.Param, ...]
    instructions: list[Decoded] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    register_counts: dict[str, int] = field(default_factory=dict)
    variables: dict[str, ast.Variable] = field(default_factory=dict)
    performance: dict[str, tuple[int, ...]] = field(default_factory=dict)
    files: dict[int, str] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)
    register_names: dict[tuple[str, int], str] = field(default_factory=dict)

    @property
    def param_offsets(self) -> dict[str, int]:
        """Byte offset of each parameter in the parameter block."""
        offsets: dict[str, int] = {}
        position = 0
        for param in self.params:
            position = -(-position // param.align) * param.align
            offsets[param.name] = position
            position += param.size
        return offsets


def decode(module: ast.Module, entry: str | None, text: str) -> Program:
    """Resolve one entry of a module.

    Args:
        module: the parsed module.
        entry: kernel name, or None where the module has exactly one.
        text: the module's text, kept for messages.

    Raises:
        EmulationError: no such entry, or an instruction, name or type the emulator does not know.
    """
    if entry is None and len(module.entries) == 1:
        entry = next(iter(module.entries))
    if entry not in module.entries:
        raise EmulationError(
            "no such kernel in the PTX", where="entry", got=entry, need=", ".join(module.entries) or "any .entry"
        )
    kernel = module.entries[entry]
    program = Program(entry, module.target, kernel.params, files=module.files, text=text.splitlines())
    program.performance = kernel.performance
    program.variables = {v.name: v for v in module.variables}
    flat = _Flattener(program)
    flat.block(kernel.body)
    flat.resolve()
    if not program.instructions:
        raise EmulationError("the kernel has no instructions", where=f"PTX line {kernel.line}", got=entry)
    program.blocks = build_blocks(program.instructions, flat.label_targets)
    return program


class _Scope:
    """Names declared between one pair of braces."""

    def __init__(self, parent: _Scope | None) -> None:
        self.parent = parent
        self.registers: dict[str, Reg] = {}
        self.ranges: dict[str, tuple[str, int]] = {}
        self.labels: dict[str, str] = {}
        self.variables: dict[str, str] = {}


class _Flattener:
    """Walks the nested blocks once to declare and once more to resolve operands (labels may be used before)."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.label_targets: dict[str, int] = {}
        self._pending: list[tuple[ast.Instruction, _Scope, ast.SourceLocation | None]] = []
        self._location: ast.SourceLocation | None = None
        self._scope_count = 0
        self._counts: dict[str, int] = {}

    def block(self, block: ast.Block, parent: _Scope | None = None) -> None:
        scope = _Scope(parent)
        self._scope_count += 1
        for statement in block.statements:
            match statement:
                case ast.Instruction():
                    self._pending.append((statement, scope, self._location))
                case ast.SourceLocation():
                    self._location = statement if statement.line else self._location
                case ast.Label():
                    self._declare_label(statement, scope)
                case ast.RegisterDeclaration():
                    self._declare_registers(statement, scope)
                case ast.Variable():
                    self._declare_variable(statement, scope)
                case ast.Block():
                    self.block(statement, scope)

    def _declare_label(self, label: ast.Label, scope: _Scope) -> None:
        if label.name in scope.labels:
            raise EmulationError("label defined twice", where=f"PTX line {label.line}", got=label.name)
        unique = f"{label.name}@{self._scope_count}.{label.line}"
        scope.labels[label.name] = unique
        self.label_targets[unique] = len(self._pending)

    def _declare_registers(self, declaration: ast.RegisterDeclaration, scope: _Scope) -> None:
        kind = _KINDS[declaration.type]
        for name, count in declaration.names:
            if name in scope.registers or name in scope.ranges:
                raise EmulationError("register declared twice", where=f"PTX line {declaration.line}", got=name)
            if count:
                scope.ranges[name] = (kind, count)
            else:
                scope.registers[name] = self._new_register(kind, name)

    def _new_register(self, kind: str, name: str) -> Reg:
        index = self._counts.get(kind, 0)
        self._counts[kind] = index + 1
        self.program.register_names[(kind, index)] = name
        return Reg(kind, index, name)

    def _declare_variable(self, variable: ast.Variable, scope: _Scope) -> None:
        unique = variable.name
        if unique in self.program.variables:
            unique = f"{variable.name}@{self._scope_count}"
        scope.variables[variable.name] = unique
        self.program.variables[unique] = variable

    def resolve(self) -> None:
        """Resolve all instructions, in order."""
        for index, (raw, scope, location) in enumerate(self._pending):
            where = f"PTX line {raw.line}"
            form, modifiers = forms.match(raw.opcode, where)
            guard = None
            if raw.guard is not None:
                guard = self._register(raw.guard, scope)
                if guard is None or guard.kind != "p":
                    raise EmulationError("the guard is not a predicate register", where=where, got=raw.guard)
            operands = tuple(self._operand(operand, scope, where, form.semantic) for operand in raw.operands)
            self.program.instructions.append(
                Decoded(
                    index, raw.opcode, form.semantic, modifiers, operands, guard, raw.guard_negated, raw.line, location
                )
            )
        self.program.register_counts = dict(self._counts)
        end = len(self._pending)
        if any(target >= end for target in self.label_targets.values()):
            used = {o.target for i in self.program.instructions for o in i.operands if isinstance(o, LabelRef)}
            for label, target in self.label_targets.items():
                if target >= end and label in used:
                    raise EmulationError(
                        "a branch leaves the kernel's end", where=self.program.name, got=label.split("@")[0]
                    )

    def _operand(self, operand: ast.Operand, scope: _Scope, where: str, semantic: str) -> Operand:
        match operand:
            case ast.Immediate(value, kind):
                return Imm(value, kind)
            case ast.Vector(items):
                return Vec(tuple(self._operand(item, scope, where, semantic) for item in items))
            case ast.Address(base, offset, coordinates):
                coords = None if coordinates is None else self._operand(coordinates, scope, where, semantic)
                return Mem(self._operand(base, scope, where, semantic), offset, coords)  # type: ignore[arg-type]
            case ast.Pair(first, second):
                return PairOf(self._name(first, scope, where, semantic), self._name(second, scope, where, semantic))
            case ast.Negated(text):
                register = self._register(text, scope)
                if register is None or register.kind != "p":
                    raise EmulationError("only a predicate can be negated", where=where, got=text)
                return NotReg(register)
            case ast.Name(text):
                return self._name(text, scope, where, semantic)

    def _name(self, text: str, scope: _Scope, where: str, semantic: str) -> Operand:
        if text == "_":
            return Sink()
        if semantic == "control.bra":
            label = self._lookup(text, scope, "labels")
            if label is None:
                raise EmulationError("branch to an unknown label", where=where, got=text)
            return LabelRef(label)
        register = self._register(text, scope)
        if register is not None:
            return register
        if is_special_register(text):
            return Special(text)
        variable = self._lookup(text, scope, "variables") or (text if text in self.program.variables else None)
        if variable is not None:
            return Symbol(variable, self.program.variables[variable].space)
        if any(param.name == text for param in self.program.params):
            return Symbol(text, "param")
        raise EmulationError("unknown register, variable or special register", where=where, got=text)

    def _lookup(self, name: str, scope: _Scope | None, table: str) -> str | None:
        while scope is not None:
            found = getattr(scope, table).get(name)
            if found is not None:
                return found
            scope = scope.parent
        return None

    def _register(self, name: str, scope: _Scope | None) -> Reg | None:
        while scope is not None:
            if name in scope.registers:
                return scope.registers[name]
            stem = name.rstrip("0123456789")
            digits = name[len(stem) :]
            if digits and stem in scope.ranges and int(digits) < scope.ranges[stem][1]:
                register = self._new_register(scope.ranges[stem][0], name)
                scope.registers[name] = register
                return register
            scope = scope.parent
        return None
