"""Kernel arguments: numbers, numpy arrays and tensor maps as parameter bytes and mapped global memory."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.machine.memory import GlobalMemory
from gemmgen.emulator.ptx import ast
from gemmgen.emulator.ptx.program import Program
from gemmgen.emulator.tensor_map import MAP_BYTES, TensorMap
from gemmgen.errors import EmulationError

POINTER_BYTES = 8
MAX_GRANULE = 4
_SCALARS = {"u8": "B", "s8": "b", "b8": "B", "u16": "H", "s16": "h", "b16": "H", "u32": "I", "s32": "i", "b32": "I"}
_SCALARS |= {"u64": "Q", "s64": "q", "b64": "Q", "f32": "f", "f64": "d"}


class Uninitialized:
    """A global buffer whose contents count as not written: reading it before writing is a finding.

    Args:
        array: the numpy array, written in place by the kernel.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array


class Arguments:
    """Binds values to a kernel's parameters; arrays are mapped once however often they appear.

    Args:
        memory: receives the arrays.
    """

    def __init__(self, memory: GlobalMemory) -> None:
        self._memory = memory
        self._mapped: dict[int, int] = {}

    def bind(self, program: Program, values: Sequence[Any]) -> NDArray[np.uint8]:
        """The parameter block.

        Raises:
            EmulationError: a value does not fit its parameter.
        """
        if len(values) != len(program.params):
            names = ", ".join(p.name for p in program.params)
            need = f"{len(program.params)}: {names}"
            raise EmulationError("wrong number of parameters", where="params", got=len(values), need=need)
        for value in values:
            self._map_uninitialized(value)
        offsets = program.param_offsets
        end = max((offsets[p.name] + p.size for p in program.params), default=0)
        block = np.zeros(end, np.uint8)
        for param, value in zip(program.params, values, strict=True):
            start = offsets[param.name]
            block[start : start + param.size] = np.frombuffer(self._encode(param, value), np.uint8)
        return block

    def _map_uninitialized(self, value: Any) -> None:
        """Outputs are mapped first, so that an array that appears plainly elsewhere still counts as unwritten."""
        if isinstance(value, TensorMap):
            value = value.array
        if isinstance(value, Uninitialized):
            self._address("params", value)

    def _encode(self, param: ast.Param, value: Any) -> bytes:
        if isinstance(value, TensorMap):
            _check_size(param, MAP_BYTES, "a tensor map")
            return value.encode(self._address(param.name, value.array), param.name)
        if isinstance(value, (np.ndarray, Uninitialized)):
            _check_size(param, POINTER_BYTES, "an array")
            return struct.pack("<Q", self._address(param.name, value))
        if isinstance(value, (bytes, bytearray)):
            _check_size(param, len(value), "raw bytes")
            return bytes(value)
        return _scalar(param, value)

    def _address(self, name: str, value: Any) -> int:
        array = value.array if isinstance(value, Uninitialized) else value
        if not isinstance(array, np.ndarray):
            raise EmulationError("not a numpy array", where=name, got=type(array).__name__)
        host = array.__array_interface__["data"][0]
        if host not in self._mapped:
            self._mapped[host] = self._map(name, array, isinstance(value, Uninitialized))
        return self._mapped[host]

    def _map(self, name: str, array: np.ndarray, uninitialized: bool) -> int:
        low, high = np.lib.array_utils.byte_bounds(array)
        if low != array.__array_interface__["data"][0]:
            raise EmulationError("the array has negative strides", where=name, got=array.strides)
        memory = _memory_of(array, high - low)
        granule = min(array.dtype.itemsize, MAX_GRANULE)
        foreign = None
        if array.size * array.dtype.itemsize != high - low:
            foreign = np.ones(high - low, np.bool_)
            inside = np.ndarray((*array.shape, array.dtype.itemsize), np.bool_, foreign, 0, (*array.strides, 1))
            inside[...] = False
        unwritten: bool | NDArray[np.bool_] = uninitialized
        if foreign is not None:
            unwritten = np.ones(high - low, np.bool_) if uninitialized else foreign
        buffer = self._memory.add(name, memory, granule, uninitialized=unwritten, readonly=not array.flags.writeable)
        buffer.foreign = foreign
        return buffer.base


def _memory_of(array: np.ndarray, size: int) -> NDArray[np.uint8]:
    """The bytes an array spans, gaps of a strided one included, as a flat view."""
    if array.flags.c_contiguous:
        return array.reshape(-1).view(np.uint8)
    address = array.__array_interface__["data"][0]
    flat = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
    flat.flags.writeable = array.flags.writeable
    return flat


def _check_size(param: ast.Param, size: int, what: str) -> None:
    if param.size != size:
        raise EmulationError(
            f"{what} for a parameter of another size", where=param.name, got=f"{size} bytes", need=f"{param.size} bytes"
        )


def _scalar(param: ast.Param, value: Any) -> bytes:
    if param.type not in _SCALARS or param.size not in (1, 2, 4, 8) or isinstance(value, (str, type(None))):
        raise EmulationError(
            "this value cannot be passed here",
            where=param.name,
            got=repr(value),
            need=f".{param.type}, {param.size} bytes",
        )
    try:
        code = _SCALARS[param.type]
        if code in "fd":
            return struct.pack(f"<{code}", float(value))
        number, bits = int(value), 8 * param.size
        if number != value or not -(1 << (bits - 1)) <= number < 1 << bits:
            raise ValueError(f"{value} does not fit {bits} bits")
        return (number & ((1 << bits) - 1)).to_bytes(param.size, "little")
    except (struct.error, TypeError, ValueError, OverflowError) as error:
        raise EmulationError(
            "the value does not fit the parameter", where=param.name, got=repr(value), need=f".{param.type}"
        ) from error
