"""Where a kernel's variables and parameters live."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

from gemmgen.emulator.machine.memory import SHARED_LIMIT, SHARED_RESERVED, GlobalMemory
from gemmgen.emulator.ptx import ast
from gemmgen.emulator.ptx.parser import TYPE_BYTES
from gemmgen.emulator.ptx.program import Program
from gemmgen.errors import EmulationError


@dataclass
class SymbolLayout:
    """Addresses of all symbols.

    Attributes:
        shared: offsets in the shared window; dynamic shared memory starts after the static variables.
        addresses: addresses of global, const, local and param symbols in their spaces.
        shared_bytes: size of the shared window, the reserved 1024 bytes included.
        local_bytes: local memory per thread.
    """

    shared: dict[str, int] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)
    shared_bytes: int = SHARED_RESERVED
    dynamic_bytes: int = 0
    local_bytes: int = 0
    param_block: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    const_block: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))


def lay_out(program: Program, memory: GlobalMemory, dynamic_bytes: int, param_block: NDArray[np.uint8]) -> SymbolLayout:
    """Place a program's variables.

    Args:
        program: the kernel.
        memory: receives the ``.global`` variables.
        dynamic_bytes: dynamic shared memory of the launch.
        param_block: the parameters' bytes.

    Raises:
        EmulationError: more shared memory than a CTA can have.
    """
    layout = SymbolLayout(dynamic_bytes=dynamic_bytes, param_block=param_block)
    layout.addresses.update(program.param_offsets)
    static = [v for v in program.variables.items() if v[1].space == "shared" and not v[1].external]
    dynamic = [v for v in program.variables.items() if v[1].space == "shared" and v[1].external]
    end = SHARED_RESERVED
    for name, variable in static:
        end = _aligned(end, variable.align)
        layout.shared[name] = end
        end += _size(variable)
    start = max([_aligned(end, variable.align) for _, variable in dynamic], default=end)
    for name, _ in dynamic:
        layout.shared[name] = start
    layout.shared_bytes = start + dynamic_bytes
    if layout.shared_bytes > SHARED_LIMIT:
        raise EmulationError(
            "more shared memory than a CTA can have",
            where="smem_bytes",
            got=f"{layout.shared_bytes - SHARED_RESERVED} bytes",
            need=f"at most {SHARED_LIMIT - SHARED_RESERVED}",
        )
    constants = bytearray()
    for name, variable in program.variables.items():
        if variable.space == "global":
            layout.addresses[name] = memory.add(name, _initial(variable), TYPE_BYTES[variable.type]).base
        elif variable.space == "const":
            constants.extend(b"\0" * (_aligned(len(constants), variable.align) - len(constants)))
            layout.addresses[name] = len(constants)
            constants.extend(_initial(variable).tobytes())
        elif variable.space == "local":
            layout.local_bytes = _aligned(layout.local_bytes, max(variable.align, 1))
            layout.addresses[name] = layout.local_bytes
            layout.local_bytes += _size(variable)
    layout.const_block = np.frombuffer(bytes(constants), np.uint8).copy()
    return layout


def _aligned(value: int, align: int) -> int:
    return -(-value // align) * align


def _size(variable: ast.Variable) -> int:
    return TYPE_BYTES[variable.type] * prod(extent or 0 for extent in variable.extents)


def _initial(variable: ast.Variable) -> NDArray[np.uint8]:
    size = TYPE_BYTES[variable.type]
    data = np.zeros(_size(variable), np.uint8)
    for position, value in enumerate(variable.initial or ()):
        data[position * size : (position + 1) * size] = np.frombuffer(
            (value & ((1 << 8 * size) - 1)).to_bytes(size, "little"), np.uint8
        )
    return data
