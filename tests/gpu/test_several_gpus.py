"""One kernel object on the tensors of two GPUs, in one process."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import gemmgen

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).resolve().parents[2]
SPEC = str(ROOT / "specs" / "fp8_gemm_nt.yaml")
LIMIT = 5e-6
ROUNDS = 5
SIZE = "72x576x1536"


@pytest.fixture(scope="module")
def bench():
    """torch and the harness, imported here because that takes seconds where the tests are skipped."""
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("this machine has one GPU; nothing was executed")
    sys.path.insert(0, str(ROOT))
    from benchmarks import harness

    return SimpleNamespace(torch=torch, harness=harness, shape=harness.Shape.parse(SIZE))


@pytest.fixture(scope="module")
def kernel(bench):
    return gemmgen.compile(SPEC, N=bench.shape.n, K=bench.shape.k)


@pytest.fixture
def inputs(bench):
    """Operands on either GPU, unlike each other, with outputs that nobody has written."""
    return [bench.harness.make_inputs(bench.shape, seed, device=f"cuda:{seed}") for seed in (0, 1)]


@pytest.fixture(params=[0, 1])
def current(bench, request):
    """The current GPU, which no call may change."""
    with bench.torch.cuda.device(request.param):
        yield request.param
        assert bench.torch.cuda.current_device() == request.param


def call(kernel, x):
    return kernel(x.a, x.sa, x.b, x.sb, out=x.out)


def largest_error(bench, inputs):
    """The larger error of what both GPUs have computed once they are done."""
    for x in inputs:
        bench.torch.cuda.synchronize(x.out.device)
    return max(bench.harness.diff(x.out, bench.harness.reference(x)) for x in inputs)


def test_calls_in_turns(bench, kernel, inputs, current):
    for _ in range(ROUNDS):
        for x in inputs:
            call(kernel, x)
            assert bench.torch.cuda.current_device() == current
    assert largest_error(bench, inputs) < LIMIT
    assert [bench.harness.guard_violations(x) for x in inputs] == [0, 0]


def test_bound_calls_in_turns(bench, kernel, inputs, current):
    bound = [kernel.bind(x.a, x.sa, x.b, x.sb, out=x.out) for x in inputs]
    for _ in range(ROUNDS):
        for launch in bound:
            launch()
            assert bench.torch.cuda.current_device() == current
    assert largest_error(bench, inputs) < LIMIT


def test_an_output_is_allocated_beside_the_operands(bench, kernel, inputs, current):
    outs = [kernel(x.a, x.sa, x.b, x.sb) for x in inputs]
    assert [out.device for out in outs] == [x.a.device for x in inputs]
    assert largest_error(bench, [dataclasses.replace(x, out=y) for x, y in zip(inputs, outs, strict=True)]) < LIMIT


@pytest.mark.parametrize("argument", ["sa", "b", "sb", "out"])
def test_a_tensor_on_another_gpu_is_refused(bench, kernel, inputs, current, argument):
    x = inputs[1]
    strayed = dataclasses.replace(x, **{argument: getattr(x, argument).to("cuda:0")})
    with pytest.raises(gemmgen.ArgumentError, match="different GPUs") as refusal:
        call(kernel, strayed)
    assert refusal.value.where == argument
    bench.torch.cuda.synchronize(1)
    assert strayed.out.isnan().all()


def test_calls_captured_on_the_second_gpu(bench, kernel, inputs):
    cuda, x = bench.torch.cuda, inputs[1]
    kernel.plan().compile().load(1)
    graph = cuda.CUDAGraph()
    with cuda.device(1), cuda.graph(graph, stream=cuda.Stream(device=1)):
        call(kernel, x)
    assert cuda.current_device() == 0
    assert bench.harness.check(graph.replay, x) < LIMIT
    assert cuda.current_device() == 0
