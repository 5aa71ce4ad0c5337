r"""Tiny launches of the dense FP8 kernel for compute-sanitizer, which slows a kernel down by some hundred times.

Run from the repository root, once per tool; each prints ``ERROR SUMMARY: 0 errors`` when clean::

    for tool in memcheck synccheck racecheck; do
        compute-sanitizer --tool $tool --error-exitcode 9 --kernel-name kns=fp8_gemm_nt \
            python -m benchmarks.sanitize || exit 1
    done

The last cases wrap their rings of stages, with scales in the stages and in a ring of their own, and in a cluster.

``--kernel-name kns=`` keeps torch's own kernels out of it; this program fails when no gemmgen kernel has that name,
since the sanitizer would then have looked at nothing.
"""

from __future__ import annotations

from dataclasses import replace

from gemmgen.spec.loader import load_spec
from gemmgen.spec.model import ScheduleHints

from . import checks
from .checks import Case, Kernels
from .compare import DIFF_LIMIT
from .harness import Layout, Shape

AUTO = ScheduleHints()
SPEC = "specs/fp8_gemm_nt.yaml"
KERNEL_NAME = "fp8_gemm_nt"
CASES = (
    (Case(Shape(1, 256, 512), Layout()), AUTO),
    (Case(Shape(17, 136, 400), Layout(sa_mn_major=False, sb_mn_major=True)), AUTO),
    (Case(Shape(64, 576, 1024), Layout()), AUTO),
    (Case(Shape(130, 200, 272), Layout(pad_k=16, pad_n=8, pad_scale=4)), AUTO),
    (Case(Shape(300, 384, 640), Layout()), AUTO),
    (Case(Shape(520, 264, 256), Layout(sa_mn_major=False)), AUTO),
    (Case(Shape(64, 320, 2048), Layout()), ScheduleHints(tile=(64, 64, 128))),
    (Case(Shape(256, 192, 1536), Layout(sa_mn_major=False)), ScheduleHints(tile=(128, 96, 128))),
    (Case(Shape(200, 400, 1024), Layout()), ScheduleHints(tile=(128, 192, 128), unroll=4)),
    (Case(Shape(512, 512, 1024), Layout()), ScheduleHints(tile=(256, 128, 128), cluster=(1, 2))),
    (Case(Shape(512, 288, 1024), Layout()), ScheduleHints(tile=(128, 144, 128), cluster=(2, 1))),
    (Case(Shape(200, 456, 1024), Layout()), ScheduleHints(tile=(128, 112, 128), evict_first=True)),
)


def main() -> int:
    """Run every case; the exit status says whether values were right."""
    spec = load_spec(SPEC)
    failures = 0
    for seed, (case, hints) in enumerate(CASES):
        kernels = Kernels(replace(spec, schedule=hints))
        if KERNEL_NAME not in kernels.get(case.shape.n, case.shape.k).source:
            raise SystemExit(f"no kernel is named *{KERNEL_NAME}*: the sanitizer's filter would skip it")
        error = checks.run_case(kernels, case, seed)
        failures += not error < DIFF_LIMIT
        print(f"{case}: {error:.2e}{'' if error < DIFF_LIMIT else ' WRONG'}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
