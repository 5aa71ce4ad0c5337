"""Small hand-written PTX kernels, one synchronisation pattern each, and how to launch them."""

from __future__ import annotations

import numpy as np

from gemmgen.emulator import Report, Uninitialized, emulate

_HEADER = ".version 9.0\n.target sm_90a\n.address_size 64\n"

# Every thread stores its number, the CTAs of a pair meet, and every thread reads its twin's.
CLUSTER = (
    _HEADER
    + """
.visible .entry k(.param .u64 out) {
  .shared .align 16 .b8 cells[512];
  .reg .b32 t, a, r, v, peer;  .reg .b64 g, o;
  mov.u32 t, %tid.x;  mov.u32 r, %cluster_ctarank;
  mov.u32 a, cells;  mad.lo.u32 a, t, 4, a;
  mad.lo.u32 v, r, 1000, t;
  st.shared.b32 [a], v;
  barrier.cluster.arrive.release.aligned;
  barrier.cluster.wait.acquire.aligned;
  xor.b32 r, r, 1;
  mapa.shared::cluster.u32 peer, a, r;
  ld.shared::cluster.b32 v, [peer];
  barrier.cluster.arrive.release.aligned;
  barrier.cluster.wait.acquire.aligned;
  mov.u32 r, %ctaid.x;  mad.lo.u32 t, r, 128, t;
  ld.param.u64 g, [out];  cvta.to.global.u64 g, g;
  mul.wide.u32 o, t, 4;  add.u64 g, g, o;
  st.global.b32 [g], v;
  ret;
}
"""
)

# As CLUSTER, but warp 3 meets the others in a place of its own, to which its lane 0 comes last, and reads there.
APART = (
    _HEADER
    + """
.visible .entry k(.param .u64 out) {
  .shared .align 16 .b8 cells[512];
  .reg .pred p, q;  .reg .b32 t, a, r, v, peer, n;  .reg .b64 g, o;
  mov.u32 t, %tid.x;  mov.u32 r, %cluster_ctarank;
  mov.u32 a, cells;  mad.lo.u32 a, t, 4, a;
  mad.lo.u32 v, r, 1000, t;
  xor.b32 r, r, 1;
  setp.ge.u32 p, t, 96;
  @p bra LATE;
  st.shared.b32 [a], v;
  barrier.cluster.arrive.release.aligned;
  barrier.cluster.wait.acquire.aligned;
  xor.b32 a, a, 128;
  mapa.shared::cluster.u32 peer, a, r;
  ld.shared::cluster.b32 v, [peer];
  bra END;
LATE:
  mov.u32 n, 0;
  setp.ne.u32 q, t, 96;
  @q bra MEET;
AGAIN:
  add.u32 n, n, 1;
  setp.lt.u32 q, n, 20;
  @q bra AGAIN;
MEET:
  st.shared.b32 [a], v;
  barrier.cluster.arrive.release.aligned;
  barrier.cluster.wait.acquire.aligned;
  xor.b32 a, a, 128;
  mapa.shared::cluster.u32 peer, a, r;
  ld.shared::cluster.b32 v, [peer];
END:
  barrier.cluster.arrive.release.aligned;
  barrier.cluster.wait.acquire.aligned;
  mov.u32 r, %ctaid.x;  mad.lo.u32 t, r, 128, t;
  ld.param.u64 g, [out];  cvta.to.global.u64 g, g;
  mul.wide.u32 o, t, 4;  add.u64 g, g, o;
  st.global.b32 [g], v;
  ret;
}
"""
)

# cp.async fills shared memory; after group, barrier and proxy fence one thread stores it in bulk.
COPY = (
    _HEADER
    + """
.visible .entry k(.param .u64 in, .param .u64 out) {
  .shared .align 2048 .b8 cells[2048];
  .reg .pred p;  .reg .b32 t, a, c, base, v;  .reg .b64 g, h, o;
  mov.u32 t, %tid.x;
  mov.u32 base, cells;  mad.lo.u32 a, t, 16, base;
  ld.param.u64 g, [in];  cvta.to.global.u64 g, g;
  mul.wide.u32 o, t, 16;  add.u64 g, g, o;
  cp.async.cg.shared.global [a], [g], 16;
  cp.async.commit_group;
  cp.async.wait_group 0;
  bar.sync 0;
  xor.b32 c, a, 1024;
  ld.shared.b32 v, [c];
  add.u32 v, v, 1;
  bar.sync 1, 128;
  st.shared.b32 [a], v;
  fence.proxy.async.shared::cta;
  bar.sync 2, 128;
  setp.ne.u32 p, t, 0;
  @p bra DONE;
  ld.param.u64 h, [out];  cvta.to.global.u64 h, h;
  cp.async.bulk.global.shared::cta.bulk_group [h], [base], 2048;
  cp.async.bulk.commit_group;
  cp.async.bulk.wait_group.read 0;
DONE:
  ret;
}
"""
)

# CTA 0 writes a value and raises a flag; CTA 1 waits for the flag and reads the value.
FLAG = (
    _HEADER
    + """
.visible .entry k(.param .u64 data, .param .u64 flag, .param .u64 out) {
  .reg .pred p;  .reg .b32 r, t, v;  .reg .b64 d, f, o;
  mov.u32 r, %ctaid.x;  mov.u32 t, %tid.x;
  ld.param.u64 d, [data];  ld.param.u64 f, [flag];  ld.param.u64 o, [out];
  setp.ne.u32 p, t, 0;
  @p bra DONE;
  setp.ne.u32 p, r, 0;
  @p bra READER;
  mov.u32 v, 77;
  st.global.b32 [d], v;
  mov.u32 v, 1;
  st.release.gpu.global.b32 [f], v;
  bra DONE;
READER:
  ld.acquire.gpu.global.b32 v, [f];
  setp.eq.u32 p, v, 0;
  @p bra READER;
  ld.global.b32 v, [d];
  st.global.b32 [o], v;
DONE:
  ret;
}
"""
)

# Each CTA of a pair sends 16 bytes per thread of warp 0 into its peer's shared memory, which an mbarrier counts.
SEND = (
    _HEADER
    + """
.visible .entry k(.param .u64 out) {
  .shared .align 16 .b8 cells[512];
  .shared .align 8 .b64 bar;
  .reg .pred p, q;  .reg .b32 t, a, b, r, v, ra, rb;  .reg .b64 g, o;
  mov.u32 t, %tid.x;  mov.u32 r, %cluster_ctarank;
  mov.u32 a, cells;  mad.lo.u32 a, t, 16, a;  mov.u32 b, bar;
  setp.ne.u32 p, t, 0;
  @!p mbarrier.init.shared::cta.b64 [b], 1;
  @!p fence.mbarrier_init.release.cluster;
  @!p mbarrier.arrive.expect_tx.shared::cta.b64 _, [b], 512;
  barrier.cluster.arrive.release.aligned;
  barrier.cluster.wait.acquire.aligned;
  mad.lo.u32 v, r, 1000, t;
  xor.b32 r, r, 1;
  mapa.shared::cluster.u32 ra, a, r;
  mapa.shared::cluster.u32 rb, b, r;
  st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [ra], {v, v, v, v}, [rb];
WAIT:
  mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 q, [b], 0;
  @!q bra WAIT;
  ld.shared.b32 v, [a+8];
  mov.u32 r, %ctaid.x;  mad.lo.u32 t, r, 32, t;
  ld.param.u64 g, [out];  cvta.to.global.u64 g, g;
  mul.wide.u32 o, t, 4;  add.u64 g, g, o;
  st.global.b32 [g], v;
  barrier.cluster.arrive.release.aligned;
  barrier.cluster.wait.acquire.aligned;
  ret;
}
"""
)

# Warp 0 writes a buffer, its lane 0 signals an mbarrier, warp 1 waits and reads.
SIGNAL = (
    _HEADER
    + """
.visible .entry k(.param .u64 out) {
  .shared .align 16 .b8 cells[128];
  .shared .align 8 .b64 bar;
  .reg .pred p, q, w;  .reg .b32 t, l, a, b, v;  .reg .b64 g, o;
  mov.u32 t, %tid.x;  and.b32 l, t, 31;
  mov.u32 a, cells;  mad.lo.u32 a, l, 4, a;  mov.u32 b, bar;
  setp.ne.u32 p, t, 0;
  @!p mbarrier.init.shared::cta.b64 [b], 1;
  bar.sync 0;
  setp.ge.u32 w, t, 32;
  @w bra READER;
  st.shared.b32 [a], t;
  bar.warp.sync 0xffffffff;
  @!p mbarrier.arrive.shared::cta.b64 _, [b];
  bra DONE;
READER:
  mbarrier.try_wait.parity.shared::cta.b64 q, [b], 0;
  @!q bra READER;
  ld.shared.b32 v, [a];
  ld.param.u64 g, [out];  cvta.to.global.u64 g, g;
  mul.wide.u32 o, l, 4;  add.u64 g, g, o;
  st.global.b32 [g], v;
DONE:
  ret;
}
"""
)


def _run(ptx: str, grid: int, threads: int, cluster: int, params: list, **options: object) -> Report:
    return emulate(ptx, "k", grid, threads, cluster, 0, params, **options)  # type: ignore[arg-type]


def run_cluster(ptx: str, **options: object) -> tuple[Report, float]:
    out = np.zeros(256, np.uint32)
    report = _run(ptx, 2, 128, 2, [Uninitialized(out)], **options)
    expected = np.concatenate([np.arange(128) + 1000, np.arange(128)])
    return report, float((out != expected).any())


def run_apart(ptx: str, **options: object) -> tuple[Report, float]:
    out = np.zeros(256, np.uint32)
    report = _run(ptx, 2, 128, 2, [Uninitialized(out)], **options)
    other_warp = np.arange(128) ^ 32
    expected = np.concatenate([other_warp + 1000, other_warp])
    return report, float((out != expected).any())


def run_copy(ptx: str, **options: object) -> tuple[Report, float]:
    data, out = np.arange(512, dtype=np.uint32), np.zeros(512, np.uint32)
    report = _run(ptx, 1, 128, 1, [data, Uninitialized(out)], **options)
    expected = np.arange(512)
    expected[::4] = (np.arange(128) ^ 64) * 4 + 1
    return report, float((out != expected).any())


def run_flag(ptx: str, **options: object) -> tuple[Report, float]:
    data, flag, out = (np.zeros(1, np.uint32) for _ in range(3))
    report = _run(ptx, 2, 32, 1, [data, flag, out], **options)
    return report, float(out[0] != 77)


def run_send(ptx: str, **options: object) -> tuple[Report, float]:
    out = np.zeros(64, np.uint32)
    report = _run(ptx, 2, 32, 2, [Uninitialized(out)], **options)
    expected = np.concatenate([np.arange(32) + 1000, np.arange(32)])
    return report, float((out != expected).any())


def run_signal(ptx: str, **options: object) -> tuple[Report, float]:
    out = np.zeros(32, np.uint32)
    report = _run(ptx, 1, 64, 1, [Uninitialized(out)], **options)
    return report, float((out != np.arange(32)).any())
