"""The special registers of PTX that kernels read."""

from __future__ import annotations

_TRIPLES = ("%tid", "%ntid", "%ctaid", "%nctaid", "%clusterid", "%nclusterid", "%cluster_ctaid", "%cluster_nctaid")
_SCALARS = (
    *("%laneid", "%warpid", "%nwarpid", "%smid", "%nsmid", "%gridid", "%cluster_ctarank", "%cluster_nctarank"),
    *("%is_explicit_cluster", "%lanemask_eq", "%lanemask_le", "%lanemask_lt", "%lanemask_ge", "%lanemask_gt"),
    *("%clock", "%clock_hi", "%clock64", "%globaltimer", "%globaltimer_lo", "%globaltimer_hi"),
    *("%total_smem_size", "%aggr_smem_size", "%dynamic_smem_size"),
)
SPECIAL_REGISTERS = frozenset([f"{name}.{axis}" for name in _TRIPLES for axis in "xyz"] + list(_SCALARS))


def is_special_register(name: str) -> bool:
    """Whether ``%name`` is a special register the emulator models."""
    return name in SPECIAL_REGISTERS
