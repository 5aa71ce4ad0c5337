"""Compare whole outputs of shipped kernels on a GPU with the emulator's, bit for bit.

On the GPU machine, record what the kernels compute; then, anywhere, compare::

    python -m benchmarks.emulator_vs_gpu record out.npz
    python -m benchmarks.emulator_vs_gpu compare out.npz

Both sides draw the same operands from NumPy's generators, so only outputs travel.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gemmgen.kernel import Kernel
from gemmgen.spec import GemmSpec, load_spec
from gemmgen.spec.model import ScheduleHints
from gemmgen.verification import emulate_call, random_operands

TARGET = "sm_90a"
OUTLIER = 300.0
EMULATED_SMS = 4
NO_HINTS = ScheduleHints()


@dataclass(frozen=True)
class Pair:
    """One kernel and one problem."""

    name: str
    spec: str
    m: int
    n: int
    k: int
    hints: ScheduleHints = NO_HINTS
    scales: str = "mn"
    outliers: bool = False

    def load(self) -> GemmSpec:
        """The spec with N and K fixed and the schedule asked for."""
        return dataclasses.replace(load_spec(self.spec).bind(N=self.n, K=self.k), schedule=self.hints)

    def operands(self, spec: GemmSpec) -> Any:
        """A and B with their scales."""

        def stretch(values: np.ndarray) -> np.ndarray:
            values[::7, ::53] *= OUTLIER
            return values

        change = stretch if self.outliers else None
        return random_operands(spec, (self.m, self.n, self.k), 7, self.scales, change)


def pairs() -> Iterator[Pair]:
    """Twenty-five pairs: every way a tile is computed and stored, tails in each dimension, M = 1, outliers."""
    fp8, rowwise, plain = "fp8_gemm_nt", "fp8_gemm_nt_rowwise", "fp8_gemm_nt_no_promotion"
    for m in (1, 8, 17, 40, 64, 72, 130):
        yield Pair(f"auto M={m}", fp8, m, 264, 592)
    yield Pair("odd rows of D", fp8, 37, 107, 336)
    yield Pair("one step", fp8, 64, 128, 128)
    yield Pair("K tail of 16", fp8, 130, 136, 144)
    yield Pair("scales of any stride", fp8, 72, 200, 464, scales="k")
    yield Pair("scales of any stride, M=5", fp8, 5, 200, 464, scales="k")
    yield Pair("outliers", fp8, 96, 128, 1040, outliers=True)
    yield Pair("outliers, M=1", fp8, 1, 128, 1040, outliers=True)
    tall = ScheduleHints(tile=(256, 128, 128))
    yield Pair("256x128", fp8, 300, 200, 400, tall)
    yield Pair("256x128, pairs along n", fp8, 300, 200, 400, dataclasses.replace(tall, cluster=(1, 2)))
    yield Pair("256x128, pairs along m", fp8, 600, 136, 272, dataclasses.replace(tall, cluster=(2, 1)))
    yield Pair("128x144: two scale blocks", fp8, 130, 320, 272, ScheduleHints(tile=(128, 144, 128)))
    yield Pair("split by 3", fp8, 128, 128, 912, ScheduleHints(tile=(128, 64, 128), split_k=3))
    yield Pair("split by 4, swapped", fp8, 16, 136, 1168, ScheduleHints(tile=(16, 64, 128), split_k=4, swap_ab=True))
    yield Pair("row scales", rowwise, 70, 136, 528)
    yield Pair("row scales, M=1", rowwise, 1, 136, 528)
    yield Pair("row scales, outliers", rowwise, 70, 136, 528, outliers=True)
    yield Pair("no promotion", plain, 70, 136, 2064)
    yield Pair("no promotion, outliers", plain, 70, 136, 2064, outliers=True)


def record(path: Path) -> int:
    """Run every pair on the GPU and write the outputs' bits."""
    import torch

    found = {}
    for pair in pairs():
        spec = pair.load()
        (a, sa), (b, sb) = pair.operands(spec)
        out = torch.full((pair.m, -(-pair.n // 8) * 8), float("nan"), device="cuda", dtype=torch.bfloat16)[:, : pair.n]
        Kernel(spec, TARGET)(*(_to_gpu(x) for x in (a, sa, b, sb)), out=out)
        found[pair.name] = out.contiguous().view(torch.int16).cpu().numpy()
    np.savez_compressed(path, **found)
    print(f"recorded {len(found)} outputs in {path}")
    return 0


def compare(path: Path) -> int:
    """Emulate every pair and compare; print a line for each."""
    recorded, wrong = np.load(path), 0
    for pair in pairs():
        spec = pair.load()
        (a, sa), (b, sb) = pair.operands(spec)
        out, report = emulate_call(Kernel(spec, TARGET), a, sa, b, sb, schedule="random", num_sms=EMULATED_SMS)
        different = int((np.ascontiguousarray(out).view(np.int16) != recorded[pair.name]).sum())
        wrong += different > 0 or not report.ok
        verdict = "equal" if different == 0 else f"{different} of {out.size} elements differ"
        print(f"{pair.name:>28} {pair.m}x{pair.n}x{pair.k}: {verdict}, {len(report.findings)} findings", flush=True)
    print(f"{len(list(pairs())) - wrong} of {len(list(pairs()))} outputs equal the GPU's bit for bit")
    return int(wrong > 0)


def _to_gpu(array: np.ndarray) -> Any:
    """The same bits and strides on the GPU."""
    import torch

    if array.dtype.itemsize == 1:
        base = _copied(array.view(np.uint8))
        return base.view(torch.float8_e4m3fn)
    return _copied(array)


def _copied(array: np.ndarray) -> Any:
    import torch

    strides = [step // array.itemsize for step in array.strides]
    span = 1 + sum((extent - 1) * step for extent, step in zip(array.shape, strides, strict=True))
    flat = torch.from_numpy(np.lib.stride_tricks.as_strided(array, (span,), (array.itemsize,)).copy()).cuda()
    return flat.as_strided(array.shape, strides)


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    return record(options.file) if options.what == "record" else compare(options.file)


if __name__ == "__main__":
    sys.exit(main())
