"""Blackwell's fifth-generation tensor cores: tensor memory, the ``tcgen05`` instructions and their ordering rules.

* ``tensor_memory``: cells, allocation, what has been written.
* ``order``: happens-before of tensor memory: waits, commits, the thread-sync fences.
* ``matrix``: what one mma or cp reads, computes and writes.
* ``state``: all of it for a launch, and calls in which the CTAs of a pair meet.
* ``management``, ``transfer``, ``issue``: the instructions, registered when ``ops.tcgen05`` is imported.

CTA pairs are modelled: operands, scale factors and accumulators in both, commits to both, copies that count at either's
barrier, allocation in which they meet.

Not modelled, and refused by name: ``.ws``, ``.sp``, ``.ashift``, ``tcgen05.shift``, K = 96, decompressing copies, and
4- or 6-bit A of kinds f8f6f4 and mxf8f6f4 in tensor memory.
"""

from __future__ import annotations
