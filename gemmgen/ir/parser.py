"""Text to modules: resolves the names that ``gemmgen.ir.syntax`` spelled, and says where one does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from gemmgen.ir import syntax
from gemmgen.ir.codecs import codec_for, read_fields
from gemmgen.ir.core import Level, Module, Op, Origin, Region, Value
from gemmgen.ir.dims import Dim
from gemmgen.ir.reading import ReadError, read_dim, read_type
from gemmgen.ir.schema import DIALECT_MODULES, Arity, FieldSpec, find_op, load_dialect_of, nearest_op, schema_of
from gemmgen.ir.types import Type


def parse_module(text: str, filename: str = "<ir>") -> Module:
    """The module that ``text`` spells; ``parse_module(print_module(m)) == m``.

    Ops without a ``loc`` get their place in ``text`` as origin. The module is not verified.

    Args:
        text: one module in textual form.
        filename: how error messages and origins call the text.

    Raises:
        IRError: syntax errors, unknown ops, wrong attributes, undefined or redefined values; with file:line:column.
    """
    node: syntax.ModuleNode = syntax.parse_syntax(text, "module", filename)
    with _placed(filename):
        return _ModuleReader(filename).module(node)


def parse_type(text: str, filename: str = "<type>") -> Type:
    """The type that ``text`` spells.

    Raises:
        IRError: with file:line:column.
    """
    node: syntax.Name | syntax.TypeCall = syntax.parse_syntax(text, "type", filename)
    with _placed(filename):
        return read_type(node)


def parse_dim(text: str, filename: str = "<dim>") -> Dim:
    """The dimension expression that ``text`` spells.

    Raises:
        IRError: with file:line:column.
    """
    node: syntax.Node = syntax.parse_syntax(text, "value", filename)
    with _placed(filename):
        return read_dim(node)


@contextmanager
def _placed(filename: str) -> Iterator[None]:
    try:
        yield
    except ReadError as error:
        raise error.as_ir_error(filename) from None


class _ModuleReader:
    """Builds one module; knows the values visible at the place being read."""

    def __init__(self, filename: str) -> None:
        self._filename = filename
        self._visible: dict[str, Value] = {}
        self._lines: dict[str, int] = {}

    def module(self, node: syntax.ModuleNode) -> Module:
        """The module of a module node."""
        levels = {level.value: level for level in Level}
        if node.level.name not in levels:
            raise ReadError(node.level, "unknown level", node.level.name, ", ".join(levels))
        load_dialect_of(node.level.name, node.target)
        any_attr = codec_for(Any)
        attrs = read_fields(f"module @{node.name}", node, node.attrs, {e.name: (any_attr, None) for e in node.attrs})
        args = self._define_params(node.params)
        body = Region((), tuple(self._op(op) for op in node.ops))
        return Module(node.name, levels[node.level.name], node.target, args, tuple(attrs.items()), body)

    def _op(self, node: syntax.OpNode) -> Op:
        cls = find_op(node.name)
        if cls is None:
            close = nearest_op(node.name)
            need = close or f"an op of {', '.join(DIALECT_MODULES)}"
            raise ReadError(node, "unknown op", node.name, need, close and f"did you mean {close}?")
        schema = schema_of(cls)
        attr_fields = {spec.name: (schema.codecs[spec.name], spec.default) for spec in schema.attrs}
        fields: dict[str, Any] = self._operands(node, schema.operands)
        fields |= read_fields(node.name, node, node.attrs, attr_fields)
        fields |= self._regions(node, schema.regions)
        # Defined after the regions are read, so that no region sees its own op's results.
        fields |= self._results(node, schema.results)
        origin = Origin(self._filename, node.line, node.column)
        return cls(**fields, origin=Origin.parse(node.location) if node.location is not None else origin)

    def _operands(self, node: syntax.OpNode, specs: tuple[FieldSpec, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        by_name = {spec.name: spec for spec in specs}
        for entry in node.operands:
            spec = by_name.get(entry.name)
            if spec is None:
                close = get_close_matches(entry.name, by_name, n=1)
                fix = f"did you mean '{close[0]}'?" if close else None
                what = f"{node.name} has no operand '{entry.name}'"
                raise ReadError(entry, what, entry.name, ", ".join(by_name) or "no operands", fix)
            if entry.name in found:
                raise ReadError(entry, f"operand '{entry.name}' is given twice", entry.name, "each name once")
            found[entry.name] = self._operand(node, spec, entry)
        for spec in specs:
            if spec.required and spec.name not in found:
                raise ReadError(node, f"{node.name} lacks operand '{spec.name}'", "no value", f"{spec.name}=%value")
        return found

    def _operand(self, node: syntax.OpNode, spec: FieldSpec, entry: syntax.Entry) -> Any:
        is_list = isinstance(entry.value, syntax.Items)
        if is_list != (spec.arity is Arity.MANY):
            need = f"{spec.name}=[%a, %b]" if spec.arity is Arity.MANY else f"{spec.name}=%a"
            what = f"operand '{spec.name}' of {node.name} takes {'one value' if is_list else 'a list of values'}"
            raise ReadError(entry, what, f"{spec.name}={syntax.node_text(entry.value)}", need)
        if is_list:
            return tuple(self._use(item) for item in entry.value.items)
        return self._use(entry.value)

    def _use(self, node: syntax.ValueName) -> Value:
        value = self._visible.get(node.name)
        if value is not None:
            return value
        if node.name in self._lines:
            what = f"%{node.name} is not visible here: it is defined inside a region (line {self._lines[node.name]})"
        else:
            what = f"%{node.name} is not defined"
        close = get_close_matches(node.name, self._visible, n=1)
        fix = f"did you mean %{close[0]}?" if close else None
        raise ReadError(node, what, f"%{node.name}", "a value defined earlier in this or an enclosing region", fix)

    def _results(self, node: syntax.OpNode, specs: tuple[FieldSpec, ...]) -> dict[str, Any]:
        if len(node.types) != len(node.results):
            got = f"{len(node.results)} names, {len(node.types)} types"
            raise ReadError(node, f"{node.name}: results and their types differ in number", got, "one type per result")
        single = sum(spec.arity is Arity.ONE for spec in specs)
        extra = len(node.results) - single
        variadic = any(spec.arity is Arity.MANY for spec in specs)
        if extra < 0 or (extra > 0 and not variadic):
            need = f"{single} or more" if variadic else str(single)
            raise ReadError(node, f"wrong number of results for {node.name}", str(len(node.results)), need)
        defined = [self._define(name, name.name, kind) for name, kind in zip(node.results, node.types, strict=True)]
        found: dict[str, Any] = {}
        for spec in specs:
            count = extra if spec.arity is Arity.MANY else 1
            taken, defined = defined[:count], defined[count:]
            found[spec.name] = tuple(taken) if spec.arity is Arity.MANY else taken[0]
        return found

    def _regions(self, node: syntax.OpNode, specs: tuple[FieldSpec, ...]) -> dict[str, Any]:
        by_name = {spec.name: spec for spec in specs}
        found: dict[str, Any] = {}
        for region in node.regions:
            name = region.name or (specs[0].name if len(specs) == 1 else "")
            if name not in by_name or name in found:
                got = f"do {region.name}".strip()
                need = " ".join(f"do {known} {{…}}" for known in by_name) or "no region"
                raise ReadError(region, f"unexpected region of {node.name}", got, need)
            found[name] = self._region(region)
        for spec in specs:
            if spec.required and spec.name not in found:
                raise ReadError(node, f"{node.name} lacks its region '{spec.name}'", "no region", "do {…}")
        return found

    def _region(self, node: syntax.RegionNode) -> Region:
        outside = dict(self._visible)
        args = self._define_params(node.params)
        ops = tuple(self._op(op) for op in node.ops)
        self._visible = outside
        return Region(args, ops)

    def _define_params(self, params: tuple[syntax.Param, ...]) -> tuple[Value, ...]:
        return tuple(self._define(param, param.name, param.type) for param in params)

    def _define(self, node: syntax.Node, name: str, kind: syntax.Name | syntax.TypeCall) -> Value:
        if name in self._lines:
            got = f"%{name}, already defined in line {self._lines[name]}"
            raise ReadError(node, f"%{name} is defined twice", got, "a name that is new in the module", "rename it")
        self._lines[name] = node.line
        value = self._visible[name] = Value(name, read_type(kind))
        return value
