"""Where the host's time goes in a call: a hit, a call on new tensors, a new M, and the driver's own share.

Needs a GPU and torch. ``compile_time.py`` checks the limits; this program shows the parts::

    python -m benchmarks.host_cost [--spec specs/fp8_gemm_nt.yaml] [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

SPEC = "specs/fp8_gemm_nt.yaml"
M, N, K = 128, 576, 7168
NEW_TENSORS = 64


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", default=SPEC)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(argv)
    costs = measure(options.spec)
    if options.json:
        print(json.dumps(costs))
    else:
        for name, microseconds in costs.items():
            print(f"{name:<32} {microseconds:8.2f} µs")
    return 0


def measure(spec: str) -> dict[str, float]:
    """Microseconds of host time by kind of call."""
    import torch

    import gemmgen

    from .harness import host_us

    kernel = gemmgen.compile(spec, N=N, K=K)
    a, b = (torch.randn(rows, K, device="cuda", dtype=torch.bfloat16) for rows in (M, N))
    qa, qb = gemmgen.quantize(a), gemmgen.quantize(b, (128, 128))
    four = (qa.data, qa.scale, qb.data, qb.scale)
    out = torch.empty(M, N, device="cuda", dtype=torch.bfloat16)
    bound = kernel.bind(*four, out=out)
    stream = torch.cuda.current_stream().cuda_stream
    return {
        "eager, out given": host_us(lambda: kernel(*four, out=out)),
        "eager, QuantizedTensor": host_us(lambda: kernel(qa, qb, out=out)),
        "eager, out allocated": host_us(lambda: kernel(*four)),
        "bound": host_us(bound),
        "bound, stream given": host_us(lambda: bound(stream)),
        "driver call alone": host_us(driver_call(kernel, four, out, stream)),
        "eager, first time these tensors": first_times(lambda new: kernel(*four, out=new), M),
        "eager, first time this M": new_sizes(kernel, qa, qb, out),
    }


def driver_call(kernel: Any, four: tuple[Any, ...], out: Any, stream: int) -> Callable[[], object]:
    """The launch without gemmgen around it: what no Python runtime can go below."""
    from gemmgen.runtime import driver
    from gemmgen.runtime.tensors import read_tensor

    problem = kernel._checker.check(dict(zip(("a", "sa", "b", "sb"), four, strict=True)) | {"out": out})
    launcher = kernel.variant(M=problem.m).launcher()
    packed = launcher.pack(problem, driver.primary_context(read_tensor(out, "out").device))
    config = packed._kernel.config(packed._grid, stream)
    launch = driver.cuda().cuLaunchKernelEx
    return lambda: launch(config, packed._handle, packed._params, 0)


def first_times(call: Callable[[Any], object], rows: int) -> float:
    """Mean cost of a call on an output that the kernel has not seen."""
    import torch

    outs = [torch.empty(rows, N, device="cuda", dtype=torch.bfloat16) for _ in range(NEW_TENSORS)]
    torch.cuda.synchronize()
    started = time.perf_counter()
    for new in outs:
        call(new)
    elapsed = time.perf_counter() - started
    torch.cuda.synchronize()
    return 1e6 * elapsed / NEW_TENSORS


def new_sizes(kernel: Any, qa: Any, qb: Any, out: Any) -> float:
    """Mean cost of a call with an M that the kernel has not seen, but whose kernel is loaded."""
    import torch

    kernel.plan().load(out.get_device())
    calls = [(qa.data[:m], qa.scale[:m], qb.data, qb.scale, out[:m]) for m in range(M - NEW_TENSORS, M)]
    torch.cuda.synchronize()
    started = time.perf_counter()
    for call in calls:
        kernel(*call)
    elapsed = time.perf_counter() - started
    torch.cuda.synchronize()
    return 1e6 * elapsed / NEW_TENSORS


if __name__ == "__main__":
    raise SystemExit(main())
