"""Stores of several CTAs to the same global bytes: no race if they write the same values, a race if they do not."""

from __future__ import annotations

import numpy as np
import pytest

from gemmgen.emulator import Kind, Report, Uninitialized, emulate

# Thread 0 of each CTA fills 64 bytes of shared memory with VALUE and stores them at 32 * its number.
BULK = """.version 9.0
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 out) {
  .shared .align 128 .b8 cells[64];
  .reg .pred p;  .reg .b32 t, r, a, i, v;  .reg .b64 g, o;
  mov.u32 t, %tid.x;  mov.u32 r, %ctaid.x;  mov.u32 a, cells;
  VALUE
  setp.ne.u32 p, t, 0;
  @p bra DONE;
  mov.u32 i, 0;
FILL:
  add.u32 t, a, i;
  st.shared.b32 [t], v;
  add.u32 i, i, 4;
  setp.lt.u32 p, i, 64;
  @p bra FILL;
  fence.proxy.async.shared::cta;
  ld.param.u64 g, [out];
  mul.wide.u32 o, r, 32;
  add.u64 g, g, o;
  cp.async.bulk.global.shared::cta.bulk_group [g], [a], 64;
  cp.async.bulk.commit_group;
  cp.async.bulk.wait_group 0;
DONE:
  ret;
}
"""

# Every thread of each CTA stores VALUE at 4 * its number + 64 * the CTA's.
GENERIC = """.version 9.0
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 out) {
  .reg .b32 t, r, v;  .reg .b64 g, o;
  mov.u32 t, %tid.x;  mov.u32 r, %ctaid.x;
  VALUE
  ld.param.u64 g, [out];
  mad.lo.u32 t, r, 16, t;
  mul.wide.u32 o, t, 4;
  add.u64 g, g, o;
  st.global.b32 [g], v;
  ret;
}
"""
SAME = "mov.u32 v, 7;"
OWN = "add.u32 v, r, 7;"


def run(kernel: str, value: str, schedule: str, seed: int) -> tuple[np.ndarray, Report]:
    """Launch three CTAs; returns what they wrote."""
    out = np.zeros(64, np.uint32)
    report = emulate(
        kernel.replace("VALUE", value), "k", 3, 32, 1, 0, [Uninitialized(out)], schedule=schedule, seed=seed
    )
    return out, report


@pytest.mark.parametrize("kernel", [BULK, GENERIC], ids=["bulk", "generic"])
@pytest.mark.parametrize("schedule", ["fifo", "random", "adversarial"])
def test_the_same_values_are_no_race(kernel: str, schedule: str) -> None:
    for seed in range(5):
        out, report = run(kernel, SAME, schedule, seed)
        assert report.ok, str(report)
        assert (out[:32] == 7).all()


@pytest.mark.parametrize("kernel", [BULK, GENERIC], ids=["bulk", "generic"])
@pytest.mark.parametrize("schedule", ["fifo", "random", "adversarial"])
def test_different_values_are_a_race(kernel: str, schedule: str) -> None:
    for seed in range(5):
        _, report = run(kernel, OWN, schedule, seed)
        assert report.kinds() & {Kind.RACE, Kind.ASYNC_OVERWRITE}, str(report)
