"""``parse(print(m)) == m`` for every op of every dialect: kernels of all kinds supply them, and none may be missing."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import sm100_cases
from ir_texts import ASYNC, CASES, TARGET, built, opt, schedule_of

from gemmgen import compiler
from gemmgen.ir import Module, Op, parse_module, print_module
from gemmgen.ir.rewrite import walk
from gemmgen.ir.schema import registered_ops

DATA = Path(__file__).parent / "data"
LANES_CASES = ("plain", "swapped")
"""Cases that are built once more with scales copied by lanes."""


@cache
def modules() -> tuple[Module, ...]:
    """Every module on the way of every case, one without roles, and those in ``tests/data``."""
    artifacts = [built(case) for case in CASES]
    artifacts += [
        compiler.build(CASES[case], TARGET, schedule_of(case).replace(scale_copy="lanes", scales_ahead=False))
        for case in LANES_CASES
    ]
    artifacts += [sm100_cases.built(case) for case in sm100_cases.CASES]
    alone = parse_module(opt(ASYNC, "epilogue-staging,shared-memory-allocation,lower-sm90"))
    texts = [parse_module(path.read_text(), path.name) for path in sorted(DATA.rglob("*.ir"))]
    return (alone, *texts, *(shot.module for artifact in artifacts for shot in artifact.result.snapshots))


def shipped_ops() -> dict[str, type[Op]]:
    """Every op class of the package; those of tests have other dialects."""
    return {name: cls for name, cls in registered_ops().items() if cls.__module__.startswith("gemmgen.")}


@cache
def seen() -> dict[str, list[Op]]:
    """The ops in all modules, by name."""
    found: dict[str, list[Op]] = {}
    for module in modules():
        for op in walk(module):
            found.setdefault(op.NAME, []).append(op)
    return found


def test_every_module_reads_back():
    for module in modules():
        for locations in (False, True):
            text = print_module(module, locations=locations)
            again = parse_module(text)
            assert again == module
            assert print_module(again, locations=locations) == text


def test_locations_read_back():
    for module in modules():
        again = parse_module(print_module(module, locations=True))
        known = [(a.origin, b.origin) for a, b in zip(walk(module), walk(again), strict=True) if a.origin.known]
        assert known
        assert all(a == b for a, b in known)


def test_all_dialects_are_there():
    assert {name.split(".")[0] for name in shipped_ops()} >= {"tile", "async", "sm90", "sm100"}
    assert len(shipped_ops()) > 50


@pytest.mark.parametrize("name", sorted(shipped_ops()))
def test_every_op_appears_and_reads_back(name: str):
    assert name in seen(), f"no module here holds {name}: add a case to ir_texts.CASES, or IR text under tests/data"
    cls = shipped_ops()[name]
    assert {type(op) for op in seen()[name]} == {cls}


@pytest.mark.parametrize("name", sorted(shipped_ops()))
def test_every_op_is_documented(name: str):
    assert (shipped_ops()[name].__doc__ or "").strip(), name
