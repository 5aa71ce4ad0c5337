"""A hand-written kernel in which a CTA pair multiplies two tiles of 256 x 128, with or without block scales.

Each CTA's loader (warp 4) fills its own shared memory and counts at the leader's ``full``; only the leader expects the
bytes of both. A warp per CTA (5) puts scale words into the tensor core's order and arrives at the leader. One thread of
the leader (warp 6) copies scales, multiplies and commits to both CTAs; the math warps (0-3) of both read their own
tensor memory and arrive at the leader's ``part_empty``.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from gemmgen.emulator import Report, TensorMap, Uninitialized, emulate

TILES, STEPS, STAGES = 2, 3, 2
M, N, K = 256 * TILES, 128, 128 * STEPS
THREADS = 224
_A_BYTES, _B_BYTES, _SCALE_BYTES = 128 * 128, N // 2 * 128, 512
_STAGE_BYTES = _A_BYTES + _B_BYTES + 2 * _SCALE_BYTES
_BARRIERS = STAGES * _STAGE_BYTES
_FULL, _EMPTY, _WORDS, _PART_FULL, _PART_EMPTY, _SLOT = (_BARRIERS + 16 * i for i in range(6))
_PAIR_BYTES = 2 * (_A_BYTES + _B_BYTES)
_SHARED_BYTES = _SLOT + 16
_COLUMNS, _SFA, _SFB = 256, N, N + 4
_OPERAND_DESCRIPTOR = 64 << 32 | 1 << 46 | 2 << 61
_SCALE_DESCRIPTOR = 8 << 32 | 1 << 46
_LOAD = "cp.async.bulk.tensor.2d{}.shared::cluster.global.mbarrier::complete_tx::bytes"
_COMMIT = "tcgen05.commit.cta_group::2.mbarrier::arrive::one.shared::cluster.multicast::cluster.b64"
_CLUSTER_SYNC = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;"
_CHUNK = ", ".join(f"r{i}" for i in range(32))
_STORES = "\n".join(
    f"  st.global.v4.b32 [g+{16 * i}], {{{', '.join(f'r{4 * i + j}' for j in range(4))}}};" for i in range(8)
)


def _wait(label: str, barrier: str, parity: str) -> str:
    return (
        f"{label}:\n  mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [{barrier}], {parity};\n"
        f"  @!p bra {label};"
    )


def _ring(top: str) -> str:
    """Stage, its base, its barriers and the parity of ``step``."""
    return f"""{top}:
  and.b32 stage, step, {STAGES - 1};
  shr.u32 phase, step, {STAGES.bit_length() - 1};
  and.b32 phase, phase, 1;
  xor.b32 other, phase, 1;
  mad.lo.u32 area, stage, {_STAGE_BYTES}, base;
  mad.lo.u32 full, stage, 8, base;
  add.u32 empty, full, {_EMPTY};
  add.u32 words, full, {_WORDS};
  add.u32 full, full, {_FULL};
  add.u32 sfa, area, {_A_BYTES + _B_BYTES};
  add.u32 sfb, sfa, {_SCALE_BYTES};"""


def _again(top: str) -> str:
    return f"  add.u32 step, step, 1;\n  setp.lt.u32 p, step, {TILES * STEPS};\n  @p bra {top};\n  bra JOIN;"


_LOAD_SCALES = f"""  mbarrier.arrive.expect_tx.shared::cta.b64 _, [words], {2 * _SCALE_BYTES}; // words expected
  {_LOAD.format("")} [sfa], [ma_scales, {{row, k}}], [words]; // words of A
  {_LOAD.format("")} [sfb], [mb_scales, {{zero, k}}], [words]; // words of B"""

_ARRANGE = f"""ARRANGER:
{_ring("ARRANGE")}
{_wait("WORDS", "words", "phase")} // words are there
  mad.lo.u32 addr, lane, 4, sfa;
  mad.lo.u32 x, lane, 16, sfa;
  ld.shared.b32 r0, [addr];
  ld.shared.b32 r1, [addr+128];
  ld.shared.b32 r2, [addr+256];
  ld.shared.b32 r3, [addr+384];
  ld.shared.b32 r4, [addr+{_SCALE_BYTES}];
  ld.shared.b32 r5, [addr+{_SCALE_BYTES + 128}];
  ld.shared.b32 r6, [addr+{_SCALE_BYTES + 256}];
  ld.shared.b32 r7, [addr+{_SCALE_BYTES + 384}];
  bar.warp.sync 0xffffffff; // all words are read
  st.shared.v4.b32 [x], {{r0, r1, r2, r3}};
  st.shared.v4.b32 [x+{_SCALE_BYTES}], {{r4, r5, r6, r7}}; // B's words arranged
  fence.proxy.async.shared::cta; // scales for the tensor core
  bar.warp.sync 0xffffffff; // all words are written
  setp.ne.u32 p, lane, 0;
  mapa.shared::cluster.u32 addr, full, 0; // arranger's barrier
  @!p mbarrier.arrive.release.cluster.shared::cluster.b64 _, [addr]; // arranged
{_again("ARRANGE")}
"""

_COPY_SCALES = f"""  and.b32 x, sfa, 0x3ffff;
  shr.u32 x, x, 4;
  cvt.u64.u32 sd, x;
  or.b64 sd, sd, {_SCALE_DESCRIPTOR:#x};
  add.u32 ta, taddr, {_SFA};
  add.u32 tb, taddr, {_SFB};
  tcgen05.cp.cta_group::2.32x128b.warpx4 [ta], sd; // scales of A
  add.u64 sd, sd, {_SCALE_BYTES >> 4};
  tcgen05.cp.cta_group::2.32x128b.warpx4 [tb], sd; // scales of B"""


def _products(scaled: bool) -> str:
    lines = []
    for j in range(4):
        if scaled:
            lines.append(f"  or.b32 word, idesc, {j << 29 | j << 4:#x}; // scale ids {j}")
            lines.append("  tcgen05.mma.cta_group::2.kind::mxf8f6f4.block_scale [taddr], da, db, word, [ta], [tb], on;")
        else:
            lines.append("  tcgen05.mma.cta_group::2.kind::f8f6f4 [taddr], da, db, idesc, on;")
        lines += ["  setp.eq.u32 on, 0, 0;", "  add.u64 da, da, 2;", "  add.u64 db, db, 2;"]
    return "\n".join(lines)


def _epilogue() -> str:
    lines = []
    for column in range(0, N, 32):
        lines.append(f"  add.u32 addr, cell, {column};")
        lines.append(f"  tcgen05.ld.sync.aligned.32x32b.x32.b32 {{{_CHUNK}}}, [addr];")
        lines.append("  tcgen05.wait::ld.sync.aligned;")
        lines += [_STORES, "  add.u64 g, g, 128;"]
    return "\n".join(lines)


def pair_kernel(scaled: bool) -> str:
    """The PTX; it takes tensor maps of A, B and (read only with ``scaled``) their scale words, and D."""
    kind_bits = 1 << 23 if scaled else 1 << 4
    return f""".version 9.0
.target sm_100a
.address_size 64
.extern .shared .align 1024 .b8 smem[];
.visible .entry k(.param .align 64 .b8 a[128], .param .align 64 .b8 b[128], .param .align 64 .b8 sa[128],
  .param .align 64 .b8 sb[128], .param .u64 out)
.maxntid {THREADS}
.reqnctapercluster 2
{{
  .reg .pred p, q, on, elected, math, follower;
  .reg .b32 t, w, lane, rank, base, area, addr, x, taddr, cell, stage, phase, other, parity, step, tile, left, zero;
  .reg .b32 full, empty, words, sfa, sfb, part, counted, row, row_b, k, idesc, word, ta, tb;
  .reg .b64 g, ma, mb, ma_scales, mb_scales, da, db, sd;
  .reg .b16 both;
  .reg .b32 r<32>;
  mov.u32 t, %tid.x;
  shr.u32 w, t, 5;
  and.b32 lane, t, 31;
  mov.u32 rank, %cluster_ctarank;
  setp.ne.u32 follower, rank, 0;
  mov.u32 base, smem;
  mov.u32 zero, 0;
  mov.u32 step, 0;
  setp.ne.u32 q, t, 0;
  @q bra INITIALISED;
  mbarrier.init.shared::cta.b64 [base+{_FULL}], {3 if scaled else 1}; // full counts
  mbarrier.init.shared::cta.b64 [base+{_FULL + 8}], {3 if scaled else 1};
  mbarrier.init.shared::cta.b64 [base+{_EMPTY}], 1;
  mbarrier.init.shared::cta.b64 [base+{_EMPTY + 8}], 1;
  mbarrier.init.shared::cta.b64 [base+{_WORDS}], 1;
  mbarrier.init.shared::cta.b64 [base+{_WORDS + 8}], 1;
  mbarrier.init.shared::cta.b64 [base+{_PART_FULL}], 1;
  mbarrier.init.shared::cta.b64 [base+{_PART_EMPTY}], 256; // part_empty counts
  fence.mbarrier_init.release.cluster;
INITIALISED:
  bar.warp.sync 0xffffffff;
  {_CLUSTER_SYNC} // barriers are initialised
  setp.ne.u32 q, w, 6;
  @q bra ALLOCATED;
  add.u32 addr, base, {_SLOT};
  tcgen05.alloc.cta_group::2.sync.aligned.shared::cta.b32 [addr], {_COLUMNS};
  tcgen05.relinquish_alloc_permit.cta_group::2.sync.aligned;
ALLOCATED:
  tcgen05.fence::before_thread_sync; // allocated
  bar.sync 0;
  tcgen05.fence::after_thread_sync; // allocated
  ld.shared.b32 taddr, [base+{_SLOT}];
  setp.lt.u32 math, w, 4;
  @math bra EPILOGUE;
  setp.eq.u32 p, w, 5;
  {"@p bra ARRANGER;" if scaled else "@p bra JOIN;"}
  elect.sync _|elected, 0xffffffff;
  @!elected bra JOIN;
  setp.eq.u32 p, w, 6;
  @p bra MULTIPLIER;
  cvta.param.u64 ma, a;
  cvta.param.u64 mb, b;
  cvta.param.u64 ma_scales, sa;
  cvta.param.u64 mb_scales, sb;
  mul.lo.u32 row_b, rank, {N // 2};
{_ring("FILL")}
{_wait("FREE", "empty", "other")} // stage is free
  div.u32 tile, step, {STEPS};
  rem.u32 k, step, {STEPS};
  mul.lo.u32 row, tile, 256;
  mad.lo.u32 row, rank, 128, row;
{_LOAD_SCALES if scaled else ""}
  mapa.shared::cluster.u32 counted, full, 0; // loader's barrier
  mul.lo.u32 k, k, 128;
  @!follower mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], {_PAIR_BYTES}; // bytes of both
  {_LOAD.format(".cta_group::2")} [area], [ma, {{k, row}}], [counted]; // A
  add.u32 addr, area, {_A_BYTES};
  {_LOAD.format(".cta_group::2")} [addr], [mb, {{k, row_b}}], [counted]; // B
{_again("FILL")}
MULTIPLIER:
  @follower bra JOIN; // the leader multiplies
  mov.b16 both, 3;
  mov.u32 idesc, {(N // 8) << 17 | (256 // 16) << 24 | kind_bits:#x};
  mov.u32 tile, 0;
TILE:
  and.b32 parity, tile, 1;
  xor.b32 parity, parity, 1;
  add.u32 part, base, {_PART_EMPTY};
{_wait("READ", "part", "parity")} // accumulator is free
  tcgen05.fence::after_thread_sync; // accumulator was read
  setp.ne.u32 on, 0, 0;
  mov.u32 left, {STEPS};
{_ring("MULTIPLY")}
{_wait("LOADED", "full", "phase")} // stage is loaded
  tcgen05.fence::after_thread_sync; // stage is loaded
{_COPY_SCALES if scaled else ""}
  and.b32 x, area, 0x3ffff;
  shr.u32 x, x, 4;
  cvt.u64.u32 da, x;
  or.b64 da, da, {_OPERAND_DESCRIPTOR:#x};
  add.u64 db, da, {_A_BYTES >> 4};
{_products(scaled)}
  {_COMMIT} [empty], both; // stage is read
  add.u32 step, step, 1;
  sub.u32 left, left, 1;
  setp.ne.u32 p, left, 0;
  @p bra MULTIPLY;
  add.u32 part, base, {_PART_FULL};
  {_COMMIT} [part], both; // tile is done
  add.u32 tile, tile, 1;
  setp.lt.u32 p, tile, {TILES};
  @p bra TILE;
  bra JOIN;
{_ARRANGE if scaled else ""}
EPILOGUE:
  shl.b32 cell, w, 21;
  add.u32 cell, cell, taddr;
  mov.u32 tile, 0;
STORE:
  and.b32 parity, tile, 1;
  add.u32 part, base, {_PART_FULL};
{_wait("DONE", "part", "parity")} // tile is multiplied
  tcgen05.fence::after_thread_sync; // tile is multiplied
  ld.param.u64 g, [out];
  cvta.to.global.u64 g, g;
  mul.lo.u32 row, tile, 256;
  mad.lo.u32 row, rank, 128, row;
  add.u32 row, row, t;
  mad.wide.u32 g, row, {4 * N}, g;
{_epilogue()}
  tcgen05.fence::before_thread_sync; // accumulator was read
  add.u32 part, base, {_PART_EMPTY};
  mapa.shared::cluster.u32 part, part, 0; // reader's barrier
  mbarrier.arrive.release.cluster.shared::cluster.b64 _, [part]; // accumulator was read
  add.u32 tile, tile, 1;
  setp.lt.u32 p, tile, {TILES};
  @p bra STORE;
JOIN:
  bar.warp.sync 0xffffffff;
  tcgen05.fence::before_thread_sync; // end
  {_CLUSTER_SYNC} // both CTAs are done
  tcgen05.fence::after_thread_sync; // end
  setp.ne.u32 q, w, 6;
  @q bra LEAVE;
  tcgen05.dealloc.cta_group::2.sync.aligned.b32 taddr, {_COLUMNS};
LEAVE:
  ret;
}}
"""


def run_pair(ptx: str, scaled: bool, schedule: str = "fifo", seed: int = 0, ctas: int = 2) -> tuple[Report, float]:
    """Launch the kernel; returns the report and the largest error relative to the largest output, NaN if unwritten."""
    rng = np.random.default_rng(7)
    a, b = (rng.normal(size=(rows, K)).astype(ml_dtypes.float8_e4m3fn) for rows in (M, N))
    codes = [rng.integers(121, 134, (rows, K // 32)).astype(np.uint8) for rows in (M, N)]
    words = [np.ascontiguousarray(part.view(np.uint32).T) for part in codes]
    d = np.full((M, N), np.nan, np.float32)
    maps = [
        TensorMap(a, (K, M), (K,), (128, 128), "e4m3", "128B"),
        TensorMap(b, (K, N), (K,), (128, N // 2), "e4m3", "128B"),
        *(TensorMap(part, part.shape[::-1], (4 * part.shape[1],), (128, 1), "u32") for part in words),
    ]
    params = [*maps, Uninitialized(d)]
    report = emulate(ptx, "k", ctas, THREADS, ctas, _SHARED_BYTES, params, schedule=schedule, seed=seed)
    left, right = a.astype(np.float64), b.astype(np.float64)
    if scaled:
        left, right = (
            part * np.repeat(2.0 ** (code.astype(float) - 127), 32, 1)
            for part, code in zip((left, right), codes, strict=True)
        )
    exact = left @ right.T
    return report, float(np.abs(d - exact).max() / np.abs(exact).max())
