"""On-device checks of a dense FP8 kernel, shared by ``validate_gpu``, ``sanitize`` and ``tests/gpu``.

Each check launches the kernel and returns a number or raises; none of them decides what is printed.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

import gemmgen
from gemmgen.spec.model import GemmSpec

from .harness import Inputs, Layout, Shape, ceil_div, check, diff, make_inputs, poison, reference

TMA_ALIGN_E4M3 = 16
TMA_ALIGN_BF16 = 8
FEWEST_OUTPUTS = 256
E4M3_MAX = 448.0


class Kernels:
    """Compiled kernels of one spec by (N, K); each is compiled once."""

    def __init__(self, spec: str | GemmSpec) -> None:
        self.spec = spec
        self.get = functools.cache(self._compile)

    def _compile(self, n: int, k: int) -> Any:
        return gemmgen.compile(self.spec, N=n, K=k)


@dataclass(frozen=True)
class Case:
    """One problem with its memory layout."""

    shape: Shape
    layout: Layout

    def __str__(self) -> str:
        words = [name for name, on in (("sa:M", self.layout.sa_mn_major), ("sb:N", self.layout.sb_mn_major)) if on]
        pads = {"k": self.layout.pad_k, "n": self.layout.pad_n, "s": self.layout.pad_scale}
        return " ".join([str(self.shape), *words, *(f"{name}+{pad}" for name, pad in pads.items() if pad)])


def random_cases(seed: int, pairs: int, per_pair: int, largest: int = 8000) -> Iterator[Case]:
    """Random legal cases: ``pairs`` draws of (N, K), each with ``per_pair`` draws of M and of the layout.

    N and K are multiples of the tile, multiples of what TMA asks for, or anything at all with padded rows; every
    operand's rows are padded now and then, and scales come in both orders. With fewer outputs than `FEWEST_OUTPUTS` the
    rounding of the result to BF16 alone can exceed the limit.
    """
    rng = random.Random(seed)
    for _ in range(pairs):
        n, n_pad = _extent(rng, largest, TMA_ALIGN_BF16)
        k, k_pad = _extent(rng, largest, TMA_ALIGN_E4M3)
        for _ in range(per_pair):
            layout = Layout(
                pad_k=k_pad + rng.choice((0, 0, 16, 128)),
                pad_n=n_pad + rng.choice((0, 0, 8, 64)),
                sa_mn_major=rng.random() < 0.5,
                sb_mn_major=rng.random() < 0.5,
                pad_scale=rng.choice((0, 0, 1, 4)),
            )
            m = max(_draw(rng, largest), ceil_div(FEWEST_OUTPUTS, n))
            yield Case(Shape(m, n, k), layout)


def run_case(kernels: Kernels, case: Case, seed: int, device: str = "cuda") -> float:
    """The error of an eager call on fresh inputs; the output is poisoned and its surroundings are guarded."""
    x = make_inputs(case.shape, seed, layout=case.layout, device=device)
    return check(lambda: call(kernels, x), x)


def call(kernels: Kernels, x: Inputs) -> None:
    """One eager call into ``x.out``."""
    kernels.get(x.b.shape[0], x.b.shape[1])(x.a, x.sa, x.b, x.sb, out=x.out)


def unequal_reruns(kernels: Kernels, shape: Shape, reruns: int, seed: int) -> int:
    """How many of ``reruns`` launches on the same inputs give other bits than the first."""
    x = make_inputs(shape, seed)
    call(kernels, x)
    first = x.out.clone().view(torch.int16)
    unequal = torch.zeros((), device=x.out.device, dtype=torch.int64)
    for _ in range(reruns):
        poison(x.out)
        call(kernels, x)
        unequal += (x.out.view(torch.int16) != first).any()
    return int(unequal.item())


def outlier_inputs(shape: Shape, seed: int, outliers: bool, device: str = "cuda") -> Inputs:
    """Operands with one scale per row, all 1, so that only the summation differs.

    Plain data are positive, as after an activation: sums grow, and what is cut off each addend grows with them. With
    outliers, the first element of K is the largest there is and the last one cancels it: what is added in between is
    lost wherever both share an accumulator of few bits.
    """
    x = make_inputs(shape, seed, device=device)

    def operand(rows: int, offset: int) -> torch.Tensor:
        generator = torch.Generator(device=device).manual_seed(seed + offset)
        values = torch.randn(rows, shape.k, device=device, generator=generator)
        values = values if outliers else values.abs()
        if outliers:
            values[:, 0] = E4M3_MAX
            values[:, -1] = E4M3_MAX if offset == 1 else -E4M3_MAX
        return values.to(torch.float8_e4m3fn)

    a, b = operand(shape.m, 1), operand(shape.n, 2)
    sa, sb = (torch.ones(rows, 1, device=device) for rows in (shape.m, shape.n))
    return replace(x, a=a, b=b, sa=sa, sb=sb)


def outlier_error(kernels: Kernels, shape: Shape, seed: int, outliers: bool) -> float:
    """The error on `outlier_inputs` of kernels that take one scale per row of A and of B."""
    x = outlier_inputs(shape, seed, outliers)
    return check(lambda: call(kernels, x), x)


def graph_first_call_error(spec: str, shape: Shape, seed: int) -> float:
    """Plan a fresh kernel, capture its very first call in a CUDA graph, and check what the replay computes."""
    kernel = gemmgen.compile(spec, N=shape.n, K=shape.k)
    kernel.plan().compile()
    x = make_inputs(shape, seed)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernel(x.a, x.sa, x.b, x.sb, out=x.out)
    return check(graph.replay, x)


def two_streams_error(kernels: Kernels, shapes: tuple[Shape, Shape], seed: int, rounds: int = 20) -> float:
    """The larger error of two problems that run again and again on two streams at the same time."""
    inputs = [make_inputs(shape, seed + i) for i, shape in enumerate(shapes)]
    for x in inputs:
        call(kernels, x)
        poison(x.out)
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in inputs]
    for _ in range(rounds):
        for x, stream in zip(inputs, streams, strict=True):
            with torch.cuda.stream(stream):
                call(kernels, x)
    torch.cuda.synchronize()
    return max(diff(x.out, reference(x)) for x in inputs)


def other_device_error(kernels: Kernels, shape: Shape, seed: int) -> float:
    """The error of a call on the second GPU while the first one is current."""
    with torch.cuda.device(0):
        x = make_inputs(shape, seed, device="cuda:1")
        torch.cuda.synchronize(1)
        call(kernels, x)
        torch.cuda.synchronize(1)
    return diff(x.out, reference(x))


def _draw(rng: random.Random, largest: int) -> int:
    """1..largest: mostly evenly spread over the orders of magnitude, now and then over the values."""
    if rng.random() < 0.3:
        return rng.randint(1, largest)
    return round(2 ** rng.uniform(0, math.log2(largest)))


def _extent(rng: random.Random, largest: int, align: int) -> tuple[int, int]:
    """A legal extent and the padding that brings its row to TMA's 16 bytes."""
    extent = _draw(rng, largest)
    kind = rng.choice(("tile", "aligned", "any"))
    if kind == "any":
        return extent, -extent % align
    step = 128 if kind == "tile" else align
    return max(step, extent // step * step), 0
