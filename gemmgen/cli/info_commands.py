"""Commands that only tell: targets, shipped specs, the cache, the JSON schema."""

from __future__ import annotations

from gemmgen.cli.output import print_json, print_line, print_table


def targets_command(as_json: bool) -> None:
    """Every target, what it offers, and whether it can be compiled for today."""
    from gemmgen.backends.capability import capabilities
    from gemmgen.spec.support import supported_targets

    able = supported_targets()
    records = [
        {**vars(record), "levers": sorted(record.levers), "supported": record.name in able} for record in capabilities()
    ]
    if as_json:
        print_json(records)
        return
    rows = [
        (
            record["name"],
            record["product"],
            "{}.{}".format(*record["compute_capability"]),
            record["sms"],
            record["smem_per_cta"],
            "yes" if record["supported"] else "not yet",
        )
        for record in records
    ]
    columns = ("target", "GPUs", "compute capability", "SMs", "shared memory per CTA (B)", "supported")
    print_table("targets", columns, rows)


def specs_command(as_json: bool) -> None:
    """The shipped specs, and the targets each can be compiled for today."""
    from gemmgen.spec import load_spec, shipped_specs
    from gemmgen.spec.support import unsupported_reason

    records = []
    for name, path in shipped_specs().items():
        spec = load_spec(path)
        reasons = {target: unsupported_reason(spec, target) for target in spec.targets}
        records.append(
            {
                "name": name,
                "path": str(path),
                "kind": spec.problem.kind,
                "layout": spec.problem.layout,
                "dtypes": f"{spec.operands.a.dtype} × {spec.operands.b.dtype} → {spec.operands.d.dtype}",
                "targets": {target: reason is None for target, reason in reasons.items()},
            }
        )
    if as_json:
        print_json(records)
        return
    rows = [
        (
            r["name"],
            r["kind"],
            r["layout"],
            r["dtypes"],
            " ".join(t if able else f"({t})" for t, able in r["targets"].items()),
        )
        for r in records
    ]
    print_table("specs", ("name", "kind", "layout", "A × B → D", "targets"), rows)
    print_line("targets in parentheses are not supported yet; a spec's name works wherever its path does")


def cache_info_command(as_json: bool) -> None:
    """Where the kernel cache is and what it holds."""
    from gemmgen.runtime.cache import default_cache

    info = default_cache().info()
    if as_json:
        print_json({**vars(info), "path": None if info.path is None else str(info.path)})
        return
    rows = [
        ("folder", info.path or "none: kernels stay in memory"),
        ("writable", "yes" if info.writable else "no"),
        ("kernels", info.cubins),
        ("requests", info.requests),
        ("size", f"{info.bytes / 1e6:.1f} MB"),
    ]
    print_table("cache", ("", "value"), rows)


def cache_clear_command(as_json: bool) -> None:
    """Delete every cached kernel."""
    from gemmgen.runtime.cache import default_cache

    freed = default_cache().clear()
    if as_json:
        print_json({"freed_bytes": freed})
    else:
        print_line(f"freed {freed / 1e6:.1f} MB")


def schema_command() -> None:
    """The JSON schema of the spec language."""
    from gemmgen.spec.schema import spec_schema

    print_json(spec_schema())
