"""Hopper's tensor cores: wgmma with its fences and groups."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.machine.access import report_conflict
from gemmgen.emulator.machine.memory import GRANULE, SHARED_RESERVED
from gemmgen.emulator.machine.scheduler import AsyncOperation
from gemmgen.emulator.machine.shadow import Access
from gemmgen.emulator.machine.unit import WARP, Dissolve, Wait
from gemmgen.emulator.machine.wgmma_state import WgmmaState
from gemmgen.emulator.numerics import descriptors, fragments, kinds, mma
from gemmgen.emulator.numerics.formats import FORMATS
from gemmgen.emulator.ops.builder import Builder, Step, builds, type_id
from gemmgen.emulator.ops.ownership import conflicting_operand, own_operands, stale_text
from gemmgen.emulator.ops.warp import require_converged
from gemmgen.emulator.ptx.operands import Reg, Vec
from gemmgen.emulator.report import Kind
from gemmgen.errors import EmulationError

if TYPE_CHECKING:
    from gemmgen.emulator.machine.cta import WarpGroup
    from gemmgen.emulator.machine.unit import Unit

ROWS = 64
ROWS_PER_WARP = 16
OPERAND_BYTES_PER_ROW = 32
MAX_WAIT = 7


@dataclass(frozen=True)
class _Form:
    """The static facts of one wgmma instruction."""

    n: int
    a_type: str
    b_type: str
    d_type: str
    d_registers: tuple[Reg, ...]
    a_registers: tuple[Reg, ...]
    a_key: int
    b_key: int
    negate_a: int
    negate_b: int
    a_major: str
    b_major: str
    saturate: bool

    @cached_property
    def touched(self) -> frozenset[Reg]:
        """All its registers."""
        return frozenset((*self.d_registers, *self.a_registers))

    @property
    def element_bytes(self) -> int:
        """Bytes of an operand element."""
        return FORMATS[self.a_type].bits // 8

    @property
    def k(self) -> int:
        """Elements of K."""
        return OPERAND_BYTES_PER_ROW // self.element_bytes


def _group(x: Unit) -> WarpGroup:
    return x.cta.groups_by_warp[x.warps[0].index]


def _each_state(x: Unit) -> list[WgmmaState]:
    return [x.cta.wgmma_states[warp.index] for warp in x.warps]


def _agent(x: Unit) -> int:
    """The agent of the warpgroup's asynchronous multiplications; epochs are group numbers, from 1."""
    group = _group(x)
    if not group.wgmma_agent:
        group.wgmma_agent = x.cta.machine.clocks.new_agent(f"{group.label} wgmma")
    return group.wgmma_agent


@builds("wgmma.fence")
def _fence(b: Builder) -> Step:
    b.expect(0)

    def step(x: Unit) -> Wait | None:
        waiting = require_converged(b, x)
        if waiting is not None:
            return waiting
        for state in _each_state(x):
            state.fenced = True
        x.ownership.fence()
        x.sync_warps()
        return None

    return step


@builds("wgmma.commit")
def _commit(b: Builder) -> Step:
    b.expect(0)

    def step(x: Unit) -> Wait | None:
        waiting = require_converged(b, x)
        if waiting is not None:
            return waiting
        for state in _each_state(x):
            state.groups.append(state.current)
            state.current = []
        x.sync_warps()
        return None

    return step


@builds("wgmma.wait")
def _wait(b: Builder) -> Step:
    b.expect(1)
    allowed = b.immediate(0)
    if not 0 <= allowed <= MAX_WAIT:
        raise b.error(f"wgmma.wait_group {allowed}", need="0 to 7")

    def step(x: Unit) -> Wait | None:
        waiting = require_converged(b, x)
        if waiting is not None:
            return waiting
        states = _each_state(x)
        pending = [
            o for s in states for group in s.groups[: max(0, len(s.groups) - allowed)] for o in group if not o.done
        ]
        if pending:
            return Wait(lambda: all(o.done for o in pending), lambda: "wgmma groups", "group", b.pc)
        agent = _agent(x)
        for warp, state in zip(x.warps, states, strict=True):
            finished = max(0, len(state.groups) - allowed)
            x.cta.machine.clocks.learn(warp.row, agent, finished)
            for register in [r for r, owner in state.owned.items() if owner.epoch <= finished]:
                del state.owned[register]
                x.ownership.release(register)
        x.sync_warps()
        return None

    return step


def _parse(b: Builder) -> _Form:
    shape, d_type = b.modifiers["shape"], b.modifiers["dtype"]
    a_type, b_type = b.modifiers["atype"], b.modifiers["btype"]
    try:
        m, rest = shape.removeprefix("m").split("n")
        n, k = (int(part) for part in rest.split("k"))
        kinds.check_wgmma_types(a_type, b_type, d_type)
        kinds.check_wgmma_shape(n, a_type)
    except (ValueError, EmulationError):
        raise b.error("wgmma has no such shape or types") from None
    if m != "64" or k * FORMATS[a_type].bits != OPERAND_BYTES_PER_ROW * 8:
        raise b.error("wgmma has no such shape")
    per_thread = n // 2 if d_type != "f16" else n // 4
    registers = _registers(b, 0, per_thread)
    in_registers = isinstance(b.operands[1], Vec)
    a_registers = _registers(b, 1, 4) if in_registers else ()
    floating = d_type != "s32"
    transposable = a_type in ("bf16", "f16")
    extra = (2 if floating else 0) + ((1 if in_registers else 2) if transposable else 0)
    b.expect(4 + extra)
    signs = (b.immediate(4), b.immediate(5)) if floating else (1, 1)
    if any(sign not in (1, -1) for sign in signs):
        raise b.error("imm-scale must be 1 or -1")
    majors = [bool(b.immediate(n)) for n in range(6, 4 + extra)] if transposable else []
    majors = [False] * (2 - len(majors)) + majors
    a_major, b_major = ("MN" if flag else "K" for flag in majors)
    a_key = 0 if in_registers else b.source(1, "b64")
    return _Form(
        n,
        a_type,
        b_type,
        d_type,
        registers,
        a_registers,
        a_key,
        b.source(2, "b64"),
        *signs,
        a_major,
        b_major,
        "satfinite" in b.modifiers,
    )


def _registers(b: Builder, operand: int, count: int) -> tuple[Reg, ...]:
    items = b.vector(operand, count)
    for item in items:
        if not isinstance(item, Reg) or item.kind != "b32":
            raise b.error("matrix fragments are 32-bit registers")
    return tuple(item for item in items if isinstance(item, Reg))


@builds("wgmma.mma")
def _mma(b: Builder) -> Step:
    form = _parse(b)
    accumulate = b.predicate(b.operands[3])
    t = type_id("u64")

    def step(x: Unit) -> Wait | None:
        waiting = require_converged(b, x)
        if waiting is not None:
            return waiting
        flags = accumulate(x)[x.mask]
        if (flags != flags[0]).any():
            raise b.fault(x, Kind.DIVERGENCE, "scale-d differs between the threads of a wgmma")
        _check_fence(b, x, form)
        _check_owned(b, x, form, bool(flags[0]))
        if flags[0]:
            _check_accumulator(b, x, form)
        d_a = None if form.a_registers else _uniform_descriptor(b, x, x.views[t][form.a_key])
        d_b = _uniform_descriptor(b, x, x.views[t][form.b_key])
        a_at = None if d_a is None else _addresses(b, x, d_a, form, ROWS, form.a_major)
        b_at = _addresses(b, x, d_b, form, form.n, form.b_major)
        _check_agreement(b, x, (d_a, d_b, bool(flags[0])))
        _record_reads(b, x, a_at, b_at)
        _issue(b, x, form, a_at, b_at, bool(flags[0]))
        x.sync_warps()
        return None

    return step


def _check_fence(b: Builder, x: Unit, form: _Form) -> None:
    if not all(state.fenced for state in _each_state(x)):
        b.finding(x, Kind.WGMMA_FENCE, "the first wgmma of a warp needs wgmma.fence before it")
    accessed = form.touched & x.ownership.accessed
    if accessed:
        names = ", ".join(sorted(register.name for register in accessed)[:3])
        b.finding(x, Kind.WGMMA_FENCE, f"{names} were accessed since the last wgmma.fence")


def _check_owned(b: Builder, x: Unit, form: _Form, accumulating: bool) -> None:
    register = conflicting_operand(x, form.d_registers, form.a_registers, b.modifiers["shape"])
    if register is not None:
        text = f"{register.name} belongs to an unfinished wgmma, of another accumulator or shape, or as another operand"
        b.finding(x, Kind.WGMMA_REGISTER, text, x.ownership.owned[register])
    stale = x.ownership.stale
    for each in (form.touched if accumulating else form.a_registers) if stale else ():
        if each in stale:
            b.finding(x, Kind.WGMMA_REGISTER, stale_text(each), stale[each])


def _check_accumulator(b: Builder, x: Unit, form: _Form) -> None:
    """An accumulator that is added to must have been written."""
    suspects = set(x.cta.machine.maybe_undefined.get(b.pc, ())) & set(form.d_registers)
    for register in sorted(suspects, key=lambda r: r.index):
        if not x.defined[register.kind][register.index].all():
            b.finding(
                x, Kind.UNINITIALIZED_REGISTER, f"wgmma accumulates into {register.name}, which nothing has written"
            )
            return


def _uniform_descriptor(b: Builder, x: Unit, values: NDArray) -> int:
    values = np.broadcast_to(values, (x.width,))
    first = int(values[0])
    if (values != values[0]).any():
        if len(x.warps) > 1:
            raise Dissolve
        raise b.fault(x, Kind.DESCRIPTOR, "a matrix descriptor differs between the threads of a wgmma")
    return first


def _addresses(b: Builder, x: Unit, bits: int, form: _Form, rows: int, major: str) -> NDArray[np.int64]:
    """Shared byte offsets [rows, 32] of an operand."""
    try:
        decoded = descriptors.decode_wgmma(bits)
        found = descriptors.operand_addresses(decoded, major, form.element_bytes, rows, form.k)
    except EmulationError as error:
        text = " ".join(filter(None, (error.what, error.got, error.need and f"need {error.need}")))
        raise b.fault(x, Kind.DESCRIPTOR, f"descriptor 0x{bits:016x}: {text}") from None
    low, high = int(found.min()), int(found.max())
    if low < SHARED_RESERVED or high >= x.cta.shared.size:
        size = x.cta.shared.size - SHARED_RESERVED
        text = (
            f"descriptor 0x{bits:016x} covers shared bytes {low - SHARED_RESERVED}..{high - SHARED_RESERVED} of {size}"
        )
        raise b.fault(x, Kind.DESCRIPTOR, text)
    return found


def _check_agreement(b: Builder, x: Unit, facts: tuple) -> None:
    """The four warps of a warpgroup execute the same wgmma with the same operands."""
    group = _group(x)
    if len(group.warps) != 4:
        raise b.fault(x, Kind.DIVERGENCE, "wgmma needs a whole warpgroup of four warps")
    for state in _each_state(x):
        number = state.issued
        state.issued += 1
        expected = group.wgmma_log.setdefault(number, (b.pc, facts))
        if expected != (b.pc, facts):
            b.finding(x, Kind.DESCRIPTOR, "the warps of a warpgroup execute different wgmma", expected[0])
    lowest = min(x.cta.wgmma_states[warp.index].issued for warp in group.warps)
    for number in [n for n in group.wgmma_log if n < lowest]:
        del group.wgmma_log[number]


def _record_reads(b: Builder, x: Unit, a_at: NDArray | None, b_at: NDArray) -> None:
    agent = _agent(x)
    cta, clocks = x.cta, x.cta.machine.clocks
    for warp in x.warps:
        state = cta.wgmma_states[warp.index]
        epoch = len(state.groups) + 1
        access = Access(agent, epoch, clocks.order[warp.row], clocks.visible[warp.row], b.pc, True)
        for found in (a_at, b_at):
            if found is None:
                continue
            granules = (found[:, ::GRANULE] // GRANULE).reshape(-1)
            conflict = cta.shared.shadow.read(access, granules)
            if conflict is not None:
                where = f"shared byte {conflict.granule * GRANULE - SHARED_RESERVED} of cta {cta.index}"
                report_conflict(x, conflict, b.pc, False, where)
    for found in (a_at, b_at):
        if found is not None and not cta.shared.written[found].all():
            missing = int(found[~cta.shared.written[found]][0]) - SHARED_RESERVED
            b.finding(x, Kind.UNINITIALIZED_MEMORY, f"wgmma reads shared byte {missing} and nothing has written it")


def _issue(b: Builder, x: Unit, form: _Form, a_at: NDArray | None, b_at: NDArray, accumulating: bool) -> None:
    """Queue the multiplication; registers and memory are read when it runs."""
    cta, machine = x.cta, x.cta.machine
    first = ROWS_PER_WARP * (x.warps[0].index % 4)
    rows = slice(first, first + ROWS_PER_WARP * len(x.warps))
    words = x.base["b32"]
    d_index = np.array([register.index for register in form.d_registers])
    a_index = np.array([register.index for register in form.a_registers])

    def run() -> None:
        shared = cta.shared.data
        code = FORMATS[form.a_type].code_dtype
        right = shared[b_at].view(FORMATS[form.b_type].code_dtype)
        left = _fragment_a(words, a_index, form, rows) if a_at is None else shared[a_at[rows]].view(code)
        old = _gather_d(words, d_index, form, rows) if accumulating else None
        result = mma.wgmma(
            left,
            right,
            old,
            form.a_type,
            form.b_type,
            form.d_type,
            scale_a=form.negate_a,
            scale_b=form.negate_b,
            saturate=form.saturate,
            exact=machine.exact,
        )
        _scatter_d(words, d_index, form, rows, result)

    operation = machine.issue(
        AsyncOperation(run, f"wgmma of {x.name}", ("wgmma", cta.index, x.warps[0].index // 4), b.pc)
    )
    machine.count("wgmma", len(x.warps))
    for state in _each_state(x):
        state.current.append(operation)
    own_operands(x, form.d_registers, form.a_registers, b.modifiers["shape"], b.pc)


def _thread_rows(rows: slice) -> slice:
    """Threads of the warpgroup that hold some rows: 32 threads hold 16."""
    return slice(rows.start // ROWS_PER_WARP * WARP, rows.stop // ROWS_PER_WARP * WARP)


def _gather_d(words: NDArray, index: NDArray, form: _Form, rows: slice) -> NDArray:
    """The accumulator [rows, n] from the registers."""
    row, column = (part[_thread_rows(rows)] for part in fragments.wgmma_d(form.n))
    held = np.ascontiguousarray(words[index].T)
    values = held.view({"f32": np.float32, "f16": np.float16, "s32": np.int32}[form.d_type])
    result = np.empty((rows.stop - rows.start, form.n), values.dtype)
    result[row - rows.start, column] = values
    return result


def _scatter_d(words: NDArray, index: NDArray, form: _Form, rows: slice, result: NDArray) -> None:
    row, column = (part[_thread_rows(rows)] for part in fragments.wgmma_d(form.n))
    values = np.ascontiguousarray(result[row - rows.start, column])
    words[index] = values.view(np.uint32).T


def _fragment_a(words: NDArray, index: NDArray, form: _Form, rows: slice) -> NDArray:
    """Codes of A [rows, k] from the registers."""
    row, k = (part[_thread_rows(rows)] for part in fragments.wgmma_a(8 * form.element_bytes))
    codes = np.ascontiguousarray(words[index].T).view(FORMATS[form.a_type].code_dtype)
    result = np.empty((rows.stop - rows.start, form.k), codes.dtype)
    result[row - rows.start, k] = codes
    return result
