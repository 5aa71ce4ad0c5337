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
            32: Cost(1.94, 0.118, 0.24), 64: Cost(1.843, 0.147, 0.309), 96: Cost(2.492, 0.202, 0.343),
            128: Cost(2.101, 0.207, 0.463),
        },
        128: {
            32: Cost(1.886, 0.164, 0.314), 64: Cost(1.221, 0.252, 0.401), 80: Cost(1.9, 0.33, 0.481),
            96: Cost(1.7, 0.356, 0.585), 112: Cost(2.368, 0.451, 0.553), 128: Cost(1.979, 0.381, 0.634),
            144: Cost(2.1, 0.45, 0.7), 160: Cost(2.034, 0.475, 0.73), 176: Cost(2.3, 0.52, 0.79),
            192: Cost(2.516, 0.545, 0.849),
        },
        256: {
            64: Cost(1.779, 0.468, 0.609), 80: Cost(2.0, 0.53, 0.8), 96: Cost(2.234, 0.6, 0.967),
            112: Cost(2.35, 0.66, 1.05), 128: Cost(2.452, 0.72, 1.136),
        },
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
            8: Cost(1.616, 0.136, 0.147), 16: Cost(1.924, 0.108, 0.102), 32: Cost(2.772, 0.111, 0.2),
            64: Cost(1.992, 0.165, 0.31), 128: Cost(3.6, 0.34, 0.65),
        },
        128: {
            8: Cost(1.737, 0.152, 0.244), 16: Cost(1.874, 0.157, 0.233), 32: Cost(2.514, 0.176, 0.436),
            64: Cost(2.423, 0.265, 0.455), 128: Cost(2.5, 0.55, 1.35),
        },
    },
    split_narrow={
        32: Cost(1.437, 0.111, 1.367), 64: Cost(1.744, 0.155, 1.744), 96: Cost(2.131, 0.196, 2.131),
        128: Cost(2.235, 0.232, 2.235),
    },
    split_plain={64: Cost(2.238, 0.19, 2.238), 96: Cost(2.516, 0.293, 2.516), 128: Cost(2.948, 0.3, 2.948)},
    split_swapped={
        64: {
            8: Cost(1.939, 0.096, 1.05), 16: Cost(1.683, 0.088, 1.192), 32: Cost(1.662, 0.097, 1.662),
            64: Cost(1.973, 0.121, 1.973), 128: Cost(3.2, 0.3, 3.2),
        },
        128: {
            8: Cost(1.736, 0.098, 1.704), 16: Cost(1.48, 0.093, 2.117), 32: Cost(2.231, 0.104, 2.231),
            64: Cost(2.436, 0.212, 2.436), 128: Cost(3.8, 0.4, 3.8),
        },
    },
    # Sharing rows of A costs latency once, and spares L2 reads (and so power) in every step.
    multicast_base=0.988,
    multicast_step=0.993,
)  # fmt: skip
"""The tables with which plans are chosen."""
