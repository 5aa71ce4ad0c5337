"""Every word the spec language knows, with its meaning; the model, the schema, the docs and the errors read them here.

A word's presence here says that a spec may use it, not that the compiler can build it: see ``support.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

SPEC_VERSION = 1
DYNAMIC = "dynamic"
AUTO = "auto"
MAX_DIM = 2**31 - 1


@dataclass(frozen=True)
class Kind:
    """A family of problems: what it computes and which dimensions it must declare."""

    doc: str
    dims: tuple[str, ...]


@dataclass(frozen=True)
class DType:
    """An element type: its width and the operands that may have it."""

    doc: str
    bits: int
    operands: str


KINDS: dict[str, Kind] = {
    "dense": Kind("D[M,N] = A[M,K] @ B[N,K]ᵀ", ("M", "N", "K")),
    "batched": Kind("`B` independent dense problems", ("B", "M", "N", "K")),
    "m_grouped_contiguous": Kind("rows of A and D in `G` consecutive groups, one B per group", ("G", "M", "N", "K")),
    "m_grouped_masked": Kind("`G` slabs of `M` rows, of which a device-side count is live", ("G", "M", "N", "K")),
    "k_grouped_contiguous": Kind("`G` weight gradients, each over its own part of `K`", ("G", "M", "N", "K")),
    "mqa_logits": Kind("`S` queries of `H` heads of `D` elements against `T` shared keys", ("S", "T", "H", "D")),
    "paged_mqa_logits": Kind("mqa_logits over keys in pages of `P` rows", ("S", "T", "H", "D", "P")),
}

LAYOUTS: dict[str, str] = {
    "NT": "A is M×K and B is N×K, both with K contiguous",
    "NN": "A is M×K with K contiguous, B is K×N with N contiguous",
    "TN": "A is K×M with M contiguous, B is K×N with N contiguous",
    "TT": "A is K×M with M contiguous, B is N×K with K contiguous",
}

DTYPES: dict[str, DType] = {
    "e4m3": DType("FP8, 4 exponent and 3 mantissa bits", 8, "abd"),
    "e5m2": DType("FP8, 5 exponent and 2 mantissa bits", 8, "abd"),
    "e2m1": DType("FP4, two elements per byte, low nibble first", 4, "ab"),
    "bf16": DType("bfloat16", 16, "abcd"),
    "f16": DType("IEEE half precision", 16, "abcd"),
    "tf32": DType("FP32 in memory, multiplied with 10 mantissa bits", 32, "ab"),
    "f32": DType("IEEE single precision", 32, "cd"),
}

NARROW_DTYPES = ("e4m3", "e5m2", "e2m1")
"""Types that carry scales; any two of them can be multiplied with each other."""

SCALE_FORMATS: dict[str, str] = {
    "f32": "one FP32 factor per block",
    "ue8m0": "one power of two per block, as an 8-bit exponent, four to a 32-bit word",
}

SCALE_BLOCKS: dict[tuple[int | str, int | str], str] = {
    (1, 32): "32 elements of one row",
    (1, 64): "64 elements of one row",
    (1, 128): "128 elements of one row",
    (128, 128): "a 128×128 square",
    (1, "K"): "one row",
    ("M", "K"): "the whole of A or D",
    ("N", "K"): "the whole of B",
}

ACCUMULATE_DTYPES: dict[str, str] = {"f32": "IEEE single precision"}

SCHEDULERS: dict[str, str] = {
    "persistent": "each CTA works through a list of output tiles",
    "split_k": "several CTAs share one output tile, each sums a part of K",
    "stream_k": "the K loops of all tiles form one line, cut evenly between CTAs",
}

RASTER_AXES: dict[str, str] = {"m": "neighbouring CTAs differ in m first", "n": "neighbouring CTAs differ in n first"}

TARGETS: dict[str, str] = {
    "sm_90a": "Hopper (H100, H200)",
    "sm_100a": "Blackwell (B200, GB200)",
    "sm_103a": "Blackwell Ultra (B300, GB300)",
}


def rows_contiguous(layout: str, operand: str) -> bool:
    """Whether operand ``a`` (``b``) has M (N) contiguous in this layout, rather than K."""
    return layout[0] == "T" if operand == "a" else layout[1] == "N"
