"""What the compiler can build today, as a table. The spec language knows more words than this; see ``vocabulary.py``.

To support something new, add its word to a row, or add a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from gemmgen.errors import GemmgenError, TargetError
from gemmgen.spec.fields import nearest, shown
from gemmgen.spec.model import GemmSpec, Operand
from gemmgen.spec.vocabulary import KINDS, LAYOUTS, NARROW_DTYPES, TARGETS


@dataclass(frozen=True)
class Support:
    """One family that can be built: the values of each aspect (see ``ASPECTS``) that may be combined freely."""

    targets: tuple[str, ...]
    kind: tuple[str, ...]
    layout: tuple[str, ...]
    a: tuple[str, ...]
    b: tuple[str, ...]
    c: tuple[str, ...]
    d: tuple[str, ...]
    accumulate: tuple[str, ...]
    promote_every: tuple[str, ...]
    epilogue: tuple[str, ...]
    scheduler: tuple[str, ...]


SUPPORTED: tuple[Support, ...] = (
    Support(
        targets=("sm_90a",),
        kind=("dense",),
        layout=("NT",),
        a=("e4m3 [1, 128] f32",),
        b=("e4m3 [128, 128] f32",),
        c=("absent",),
        d=("bf16",),
        accumulate=("f32",),
        promote_every=("128",),
        epilogue=("acc",),
        scheduler=("auto", "persistent", "split_k"),
    ),
    Support(
        targets=("sm_90a",),
        kind=("dense",),
        layout=("NT",),
        a=("e4m3 [1, K] f32",),
        b=("e4m3 [1, K] f32",),
        c=("absent",),
        d=("bf16",),
        accumulate=("f32",),
        promote_every=("128", "null"),
        epilogue=("acc",),
        scheduler=("auto", "persistent", "split_k"),
    ),
    *(
        Support(
            targets=("sm_90a",),
            kind=("dense",),
            layout=tuple(LAYOUTS),
            a=(dtype,),
            b=(dtype,),
            c=("absent",),
            d=(dtype, "f32"),
            accumulate=("f32",),
            promote_every=("null",),
            epilogue=("acc",),
            scheduler=("auto", "persistent", "split_k"),
        )
        for dtype in ("bf16", "f16")
    ),
    Support(
        targets=("sm_100a", "sm_103a"),
        kind=("dense",),
        layout=tuple(LAYOUTS),
        a=("e4m3 [1, 128] f32",),
        b=("e4m3 [128, 128] f32", "e4m3 [1, 128] f32"),
        c=("absent",),
        d=("bf16", "f16", "f32"),
        accumulate=("f32",),
        promote_every=("128",),
        epilogue=("acc",),
        scheduler=("auto", "persistent"),
    ),
    Support(
        targets=("sm_100a", "sm_103a"),
        kind=("dense",),
        layout=tuple(LAYOUTS),
        a=("e4m3 [1, 32] ue8m0", "e4m3 [1, 128] ue8m0"),
        b=("e4m3 [1, 32] ue8m0", "e4m3 [1, 128] ue8m0"),
        c=("absent",),
        d=("bf16", "f16", "f32"),
        accumulate=("f32",),
        promote_every=("null",),
        epilogue=("acc",),
        scheduler=("auto", "persistent"),
    ),
    Support(
        targets=("sm_100a", "sm_103a"),
        kind=("dense",),
        layout=tuple(LAYOUTS),
        a=("e4m3 [1, K] f32",),
        b=("e4m3 [1, K] f32",),
        c=("absent",),
        d=("bf16", "f16", "f32"),
        accumulate=("f32",),
        promote_every=("128", "null"),
        epilogue=("acc",),
        scheduler=("auto", "persistent"),
    ),
    *(
        Support(
            targets=("sm_100a", "sm_103a"),
            kind=("dense",),
            layout=tuple(LAYOUTS),
            a=(dtype,),
            b=(dtype,),
            c=("absent",),
            d=(dtype, "f32"),
            accumulate=("f32",),
            promote_every=("null",),
            epilogue=("acc",),
            scheduler=("auto", "persistent"),
        )
        for dtype in ("bf16", "f16")
    ),
)


def _operand(operand: Operand | None) -> str:
    """An operand in one line: ``e4m3 [1, 128] f32``."""
    if operand is None:
        return "absent"
    if operand.scale is None:
        return operand.dtype
    return f"{operand.dtype} {shown(operand.scale.block)} {operand.scale.format}"


@dataclass(frozen=True)
class Aspect:
    """One thing that is supported or not: its place in the spec, and its value in one line."""

    path: str
    read: Callable[[GemmSpec], str]


ASPECTS: dict[str, Aspect] = {
    "kind": Aspect("problem.kind", lambda spec: spec.problem.kind),
    "layout": Aspect("problem.layout", lambda spec: spec.problem.layout),
    "a": Aspect("operands.a", lambda spec: _operand(spec.operands.a)),
    "b": Aspect("operands.b", lambda spec: _operand(spec.operands.b)),
    "c": Aspect("operands.c", lambda spec: _operand(spec.operands.c)),
    "d": Aspect("operands.d", lambda spec: _operand(spec.operands.d)),
    "accumulate": Aspect("accumulate.dtype", lambda spec: spec.accumulate.dtype),
    "promote_every": Aspect("accumulate.promote_every", lambda spec: shown(spec.accumulate.promote_every)),
    "epilogue": Aspect("epilogue", lambda spec: spec.epilogue),
    "scheduler": Aspect("schedule.scheduler", lambda spec: spec.schedule.scheduler or "auto"),
}


@dataclass(frozen=True)
class Limit:
    """Specs that a target's hardware rules out, whatever is added to the table.

    Attributes:
        targets: where it holds.
        applies: whether a spec is beyond it.
        aspect: what would have to change, a name in ``ASPECTS``.
        why: what the hardware lacks.
        need: legal values of the aspect.
        fix: what to do instead.
    """

    targets: tuple[str, ...]
    applies: Callable[[GemmSpec], bool]
    aspect: str
    why: str
    need: str
    fix: str


LIMITS: tuple[Limit, ...] = (
    Limit(
        targets=("sm_90a",),
        applies=lambda spec: spec.problem.layout != "NT" and spec.operands.a.dtype in NARROW_DTYPES,
        aspect="layout",
        why="its tensor core reads FP8 with K contiguous only; it can transpose 16-bit operands, but not FP8",
        need="NT",
        fix="use layout NT and pass transposed copies, quantised along K, or use bf16 operands",
    ),
)


def supported_targets() -> tuple[str, ...]:
    """The targets that some family can be built for."""
    return tuple(target for target in TARGETS if any(target in row.targets for row in SUPPORTED))


def unsupported_reason(spec: GemmSpec, target: str) -> GemmgenError | None:
    """Why ``spec`` cannot be compiled for ``target`` today; None when it can. Touches no GPU."""
    if target not in TARGETS:
        close = nearest(target, TARGETS)
        return TargetError(
            f"unknown target {target}",
            where="target",
            got=target,
            need=" | ".join(TARGETS),
            fix=f"did you mean {close}?" if close else f"use {supported_targets()[0]}",
        )
    rows = [row for row in SUPPORTED if target in row.targets]
    if not rows:
        able = " | ".join(supported_targets())
        return TargetError(
            f"target {target} is not supported yet",
            where=spec.position("targets"),
            got=target,
            need=able,
            fix=f"compile for {able}",
        )
    if target not in spec.targets:
        return TargetError(
            f"the spec is not written for {target}",
            where=spec.position("targets"),
            got=target,
            need=" | ".join(spec.targets),
            fix=f"add {target} to the spec's targets",
        )
    for limit in LIMITS:
        if target in limit.targets and limit.applies(spec):
            return _impossible(limit, spec, target)
    missing = [_differences(row, spec) for row in rows]
    fewest = min(map(len, missing))
    closest = [(row, lacking) for row, lacking in zip(rows, missing, strict=True) if len(lacking) == fewest]
    if not fewest:
        return None
    name = closest[0][1][0]
    return _not_yet(name, spec, target, [row for row, lacking in closest if name in lacking])


def _impossible(limit: Limit, spec: GemmSpec, target: str) -> TargetError:
    return TargetError(
        f"{target} cannot do this: {limit.why}",
        where=spec.position(ASPECTS[limit.aspect].path),
        got=ASPECTS[limit.aspect].read(spec),
        need=limit.need,
        fix=limit.fix,
    )


def _differences(row: Support, spec: GemmSpec) -> list[str]:
    """The aspects of ``spec`` that ``row`` does not cover, in the table's order."""
    return [name for name, aspect in ASPECTS.items() if aspect.read(spec) not in getattr(row, name)]


def _not_yet(name: str, spec: GemmSpec, target: str, rows: Iterable[Support]) -> TargetError:
    aspect = ASPECTS[name]
    given = aspect.read(spec)
    able: list[Any] = list(dict.fromkeys(word for row in rows for word in getattr(row, name)))
    close = nearest(given, able) or able[0]
    meaning = f" ({KINDS[given].doc})" if given in KINDS else ""
    return TargetError(
        f"{aspect.path} = {given}{meaning} is not supported yet on {target}",
        where=spec.position(aspect.path),
        got=given,
        need=" | ".join(able),
        fix=f"use {close}, the nearest that {target} can do today",
    )
