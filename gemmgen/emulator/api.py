"""``emulate``: run a kernel's PTX on the emulator."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from gemmgen.emulator.arguments import Arguments
from gemmgen.emulator.machine.layout import lay_out
from gemmgen.emulator.machine.machine import DEFAULT_MAX_INSTRUCTIONS, Machine
from gemmgen.emulator.machine.memory import GlobalMemory
from gemmgen.emulator.machine.scheduler import make_policy
from gemmgen.emulator.ops.builder import compile_blocks
from gemmgen.emulator.ptx import ast
from gemmgen.emulator.ptx.parser import parse
from gemmgen.emulator.ptx.program import Program, decode
from gemmgen.emulator.report import Recorder, Report
from gemmgen.errors import EmulationError

NUMERICS = ("hardware", "fp32")
MAX_THREADS = 1024
MAX_CLUSTER = 16
Dims = int | Sequence[int]


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
    max_instructions: int = DEFAULT_MAX_INSTRUCTIONS,
) -> Report:
    """Execute one launch of a kernel.

    Args:
        ptx: the module's text.
        entry: kernel name; None where the module has one kernel.
        grid: CTAs in x, y, z; an int means x.
        block: threads in x, y, z.
        cluster: CTAs of a cluster in x, y, z; the grid must be divisible by it.
        smem_bytes: dynamic shared memory per CTA.
        params: one per kernel parameter: a number, a numpy array or ``Uninitialized`` (its device pointer, memory
            changed in place), or a ``TensorMap``. The same array may appear several times.
        seed: of the scheduler.
        schedule: ``fifo``, ``random`` or ``adversarial``.
        numerics: ``hardware`` (the tensor cores' accumulation rule) or ``fp32`` (exact products, one rounding).
        source: the CUDA source, whose ``// … [op]`` comments then name the IR op in findings.
        num_sms: number of SMs the kernel sees.
        max_instructions: warp instructions after which the launch is given up as endless (a ``livelock``).

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
    block_bytes = Arguments(memory).bind(program, params)
    layout = lay_out(program, memory, smem_bytes, block_bytes)
    report = Report(seed=seed, schedule=schedule)
    recorder = Recorder(program, source, report)
    exact = numerics == "fp32"
    machine = Machine(
        program, layout, memory, dims, policy, recorder, exact=exact, num_sms=num_sms, max_instructions=max_instructions
    )
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
            raise EmulationError(
                f"the kernel's .{name} forbids this block", where="block", got=block, need=program.performance[name]
            )
    required = program.performance.get("reqnctapercluster")
    if required and tuple((*required, 1, 1)[:3]) != cluster:
        raise EmulationError("the kernel requires another cluster", where="cluster", got=cluster, need=required)
    if int(np.prod(cluster)) > MAX_CLUSTER or any(g % c for g, c in zip(grid, cluster, strict=True)):
        raise EmulationError(
            "the grid is not a whole number of clusters", where="cluster", got=f"grid {grid}, cluster {cluster}"
        )
    return grid, block, cluster
