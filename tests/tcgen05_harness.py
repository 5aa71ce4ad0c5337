"""Runs tcgen05 test kernels on the emulator, and the encodings that their expectations are made of."""

from __future__ import annotations

import numpy as np
import tcgen05_kernels as kernels
from tcgen05_kernels import descriptor, frame, k_major

from gemmgen.emulator.machine.layout import lay_out
from gemmgen.emulator.machine.machine import Machine
from gemmgen.emulator.machine.memory import GlobalMemory
from gemmgen.emulator.machine.scheduler import make_policy
from gemmgen.emulator.ops.builder import compile_blocks
from gemmgen.emulator.ptx.parser import parse
from gemmgen.emulator.ptx.program import decode
from gemmgen.emulator.report import Recorder, Report

SENTINEL = 0xDEADBEEF


def run(
    ptx: str, image: np.ndarray, cells: np.ndarray, schedule: str = "fifo", seed: int = 0
) -> tuple[np.ndarray, Report]:
    """Run a kernel of ``tcgen05_kernels.frame``.

    Args:
        ptx: the kernel.
        image: uint8 [ctas, IMAGE_BYTES], copied to shared memory.
        cells: uint32 [ctas, 128, columns], stored to tensor memory first.

    Returns:
        The dump of tensor memory, shaped as ``cells``, and the report.
    """
    out = np.zeros_like(cells)
    return out, launch(ptx, {"image": image, "cells": cells, "out": out}, (len(cells), 128), schedule, seed)


def launch(ptx: str, arrays: dict[str, np.ndarray], size: tuple[int, int], schedule: str, seed: int) -> Report:
    """Run a kernel whose parameters are pointers to arrays; ``size`` is the CTAs, one cluster, and their threads."""
    program = decode(parse(ptx), "k", ptx)
    memory = GlobalMemory()
    buffers = [memory.add(name, array.reshape(-1).view(np.uint8)) for name, array in arrays.items()]
    params = np.array([buffer.base for buffer in buffers], np.uint64).view(np.uint8)
    report = Report(seed=seed, schedule=schedule)
    machine = Machine(
        program,
        lay_out(program, memory, 0, params),
        memory,
        ((size[0], 1, 1), (size[1], 1, 1), (size[0], 1, 1)),
        make_policy(schedule, seed),
        Recorder(program, None, report),
    )
    machine.blocks = compile_blocks(machine)
    machine.run()
    return report


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


def idesc(m: int, n: int, a: int, b: int, *, d: int = 1, a_mn: int = 0, b_mn: int = 0, negate_a: int = 0) -> int:
    """Bits of docs/hardware.md §5.3 for kinds without scales."""
    return d << 4 | a << 7 | b << 10 | negate_a << 13 | a_mn << 15 | b_mn << 16 | (n // 8) << 17 | (m // 16) << 24


def idesc_scaled(m: int, n: int, a: int, b: int, *, ue8m0: int = 1, sfa_id: int = 0, sfb_id: int = 0) -> int:
    """Bits of docs/hardware.md §5.3 for kinds with scales."""
    return sfb_id << 4 | a << 7 | b << 10 | (n // 8) << 17 | ue8m0 << 23 | (m // 16) << 24 | sfa_id << 29


def floats(words: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(words).view(np.float32)


def check_clean(report: Report) -> None:
    assert report.completed, str(report)
    assert not report.findings, str(report)


def blank(ctas: int = 1) -> np.ndarray:
    return np.zeros((ctas, kernels.IMAGE_BYTES), np.uint8)


A_AT, B_AT, SFA_AT, SFB_AT = 0, 16384, 32768, 34816


def simple_operands(image: np.ndarray, a: np.ndarray, b: np.ndarray) -> str:
    """K-major e4m3 operands without swizzle, the same for every kernel that is about something else."""
    da = descriptor("da", A_AT, *k_major(image, A_AT, e4m3(a), 16))
    return da + descriptor("db", B_AT, *k_major(image, B_AT, e4m3(b), 16))


def pair_image(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, str]:
    """Operands of a CTA pair: each CTA holds its half of A's and of B's rows (§5.9)."""
    image = blank(2)
    text = ""
    for cta in range(2):
        halves = (x[cta * len(x) // 2 : (cta + 1) * len(x) // 2] for x in (a, b))
        text = simple_operands(image[cta], *halves)
    return image, text


def scaled_mma(kind: str, block: str, word: int, sfa: int, sfb: int, group: int = 1) -> str:
    return (
        f"  mov.u32 idesc, {word:#x};\n  add.u32 r0, taddr, {sfa};\n  add.u32 r1, taddr, {sfb};\n"
        f"  tcgen05.mma.cta_group::{group}.kind::{kind}.block_scale{block} [taddr], da, db, idesc, [r0], [r1], no;\n"
    )


def mistake(body: str, *, columns: int = 64, group: int = 1, ctas: int | None = None, **parts: str | int) -> Report:
    """The report of a kernel with K-major operands of ones in place."""
    image = blank(ctas or group)
    for cta in image:
        simple_operands(cta, np.ones((128, 32)), np.ones((64, 32)))
    return run(frame(body, columns=columns, group=group, **parts), image, sentinels(columns, ctas or group))[1]
