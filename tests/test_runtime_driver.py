"""The driver layer without a driver, and against a driver made of Python."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from cuda.bindings import driver as real
from runtime_fakes import CONTEXT_BASE, FakeCuda, SmallCompiler, fake_cuda, small_spec  # noqa: F401

from gemmgen.errors import DriverError
from gemmgen.runtime import driver, launch
from gemmgen.runtime.driver import LaunchShape
from gemmgen.runtime.launch import Launcher

NO_DRIVER = """
from gemmgen.errors import DriverError
from gemmgen.runtime import driver

def missing():
    raise RuntimeError("libcuda is not here")

import cuda.bindings.driver
import sys, types
fake = types.ModuleType("cuda.bindings.driver")
fake.cuInit = lambda flags: missing()
sys.modules["cuda.bindings.driver"] = fake
print(driver.device_count())
try:
    driver.cuda()
except DriverError as error:
    print(error)
"""
SHAPE = LaunchShape(grid=4, threads=384, cluster=2, smem_bytes=200_000)


def test_without_a_driver_there_are_no_devices_and_a_plain_answer() -> None:
    done = subprocess.run([sys.executable, "-c", NO_DRIVER], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["0", "no CUDA driver on this machine"]
    assert "libcuda is not here" in lines[2]
    assert "install an NVIDIA driver" in lines[-1]


def test_errors_carry_name_text_and_fix(cuda: FakeCuda) -> None:
    with pytest.raises(DriverError) as caught:
        driver.checked((real.CUresult.CUDA_ERROR_NO_BINARY_FOR_GPU, None))
    assert caught.value.got == "CUDA_ERROR_NO_BINARY_FOR_GPU (209): what the driver says"
    assert caught.value.fix is not None
    assert "target" in caught.value.fix
    assert driver.checked((real.CUresult.CUDA_SUCCESS, 1, 2)) == (1, 2)


def test_device_properties(cuda: FakeCuda) -> None:
    assert driver.device_count() == 2
    properties = driver.device_properties(1)
    assert properties == driver.DeviceProperties("Fake H200", (9, 0), 132, 60 << 20, 232448)
    with pytest.raises(DriverError, match="INVALID_DEVICE"):
        driver.device_properties(2)


def test_current_context_is_used_if_it_is_the_devices(cuda: FakeCuda) -> None:
    assert driver.context_for(1) == CONTEXT_BASE + 1
    cuda.contexts.append(2 * CONTEXT_BASE + 1)  # another context on device 1
    assert driver.context_for(1) == 2 * CONTEXT_BASE + 1
    assert driver.context_for(0) == CONTEXT_BASE
    with driver.current(77):
        assert cuda.contexts[-1] == 77
    assert cuda.contexts == [2 * CONTEXT_BASE + 1]


def test_a_cubin_is_loaded_once_per_context(cuda: FakeCuda) -> None:
    for context in (1, 2, 1):
        driver.load_function(b"elf", "key", "gemm", 0, context, SHAPE)
    driver.load_function(b"elf2", "key2", "gemm", 0, 1, SHAPE)
    assert cuda.modules == [(1, b"elf"), (2, b"elf"), (1, b"elf2")]
    assert cuda.contexts == []


def test_function_attributes(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []

    def record(function: str, attribute: Any, value: int) -> tuple[Any]:
        calls.append((attribute.name, value))
        return (real.CUresult.CUDA_SUCCESS,)

    monkeypatch.setattr(cuda, "cuFuncSetAttribute", record)
    driver.load_function(b"elf", "key", "gemm", 0, 1, replace(SHAPE, cluster=16))
    assert calls == [
        ("CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES", 200_000),
        ("CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED", 1),
    ]


def test_launch_config() -> None:
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    config = driver_config(replace(SHAPE, pdl=True))
    assert (config.gridDimX, config.gridDimY, config.gridDimZ) == (4, 1, 1)
    assert (config.blockDimX, config.blockDimY, config.blockDimZ) == (384, 1, 1)
    assert (config.sharedMemBytes, int(config.hStream), config.numAttrs) == (200_000, 99, 2)
    cluster, serialization = config.attrs
    assert cluster.id == real.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
    dims = cluster.value.clusterDim
    assert (dims.x, dims.y, dims.z) == (2, 1, 1)
    assert serialization.value.programmaticStreamSerializationAllowed == 1
    assert driver_config(replace(SHAPE, cluster=1)).numAttrs == 0


def driver_config(shape: LaunchShape) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "cuda", lambda: real)
        return driver.launch_config(shape, 99)


def test_persistent_grids_leave_out_sms_that_clusters_cannot_use(cuda: FakeCuda) -> None:
    cuda.active_clusters = 60
    artifact = SmallCompiler().build(small_spec(), "sm_90a", "large")
    launcher = Launcher(artifact.launch, b"elf", "key")
    kernel = launcher._load(0, CONTEXT_BASE)
    assert kernel.num_sms == 120
    single = Launcher(replace(artifact.launch, cluster=1), b"elf", "key")
    assert single._load(0, CONTEXT_BASE).num_sms == 132


def test_configurations_are_shared_and_bounded(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_MAX_CONFIGS", 4)
    artifact = SmallCompiler().build(small_spec(), "sm_90a", "large")
    kernel = Launcher(artifact.launch, b"elf", "key")._load(0, CONTEXT_BASE)
    assert kernel.config(4, 1) is kernel.config(4, 1)
    for stream in range(20):
        assert int(kernel.config(4, stream).hStream) == stream
    assert len(kernel._configs) <= 4
