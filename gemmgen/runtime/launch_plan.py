"""How to launch one kernel: its parameters in order, its grid, its shared memory.

A :class:`LaunchPlan` is produced by a backend beside the CUDA source. Its JSON form is the manifest that is enough to
launch the cubin from C.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from gemmgen.backends.capability import Capability
from gemmgen.errors import GemmgenError, ScheduleError
from gemmgen.runtime.dtypes import ITEM_BYTES

TENSOR_MAP_BYTES = 128
TENSOR_MAP_ALIGN = 64
SWIZZLE_SPAN_BYTES = {"none": None, "32B": 32, "64B": 64, "128B": 128}
L2_PROMOTIONS = ("none", "64B", "128B", "256B")
SCALAR_BYTES = {"int32": 4, "uint32": 4, "int64": 8}
MAX_BOX = 256
MAP_RANK = 2
MAX_CLUSTER = 16
WARP_THREADS = 32
_SCALAR_VALUE = re.compile(r"M|N|K|stride:[a-z]+:[01]")


@dataclass(frozen=True)
class TensorMapParam:
    """One ``const __grid_constant__ CUtensorMap`` parameter; its dims and strides are the operand's at call time.

    Attributes:
        name: the C++ parameter's name, e.g. ``tma_a``.
        operand: the call's operand that the map describes: ``a``, ``b``, ``d``.
        dtype: element type; FP8 is passed to the driver as UINT8.
        box: box extents in elements, innermost first.
        swizzle: shared-memory swizzle: ``none``, ``32B``, ``64B`` or ``128B``.
        transposed: the operand's columns are contiguous, and its rows are the map's innermost axis.
        l2_promotion: L2 fetch granularity: ``none``, ``64B``, ``128B`` or ``256B``.
    """

    kind: ClassVar[str] = "tensor_map"
    size: ClassVar[int] = TENSOR_MAP_BYTES
    align: ClassVar[int] = TENSOR_MAP_ALIGN

    name: str
    operand: str
    dtype: str
    box: tuple[int, ...]
    swizzle: str
    l2_promotion: str = "256B"
    transposed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", tuple(self.box))
        _one_of(self.name, "dtype", self.dtype, tuple(ITEM_BYTES))
        _one_of(self.name, "swizzle", self.swizzle, tuple(SWIZZLE_SPAN_BYTES))
        _one_of(self.name, "L2 promotion", self.l2_promotion, L2_PROMOTIONS)
        self._check_box()

    def _check_box(self) -> None:
        if len(self.box) != MAP_RANK or any(not 1 <= extent <= MAX_BOX for extent in self.box):
            raise ScheduleError(
                "this TMA box is outside the hardware's limits",
                where=self.name,
                got=f"box {list(self.box)} (elements, innermost first)",
                need=f"{MAP_RANK} extents, each between 1 and {MAX_BOX}",
                fix="split the tile into several boxes",
            )
        inner_bytes = self.box[0] * ITEM_BYTES[self.dtype]
        if inner_bytes % 16:
            raise ScheduleError(
                "the innermost extent of a TMA box must be a multiple of 16 bytes",
                where=self.name,
                got=f"{self.box[0]} elements of {self.dtype} = {inner_bytes} bytes",
                need="a multiple of 16 bytes",
                fix="widen the tile",
            )
        span = SWIZZLE_SPAN_BYTES[self.swizzle]
        if span is not None and inner_bytes > span:
            raise ScheduleError(
                "the innermost extent of a TMA box is wider than its swizzle",
                where=self.name,
                got=f"{inner_bytes} bytes with swizzle {self.swizzle}",
                need=f"at most {span} bytes",
                fix="use a wider swizzle or a narrower box",
            )


@dataclass(frozen=True)
class PointerParam:
    """A 64-bit device pointer to an operand's data; ``sa`` and ``sb`` are the scales of ``a`` and ``b``."""

    kind: ClassVar[str] = "pointer"
    size: ClassVar[int] = 8
    align: ClassVar[int] = 8

    name: str
    operand: str


@dataclass(frozen=True)
class ScalarParam:
    """An integer: a problem size (``M``, ``N``, ``K``) or a stride in elements (``stride:sa:0``)."""

    kind: ClassVar[str] = "scalar"

    name: str
    ctype: str
    value: str

    def __post_init__(self) -> None:
        _one_of(self.name, "C type", self.ctype, tuple(SCALAR_BYTES))
        if not _SCALAR_VALUE.fullmatch(self.value):
            raise GemmgenError(
                "this launch parameter's value is unknown",
                where=self.name,
                got=repr(self.value),
                need="M, N, K or stride:<operand>:<0 or 1>",
            )

    @property
    def size(self) -> int:
        """Bytes of the C type."""
        return SCALAR_BYTES[self.ctype]

    @property
    def align(self) -> int:
        """Alignment of the C type in bytes, equal to its size."""
        return self.size


Param = TensorMapParam | PointerParam | ScalarParam
_PARAM_KINDS: dict[str, type[TensorMapParam] | type[PointerParam] | type[ScalarParam]] = {
    kind.kind: kind for kind in (TensorMapParam, PointerParam, ScalarParam)
}


@dataclass(frozen=True)
class LaunchPlan:
    """Everything but the operands that a launch of one kernel needs.

    Attributes:
        entry: the kernel's symbol in the cubin.
        target: the architecture the cubin is for, e.g. ``sm_90a``.
        threads: threads per CTA.
        cluster: CTAs per cluster.
        smem_bytes: dynamic shared memory per CTA.
        tiles: rows of M per scheduler tile, columns of N per scheduler tile, CTAs that share one scheduler tile.
        persistent: the grid is at most one CTA per SM and every CTA loops over tiles.
        params: the kernel's parameters in the order of its signature.
        pdl: launch with the programmatic-stream-serialization attribute.
    """

    entry: str
    target: str
    threads: int
    cluster: int
    smem_bytes: int
    tiles: tuple[int, int, int]
    persistent: bool
    params: tuple[Param, ...]
    pdl: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "tiles", tuple(self.tiles))
        object.__setattr__(self, "params", tuple(self.params))
        limits = {
            "threads": (self.threads, WARP_THREADS, Capability.threads_per_cta),
            "cluster": (self.cluster, 1, MAX_CLUSTER),
            "smem_bytes": (self.smem_bytes, 0, Capability.smem_per_cta),
        }
        for field, (value, low, high) in limits.items():
            if not low <= value <= high:
                raise ScheduleError(
                    f"{field} is out of range", where=self.entry, got=value, need=f"between {low} and {high}"
                )
        if len(self.tiles) != 3 or any(extent < 1 for extent in self.tiles):
            raise ScheduleError(
                "a launch plan needs three positive tile extents", where=self.entry, got=f"tiles={list(self.tiles)}"
            )
        names = [param.name for param in self.params]
        if len(set(names)) != len(names):
            raise GemmgenError("two launch parameters share a name", where=self.entry, got=names)

    def num_tiles(self, m: int, n: int) -> int:
        """Scheduler tiles that cover an ``m`` × ``n`` output."""
        rows, cols, _ = self.tiles
        return -(-m // rows) * -(-n // cols)

    def grid(self, m: int, n: int, num_sms: int) -> int:
        """CTAs to launch: a multiple of the cluster, and for a persistent kernel no more than fit on ``num_sms``."""
        wanted_clusters = -(-self.num_tiles(m, n) * self.tiles[2] // self.cluster)
        if self.persistent:
            wanted_clusters = min(wanted_clusters, max(1, num_sms // self.cluster))
        return wanted_clusters * self.cluster

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON values, parameters with their byte offsets in the argument block."""
        plain = asdict(self)
        offsets, total = param_offsets(self.params)
        plain["params"] = [
            {"kind": param.kind, "offset": offset, "size": param.size, **asdict(param)}
            for param, offset in zip(self.params, offsets, strict=True)
        ]
        plain["param_bytes"] = total
        return plain

    def to_json(self) -> str:
        """The manifest text; the same plan always gives the same text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> LaunchPlan:
        """Rebuild a plan from :meth:`to_dict`.

        Raises:
            GemmgenError: a field is missing or has an illegal value.
        """
        try:
            values = {field.name: plain[field.name] for field in fields(cls)}
            values["params"] = tuple(_param_from_dict(param) for param in plain["params"])
            return cls(**values)
        except (KeyError, TypeError, AttributeError) as error:
            raise GemmgenError("this is not a launch manifest", got=f"{type(error).__name__}: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> LaunchPlan:
        """Rebuild a plan from :meth:`to_json`."""
        try:
            plain = json.loads(text)
        except json.JSONDecodeError as error:
            raise GemmgenError("this is not a launch manifest", got=f"invalid JSON: {error}") from error
        return cls.from_dict(plain)


def param_offsets(params: tuple[Param, ...]) -> tuple[tuple[int, ...], int]:
    """Byte offset of each parameter in the C ABI's argument block, and the block's size."""
    offsets = []
    end = 0
    for param in params:
        start = -(-end // param.align) * param.align
        offsets.append(start)
        end = start + param.size
    return tuple(offsets), end


def _param_from_dict(plain: Mapping[str, Any]) -> Param:
    kind = _PARAM_KINDS[plain["kind"]]
    return kind(**{field.name: plain[field.name] for field in fields(kind)})


def _one_of(where: str, label: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise GemmgenError(f"unknown {label}", where=where, got=repr(value), need="one of " + ", ".join(allowed))
