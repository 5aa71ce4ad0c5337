"""The closed set of value types: scalars, memory tiles, and opaque handles; each has one textual form."""

from __future__ import annotations

from dataclasses import dataclass

from gemmgen.errors import IRError
from gemmgen.ir.dims import Dim, canonical, dim_text

SCALAR_BITS: dict[str, int] = {
    "f32": 32, "bf16": 16, "f16": 16, "e4m3": 8, "e5m2": 8, "e2m1": 4, "ue8m0": 8, "ue8m0x4": 32,
    "u8": 8, "i32": 32, "i64": 64, "u32": 32, "u64": 64, "bool": 8, "index": 64,
}  # fmt: skip
"""Storage width of every scalar type, in bits."""

SPACES = ("gmem", "smem", "frag", "tmem")
"""Where a tile lives: global memory, shared memory, registers of a warpgroup, tensor memory."""


@dataclass(frozen=True)
class Type:
    """Base of all value types; ``str(type)`` is its textual form."""


@dataclass(frozen=True)
class ScalarType(Type):
    """One number, named as in ``SCALAR_BITS``; ``index`` counts tiles, stages and elements. Text: ``f32``."""

    name: str

    def __post_init__(self) -> None:
        if self.name not in SCALAR_BITS:
            raise IRError("unknown scalar type", got=self.name, need=", ".join(SCALAR_BITS))

    @property
    def bits(self) -> int:
        """Storage width in bits."""
        return SCALAR_BITS[self.name]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class MemType(Type):
    """A dense tile of ``shape`` (elements) in one memory space. Text: ``gmem<e4m3, [M, ceildiv(K, 128)]>``."""

    space: str
    dtype: ScalarType
    shape: tuple[Dim, ...]

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise IRError("unknown memory space", got=self.space, need=", ".join(SPACES))
        if not isinstance(self.dtype, ScalarType):
            raise IRError("a memory type needs a scalar element type", got=repr(self.dtype), need="a ScalarType")
        object.__setattr__(self, "shape", tuple(canonical(dim) for dim in self.shape))

    def __str__(self) -> str:
        return f"{self.space}<{self.dtype}, [{', '.join(dim_text(dim) for dim in self.shape)}]>"


@dataclass(frozen=True)
class RingType(Type):
    """Handle of a shared-memory ring buffer with ``stages`` stages. Text: ``ring<5>``."""

    stages: int

    def __str__(self) -> str:
        return f"ring<{self.stages}>"


@dataclass(frozen=True)
class BarrierType(Type):
    """Handle of ``count`` consecutive mbarriers, one per stage. Text: ``barrier<5>``."""

    count: int = 1

    def __str__(self) -> str:
        return f"barrier<{self.count}>"


@dataclass(frozen=True)
class TileType(Type):
    """Handle of the output tile that the scheduler hands out. Text: ``tile``."""

    def __str__(self) -> str:
        return "tile"


@dataclass(frozen=True)
class MapType(Type):
    """Handle of a TMA tensor map. Text: ``map``."""

    def __str__(self) -> str:
        return "map"


F32 = ScalarType("f32")
BF16 = ScalarType("bf16")
E4M3 = ScalarType("e4m3")
E2M1 = ScalarType("e2m1")
UE8M0 = ScalarType("ue8m0")
UE8M0X4 = ScalarType("ue8m0x4")
"""Four scales, one behind the other along K, in a word; the first in the lowest byte."""
I32 = ScalarType("i32")
I64 = ScalarType("i64")
U32 = ScalarType("u32")
INDEX = ScalarType("index")
TILE = TileType()
MAP = MapType()


def gmem(dtype: ScalarType, *shape: Dim) -> MemType:
    """A tensor in global memory."""
    return MemType("gmem", dtype, shape)


def smem(dtype: ScalarType, *shape: Dim) -> MemType:
    """A tile in shared memory."""
    return MemType("smem", dtype, shape)


def frag(dtype: ScalarType, *shape: Dim) -> MemType:
    """A tile spread over the registers of a warpgroup."""
    return MemType("frag", dtype, shape)


def tmem(dtype: ScalarType, *shape: Dim) -> MemType:
    """A tile in the tensor memory of sm_100."""
    return MemType("tmem", dtype, shape)
