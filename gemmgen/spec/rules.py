"""Rules that tie several fields of a spec together: combinations that no target could ever run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gemmgen.spec.fields import FieldError, shown
from gemmgen.spec.vocabulary import DTYPES, NARROW_DTYPES

if TYPE_CHECKING:
    from gemmgen.spec.model import GemmSpec, Operand


def promotion_interval(spec: GemmSpec) -> int | None:
    """The ``auto`` value of ``promote_every``: the smaller FP32 scale block along K, or None without such a block."""
    blocks = _f32_blocks(spec)
    return min(blocks.values()) if blocks else None


def check_combinations(spec: GemmSpec) -> None:
    """Refuse what contradicts itself.

    Raises:
        FieldError: with the path of the field to change.
    """
    operands = spec.operands
    for name, operand in (("a", operands.a), ("b", operands.b), ("c", operands.c), ("d", operands.d)):
        if operand is not None:
            _check_operand(name, operand)
    _check_pair(spec)
    _check_promotion(spec)
    if spec.operands.c is not None or spec.epilogue != "acc":
        _check_epilogue(spec)
    _check_split(spec)


def _check_operand(name: str, operand: Operand) -> None:
    legal = [word for word, info in DTYPES.items() if name in info.operands]
    if operand.dtype not in legal:
        raise FieldError(
            f"operand {name} cannot have this dtype",
            path=("operands", name, "dtype"),
            got=operand.dtype,
            need=" | ".join(legal),
            fix=f"write {'tf32' if operand.dtype == 'f32' else 'bf16'}",
        )
    if operand.scale is None:
        return
    if operand.dtype not in NARROW_DTYPES:
        raise FieldError(
            "only FP8 and FP4 operands have scales",
            path=("operands", name, "scale"),
            got=operand.dtype,
            need=f"a dtype of {' | '.join(NARROW_DTYPES)}, or no scale",
            fix="remove scale",
        )
    foreign = "M" if name == "b" else "N"
    if foreign in operand.scale.block:
        own = "N" if name == "b" else "M"
        raise FieldError(
            f"operand {name} has no dimension {foreign}",
            path=("operands", name, "scale", "block"),
            got=shown(operand.scale.block),
            need=f"[{own}, K] for one scale per tensor",
            fix=f"write [{own}, K]",
        )


def _check_pair(spec: GemmSpec) -> None:
    a, b = spec.operands.a.dtype, spec.operands.b.dtype
    if a == b or (a in NARROW_DTYPES and b in NARROW_DTYPES):
        return
    legal = NARROW_DTYPES if a in NARROW_DTYPES else (a,)
    raise FieldError(
        "tensor cores cannot multiply these two types",
        path=("operands", "b", "dtype"),
        got=f"a: {a}, b: {b}",
        need=f"b: {' | '.join(legal)}",
        fix=f"write {legal[0]}",
    )


def _check_promotion(spec: GemmSpec) -> None:
    every = spec.accumulate.promote_every
    if every is None:
        return
    for name, block in _f32_blocks(spec).items():
        if block % int(every):
            raise FieldError(
                "a partial sum would mix elements of different scales",
                path=("accumulate", "promote_every"),
                got=every,
                need=f"a divisor of {block}, the scale block of {name} along k",
                fix=f"write {block}",
            )


def _f32_blocks(spec: GemmSpec) -> dict[str, int]:
    """Elements of K per FP32 scale, by operand; operands whose scale spans K are left out."""
    scales = {"a": spec.operands.a.scale, "b": spec.operands.b.scale}
    return {
        name: scale.block[1]
        for name, scale in scales.items()
        if scale is not None and scale.format == "f32" and isinstance(scale.block[1], int)
    }


def _check_epilogue(spec: GemmSpec) -> None:
    from gemmgen.spec.expr import Block, Call, Name, parse_expr, walk

    expr = parse_expr(spec.epilogue)
    reads_c = any(isinstance(node, Name) and node.name == "c" for node in walk(expr))
    if reads_c and spec.operands.c is None:
        raise FieldError(
            "the epilogue reads c, which is not declared",
            path=("epilogue",),
            got=spec.epilogue,
            need="operands.c",
            fix="add c: {dtype: bf16} to operands",
        )
    if spec.operands.c is not None and not reads_c:
        raise FieldError(
            "operand c is declared and never read",
            path=("operands", "c"),
            got=f"epilogue: {spec.epilogue}",
            need="an epilogue that reads c",
            fix='write epilogue: "acc + c"',
        )
    match expr:
        case Call(function="quantize", args=(_, Block(mn=mn, k=k), Name(name=dtype))):
            _check_quantized_output(spec, dtype, (mn, k))


def _check_quantized_output(spec: GemmSpec, dtype: str, block: tuple[int, int]) -> None:
    d = spec.operands.d
    if d.dtype != dtype:
        raise FieldError(
            "the epilogue quantises to another dtype than d has",
            path=("operands", "d", "dtype"),
            got=d.dtype,
            need=dtype,
            fix=f"write {dtype}",
        )
    if d.scale is not None and d.scale.block != block:
        raise FieldError(
            "the epilogue quantises in other blocks than d has",
            path=("operands", "d", "scale", "block"),
            got=shown(d.scale.block),
            need=shown(block),
            fix=f"write {shown(block)}",
        )


def _check_split(spec: GemmSpec) -> None:
    schedule = spec.schedule
    if (schedule.split_k or 1) > 1 and schedule.scheduler not in (None, "split_k"):
        raise FieldError(
            "split_k contradicts the scheduler",
            path=("schedule", "split_k"),
            got=f"split_k: {schedule.split_k}, scheduler: {schedule.scheduler}",
            need="scheduler: split_k, or split_k: 1",
            fix="write scheduler: split_k",
        )
