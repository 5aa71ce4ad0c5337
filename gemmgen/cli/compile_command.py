"""``gemmgen compile``: CUDA, PTX, cubin and a manifest for every kernel of a plan, written to a folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import gemmgen
from gemmgen.cli.build import (
    Request,
    TargetBuild,
    build,
    choose_targets,
    print_refused,
    print_resources,
    request,
    variant_dict,
)
from gemmgen.cli.output import print_json, print_line
from gemmgen.errors import ArgumentError
from gemmgen.plan import Variant
from gemmgen.runtime.nvrtc import compile_options, nvrtc_version

MANIFEST_VERSION = 1


def compile_command(
    source: str,
    target: str | None,
    dims: dict[str, int],
    folder: Path,
    jobs: int | None,
    tuned: Path | None,
    as_json: bool,
) -> None:
    """Compile a spec and write what it became; see ``gemmgen compile --help``."""
    asked = request(source, dims, tuned)
    targets, refused = choose_targets(asked.spec, asked.target(target))
    builds = [build(asked, name, jobs) for name in targets]
    manifests = [_write(folder, asked, built, variant) for built in builds for variant in built.variants]
    if as_json:
        left_out = [reason.as_dict() for reason in refused]
        kernels = [kernel for built in builds for kernel in built.to_dicts()]
        for kernel, path in zip(kernels, manifests, strict=True):
            kernel["manifest"] = str(path)
        print_json({"spec": asked.spec.name, "dims": asked.dims, "kernels": kernels, "left_out": left_out})
        return
    print_resources(asked.title, builds)
    print_refused(refused)
    seconds = sum(built.seconds for built in builds)
    print_line(f"{len(manifests)} kernels in {seconds:.2f} s, written to {folder}/ (.cu .ptx .cubin .json)")


def manifest(asked: Request, target: str, variant: Variant, files: dict[str, str]) -> dict[str, Any]:
    """What a C program needs to launch the cubin, and what made it."""
    binary = variant.binary()
    return {
        "manifest": MANIFEST_VERSION,
        "gemmgen": gemmgen.__version__,
        "nvrtc": "{}.{}".format(*nvrtc_version()),
        "options": list(compile_options(target)),
        "target": target,
        "spec": asked.spec.to_dict(),
        **variant_dict(variant),
        "launch": binary.launch.to_dict(),
        "files": files,
        "cubin_sha256": hashlib.sha256(binary.cubin).hexdigest(),
    }


def _write(folder: Path, asked: Request, built: TargetBuild, variant: Variant) -> Path:
    """Write one kernel's four files; returns the manifest's path."""
    binary = variant.binary()
    sizes = "".join(f"_{name.lower()}{size}" for name, size in asked.spec.problem.dims.items() if name != "M")
    upper = "max" if variant.m_max is None else variant.m_max
    stem = f"{asked.spec.name}{sizes}_m{variant.m_min}-{upper}_{built.target}"
    files = {kind: f"{stem}.{kind}" for kind in ("cu", "ptx", "cubin")}
    contents = {"cu": binary.source.encode(), "ptx": binary.ptx.encode(), "cubin": binary.cubin}
    path = folder / f"{stem}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, content in contents.items():
            (folder / files[kind]).write_bytes(content)
        text = json.dumps(manifest(asked, built.target, variant, files), indent=2)
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ArgumentError(
            "the output cannot be written",
            where="-o",
            got=f"{error.filename or folder}: {error.strerror}",
            need="a folder that can be written",
            fix="choose another folder with -o",
        ) from error
    return path
