// A small tcgen05 kernel: one CTA (or a pair) multiplies one 128 x N tile (256 x N for a pair), K in blocks of 128 bytes.
// Warp 0 issues TMA, warp 1 issues the multiplications, all four warps read the accumulator. SCALED adds UE8M0 scales.
typedef unsigned int u32; typedef unsigned long long u64; typedef unsigned short u16; typedef unsigned char u8;
struct alignas(64) TensorMap { u64 opaque[16]; };
#ifndef GROUP
#define GROUP 1
#endif
#define STR2(x) #x
#define STR(x) STR2(x)
#define CG "cta_group::" STR(GROUP)
constexpr u32 ROWS_B = TILE_N / GROUP, A_BYTES = 128 * 128, B_BYTES = ROWS_B * 128;
constexpr u32 OFF_B = A_BYTES, OFF_SFA = OFF_B + B_BYTES, OFF_SFB = OFF_SFA + 512, OFF_BAR = OFF_SFB + 512 * ((TILE_N + 127) / 128);
constexpr u32 COLUMNS = 512, COL_SFA = 256, COL_SFB = 288;

__device__ __forceinline__ u32 smem_addr(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void mbar_wait(u32 b, u32 parity) {
  asm volatile("{\n.reg .pred p;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra DONE;\nbra WAIT;\nDONE:\n}" :: "r"(b), "r"(parity) : "memory"); }
__device__ __forceinline__ void tma_load(u32 dst, const TensorMap* m, u32 bar, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
    :: "r"(dst), "l"(m), "r"(bar), "r"(c0), "r"(c1) : "memory"); }
__device__ __forceinline__ u64 make_desc(u32 addr) { return (u64)((addr & 0x3FFFF) >> 4) | (64ull << 32) | (1ull << 46) | (2ull << 61); }
__device__ __forceinline__ u64 scale_desc(u32 addr) { return (u64)((addr & 0x3FFFF) >> 4) | (8ull << 32) | (1ull << 46); }

extern "C" __global__ void __launch_bounds__(128, 1)
blackwell(const __grid_constant__ TensorMap tma_a, const __grid_constant__ TensorMap tma_b, const u32* __restrict__ sfa,
          const u32* __restrict__ sfb, float* __restrict__ d, u32 idesc, int num_k, int elements_per_block)
{
  extern __shared__ __align__(1024) u8 smem[];
  __shared__ u32 tmem_slot;
  const u32 base = smem_addr(smem), full = base + OFF_BAR, empty = full + 8, done = full + 16;
  const u32 warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  u32 rank = 0;
#if GROUP == 2
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  if (threadIdx.x == 0) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(full), "r"(GROUP) : "memory");
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(empty) : "memory");
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(done) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
#if GROUP == 2
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
  if (warp == 1) {
    asm volatile("tcgen05.alloc." CG ".sync.aligned.shared::cta.b32 [%0], %1;" :: "r"(smem_addr(&tmem_slot)), "r"(COLUMNS) : "memory");
    asm volatile("tcgen05.relinquish_alloc_permit." CG ".sync.aligned;");
  }
#if SCALED
  // one 128x4 atom per 128 rows: word 4 * (r % 32) + r / 32 holds the four scales of row r
  for (u32 r = threadIdx.x; r < 128; r += 128)
    asm volatile("st.shared.b32 [%0], %1;" :: "r"(base + OFF_SFA + 16 * (r % 32) + 4 * (r / 32)), "r"(sfa[rank * 128 + r]) : "memory");
  for (u32 r = threadIdx.x; r < TILE_N; r += 128)
    asm volatile("st.shared.b32 [%0], %1;" :: "r"(base + OFF_SFB + 512 * (r / 128) + 16 * (r % 32) + 4 * (r / 32 % 4)), "r"(sfb[r]) : "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
  asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory");
  __syncthreads();
#if GROUP == 2
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
  asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory");
  u32 tmem; asm volatile("ld.shared.b32 %0, [%1];" : "=r"(tmem) : "r"(smem_addr(&tmem_slot)));

  if (warp == 0 && lane == 0) {
    for (int k = 0; k < num_k; ++k) {
      mbar_wait(empty, (k + 1) & 1);
      u32 bar = full;
#if GROUP == 2
      bar &= 0xFEFFFFFF;
      asm volatile("mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, [%0], %1;" :: "r"(bar), "r"(A_BYTES + B_BYTES) : "memory");
      asm volatile("cp.async.bulk.tensor.2d.cta_group::2.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
        :: "r"(base), "l"(&tma_a), "r"(bar), "r"(k * elements_per_block), "r"(rank * 128) : "memory");
      asm volatile("cp.async.bulk.tensor.2d.cta_group::2.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
        :: "r"(base + OFF_B), "l"(&tma_b), "r"(bar), "r"(k * elements_per_block), "r"(rank * ROWS_B) : "memory");
#else
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(bar), "r"(A_BYTES + B_BYTES) : "memory");
      tma_load(base, &tma_a, bar, k * elements_per_block, 0);
      tma_load(base + OFF_B, &tma_b, bar, k * elements_per_block, 0);
#endif
    }
  } else if (warp == 1 && lane == 0 && rank == 0) {
#if SCALED
    asm volatile("tcgen05.cp." CG ".32x128b.warpx4 [%0], %1;" :: "r"(tmem + COL_SFA), "l"(scale_desc(base + OFF_SFA)) : "memory");
    for (u32 n = 0; n < TILE_N; n += 128)
      asm volatile("tcgen05.cp." CG ".32x128b.warpx4 [%0], %1;" :: "r"(tmem + COL_SFB + n / 32), "l"(scale_desc(base + OFF_SFB + 4 * n)) : "memory");
#endif
    for (int k = 0; k < num_k; ++k) {
      mbar_wait(full, k & 1);
      asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory");
      const u64 da = make_desc(base), db = make_desc(base + OFF_B);
      #pragma unroll
      for (int j = 0; j < 4; ++j) {
#if SCALED
        const u32 id = idesc | ((u32)j << 29) | ((u32)j << 4);
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %6, 0;\ntcgen05.mma." CG ".kind::mxf8f6f4.block_scale [%0], %1, %2, %3, [%4], [%5], p;\n}"
          :: "r"(tmem), "l"(da + 2 * j), "l"(db + 2 * j), "r"(id), "r"(tmem + COL_SFA), "r"(tmem + COL_SFB), "r"(k + j) : "memory");
#else
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %4, 0;\ntcgen05.mma." CG ".kind::" KIND " [%0], %1, %2, %3, p;\n}"
          :: "r"(tmem), "l"(da + 2 * j), "l"(db + 2 * j), "r"(idesc), "r"(k + j) : "memory");
#endif
      }
#if GROUP == 2
      asm volatile("tcgen05.commit.cta_group::2.mbarrier::arrive::one.shared::cluster.multicast::cluster.b64 [%0], %1;" :: "r"(empty), "h"((u16)3) : "memory");
    }
    asm volatile("tcgen05.commit.cta_group::2.mbarrier::arrive::one.shared::cluster.multicast::cluster.b64 [%0], %1;" :: "r"(done), "h"((u16)3) : "memory");
#else
      asm volatile("tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%0];" :: "r"(empty) : "memory");
    }
    asm volatile("tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%0];" :: "r"(done) : "memory");
#endif
  }
  __syncwarp();
  mbar_wait(done, 0);
  asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory");
  #pragma unroll
  for (u32 c = 0; c < TILE_N; c += 8) {
    float v[8];
    asm volatile("tcgen05.ld.sync.aligned.32x32b.x8.b32 {%0,%1,%2,%3,%4,%5,%6,%7}, [%8];"
      : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3]), "=f"(v[4]), "=f"(v[5]), "=f"(v[6]), "=f"(v[7]) : "r"(tmem + (warp << 21) + c));
    asm volatile("tcgen05.wait::ld.sync.aligned;" ::: "memory");
    #pragma unroll
    for (int i = 0; i < 8; ++i) d[(rank * 128 + warp * 32 + lane) * TILE_N + c + i] = v[i];
  }
  asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory");
  __syncthreads();
#if GROUP == 2
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
  if (warp == 1) {
    asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory");
    asm volatile("tcgen05.dealloc." CG ".sync.aligned.b32 %0, %1;" :: "r"(tmem), "r"(COLUMNS));
  }
}
