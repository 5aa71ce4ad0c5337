"""Seconds that the emulator takes for three launches, against the limits that it must keep.

Run ``python benchmarks/emulator_speed.py``. The first launch of each kernel includes parsing and decoding its PTX.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import emulator_support as support

CASES = {
    "one CTA, 128x128x512 FP8": (1, (128, 128, 512), None, 3.0),
    "2x2 tiles, K=512, persistent clusters of 2": (2, (256, 256, 512), 2, 15.0),
    "2x2 tiles, K=7168, persistent clusters of 2": (2, (256, 256, 7168), 2, 15.0),
}


def main() -> int:
    """Print one line per launch; the exit status says whether all limits were kept."""
    late = False
    for name, (cluster, shape, grid, limit) in CASES.items():
        ptx = support.hopper_ptx(cluster)
        for schedule in ("fifo", "random", "adversarial"):
            start = time.perf_counter()
            report, error = support.run_hopper(ptx, shape, cluster, grid, schedule=schedule)
            seconds = time.perf_counter() - start
            late |= seconds > limit
            state = "clean" if report.ok else "FINDINGS"
            rate = report.instructions / seconds
            print(
                f"{name:45} {schedule:12} {seconds:6.2f} s of {limit:4.1f} s  {rate:8.0f} instr/s  {state}  {error:.4f}"
            )
    return int(late)


if __name__ == "__main__":
    raise SystemExit(main())
