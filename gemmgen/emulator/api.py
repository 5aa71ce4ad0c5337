"""``emulate``: run a kernel's PTX on the emulator."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from gemmgen.emulator.machine.layout import lay_out
from gemmgen.emulator.machine.machine import Machine
from gemmgen.emulator.machine.memory import GlobalMemory
from gemmgen.emulator.machine.scheduler import make_policy
from gemmgen.emulator.ops.builder import compile_blocks
from gemmgen.emulator.ptx import ast
from gemmgen.emulator.ptx.parser import parse
from gemmgen.emulator.ptx.program import Program, decode
from gemmgen.emulator.report import Recorder, Report
from gemmgen.emulator.tensor_map import TensorMap
from gemmgen.errors import EmulationError

NUMERICS = ("hardware", "fp32")
MAX_THREADS = 1024
MAX_CLUSTER = 16
_SCALARS = {"u8": "B", "s8": "b", "b8": "B", "u16": "H", "s16": "h", "b16": "H", "u32": "I", "s32": "i", "b32": "I"}
_SCALARS |= {"u64": "Q", "s64": "q", "b64": "Q", "f32": "f", "f64": "d"}
Dims = int | Sequence[int]


class Uninitialized:
    """A global buffer argument whose contents count as not written: reading it before writing is a finding.

    Args:
        array: the numpy array, filled with NaN or garbage by the caller and written in place by the kernel.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array


def emulate(
    ptx: str,
    entry: str | None,
    grid: Dims,
    block: Dims,
    cluster: Dims,
    smem_bytes: int,
    params: Sequence[Any],
    *,
    seed: int = 0,
    schedule: str = "fifo",
    numerics: str = "hardware",
    source: str | None = None,
    num_sms: int = 132,
) -> Report:
    """Execute one launch of a kernel.

    Args:
        ptx: the module's text.
        entry: kernel name; None where the module has one kernel.
        grid: CTAs in x, y, z; an int means x.
        block: threads in x, y, z.
        cluster: CTAs of a cluster in x, y, z; the grid must be divisible by it.
        smem_bytes: dynamic shared memory per CTA.
        params: one per kernel parameter: a number, a numpy array or ``Uninitialized`` (its device pointer, memory changed
            in place), or a ``TensorMap``. The same array may appear several times.
        seed: of the scheduler.
        schedule: ``fifo``, ``random`` or ``adversarial``.
        numerics: ``hardware`` (the tensor cores' accumulation rule) or ``fp32`` (exact products, one rounding).
        source: the CUDA source, whose ``// ir: …`` comments then appear in findings.
        num_sms: number of SMs the kernel sees.

    Returns:
        The report; ``report.ok`` says that the launch completed and nothing was found.

    Raises:
        EmulationError: the PTX or the launch is malformed or uses something the emulator does not know.
    """
    if numerics not in NUMERICS:
        raise EmulationError("unknown numerics", where="numerics", got=numerics, need=" | ".join(NUMERICS))
    policy = make_policy(schedule, seed)
    program = load(ptx, entry)
    dims = _check_dims(program, _triple(grid, "grid"), _triple(block, "block"), _triple(cluster, "cluster"))
    memory = GlobalMemory()
    block_bytes = _bind(program, memory, params)
    layout = lay_out(program, memory, smem_bytes, block_bytes)
    report = Report(seed=seed, schedule=schedule)
    recorder = Recorder(program, source, report)
    machine = Machine(program, layout, memory, dims, policy, recorder, exact=numerics == "fp32", num_sms=num_sms)
    machine.blocks = compile_blocks(machine)
    machine.run()
    return report


@lru_cache(maxsize=8)
def load(ptx: str, entry: str | None) -> Program:
    """Parse and decode a kernel; the last few are kept."""
    module: ast.Module = parse(ptx)
    return decode(module, entry, ptx)


def _triple(value: Dims, where: str) -> tuple[int, int, int]:
    values = (value,) if isinstance(value, (int, np.integer)) else tuple(value)
    if not 1 <= len(values) <= 3 or any(not isinstance(v, (int, np.integer)) or v < 1 for v in values):
        raise EmulationError("not one to three positive extents", where=where, got=value)
    padded = (*(int(v) for v in values), 1, 1)
    return padded[0], padded[1], padded[2]


def _check_dims(
    program: Program, grid: tuple[int, int, int], block: tuple[int, int, int], cluster: tuple[int, int, int]
) -> tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]:
    threads = int(np.prod(block))
    if threads > MAX_THREADS:
        raise EmulationError("too many threads in a CTA", where="block", got=threads, need=f"at most {MAX_THREADS}")
    for name, wrong in (("reqntid", lambda n: n != threads), ("maxntid", lambda n: threads > n)):
        if name in program.performance and wrong(int(np.prod(program.performance[name]))):
            raise EmulationError(f"the kernel's .{name} forbids this block", where="block", got=block, need=program.performance[name])
    required = program.performance.get("reqnctapercluster")
    if required and tuple((*required, 1, 1)[:3]) != cluster:
        raise EmulationError("the kernel requires another cluster", where="cluster", got=cluster, need=required)
    if int(np.prod(cluster)) > MAX_CLUSTER or any(g % c for g, c in zip(grid, cluster, strict=True)):
        raise EmulationError("the grid is not a whole number of clusters", where="cluster", got=f"grid {grid}, cluster {cluster}")
    return grid, block, cluster


def _bind(program: Program, memory: GlobalMemory, params: Sequence[Any]) -> np.ndarray:
    """The parameter block for the given arguments; arrays are mapped into global memory."""
    if len(params) != len(program.params):
        names = ", ".join(p.name for p in program.params)
        raise EmulationError("wrong number of parameters", where="params", got=len(params), need=f"{len(program.params)}: {names}")
    offsets = program.param_offsets
    end = max((offsets[p.name] + p.size for p in program.params), default=0)
    data = np.zeros(end, np.uint8)
    mapped: dict[int, int] = {}
    for param, value in zip(program.params, params, strict=True):
        raw = _encode(param, value, memory, mapped)
        data[offsets[param.name] : offsets[param.name] + param.size] = np.frombuffer(raw, np.uint8)
    return data


def _encode(param: ast.Param, value: Any, memory: GlobalMemory, mapped: dict[int, int]) -> bytes:
    if isinstance(value, TensorMap):
        if param.size != 128:
            raise EmulationError("a tensor map for a parameter of another size", where=param.name, got=f"{param.size} bytes", need=128)
        return value.encode(_map_array(param.name, value.array, memory, mapped), param.name)
    if isinstance(value, (np.ndarray, Uninitialized)):
        if param.size != 8:
            raise EmulationError("an array for a parameter that is not a pointer", where=param.name, got=f"{param.size} bytes", need=8)
        return struct.pack("<Q", _map_array(param.name, value, memory, mapped))
    if isinstance(value, (bytes, bytearray)):
        if len(value) != param.size:
            raise EmulationError("bytes of another length than the parameter", where=param.name, got=len(value), need=param.size)
        return bytes(value)
    if param.type not in _SCALARS or param.size not in (1, 2, 4, 8):
        raise EmulationError("a number for a parameter that is not a scalar", where=param.name, got=value)
    try:
        code = _SCALARS[param.type]
        if code not in "fd":
            value = int(value)
            bits = 8 * param.size
            if not -(1 << (bits - 1)) <= value < 1 << bits:
                raise struct.error("out of range")
            return (value & ((1 << bits) - 1)).to_bytes(param.size, "little")
        return struct.pack(f"<{code}", float(value))
    except (struct.error, TypeError, ValueError) as error:
        raise EmulationError("the value does not fit the parameter", where=param.name, got=repr(value), need=param.type) from error


def _map_array(name: str, value: Any, memory: GlobalMemory, mapped: dict[int, int]) -> int:
    array = value.array if isinstance(value, Uninitialized) else value
    if not isinstance(array, np.ndarray):
        raise EmulationError("not a numpy array", where=name, got=type(array).__name__)
    address = array.__array_interface__["data"][0]
    if address not in mapped:
        if not array.flags.c_contiguous:
            raise EmulationError("the array is not contiguous", where=name, fix="pass the whole base array")
        flat = array.reshape(-1).view(np.uint8)
        granule = min(array.dtype.itemsize, 4)
        buffer = memory.add(name, flat, granule, uninitialized=isinstance(value, Uninitialized), readonly=not flat.flags.writeable)
        mapped[address] = buffer.base
    return mapped[address]
