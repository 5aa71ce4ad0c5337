"""Calling kernels: results, selection, caching of launches, devices, streams. The driver is made of Python."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cuda.bindings import driver as real
from runtime_fakes import (
    BF16,
    CONTEXT_BASE,
    E4M3,
    NUM_SMS,
    SPEC_VALUES,
    DeviceArray,
    FakeCuda,
    SmallCompiler,
    fake_cuda,  # noqa: F401
    small_spec,
)

from gemmgen import kernel as kernel_module
from gemmgen.errors import ArgumentError, DriverError, GemmgenError, NotCompiledError, SpecError, TargetError
from gemmgen.kernel import Kernel, capability_of
from gemmgen.quantization import quantize
from gemmgen.reference import gemm_reference, relative_difference
from gemmgen.runtime import disassemble, tensors
from gemmgen.runtime.cache import Cache
from gemmgen.spec import load_spec

BF16_ROUNDING = 1e-5


def make_kernel(**options: Any) -> Kernel:
    options.setdefault("compiler", SmallCompiler())
    dims = options.pop("dims", {})
    return Kernel(small_spec(**dims), "sm_90a", cache=options.pop("cache", Cache(None)), **options)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> dict[str, int]:
    """torch's CPU tensors count as being on GPU 0; the returned mapping holds torch's current stream."""
    state = {"stream": 11}
    monkeypatch.setattr(tensors, "_torch_device", lambda tensor: 0)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: state["stream"], raising=False)
    return state


def operands(m: int, n: int = 208, k: int = 272, seed: int = 0) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(m, k, generator=generator), torch.randn(n, k, generator=generator)
    return quantize(a), quantize(b, (128, 128))


def assert_product(out: Any, qa: Any, qb: Any) -> None:
    assert relative_difference(out.float(), gemm_reference(qa, qb)) < BF16_ROUNDING


@pytest.mark.parametrize("m", [1, 7, 130])
@pytest.mark.parametrize("major", ["mn", "k"])
def test_calls_compute_the_product(cuda: FakeCuda, on_gpu: dict[str, int], m: int, major: str) -> None:
    qa, qb = (q.with_scale_layout(major) for q in operands(m))
    out = torch.full((m, 208), torch.nan, dtype=torch.bfloat16)
    assert make_kernel()(qa.data, qa.scale, qb.data, qb.scale, out=out) is out
    assert_product(out, qa, qb)
    (launch,) = cuda.launches
    assert (launch.entry, launch.m, launch.stream) == ("gemm_small" if m < 65 else "gemm_large", m, 11)
    assert (launch.threads, launch.cluster, launch.smem_bytes, launch.pdl) == (384, 2, 200_000, m < 65)
    assert launch.context == CONTEXT_BASE


def test_every_call_form_gives_the_same(cuda: FakeCuda, on_gpu: dict[str, int]) -> None:
    qa, qb = operands(5)
    kernel = make_kernel()
    outs = [
        kernel(qa, qb),
        kernel((qa.data, qa.scale), (qb.data, qb.scale)),
        kernel(qa, None, qb.data, qb.scale),
        kernel(qa.data, qa.scale, qb),
        kernel(qa.data, qa.scale, qb.data, qb.scale),
        kernel(qa, qb, out=torch.empty(5, 208, dtype=torch.bfloat16)),
        kernel.bind(qa, qb)(),
        kernel.bind(qa.data, qa.scale, qb.data, qb.scale)(),
    ]
    assert_product(outs[0], qa, qb)
    assert all(torch.equal(out, outs[0]) for out in outs)


def test_allocated_outputs_have_rows_that_tma_accepts(cuda: FakeCuda, on_gpu: dict[str, int]) -> None:
    qa, qb = operands(5, n=203)
    out = make_kernel()(qa, qb)
    assert (out.shape, out.stride(), out.dtype) == ((5, 203), (208, 1), torch.bfloat16)
    assert_product(out, qa, qb)


def test_repeated_calls_pack_once_and_read_current_contents(cuda: FakeCuda, on_gpu: dict[str, int]) -> None:
    kernel = make_kernel()
    qa, qb = operands(5)
    out = torch.empty(5, 208, dtype=torch.bfloat16)
    kernel(qa, qb, out=out)
    qa.data.copy_(operands(5, seed=1)[0].data)
    on_gpu["stream"] = 12
    kernel(qa, qb, out=out)
    assert_product(out, qa, qb)
    assert [launch.stream for launch in cuda.launches] == [11, 12]
    assert len(kernel._launches) == 1
    kernel(qa, qb, out=out, stream=13)
    kernel(qa, qb, out=out, num_sms=2)
    assert [launch.stream for launch in cuda.launches] == [11, 12, 13, 12]
    assert len(kernel._launches) == 2


def test_remembered_launches_are_bounded(
    cuda: FakeCuda, on_gpu: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_module, "_MAX_LAUNCHES", 3)
    kernel = make_kernel()
    qa, qb = operands(5)
    outs = [torch.empty(5, 208, dtype=torch.bfloat16) for _ in range(10)]
    for out in [*outs, outs[-1]]:
        kernel(qa, qb, out=out)
        assert_product(out, qa, qb)
    assert len(kernel._launches) == 3


def test_changed_tensors_are_checked_again(cuda: FakeCuda, on_gpu: dict[str, int]) -> None:
    kernel = make_kernel()
    qa, qb = operands(5)
    out = torch.empty(5, 208, dtype=torch.bfloat16)
    kernel(qa, qb, out=out)
    with pytest.raises(ArgumentError) as caught:
        kernel(qa.data.view(torch.uint8), qa.scale, qb.data, qb.scale, out=out)
    assert caught.value.where == "a"
    with pytest.raises(ArgumentError) as caught:
        kernel(qa.data, qa.scale[:, :2], qb.data, qb.scale, out=out)
    assert caught.value.where == "sa"
    assert len(cuda.launches) == 1


def test_num_sms_bounds_the_grid(cuda: FakeCuda, on_gpu: dict[str, int]) -> None:
    qa, qb = operands(1000, n=2048, k=16)
    kernel = make_kernel()
    for num_sms in (None, 7, 1, 10_000):
        kernel(qa, qb, num_sms=num_sms)
    assert [launch.grid for launch in cuda.launches] == [min(2 * 60, NUM_SMS), 6, 2, 120]
    for bad in (0, -1, 1.5, "all", [1]):
        with pytest.raises(ArgumentError) as caught:
            kernel(qa, qb, num_sms=bad)  # type: ignore[arg-type]
        assert caught.value.where == "num_sms"


@pytest.mark.parametrize("sizes", [(0, 208, 272), (5, 0, 272), (0, 0, 0)])
def test_empty_outputs_launch_nothing(cuda: FakeCuda, on_gpu: dict[str, int], sizes: tuple[int, int, int]) -> None:
    compiler = SmallCompiler()
    qa, qb = operands(*sizes)
    kernel = make_kernel(compiler=compiler)
    for out in (kernel(qa, qb), kernel.bind(qa, qb)()):
        assert out.shape == sizes[:2]
    assert (cuda.launches, cuda.memsets, compiler.plans) == ([], [], 0)


def test_k_of_zero_gives_zeros(cuda: FakeCuda, on_gpu: dict[str, int]) -> None:
    qa, qb = operands(5, 208, 0)
    buffer = torch.ones(5, 216, dtype=torch.bfloat16)
    kernel = make_kernel()
    for _ in range(2):
        kernel(qa, qb, out=buffer[:, :208])
    assert (buffer[:, :208] == 0).all()
    assert (buffer[:, 208:] == 1).all()
    assert (cuda.launches, cuda.memsets) == ([], [CONTEXT_BASE] * 2)


def test_device_arrays_and_other_devices(cuda: FakeCuda) -> None:
    kernel = make_kernel()
    x = np.random.default_rng(0).standard_normal((5, 272)).astype(np.float32)
    qa, qb = quantize(x), quantize(x[:3].repeat(80, 0), (128, 128))
    for device in (1, 0, 1):
        out = np.zeros((5, 240), BF16)
        arrays = [DeviceArray(array, cuda, device) for array in (qa.data, qa.scale, qb.data, qb.scale, out)]
        returned = kernel(*arrays)
        assert returned is arrays[-1]
        assert relative_difference(out.astype(np.float32), gemm_reference(qa, qb)) < BF16_ROUNDING
        kernel.bind(*arrays)(stream=5)
    assert [launch.context - CONTEXT_BASE for launch in cuda.launches] == [1, 1, 0, 0, 1, 1]
    assert [launch.stream for launch in cuda.launches] == [0, 5] * 3
    assert len(cuda.modules) == 2
    assert cuda.contexts == []


def test_foreign_tensors_need_an_output(cuda: FakeCuda) -> None:
    array = DeviceArray(np.zeros((4, 128), E4M3), cuda)
    with pytest.raises(ArgumentError) as caught:
        make_kernel()(array, array, array, array)
    assert caught.value.where == "out"


def test_launches_from_threads_without_a_context(cuda: FakeCuda, on_gpu: dict[str, int]) -> None:
    kernel = make_kernel()
    pairs = [operands(5, seed=seed) for seed in range(4)]
    outs = [torch.empty(5, 208, dtype=torch.bfloat16) for _ in pairs]

    def work(index: int) -> None:
        kernel(*pairs[index], out=outs[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for out, (qa, qb) in zip(outs, pairs, strict=True):
        assert_product(out, qa, qb)


def test_driver_errors_are_reported_with_their_name(cuda: FakeCuda, on_gpu: dict[str, int]) -> None:
    kernel = make_kernel()
    cuda.launch_status = real.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(DriverError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
        kernel(*operands(5))


def test_strict_kernels_never_compile(cuda: FakeCuda, on_gpu: dict[str, int], tmp_path: Path) -> None:
    kernel = make_kernel(strict=True, cache=Cache(tmp_path))
    qa, qb = operands(5)
    with pytest.raises(NotCompiledError):
        kernel(qa, qb)
    kernel.plan(N=208, K=272).compile(jobs=1)
    assert_product(kernel(qa, qb), qa, qb)
    fresh = make_kernel(strict=True, cache=Cache(tmp_path))
    assert_product(fresh(qa, qb), qa, qb)


def test_after_loading_a_plan_a_call_only_launches(
    cuda: FakeCuda, on_gpu: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = make_kernel()
    kernel.plan(N=208, K=272).compile(jobs=1).load(0)

    def refuse(*_: object) -> None:
        raise AssertionError("not while a graph is captured")

    for name in ("cuModuleLoadData", "cuModuleGetFunction", "cuFuncSetAttribute", "cuFuncLoad"):
        monkeypatch.setattr(cuda, name, refuse)
    for m in (5, 500):
        qa, qb = operands(m)
        assert_product(kernel(qa, qb), qa, qb)


def test_another_architecture_is_refused(cuda: FakeCuda, on_gpu: dict[str, int]) -> None:
    cuda.capability = (10, 0)
    with pytest.raises(TargetError, match="another architecture") as caught:
        make_kernel()(*operands(5))
    assert "10.0" in str(caught.value)
    assert [capability_of(target) for target in ("sm_90a", "sm_100a", "sm_103a")] == [(9, 0), (10, 0), (10, 3)]


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (lambda qa, qb: (qa,), "b"),
        (lambda qa, qb: (qa, None, qb.data), "sb"),
        (lambda qa, qb: (qa.data, qa.scale), "sa"),
        (lambda qa, qb: (quantize(torch.zeros(5, 272), (128, 128)), qb), "a"),
        (lambda qa, qb: (qa, quantize(torch.zeros(208, 272))), "b"),
    ],
)
def test_wrong_call_forms_are_named(cuda: FakeCuda, on_gpu: dict[str, int], arguments: Any, where: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        make_kernel()(*arguments(*operands(5)))
    assert caught.value.where == where


def packed_kernel(length: int) -> Kernel:
    values = {**SPEC_VALUES, "operands": {
        **SPEC_VALUES["operands"],
        "a": {"dtype": "e4m3", "scale": {"block": [1, length], "format": "ue8m0"}},
        "b": {"dtype": "e4m3", "scale": {"block": [1, 128], "format": "ue8m0"}},
    }}  # fmt: skip
    return Kernel(load_spec(values), "sm_100a", cache=Cache(None), compiler=SmallCompiler())


@pytest.mark.parametrize(
    ("length", "given", "got", "fix"),
    [
        (
            32,
            quantize(torch.zeros(5, 272)),
            "block (1, 128), f32 scales",
            'quantize(x, block=(1, 32), scale_format="ue8',
        ),
        (32, quantize(torch.zeros(5, 272), (1, 128), "e4m3", "ue8m0"), "block (1, 128), ue8m0", "block=(1, 32)"),
        (128, quantize(torch.zeros(5, 272)), "block (1, 128), f32 scales", "gemmgen.pack_scales(q)"),
        (128, quantize(torch.zeros(5, 272), (128, 128)), "block (128, 128), f32", "requantize=True"),
    ],
)
def test_other_scales_than_the_packed_ones_are_named(length: int, given: Any, got: str, fix: str) -> None:
    qb = quantize(torch.zeros(208, 272), (1, 128), "e4m3", "ue8m0")
    with pytest.raises(ArgumentError) as caught:
        packed_kernel(length)(given, qb)
    assert caught.value.where == "a"
    assert str(caught.value.got).startswith(got)
    assert caught.value.need == f"block (1, {length}), ue8m0 scales"
    assert fix in str(caught.value.fix)


def test_packed_scales_are_named_where_plain_ones_are_needed(cuda: FakeCuda, on_gpu: dict[str, int]) -> None:
    _, qb = operands(5)
    with pytest.raises(ArgumentError, match="another format") as caught:
        make_kernel()(quantize(torch.zeros(5, 272), (1, 128), "e4m3", "ue8m0"), qb)
    assert caught.value.where == "a"
    assert caught.value.fix == "pass gemmgen.quantize(x, block=(1, 128))"


def test_packed_calls_choose_the_plan_by_both_operands(
    cuda: FakeCuda, on_gpu: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = packed_kernel(32)
    chosen: list[str] = []

    def stop(n: int, k: int, scale_copy: str) -> Any:
        chosen.append(scale_copy)
        raise NotCompiledError("stopped")

    monkeypatch.setattr(kernel, "_plan_for", stop)
    monkeypatch.setattr(kernel, "_check_device", lambda device: None)
    for a, b in (("mn", "mn"), ("k", "mn"), ("mn", "k")):
        qa = quantize(torch.zeros(5, 272), (1, 32), "e4m3", "ue8m0", a)
        qb = quantize(torch.zeros(208, 272), (1, 128), "e4m3", "ue8m0", b)
        with pytest.raises(NotCompiledError):
            kernel(qa, qb)
    assert chosen == ["bulk", "lanes", "bulk"]  # one column of words, as B has here, is adjacent in either layout


def test_everything_can_be_looked_at_without_a_gpu() -> None:
    kernel = make_kernel(dims={"N": 256, "K": 512})
    assert "gemm_large" in kernel.source
    assert ".entry gemm_large" in kernel.ptx
    assert kernel.schedule == "large"
    assert kernel.resources.registers > 0
    assert kernel.ir("tile") == "tile IR of large"
    assert kernel.variant(M=3).schedule == "small"
    assert repr(kernel) == "Kernel(fp8_gemm, sm_90a, M=dynamic, N=256, K=512)"
    with pytest.raises(ArgumentError, match="no such stage") as caught:
        kernel.ir("tyle")
    assert caught.value.need == "tile"


def test_fixed_m_selects_the_default_variant() -> None:
    assert make_kernel(dims={"M": 8, "N": 256, "K": 512}).schedule == "small"


def test_plans_need_n_and_k() -> None:
    kernel = make_kernel(dims={"N": 256})
    with pytest.raises(ArgumentError, match="one N and K") as caught:
        kernel.plan()
    assert caught.value.need == "K"
    assert kernel.plan(K=512) is kernel.plan(K=512)
    with pytest.raises(SpecError):
        kernel.plan(N=128, K=512)


def test_sass_needs_a_disassembler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel = make_kernel(dims={"N": 256, "K": 512})
    monkeypatch.setattr(disassemble, "find_nvdisasm", lambda: None)
    with pytest.raises(GemmgenError, match="nvidia-cuda-nvdisasm"):
        _ = kernel.sass
    tool = tmp_path / "nvdisasm"
    tool.write_text("#!/bin/sh\nfor last; do :; done\nhead -c 4 $last | tail -c 3; echo ' SASS'\n")
    tool.chmod(0o700)
    monkeypatch.setattr(disassemble, "find_nvdisasm", lambda: tool)
    assert kernel.sass == "ELF SASS\n"
    tool.write_text("#!/bin/sh\necho no >&2; exit 3\n")
    with pytest.raises(GemmgenError, match="refused the cubin") as caught:
        _ = kernel.sass
    assert caught.value.got == "no"
