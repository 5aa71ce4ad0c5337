"""Run the shipped kernels on the emulator over many seeds and every scheduler: right values and no report at all.

Run from the repository root; a quarter of an hour for 50 seeds on one core::

    python -m benchmarks.emulator_soak --seeds 50
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time

from gemmgen.spec import load_spec
from gemmgen.spec.model import ScheduleHints
from gemmgen.verification import SCHEDULES, verify

TARGET = "sm_90a"
CASES = (
    ("fp8_gemm_nt", (40, 72, 272), ScheduleHints(), "mn"),
    ("fp8_gemm_nt", (72, 136, 272), ScheduleHints(tile=(128, 64, 128)), "mn"),
    ("fp8_gemm_nt", (72, 136, 272), ScheduleHints(tile=(128, 64, 128)), "k"),
    ("fp8_gemm_nt", (150, 136, 912), ScheduleHints(tile=(128, 64, 128), stages=3), "mn"),
    ("fp8_gemm_nt", (70, 136, 1040), ScheduleHints(tile=(64, 64, 128), stages=2, swap_ab=True), "mn"),
    ("fp8_gemm_nt", (150, 136, 912), ScheduleHints(tile=(64, 32, 128), stages=3), "mn"),
    ("fp8_gemm_nt", (100, 136, 912), ScheduleHints(tile=(64, 64, 128), split_k=3), "k"),
    ("fp8_gemm_nt", (200, 200, 144), ScheduleHints(tile=(256, 128, 128), cluster=(1, 2)), "mn"),
    ("fp8_gemm_nt", (150, 400, 400), ScheduleHints(tile=(128, 192, 128)), "mn"),
    ("fp8_gemm_nt", (150, 232, 400), ScheduleHints(tile=(128, 112, 128), scales_ahead=True), "mn"),
    ("fp8_gemm_nt", (150, 424, 400), ScheduleHints(tile=(128, 112, 128), evict_first=True), "mn"),
    ("fp8_gemm_nt", (300, 232, 400), ScheduleHints(tile=(256, 112, 128), stages=2), "mn"),
    ("fp8_gemm_nt", (40, 136, 528), ScheduleHints(tile=(64, 64, 128), split_k=2, scales_ahead=True), "mn"),
    ("fp8_gemm_nt", (300, 264, 656), ScheduleHints(tile=(256, 128, 128), cluster=(1, 2), stages=2), "mn"),
    ("fp8_gemm_nt", (200, 296, 656), ScheduleHints(tile=(128, 144, 128), cluster=(2, 1), unroll=4, stages=3), "mn"),
    ("fp8_gemm_nt", (200, 200, 528), ScheduleHints(tile=(128, 96, 128), unroll=2, stages=2), "k"),
    ("fp8_gemm_nt", (20, 107, 272), ScheduleHints(), "mn"),
    ("fp8_gemm_nt_split_k", (16, 136, 528), ScheduleHints(tile=(16, 64, 128), split_k=4, swap_ab=True), "mn"),
    ("fp8_gemm_nt_rowwise", (24, 136, 272), ScheduleHints(), "mn"),
    ("fp8_gemm_nt_no_promotion", (24, 136, 272), ScheduleHints(), "mn"),
    ("bf16_gemm_nn", (200, 136, 136), ScheduleHints(tile=(256, 128, 64)), "mn"),
    ("bf16_gemm_tn", (20, 136, 460), ScheduleHints(tile=(32, 128, 64), swap_ab=True, split_k=3), "mn"),
)


def main() -> int:
    """Run every case, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    options = parser.parse_args()
    failures = 0
    for name, (m, n, k), hints, scales in CASES:
        spec = dataclasses.replace(load_spec(name).bind(N=n, K=k), schedule=hints)
        start = time.monotonic()
        *_, done = verify(spec, m, TARGET, seeds=options.seeds, scale_layout=scales)
        bad = [check for check in done.checks if not check.ok]
        failures += len(bad)
        print(
            f"{name} {m}x{n}x{k} {done.variant.schedule}: {len(done.checks)} launches ({', '.join(SCHEDULES)}), "
            f"{len(bad)} wrong or reported, worst difference {max(c.difference for c in done.checks):.2e}, "
            f"{time.monotonic() - start:.0f} s",
            flush=True,
        )
        for check in bad[:3]:
            print(check.report, flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
