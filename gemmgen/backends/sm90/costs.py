"""What Hopper kernels cost: the numbers of the time model, and where each comes from. ``heuristics.py`` uses them.

The FP8 tables were fitted by ``benchmarks/fit_costs.py`` to sweeps of 85 shapes on H200s (2026-11-20, 132 SMs, driver
580), then changed by hand where two tiles are near each other. The last sweep is recorded
(``benchmarks/results/2026-11-20_h200_sweep.json``), with 40 more shapes that nothing was fitted to. Cells that no row
is about are from an earlier sweep of older kernels.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

BYTES_PER_US = 4.2e6
"""Device memory, as the fit took it; a device-to-device copy reaches 4.26e6 on that H200."""
OUTSIDE_ROW_US = 1.0e-4
"""A row of 128 bytes that a box has beyond its operand: all CTAs together load no more than 10 of them per ns."""
CROWDED_FROM, CROWDED_US = 0.9, 1.0
"""What a launch of clusters that share tiles takes longer where it leaves less than this part of the SMs free."""
CLUSTER_FILL = {1: 132, 2: 132, 3: 117, 4: 120, 5: 110, 6: 102, 7: 105, 8: 120}
"""CTAs that run at once in clusters of each size, as an H200 reports: a cluster stays within a GPC, and GPCs differ."""


@dataclass(frozen=True)
class Cost:
    """µs per launch, per step of K and per round of tiles."""

    base: float
    step: float
    tile: float

    def between(self, other: Cost, part: float) -> Cost:
        """The cost that lies ``part`` of the way to ``other``."""
        return Cost(*(a + (b - a) * part for a, b in zip(astuple(self), astuple(other), strict=True)))


Costs = dict[int, Cost]
"""Cost by the columns that the tensor core sees; what lies between is interpolated."""


@dataclass(frozen=True)
class CostTables:
    """The costs of every kind of tile; where rows differ, by rows of the tile as the tensor core sees it.

    Attributes:
        plain: rows of A on the M side, two math warpgroups; one where there are 64 rows.
        plain_16: the same for 16-bit operands.
        swapped: rows of B on the M side, a math warpgroup per 64 of them.
        split_narrow: 64 rows of A, K shared by the CTAs of a cluster.
        split_plain: the same for 128 rows of A.
        split_swapped: rows of B on the M side, K shared by the CTAs of a cluster.
        multicast_base: what sharing an operand in a cluster adds to a launch.
        multicast_step: its factor of a step.
    """

    plain: dict[int, Costs]
    plain_16: dict[int, Costs]
    swapped: dict[int, Costs]
    split_narrow: Costs
    split_plain: Costs
    split_swapped: dict[int, Costs]
    multicast_base: float
    multicast_step: float

    def by_rows(self, swapped: bool, split: bool, item_bytes: int) -> dict[int, Costs]:
        """The table for a kind of tile, by rows."""
        if split:
            return self.split_swapped if swapped else {64: self.split_narrow, 128: self.split_plain}
        if swapped:
            return self.swapped
        return self.plain if item_bytes == 1 else self.plain_16


SHIPPED = CostTables(
    plain={
        64: {
            32: Cost(1.773, 0.118, 0.222), 64: Cost(1.687, 0.15, 0.288), 96: Cost(2.427, 0.165, 0.307),
            128: Cost(2.086, 0.222, 0.473),
        },
        128: {
            32: Cost(1.625, 0.165, 0.327), 64: Cost(1.902, 0.22, 0.433), 80: Cost(2.063, 0.315, 0.565),
            96: Cost(1.788, 0.319, 0.445), 112: Cost(1.902, 0.343, 0.726), 128: Cost(2.144, 0.361, 0.626),
            144: Cost(1.613, 0.411, 1.125), 160: Cost(1.733, 0.459, 0.725), 176: Cost(2.2, 0.484, 1.6),
            192: Cost(2.359, 0.509, 0.913),
        },
        256: {
            64: Cost(2.542, 0.457, 0.581), 96: Cost(2.494, 0.594, 0.86), 112: Cost(2.693, 0.672, 1.259),
            128: Cost(2.75, 0.7, 1.046),
        },
    },
    # Fitted to 15 shapes of BF16 (benchmarks/results/2026-11-20_h200_sweep_bf16.json). Without promotion there are
    # registers for wider tiles; a step takes the tensor core as long as one of as many bytes of FP8.
    plain_16={
        128: {
            64: Cost(2.305, 0.184, 1.044), 96: Cost(2.839, 0.241, 0.792), 128: Cost(2.878, 0.33, 0.533),
            160: Cost(3.172, 0.388, 0.877), 192: Cost(2.327, 0.47, 0.929), 256: Cost(2.355, 0.64, 0.928),
        },
        256: {64: Cost(2.465, 0.405, 0.52), 96: Cost(2.411, 0.481, 0.936), 128: Cost(2.266, 0.644, 0.966)},
    },
    swapped={
        64: {
            8: Cost(1.711, 0.14, 0.103), 16: Cost(1.926, 0.104, 0.072), 32: Cost(3.573, 0.088, 0.081),
            64: Cost(2.13, 0.16, 0.26), 128: Cost(3.6, 0.34, 0.65),
        },
        128: {
            8: Cost(1.808, 0.149, 0.211), 16: Cost(1.911, 0.156, 0.175), 32: Cost(2.412, 0.165, 0.398),
            64: Cost(2.527, 0.269, 0.397), 128: Cost(2.5, 0.55, 1.35),
        },
    },
    split_narrow={
        32: Cost(1.457, 0.105, 1.385), 48: Cost(1.55, 0.125, 1.5), 64: Cost(1.656, 0.146, 1.656),
        72: Cost(1.976, 0.154, 1.976), 96: Cost(1.877, 0.203, 1.877), 128: Cost(2.275, 0.216, 2.275),
        144: Cost(2.451, 0.24, 2.451),
    },
    split_plain={64: Cost(2.187, 0.195, 2.187), 96: Cost(2.529, 0.286, 2.529), 128: Cost(3.018, 0.309, 3.018)},
    split_swapped={
        64: {
            8: Cost(1.871, 0.096, 1.03), 16: Cost(1.631, 0.085, 1.168), 32: Cost(1.697, 0.069, 1.697),
            64: Cost(2.016, 0.107, 2.016), 128: Cost(3.2, 0.3, 3.2),
        },
        128: {
            8: Cost(1.674, 0.092, 1.645), 16: Cost(1.45, 0.108, 2.054), 32: Cost(2.301, 0.13, 2.301),
            64: Cost(2.891, 0.2, 2.891), 128: Cost(3.8, 0.4, 3.8),
        },
    },
    # Sharing rows of A costs latency once, and spares L2 reads (and so power) in every step. The fit's factor of a step
    # is 0.99, that of all shapes; in launches of more than 150 µs, which power limits, it is 0.96 to 0.99.
    multicast_base=0.797,
    multicast_step=0.965,
)  # fmt: skip
"""The tables with which plans are chosen."""
