"""The pipeline on one screen: which passes run for a schedule, in which order, and why in that order."""

from __future__ import annotations

from importlib import import_module

from gemmgen.backends.capability import Capability
from gemmgen.ir.async_ops import Engine
from gemmgen.passes.base import Pass, PassPipeline
from gemmgen.passes.cluster_multicast import ClusterMulticastPass
from gemmgen.passes.cta_pairs import CtaPairsPass
from gemmgen.passes.epilogue_staging import EpilogueStagingPass
from gemmgen.passes.pipelining import PipeliningPass
from gemmgen.passes.promotion import PromotionPass
from gemmgen.passes.promotion_overlap import PromotionOverlapPass
from gemmgen.passes.register_reallocation import RegisterReallocationPass
from gemmgen.passes.shared_memory_allocation import SharedMemoryAllocationPass
from gemmgen.passes.split_k import SplitKPass
from gemmgen.passes.swap_operands import SwapOperandsPass
from gemmgen.passes.tensor_memory_allocation import TensorMemoryAllocationPass
from gemmgen.passes.warp_specialization import WarpSpecializationPass
from gemmgen.schedule import Schedule


def pipeline(schedule: Schedule, target: Capability) -> PassPipeline:
    """Every pass from tile IR to the target's IR."""
    s, columns = schedule, target.tensor_memory_columns
    accumulators = s.accumulators if target.tensor_memory else 0
    passes: list[Pass] = [
        PromotionPass(
            target.block_scaled_mma
        ),  # first: it decides what a product is; everything later moves products around
        SplitKPass(s.split_k),  # at tile level: afterwards loads and products are in different places
        *([SwapOperandsPass()] if s.swap_ab else []),  # after split-k: the reduction it adds is transposed too
        # leaves the tile level; needs loads beside their uses
        PipeliningPass(s.stages, Engine(s.scale_copy), s.scales_ahead),
        EpilogueStagingPass(),  # after split-k: a reduced tile leaves in another way
        ClusterMulticastPass(s.cluster),  # before roles: it rewrites the one loop nest, not a copy per role
        *([CtaPairsPass()] if target.cta_pairs and s.cta_group > 1 else []),  # before roles, as multicast
        WarpSpecializationPass(s.math_warpgroups, accumulators),  # needs the ring between loads and products
        *([PromotionOverlapPass()] if s.promotion_overlap else []),  # needs roles: the loads have loops of their own
        RegisterReallocationPass(s.producer_registers, s.math_registers),  # needs roles
        *([TensorMemoryAllocationPass(columns)] if columns else []),  # needs the ring that the roles hand sums through
        # last at this level: nothing may ask for memory afterwards
        SharedMemoryAllocationPass(target.smem_per_cta, target.swizzle_atom_bytes, target.bulk_align_bytes),
        lowering(schedule, target),
    ]
    return PassPipeline(tuple(passes))


def lowering(schedule: Schedule, target: Capability) -> Pass:
    """The pass that lowers to the target's own ops."""
    return import_module(f"gemmgen.backends.{target.dialect}.lowering").lowering_pass(schedule)
