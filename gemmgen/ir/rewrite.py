"""Reading and rebuilding frozen IR: walks, maps over ops, substitution of values, fresh names.

Everything returns new objects and keeps what did not change, so ``new is old`` tells that nothing happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from gemmgen.errors import IRError
from gemmgen.ir.core import Module, Op, Region, Value
from gemmgen.ir.schema import Arity, FieldSpec, schema_of

Root = TypeVar("Root", Module, Region)
Node = TypeVar("Node", Module, Region, Op)
Rewrite = Callable[[Op], "Op | Sequence[Op] | None"]


class NameSupply:
    """Deterministic unique names: ``a``, ``a_1``, ``a_2``…, skipping those already taken."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._next: dict[str, int] = {}

    @classmethod
    def of(cls, root: Module | Region) -> NameSupply:
        """A supply that avoids every name defined in ``root``."""
        return cls(value.name for value in defined_values(root))

    def fresh(self, hint: str) -> str:
        """``hint``, or ``hint`` with the smallest unused number."""
        name = hint
        while name in self._taken:
            self._next[hint] = self._next.get(hint, 0) + 1
            name = f"{hint}_{self._next[hint]}"
        self._taken.add(name)
        return name


def walk(root: Module | Region | Op) -> Iterator[Op]:
    """Every op in ``root`` in textual order, an op before those in its regions."""
    stack = [root] if isinstance(root, Op) else list(reversed(_region_of(root).ops))
    while stack:
        op = stack.pop()
        yield op
        for region in reversed(op.all_regions):
            stack.extend(reversed(region.ops))


def defined_values(root: Module | Region | Op) -> Iterator[Value]:
    """Every value defined in ``root``: its arguments, region arguments and results."""
    if isinstance(root, Module | Region):
        yield from root.args
    for op in walk(root):
        for region in op.all_regions:
            yield from region.args
        yield from op.all_results


def uses(root: Module | Region | Op, value: Value) -> list[Op]:
    """The ops in ``root`` that read ``value``, in textual order."""
    return [op for op in walk(root) if value in op.all_operands]


def free_values(root: Region | Op) -> tuple[Value, ...]:
    """The values that ``root`` reads but does not define, each once, in order of first use."""
    inside = set(defined_values(root))
    read = (value for op in walk(root) for value in op.all_operands)
    return tuple(dict.fromkeys(value for value in read if value not in inside))


def map_ops(root: Root, fn: Rewrite) -> Root:
    """Rewrite bottom-up: the regions of an op first, then ``fn`` on the rebuilt op.

    Args:
        root: a module or region.
        fn: returns None to keep the op, or the op or ops that take its place (an empty list erases it).
    """

    def visit(op: Op) -> Sequence[Op]:
        rebuilt = _with_regions(op, lambda region: _map_region(region, visit))
        return _as_ops(fn(rebuilt), rebuilt)

    return _with_region(root, _map_region(_region_of(root), visit))


def map_ops_top_down(root: Root, fn: Rewrite) -> Root:
    """Rewrite top-down: ``fn`` on an op first; regions are visited only where ``fn`` kept the op."""

    def visit(op: Op) -> Sequence[Op]:
        replacement = fn(op)
        if replacement is not None:
            return _as_ops(replacement, op)
        return (_with_regions(op, lambda region: _map_region(region, visit)),)

    return _with_region(root, _map_region(_region_of(root), visit))


def substitute(root: Node, values: Mapping[Value, Value]) -> Node:
    """``root`` with every use of a key replaced by its value; definitions stay."""
    if not values:
        return root
    if isinstance(root, Op):
        return _rename(root, values, {})
    return _with_region(root, _rename_region(_region_of(root), values, {}))


def replace_op(root: Root, old: Op, new: Op | Sequence[Op], values: Mapping[Value, Value] | None = None) -> Root:
    """Put ``new`` in the place of ``old``, which is found by identity.

    Args:
        root: a module or region.
        old: the op to replace.
        new: what takes its place; an empty list erases it.
        values: for each result of ``old`` that is still used, the value to use instead.

    Raises:
        IRError: when ``old`` is not in ``root``.
    """
    changed = map_ops_top_down(root, lambda op: new if op is old else None)
    if changed is root and new is not old:
        raise IRError("the op to replace is not in this module", got=old.NAME, need="an op found by walk()")
    return substitute(changed, values or {})


def clone_with_fresh_names(
    node: Node, names: NameSupply, values: Mapping[Value, Value] | None = None
) -> tuple[Node, dict[Value, Value]]:
    """A copy in which every defined value has a fresh name.

    Args:
        node: an op or region (or a module, whose arguments are renamed too).
        names: where the names come from.
        values: further substitutions, for values defined outside ``node``.

    Returns:
        The copy, and the map from old to new values (including ``values``).
    """
    definitions = {value: Value(names.fresh(value.name), value.type) for value in defined_values(node)}
    mapping = {**(values or {}), **definitions}
    if isinstance(node, Op):
        return _rename(node, mapping, definitions), mapping
    region = _rename_region(_region_of(node), mapping, definitions)
    if isinstance(node, Module):
        return node.replace(args=tuple(definitions[value] for value in node.args), body=region), mapping
    return region, mapping


def clone_ops(
    ops: Sequence[Op], names: NameSupply, values: Mapping[Value, Value] | None = None
) -> tuple[tuple[Op, ...], dict[Value, Value]]:
    """``clone_with_fresh_names`` for a run of ops that may use each other's results."""
    region, mapping = clone_with_fresh_names(Region((), tuple(ops)), names, values)
    return region.ops, mapping


def _region_of(root: Module | Region) -> Region:
    return root.body if isinstance(root, Module) else root


def _with_region(root: Root, region: Region) -> Root:
    if isinstance(root, Module):
        return root if region is root.body else root.replace(body=region)
    return region


def _as_ops(replacement: Op | Sequence[Op] | None, kept: Op) -> Sequence[Op]:
    if replacement is None:
        return (kept,)
    return (replacement,) if isinstance(replacement, Op) else replacement


def _map_region(region: Region, visit: Callable[[Op], Sequence[Op]]) -> Region:
    ops = tuple(new for op in region.ops for new in visit(op))
    return region if _same(ops, region.ops) else Region(region.args, ops)


def _with_regions(op: Op, change: Callable[[Region], Region]) -> Op:
    changes: dict[str, Any] = {}
    for spec in schema_of(type(op)).regions:
        region = getattr(op, spec.name)
        if region is not None and (new := change(region)) is not region:
            changes[spec.name] = new
    return op.replace(**changes) if changes else op


def _rename(op: Op, used: Mapping[Value, Value], defined: Mapping[Value, Value]) -> Op:
    schema = schema_of(type(op))
    changes = {spec.name: new for spec in schema.operands if (new := _renamed(op, spec, used)) is not None}
    changes |= {spec.name: new for spec in schema.results if (new := _renamed(op, spec, defined)) is not None}
    rebuilt = op.replace(**changes) if changes else op
    return _with_regions(rebuilt, lambda region: _rename_region(region, used, defined))


def _renamed(op: Op, spec: FieldSpec, values: Mapping[Value, Value]) -> Any:
    """The field's new content, or None when it stays."""
    held = getattr(op, spec.name)
    if spec.arity is not Arity.MANY:
        return values.get(held) if held is not None else None
    new = tuple(values.get(value, value) for value in held)
    return None if _same(new, held) else new


def _rename_region(region: Region, used: Mapping[Value, Value], defined: Mapping[Value, Value]) -> Region:
    args = tuple(defined.get(value, value) for value in region.args)
    ops = tuple(_rename(op, used, defined) for op in region.ops)
    return region if _same(ops, region.ops) and _same(args, region.args) else Region(args, ops)


def _same(new: Sequence[object], old: Sequence[object]) -> bool:
    return len(new) == len(old) and all(a is b for a, b in zip(new, old, strict=True))
