"""Fields whose values are expressions: the dimensions of a problem and the epilogue."""

# ruff: noqa: D102 — the methods of fields are documented once, in Field

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gemmgen.spec.fields import Field, FieldError, as_int, shown
from gemmgen.spec.frozen_map import FrozenMap
from gemmgen.spec.vocabulary import DYNAMIC, MAX_DIM

DIM_NAME = r"^[A-Z][A-Za-z0-9_]{0,31}$"
MAX_DIMS = 32
_PLAIN_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Dims(Field):
    """Dimension name → an int, ``dynamic``, or the canonical text of an expression over other dimensions."""

    def coerce(self, value: object) -> FrozenMap[str, int | str]:
        if not isinstance(value, Mapping):
            raise FieldError(
                "not a mapping of dimensions",
                got=shown(value),
                need=self.describe(),
                fix="write {M: dynamic, N: 4096, K: 7168}",
            )
        for name in value:
            if not (isinstance(name, str) and re.fullmatch(DIM_NAME, name)):
                raise FieldError(
                    "not a dimension's name",
                    path=(shown(name),),
                    at_key=True,
                    got=shown(name),
                    need="a capital letter, then letters, digits or _",
                    fix=f"rename it to {str(name).capitalize()}",
                )
        if len(value) > MAX_DIMS:
            raise FieldError(
                "too many dimensions",
                got=f"{len(value)} dimensions",
                need=f"at most {MAX_DIMS}",
                fix="keep those that sizes depend on",
            )
        dims = {name: _dim(name, size, value) for name, size in value.items()}
        if any(_is_expression(size) for size in dims.values()):
            _refuse_cycles(dims)
        return FrozenMap(dims)

    def plain(self, value: Any) -> dict[str, int | str]:
        return dict(value)

    def schema(self) -> dict[str, Any]:
        size = {"anyOf": [{"type": "integer", "minimum": 0, "maximum": MAX_DIM}, {"type": "string", "minLength": 1}]}
        return {
            "type": "object",
            "propertyNames": {"pattern": DIM_NAME},
            "additionalProperties": size,
            "maxProperties": MAX_DIMS,
        }

    def describe(self) -> str:
        return f"mapping of names to an integer 0…{MAX_DIM}, `dynamic`, or an expression over other dimensions"


class Epilogue(Field):
    """What is stored for an accumulator, as canonical expression text."""

    def coerce(self, value: object) -> str:
        if value == "acc":
            return "acc"
        if not isinstance(value, str):
            raise FieldError("not an expression", got=shown(value), need=self.describe(), fix='write "acc"')
        from gemmgen.spec.expr import ExprError, parse_expr, to_text
        from gemmgen.spec.expr_rules import check_epilogue

        try:
            expr = parse_expr(value)
            check_epilogue(expr)
        except ExprError as error:
            raise expression_error(error) from None
        return to_text(expr)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1}

    def describe(self) -> str:
        return 'expression over acc, for example "silu(acc[gate]) * acc[up]"'


def expression_error(error: Any, *path: str) -> FieldError:
    """An ``ExprError`` as the error of the field at ``path``."""
    return FieldError(error.what, path=path, offset=error.offset, got=error.got, need=error.need, fix=error.fix)


def dim_references(size: int | str) -> set[str]:
    """The dimensions that a stored size refers to."""
    return set(_PLAIN_WORD.findall(str(size))) if _is_expression(size) else set()


def _is_expression(size: int | str) -> bool:
    return isinstance(size, str) and size != DYNAMIC


def _dim(name: str, size: object, dims: Mapping[str, object]) -> int | str:
    """The stored form of one dimension's size."""
    number = as_int(size)
    if number is not None:
        if 0 <= number <= MAX_DIM:
            return number
        raise FieldError(
            f"dimension {name} is out of range",
            path=(name,),
            got=number,
            need=f"0…{MAX_DIM}",
            fix=f"write {min(max(number, 0), MAX_DIM)}, or split the problem",
        )
    if size == DYNAMIC:
        return DYNAMIC
    if not isinstance(size, str):
        raise FieldError(
            f"dimension {name} has no legal size",
            path=(name,),
            got=shown(size),
            need=f"an integer 0…{MAX_DIM}, dynamic, or an expression",
            fix="write dynamic",
        )
    return _dim_expression(name, size, dims)


def _dim_expression(name: str, text: str, dims: Mapping[str, object]) -> int | str:
    from gemmgen.spec.expr import ExprError, Name, Number, parse_expr, to_text
    from gemmgen.spec.expr_rules import check_dim
    from gemmgen.spec.fields import nearest

    try:
        expr = parse_expr(text)
        if isinstance(expr, Name) and expr.name not in dims and nearest(expr.name, [DYNAMIC]):
            raise FieldError(
                f"dimension {name} has no legal size",
                path=(name,),
                got=text,
                need=f"an integer 0…{MAX_DIM}, dynamic, or an expression",
                fix="write dynamic",
            )
        check_dim(expr, [other for other in dims if other != name])
    except ExprError as error:
        raise expression_error(error, name) from None
    if isinstance(expr, Number):
        return int(expr.value)
    return to_text(expr)


def _refuse_cycles(dims: Mapping[str, int | str]) -> None:
    """Refuse dimensions that are defined by each other."""
    done: set[str] = set()

    def visit(name: str, chain: tuple[str, ...]) -> None:
        if name in chain:
            loop = " → ".join((*chain[chain.index(name) :], name))
            raise FieldError(
                "dimensions defined by each other",
                path=(name,),
                got=loop,
                need="no cycle",
                fix=f"give {name} an integer, or write dynamic",
            )
        if name not in done:
            for other in sorted(dim_references(dims[name]) & dims.keys()):
                visit(other, (*chain, name))
            done.add(name)

    for name in dims:
        visit(name, ())
