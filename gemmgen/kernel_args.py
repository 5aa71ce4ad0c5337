"""Checking the arguments of a GEMM call before anything is launched.

Every rejection names the argument, what was given, what is needed and how to fix it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gemmgen.errors import ArgumentError
from gemmgen.runtime.dtypes import FP8_MAX, TORCH_ATTRIBUTES
from gemmgen.runtime.launch import Problem
from gemmgen.runtime.tensormap import check_tma_address, check_tma_layout
from gemmgen.runtime.tensors import CPU, TensorArg, read_tensor
from gemmgen.scale_args import ScaleRule, check_scale
from gemmgen.spec.vocabulary import rows_contiguous

if TYPE_CHECKING:
    from gemmgen.spec import GemmSpec, Operand

MAX_EXTENT = 2**31 - 1
_MAX_LAYOUTS = 1024


@dataclass(frozen=True)
class GemmSignature:
    """What the operands of a product must be.

    Attributes:
        a_dtype: element type of A.
        a_scale: A's scales; None if it has none.
        b_dtype: element type of B.
        b_scale: the same for B.
        d_dtype: element type of D.
        n: N if the spec fixes it.
        k: K if the spec fixes it.
        m: M if the spec fixes it.
        layout: ``NT``, ``NN``, ``TN`` or ``TT``: whether A is [M, K] or [K, M], and B [K, N] or [N, K].
    """

    a_dtype: str
    a_scale: ScaleRule | None
    b_dtype: str
    b_scale: ScaleRule | None
    d_dtype: str
    n: int | None = None
    k: int | None = None
    m: int | None = None
    layout: str = "NT"

    @classmethod
    def of(cls, spec: GemmSpec) -> GemmSignature:
        """The signature of a spec's kernels."""
        operands, dims = spec.operands, spec.problem.dims

        def scale(operand: Operand) -> ScaleRule | None:
            return ScaleRule(operand.scale.block, operand.scale.format) if operand.scale else None

        def fixed(name: str) -> int | None:
            size = dims[name]
            return size if isinstance(size, int) else None

        return cls(
            operands.a.dtype,
            scale(operands.a),
            operands.b.dtype,
            scale(operands.b),
            operands.d.dtype,
            fixed("N"),
            fixed("K"),
            fixed("M"),
            spec.problem.layout,
        )

    @property
    def scales(self) -> dict[str, ScaleRule | None]:
        """The rules of the arguments ``sa`` and ``sb``."""
        return {"sa": self.a_scale, "sb": self.b_scale}

    def sizes(self, a: Sequence[int], b: Sequence[int]) -> tuple[int, int, int, int]:
        """M, A's K, N and B's K for operands of these shapes."""
        m, a_k = a[::-1] if self.layout[0] == "T" else a
        n, b_k = b[::-1] if self.layout[1] == "N" else b
        return m, a_k, n, b_k

    def dims_of(self, operand: str) -> tuple[str, str]:
        """The names of an operand's dimensions, the contiguous one last: ``("M", "K")``."""
        name = {"a": "M", "b": "N"}[operand]
        return ("K", name) if rows_contiguous(self.layout, operand) else (name, "K")


class ArgumentChecker:
    """Checks the calls of one kernel.

    What does not depend on addresses is checked once per combination of shapes, strides, types and devices.

    Args:
        signature: what the operands must be.
    """

    def __init__(self, signature: GemmSignature) -> None:
        self.signature = signature
        self._known: dict[Any, tuple[tuple[int, int, int], tuple[TensorArg, ...]]] = {}

    def check(self, arguments: Mapping[str, Any], stream: int = 0) -> Problem:
        """Check one call.

        Args:
            arguments: tensors by name: ``a``, ``b``, ``out``, and ``sa``, ``sb`` where the signature has scales. A is
                [M, K] or [K, M], B [N, K] or [K, N] as the layout says, out [M, N]; scales have any strides.
            stream: the stream the kernel will run on.

        Raises:
            ArgumentError: something about an argument is wrong.
        """
        check_presence(self.signature, arguments)
        tensors = {
            name: read_tensor(value, name, stream)
            for name, value in arguments.items()
            if value is not None or name not in ("sa", "sb")
        }
        layouts = tuple(tensor[2:] for tensor in tensors.values())
        known = self._known.get(layouts)
        if known is None:
            known = _check_layouts(self.signature, tensors)
            if len(self._known) >= _MAX_LAYOUTS:
                self._known = {}
            self._known[layouts] = known
        (m, n, k), read_as_words = known
        for scale in read_as_words:
            tensors[scale.name] = scale._replace(address=tensors[scale.name].address)
        if m and n:
            _check_addresses(self.signature, tensors)
        tensors["d"] = tensors.pop("out")
        return Problem(m, n, k, tensors, tensors["a"].device)


def check_presence(signature: GemmSignature, arguments: Mapping[str, Any]) -> None:
    """Check that scales are given where the kernel takes them, and nowhere else.

    Raises:
        ArgumentError: they are missing, or not wanted.
    """
    for name, rule in signature.scales.items():
        if (arguments.get(name) is None) != (rule is None):
            raise ArgumentError(
                "this kernel takes scales here" if rule else "this kernel takes no scales",
                where=name,
                got="nothing" if rule else "a tensor",
                need=str(rule) if rule else "nothing",
                fix="pass a QuantizedTensor, or data and scales" if rule else f"leave {name} out",
            )


def _check_layouts(
    signature: GemmSignature, tensors: Mapping[str, TensorArg]
) -> tuple[tuple[int, int, int], tuple[TensorArg, ...]]:
    """All checks that do not need addresses; returns M, N, K, and the exponents that are to be read as words."""
    for tensor in tensors.values():
        _check_device(tensor, tensors["a"])
        _check_rank(tensor)
    a, b, out = tensors["a"], tensors["b"], tensors["out"]
    for tensor, dtype in ((a, signature.a_dtype), (b, signature.b_dtype), (out, signature.d_dtype)):
        _check_dtype(tensor, dtype)
    m, k, n, _ = signature.sizes(a.shape, b.shape)
    _check_shapes(signature, a, b, out)
    read_as = [
        check_scale(tensors[name], rows, k, rule)
        for (name, rule), rows in zip(signature.scales.items(), (m, n), strict=True)
        if rule is not None
    ]
    if m and n:
        for tensor, dtype in ((a, signature.a_dtype), (b, signature.b_dtype), (out, signature.d_dtype)):
            if 0 not in tensor.shape:
                check_tma_layout(tensor, dtype)
    return (m, n, k), tuple(scale for scale in read_as if scale is not tensors[scale.name])


def _check_addresses(signature: GemmSignature, tensors: Mapping[str, TensorArg]) -> None:
    """Alignment and overlap, for a call with at least one output element."""
    out = tensors["out"]
    for name, dtype in (("a", signature.a_dtype), ("b", signature.b_dtype), ("out", signature.d_dtype)):
        check_tma_address(tensors[name], dtype)
    for name in ("sa", "sb"):
        scale = tensors.get(name)
        if scale is not None and scale.address % 4:
            raise ArgumentError(
                "scales are not 4-byte aligned",
                where=name,
                got=f"address {scale.address:#x}",
                need="an address that is a multiple of 4",
                fix=f"pass {name}.clone()",
            )
    out_start, out_end = out.span_bytes()
    for name, tensor in tensors.items():
        start, end = tensor.span_bytes()
        if start < out_end and out_start < end and name != "out" and overlaps(tensor, out):
            raise ArgumentError(
                f"the output shares memory with {name}",
                where="out",
                got=f"bytes {_range(out)} and {name} at {_range(tensor)}",
                need="memory that no input uses",
                fix="allocate another output",
            )


def overlaps(x: TensorArg, y: TensorArg) -> bool:
    """Whether two tensors may share a byte.

    Two row-major matrices with the same row pitch may lie side by side in one buffer; everything else is judged by the
    first and last byte.
    """
    (x_start, x_end), (y_start, y_end) = x.span_bytes(), y.span_bytes()
    if x_start == x_end or y_start == y_end or x_end <= y_start or y_end <= x_start:
        return False
    pitch = x.strides[0] * x.item_bytes
    if pitch != y.strides[0] * y.item_bytes or pitch == 0 or x.strides[1] != 1 or y.strides[1] != 1:
        return True
    offset = (y_start - x_start) % pitch
    return offset < x.shape[1] * x.item_bytes or offset + y.shape[1] * y.item_bytes > pitch


def _check_device(tensor: TensorArg, first: TensorArg) -> None:
    if tensor.device == CPU:
        raise ArgumentError(
            "the tensor is not on a GPU",
            where=tensor.name,
            got="CPU memory",
            need="a CUDA device",
            fix=f"pass {tensor.name}.cuda()" if tensor.is_torch else "copy it to the GPU",
        )
    if tensor.device != first.device:
        raise ArgumentError(
            "operands are on different GPUs",
            where=tensor.name,
            got=f"device {tensor.device}, and a on device {first.device}",
            need="one device",
            fix=f"pass {tensor.name}.to('cuda:{first.device}')",
        )


def _check_rank(tensor: TensorArg) -> None:
    if len(tensor.shape) != 2:
        raise ArgumentError(
            "this operand is a matrix",
            where=tensor.name,
            got=f"{len(tensor.shape)} dimensions, shape {tensor.shape}",
            need="2 dimensions",
            fix="reshape it, for example x.reshape(-1, x.shape[-1])",
        )
    if max(tensor.shape) > MAX_EXTENT or min(tensor.strides) < 0:
        raise ArgumentError(
            "an extent or a stride is out of range",
            where=tensor.name,
            got=f"shape {tensor.shape}, strides {tensor.strides}",
            need=f"extents up to {MAX_EXTENT} and no negative strides",
            fix="split the problem, or copy the operand",
        )


def _check_dtype(tensor: TensorArg, dtype: str) -> None:
    if tensor.holds(dtype):
        return
    if tensor.name == "out":
        fix = f"allocate it with dtype={_torch_name(dtype)}"
    elif dtype in FP8_MAX and tensor.dtype == "u8":
        fix = f"pass {tensor.name}.view({_torch_name(dtype)})"
    elif dtype in FP8_MAX:
        fix = f"pass gemmgen.quantize({tensor.name}, …)"
    else:
        fix = f"pass {tensor.name}.to({_torch_name(dtype)})"
    accepted = dtype if tensor.is_torch or dtype == "f32" else f"{dtype}, or its raw bits as unsigned integers"
    raise ArgumentError("wrong element type", where=tensor.name, got=tensor.dtype, need=accepted, fix=fix)


def _check_shapes(signature: GemmSignature, a: TensorArg, b: TensorArg, out: TensorArg) -> None:
    m, k, n, other_k = signature.sizes(a.shape, b.shape)
    if k != other_k:
        name = "a" if m == other_k and n != k else "b"
        known = str(other_k if name == "a" else k)
        shape = ", ".join(known if dim == "K" else dim for dim in signature.dims_of(name))
        product = f"D = {'Aᵀ' if signature.layout[0] == 'T' else 'A'} @ {'B' if signature.layout[1] == 'N' else 'Bᵀ'}"
        turned = name == "a" or n == k
        raise ArgumentError(
            "a and b disagree about K",
            where=name,
            got=f"a is {a.shape[0]} × {a.shape[1]}, b is {b.shape[0]} × {b.shape[1]}",
            need=f"{name} of shape [{shape}], {signature.dims_of(name)[1]} contiguous",
            fix=f"pass {name}.T.contiguous(), since {product}" if turned else "pass operands with equal K",
        )
    fixed = (("a", "M", m, signature.m), ("b", "N", n, signature.n), ("a", "K", k, signature.k))
    for name, dim, size, wanted in fixed:
        if wanted is not None and size != wanted:
            raise ArgumentError(
                f"the kernel was compiled for another {dim}",
                where=name,
                got=f"{dim}={size}",
                need=f"{dim}={wanted}",
                fix=f"compile with {dim}={size}, or leave {dim} dynamic",
            )
    if out.shape != (m, n):
        raise ArgumentError(
            "the output has the wrong shape", where="out", got=out.shape, need=(m, n), fix=f"allocate [{m}, {n}]"
        )


def _torch_name(dtype: str) -> str:
    return f"torch.{TORCH_ATTRIBUTES.get(dtype, dtype)}"


def _range(tensor: TensorArg) -> str:
    start, end = tensor.span_bytes()
    return f"{start:#x}..{end:#x}"
