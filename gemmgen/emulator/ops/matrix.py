"""ldmatrix, stmatrix and movmatrix: 8x8 matrices between shared memory and the lanes of a warp."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.machine import access
from gemmgen.emulator.machine.memory import MemoryFault
from gemmgen.emulator.machine.unit import WARP, Wait
from gemmgen.emulator.numerics.fragments import matrix_8x8
from gemmgen.emulator.ops.builder import Builder, Step, builds
from gemmgen.emulator.ops.warp import require_converged

if TYPE_CHECKING:
    from gemmgen.emulator.machine.unit import Unit

ROW_BYTES = 16


def _count(b: Builder) -> int:
    return int(b.modifiers["count"][1:])


def _transfer(
    b: Builder, x: Unit, address: Callable[[Unit], NDArray], matrices: int, rows: NDArray | None
) -> NDArray | None:
    """Read or write the 16-byte rows that lanes 0 to 8·matrices−1 of each warp address."""
    lanes = np.tile(np.arange(WARP) < 8 * matrices, x.width // WARP)
    outer = x.mask
    where, full = x.where, x.full
    x.mask = outer & lanes
    try:
        if rows is None:
            return access.load(x, "shared", address(x), ROW_BYTES, b.pc)
        access.store(x, "shared", address(x), rows, b.pc)
        return None
    except MemoryFault as fault:
        raise b.fault(x, fault.kind, str(fault)) from None
    finally:
        x.mask, x.where, x.full = outer, where, full


def _require_16_bit(b: Builder) -> None:
    if b.modifiers["shape"] != "m8n8":
        raise b.error("only the .m8n8 .b16 forms are modelled")


@builds("mem.stmatrix")
def _stmatrix(b: Builder) -> Step:
    _require_16_bit(b)
    b.expect(2)
    count = _count(b)
    address = b.address(0)
    keys = [b.source(item, "b32") for item in b.vector(1, count)]
    row, column = matrix_8x8("trans" in b.modifiers)

    def step(x: Unit) -> Wait | None:
        waiting = require_converged(b, x)
        if waiting is not None:
            return waiting
        warps = x.width // WARP
        data = np.zeros((warps, WARP // 8, 8, 8), np.uint16)
        for matrix, key in enumerate(keys):
            halves = np.broadcast_to(x.u32[key], (x.width,)).copy().view(np.uint16).reshape(warps, WARP, 2)
            data[:, matrix, row, column] = halves
        _transfer(b, x, address, count, data.reshape(x.width, 8).view(np.uint8))
        x.sync_warps()
        return None

    return step


@builds("mem.ldmatrix")
def _ldmatrix(b: Builder) -> Step:
    _require_16_bit(b)
    b.expect(2)
    count = _count(b)
    address = b.address(1)
    keys = [b.destination(item, "b32") for item in b.vector(0, count)]
    row, column = matrix_8x8("trans" in b.modifiers)

    def step(x: Unit) -> Wait | None:
        waiting = require_converged(b, x)
        if waiting is not None:
            return waiting
        loaded = _transfer(b, x, address, count, None)
        assert loaded is not None
        data = loaded.view(np.uint16).reshape(x.width // WARP, WARP // 8, 8, 8)
        for matrix, key in enumerate(keys):
            halves = np.ascontiguousarray(data[:, matrix, row, column])
            np.copyto(x.u32[key], halves.view(np.uint32).reshape(x.width), where=x.where)
        x.sync_warps()
        return None

    return step


@builds("mem.movmatrix")
def _movmatrix(b: Builder) -> Step:
    b.expect(2)
    d, source = b.destination(0, "b32"), b.source(1, "b32")
    row, column = matrix_8x8()

    def step(x: Unit) -> Wait | None:
        waiting = require_converged(b, x)
        if waiting is not None:
            return waiting
        warps = x.width // WARP
        matrix = np.zeros((warps, 8, 8), np.uint16)
        matrix[:, row, column] = (
            np.broadcast_to(x.u32[source], (x.width,)).copy().view(np.uint16).reshape(warps, WARP, 2)
        )
        halves = np.ascontiguousarray(matrix[:, column, row])
        np.copyto(x.u32[d], halves.view(np.uint32).reshape(x.width), where=x.where)
        return None

    return step
