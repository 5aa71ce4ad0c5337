"""Speed of the dense FP8 kernel on the recorded shapes, beside cuBLAS, DeepGEMM and the hardware's floor.

Run from the repository root on a Hopper GPU; each set takes about a minute::

    python -m benchmarks.dense_fp8                       # writes benchmarks/results/<date>_<gpu>_dense_fp8.{json,md}
    python -m benchmarks.dense_fp8 --unseen              # 40 shapes that nobody tuned for: …_dense_fp8_unseen.{json,md}
    python -m benchmarks.dense_fp8 --sustained           # under load, as the recorded times look: …_sustained.{json,md}
    python -m benchmarks.dense_fp8 --shapes 64x576x7168,4096x7168x2048 --out /tmp/results

BF16 ``torch.mm`` runs as well where M is at most 64. DeepGEMM has recorded times for the recorded shapes only.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from . import compare, findings, unseen
from .checks import Kernels
from .harness import Shape

SPEC = "specs/fp8_gemm_nt.yaml"
SUSTAINED_S = 0.25
"""Load before a timing; the power limiter averages over tens of milliseconds."""


def main(argv: list[str] | None = None) -> int:
    options = _parse(argv)
    kernels = Kernels(options.spec)
    shapes = unseen.shapes() if options.unseen else compare.baseline_shapes(options.shapes, options.quick)
    seconds = _build(kernels, shapes)
    print(f"built the plans of {len({(s.n, s.k) for s in shapes})} (N, K) pairs in {seconds:.1f} s", file=sys.stderr)
    rows = compare.measure(
        shapes,
        lambda x: kernels.get(x.b.shape[0], x.b.shape[1]).bind(x.a, x.sa, x.b, x.sb, out=x.out),
        with_cublas=not options.no_cublas,
        budget_s=options.budget,
        load_s=SUSTAINED_S if options.sustained else 0.0,
    )
    name = "dense_fp8" + "_unseen" * options.unseen + "_sustained" * options.sustained
    paths = compare.write(rows, name, options.out)
    print(compare.table(rows))
    print(findings.text(rows))
    print("wrote", *paths)
    return 1 if any(row.failed for row in rows) or len(rows) < len(shapes) else 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", default=SPEC, help="spec file to compile")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--shapes", default="", metavar="MxNxK,…", help="these instead of the recorded 63")
    choice.add_argument("--unseen", action="store_true", help="40 shapes of other models instead of the recorded 63")
    choice.add_argument("--quick", action="store_true", help="two (N, K) pairs only")
    parser.add_argument("--sustained", action="store_true", help="time under load, not after a rest")
    parser.add_argument("--no-cublas", action="store_true", help="skip cuBLASLt and BF16; DeepGEMM's stay as recorded")
    parser.add_argument("--budget", type=float, default=120.0, help="seconds after which no shape is begun")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results (benchmarks/results)")
    return parser.parse_args(argv)


def _build(kernels: Kernels, shapes: list[Shape]) -> float:
    """Compile every plan before anything is timed; seconds it took."""
    started = time.monotonic()
    for n, k in {(s.n, s.k) for s in shapes}:
        kernels.get(n, k).plan().compile()
    return time.monotonic() - started


if __name__ == "__main__":
    raise SystemExit(main())
