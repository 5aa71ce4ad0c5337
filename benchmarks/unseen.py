"""Shapes that nobody tuned for: projections of models whose (N, K) the recorded set does not have.

Sizes are those of the models' ``config.json`` on Hugging Face. Nothing is chosen, fitted or recorded on them.
"""

from __future__ import annotations

from .harness import Shape

EVERY_M = (1, 8, 48, 200, 1000, 3000)
SOME_M = (1, 48, 200, 3000)
EVERY_M_PROJECTIONS = (
    (10240, 5120),  # Qwen3-32B, query, key and value: (64 + 2 * 8) heads of 128, hidden 5120
    (3072, 5120),  # GLM-4.5, gate and up of the shared expert: 2 * 1536, hidden 5120
    (12288, 1536),  # Kimi-K2, q_b: 64 heads of 128 + 64, rank 1536
    (8192, 28672),  # Llama-3-70B, down: hidden 8192, intermediate 28672
)
SOME_M_PROJECTIONS = (
    (5120, 25600),  # Qwen3-32B, down: hidden 5120, intermediate 25600
    (5120, 12288),  # GLM-4.5, attention output: hidden 5120, 96 heads of 128
    (7168, 8192),  # Kimi-K2, attention output: hidden 7168, 64 heads of 128
    (57344, 8192),  # Llama-3-70B, gate and up: 2 * 28672, hidden 8192
)


def shapes() -> list[Shape]:
    """The 40 problems, in the order in which they are measured."""
    groups = ((EVERY_M_PROJECTIONS, EVERY_M), (SOME_M_PROJECTIONS, SOME_M))
    return [Shape(m, n, k) for projections, sizes in groups for n, k in projections for m in sizes]
