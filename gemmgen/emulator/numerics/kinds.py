"""What the matrix instructions accept: operand types, scale types and shapes."""

from __future__ import annotations

from dataclasses import dataclass

from gemmgen.errors import EmulationError

FP8_TYPES = ("e4m3", "e5m2")
NARROW_TYPES = ("e4m3", "e5m2", "e2m3", "e3m2", "e2m1")
INTEGER_TYPES = ("s8", "u8")


@dataclass(frozen=True)
class Kind:
    """One ``.kind`` of ``tcgen05.mma``.

    Attributes:
        name: as in PTX.
        k: elements of K per instruction, dense.
        types: element types of A and B.
        d_types: types of D.
        scales: scale type to the legal numbers of scale factors per row along K; empty for kinds without scales.
        padded_types: whether 4- and 6-bit elements take a byte of pitch each (16 bytes per 16 elements).
    """

    name: str
    k: int
    types: tuple[str, ...]
    d_types: tuple[str, ...]
    scales: tuple[tuple[str, tuple[int, ...]], ...] = ()
    padded_types: bool = False

    @property
    def block_scaled(self) -> bool:
        """Whether the kind multiplies by block scale factors."""
        return bool(self.scales)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("f16", 16, ("f16", "bf16"), ("f32", "f16")),
        Kind("tf32", 8, ("tf32",), ("f32",)),
        Kind("f8f6f4", 32, NARROW_TYPES, ("f32", "f16"), padded_types=True),
        Kind("i8", 32, INTEGER_TYPES, ("s32",)),
        Kind("mxf8f6f4", 32, NARROW_TYPES, ("f32",), (("ue8m0", (1,)),), padded_types=True),
        Kind("mxf4", 64, ("e2m1",), ("f32",), (("ue8m0", (2,)),)),
        Kind("mxf4nvf4", 64, ("e2m1",), ("f32",), (("ue8m0", (2, 4)), ("ue4m3", (4,)))),
    )
}

_WGMMA_D_TYPES: dict[tuple[str, str], tuple[str, ...]] = {
    **{(a, b): ("f32", "f16") for a in FP8_TYPES for b in FP8_TYPES},
    **{(a, b): ("s32",) for a in INTEGER_TYPES for b in INTEGER_TYPES},
    ("bf16", "bf16"): ("f32",),
    ("f16", "f16"): ("f32", "f16"),
    ("tf32", "tf32"): ("f32",),
}


def tensor_kind(name: str) -> Kind:
    """The kind of that name.

    Raises:
        EmulationError: there is none.
    """
    if name not in KINDS:
        raise EmulationError("unknown tcgen05.mma kind", got=name, need=", ".join(KINDS))
    return KINDS[name]


def check_wgmma_types(a_type: str, b_type: str, d_type: str) -> None:
    """Raise EmulationError unless ``wgmma`` multiplies these types."""
    legal = _WGMMA_D_TYPES.get((a_type, b_type), ())
    if d_type not in legal:
        raise EmulationError(
            "wgmma has no such types",
            got=f"D {d_type}, A {a_type}, B {b_type}",
            need=f"D of {', '.join(legal)}" if legal else "both FP8, both 8-bit integers, or equal bf16, f16, tf32",
        )


def check_tcgen05_types(kind: str, a_type: str, b_type: str, d_type: str) -> None:
    """Raise EmulationError unless the kind multiplies these types."""
    rule = tensor_kind(kind)
    d_types = ("f32",) if kind == "f16" and (a_type, b_type) != ("f16", "f16") else rule.d_types
    if a_type not in rule.types or b_type not in rule.types or d_type not in d_types:
        raise EmulationError(
            f"kind::{kind} has no such types",
            got=f"A {a_type}, B {b_type}, D {d_type}",
            need=f"A and B of {', '.join(rule.types)}; D of {', '.join(d_types)}",
        )


def check_wgmma_shape(n: int, a_type: str) -> None:
    """Raise EmulationError unless m64 with this N exists for the type."""
    integer = a_type in INTEGER_TYPES
    if not 8 <= n <= 256 or n % 8 or (integer and n > 32 and n % 16):
        need = "8, 16, 24, 32, then steps of 16 to 256" if integer else "8 to 256 in steps of 8"
        raise EmulationError("wgmma has no such N", got=n, need=need)


def check_tcgen05_shape(kind: str, cta_group: int, m: int, n: int) -> None:
    """Raise EmulationError unless the kind has this M and N with this CTA group.

    M = 128 with one CTA accepts N in steps of 8, as PTX says; docs/hardware.md §5.4 advises steps of 16 there.
    """
    rule = tensor_kind(kind)
    if cta_group == 1:
        legal_m = (128,) if rule.block_scaled else (64, 128)
    elif cta_group == 2:
        legal_m = (128, 256)
    else:
        raise EmulationError("unknown CTA group", got=cta_group, need="1 or 2")
    step = 8 * cta_group
    if kind == "i8" and (cta_group == 2 or n > 32):
        step = 16 * cta_group
    if m not in legal_m or not step <= n <= 256 or n % step:
        raise EmulationError(
            f"kind::{kind} with cta_group::{cta_group} has no such shape",
            got=f"M={m}, N={n}",
            need=f"M of {', '.join(map(str, legal_m))}; N from {step} to 256 in steps of {step}",
        )
