"""A CUDA driver made of Python, device arrays in host memory, and a compiler small enough for tests of the runtime."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cuda.bindings import driver as real

from gemmgen.runtime import driver
from gemmgen.runtime.launch_plan import LaunchPlan, PointerParam, ScalarParam, TensorMapParam
from gemmgen.spec import GemmSpec, load_spec

SUCCESS = real.CUresult.CUDA_SUCCESS
CONTEXT_BASE = 0x1000
NUM_SMS = 132
E4M3, BF16 = ml_dtypes.float8_e4m3fn, ml_dtypes.bfloat16
_ENCODE = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64),
    ctypes.POINTER(ctypes.c_uint64), ctypes.POINTER(ctypes.c_uint32), ctypes.POINTER(ctypes.c_uint32),
    ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int,
)  # fmt: skip


@dataclass
class Launch:
    """What a launch was asked to do."""

    entry: str
    grid: int
    threads: int
    smem_bytes: int
    cluster: int
    pdl: bool
    stream: int
    context: int
    m: int


@dataclass
class FakeCuda:
    """The driver calls that the runtime makes; everything else (types, enums) is the real bindings'."""

    launches: list[Launch] = field(default_factory=list)
    modules: list[tuple[int, bytes]] = field(default_factory=list)
    memsets: list[int] = field(default_factory=list)
    contexts: list[int] = field(default_factory=list)
    devices: int = 2
    active_clusters: int = 60
    capability: tuple[int, int] = (9, 0)
    owners: dict[int, int] = field(default_factory=dict)
    launch_status: Any = SUCCESS

    def __post_init__(self) -> None:
        self._encode = _ENCODE(self._encode_tiled)

    def __getattr__(self, name: str) -> Any:
        return getattr(real, name)

    def cuDeviceGetCount(self) -> tuple[Any, int]:
        return SUCCESS, self.devices

    def cuDeviceGet(self, index: int) -> tuple[Any, int]:
        return (SUCCESS, index) if index < self.devices else (real.CUresult.CUDA_ERROR_INVALID_DEVICE, 0)

    def cuDeviceGetName(self, size: int, device: int) -> tuple[Any, bytes]:
        return SUCCESS, b"Fake H200\0\0"

    def cuDeviceGetAttribute(self, kind: Any, device: int) -> tuple[Any, int]:
        kinds = real.CUdevice_attribute
        return SUCCESS, {
            kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: self.capability[0],
            kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: self.capability[1],
            kinds.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: NUM_SMS,
            kinds.CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: 60 << 20,
            kinds.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: 232448,
        }[kind]

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[Any, int]:
        return SUCCESS, CONTEXT_BASE + device

    def cuCtxGetCurrent(self) -> tuple[Any, int]:
        return SUCCESS, self.contexts[-1] if self.contexts else 0

    def cuCtxGetDevice(self) -> tuple[Any, int]:
        return SUCCESS, self.contexts[-1] % CONTEXT_BASE

    def cuCtxPushCurrent(self, context: Any) -> tuple[Any]:
        self.contexts.append(int(context))
        return (SUCCESS,)

    def cuCtxPopCurrent(self) -> tuple[Any, int]:
        return SUCCESS, self.contexts.pop()

    def cuModuleLoadData(self, image: bytes) -> tuple[Any, int]:
        self.modules.append((self.contexts[-1], image))
        return SUCCESS, len(self.modules)

    def cuModuleGetFunction(self, module: int, entry: bytes) -> tuple[Any, str]:
        return SUCCESS, entry.decode()

    def cuFuncSetAttribute(self, function: str, attribute: Any, value: int) -> tuple[Any]:
        return (SUCCESS,)

    def cuFuncLoad(self, function: str) -> tuple[Any]:
        return (SUCCESS,)

    def cuOccupancyMaxActiveClusters(self, function: str, config: Any) -> tuple[Any, int]:
        return SUCCESS, self.active_clusters

    def cuPointerGetAttribute(self, attribute: Any, address: int) -> tuple[Any, int]:
        return SUCCESS, self.owners.get(address, 0)

    def cuStreamSynchronize(self, stream: Any) -> tuple[Any]:
        return (SUCCESS,)

    def cuGetErrorString(self, status: Any) -> tuple[Any, bytes]:
        return SUCCESS, b"what the driver says"

    def cuGetProcAddress(self, symbol: bytes, version: int, flags: Any) -> tuple[Any, int, int]:
        assert symbol == b"cuTensorMapEncodeTiled"
        return SUCCESS, ctypes.cast(self._encode, ctypes.c_void_p).value or 0, 0

    def cuMemsetD2D8Async(self, address: Any, pitch: int, value: int, width: int, rows: int, stream: Any) -> tuple[Any]:
        for row in range(rows):
            ctypes.memset(int(address) + row * pitch, value, width)
        self.memsets.append(self.contexts[-1])
        return (SUCCESS,)

    def cuLaunchKernelEx(self, config: Any, function: str, params: int, extra: int) -> tuple[Any]:
        """Run ``D = A @ Bᵀ`` from the argument block of `SmallCompiler`'s kernels."""
        ids = real.CUlaunchAttributeID
        attributes = {attribute.id: attribute.value for attribute in config.attrs}
        cluster = attributes.get(ids.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
        table = (ctypes.c_uint64 * 10).from_address(params)
        a, b, d = (_matrix(address, dtype) for address, dtype in zip(table[:3], (E4M3, E4M3, BF16), strict=True))
        m = ctypes.c_int32.from_address(table[5]).value
        sa = _strided(_word(table[3]), (m, -(-a.shape[1] // 128)), (_word(table[6]), _word(table[7])))
        sb = _strided(_word(table[4]), (-(-b.shape[0] // 128), sa.shape[1]), (_word(table[8]), _word(table[9])))
        left = a.astype(np.float32) * sa.repeat(128, 1)[:, : a.shape[1]]
        right = b.astype(np.float32) * sb.repeat(128, 0).repeat(128, 1)[: b.shape[0], : b.shape[1]]
        d[...] = left @ right.T
        self.launches.append(
            Launch(
                function, config.gridDimX, config.blockDimX, config.sharedMemBytes,
                cluster.clusterDim.x if cluster else 1,
                ids.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION in attributes,
                int(config.hStream), self.contexts[-1] if self.contexts else 0, m,
            )
        )  # fmt: skip
        return (self.launch_status,)

    def _encode_tiled(
        self, destination: int, dtype: int, rank: int, address: int, extents: Any, strides: Any, box: Any, *rest: Any
    ) -> int:
        if destination % 64 or address % 16 or strides[0] % 16 or rank != 2:
            return int(real.CUresult.CUDA_ERROR_INVALID_VALUE)
        ctypes.memmove(destination, struct.pack("<5Q", address, extents[0], extents[1], strides[0], dtype), 40)
        return 0


def _word(address: int) -> int:
    return ctypes.c_int64.from_address(address).value


def _matrix(encoded: int, dtype: Any) -> np.ndarray:
    address, cols, rows, pitch, _ = struct.unpack("<5Q", ctypes.string_at(encoded, 40))
    item = np.dtype(dtype).itemsize
    raw = (ctypes.c_char * ((rows - 1) * pitch + cols * item)).from_address(address)
    return np.ndarray((rows, cols), dtype, raw, strides=(pitch, item))


def _strided(address: int, shape: tuple[int, int], strides: tuple[int, int]) -> np.ndarray:
    reach = sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True)) + 1
    raw = (ctypes.c_char * (4 * reach)).from_address(address)
    return np.ndarray(shape, np.float32, raw, strides=tuple(4 * stride for stride in strides))


class DeviceArray:
    """A NumPy array that says it lies on a GPU."""

    def __init__(self, array: np.ndarray, cuda: FakeCuda, device: int = 0) -> None:
        self.array = array
        address = array.__array_interface__["data"][0]
        cuda.owners[address] = device
        names = {E4M3: "|u1", BF16: "<V2"}
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "strides": array.strides,
            "typestr": names.get(array.dtype.type, array.dtype.str),
            "data": (address, False),
            "version": 3,
        }


SPEC_VALUES = {
    "name": "fp8_gemm",
    "problem": {"kind": "dense", "layout": "NT", "dims": {"M": "dynamic", "N": "dynamic", "K": "dynamic"}},
    "operands": {
        "a": {"dtype": "e4m3", "scale": {"block": [1, 128]}},
        "b": {"dtype": "e4m3", "scale": {"block": [128, 128]}},
        "d": {"dtype": "bf16"},
    },
    "targets": ["sm_90a"],
}

PARAMS = (
    TensorMapParam("tma_a", "a", "e4m3", (128, 128), "128B"),
    TensorMapParam("tma_b", "b", "e4m3", (128, 128), "128B"),
    TensorMapParam("tma_d", "d", "bf16", (64, 128), "128B"),
    PointerParam("sa", "sa"),
    PointerParam("sb", "sb"),
    ScalarParam("m", "int32", "M"),
    ScalarParam("stride_sa_m", "int64", "stride:sa:0"),
    ScalarParam("stride_sa_k", "int64", "stride:sa:1"),
    ScalarParam("stride_sb_n", "int64", "stride:sb:0"),
    ScalarParam("stride_sb_k", "int64", "stride:sb:1"),
)

SOURCE = """struct __align__(64) CUtensorMap { unsigned long long opaque[16]; };
extern "C" __global__ void __launch_bounds__(384, 1) NAME(
    const __grid_constant__ CUtensorMap tma_a, const __grid_constant__ CUtensorMap tma_b,
    const __grid_constant__ CUtensorMap tma_d, const float* sa, const float* sb, int m,
    long long stride_sa_m, long long stride_sa_k, long long stride_sb_n, long long stride_sb_k) {}
"""


def small_spec(**dims: int) -> GemmSpec:
    """The FP8 spec, all dimensions dynamic but the given ones."""
    return load_spec(SPEC_VALUES).bind(**dims)


@dataclass(frozen=True)
class Entry:
    m_min: int
    m_max: int | None
    schedule: str


@dataclass(frozen=True)
class SmallArtifact:
    name: str
    source: str
    launch: LaunchPlan
    ir: dict[str, str]
    schedule: str
    cubin_pass: Any = None


@dataclass
class SmallCompiler:
    """Two kernels per plan, whose bodies are empty; counts its runs."""

    plans: int = 0
    builds: list[str] = field(default_factory=list)
    body: str = ""

    def plan(self, spec: GemmSpec, target: str, scale_copy: str = "bulk", tuned: Any = None) -> tuple[Entry, ...]:
        self.plans += 1
        return Entry(1, 64, "small"), Entry(65, None, "large")

    def build(self, spec: GemmSpec, target: str, schedule: str) -> SmallArtifact:
        self.builds.append(schedule)
        name = f"gemm_{schedule}"
        source = SOURCE.replace("NAME", name).replace("{}", "{" + self.body + "}")
        plan = LaunchPlan(name, target, 384, 2, 200_000, (128, 128, 1), True, PARAMS, pdl=schedule == "small")
        return SmallArtifact(name, source, plan, {"tile": f"tile IR of {schedule}"}, schedule)


@pytest.fixture(name="cuda")
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """The Python driver, in place of the real one."""
    fake = FakeCuda()
    caches = (driver.device_properties, driver.primary_context, driver._encode_function)
    for cached in caches:
        cached.cache_clear()
    monkeypatch.setattr(driver, "cuda", lambda: fake)
    monkeypatch.setattr(driver, "_modules", {})
    yield fake
    for cached in caches:
        cached.cache_clear()
