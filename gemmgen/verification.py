"""Verifying kernels without a GPU: quantised random inputs, the emulator, an FP32 reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gemmgen.emulator.plan import emulate_plan
from gemmgen.emulator.report import Report
from gemmgen.errors import ArgumentError
from gemmgen.kernel import Kernel
from gemmgen.kernel_args import GemmSignature, check_presence
from gemmgen.plan import Variant
from gemmgen.quantization import QuantizedTensor, block_counts, quantize
from gemmgen.reference import gemm_reference, relative_difference, tolerance
from gemmgen.runtime.dtypes import PACKED_SCALES, TORCH_NAMES, numpy_dtype
from gemmgen.runtime.tensors import is_torch_tensor, read_numpy
from gemmgen.scale_args import check_scale, scale_copy_of
from gemmgen.scales import UE8M0, expand_blocks
from gemmgen.spec import GemmSpec, Operand
from gemmgen.spec.model import Scale
from gemmgen.spec.vocabulary import DYNAMIC, rows_contiguous
from gemmgen.tuning.file import TunedFile

SCHEDULES = ("fifo", "random", "adversarial")
DEFAULT_DIMS = {"M": 72, "N": 200, "K": 464}
"""A problem with a tail in every dimension, for dimensions that nobody gives."""
DEFAULT_SMS = 4
"""SMs that the emulated grid is made for: few, so that a CTA visits several tiles."""
PITCH_BYTES = 16


@dataclass(frozen=True)
class Check:
    """One emulated launch.

    Attributes:
        report: what the emulator found.
        difference: ``1 - 2<x, y> / (|x|² + |y|²)`` against the FP32 reference.
        tolerance: what the difference must stay below.
    """

    report: Report
    difference: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """The values are right and nothing was found; False for NaN."""
        return self.report.ok and self.difference < self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "ok": self.ok, "schedule": self.report.schedule, "seed": self.report.seed, "difference": self.difference,
            "tolerance": self.tolerance, "completed": self.report.completed,
            "instructions": self.report.instructions, "findings": [f.as_dict() for f in self.report.findings],
        }  # fmt: skip


@dataclass
class Verification:
    """Every check of one kernel.

    Attributes:
        spec: what was verified, N and K fixed.
        m: rows of the problem.
        target: architecture.
        variant: the kernel of the plan that serves the problem.
        checks: one per seed and schedule.
    """

    spec: GemmSpec
    m: int
    target: str
    variant: Variant
    checks: list[Check] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """At least one check ran, and all passed."""
        return bool(self.checks) and all(check.ok for check in self.checks)


def emulate_call(
    kernel: Kernel,
    a: Any,
    sa: Any,
    b: Any,
    sb: Any,
    *,
    seed: int = 0,
    schedule: str = "fifo",
    numerics: str = "hardware",
    num_sms: int = DEFAULT_SMS,
) -> tuple[np.ndarray, Report]:
    """Run a kernel's PTX on the emulator, with the operands of a call.

    Args:
        kernel: the compiled spec.
        a: ``[M, K]``, NumPy or torch on the CPU; ``[K, M]`` in layouts TN and TT.
        sa: its scales, or None.
        b: ``[N, K]``; ``[K, N]`` in layouts NN and TN.
        sb: its scales, or None.
        seed: of the emulator's scheduler.
        schedule: ``fifo``, ``random`` or ``adversarial``.
        numerics: ``hardware`` or ``fp32``.
        num_sms: SMs that the grid is made for.

    Returns:
        D, ``[M, N]``, and the report.

    Raises:
        ArgumentError: an operand is missing, or has another shape or, if it is a scale, another type.
        EmulationError: the kernel uses something the emulator does not know.
    """
    given = {"a": a, "sa": sa, "b": b, "sb": sb}
    signature = GemmSignature.of(kernel.spec)
    check_presence(signature, given)
    arrays = {name: _as_numpy(name, value) for name, value in given.items() if value is not None}
    m, k, n, other_k = signature.sizes(arrays["a"].shape, arrays["b"].shape)
    if other_k != k:
        raise ArgumentError("K differs", where="b", got=other_k, need=f"{k}, as in a",
                            fix=f"pass b as [{', '.join(signature.dims_of('b'))}]")  # fmt: skip
    scale_copy = _check_scales(signature, arrays, (m, n, k))
    dtype = numpy_dtype(kernel.spec.operands.d.dtype)
    pitch = -(-n * dtype.itemsize // PITCH_BYTES) * PITCH_BYTES // dtype.itemsize
    out = np.zeros((m, pitch), dtype)[:, :n]
    if m == 0 or n == 0 or k == 0:
        return out, Report(completed=True, seed=seed, schedule=schedule)
    variant = kernel.plan(N=n, K=k, scale_copy=scale_copy).variant_for(m)
    binary = variant.binary(kernel.strict)
    report = emulate_plan(binary.launch, binary.ptx, {**arrays, "d": out}, (m, n, k), seed=seed, schedule=schedule,
                          numerics=numerics, num_sms=num_sms, source=binary.source)  # fmt: skip
    return out, report


def verify(
    spec: GemmSpec,
    m: int,
    target: str,
    *,
    seeds: int = 1,
    first_seed: int = 0,
    schedules: Sequence[str] = SCHEDULES,
    numerics: str = "hardware",
    num_sms: int = DEFAULT_SMS,
    scale_layout: str = "mn",
    tuned: TunedFile | None = None,
) -> Iterator[Verification]:
    """Verify the kernel that serves a problem; yields the verification after every check, for progress.

    Args:
        spec: N and K fixed.
        m: rows of the problem.
        target: architecture.
        seeds: launches per schedule, each seed with fresh inputs.
        first_seed: the first of the seeds.
        schedules: the emulator's schedulers.
        numerics: ``hardware`` or ``fp32``.
        num_sms: SMs that the grid is made for.
        scale_layout: ``mn`` or ``k``, the order of row scales; they reach the kernel in different ways.
        tuned: measured schedules to use.
    """
    kernel = Kernel(spec, target, tuned=tuned)
    n, k = (int(spec.problem.dims[name]) for name in ("N", "K"))
    (_, sa), (_, sb) = random_operands(spec, (m, n, k), 0, scale_layout)
    scales = {name: scale for name, scale in (("sa", sa), ("sb", sb)) if scale is not None}
    scale_copy = _check_scales(GemmSignature.of(spec), scales, (m, n, k))
    done = Verification(spec, m, target, kernel.plan(scale_copy=scale_copy).variant_for(m))
    allowed = tolerance(spec, target)
    for seed in range(first_seed, first_seed + seeds):
        (a, sa), (b, sb) = random_operands(spec, (m, n, k), seed, scale_layout)
        plain = dequantized(spec, "a", a, sa), dequantized(spec, "b", b, sb)
        expected = gemm_reference(*plain, spec.problem.layout)
        for schedule in schedules:
            found, report = emulate_call(kernel, a, sa, b, sb, seed=seed, schedule=schedule, numerics=numerics,
                                         num_sms=num_sms)  # fmt: skip
            done.checks.append(Check(report, relative_difference(found.astype(np.float32), expected), allowed))
            yield done


def with_default_dims(spec: GemmSpec, given: Mapping[str, int]) -> dict[str, int]:
    """The dimensions given, and a small problem with a tail in each for those still dynamic."""
    free = {name: DEFAULT_DIMS[name] for name, size in spec.problem.dims.items() if size == DYNAMIC}
    return {**free, **given}


def random_operands(
    spec: GemmSpec,
    sizes: tuple[int, int, int],
    seed: int,
    scale_layout: str = "mn",
    change: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[tuple[np.ndarray, np.ndarray | None], tuple[np.ndarray, np.ndarray | None]]:
    """Random A and B as the spec stores them, each with its scales.

    Where scales are powers of two, neighbouring blocks differ by several of them.

    Args:
        spec: says element types and scale blocks.
        sizes: M, N and K.
        seed: of NumPy's generator.
        scale_layout: ``mn`` or ``k``, the order of scales.
        change: applied to the normally distributed f32 values before they are quantised.
    """
    m, n, k = sizes
    generator = np.random.default_rng(seed)
    made = []
    for name, rows in (("a", m), ("b", n)):
        operand: Operand = getattr(spec.operands, name)
        values = generator.standard_normal((rows, k), np.float32)
        if operand.scale is not None and operand.scale.format == UE8M0:
            values *= block_factors(operand.scale, (rows, k), generator)
        values = change(values) if change else values
        if operand.scale is None:
            laid_out = values.T if rows_contiguous(spec.problem.layout, name) else values
            made.append((_aligned_rows(laid_out.astype(numpy_dtype(operand.dtype))), None))
            continue
        block = operand.scale.block_extents(rows, k)
        quantized = quantize(values, block, operand.dtype, operand.scale.format, scale_layout)
        data = quantized.data.T if rows_contiguous(spec.problem.layout, name) else quantized.data
        made.append((_aligned_rows(data), quantized.scale))
    return made[0], made[1]


def block_factors(scale: Scale, shape: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """Factors for the elements of a matrix, f32, equal within a block, that spread its blocks over eight binades."""
    block = scale.block_extents(*shape)
    counts = block_counts(shape, block)
    factors = np.ldexp(generator.uniform(0.5, 1, counts), generator.integers(-3, 5, counts))
    return expand_blocks(factors.astype(np.float32), block, shape)


def _aligned_rows(array: np.ndarray) -> np.ndarray:
    """A copy whose rows lie a multiple of 16 bytes apart, as TMA needs."""
    rows, cols = array.shape
    pitch = -(-cols * array.itemsize // PITCH_BYTES) * PITCH_BYTES // array.itemsize
    padded = np.zeros((rows, pitch), array.dtype)[:, :cols]
    padded[...] = array
    return padded


def dequantized(spec: GemmSpec, name: str, data: np.ndarray, scale: np.ndarray | None) -> Any:
    """What ``gemm_reference`` takes for an operand of ``random_operands``, laid out as the spec says."""
    operand: Operand = getattr(spec.operands, name)
    if scale is None or operand.scale is None:
        return data
    rows, cols = data.T.shape if rows_contiguous(spec.problem.layout, name) else data.shape
    extents = operand.scale.block_extents(rows, cols)
    return QuantizedTensor(data, scale, extents, operand.dtype, "mn", operand.scale.format)


def _check_scales(signature: GemmSignature, arrays: dict[str, np.ndarray], sizes: tuple[int, int, int]) -> str:
    """Check ``sa`` and ``sb``, replace exponents by words where they lie alike, and say how the kernel takes them."""
    m, n, k = sizes
    checked = {}
    for (name, rule), rows in zip(signature.scales.items(), (m, n), strict=True):
        if rule is None:
            continue
        given = read_numpy(arrays[name], name)
        checked[name] = check_scale(given, rows, k, rule)
        if checked[name] is not given:
            arrays[name] = arrays[name].view(numpy_dtype(PACKED_SCALES))
    return scale_copy_of(signature.scales, checked)


def _as_numpy(name: str, value: Any) -> np.ndarray:
    """A NumPy view of an operand on the CPU."""
    if isinstance(value, np.ndarray):
        return value
    if not is_torch_tensor(value) or value.device.type != "cpu":
        raise ArgumentError("the emulator runs on the CPU", where=name, got=type(value).__name__,
                            need="a NumPy array or a torch tensor on the CPU", fix=f"pass {name}.cpu()")  # fmt: skip
    dtype = TORCH_NAMES[str(value.dtype)]
    return value.view(_bits_dtype(value.element_size())).numpy().view(numpy_dtype(dtype))


def _bits_dtype(size: int) -> Any:
    import torch

    return {1: torch.uint8, 2: torch.int16, 4: torch.int32}[size]
