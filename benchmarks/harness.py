"""Inputs, checks and timing on the GPU: everything the benchmarks share. Needs torch with CUDA and nothing else.

A launch is any callable without arguments that enqueues exactly one GEMM on torch's current stream, for example
``lambda: kernel(x.a, x.sa, x.b, x.sb, out=x.out)`` or what ``kernel.bind(...)`` returns.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Launch = Callable[[], object]

BLOCK = 128
E4M3_MAX = 448.0
SMALLEST_AMAX = 1e-4
COLD_BYTES = 256_000_000
MAX_SETS = 48
COPY_BYTES_PER_US = 4.26e6
FP8_FLOPS_PER_US = 1.29e9
FIXED_COST_US = 1.6
GUARD_ROWS = 8
POISON_BITS = {torch.bfloat16: 0x7FC1, torch.float16: 0x7E01, torch.float32: 0x7FC00001}
BITS_DTYPE = {2: torch.int16, 4: torch.int32}


@dataclass(frozen=True)
class Shape:
    """One GEMM ``D[M, N] = A[M, K] @ B[N, K]^T`` with FP8 operands and a BF16 result."""

    m: int
    n: int
    k: int

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.m * self.n * self.k

    @property
    def bytes(self) -> int:
        """Bytes of A, B and D, each moved once; scales are not counted (the recorded figures do not either)."""
        return self.m * self.k + self.n * self.k + 2 * self.m * self.n

    @property
    def floor_us(self) -> float:
        """Time at this H200's measured copy and FP8 ceilings, of a chip under load, plus a launch's fixed cost."""
        return max(self.bytes / COPY_BYTES_PER_US, self.flops / FP8_FLOPS_PER_US) + FIXED_COST_US

    @property
    def sets(self) -> int:
        """Input sets to rotate over so that four times the L2 cache (60 MB) passes between two uses of one set."""
        return min(MAX_SETS, COLD_BYTES // max(1, self.bytes) + 1)

    def __str__(self) -> str:
        return f"{self.m}x{self.n}x{self.k}"

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read ``MxNxK``, the form in which shapes are printed."""
        m, n, k = (int(part) for part in text.split("x"))
        return cls(m, n, k)


@dataclass(frozen=True)
class Layout:
    """How operands lie in memory; zero means dense.

    Args:
        pad_k: extra elements after each row of A and B, filled with NaN.
        pad_n: extra elements after each row of the output.
        sa_mn_major: A's scales have stride (1, pitch) rather than (pitch, 1).
        sb_mn_major: the same for B's scales.
        pad_scale: extra elements after each run of scales, filled with NaN.
    """

    pad_k: int = 0
    pad_n: int = 0
    sa_mn_major: bool = True
    sb_mn_major: bool = False
    pad_scale: int = 0


@dataclass(frozen=True)
class Inputs:
    """Operands of one launch; ``out`` is a view into ``out_buffer``, whose other elements nobody may write.

    ``a`` is [M, K] and ``b`` [N, K] e4m3; ``sa`` is [M, ceil(K/128)] and ``sb`` [ceil(N/128), ceil(K/128)] f32.
    """

    a: torch.Tensor
    sa: torch.Tensor
    b: torch.Tensor
    sb: torch.Tensor
    out: torch.Tensor
    out_buffer: torch.Tensor


@dataclass(frozen=True)
class Timing:
    """Microseconds of one launch: the median, fastest and slowest of the graph replays."""

    median_us: float
    min_us: float
    max_us: float
    launches: int

    @staticmethod
    def mean(turns: Sequence[Timing]) -> Timing:
        """One timing of several turns: the mean of their medians, and the extremes of all."""
        median = statistics.fmean(turn.median_us for turn in turns)
        low, high = min(turn.min_us for turn in turns), max(turn.max_us for turn in turns)
        return Timing(median, low, high, sum(turn.launches for turn in turns))


def ceil_div(a: int, b: int) -> int:
    """``a / b`` rounded up."""
    return -(-a // b)


def quantize(x: torch.Tensor, block_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise ``x`` [R, K] to e4m3 in blocks of ``block_rows`` x 128.

    Returns:
        e4m3 data [R, K] and the f32 factors [ceil(R / block_rows), ceil(K / 128)] that undo the scaling.
    """
    rows, cols = x.shape
    padded_rows, padded_cols = ceil_div(rows, block_rows) * block_rows, ceil_div(cols, BLOCK) * BLOCK
    wide = torch.nn.functional.pad(x.float(), (0, padded_cols - cols, 0, padded_rows - rows))
    blocks = wide.view(padded_rows // block_rows, block_rows, padded_cols // BLOCK, BLOCK)
    scale = blocks.abs().amax(dim=(1, 3)).clamp_min(SMALLEST_AMAX) / E4M3_MAX
    data = (blocks / scale[:, None, :, None]).view(padded_rows, padded_cols)[:rows, :cols]
    return data.to(torch.float8_e4m3fn), scale


def dequantize(data: torch.Tensor, scale: torch.Tensor, block_rows: int) -> torch.Tensor:
    """The f32 values that ``data`` [R, K] stands for; a single column of scales holds for whole rows."""
    rows, cols = data.shape
    if scale.shape[1] == 1 < ceil_div(cols, BLOCK):
        return data.float() * scale
    factors = scale.repeat_interleave(block_rows, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :cols]
    return data.float() * factors


def make_inputs(
    shape: Shape,
    seed: int,
    *,
    layout: Layout | None = None,
    device: str | torch.device = "cuda",
    values: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Inputs:
    """Draw random operands on the device and quantise them there; the output comes poisoned.

    Args:
        shape: the problem.
        seed: of the device's generator.
        layout: strides and orders; when None dense, with M-major A scales in runs of a multiple of 16 bytes.
        device: where the tensors live.
        values: applied to the normally distributed f32 operands before they are quantised (outliers, for example).
    """
    layout = layout or Layout(pad_scale=-shape.m % 4)
    generator = torch.Generator(device=device).manual_seed(seed)

    def operand(rows: int, block_rows: int, mn_major: bool) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(rows, shape.k, device=device, generator=generator)
        data, scale = quantize(values(x) if values else x, block_rows)
        return _with_pitch(data, layout.pad_k), _scale_layout(scale, mn_major, layout.pad_scale)

    a, sa = operand(shape.m, 1, layout.sa_mn_major)
    b, sb = operand(shape.n, BLOCK, layout.sb_mn_major)
    buffer = torch.empty(shape.m + 2 * GUARD_ROWS, shape.n + layout.pad_n, device=device, dtype=torch.bfloat16)
    poison(buffer)
    return Inputs(a, sa, b, sb, buffer[GUARD_ROWS : GUARD_ROWS + shape.m, : shape.n], buffer)


def poison(x: torch.Tensor) -> None:
    """Fill ``x`` with one particular NaN, so that an element nobody wrote and one written as NaN can be told apart."""
    x.view(BITS_DTYPE[x.element_size()]).fill_(POISON_BITS[x.dtype])


def reference(x: Inputs) -> torch.Tensor:
    """The product of the dequantised operands in full f32."""
    previous = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        return dequantize(x.a, x.sa, 1) @ dequantize(x.b, x.sb, BLOCK).t()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = previous


def diff(x: torch.Tensor, y: torch.Tensor, rows_at_once: int = 1024) -> float:
    """``1 - 2<x,y> / (|x|^2 + |y|^2)`` in f64; NaN when either holds one, 0 when both are empty or zero."""
    dot = torch.zeros((), device=x.device, dtype=torch.float64)
    squares = torch.zeros_like(dot)
    for start in range(0, x.shape[0], rows_at_once):
        p, q = (t[start : start + rows_at_once].double() for t in (x, y))
        dot += (p * q).sum()
        squares += (p * p).sum() + (q * q).sum()
    total = squares.item()
    return 0.0 if total == 0 else 1.0 - 2.0 * dot.item() / total


def guard_violations(x: Inputs) -> int:
    """Elements of the output's buffer outside ``out`` that no longer hold the poison."""
    bits = x.out_buffer.view(BITS_DTYPE[x.out_buffer.element_size()])
    touched = bits != POISON_BITS[x.out_buffer.dtype]
    touched[GUARD_ROWS : GUARD_ROWS + x.out.shape[0], : x.out.shape[1]] = False
    return int(touched.sum().item())


def check(launch: Launch, x: Inputs) -> float:
    """Poison the output, launch once, and return `diff` against the reference.

    Raises:
        AssertionError: the launch wrote outside ``out``.
    """
    poison(x.out_buffer)
    launch()
    if x.out.is_cuda:
        torch.cuda.synchronize(x.out.device)
    violations = guard_violations(x)
    if violations:
        raise AssertionError(f"{violations} elements outside the output were overwritten")
    return diff(x.out, reference(x))


def time_launches(
    fns: Sequence[Launch],
    *,
    replays: int = 7,
    min_graph_us: float = 2000.0,
    rest_s: float = 0.1,
    load_s: float = 0.0,
) -> Timing:
    """Time launches with a cold L2: one CUDA graph that goes round all input sets, replayed a few times.

    Args:
        fns: one launch per input set, in the order of rotation; see the module's docstring.
        replays: timed graph replays.
        min_graph_us: the graph repeats the round until it lasts about this long, so that the cost of starting a
            graph disappears.
        rest_s: how long the chip idles before it is timed, so that every kernel meets the power limit, which averages
            over tens of milliseconds, in the same state. Sustained, large products of every library run slower.
        load_s: how long the chip runs the same launches before they are timed, instead of resting.
    """
    for fn in fns:
        fn()
    torch.cuda.synchronize()
    graph = _capture(fns, 1)
    graph.replay()
    round_us = statistics.median(_replay_us(graph) for _ in range(3))
    rounds = max(1, math.ceil(min_graph_us / round_us))
    if rounds > 1:
        graph = _capture(fns, rounds)
        graph.replay()
    torch.cuda.synchronize()
    if load_s:
        _load(graph, load_s)
    else:
        time.sleep(rest_s)
    graph.replay()
    launches = rounds * len(fns)
    times = sorted(_replay_us(graph) / launches for _ in range(replays))
    return Timing(statistics.median(times), times[0], times[-1], launches)


def _load(graph: torch.cuda.CUDAGraph, seconds: float) -> None:
    """Keep the GPU busy for so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        graph.replay()
        torch.cuda.synchronize()


def host_us(call: Callable[[], object], calls: int = 200, rounds: int = 15) -> float:
    """Host time of one call, without waiting for the GPU: the fastest of rounds too short to fill the launch queue."""
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(calls):
            call()
        times.append(1e6 * (time.perf_counter() - started) / calls)
    torch.cuda.synchronize()
    return min(times)


def geometric_mean(values: Sequence[float]) -> float:
    """The geometric mean; NaN of nothing."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def _with_pitch(data: torch.Tensor, pad: int) -> torch.Tensor:
    """``data`` as a view of a wider buffer whose extra columns are NaN."""
    if pad == 0:
        return data.contiguous()
    rows, cols = data.shape
    buffer = torch.full((rows, cols + pad), 0x7F, device=data.device, dtype=torch.uint8)
    buffer[:, :cols] = data.view(torch.uint8)
    return buffer.view(data.dtype)[:, :cols]


def _scale_layout(scale: torch.Tensor, mn_major: bool, pad: int) -> torch.Tensor:
    """``scale`` with the wanted order and NaN between runs; the shape stays."""
    runs = scale.t() if mn_major else scale
    buffer = torch.full((runs.shape[0], runs.shape[1] + pad), math.nan, device=scale.device)
    buffer[:, : runs.shape[1]] = runs
    view = buffer[:, : runs.shape[1]]
    return view.t() if mn_major else view


def _capture(fns: Sequence[Launch], rounds: int) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            for fn in fns:
                fn()
    return graph


def _replay_us(graph: torch.cuda.CUDAGraph) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1000.0
