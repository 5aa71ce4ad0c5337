"""Tensor maps: the rules of ``cuTensorMapEncodeTiled`` checked in Python, then the encoded 128 bytes.

The rules are checked without a driver, so that a wrong argument is answered with its name and a fix rather than with
``CUDA_ERROR_INVALID_VALUE``. Rules about the box are the launch plan's and are checked when that is built.
"""

from __future__ import annotations

from gemmgen.errors import ArgumentError
from gemmgen.runtime import driver
from gemmgen.runtime.dtypes import ITEM_BYTES
from gemmgen.runtime.launch_plan import TensorMapParam
from gemmgen.runtime.tensors import TensorArg

ALIGN_BYTES = 16
MAX_EXTENT = 1 << 32
MAX_STRIDE_BYTES = 1 << 40
_DRIVER_TYPES = {
    "e4m3": "UINT8",
    "e5m2": "UINT8",
    "ue8m0": "UINT8",
    "u8": "UINT8",
    "bf16": "BFLOAT16",
    "f16": "FLOAT16",
    "u16": "UINT16",
    "ue8m0x4": "UINT32",
    "f32": "FLOAT32",
    "i32": "INT32",
    "u32": "UINT32",
    "i64": "INT64",
    "f64": "FLOAT64",
}


def check_tma_layout(tensor: TensorArg, dtype: str) -> None:
    """Check that TMA can step through a 2-D row-major operand.

    Args:
        tensor: the operand; rank 2, at least one row and one column.
        dtype: the element type that the kernel reads it as.

    Raises:
        ArgumentError: its strides or an extent break a rule of the hardware.
    """
    rows, cols = tensor.shape
    if cols > 1 and tensor.strides[1] != 1:
        raise ArgumentError(
            "elements of a row must be adjacent",
            where=tensor.name,
            got=f"strides {tuple(tensor.strides)} (elements)",
            need="stride 1 along the last dimension",
            fix=f"pass {tensor.name}.contiguous()",
        )
    if rows > 1:
        _check_row_pitch(tensor, ITEM_BYTES[dtype])
    if rows > MAX_EXTENT or cols > MAX_EXTENT:
        raise ArgumentError(
            "an extent is too large for TMA", where=tensor.name, got=f"shape {tuple(tensor.shape)}", need="at most 2^32"
        )


def check_tma_address(tensor: TensorArg, dtype: str) -> None:
    """Check that an operand starts where TMA can read it.

    Raises:
        ArgumentError: its first element is not 16-byte aligned.
    """
    misalignment = tensor.address % ALIGN_BYTES
    if misalignment:
        raise ArgumentError(
            "the data is not 16-byte aligned, which TMA needs",
            where=tensor.name,
            got=f"address {tensor.address:#x}, {misalignment} bytes past a multiple of 16",
            need=f"slices that start at a multiple of {ALIGN_BYTES // ITEM_BYTES[dtype]} elements",
            fix=f"pass {tensor.name}.clone()",
        )


def _check_row_pitch(tensor: TensorArg, item: int) -> None:
    pitch = tensor.strides[0] * item
    cols = tensor.shape[1]
    if pitch % ALIGN_BYTES:
        per_line = ALIGN_BYTES // item
        padded = -(-max(cols, tensor.strides[0]) // per_line) * per_line
        raise ArgumentError(
            "rows are not a multiple of 16 bytes apart, which TMA needs",
            where=tensor.name,
            got=f"row stride {tensor.strides[0]} elements = {pitch} bytes",
            need=f"a row stride that is a multiple of {per_line} elements",
            fix=f"allocate rows of {padded} elements and pass the slice [:, :{cols}]",
        )
    if not cols <= tensor.strides[0] or pitch >= MAX_STRIDE_BYTES:
        raise ArgumentError(
            "rows overlap or lie too far apart",
            where=tensor.name,
            got=f"row stride {tensor.strides[0]} elements for rows of {cols}",
            need=f"a row stride of at least {cols} elements and less than 2^40 bytes",
            fix=f"pass {tensor.name}.contiguous()",
        )


class MapWriter:
    """Writes the tensor maps of one kernel parameter.

    Args:
        param: the parameter; needs a driver.
    """

    def __init__(self, param: TensorMapParam) -> None:
        self.operand = param.operand
        self._transposed = param.transposed
        self._item_bytes = ITEM_BYTES[param.dtype]
        promotion = "NONE" if param.l2_promotion == "none" else f"L2_{param.l2_promotion}"
        cols, rows = param.box
        swizzle = param.swizzle.upper()
        self._encoder = driver.TiledEncoder(_DRIVER_TYPES[param.dtype], (cols, rows), swizzle, promotion)

    def write(self, destination: int, tensor: TensorArg) -> None:
        """Write the map of ``tensor``, which has passed the checks above, to a host address."""
        (rows, cols), (row_stride, col_stride) = tensor.shape, tensor.strides
        if self._transposed:
            rows, cols, row_stride = cols, rows, col_stride
        if rows > 1:
            pitch_bytes = row_stride * self._item_bytes
        else:
            # With one row the pitch is never used, and frameworks put anything there; the driver still checks it.
            pitch_bytes = -(-cols * self._item_bytes // ALIGN_BYTES) * ALIGN_BYTES
        self._encoder.encode(destination, tensor.address, rows, cols, pitch_bytes)
