"""What Hopper kernels cost: the numbers of the time model, and where each comes from. ``heuristics.py`` uses them.

The FP8 tables were fitted by ``benchmarks/fit_costs.py`` to sweeps of 85 shapes on an H200 (2026-11-20, 132 SMs, driver
580). The last of them is recorded (``benchmarks/results/2026-11-20_h200_sweep.json``), with 40 more shapes that nothing
was fitted to. Cells that no row is about are from an earlier sweep of older kernels.
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
            32: Cost(1.776, 0.118, 0.223), 64: Cost(1.692, 0.149, 0.295), 96: Cost(2.511, 0.163, 0.322),
            128: Cost(2.087, 0.206, 0.472),
        },
        128: {
            32: Cost(1.728, 0.163, 0.317), 64: Cost(1.376, 0.242, 0.416), 80: Cost(1.559, 0.295, 0.652),
            96: Cost(1.763, 0.319, 0.45), 112: Cost(1.887, 0.37, 0.862), 128: Cost(2.214, 0.37, 0.641),
            144: Cost(1.838, 0.464, 1.056), 160: Cost(2.254, 0.487, 0.688), 176: Cost(1.891, 0.553, 1.287),
            192: Cost(2.256, 0.539, 0.953),
        },
        256: {64: Cost(2.066, 0.468, 0.598), 96: Cost(2.289, 0.611, 0.951), 128: Cost(2.697, 0.739, 1.087)},
    },
    # Estimated, not measured: the tensor core takes as long for a step of as many bytes as with FP8, and there is no
    # promotion, which leaves registers for wider tiles.
    plain_16={
        128: {
            64: Cost(2.6, 0.23, 0.37), 96: Cost(3.0, 0.29, 0.50), 128: Cost(2.9, 0.34, 0.71),
            160: Cost(3.0, 0.42, 0.85), 192: Cost(3.1, 0.49, 1.00), 256: Cost(3.4, 0.62, 1.27),
        },
        256: {64: Cost(2.6, 0.42, 0.63), 96: Cost(3.0, 0.54, 0.92), 128: Cost(3.4, 0.66, 1.27)},
    },
    swapped={
        64: {
            8: Cost(1.674, 0.141, 0.119), 16: Cost(1.903, 0.104, 0.083), 32: Cost(3.464, 0.089, 0.102),
            64: Cost(1.974, 0.164, 0.304), 128: Cost(3.6, 0.34, 0.65),
        },
        128: {
            8: Cost(1.784, 0.149, 0.226), 16: Cost(1.877, 0.156, 0.198), 32: Cost(2.336, 0.189, 0.501),
            64: Cost(2.51, 0.266, 0.405), 128: Cost(2.5, 0.55, 1.35),
        },
    },
    split_narrow={
        32: Cost(1.453, 0.106, 1.381), 64: Cost(1.656, 0.146, 1.656), 96: Cost(2.046, 0.183, 2.046),
        128: Cost(2.284, 0.23, 2.284),
    },
    split_plain={64: Cost(2.188, 0.194, 2.188), 96: Cost(2.403, 0.296, 2.403), 128: Cost(3.109, 0.301, 3.109)},
    split_swapped={
        64: {
            8: Cost(1.871, 0.096, 1.03), 16: Cost(1.629, 0.086, 1.167), 32: Cost(1.6, 0.093, 1.6),
            64: Cost(1.971, 0.122, 1.971), 128: Cost(3.2, 0.3, 3.2),
        },
        128: {
            8: Cost(1.689, 0.092, 1.659), 16: Cost(1.478, 0.097, 2.112), 32: Cost(2.301, 0.13, 2.301),
            64: Cost(2.711, 0.209, 2.711), 128: Cost(3.8, 0.4, 3.8),
        },
    },
    # Sharing rows of A costs latency once, and spares L2 reads (and so power) in every step.
    multicast_base=0.897,
    multicast_step=0.994,
)  # fmt: skip
"""The tables with which plans are chosen."""
