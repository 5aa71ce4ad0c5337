"""The package's functions: compile a spec, or ask whether it can be compiled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gemmgen.errors import DriverError
from gemmgen.kernel import Kernel, capability_of
from gemmgen.runtime import driver
from gemmgen.runtime.cache import Cache
from gemmgen.spec import GemmSpec, load_spec
from gemmgen.spec.support import unsupported_reason
from gemmgen.tuning.file import TunedFile, load_tuned

SpecSource = str | Path | Mapping[str, Any] | GemmSpec


def compile(
    spec: SpecSource,
    target: str | None = None,
    *,
    strict: bool = False,
    cache: Cache | None = None,
    tuned: str | Path | TunedFile | None = None,
    **dims: int,
) -> Kernel:
    """A kernel for ``spec``. Nothing is generated yet; the first call, or ``kernel.plan().compile()``, does that.

    Args:
        spec: path of a YAML file, name of a shipped spec, YAML text, mapping, or ``GemmSpec``.
        target: architecture; by default that of the tuned schedules, else the one of this machine's first GPU if the
            spec has it, else the spec's first that can be compiled.
        strict: calls raise ``NotCompiledError`` instead of compiling.
        cache: where compiled kernels are kept; the user's cache folder by default.
        tuned: a file that ``gemmgen tune`` wrote, or what ``gemmgen.tune`` returned as ``file``: schedules that go
            before the heuristics' choices where they were measured.
        dims: sizes of dimensions that the spec leaves dynamic.

    Raises:
        SpecError: the spec or a dimension is wrong.
        TargetError: the target is unknown or cannot do what the spec asks.
        TuningError: the tuned schedules cannot be read, or are for another spec or target.
    """
    bound = load_spec(spec).bind(**dims)
    schedules = load_tuned(tuned) if isinstance(tuned, str | Path) else tuned
    chosen = target or (schedules.target if schedules is not None else default_target(bound))
    if schedules is not None:
        schedules.check_fits(bound, chosen)
    reason = unsupported_reason(bound, chosen)
    if reason is not None:
        raise reason
    return Kernel(bound, chosen, strict=strict, cache=cache, tuned=schedules)


def supports(spec: SpecSource, target: str) -> tuple[bool, str]:
    """Whether ``spec`` can be compiled for ``target``, and why not. Touches no GPU.

    Raises:
        SpecError: the spec itself is wrong.
    """
    reason = unsupported_reason(load_spec(spec), target)
    return reason is None, "" if reason is None else str(reason)


def default_target(spec: GemmSpec) -> str:
    """The spec's target for this machine's first GPU, else its first target that can be compiled, else its first."""
    if driver.device_count():
        try:
            capability = driver.device_properties(0).capability
        except DriverError:
            capability = None
        for target in spec.targets:
            if capability_of(target) == capability:
                return target
    able = [target for target in spec.targets if unsupported_reason(spec, target) is None]
    return (able or list(spec.targets))[0]
