"""The textual form of modules, regions and ops; ``gemmgen.ir.parser`` reads it back as an equal module."""

from __future__ import annotations

from gemmgen.ir.attributes import entries_text, is_default, quoted
from gemmgen.ir.core import Module, Op, Region, Value
from gemmgen.ir.schema import Arity, FieldSpec, schema_of

INDENT = "  "


def print_module(module: Module, *, locations: bool = False) -> str:
    """The text of ``module``, ending in a newline; the same module gives the same text byte for byte.

    Args:
        module: what to print.
        locations: add ``loc("…")`` to every op whose origin is known.
    """
    attrs = f" {entries_text(module.attrs)}" if module.attrs else ""
    header = f"module @{module.name} level={module.level} target={module.target}{attrs}"
    body = [line for op in module.body.ops for line in _op_lines(op, locations)]
    return "\n".join([f"{header} {_params(module.args)} {{", *(INDENT + line for line in body), "}"]) + "\n"


def print_op(op: Op, *, locations: bool = False) -> str:
    """The text of one op with its regions."""
    return "\n".join(_op_lines(op, locations))


def _op_lines(op: Op, locations: bool) -> list[str]:
    schema = schema_of(type(op))
    attrs = [
        (spec.name, value) for spec in schema.attrs if not is_default(value := getattr(op, spec.name), spec.default)
    ]
    results = op.all_results
    head = f"{', '.join(map(str, results))} = " if results else ""
    head += f"{op.NAME}({', '.join(_operand(op, spec) for spec in schema.operands if _is_given(op, spec))})"
    if attrs:
        head += f" {entries_text(attrs)}"
    if results:
        head += f" : {', '.join(str(value.type) for value in results)}"
    lines = [head]
    for spec in schema.regions:
        region = getattr(op, spec.name)
        if region is not None:
            _append_region(lines, spec.name if len(schema.regions) > 1 else "", region, locations)
    if locations and op.origin.known:
        lines[-1] += f" loc({quoted(str(op.origin))})"
    return lines


def _append_region(lines: list[str], name: str, region: Region, locations: bool) -> None:
    opening = ["do", name, _params(region.args) if region.args else "", "{"]
    lines[-1] += " " + " ".join(part for part in opening if part)
    lines.extend(INDENT + line for op in region.ops for line in _op_lines(op, locations))
    lines.append("}")


def _params(values: tuple[Value, ...]) -> str:
    return f"({', '.join(f'{value}: {value.type}' for value in values)})"


def _is_given(op: Op, spec: FieldSpec) -> bool:
    return getattr(op, spec.name) not in ((), None)


def _operand(op: Op, spec: FieldSpec) -> str:
    value = getattr(op, spec.name)
    if spec.arity is Arity.MANY:
        return f"{spec.name}=[{', '.join(map(str, value))}]"
    return f"{spec.name}={value}"
