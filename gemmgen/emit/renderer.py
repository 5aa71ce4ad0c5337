"""Rendering: one Jinja environment with StrictUndefined, and the walk that turns a module into one CUDA file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from textwrap import indent
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gemmgen.emit.emission import Helper, find_emitter, require_emitters
from gemmgen.ir.core import Module, Op, Region
from gemmgen.ir.schema import schema_of
from gemmgen.resources import resource_dir

INDENT = "    "


@cache
def environment() -> Environment:
    """The one environment; templates see nothing but the fields that an emitter names."""
    return Environment(
        loader=FileSystemLoader(resource_dir("templates")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
        autoescape=False,
    )


def render(template: str, fields: Mapping[str, Any], folders: tuple[str, ...] = ("",)) -> str:
    """The text of ``templates/<folder>/<template>.cu.j2`` for the first of the folders that has it."""
    names = [f"{folder}/{template}.cu.j2".lstrip("/") for folder in folders]
    return environment().select_template(names).render(fields)


class Renderer:
    """Renders a target-level module for one target dialect; collects the helpers its ops call.

    Args:
        module: the module.
        dialect: its dialect, which names the folder of its templates.
        base: a dialect whose templates serve where this one has none of its own.
    """

    def __init__(self, module: Module, dialect: str, base: str | None = None) -> None:
        require_emitters(module, dialect)
        self.module, self.dialect = module, dialect
        self.folders = (dialect, base) if base else (dialect,)
        self._helpers: dict[Helper, None] = {}

    def body(self) -> str:
        """The text of all ops, indented for a function body."""
        return indent(self._region(self.module.body), INDENT)

    def helpers(self) -> str:
        """The device functions that the ops rendered so far call, each once, in a fixed order."""
        ordered = sorted(self._helpers, key=lambda helper: (helper.template, str(helper.fields)))
        return "\n\n".join(render(f"helpers/{h.template}", dict(h.fields), self.folders) for h in ordered)

    def _region(self, region: Region, separator: str = "\n") -> str:
        return separator.join(self._op(op) for op in region.ops)

    def _op(self, op: Op) -> str:
        emission = find_emitter(op, self.dialect)(op, self.module)
        self._helpers.update(dict.fromkeys(emission.helpers))
        fields = dict(emission.fields)
        separator = fields.pop("separator", "\n")
        names = [spec.name for spec in schema_of(type(op)).regions if getattr(op, spec.name) is not None]
        for name, region in zip(names, op.all_regions, strict=True):
            text = self._region(region, separator)
            fields[name if len(names) > 1 else "body"] = text if separator != "\n" else indent(text, INDENT)
        return render(emission.template, {**fields, "op_name": op.NAME}, self.folders)
