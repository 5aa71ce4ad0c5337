"""Run gemmgen's own kernels: a launch plan and the operands of a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gemmgen.emulator.api import emulate
from gemmgen.emulator.arguments import Uninitialized
from gemmgen.emulator.report import Report
from gemmgen.emulator.tensor_map import TensorMap
from gemmgen.errors import EmulationError
from gemmgen.runtime.launch_plan import LaunchPlan, Param, PointerParam, TensorMapParam

DEFAULT_OUTPUTS = ("d",)
PITCH_ALIGN = 16


def emulate_plan(
    plan: LaunchPlan,
    ptx: str,
    operands: Mapping[str, np.ndarray],
    sizes: tuple[int, int, int],
    *,
    outputs: tuple[str, ...] = DEFAULT_OUTPUTS,
    num_sms: int = 132,
    seed: int = 0,
    schedule: str = "fifo",
    numerics: str = "hardware",
    source: str | None = None,
) -> Report:
    """Emulate one launch that a plan describes.

    Args:
        plan: the kernel's launch plan.
        ptx: its PTX.
        operands: numpy arrays by the plan's operand names (``a``, ``b``, ``sa``, ``sb``, ``d``), of the element type's
            width; rows may be padded. Outputs are written in place.
        sizes: M, N and K of the call.
        outputs: operands that count as unwritten before the launch.
        num_sms: SMs that the grid of a persistent kernel is made for.
        seed: as for ``emulate``.
        schedule: as for ``emulate``.
        numerics: as for ``emulate``.
        source: as for ``emulate``.

    Raises:
        EmulationError: an operand is missing, or the PTX uses something the emulator does not know.
    """
    binder = _Binder(operands, sizes, outputs)
    params = [binder.value(param) for param in plan.params]
    m, n, _ = sizes
    return emulate(
        ptx,
        plan.entry,
        plan.grid(m, n, num_sms),
        plan.threads,
        plan.cluster,
        plan.smem_bytes,
        params,
        seed=seed,
        schedule=schedule,
        numerics=numerics,
        source=source,
        num_sms=num_sms,
    )


class _Binder:
    """Turns a plan's parameters into arguments of ``emulate``."""

    def __init__(
        self, operands: Mapping[str, np.ndarray], sizes: tuple[int, int, int], outputs: tuple[str, ...]
    ) -> None:
        self._operands = operands
        self._sizes = dict(zip("MNK", sizes, strict=True))
        self._outputs = outputs

    def value(self, param: Param) -> Any:
        """The argument for one parameter."""
        if isinstance(param, PointerParam):
            return self._argument(param.operand)
        if isinstance(param, TensorMapParam):
            return self._tensor_map(param)
        if param.value in self._sizes:
            return self._sizes[param.value]
        _, operand, axis = param.value.split(":")
        array = self._operand(operand)
        return array.strides[int(axis)] // array.dtype.itemsize

    def _operand(self, name: str) -> np.ndarray:
        if name not in self._operands:
            given = ", ".join(self._operands)
            raise EmulationError("the launch plan needs another operand", where=name, got=given, need=name)
        return self._operands[name]

    def _argument(self, name: str) -> Any:
        array = self._operand(name)
        return Uninitialized(array) if name in self._outputs else array

    def _tensor_map(self, param: TensorMapParam) -> TensorMap:
        array = self._operand(param.operand)
        if array.ndim != len(param.box):
            raise EmulationError(
                "the operand has another rank than its tensor map",
                where=param.operand,
                got=array.shape,
                need="2 dimensions",
            )
        (rows, cols), (row_pitch, col_pitch) = array.shape, array.strides
        if param.transposed:
            rows, cols, row_pitch, col_pitch = cols, rows, col_pitch, row_pitch
        if col_pitch != array.dtype.itemsize and cols > 1:
            raise EmulationError(
                "the map's rows are not contiguous", where=param.operand, got=f"strides {array.strides}"
            )
        if rows == 1:
            # The pitch of a single row is never used, and numpy may give it any value.
            row_pitch = -(-cols * array.dtype.itemsize // PITCH_ALIGN) * PITCH_ALIGN
        argument = self._argument(param.operand)
        return TensorMap(argument, (cols, rows), (row_pitch,), param.box, param.dtype, param.swizzle)
