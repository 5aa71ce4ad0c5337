"""What the Hopper model says about the kernel that serves a shape: predicted time, floor, traffic, occupied resources.

Predicted times are those of ``heuristics.prediction``. Cycles are counted from the schedule and the generated module at
the units' data-sheet rates.
"""

from __future__ import annotations

import math

from gemmgen.backends.capability import Capability
from gemmgen.backends.model import Candidate, Floor, KernelModel, Launch, Prediction, Resource, Role, Traffic
from gemmgen.backends.sm90 import hardware as hw
from gemmgen.backends.sm90 import heuristics
from gemmgen.backends.sm90.launch import launch_plan
from gemmgen.backends.sm90.ops import CopyScalesOp, SetRegistersOp, SyncOp, TmaLoadOp, TmaLoadScalesOp
from gemmgen.backends.sm90.sites import Program, landing_bytes
from gemmgen.ir.core import Module
from gemmgen.schedule import Schedule
from gemmgen.spec.model import GemmSpec
from gemmgen.spec.vocabulary import DTYPES

BASIS = {
    1: "times by a model fitted to sweeps on one H200 (docs/performance.md has how far off it is), cycles at "
    "data-sheet rates and 1.83 GHz",
    2: "times by a model fitted to FP8 on one H200 and carried over to 16 bits unmeasured, cycles at data-sheet rates "
    "and 1.83 GHz",
}
"""What the predictions rest on, by bytes of an element."""
RUNNERS_UP = 5

COPY_BYTES_PER_US = 4.26e6
"""What a device-to-device copy reaches on that H200 (``benchmarks/baseline/h200_peers.json``, row ``copy``)."""
FLOPS_PER_US = {1: 1.29e9, 2: 0.685e9}
"""What cuBLASLt reached there, by bytes of an element (same file, ``cublas_fp8_tensorwise``, ``cublas_bf16``)."""
RESTED = {1: 1.15, 2: 1.0}
"""How many times that a chip does for a while that has rested: measured for FP8 (``docs/performance.md``), not for 16
bits."""
FIXED_COST_US = 1.6
"""What a launch of anything costs there."""

MAC_BYTES_PER_CYCLE = 4096
"""Products per SM and cycle, times bytes of an element: 4,096 products of FP8, 2,048 of 16 bits."""
CLOCK_CYCLES_PER_US = 1830
"""The clock at which that rate is the data sheet's 1,979 TFLOP/s. The power limiter often sets a lower one."""
SHARED_BYTES_PER_CYCLE = 128
"""Shared memory's 32 banks of 4 bytes. That reads and arriving loads share them fits the sweep, see
``docs/performance.md``."""
INGRESS_BYTES_PER_CYCLE = 64
"""What an SM takes in from L2 (``docs/performance.md``)."""
FMA_PER_CYCLE = 128
"""FP32 lanes of an SM."""
MAX_THREADS_PER_SM = 2048


def describe(
    spec: GemmSpec, m: int, schedule: Schedule, module: Module, target: Capability, scale_copy: str
) -> KernelModel:
    """The model of one kernel of a spec's plan.

    Args:
        spec: N and K fixed; a fixed M has a plan of its own.
        m: rows of the problem.
        schedule: the kernel that the plan has for them.
        module: the kernel as a target-level module.
        target: what the hardware can do.
        scale_copy: how row scales reach shared memory, see ``Schedule``.
    """
    n, k = (int(spec.problem.dims[name]) for name in ("N", "K"))
    operands = heuristics.Operands.of(spec)
    deciding_m = m if isinstance(spec.problem.dims["M"], int) else heuristics.M_RANGES.deciding(m)
    ranked = heuristics.ranked(spec.schedule, deciding_m, n, k, target, scale_copy, operands)
    best = [schedule, *[other for _, other in ranked if other != schedule][:RUNNERS_UP]]
    predicted = heuristics.prediction(schedule, m, n, k, target)
    program = Program.of(module)
    plan = launch_plan(module)
    launch = Launch(plan.grid(m, n, target.sms), plan.cluster, plan.threads, plan.smem_bytes, schedule.stages)
    found = traffic(program, schedule, predicted, k)
    held = roles(program)
    promoted = spec.accumulate.promote_every is not None
    return KernelModel(
        basis=BASIS[operands.item_bytes],
        deciding_m=deciding_m,
        considered=len(ranked),
        candidates=tuple(
            Candidate(s, *(heuristics.predict(s, rows, n, k, target) for rows in (deciding_m, m))) for s in best
        ),
        prediction=predicted,
        floor=floor(m, n, k, operands.item_bytes, DTYPES[spec.operands.d.dtype].bits // 8),
        launch=launch,
        traffic=found,
        roles=held,
        step_cycles=predicted.step_us * CLOCK_CYCLES_PER_US,
        resources=(
            _device_memory(predicted),
            *(_engine(name, cycles, predicted) for name, cycles in step_cycles(schedule, found, promoted).items()),
            *_spaces(launch, held, predicted, target),
        ),
    )


def floor(m: int, n: int, k: int, item_bytes: int, d_item_bytes: int) -> Floor:
    """The time below which an H200 cannot go; scales are not counted, as in the recorded figures of the peers."""
    num_bytes = (m * k + n * k) * item_bytes + m * n * d_item_bytes
    compute = 2 * m * n * k / FLOPS_PER_US[item_bytes]
    return Floor(num_bytes / COPY_BYTES_PER_US, compute, FIXED_COST_US, RESTED[item_bytes])


def step_cycles(schedule: Schedule, loaded: Traffic, promoted: bool) -> dict[str, float]:
    """Cycles of each engine of an SM that a CTA's step of K keeps busy, every engine at its full rate.

    Args:
        schedule: the kernel's schedule.
        loaded: what a step loads.
        promoted: each step's partial sum is added up on the FP32 lanes.
    """
    read = operand_read_bytes(schedule)
    cycles = {
        "tensor core": mma_cycles(schedule),
        "shared memory, read by wgmma": read / SHARED_BYTES_PER_CYCLE,
        "shared memory, reads and loads": (read + loaded.landing_step_bytes) / SHARED_BYTES_PER_CYCLE,
        "L2 to SM": loaded.landing_step_bytes / INGRESS_BYTES_PER_CYCLE,
    }
    if promoted:
        rows, columns = heuristics.rows_and_columns(schedule)
        cycles["FP32 lanes, promotion"] = rows * columns / FMA_PER_CYCLE
    return cycles


def mma_cycles(schedule: Schedule) -> float:
    """Cycles in which the tensor cores multiply a step: as many for 16 bits as for FP8, whose step has twice the K."""
    rows, columns = heuristics.rows_and_columns(schedule)
    return rows * columns * heuristics.STEP_BYTES / MAC_BYTES_PER_CYCLE


def operand_read_bytes(schedule: Schedule) -> int:
    """Bytes that a step's wgmma read from shared memory: each its 64 rows of one operand and all of the other."""
    rows, columns = heuristics.rows_and_columns(schedule)
    products = rows // hw.WGMMA_ROWS * heuristics.STEP_BYTES // hw.MMA_K_BYTES
    return products * (hw.WGMMA_ROWS + columns) * hw.MMA_K_BYTES


def traffic(program: Program, schedule: Schedule, predicted: Prediction, k: int, gathered_bytes: int = 0) -> Traffic:
    """What the kernel loads, from its load ops; K's extent is ``k``.

    ``gathered_bytes``: what ops of the target's own load in a step.
    """
    loads = [op for _, op in program.all(TmaLoadOp)]
    row_scales = [op for _, op in program.all(TmaLoadScalesOp)]
    scales = gathered_bytes + sum(op.count * hw.SCALE_BYTES for _, op in program.all(CopyScalesOp))
    landing = sum(landing_bytes(op) for op in (*loads, *row_scales)) + scales
    read = sum(landing_bytes(op) // op.multicast for op in (*loads, *row_scales)) + scales
    rounds, flight = predicted.rounds, landing * schedule.stages
    steps = -(-k // schedule.tile[2])
    return Traffic(
        l2_step_bytes=read,
        landing_step_bytes=landing,
        l2_launch_bytes=math.prod(rounds.tiles) * steps * read,
        flight_cta_bytes=flight,
        flight_bytes=flight * min(rounds.ctas, rounds.at_once),
    )


def roles(program: Program) -> tuple[Role, ...]:
    """The warps of a CTA by role, with the registers that ``setmaxnreg`` gives them or the launch could."""
    most = hw.launch_registers(program.launch.threads)
    set_by = {id(site.role): op.count for site, op in program.all(SetRegistersOp)}
    found = {id(site.role): site.role for site in program.sites if site.role is not None}
    return tuple(
        Role(role.label, role.count, set_by.get(key, most), exact=key in set_by)
        for key, role in found.items()
        if not all(isinstance(op, SyncOp) for op in role.body.ops)
    )


def _device_memory(predicted: Prediction) -> Resource:
    """Device memory at the bandwidth that the model was fitted with."""
    return Resource("device memory", predicted.memory_us, predicted.total_us, "µs")


def _engine(name: str, cycles: float, predicted: Prediction) -> Resource:
    """One engine of the SM that makes most steps."""
    busy = predicted.steps_per_cta * cycles / CLOCK_CYCLES_PER_US
    return Resource(name, busy, predicted.total_us, "µs", cycles)


def _spaces(launch: Launch, held: tuple[Role, ...], predicted: Prediction, target: Capability) -> tuple[Resource, ...]:
    """What the launch takes of the GPU's SMs, and a CTA of its SM."""
    rounds = predicted.rounds
    registers = min(sum(role.warps * role.registers for role in held) * hw.WARP_THREADS, target.registers_per_sm)
    return (
        Resource("SMs, over all rounds", rounds.ctas, rounds.count * target.sms, "CTAs"),
        Resource("shared memory", launch.smem_bytes, target.smem_per_cta, "B"),
        Resource("registers", registers, target.registers_per_sm, "per SM"),
        Resource("threads", launch.threads, MAX_THREADS_PER_SM, "per SM"),
    )
