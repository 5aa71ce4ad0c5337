"""``gemmgen inspect``: one stage of a spec's way to a kernel, as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gemmgen
from gemmgen.cli.build import (
    Request,
    build,
    choose_targets,
    m_range,
    print_resources,
    request,
)
from gemmgen.cli.output import print_code, print_json, print_table
from gemmgen.errors import ArgumentError
from gemmgen.plan import Variant
from gemmgen.spec import load_spec

STAGES = ("spec", "schedule", "tile", "async", "target", "cuda", "ptx", "sass", "resources")

_LANGUAGES = {"spec": "yaml", "cuda": "cuda", "ptx": "text", "sass": "text"}
_BINARY_TEXTS: dict[str, Callable[[Variant], str]] = {
    "cuda": lambda variant: variant.artifact.source,
    "ptx": lambda variant: variant.binary().ptx,
    "sass": lambda variant: _sass(variant),
}


def inspect_command(source: str, stage: str, target: str | None, dims: dict[str, int], as_json: bool) -> None:
    """Print one stage; see ``gemmgen inspect --help``."""
    if stage == "spec":
        text = load_spec(source).bind(**dims).canonical()
        _show(stage, None, None, text, as_json)
        return
    asked = request(source, dims)
    chosen = choose_targets(asked.spec, target)[0][0]
    if stage == "schedule":
        _show_schedules(asked, chosen, as_json)
    elif stage == "resources":
        built = build(asked, chosen)
        if as_json:
            print_json({"stage": stage, "target": chosen, "kernels": built.to_dicts()})
        else:
            print_resources(asked.spec.name, [built])
    else:
        variant = _variants(asked, chosen)[-1]
        text = _BINARY_TEXTS[stage](variant) if stage in _BINARY_TEXTS else _ir(variant, stage)
        _show(stage, chosen, variant, text, as_json)


def _variants(asked: Request, target: str) -> tuple[Variant, ...]:
    """The kernel for the M that was asked for, else every kernel of the plan."""
    plan = gemmgen.compile(asked.spec, target).plan()
    return plan.variants if asked.m is None else (plan.variant_for(asked.m),)


def _show_schedules(asked: Request, target: str, as_json: bool) -> None:
    variants = _variants(asked, target)
    if as_json:
        kernels = [{"m_min": v.m_min, "m_max": v.m_max, "schedule": v.schedule.to_dict()} for v in variants]
        print_json({"stage": "schedule", "target": target, "kernels": kernels})
        return
    schedules = [variant.schedule.to_dict() for variant in variants]
    fields = list(schedules[0])
    rows = [(name, *(_cell(schedule[name]) for schedule in schedules)) for name in fields]
    print_table(f"{asked.spec.name} on {target}", ("M", *map(m_range, variants)), rows)


def _cell(value: Any) -> str:
    return "×".join(map(str, value)) if isinstance(value, list) else str(value)


def _ir(variant: Variant, stage: str) -> str:
    texts = variant.artifact.ir
    if stage not in texts:
        others = [name for name in texts if name not in STAGES]
        raise ArgumentError(
            f"there is no stage {stage}",
            where="--stage",
            got=stage,
            need=" | ".join([*STAGES, *others]),
            fix="choose a stage, or a pass to see the IR after it",
        )
    return texts[stage]


def _sass(variant: Variant) -> str:
    from gemmgen.runtime.disassemble import disassemble

    binary = variant.binary()
    return disassemble(binary.cubin, binary.launch.entry)


def _show(stage: str, target: str | None, variant: Variant | None, text: str, as_json: bool) -> None:
    if as_json:
        served = {"m_min": variant.m_min, "m_max": variant.m_max} if variant else {}
        print_json({"stage": stage, "target": target, **served, "text": text})
    else:
        print_code(text, _LANGUAGES.get(stage, "text"))
