"""gemmgen: a compiler from declarative specs of matrix multiplications to GPU kernels.

``kernel = gemmgen.compile("fp8_gemm_nt", N=4096, K=7168)``, then ``kernel(a, sa, b, sb)`` on torch tensors.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gemmgen.api import compile, supports
    from gemmgen.errors import (
        ArgumentError,
        CompileError,
        DriverError,
        EmulationError,
        GemmgenError,
        GemmgenWarning,
        IRError,
        NotCompiledError,
        ScheduleError,
        SpecError,
        TargetError,
        TuningError,
    )
    from gemmgen.kernel import Kernel
    from gemmgen.quantization import QuantizedTensor, quantize
    from gemmgen.reference import gemm_reference, relative_difference
    from gemmgen.scale_packing import pack_scales
    from gemmgen.scales import pack_exponents, unpack_exponents
    from gemmgen.spec import GemmSpec, load_spec
    from gemmgen.tuning.tune import tune

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "CompileError",
    "DriverError",
    "EmulationError",
    "GemmSpec",
    "GemmgenError",
    "GemmgenWarning",
    "IRError",
    "Kernel",
    "NotCompiledError",
    "QuantizedTensor",
    "ScheduleError",
    "SpecError",
    "TargetError",
    "TuningError",
    "compile",
    "gemm_reference",
    "load_spec",
    "pack_exponents",
    "pack_scales",
    "quantize",
    "relative_difference",
    "supports",
    "tune",
    "unpack_exponents",
]

_HOMES = {
    "compile": "gemmgen.api",
    "supports": "gemmgen.api",
    "Kernel": "gemmgen.kernel",
    "GemmSpec": "gemmgen.spec",
    "load_spec": "gemmgen.spec",
    "QuantizedTensor": "gemmgen.quantization",
    "quantize": "gemmgen.quantization",
    "pack_scales": "gemmgen.scale_packing",
    "pack_exponents": "gemmgen.scales",
    "unpack_exponents": "gemmgen.scales",
    "gemm_reference": "gemmgen.reference",
    "relative_difference": "gemmgen.reference",
    "tune": "gemmgen.tuning.tune",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import gemmgen`` costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'gemmgen' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES.get(name, "gemmgen.errors")), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
