"""Fixing dimensions of a spec, and reading them as sympy expressions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gemmgen.errors import SpecError
from gemmgen.spec.fields import as_int, nearest
from gemmgen.spec.text_fields import dim_references
from gemmgen.spec.vocabulary import DYNAMIC, MAX_DIM

if TYPE_CHECKING:
    import sympy

    from gemmgen.spec.model import GemmSpec


def bind(spec: GemmSpec, values: Mapping[str, int]) -> GemmSpec:
    """``spec`` with the dimensions in ``values`` fixed; see ``GemmSpec.bind``."""
    if not values:
        return spec
    given = spec.problem.dims
    bound = {name: _checked(spec, name, value) for name, value in values.items()}
    free = {name: bound.get(name, size) if size == DYNAMIC else size for name, size in given.items()}
    dims = {name: _resolved(spec, name, free) for name in given}
    for name, value in bound.items():
        _refuse_contradiction(spec, name, value, dims[name])
    return dataclasses.replace(spec, problem=dataclasses.replace(spec.problem, dims=dims))


def dim_expression(dims: Mapping[str, int | str], name: str) -> sympy.Expr:
    """Dimension ``name`` over the symbols of the dynamic dimensions it depends on.

    Raises:
        SpecError: the dimension does not exist.
    """
    from gemmgen.spec.dims import parse_dim, symbol

    if name not in dims:
        raise _unknown(name, dims, name)
    size = dims[name]
    if size == DYNAMIC:
        return symbol(name)
    expr: Any = parse_dim(str(size))
    return expr.subs({symbol(other): dim_expression(dims, other) for other in dim_references(size) & dims.keys()})


def _checked(spec: GemmSpec, name: str, value: object) -> int:
    """A dimension's value as an int in 0..2³¹-1."""
    if name not in spec.problem.dims:
        raise _unknown(name, spec.problem.dims, f"dimension {name}")
    number = as_int(value)
    if number is None:
        raise SpecError(
            "a dimension must be an integer",
            where=f"dimension {name}",
            got=repr(value),
            need=f"an integer from 0 to {MAX_DIM}",
            fix=f"pass {name} as an int",
        )
    if not 0 <= number <= MAX_DIM:
        raise SpecError(
            "a dimension is out of range",
            where=f"dimension {name}",
            got=number,
            need=f"0 to {MAX_DIM}",
            fix="use 0 for an empty problem" if number < 0 else "split the problem",
        )
    return number


def _resolved(spec: GemmSpec, name: str, dims: Mapping[str, int | str]) -> int | str:
    """The size of ``name`` as an int once everything it depends on is fixed, else as it was written."""
    size = dims[name]
    if not isinstance(size, str) or size == DYNAMIC:
        return size
    from gemmgen.spec.dims import evaluate

    expr = dim_expression(dims, name)
    if getattr(expr, "free_symbols", None):
        return size
    try:
        value = evaluate(expr, {})
    except SpecError as error:
        raise SpecError(
            f"dimension {name} = {size} has no integer value",
            where=spec.position(f"problem.dims.{name}"),
            got=error.got,
            need="an integer",
            fix="bind other values, or use // or ceildiv",
        ) from None
    if 0 <= value <= MAX_DIM:
        return value
    raise SpecError(
        f"dimension {name} = {size} is out of range",
        where=spec.position(f"problem.dims.{name}"),
        got=value,
        need=f"0 to {MAX_DIM}",
        fix="bind other values",
    )


def _refuse_contradiction(spec: GemmSpec, name: str, value: int, size: int | str) -> None:
    if size == value:
        return
    where, written = spec.position(f"problem.dims.{name}"), spec.problem.dims[name]
    if isinstance(size, int):
        raise SpecError(
            f"dimension {name} is fixed by the spec",
            where=where,
            got=value,
            need=size,
            fix=f"pass {name}={size}, or make {name} dynamic in the spec",
        )
    source = ", ".join(sorted(dim_references(size) & spec.problem.dims.keys()))
    raise SpecError(
        f"dimension {name} is derived",
        where=where,
        got=f"{name}={value}",
        need=f"{name} = {written}",
        fix=f"bind {source} instead",
    )


def _unknown(name: str, dims: Mapping[str, object], where: str) -> SpecError:
    close = nearest(name, dims)
    return SpecError(
        f"the spec has no dimension {name}",
        where=where,
        got=name,
        need=" | ".join(dims),
        fix=f"did you mean {close}?" if close else f"use one of {', '.join(dims)}",
    )
