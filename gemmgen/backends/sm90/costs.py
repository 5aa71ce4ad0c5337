"""What Hopper kernels cost: the numbers of the time model, and where each comes from. ``heuristics.py`` uses them.

The FP8 tables were fitted on 2026-11-20 to a sweep on one H200 (132 SMs, driver 580): 2,443 pairs of shape and schedule
over 63 shapes, kernels of about commit 28ce5d6, timed after a warm-up. Its rows are not in the repository. Those of a
second sweep are (``benchmarks/results/2026-11-20_h200_sweep_e87e84e.json``); nothing here was fitted to them, and
``benchmarks/fit_costs.py`` says what they make of these tables, and what tables would fit them.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

BYTES_PER_US = 4.2e6
"""Device memory, as the fit took it; a device-to-device copy reaches 4.26e6 on that H200."""
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
        plain: rows of A on the M side, two math warpgroups.
        plain_16: the same for 16-bit operands.
        swapped: rows of B on the M side, a math warpgroup per 64 of them.
        split_plain: 128 rows of A, K shared by the CTAs of a cluster.
        split_swapped: rows of B on the M side, K shared by the CTAs of a cluster.
        multicast_base: what sharing an operand in a cluster adds to a launch.
        multicast_step: its factor of a step.
    """

    plain: dict[int, Costs]
    plain_16: dict[int, Costs]
    swapped: dict[int, Costs]
    split_plain: Costs
    split_swapped: dict[int, Costs]
    multicast_base: float
    multicast_step: float

    def by_rows(self, swapped: bool, split: bool, item_bytes: int) -> dict[int, Costs]:
        """The table for a kind of tile, by rows."""
        if split:
            return self.split_swapped if swapped else {128: self.split_plain}
        if swapped:
            return self.swapped
        return self.plain if item_bytes == 1 else self.plain_16


SHIPPED = CostTables(
    plain={
        128: {
            32: Cost(2.0, 0.235, 0.22), 64: Cost(2.3, 0.30, 0.33), 80: Cost(2.3, 0.38, 0.43),
            96: Cost(2.2, 0.41, 0.52), 112: Cost(2.2, 0.46, 0.59), 128: Cost(2.0, 0.46, 0.77),
            144: Cost(1.9, 0.57, 0.81), 160: Cost(1.8, 0.615, 0.80),
        },
        256: {64: Cost(1.5, 0.56, 0.90), 96: Cost(2.2, 0.77, 0.95), 128: Cost(1.9, 0.82, 1.45)},
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
            8: Cost(2.0, 0.14, 0.21), 16: Cost(2.14, 0.15, 0.20), 32: Cost(2.7, 0.17, 0.22), 64: Cost(3.0, 0.23, 0.32),
            128: Cost(3.6, 0.34, 0.65),
        },
        128: {
            8: Cost(2.7, 0.18, 0.30), 16: Cost(2.75, 0.20, 0.30), 32: Cost(3.2, 0.23, 0.31), 64: Cost(3.4, 0.34, 0.50),
            128: Cost(2.5, 0.55, 1.35),
        },
    },
    split_plain={64: Cost(3.0, 0.22, 3.0), 96: Cost(3.2, 0.30, 3.2), 128: Cost(3.5, 0.37, 3.5)},
    split_swapped={
        64: {
            8: Cost(2.0, 0.10, 2.0), 16: Cost(2.13, 0.10, 2.13), 32: Cost(2.4, 0.115, 2.4), 64: Cost(2.7, 0.17, 2.7),
            128: Cost(3.2, 0.30, 3.2),
        },
        128: {
            8: Cost(2.2, 0.14, 2.2), 16: Cost(2.4, 0.15, 2.4), 32: Cost(2.7, 0.17, 2.7), 64: Cost(3.0, 0.26, 3.0),
            128: Cost(3.8, 0.40, 3.8),
        },
    },
    # Sharing rows of A costs latency once, and spares L2 reads (and so power) in every step.
    multicast_base=1.2,
    multicast_step=0.98,
)  # fmt: skip
"""The tables with which plans are chosen."""
