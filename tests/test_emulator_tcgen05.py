"""Hand-written tcgen05 kernels on the emulator: every layout of HARDWARE.md §5, and every mistake it should find."""

from __future__ import annotations

import numpy as np
import pytest
import tcgen05_kernels as kernels
from tcgen05_kernels import descriptor, frame, issue, k_major, mma, mn_major

from gemmgen.emulator.report import Kind, Report

SENTINEL = 0xDEADBEEF
E4M3_ONE = 0x38


def sentinels(columns: int, ctas: int = 1) -> np.ndarray:
    return np.full((ctas, 128, columns), SENTINEL, np.uint32)


def small_integers(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Integers that every format here holds, whose products add exactly."""
    return rng.integers(-3, 4, shape).astype(np.float32)


def e4m3(values: np.ndarray) -> np.ndarray:
    """Codes of -3..3, written down: 1 is 0x38, 2 is 0x40, 3 is 0x44."""
    return np.array([0, 0x38, 0x40, 0x44, 0xC4, 0xC0, 0xB8], np.uint8)[values.astype(int)]


def e2m1(values: np.ndarray) -> np.ndarray:
    """Codes of -3..3: 1 is 2, 2 is 4, 3 is 5; the sign is bit 3."""
    return np.array([0, 2, 4, 5, 13, 12, 10], np.uint8)[values.astype(int)]


def bf16(values: np.ndarray) -> np.ndarray:
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
