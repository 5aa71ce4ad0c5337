r"""Tiny launches of the dense FP8 kernel for compute-sanitizer, which slows a kernel down by some hundred times.

Run from the repository root, once per tool; each prints ``ERROR SUMMARY: 0 errors`` when clean::

    for tool in memcheck synccheck racecheck; do
        compute-sanitizer --tool $tool --error-exitcode 9 --kernel-name kns=fp8_gemm_nt \
            python -m benchmarks.sanitize || exit 1
    done

K is so short that no ring of stages wraps. Where one does, racecheck reports reads of scales against the copies that
fill their stage anew, because one lane arrives for its warp after ``__syncwarp``; see docs/performance.md.

``--kernel-name kns=`` keeps torch's own kernels out of it; this program fails when no gemmgen kernel has that name,
since the sanitizer would then have looked at nothing.
"""

from __future__ import annotations

from gemmgen.spec.loader import load_spec

from . import checks
from .checks import Case, Kernels
from .compare import DIFF_LIMIT
from .harness import Layout, Shape

SPEC = "specs/fp8_gemm_nt.yaml"
KERNEL_NAME = "fp8_gemm_nt"
CASES = (
    Case(Shape(1, 256, 512), Layout()),
    Case(Shape(17, 136, 400), Layout(sa_mn_major=False, sb_mn_major=True)),
    Case(Shape(64, 576, 1024), Layout()),
    Case(Shape(130, 200, 272), Layout(pad_k=16, pad_n=8, pad_scale=4)),
    Case(Shape(300, 384, 640), Layout()),
    Case(Shape(520, 264, 256), Layout(sa_mn_major=False)),
)


def main() -> int:
    """Run every case; the exit status says whether values were right."""
    kernels = Kernels(load_spec(SPEC))
    failures = 0
    for seed, case in enumerate(CASES):
        if KERNEL_NAME not in kernels.get(case.shape.n, case.shape.k).source:
            raise SystemExit(f"no kernel is named *{KERNEL_NAME}*: the sanitizer's filter would skip it")
        error = checks.run_case(kernels, case, seed)
        failures += not error < DIFF_LIMIT
        print(f"{case}: {error:.2e}{'' if error < DIFF_LIMIT else ' WRONG'}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
