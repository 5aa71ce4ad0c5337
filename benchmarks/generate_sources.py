"""Print the CUDA source of every kernel in the plan of every spec in a folder, as one JSON object.

`diff_sources` runs this file with each commit's package on the path; it therefore uses only gemmgen's public API.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gemmgen

DIMS = ({"N": 576, "K": 7168}, {"N": 7168, "K": 2048}, {"N": 200, "K": 400})


def main(folder: Path) -> None:
    sources: dict[str, str] = {}
    for spec in sorted(folder.glob("*.yaml")):
        loaded = gemmgen.load_spec(spec)
        for target in loaded.targets:
            for dims in DIMS:
                label = ",".join(f"{name}={value}" for name, value in dims.items())
                if not gemmgen.supports(spec, target)[0]:
                    continue
                kernel = gemmgen.compile(loaded.bind(**dims), target=target)
                for index, variant in enumerate(kernel.plan()):
                    sources[f"{spec.stem} {target} {label} #{index}"] = variant.source
    json.dump(sources, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
