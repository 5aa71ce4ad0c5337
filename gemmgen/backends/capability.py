"""What a target can do, as data: passes and heuristics ask a record, nobody compares architecture numbers."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from gemmgen.errors import TargetError

TENSOR_MEMORY_COLUMNS = 512
MIN_TENSOR_MEMORY_COLUMNS = 32
"""The least that a CTA can allocate."""


@dataclass(frozen=True)
class Capability:
    """One GPU architecture.

    Attributes:
        name: the target's name, as NVRTC's ``--gpu-architecture`` takes it.
        dialect: prefix of its target-level ops, and the name of its backend package.
        compute_capability: (major, minor) that a device must report.
        product: the GPUs people know it by.
        sms: streaming multiprocessors of the usual product.
        smem_per_cta: bytes of shared memory a CTA may have.
        smem_per_sm: bytes of shared memory of an SM, of which every CTA costs ``smem_reserved`` more.
        smem_reserved: bytes the system takes per CTA.
        threads_per_cta: threads that a CTA may have.
        swizzle_atom_bytes: bytes after which a swizzle repeats, to which swizzled tiles are aligned.
        bulk_align_bytes: alignment of whatever else the copy engine writes into shared memory.
        registers_per_sm: 32-bit registers of an SM.
        max_cluster: CTAs per cluster without the non-portable opt-in.
        tensor_core_bits: fraction bits that an FP8 product sum keeps; promotion exists because of it.
        block_scaled_mma: the tensor core applies block scales itself.
        cta_pairs: two CTAs of a cluster can multiply together.
        levers: fields of the schedule that mean something on this target and not on every other.
        tensor_memory: accumulators live in tensor memory, 128 lanes of ``tensor_memory_columns`` 32-bit words.
    """

    name: str
    dialect: str
    compute_capability: tuple[int, int]
    product: str
    sms: int
    smem_per_cta: int = 232448
    smem_per_sm: int = 233472
    smem_reserved: int = 1024
    threads_per_cta: int = 1024
    swizzle_atom_bytes: int = 1024
    bulk_align_bytes: int = 128
    registers_per_sm: int = 65536
    max_cluster: int = 8
    tensor_core_bits: int = 13
    block_scaled_mma: bool = False
    cta_pairs: bool = False
    levers: frozenset[str] = frozenset()
    tensor_memory: bool = False

    @property
    def tensor_memory_columns(self) -> int:
        """Columns of tensor memory that a CTA can have; 0 without tensor memory."""
        return TENSOR_MEMORY_COLUMNS if self.tensor_memory else 0


HOPPER_LEVERS = frozenset(
    {"promotion_overlap", "promotion_burst", "scales_ahead", "lookahead", "unroll", "deal_columns", "evict_first"}
)
"""They arrange promotion in the registers of the warps that multiply, and the FFMAs of a cubin whose bits are known."""

_CAPABILITIES = {
    record.name: record
    for record in (
        Capability(
            "sm_90a", "sm90", (9, 0), "H100, H200, H20", sms=132, levers=HOPPER_LEVERS,
        ),
        Capability(
            "sm_100a", "sm100", (10, 0), "B200, GB200", sms=148, tensor_core_bits=25, block_scaled_mma=True,
            cta_pairs=True, tensor_memory=True,
        ),
        Capability(
            "sm_103a", "sm100", (10, 3), "B300, GB300", sms=148, tensor_core_bits=25, block_scaled_mma=True,
            cta_pairs=True, tensor_memory=True,
        ),
    )
}  # fmt: skip


def capability(target: str) -> Capability:
    """The record of ``target``.

    Raises:
        TargetError: no such target.
    """
    found = _CAPABILITIES.get(target)
    if found is None:
        close = get_close_matches(target, _CAPABILITIES, n=1)
        fix = f"did you mean '{close[0]}'?" if close else "run 'gemmgen targets' for the list"
        raise TargetError("unknown target", where="target", got=target, need=", ".join(_CAPABILITIES), fix=fix)
    return found


def capabilities() -> tuple[Capability, ...]:
    """Every target gemmgen knows."""
    return tuple(_CAPABILITIES.values())
