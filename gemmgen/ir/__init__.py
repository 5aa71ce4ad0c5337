"""The IR: frozen dataclass ops in three levels, one textual form, a verifier, and tools to rewrite it."""

from __future__ import annotations

from gemmgen.ir.attributes import register_record
from gemmgen.ir.builder import Builder
from gemmgen.ir.core import Effect, Level, Module, Op, Origin, Region, Value
from gemmgen.ir.dims import Dim, ceildiv, dim_symbol, floordiv
from gemmgen.ir.parser import parse_dim, parse_module, parse_type
from gemmgen.ir.printer import print_module, print_op
from gemmgen.ir.rewrite import NameSupply
from gemmgen.ir.schema import (
    attr,
    operand,
    operands,
    optional_operand,
    optional_region,
    region,
    register_op,
    result,
    results,
)
from gemmgen.ir.verifier import module_rule, verify

__all__ = [
    "Builder",
    "Dim",
    "Effect",
    "Level",
    "Module",
    "NameSupply",
    "Op",
    "Origin",
    "Region",
    "Value",
    "attr",
    "ceildiv",
    "dim_symbol",
    "floordiv",
    "module_rule",
    "operand",
    "operands",
    "optional_operand",
    "optional_region",
    "parse_dim",
    "parse_module",
    "parse_type",
    "print_module",
    "print_op",
    "region",
    "register_op",
    "register_record",
    "result",
    "results",
    "verify",
]
