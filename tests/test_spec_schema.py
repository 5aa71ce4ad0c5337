"""The JSON schema and the reference are generated from the model, and agree with the loader."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gemmgen.errors import SpecError
from gemmgen.spec import GemmSpec, load_spec, shipped_specs
from gemmgen.spec.docgen import updated
from gemmgen.spec.part import entries
from gemmgen.spec.schema import parts_of, spec_schema
from gemmgen.spec.yaml_reader import read_document

VALIDATOR = jsonschema.Draft202012Validator(spec_schema())
REFERENCE = Path(__file__).parent.parent / "docs/spec.md"


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(spec_schema())


@pytest.mark.parametrize("name", sorted(shipped_specs()))
def test_shipped_specs_are_valid(name: str) -> None:
    path = shipped_specs()[name]
    VALIDATOR.validate(read_document(path.read_text(encoding="utf-8"), str(path)).root)
    VALIDATOR.validate(load_spec(path).to_dict())


def test_every_field_is_in_the_schema() -> None:
    schema = spec_schema()
    for part in parts_of(GemmSpec):
        mapping = schema if part is GemmSpec else schema["$defs"][part.__name__]
        assert {item.key for item in entries(part)} <= mapping["properties"].keys()
        assert all(mapping["properties"][item.key]["description"] for item in entries(part))


def mutate(path: str, value: Any) -> dict[str, Any]:
    """The plain FP8 spec with one value replaced; ``...`` removes it."""
    root = copy.deepcopy(load_spec("fp8_gemm_nt").to_dict())
    *parents, last = path.split(".")
    node = root
    for key in parents:
        node = node[key]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return root


MUTATIONS: dict[str, tuple[str, Any]] = {
    "unknown_key": ("epilog", "acc"),
    "unknown_nested_key": ("schedule.tiles", [1, 2, 3]),
    "version": ("gemmgen", 2),
    "no_version": ("gemmgen", ...),
    "no_name": ("name", ...),
    "no_targets": ("targets", ...),
    "no_dtype": ("operands.d.dtype", ...),
    "name": ("name", "Not A Name"),
    "kind": ("problem.kind", "sparse"),
    "layout": ("problem.layout", "nt"),
    "dim_name": ("problem.dims.m", 3),
    "dim_negative": ("problem.dims.M", -3),
    "dim_huge": ("problem.dims.M", 2**31),
    "dim_float": ("problem.dims.M", 0.5),
    "dtype": ("operands.a.dtype", "fp8"),
    "block": ("operands.a.scale.block", [1, 100]),
    "format": ("operands.a.scale.format", "e8m0"),
    "promote": ("accumulate.promote_every", 100),
    "tile_length": ("schedule.tile", [128, 128]),
    "tile_item": ("schedule.tile", [128, 128, 3]),
    "stages": ("schedule.stages", 0),
    "registers": ("schedule.registers.math", 230),
    "swap": ("schedule.swap_ab", "yes"),
    "scheduler": ("schedule.scheduler", "serial"),
    "warps": ("schedule.warps", 3),
    "targets_empty": ("targets", []),
    "targets_twice": ("targets", ["sm_90a", "sm_90a"]),
    "targets_unknown": ("targets", ["sm_80"]),
    "epilogue": ("epilogue", 3),
}


@pytest.mark.parametrize("case", MUTATIONS)
def test_schema_and_loader_refuse_the_same(case: str) -> None:
    values = mutate(*MUTATIONS[case])
    assert not VALIDATOR.is_valid(values)
    if case != "no_version":  # the version is a file's business; a Python value has it by default
        with pytest.raises(SpecError):
            load_spec(values)


@pytest.mark.parametrize(("path", "value"), [("schedule", "auto"), ("schedule.warps", "auto"), ("operands.c", None),
                                             ("schedule.tile", [64, 8, 128]), ("accumulate.promote_every", "auto"),
                                             ("problem.dims.N", "2 * K"), ("schedule.stages", None)])  # fmt: skip
def test_schema_and_loader_accept_the_same(path: str, value: Any) -> None:
    values = mutate(path, value)
    VALIDATOR.validate(values)
    load_spec(values)


def test_a_file_that_extends_needs_nothing_else() -> None:
    assert VALIDATOR.is_valid({"gemmgen": 1, "extends": "fp8_gemm_nt.yaml"})
    assert not VALIDATOR.is_valid({"gemmgen": 1})
    assert not VALIDATOR.is_valid({"extends": "fp8_gemm_nt.yaml"})


def test_the_reference_is_up_to_date() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    assert updated(text) == text, "run: python -m gemmgen.spec.docgen docs/spec.md"


def test_the_example_of_the_reference_loads() -> None:
    example = REFERENCE.read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    assert load_spec(example).schedule.tile == (128, 128, 128)
