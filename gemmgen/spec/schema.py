"""JSON schema (draft 2020-12) of the spec language, generated from the model's own field tables.

The schema covers words, types and ranges, for editors and other tools; rules that tie several fields together, and the
grammar of expressions, are checked by ``load_spec`` alone.
"""

from __future__ import annotations

from typing import Any

from gemmgen.spec.fields import Special
from gemmgen.spec.model import GemmSpec
from gemmgen.spec.part import Nested, SpecPart, entries
from gemmgen.spec.vocabulary import SPEC_VERSION

SCHEMA_ID = f"urn:gemmgen:spec:{SPEC_VERSION}"


def spec_schema() -> dict[str, Any]:
    """The schema of a complete spec: one that extends nothing, or one whose ``extends`` has been composed."""
    root = _mapping_schema(GemmSpec)
    definitions = {part.__name__: _mapping_schema(part) for part in parts_of(GemmSpec) if part is not GemmSpec}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "gemmgen spec",
        **_extendable(root),
        "$defs": definitions,
    }


def parts_of(root: type[SpecPart]) -> list[type[SpecPart]]:
    """Every mapping of the language, each after the one that contains it."""
    found = [root]
    for item in entries(root):
        field = item.field.inner if isinstance(item.field, Special) else item.field
        if isinstance(field, Nested):
            found += [part for part in parts_of(field.part) if part not in found]
    return list(dict.fromkeys(found))


def _mapping_schema(part: type[SpecPart]) -> dict[str, Any]:
    properties = {item.key: {"description": item.doc, **item.field.schema()} for item in entries(part)}
    required = [item.key for item in entries(part) if item.required]
    schema: dict[str, Any] = {
        "type": "object",
        "description": (part.__doc__ or "").splitlines()[0],
        "properties": properties,
        "additionalProperties": False,
    }
    return schema | ({"required": required} if required else {})


def _extendable(root: dict[str, Any]) -> dict[str, Any]:
    """A file states the version, and either everything that is required or what it extends."""
    required = root.pop("required")
    root["properties"]["extends"] = {"type": "string", "description": "a spec file, relative to this one, to build on"}
    return root | {"required": ["gemmgen"], "anyOf": [{"required": required}, {"required": ["extends"]}]}
