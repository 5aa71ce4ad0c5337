"""Calls of unscaled kernels: shapes follow the layout, mistakes are named, and ``kernel(a, b)`` launches."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from ir_texts import SPECS
from runtime_fakes import SUCCESS, FakeCuda, _matrix, fake_cuda  # noqa: F401

import gemmgen
from gemmgen.cli.build import Request
from gemmgen.cli.measurement import measure
from gemmgen.errors import ArgumentError
from gemmgen.kernel import Kernel
from gemmgen.kernel_args import ArgumentChecker, GemmSignature
from gemmgen.runtime import driver, tensors
from gemmgen.runtime.cache import Cache
from gemmgen.spec import load_spec

LAYOUTS = ("NT", "NN", "TN", "TT")
M, N, K = 24, 40, 72
BF16 = torch.bfloat16


@pytest.fixture(autouse=True)
def on_gpu_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's CPU tensors count as being on GPU 0."""
    monkeypatch.setattr(tensors, "_torch_device", lambda tensor: 0)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 7, raising=False)


def operands(layout: str, m: int = M, n: int = N, k: int = K) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(m + n + k)
    shapes = {"a": (k, m) if layout[0] == "T" else (m, k), "b": (k, n) if layout[1] == "N" else (n, k)}
    return {name: torch.randn(shape, generator=generator).to(BF16) for name, shape in shapes.items()}


def checker(layout: str, **sizes: int) -> ArgumentChecker:
    return ArgumentChecker(GemmSignature("bf16", None, "bf16", None, "bf16", layout=layout, **sizes))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sizes_follow_the_layout(layout: str):
    call = {**operands(layout), "out": torch.zeros(M, N, dtype=BF16)}
    problem = checker(layout, m=M, n=N, k=K).check(call)
    assert (problem.m, problem.n, problem.k) == (M, N, K)
    assert problem.operands["a"].shape == tuple(call["a"].shape)


def padded(rows: int, cols: int, pitch: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.zeros(rows, pitch, dtype=dtype)[:, :cols]


Change = Callable[[dict[str, Any]], dict[str, Any]]
BAD_CALLS: list[tuple[str, str, Change, str, str, str]] = [
    ("a of layout NT", "TN", lambda x: {"a": x["a"].T}, "a", "disagree about K", "a.T.contiguous(), since D = Aᵀ @ B"),
    ("a of layout TT", "NT", lambda x: {"a": x["a"].T}, "a", "disagree about K", "since D = A @ Bᵀ"),
    ("b of layout NT", "NN", lambda x: {"b": x["b"].T}, "b", "disagree about K", "b.T.contiguous(), since D = A @ B"),
    ("b of layout TN", "TT", lambda x: {"b": x["b"].T}, "b", "disagree about K", "since D = Aᵀ @ Bᵀ"),
    ("K differs", "TN", lambda x: {"b": padded(80, N, N)}, "b", "disagree about K", "pass operands with equal K"),
    ("a column-major", "TN", lambda x: {"a": padded(M, K, K).T}, "a", "adjacent", "a.contiguous()"),
    ("b column-major", "NN", lambda x: {"b": padded(N, K, K).T}, "b", "adjacent", "b.contiguous()"),
    ("odd pitch of a", "TN", lambda x: {"a": padded(K, M, M + 4)}, "a", "16 bytes apart", "rows of 32 elements"),
    ("odd pitch of b", "NN", lambda x: {"b": padded(K, N, N + 1)}, "b", "16 bytes apart", "rows of 48 elements"),
    ("scales", "NT", lambda x: {"sa": torch.ones(M, 1)}, "sa", "takes no scales", "leave sa out"),
    ("f16", "NT", lambda x: {"a": x["a"].half()}, "a", "wrong element type", "torch.bfloat16"),
    ("output transposed", "TN", lambda x: {"out": padded(N, M, M)}, "out", "wrong shape", "[24, 40]"),
]


@pytest.mark.parametrize(
    ("layout", "change", "where", "says", "fix"), [c[1:] for c in BAD_CALLS], ids=[c[0] for c in BAD_CALLS]
)
def test_bad_calls_are_named(layout: str, change: Change, where: str, says: str, fix: str):
    good = {**operands(layout), "out": torch.zeros(M, N, dtype=BF16)}
    with pytest.raises(ArgumentError, match=says) as caught:
        checker(layout).check({**good, **change(good)})
    assert caught.value.where == where
    assert fix in (caught.value.fix or "")
    assert caught.value.got
    assert caught.value.need


def test_the_missing_operand_has_the_layouts_shape():
    kernel = gemmgen.compile("bf16_gemm_tn", target="sm_90a", N=N, K=K)
    with pytest.raises(ArgumentError, match="b is missing") as caught:
        kernel(operands("TN")["a"])
    assert caught.value.need == "a matrix [K, N]"
    assert caught.value.fix == "call kernel(a, b)"


class Multiplying(FakeCuda):
    """A driver whose kernels compute the product of a layout from the tensor maps of D, A and B."""

    layout = "NT"

    def cuLaunchKernelEx(self, config: Any, function: str, params: int, extra: int) -> tuple[Any]:
        table = (ctypes.c_uint64 * 4).from_address(params)
        d, a, b = (_matrix(address, ml_dtypes.bfloat16) for address in table[:3])
        left = a.T if self.layout[0] == "T" else a
        right = b if self.layout[1] == "N" else b.T
        d[...] = left.astype(np.float32) @ right.astype(np.float32)
        return (SUCCESS,)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_calls_launch_with_maps_of_the_operands(layout: str, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch):
    fake = Multiplying()
    fake.layout = layout
    monkeypatch.setattr(driver, "cuda", lambda: fake)
    call = operands(layout)
    kernel = Kernel(load_spec(SPECS / f"bf16_gemm_{layout.lower()}.yaml"), "sm_90a", cache=Cache(None))
    out = kernel(call["a"], call["b"])
    assert (out.shape, out.dtype) == ((M, N), BF16)
    expected = gemmgen.gemm_reference(call["a"], call["b"], layout)
    assert gemmgen.relative_difference(out.float(), expected) < 1e-5
    again = torch.full((M, N), torch.nan, dtype=BF16)
    for _ in range(2):
        assert kernel(call["a"], call["b"], out=again) is again
        assert torch.equal(again, out)
        again.fill_(torch.nan)
    kernel.bind(call["a"], call["b"], out=again)()
    assert torch.equal(again, out)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_emulator_takes_the_operands_of_a_call(layout: str):
    call = operands(layout)
    found, report = gemmgen.compile(f"bf16_gemm_{layout.lower()}", target="sm_90a").emulate(call["a"], call["b"])
    assert report.ok, str(report)
    expected = gemmgen.gemm_reference(call["a"], call["b"], layout)
    assert gemmgen.relative_difference(torch.from_numpy(found.astype(np.float32)), expected) < 1e-5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_reference_follows_the_layout(layout: str):
    call = operands(layout)
    a, b = (call[name].float() for name in "ab")
    product = (a.T if layout[0] == "T" else a) @ (b if layout[1] == "N" else b.T)
    assert torch.equal(gemmgen.gemm_reference(call["a"], call["b"], layout), product)
    # Scales belong to blocks of [rows, K]; data that lies otherwise is a transposed copy.
    turned = [layout[0] == "T", layout[1] == "N"]
    made = [gemmgen.quantize(x.T if turn else x) for x, turn in zip((a, b), turned, strict=True)]
    quantized = [replace(x, data=x.data.T) if turn else x for x, turn in zip(made, turned, strict=True)]
    assert gemmgen.relative_difference(gemmgen.gemm_reference(*quantized, layout), product) < 2e-3


class StandIn:
    """A kernel of layout TN made of torch; ``factor`` makes it wrong."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, a: Any, b: Any, out: Any = None) -> Any:
        assert [x.stride(0) % 8 for x in (a, b)] == [0, 0]
        product = (a.T.float() @ b.float() * self.factor).to(BF16)
        return product if out is None else out.copy_(product)

    def bind(self, a: Any, b: Any, out: Any) -> Any:
        return lambda: self(a, b, out)


@pytest.mark.parametrize(("factor", "passed"), [(1.0, True), (1.01, False)])
def test_runs_are_measured_in_the_layout(monkeypatch: pytest.MonkeyPatch, factor: float, passed: bool):
    monkeypatch.setattr("gemmgen.compile", lambda spec, target, tuned: StandIn(factor))
    monkeypatch.setattr("gemmgen.gpu_problem.MAX_SETS", 1)
    monkeypatch.setattr("gemmgen.cli.measurement.time_launches_us", lambda launches: 2.0)
    monkeypatch.setattr("gemmgen.runtime.driver.device_properties", lambda _: SimpleNamespace(name="a GPU"))
    spec = load_spec("bf16_gemm_tn").bind(N=101, K=200)
    measured = measure(Request(spec, 43), "sm_90a", seed=0, device="cpu")
    assert measured.passed is passed
    assert measured.tolerance == 5e-6
    assert measured.gbytes_per_s == pytest.approx(2 * (43 * 200 + 101 * 200 + 43 * 101) / 2e3)
