"""What a user waits for: import, a cold compile, a compile from the disk cache, and the host's cost of a call.

Works without a GPU, where a kernel is compiled but not loaded and calls are left out. Every number is the median over
fresh processes, each with a cache directory of its own; imports and the first use of NVRTC are warmed up before a
compile is timed, by compiling the spec for other dimensions::

    python -m benchmarks.compile_time [--spec specs/fp8_gemm_nt.yaml] [--repeats 5] [--json]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

SPEC = "specs/fp8_gemm_nt.yaml"
M, N, K = 256, 7168, 2048
WARM_UP_N = 4096
LIMITS = {
    "import_ms": 300.0,
    "cold_compile_ms": 500.0,
    "cached_compile_ms": 10.0,
    "eager_call_us": 10.0,
    "bound_call_us": 6.0,
}
IMPORT_PROBE = "import time; t = time.perf_counter(); import gemmgen; print(1000 * (time.perf_counter() - t))"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", default=SPEC)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--no-limits", action="store_true", help="only report: the limits are the 2-core machine's")
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.probe:
        print(json.dumps(probe(options.spec)))
        return 0
    values = measure(options.spec, options.repeats)
    if options.json:
        print(json.dumps({"values": values, "limits": LIMITS}))
    else:
        for name, limit in LIMITS.items():
            shown = f"{values[name]:9.2f}" if name in values else "   no GPU"
            print(f"{name:>18} {shown}  limit {limit:g}")
    exceeded = any(value > LIMITS[name] for name, value in values.items())
    return 1 if exceeded and not options.no_limits else 0


def measure(spec: str, repeats: int) -> dict[str, float]:
    """Medians of the quantities in `LIMITS`; those that need a GPU are absent without one."""
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        found.setdefault("import_ms", []).append(float(_python(["-c", IMPORT_PROBE])))
        with tempfile.TemporaryDirectory(prefix="gemmgen-bench-") as cache:
            for kind in ("cold", "cached"):
                seen = json.loads(_python(["-m", "benchmarks.compile_time", "--probe", "--spec", spec], cache))
                found.setdefault(f"{kind}_compile_ms", []).append(seen.pop("compile_ms"))
                for name, value in seen.items():
                    found.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def probe(spec: str) -> dict[str, float]:
    """In a fresh process: milliseconds to a usable kernel, and microseconds of host time per call if there is a GPU."""
    import gemmgen

    inputs = _inputs(N)
    _usable(gemmgen.compile(spec, N=WARM_UP_N, K=K), _inputs(WARM_UP_N))
    started = time.perf_counter()
    kernel = gemmgen.compile(spec, N=N, K=K)
    bound = _usable(kernel, inputs)
    result = {"compile_ms": 1000 * (time.perf_counter() - started)}
    if inputs is not None:
        from .harness import host_us

        x = inputs
        result["eager_call_us"] = host_us(lambda: kernel(x.a, x.sa, x.b, x.sb, out=x.out))
        result["bound_call_us"] = host_us(bound)
    return result


def _inputs(n: int) -> Any:
    """Operands on the GPU, or None where there is none or torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    from .harness import Shape, make_inputs

    inputs = make_inputs(Shape(M, n, K), seed=0)
    torch.cuda.synchronize()
    return inputs


def _usable(kernel: Any, inputs: Any) -> Callable[[], object]:
    """Compile the kernel for these inputs, and load it when there are any."""
    if inputs is None:
        _ = kernel.resources
        return lambda: None
    return kernel.bind(inputs.a, inputs.sa, inputs.b, inputs.sb, out=inputs.out)


def _python(arguments: list[str], cache: str | None = None) -> str:
    environment = dict(os.environ) | ({"GEMMGEN_CACHE_DIR": cache} if cache else {})
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout.strip().splitlines()[-1]


if __name__ == "__main__":
    raise SystemExit(main())
