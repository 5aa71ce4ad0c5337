"""What ``import gemmgen`` may cost: 0.3 s of processor time, and no heavy library."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

IMPORT_LIMIT_S = 0.3
HEAVY = ("torch", "sympy", "cuda", "numpy", "lark", "jinja2", "rich", "typer")
FORBIDDEN = ("torch", "sympy", "cuda")
PROBE = f"""
import json, sys, time
before = time.process_time()
import gemmgen
seconds = time.process_time() - before
print(json.dumps({{"seconds": seconds, "heavy": [name for name in {HEAVY!r} if name in sys.modules]}}))
"""


def probe() -> dict:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_import_is_quick_and_light():
    runs = [probe() for _ in range(3)]
    seconds = statistics.median(run["seconds"] for run in runs)
    assert not set(runs[0]["heavy"]) & set(FORBIDDEN)
    assert seconds < IMPORT_LIMIT_S, f"import took {seconds:.3f} s of processor time and loaded {runs[0]['heavy']}"
