"""Which words may stand in which expression: functions, epilogue operands, and the shape of a legal epilogue."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass

from gemmgen.spec.expr import Binary, Block, Call, Expr, ExprError, Index, Name, Number, to_text, walk
from gemmgen.spec.vocabulary import DTYPES, MAX_DIM


@dataclass(frozen=True)
class Function:
    """A callable word: how many arguments it takes, where it may stand, and what it means."""

    arity: int
    contexts: tuple[str, ...]
    doc: str


DIM = "dimension"
EPILOGUE = "epilogue"

FUNCTIONS: dict[str, Function] = {
    "ceildiv": Function(2, (DIM,), "x / y rounded up"),
    "align": Function(2, (DIM,), "x rounded up to a multiple of y"),
    "max": Function(2, (DIM, EPILOGUE), "the larger of two values"),
    "min": Function(2, (DIM, EPILOGUE), "the smaller of two values"),
    "silu": Function(1, (EPILOGUE,), "x · sigmoid(x)"),
    "gelu": Function(1, (EPILOGUE,), "x · Φ(x), Φ the normal distribution function"),
    "relu": Function(1, (EPILOGUE,), "max(x, 0)"),
    "sigmoid": Function(1, (EPILOGUE,), "1 / (1 + e⁻ˣ)"),
    "tanh": Function(1, (EPILOGUE,), "hyperbolic tangent"),
    "exp": Function(1, (EPILOGUE,), "eˣ"),
    "quantize": Function(3, (EPILOGUE,), "x in a narrow dtype with one fresh scale per block; outermost only"),
}

EPILOGUE_NAMES: dict[str, tuple[str, ...]] = {"acc": ("gate", "up"), "bias": ("m", "n"), "c": ()}
"""What an epilogue may read, and the index words each takes: the accumulator, a vector, operand C."""

EPILOGUE_NAME_DOCS: dict[str, str] = {
    "acc": "the accumulator; `acc[gate]` and `acc[up]` are its two halves along n",
    "bias": "a vector along m or n, written `bias[m]` or `bias[n]`",
    "c": "the element of operand C (residual, or accumulation into C)",
}


def check_dim(expr: Expr, names: Collection[str] | None = None) -> None:
    """Refuse what has no meaning for a dimension; ``names`` are the dimensions that exist (None: any).

    Raises:
        ExprError: with the offset of the offending node.
    """
    for node in walk(expr):
        _check_function(node, DIM)
        if isinstance(node, Index | Block) or (isinstance(node, Number) and isinstance(node.value, float)):
            raise ExprError(
                "a dimension is made of integers",
                offset=node.offset,
                got=to_text(node),
                need="integers, other dimensions, + - * / // %, ceildiv, align, max, min",
                fix="write an integer expression, or `dynamic`",
            )
        if isinstance(node, Number) and node.value > MAX_DIM:
            raise ExprError(
                "the number is too large for a dimension",
                offset=node.offset,
                got=node.value,
                need=f"at most {MAX_DIM}",
                fix=f"use a number up to {MAX_DIM}",
            )
        if isinstance(node, Name) and names is not None and node.name not in names:
            raise _unknown(node.name, names, "dimension", node.offset)


def check_epilogue(expr: Expr) -> None:
    """Refuse words and shapes that have no meaning in an epilogue.

    Raises:
        ExprError: with the offset of the offending node.
    """
    if isinstance(expr, Call) and expr.function == "quantize":
        _check_function(expr, EPILOGUE)
        _check_quantize(expr)
        expr = expr.args[0]
    uses_acc = False
    for node in walk(expr):
        _check_function(node, EPILOGUE)
        _check_epilogue_node(node)
        uses_acc |= isinstance(node, Name | Index) and node.name == "acc"
    if not uses_acc:
        raise ExprError(
            "the epilogue does not use the accumulator",
            offset=expr.offset,
            got=to_text(expr),
            need="an expression that reads acc",
            fix="write `acc` where the product belongs",
        )


def _check_epilogue_node(node: Expr) -> None:
    if isinstance(node, Call) and node.function == "quantize":
        raise ExprError(
            "quantize must be outermost",
            offset=node.offset,
            got=to_text(node),
            need="quantize(<everything else>, block, dtype)",
            fix="move quantize to the outside",
        )
    if isinstance(node, Block):
        raise ExprError(
            "a block has a meaning only in quantize",
            offset=node.offset,
            got=to_text(node),
            need="a value",
            fix="use the block as the second argument of quantize",
        )
    if isinstance(node, Binary) and node.op in ("//", "%"):
        raise ExprError(
            "epilogues compute with real numbers",
            offset=node.offset,
            got=f"operator {node.op}",
            need="+ - * /",
            fix="use / instead",
        )
    if not isinstance(node, Name | Index):
        return
    if node.name not in EPILOGUE_NAMES:
        raise _unknown(node.name, EPILOGUE_NAMES, "epilogue operand", node.offset)
    indices = EPILOGUE_NAMES[node.name]
    if isinstance(node, Index) and node.index not in indices:
        allowed = [f"{node.name}[{index}]" for index in indices] or [node.name]
        raise ExprError(
            f"{node.name} has no index {node.index}",
            offset=node.offset,
            got=to_text(node),
            need=" | ".join(allowed),
            fix=f"write {allowed[0]}",
        )
    if isinstance(node, Name) and node.name == "bias":
        raise ExprError(
            "bias needs an index",
            offset=node.offset,
            got="bias",
            need="bias[m] | bias[n]",
            fix="write bias[n] for one value per column",
        )


def _check_quantize(call: Call) -> None:
    _, block, dtype = call.args
    if not isinstance(block, Block):
        raise ExprError(
            "quantize needs a block as its second argument",
            offset=block.offset,
            got=to_text(block),
            need="a block such as 1x128",
            fix="write quantize(acc, 1x128, e4m3)",
        )
    words = [word for word, info in DTYPES.items() if info.bits == 8]
    if not isinstance(dtype, Name) or dtype.name not in words:
        raise ExprError(
            "quantize needs a narrow dtype as its third argument",
            offset=dtype.offset,
            got=to_text(dtype),
            need=" | ".join(words),
            fix="write quantize(acc, 1x128, e4m3)",
        )


def _check_function(node: Expr, context: str) -> None:
    if not isinstance(node, Call):
        return
    legal = {name: info for name, info in FUNCTIONS.items() if context in info.contexts}
    if node.function not in legal:
        raise _unknown(node.function, legal, f"{context} function", node.offset)
    arity = legal[node.function].arity
    if len(node.args) != arity:
        raise ExprError(
            f"{node.function} has the wrong number of arguments",
            offset=node.offset,
            got=f"{len(node.args)} arguments",
            need=f"{arity} arguments",
            fix=f"call {node.function} with {arity} arguments",
        )


def _unknown(word: str, known: Collection[str], what: str, offset: int) -> ExprError:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5) or sorted(known)[:1]
    fix = f"did you mean {close[0]}?" if close else f"declare {word}, or write a number"
    return ExprError(f"unknown {what} {word}", offset=offset, got=word, need=" | ".join(known) or "a number", fix=fix)
