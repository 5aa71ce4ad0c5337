"""The thin layer over the CUDA driver: contexts, modules, functions, device properties, tensor-map encoding.

Nothing here touches the driver before it is called. Handles are kept as integers, since comparing and hashing those is
what a launch spends its time on.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from gemmgen.errors import DriverError

PORTABLE_CLUSTER = 8
_TENSOR_MAP_SINCE = 12000
_DRIVER_FIX = "install an NVIDIA driver (580 or newer); without one kernels can be compiled and emulated, not run"
_FIXES = {
    "CUDA_ERROR_NO_DEVICE": "run where an NVIDIA GPU is visible (see CUDA_VISIBLE_DEVICES)",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "compile for this GPU's own target; a cubin runs on one architecture",
    "CUDA_ERROR_INVALID_IMAGE": "clear the kernel cache (gemmgen cache clear) and compile again",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "install a newer NVIDIA driver",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "reboot, or install the driver that matches the loaded kernel module",
    "CUDA_ERROR_OUT_OF_MEMORY": "free device memory",
    "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": "load kernels before capturing: kernel.plan().load(device)",
    "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED": "load kernels before capturing: kernel.plan().load(device)",
    "CUDA_ERROR_ILLEGAL_ADDRESS": "an earlier kernel failed; run with CUDA_LAUNCH_BLOCKING=1 or compute-sanitizer",
}


@dataclass(frozen=True)
class DeviceProperties:
    """What kernels and their plans need to know of a GPU.

    Attributes:
        name: marketing name.
        capability: compute capability, e.g. ``(9, 0)``.
        num_sms: streaming multiprocessors.
        l2_bytes: size of the L2 cache.
        max_smem_bytes: dynamic shared memory that one CTA may opt in to.
    """

    name: str
    capability: tuple[int, int]
    num_sms: int
    l2_bytes: int
    max_smem_bytes: int


@dataclass(frozen=True)
class LaunchShape:
    """The dimensions of a launch: CTAs in the grid, threads per CTA, CTAs per cluster, dynamic shared memory."""

    grid: int
    threads: int
    cluster: int
    smem_bytes: int
    pdl: bool = False


@dataclass(frozen=True)
class Function:
    """A kernel that is loaded in one context.

    Attributes:
        handle: the ``CUfunction``.
        context: the ``CUcontext`` it belongs to, as an integer.
        device: index of the context's device.
    """

    handle: Any
    context: int
    device: int


@cache
def cuda() -> ModuleType:
    """The driver bindings, initialised.

    Raises:
        DriverError: there is no driver, or it does not start.
    """
    try:
        driver = import_module("cuda.bindings.driver")

        (status,) = driver.cuInit(0)
    except (ImportError, RuntimeError, OSError) as error:
        raise DriverError(
            "no CUDA driver on this machine", got=str(error).splitlines()[0], need="libcuda.so.1", fix=_DRIVER_FIX
        ) from error
    if status != driver.CUresult.CUDA_SUCCESS:
        raise driver_error(driver, status)
    return driver


def driver_error(driver: ModuleType, status: Any) -> DriverError:
    """A :class:`DriverError` with the status's name, the driver's sentence for it, and a fix."""
    name = getattr(status, "name", str(status))
    text = driver.cuGetErrorString(status)[1]
    sentence = text.decode() if isinstance(text, bytes) else str(text)
    return DriverError(
        "the CUDA driver reported an error", got=f"{name} ({int(status)}): {sentence}", fix=_FIXES.get(name)
    )


def checked(result: tuple[Any, ...]) -> Any:
    """The payload of a driver call's ``(status, value…)`` answer.

    Raises:
        DriverError: the status is not success.
    """
    if result[0]:
        raise driver_error(cuda(), result[0])
    return result[1] if len(result) == 2 else result[1:]


def device_count() -> int:
    """Number of GPUs; 0 where there is no driver. Never raises."""
    try:
        return checked(cuda().cuDeviceGetCount())
    except DriverError:
        return 0


@cache
def device_properties(device: int) -> DeviceProperties:
    """Properties of the GPU with index ``device``.

    Raises:
        DriverError: no such GPU, or no driver.
    """
    driver = cuda()
    handle = checked(driver.cuDeviceGet(device))
    kinds = driver.CUdevice_attribute

    def attribute(name: str) -> int:
        return checked(driver.cuDeviceGetAttribute(getattr(kinds, f"CU_DEVICE_ATTRIBUTE_{name}"), handle))

    return DeviceProperties(
        name=checked(driver.cuDeviceGetName(256, handle)).split(b"\x00")[0].decode(),
        capability=(attribute("COMPUTE_CAPABILITY_MAJOR"), attribute("COMPUTE_CAPABILITY_MINOR")),
        num_sms=attribute("MULTIPROCESSOR_COUNT"),
        l2_bytes=attribute("L2_CACHE_SIZE"),
        max_smem_bytes=attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
    )


@cache
def primary_context(device: int) -> int:
    """The device's primary context, which torch and the CUDA runtime use; retained for the life of the process."""
    driver = cuda()
    return int(checked(driver.cuDevicePrimaryCtxRetain(checked(driver.cuDeviceGet(device)))))


def context_for(device: int) -> int:
    """The calling thread's current context if it is on ``device``, else the device's primary one."""
    driver = cuda()
    current = int(checked(driver.cuCtxGetCurrent()))
    if current and int(checked(driver.cuCtxGetDevice())) == int(checked(driver.cuDeviceGet(device))):
        return current
    return primary_context(device)


@contextmanager
def current(context: int) -> Iterator[None]:
    """Make ``context`` the thread's current one for the duration of a ``with`` block."""
    driver = cuda()
    checked(driver.cuCtxPushCurrent(driver.CUcontext(context)))
    try:
        yield
    finally:
        checked(driver.cuCtxPopCurrent())


_modules: dict[tuple[int, str], Any] = {}
_modules_lock = threading.Lock()


def load_function(cubin: bytes, cubin_key: str, entry: str, device: int, context: int, shape: LaunchShape) -> Function:
    """Load a kernel and raise its shared-memory and cluster limits, so that nothing is left to do at launch.

    Args:
        cubin: the ELF image.
        cubin_key: its content hash; a cubin is loaded once per context.
        entry: the kernel's symbol.
        device: index of the context's device.
        context: where to load it.
        shape: how it will be launched; the grid does not matter.

    Raises:
        DriverError: the driver refuses the image, for example on another architecture.
    """
    driver = cuda()
    attributes = driver.CUfunction_attribute
    with current(context):
        with _modules_lock:
            module = _modules.get((context, cubin_key))
            if module is None:
                module = _modules[context, cubin_key] = checked(driver.cuModuleLoadData(cubin))
        handle = checked(driver.cuModuleGetFunction(module, entry.encode()))
        limit = attributes.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        checked(driver.cuFuncSetAttribute(handle, limit, shape.smem_bytes))
        if shape.cluster > PORTABLE_CLUSTER:
            wide = attributes.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
            checked(driver.cuFuncSetAttribute(handle, wide, 1))
        checked(driver.cuFuncLoad(handle))
    return Function(handle, context, device)


def launch_config(shape: LaunchShape, stream: int) -> Any:
    """A ``CUlaunchConfig`` for ``shape`` on ``stream``."""
    driver = cuda()
    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = shape.grid, 1, 1
    config.blockDimX, config.blockDimY, config.blockDimZ = shape.threads, 1, 1
    config.sharedMemBytes = shape.smem_bytes
    config.hStream = driver.CUstream(stream)
    kinds = driver.CUlaunchAttributeID
    attributes = []
    if shape.cluster > 1:
        cluster = driver.CUlaunchAttribute()
        cluster.id = kinds.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        cluster.value.clusterDim.x, cluster.value.clusterDim.y, cluster.value.clusterDim.z = shape.cluster, 1, 1
        attributes.append(cluster)
    if shape.pdl:
        serialization = driver.CUlaunchAttribute()
        serialization.id = kinds.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        serialization.value.programmaticStreamSerializationAllowed = 1
        attributes.append(serialization)
    config.attrs = attributes
    config.numAttrs = len(attributes)
    return config


def max_active_clusters(function: Function, shape: LaunchShape) -> int:
    """How many clusters of this kernel the GPU runs at once; a cluster that spans a broken GPC leaves SMs idle."""
    with current(function.context):
        return checked(cuda().cuOccupancyMaxActiveClusters(function.handle, launch_config(shape, 0)))


class TiledEncoder:
    """``cuTensorMapEncodeTiled`` for 2-D maps with fixed element type, box and swizzle.

    It calls the driver's own function: the bindings' wrapper encodes into a Python object, which is not aligned to 64
    bytes as the driver needs (NVIDIA/cuda-python pull request 1692).

    Args:
        dtype: suffix of ``CU_TENSOR_MAP_DATA_TYPE_``.
        box: extents in elements, innermost first.
        swizzle: suffix of ``CU_TENSOR_MAP_SWIZZLE_``.
        l2_promotion: suffix of ``CU_TENSOR_MAP_L2_PROMOTION_``.
    """

    def __init__(self, dtype: str, box: tuple[int, int], swizzle: str, l2_promotion: str) -> None:
        driver = cuda()
        self._encode = _encode_function()
        self._dtype = int(getattr(driver.CUtensorMapDataType, f"CU_TENSOR_MAP_DATA_TYPE_{dtype}"))
        self._box = (ctypes.c_uint32 * 2)(*box)
        self._element_strides = (ctypes.c_uint32 * 2)(1, 1)
        self._modes = (
            int(driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE),
            int(getattr(driver.CUtensorMapSwizzle, f"CU_TENSOR_MAP_SWIZZLE_{swizzle}")),
            int(getattr(driver.CUtensorMapL2promotion, f"CU_TENSOR_MAP_L2_PROMOTION_{l2_promotion}")),
            int(driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
        )

    def encode(self, destination: int, address: int, rows: int, cols: int, pitch_bytes: int) -> None:
        """Write the 128 bytes of a map to host memory.

        Args:
            destination: host address, a multiple of 128.
            address: device address of the matrix.
            rows: its rows.
            cols: its columns, in elements.
            pitch_bytes: distance between rows.
        """
        extents, strides = (ctypes.c_uint64 * 2)(cols, rows), (ctypes.c_uint64 * 1)(pitch_bytes)
        status = self._encode(
            destination, self._dtype, 2, address, extents, strides, self._box, self._element_strides, *self._modes
        )
        if status:
            driver = cuda()
            raise driver_error(driver, driver.CUresult(status))


@cache
def _encode_function() -> Any:
    """The driver's ``cuTensorMapEncodeTiled`` as a ctypes function."""
    driver = cuda()
    flags = driver.CUdriverProcAddress_flags.CU_GET_PROC_ADDRESS_DEFAULT
    pointer, _ = checked(driver.cuGetProcAddress(b"cuTensorMapEncodeTiled", _TENSOR_MAP_SINCE, flags))
    integer, reference = ctypes.c_int, ctypes.c_void_p
    prototype = ctypes.CFUNCTYPE(
        integer, reference, integer, ctypes.c_uint32, reference, reference, reference, reference, reference,
        integer, integer, integer, integer,
    )  # fmt: skip
    return prototype(int(pointer))


def fill_zeros(address: int, pitch_bytes: int, width_bytes: int, rows: int, stream: int, context: int) -> None:
    """Write zero bytes into a pitched 2-D array, in stream order."""
    driver = cuda()
    with current(context):
        checked(
            driver.cuMemsetD2D8Async(
                driver.CUdeviceptr(address), pitch_bytes, 0, width_bytes, rows, driver.CUstream(stream)
            )
        )
