"""Launching: an argument block packed once per set of operands, then one driver call per launch."""

from __future__ import annotations

import ctypes
import struct
from typing import Any, NamedTuple

from gemmgen.runtime import driver
from gemmgen.runtime.driver import Function, LaunchShape
from gemmgen.runtime.launch_plan import TENSOR_MAP_BYTES, LaunchPlan, Param, PointerParam, TensorMapParam
from gemmgen.runtime.tensormap import MapWriter
from gemmgen.runtime.tensors import TensorArg

# Host alignment of encoded maps: 64 bytes before CUDA 13, 128 since.
_MAP_ALIGN = 128
_SLOT_BYTES = 8
_MAX_CONFIGS = 256


class Problem(NamedTuple):
    """The operands and sizes of one call, checked.

    Attributes:
        m: rows of the output.
        n: its columns.
        k: length of the reduction.
        operands: every tensor by its name in the launch plan (``a``, ``sa``, ``b``, ``sb``, ``d``).
        device: index of the GPU that holds them all.
    """

    m: int
    n: int
    k: int
    operands: dict[str, TensorArg]
    device: int

    @property
    def is_empty(self) -> bool:
        """Whether there is no output element."""
        return self.m == 0 or self.n == 0


class LoadedKernel:
    """A kernel in one context, with its launch configurations.

    Args:
        plan: how to launch it.
        function: the loaded function.
        num_sms: SMs that it can occupy at once.
    """

    def __init__(self, plan: LaunchPlan, function: Function, num_sms: int) -> None:
        self.function = function
        self.num_sms = num_sms
        self.packer = Packer(plan.params)
        self._plan = plan
        self._configs: dict[tuple[int, int], Any] = {}

    def config(self, grid: int, stream: int) -> Any:
        """The launch configuration for a grid on a stream. It is never changed, so launches may share it."""
        config = self._configs.get((grid, stream))
        if config is None:
            if len(self._configs) >= _MAX_CONFIGS:
                self._configs = {}
            config = self._configs[grid, stream] = driver.launch_config(shape_of(self._plan, grid), stream)
        return config


class PackedLaunch:
    """One kernel with all its arguments packed; launching it is one driver call.

    Nothing in it changes after construction, so threads may share it. It holds addresses, not tensors: whoever
    launches it keeps those alive.
    """

    __slots__ = ("_api", "_block", "_context", "_grid", "_handle", "_kernel", "_params")

    def __init__(self, kernel: LoadedKernel, problem: Problem, grid: int) -> None:
        self._api = driver.cuda()
        self._kernel = kernel
        self._handle = kernel.function.handle
        self._context = kernel.function.context
        self._grid = grid
        self._block, self._params = kernel.packer.pack(problem)

    def launch(self, stream: int) -> None:
        """Launch on ``stream``, in the function's own context.

        Raises:
            DriverError: the driver refused the launch, or an earlier kernel failed.
        """
        api = self._api
        config = self._kernel.config(self._grid, stream)
        if int(api.cuCtxGetCurrent()[1]) == self._context:
            (status,) = api.cuLaunchKernelEx(config, self._handle, self._params, 0)
        else:
            with driver.current(self._context):
                (status,) = api.cuLaunchKernelEx(config, self._handle, self._params, 0)
        if status:
            raise driver.driver_error(api, status)


class ZeroFill:
    """Stands in for a launch where K is 0: the product is exactly zero."""

    __slots__ = ("_context", "_output")

    def __init__(self, output: TensorArg, context: int) -> None:
        self._output = output
        self._context = context

    def launch(self, stream: int) -> None:
        """Write zeros into the output."""
        output = self._output
        rows, cols = output.shape
        width = cols * output.item_bytes
        pitch = output.strides[0] * output.item_bytes if rows > 1 else width
        driver.fill_zeros(output.address, pitch, width, rows, stream, self._context)


class NoLaunch:
    """Stands in for a launch where the output is empty."""

    __slots__ = ()

    def launch(self, stream: int) -> None:
        """Do nothing."""


class Launcher:
    """One compiled kernel: loads itself once per context and packs launches.

    Args:
        plan: how to launch it.
        cubin: its ELF image.
        cubin_key: the image's content hash.
    """

    def __init__(self, plan: LaunchPlan, cubin: bytes, cubin_key: str) -> None:
        self.plan = plan
        self._cubin = cubin
        self._cubin_key = cubin_key
        self._loaded: dict[int, LoadedKernel] = {}

    def load(self, device: int) -> None:
        """Load the kernel in the device's primary context, so that later launches may be captured into a graph."""
        self._load(device, driver.primary_context(device))

    def pack(self, problem: Problem, context: int, num_sms: int | None = None) -> PackedLaunch:
        """A launch of this kernel for one set of operands.

        Args:
            problem: operands with at least one output element and ``k > 0``.
            context: the context that the operands' stream belongs to.
            num_sms: SMs a persistent kernel may occupy; all that it can by default.
        """
        kernel = self._loaded.get(context) or self._load(problem.device, context)
        available = kernel.num_sms if num_sms is None else min(num_sms, kernel.num_sms)
        return PackedLaunch(kernel, problem, self.plan.grid(problem.m, problem.n, available))

    def _load(self, device: int, context: int) -> LoadedKernel:
        plan = self.plan
        shape = shape_of(plan, plan.cluster)
        function = driver.load_function(self._cubin, self._cubin_key, plan.entry, device, context, shape)
        num_sms = driver.device_properties(device).num_sms
        if plan.cluster > 1:
            num_sms = min(num_sms, driver.max_active_clusters(function, shape) * plan.cluster)
        kernel = self._loaded[context] = LoadedKernel(plan, function, num_sms)
        return kernel


class Packer:
    """Fills argument blocks for one kernel's parameters.

    A block holds the encoded tensor maps, then the ``kernelParams`` array, then one 8-byte slot per other parameter
    (the driver reads as many of its bytes as the parameter has).

    Args:
        params: the kernel's parameters, in order.
    """

    def __init__(self, params: tuple[Param, ...]) -> None:
        maps = [param for param in params if isinstance(param, TensorMapParam)]
        values = [param for param in params if not isinstance(param, TensorMapParam)]
        self._writers = [(index * TENSOR_MAP_BYTES, MapWriter(param)) for index, param in enumerate(maps)]
        self._table = len(maps) * TENSOR_MAP_BYTES
        slots = self._table + len(params) * _SLOT_BYTES
        places = {param.name: offset for param, (offset, _) in zip(maps, self._writers, strict=True)}
        places |= {param.name: slots + index * _SLOT_BYTES for index, param in enumerate(values)}
        self._offsets = [places[param.name] for param in params]
        self._sources = [_value_source(param) for param in values]
        self._words = struct.Struct(f"<{len(params) + len(values)}q")
        self._block_type = ctypes.c_char * (self._table + self._words.size + _MAP_ALIGN)

    def pack(self, problem: Problem) -> tuple[Any, int]:
        """A block with ``problem``'s arguments, and the address of its ``kernelParams`` array."""
        block = self._block_type()
        address = ctypes.addressof(block)
        shift = -address % _MAP_ALIGN
        base = address + shift
        operands = problem.operands
        for offset, writer in self._writers:
            writer.write(base + offset, operands[writer.operand])
        words = [base + offset for offset in self._offsets]
        for name, axis in self._sources:
            if axis is None:
                words.append(operands[name].address)
            elif axis < 0:
                words.append(getattr(problem, name))
            else:
                words.append(operands[name].strides[axis])
        self._words.pack_into(block, shift + self._table, *words)
        return block, base + self._table


def shape_of(plan: LaunchPlan, grid: int) -> LaunchShape:
    """The dimensions of a launch of ``grid`` CTAs."""
    return LaunchShape(grid, plan.threads, plan.cluster, plan.smem_bytes, plan.pdl)


def _value_source(param: Param) -> tuple[str, int | None]:
    """Where a value comes from: an operand's address (None), one of its strides (an axis), or a size (-1)."""
    if isinstance(param, PointerParam):
        return param.operand, None
    assert not isinstance(param, TensorMapParam)
    if not param.value.startswith("stride:"):
        return param.value.lower(), -1
    _, operand, axis = param.value.split(":")
    return operand, int(axis)
