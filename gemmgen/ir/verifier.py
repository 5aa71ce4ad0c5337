"""The laws that hold between all passes: SSA, types, attributes, and which ops a level allows."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar

from gemmgen.backends.capability import capability
from gemmgen.errors import IRError, TargetError
from gemmgen.ir.codecs import codec_for
from gemmgen.ir.core import Level, Module, Op, Region, Value
from gemmgen.ir.schema import TARGET_DIALECTS, Arity, FieldSpec, load_dialect_of, schema_of
from gemmgen.ir.types import Type

ModuleRule = Callable[[Module], None]
RuleFunction = TypeVar("RuleFunction", bound=ModuleRule)

_RULES: dict[Level, list[ModuleRule]] = {level: [] for level in Level}
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def module_rule(*levels: Level) -> Callable[[RuleFunction], RuleFunction]:
    """Decorator: the function checks every module of ``levels`` after the general laws, and raises IRError."""

    def decorate(rule: RuleFunction) -> RuleFunction:
        for level in levels:
            _RULES[level].append(rule)
        return rule

    return decorate


def fail(op: Op, what: str, *, got: object = None, need: object = None, fix: str | None = None) -> NoReturn:
    """Raise IRError about ``op``, naming it and where it comes from."""
    raise IRError(what, where=f"{op.NAME} ({op.origin})", got=got, need=need, fix=fix)


def verify(module: Module) -> None:
    """Check every law for ``module``.

    Raises:
        IRError: the first law that is broken; names the op, its origin, what was got and what is needed.
    """
    _Verifier(module).run()
    load_dialect_of(module.level.value, module.target)
    for rule in _RULES[module.level]:
        rule(module)


class _Verifier:
    def __init__(self, module: Module) -> None:
        self._module = module
        self._visible: dict[str, Value] = {}
        self._defined: set[str] = set()
        self._dialect = _dialect_of(module)

    def run(self) -> None:
        module = self._module
        where = f"module @{module.name}"
        if not _NAME.fullmatch(module.name):
            raise IRError("a module needs a usable name", where=where, got=repr(module.name), need="an identifier")
        any_attr = codec_for(Any)
        seen: set[str] = set()
        for name, value in module.attrs:
            if name in seen or not _NAME.fullmatch(name):
                raise IRError("attribute names are unique identifiers", where=where, got=name)
            seen.add(name)
            if not any_attr.accepts(value):
                need = "int, bool, float, str, None, dimension, registered record, or a tuple of those"
                raise IRError(f"attribute '{name}' has no textual form", where=where, got=repr(value), need=need)
        self._region(module.body, module.args, None)

    def _region(self, region: Region, args: tuple[Value, ...], owner: Op | None) -> None:
        inside = [self._define(value, owner) for value in args]
        for position, op in enumerate(region.ops):
            self._op(op)
            inside.extend(value.name for value in op.all_results)
            if op.IS_TERMINATOR and position != len(region.ops) - 1:
                fail(op, "a terminator ends its region", got=f"{len(region.ops) - 1 - position} ops after it", need=0)
        for name in inside:
            del self._visible[name]

    def _op(self, op: Op) -> None:
        if not isinstance(op, Op):
            raise IRError("a region holds ops", where=f"module @{self._module.name}", got=repr(op), need="an Op")
        schema = schema_of(type(op))
        self._legality(op)
        for spec in schema.operands:
            for value in _values(op, spec):
                if self._visible.get(value.name) != value:
                    self._refuse_use(op, spec, value)
        for name, codec in schema.checked_attrs:
            value = getattr(op, name)
            if not codec.accepts(value):
                got = f"{type(value).__name__} {value!r}"
                fail(op, f"wrong type for attribute '{name}'", got=got, need=codec.need)
        for spec in schema.regions:
            region = getattr(op, spec.name)
            if isinstance(region, Region):
                self._region(region, region.args, op)
            elif region is not None or spec.arity is not Arity.OPTIONAL:
                fail(op, f"'{spec.name}' is not a region", got=repr(region), need="a Region")
        for spec in schema.results:
            for value in _values(op, spec):
                self._define(value, op)
        try:
            op.verify()
        except IRError as error:
            if error.where is not None:
                raise
            fail(op, error.what, got=error.got, need=error.need, fix=error.fix)

    def _legality(self, op: Op) -> None:
        level = self._module.level
        if level not in op.LEVELS:
            got = f"an op of level {' or '.join(sorted(op.LEVELS))}"
            fix = "run the pass that lowers it"
            fail(op, f"{op.NAME} is illegal in this module", got=got, need=f"an op of level {level}", fix=fix)
        prefix = op.NAME.partition(".")[0]
        if prefix in TARGET_DIALECTS and prefix != self._dialect:
            need = f"ops of {self._dialect} in a module for {self._module.target}"
            fail(op, f"{op.NAME} belongs to another target", got=prefix, need=need)

    def _define(self, value: Value, op: Op | None) -> str:
        name = value.name
        if name in self._defined or not _NAME.fullmatch(name) or not isinstance(value.type, Type):
            if name in self._defined:
                what, need = f"{value} is defined twice", "names that are unique in the module"
            elif not _NAME.fullmatch(name):
                what, need = f"{value} is not a usable name", "an identifier"
            else:
                what, need = f"{value} has no type", "a gemmgen.ir.types.Type"
            self._fail_at(op, what, got=f"{value}: {value.type}", need=need, fix="take names from a NameSupply")
        self._defined.add(name)
        self._visible[name] = value
        return name

    def _refuse_use(self, op: Op, spec: FieldSpec, value: Value) -> NoReturn:
        known = self._visible.get(value.name)
        if known is not None:
            fail(op, f"operand '{spec.name}' has another type than its definition", got=value.type, need=known.type)
        if value.name in self._defined:
            what = f"operand '{spec.name}': {value} is defined in a region that does not enclose this op"
        else:
            what = f"operand '{spec.name}': {value} is not defined before this op"
        close = get_close_matches(value.name, self._visible, n=1)
        fix = f"did you mean %{close[0]}?" if close else None
        fail(op, what, got=value, need="a value defined earlier in this or an enclosing region", fix=fix)

    def _fail_at(self, op: Op | None, what: str, *, got: object, need: object, fix: str) -> NoReturn:
        if op is not None:
            fail(op, what, got=got, need=need, fix=fix)
        raise IRError(what, where=f"module @{self._module.name}", got=got, need=need, fix=fix)


def _dialect_of(module: Module) -> str:
    try:
        return capability(module.target).dialect
    except TargetError as error:
        where = f"module @{module.name}"
        raise IRError(error.what, where=where, got=error.got, need=error.need, fix=error.fix) from None


def _values(op: Op, spec: FieldSpec) -> tuple[Value, ...]:
    """The values of one field, after checking that it holds what its declaration says."""
    held = getattr(op, spec.name)
    if spec.arity is Arity.ONE or (spec.arity is Arity.OPTIONAL and held is not None):
        held = (held,)
    elif held is None:
        return ()
    if isinstance(held, tuple) and all(isinstance(value, Value) for value in held):
        return held
    need = "a tuple of Values" if spec.arity is Arity.MANY else "a Value"
    fail(op, f"{spec.kind.value} '{spec.name}' holds no value", got=repr(getattr(op, spec.name)), need=need)
