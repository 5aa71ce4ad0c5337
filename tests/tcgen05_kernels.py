"""A PTX frame for tcgen05 tests: fill shared and tensor memory, run some instructions, dump tensor memory.

The layouts here are written down from docs/hardware.md §1.2 and §5 with explicit loops, apart from the emulator's own
code.
"""

from __future__ import annotations

import numpy as np

IMAGE_BYTES = 65536

_FRAME = """.version 9.0
.target sm_100a
.address_size 64
.visible .entry k(.param .u64 image, .param .u64 cells, .param .u64 out)
.maxntid 128
{cluster}
{{
  .shared .align 1024 .b8 smem[{image_bytes}];
  .shared .align 8 .b64 bar;
  .shared .align 8 .b32 slot;
  .reg .pred p, q, elected, yes, no, odd;
  .reg .b32 t, w, i, base, addr, taddr, cell, barrier, rank, idesc, col, x;
  .reg .b64 g, src, da, db, sd, unit;
  .reg .b16 both;
  .reg .b32 r<128>;
  .reg .b32 s<128>;
  mov.u32 t, %tid.x;
  shr.u32 w, t, 5;
  setp.ne.u32 q, w, 0;
  setp.eq.u32 yes, 0, 0;
  setp.ne.u32 no, 0, 0;
  mov.u32 rank, %cluster_ctarank;
  setp.ne.u32 odd, rank, 0;
  mov.u32 base, smem;
  mov.u32 barrier, bar;
  ld.param.u64 g, [image];
  cvta.to.global.u64 g, g;
  mad.wide.u32 g, rank, {image_bytes}, g;
  shl.b32 i, t, 4;
COPY:
  cvt.u64.u32 src, i;
  add.u64 src, g, src;
  ld.global.v4.b32 {{r0, r1, r2, r3}}, [src];
  add.u32 addr, base, i;
  st.shared.v4.b32 [addr], {{r0, r1, r2, r3}};
  add.u32 i, i, 2048;
  setp.lt.u32 p, i, {image_bytes};
  @p bra COPY;
  {proxy_fence}
  setp.eq.u32 p, t, 0;
  @p mbarrier.init.shared::cta.b64 [barrier], 1;
  fence.mbarrier_init.release.cluster;
  @q bra ALLOCATED;
  mov.u32 addr, slot;
  tcgen05.alloc.cta_group::{group}.sync.aligned.shared::cta.b32 [addr], {columns};
  tcgen05.relinquish_alloc_permit.cta_group::{group}.sync.aligned;
ALLOCATED:
  bar.sync 0;
  ld.shared.b32 taddr, [slot];
  shl.b32 cell, w, 21;
  add.u32 cell, cell, taddr;
  ld.param.u64 g, [cells];
  cvta.to.global.u64 g, g;
  mad.lo.u32 i, rank, 128, t;
  mad.wide.u32 g, i, {row_bytes}, g;
  mov.u32 col, 0;
FILL:
{load_chunk}
  add.u32 addr, cell, col;
  tcgen05.st.sync.aligned.32x32b.x32.b32 [addr], {{{chunk}}};
  add.u64 g, g, 128;
  add.u32 col, col, 32;
  setp.lt.u32 p, col, {fill_columns};
  @p bra FILL;
  {after_fill}
  {sync}
  {after_sync}
{body}
  {before_dump}
  ld.param.u64 g, [out];
  cvta.to.global.u64 g, g;
  mad.lo.u32 i, rank, 128, t;
  mad.wide.u32 g, i, {row_bytes}, g;
  mov.u32 col, 0;
DUMP:
  add.u32 addr, cell, col;
  tcgen05.ld.sync.aligned.32x32b.x32.b32 {{{chunk}}}, [addr];
  {wait_ld}
{store_chunk}
  add.u64 g, g, 128;
  add.u32 col, col, 32;
  setp.lt.u32 p, col, {dump_columns};
  @p bra DUMP;
  {before_free}
  {sync}
  {after_free}
  @q bra DONE;
  {dealloc}
DONE:
  ret;
}}
"""

AFTER = "tcgen05.fence::after_thread_sync;"
BEFORE = "tcgen05.fence::before_thread_sync;"


def frame(body: str, *, columns: int = 64, group: int = 1, **parts: str | int) -> str:
    """The PTX of a kernel of 128 threads per CTA.

    Args:
        body: instructions between filling and dumping; ``taddr`` is the allocation, ``base`` the image in shared
            memory, ``cell`` the warp's part of tensor memory, ``barrier`` an mbarrier of count 1.
        columns: tensor memory columns.
        group: CTA group; with 2, the kernel is for clusters of two.
        parts: other texts of the frame, to leave out what a correct kernel has.
    """
    sync = "bar.sync 0;" if group == 1 else "barrier.cluster.arrive.aligned;\n  barrier.cluster.wait.aligned;"
    values: dict[str, str | int] = {
        "cluster": "" if group == 1 else ".reqnctapercluster 2",
        "image_bytes": IMAGE_BYTES,
        "proxy_fence": "fence.proxy.async.shared::cta;",
        "group": group,
        "columns": columns,
        "row_bytes": 4 * columns,
        "load_chunk": "\n".join(
            f"  ld.global.v4.b32 {{{', '.join(f'r{4 * i + j}' for j in range(4))}}}, [g+{16 * i}];" for i in range(8)
        ),
        "store_chunk": "\n".join(
            f"  st.global.v4.b32 [g+{16 * i}], {{{', '.join(f'r{4 * i + j}' for j in range(4))}}};" for i in range(8)
        ),
        "chunk": ", ".join(f"r{i}" for i in range(32)),
        "fill_columns": columns,
        "dump_columns": columns,
        "after_fill": f"tcgen05.wait::st.sync.aligned;\n  {BEFORE}",
        "sync": sync,
        "after_sync": AFTER,
        "before_dump": AFTER,
        "wait_ld": "tcgen05.wait::ld.sync.aligned;",
        "before_free": BEFORE,
        "after_free": AFTER,
        "dealloc": f"tcgen05.dealloc.cta_group::{group}.sync.aligned.b32 taddr, {columns};",
        "body": body,
    }
    return _FRAME.format_map(values | parts)


def issue(instructions: str, *, group: int = 1, commit: bool = True, wait: bool = True) -> str:
    """One elected thread of warp 0 (of the even CTA) issues; everyone waits for the commit."""
    leader = "  @odd bra ISSUED;\n" if group == 2 else ""
    signal = "mbarrier::arrive::one.shared::cluster"
    commits = {
        1: f"  tcgen05.commit.cta_group::1.{signal}.b64 [barrier];\n",
        2: f"  mov.b16 both, 3;\n  tcgen05.commit.cta_group::2.{signal}.multicast::cluster.b64 [barrier], both;\n",
    }
    text = f"  @q bra ISSUED;\n{leader}  elect.sync _|elected, 0xffffffff;\n  @!elected bra ISSUED;\n{instructions}"
    text += (commits[group] if commit else "") + "ISSUED:\n  bar.warp.sync 0xffffffff;\n"
    if wait:
        text += "WAIT:\n  mbarrier.try_wait.parity.shared::cta.b64 p, [barrier], 0;\n  @!p bra WAIT;\n"
    return text


def descriptor(name: str, offset: int, lbo: int, sbo: int, swizzle: int, base_offset: int = 0) -> str:
    """Instructions that put a shared-memory descriptor into a register (§5.2); ``offset`` is into the image."""
    word = lbo >> 4 << 16 | sbo >> 4 << 32 | 1 << 46 | base_offset << 49 | swizzle << 61
    return (
        f"  add.u32 addr, base, {offset};\n  cvt.u64.u32 {name}, addr;\n  shr.u64 {name}, {name}, 4;\n"
        f"  mov.u64 unit, {word:#x};\n  or.b64 {name}, {name}, unit;\n"
    )


def mma(kind: str, idesc: int, *, a: str = "da", group: int = 1, accumulate: bool = False, extra: str = "") -> str:
    """A ``tcgen05.mma`` on descriptors ``da`` (or tensor memory) and ``db``."""
    flag = "yes" if accumulate else "no"
    return (
        f"  mov.u32 idesc, {idesc:#x};\n"
        f"  tcgen05.mma.cta_group::{group}.kind::{kind} [taddr], {a}, db, idesc, {extra}{flag};\n"
    )


def k_major(image: np.ndarray, offset: int, rows: np.ndarray, span: int) -> tuple[int, int, int]:
    """Write rows of 32 bytes as a K-major tile whose rows are ``span`` bytes (16: no swizzle) apart.

    Returns:
        (LBO, SBO, swizzle code) for ``descriptor``.
    """
    for row, data in enumerate(rows):
        for chunk in range(2):
            if span == 16:
                at = row // 8 * 256 + row % 8 * 16 + chunk * 128
            else:
                line, within = divmod(row * span, 128)
                at = line * 128 + within + (chunk ^ line % (span // 16)) * 16
            image[offset + at : offset + at + 16] = data[16 * chunk : 16 * chunk + 16]
    if span == 16:
        return 128, 256, 0
    return 16, 8 * span, {128: 2, 64: 4, 32: 6}[span]


def mn_major(image: np.ndarray, offset: int, matrix: np.ndarray, span: int) -> tuple[int, int, int]:
    """Write a matrix [mn, k] of elements as an MN-major tile, atoms of ``span`` bytes of MN by 8 k.

    Returns:
        (LBO, SBO, swizzle code).
    """
    mn, k = matrix.shape
    size = matrix.itemsize
    blocks = -(-mn * size // span)
    for i in range(mn):
        for j in range(k):
            block, byte = divmod(i * size, span)
            if span == 16:
                at = block * 128 + j // 8 * 128 * blocks + j % 8 * 16 + byte
            else:
                line, within = divmod(j % 8 * span + byte, 128)
                atom = 8 * span * (block + j // 8 * blocks)
                at = atom + line * 128 + (within // 16 ^ line % (span // 16)) * 16 + byte % 16
            image[offset + at : offset + at + size] = matrix[i, j : j + 1].view(np.uint8)
    if span == 16:
        return 128 * blocks, 128, 0
    return 8 * span, 8 * span * blocks, {128: 2, 64: 4, 32: 6}[span]


TILES = 5
_CHUNK = [", ".join(f"r{32 * half + i}" for i in range(32)) for half in range(2)]
_STORES = "\n".join(
    f"  st.global.v4.b32 [g+{16 * i}], {{{', '.join(f'r{4 * i + j}' for j in range(4))}}};" for i in range(16)
)

# Warp 4 issues one mma per tile into two accumulators in turn; warps 0-3 read them out, 64 columns each.
PIPELINE = f""".version 9.0
.target sm_100a
.address_size 64
.visible .entry k(.param .u64 image, .param .u64 out)
.maxntid 160
{{
  .shared .align 1024 .b8 smem[{IMAGE_BYTES}];
  .shared .align 8 .b64 bars[4];
  .shared .align 8 .b32 slot;
  .reg .pred p, q, elected, no;
  .reg .b32 t, w, i, base, addr, taddr, cell, d, full, empty, stage, phase, parity, idesc, tile;
  .reg .b64 g, src, da, db, unit;
  .reg .b32 r<64>;
  mov.u32 t, %tid.x;
  shr.u32 w, t, 5;
  setp.ne.u32 q, w, 4;
  setp.ne.u32 no, 0, 0;
  mov.u32 base, smem;
  ld.param.u64 g, [image];
  cvta.to.global.u64 g, g;
  shl.b32 i, t, 4;
COPY:
  cvt.u64.u32 src, i;
  add.u64 src, g, src;
  ld.global.v4.b32 {{r0, r1, r2, r3}}, [src];
  add.u32 addr, base, i;
  st.shared.v4.b32 [addr], {{r0, r1, r2, r3}};
  add.u32 i, i, 2560;
  setp.lt.u32 p, i, {IMAGE_BYTES};
  @p bra COPY;
  fence.proxy.async.shared::cta;
  setp.eq.u32 p, t, 0;
  mov.u32 full, bars;
  add.u32 empty, full, 16;
  @p mbarrier.init.shared::cta.b64 [full], 1;
  @p mbarrier.init.shared::cta.b64 [full+8], 1;
  @p mbarrier.init.shared::cta.b64 [empty], 128;
  @p mbarrier.init.shared::cta.b64 [empty+8], 128;
  fence.mbarrier_init.release.cluster;
  @q bra ALLOCATED;
  mov.u32 addr, slot;
  tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [addr], 128;
  tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;
ALLOCATED:
  bar.sync 0;
  ld.shared.b32 taddr, [slot];
  mov.u32 tile, 0;
  @q bra EPILOGUE;
  elect.sync _|elected, 0xffffffff;
  @!elected bra FINISH;
{descriptor("da", 0, 128, 256, 0)}
{descriptor("db", 16384, 128, 256, 0)}
  mov.u32 idesc, 0x08100010;
ISSUE:
  and.b32 stage, tile, 1;
  shr.u32 phase, tile, 1;
  and.b32 phase, phase, 1;
  mov.u32 full, bars;
  mad.lo.u32 full, stage, 8, full;
  add.u32 empty, full, 16;
  xor.b32 parity, phase, 1;
FREE:
  mbarrier.try_wait.parity.shared::cta.b64 p, [empty], parity;
  @!p bra FREE;
  tcgen05.fence::after_thread_sync; // mma sees the epilogue
  mad.lo.u32 d, stage, 64, taddr;
  tcgen05.mma.cta_group::1.kind::f8f6f4 [d], da, db, idesc, no;
  tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [full];
  add.u64 db, db, 128;
  add.u32 tile, tile, 1;
  setp.lt.u32 p, tile, {TILES};
  @p bra ISSUE;
  bra FINISH;
EPILOGUE:
  ld.param.u64 g, [out];
  cvta.to.global.u64 g, g;
  mad.wide.u32 g, t, 256, g;
  shl.b32 cell, w, 21;
  add.u32 cell, cell, taddr;
READ:
  and.b32 stage, tile, 1;
  shr.u32 phase, tile, 1;
  and.b32 phase, phase, 1;
  mov.u32 full, bars;
  mad.lo.u32 full, stage, 8, full;
  add.u32 empty, full, 16;
DONE:
  mbarrier.try_wait.parity.shared::cta.b64 p, [full], phase;
  @!p bra DONE;
  tcgen05.fence::after_thread_sync; // epilogue sees the mma
  mad.lo.u32 d, stage, 64, cell;
  tcgen05.ld.sync.aligned.32x32b.x32.b32 {{{_CHUNK[0]}}}, [d];
  tcgen05.ld.sync.aligned.32x32b.x32.b32 {{{_CHUNK[1]}}}, [d+32];
  tcgen05.wait::ld.sync.aligned; // loads are done
  tcgen05.fence::before_thread_sync; // hand over
  mbarrier.arrive.shared::cta.b64 _, [empty];
{_STORES}
  add.u64 g, g, {128 * 256};
  add.u32 tile, tile, 1;
  setp.lt.u32 p, tile, {TILES};
  @p bra READ;
FINISH:
  bar.warp.sync 0xffffffff;
  bar.sync 0;
  @q bra LEAVE;
  tcgen05.dealloc.cta_group::1.sync.aligned.b32 taddr, 128;
LEAVE:
  ret;
}}
"""
