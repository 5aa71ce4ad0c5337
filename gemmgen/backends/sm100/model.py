"""What the static model says about the kernel that serves a shape. Nothing in it was measured on Blackwell.

Times are those of ``costs.prediction``; cycles are counted from the schedule and the generated module at the
units' data-sheet rates.
"""

from __future__ import annotations

from gemmgen.backends.capability import Capability
from gemmgen.backends.model import Candidate, Floor, KernelModel, Launch, Prediction, Resource, Role
from gemmgen.backends.sm90.hardware import WARP_THREADS
from gemmgen.backends.sm90.model import MAX_THREADS_PER_SM, RUNNERS_UP, roles, traffic
from gemmgen.backends.sm90.sites import Program
from gemmgen.backends.sm100 import costs, heuristics
from gemmgen.backends.sm100 import hardware as hw
from gemmgen.backends.sm100.launch import launch_plan
from gemmgen.backends.sm100.ops import GatherScalesOp, TmemAllocOp
from gemmgen.ir.core import Module
from gemmgen.schedule import Schedule
from gemmgen.spec.model import GemmSpec
from gemmgen.spec.vocabulary import DTYPES

BASIS = "a static model of data-sheet rates at 1.85 GHz; nothing was measured on Blackwell"
FLOP_BYTES_PER_US = 4.5e9
"""FP8 at the data sheet's 4.5 PFLOP/s; 16 bits at half of it."""


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
    operands = costs.Operands.of(spec)
    deciding_m = m if isinstance(spec.problem.dims["M"], int) else heuristics.M_RANGES.deciding(m)
    ranked = heuristics.ranked(spec.schedule, deciding_m, n, k, target, scale_copy, operands)
    best = [schedule, *[other for _, other in ranked if other != schedule][:RUNNERS_UP]]
    predicted = costs.prediction(schedule, m, n, k, target, operands)
    program, plan = Program.of(module), launch_plan(module)
    launch = Launch(plan.grid(m, n, target.sms), plan.cluster, plan.threads, plan.smem_bytes, schedule.stages)
    held = roles(program)
    gathered = sum(op.groups * hw.SCALE_GROUP_BYTES for _, op in program.all(GatherScalesOp))
    step = costs.model_step(schedule, operands)
    return KernelModel(
        basis=BASIS,
        deciding_m=deciding_m,
        considered=len(ranked),
        candidates=tuple(
            Candidate(s, *(heuristics.predict(s, rows, n, k, target, operands) for rows in (deciding_m, m)))
            for s in best
        ),
        prediction=predicted,
        floor=_floor(m, n, k, operands.item_bytes, DTYPES[spec.operands.d.dtype].bits // 8),
        launch=launch,
        traffic=traffic(program, schedule, predicted, k, gathered),
        roles=held,
        step_cycles=step.cycles,
        resources=(
            Resource("device memory", predicted.memory_us, predicted.total_us, "µs"),
            *(_engine(name, cycles, bytes_, predicted) for name, cycles, bytes_ in _engines(step)),
            *_spaces(program, launch, held, predicted, target),
        ),
    )


def _engines(step: costs.StepModel) -> list[tuple[str, float, int | None]]:
    """Each engine of an SM that a step keeps busy: its name, cycles, and the bytes that it moves."""
    engines: list[tuple[str, float, int | None]] = [
        ("tensor core", step.mma_cycles, None),
        ("shared memory, read by tcgen05.mma", step.shared_cycles, step.shared_bytes),
        ("L2, operands and scales", step.l2_cycles, step.l2_bytes),
    ]
    tmem_cycles = step.tmem_bytes / costs.WORD_BYTES / costs.TMEM_LOAD_WORDS_PER_CYCLE
    if step.promotion_cycles:
        engines.append(("tensor memory, partial sums", tmem_cycles, step.tmem_bytes))
        engines.append(("CUDA cores, promotion out of tensor memory", step.promotion_cycles, None))
    elif step.tmem_bytes:
        engines.append(("tensor memory, scales", tmem_cycles, step.tmem_bytes))
    return engines


def _engine(name: str, cycles: float, bytes_: int | None, predicted: Prediction) -> Resource:
    """One engine of the SM that makes most steps."""
    busy = predicted.steps_per_cta * cycles / costs.CYCLES_PER_US
    return Resource(name, busy, predicted.total_us, "µs", cycles, bytes_)


def _floor(m: int, n: int, k: int, item_bytes: int, d_item_bytes: int) -> Floor:
    """The time below which the data sheet's rates cannot go."""
    num_bytes = (m * k + n * k) * item_bytes + m * n * d_item_bytes
    compute = 2 * m * n * k * item_bytes / FLOP_BYTES_PER_US
    return Floor(num_bytes / costs.DRAM_BYTES_PER_US, compute, costs.LAUNCH_US)


def _spaces(
    program: Program, launch: Launch, held: tuple[Role, ...], predicted: Prediction, target: Capability
) -> tuple[Resource, ...]:
    """What the launch takes of the GPU's SMs, and a CTA of its SM."""
    rounds = predicted.rounds
    registers = min(sum(role.warps * role.registers for role in held) * WARP_THREADS, target.registers_per_sm)
    columns = sum(op.columns for _, op in program.all(TmemAllocOp))
    return (
        Resource("SMs, over all rounds", rounds.ctas, rounds.count * target.sms, "CTAs"),
        Resource("shared memory", launch.smem_bytes, target.smem_per_cta, "B"),
        Resource("tensor memory", columns, target.tensor_memory_columns, "columns"),
        Resource("registers", registers, target.registers_per_sm, "per SM"),
        Resource("threads", launch.threads, MAX_THREADS_PER_SM, "per SM"),
    )
