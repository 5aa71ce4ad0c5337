"""Laws of looking ahead: what a step takes from the one before it is of this step's stage, and is not used too late."""

from __future__ import annotations

from gemmgen.backends.sm90 import math_ops
from gemmgen.backends.sm90.ops import AdvanceOp, KLoopOp, LoadedOp, LookAheadOp, WaitOp
from gemmgen.backends.sm90.sites import Program
from gemmgen.ir.core import Op, Value
from gemmgen.ir.verifier import fail


def check_lookahead(program: Program) -> None:
    """Check that steps look ahead once, behind their cursor's move, for all that the next step takes from them.

    Raises:
        IRError: the first law that is broken.
    """
    made: dict[Value, Op] = {}
    for site, op in program.all(math_ops.PlaceOp, LoadedOp):
        if site.tiles is not None or site.steps is not None:
            fail(op, f"{op.result} goes on from tile to tile", got="made inside of a loop", need="before the loops")
        made[op.result] = op
    for _, loop in program.all(KLoopOp):
        _check_step(program, loop, made)
    _check_owners(program)
    inside = {id(op) for _, loop in program.all(KLoopOp) for op in loop.body.ops}
    for _, op in program.all(LookAheadOp, WaitOp, math_ops.StageDescriptorOp, math_ops.RowScalesOp):
        if (isinstance(op, LookAheadOp) or taken(op) is not None) and id(op) not in inside:
            fail(op, "a step looks ahead for the next one", got="another place", need=KLoopOp.NAME)


def taken(op: Op) -> Value | None:
    """What the op takes from the step before."""
    if isinstance(op, WaitOp):
        return op.unless
    return op.place if isinstance(op, math_ops.StageDescriptorOp | math_ops.RowScalesOp) else None


def _check_owners(program: Program) -> None:
    """What one loop's steps find for each other no other loop changes: it would speak of another stage or ring."""
    owners: dict[Value, LookAheadOp] = {}
    for _, op in program.all(LookAheadOp):
        for value in (op.loaded, *op.places):
            if owners.setdefault(value, op) is not op:
                fail(op, f"{value} is found by the steps of one loop", got=f"two {op.NAME}", need=1)


def _check_step(program: Program, loop: KLoopOp, made: dict[Value, Op]) -> None:
    looks = [op for op in loop.body.ops if isinstance(op, LookAheadOp)]
    users = [op for op in loop.body.ops if taken(op) is not None]
    if not looks and not users:
        return
    if len(looks) != 1:
        fail(loop, "a step looks ahead once for what the next one takes from it", got=f"{len(looks)} times", need=1)
    (look,) = looks
    at = loop.body.ops.index(look)
    moves = [op for _, op in program.all(AdvanceOp) if op.cursor == look.moved]
    if len(moves) != 1 or moves[0] not in loop.body.ops[:at]:
        got = "no move before it" if len(moves) < 2 else f"{len(moves)} moves"
        fail(look, "a step looks at the stage that its cursor has moved to, as it does nowhere else", got=got,
             need=f"one {AdvanceOp.NAME}, before it")  # fmt: skip
    for value in look.places:
        if not isinstance(made.get(value), math_ops.PlaceOp):
            fail(look, f"{value} is a place", got=value.type, need=f"the result of {math_ops.PlaceOp.NAME}")
    if not isinstance(made.get(look.loaded), LoadedOp):
        fail(look, f"{look.loaded} says what was seen", got=look.loaded.type, need=f"the result of {LoadedOp.NAME}")
    for op in users:
        _check_user(op, look, made, late=op in loop.body.ops[at:])


def _check_user(op: Op, look: LookAheadOp, made: dict[Value, Op], late: bool) -> None:
    """The op takes what the step before has looked for, of the same ring and of the same thing."""
    value = taken(op)
    assert value is not None
    if late:
        fail(op, f"{value} is of the next step by now", got=f"{op.NAME} after {look.NAME}", need="the other order")
    if getattr(op, "cursor", None) != look.moved:
        fail(op, "a step takes from the one before what lies in the same ring", got=getattr(op, "cursor", None),
             need=look.moved)  # fmt: skip
    if isinstance(op, WaitOp):
        if value != look.loaded or op.barriers != look.barriers or op.flip:
            fail(op, f"{value} says whether the stage is loaded", got=f"{look.loaded} of {look.barriers}",
                 need=f"{value} of {op.barriers}")  # fmt: skip
        return
    if value not in look.places:
        fail(op, f"{value} follows the ring", got="a place that stays", need=f"an operand of {look.NAME}")
    place = made[value]
    assert isinstance(place, math_ops.PlaceOp)
    if _of(op) != (place.base, place.area, place.waves, place.wave):
        fail(op, f"{value} is the place of what is read", got=place.area, need=" ".join(map(str, _of(op))))


def _of(op: Op) -> tuple[Value | None, str, int, int]:
    """The place that the op needs."""
    if isinstance(op, math_ops.StageDescriptorOp):
        return op.base, op.area, 0, 0
    assert isinstance(op, math_ops.RowScalesOp)
    return None, op.area, op.waves, op.wave
