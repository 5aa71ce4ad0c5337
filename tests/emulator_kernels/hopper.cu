// A warp-specialised FP8 GEMM in the style of gemmgen: TMA, mbarrier ring, wgmma, promotion, stmatrix, TMA store.
// CLUSTER=2 multicasts B; PERSIST=1 loops over tiles. The expected result is in tests/emulator_support.py.

typedef unsigned int u32; typedef unsigned long long u64; typedef unsigned short u16; typedef unsigned char u8;
struct alignas(64) TensorMap { u64 opaque[16]; };
#ifndef STAGES
#define STAGES 4
#endif
#ifndef CLUSTER
#define CLUSTER 1
#endif
#ifndef PERSIST
#define PERSIST 0
#endif
constexpr int BM = 128, BN = 128, BK = 128;
constexpr u32 A_BYTES = BM * BK, B_BYTES = BN * BK, SA_BYTES = BM * 4;
constexpr u32 OFF_B = STAGES * A_BYTES, OFF_SA = OFF_B + STAGES * B_BYTES, OFF_D = OFF_SA + STAGES * SA_BYTES;
constexpr u32 OFF_BAR = OFF_D + BM * BN * 2;

__device__ __forceinline__ u32 smem_addr(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void mbar_init(u32 b, u32 n) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(b), "r"(n) : "memory"); }
__device__ __forceinline__ void mbar_expect(u32 b, u32 n) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(b), "r"(n) : "memory"); }
__device__ __forceinline__ void mbar_arrive(u32 b) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(b) : "memory"); }
__device__ __forceinline__ void mbar_arrive_remote(u32 b, u32 rank) {
  asm volatile("{\n.reg .b32 ra;\nmapa.shared::cluster.u32 ra, %0, %1;\nmbarrier.arrive.release.cluster.shared::cluster.b64 _, [ra];\n}" :: "r"(b), "r"(rank) : "memory"); }
__device__ __forceinline__ void mbar_wait(u32 b, u32 parity) {
  asm volatile("{\n.reg .pred p;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra DONE;\nbra WAIT;\nDONE:\n}" :: "r"(b), "r"(parity) : "memory"); }
__device__ __forceinline__ void tma_load(u32 dst, const TensorMap* m, u32 bar, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
    :: "r"(dst), "l"(m), "r"(bar), "r"(c0), "r"(c1) : "memory"); }
__device__ __forceinline__ void tma_load_mc(u32 dst, const TensorMap* m, u32 bar, int c0, int c1, u16 mask) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;"
    :: "r"(dst), "l"(m), "r"(bar), "r"(c0), "r"(c1), "h"(mask) : "memory"); }
__device__ __forceinline__ void tma_store(const TensorMap* m, u32 src, int c0, int c1) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" :: "l"(m), "r"(src), "r"(c0), "r"(c1) : "memory"); }
__device__ __forceinline__ u64 make_desc(u32 addr) { return (u64)((addr & 0x3FFFF) >> 4) | (1ull << 16) | ((u64)(1024 >> 4) << 32) | (1ull << 62); }
__device__ __forceinline__ u32 pack_bf16(float lo, float hi) { u32 r; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo)); return r; }
__device__ __forceinline__ bool elect_one() { u32 p; asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.b32 %0, 1, 0, p;\n}" : "=r"(p)); return p != 0; }

__device__ __forceinline__ void wgmma_n128(float (&d)[64], u64 da, u64 db, int scale_d) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
    "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, %64, %65, p, 1, 1;\n}\n"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]) : "l"(da), "l"(db), "r"(scale_d));
}

extern "C" __global__ void __launch_bounds__(384, 1)
gemm(const __grid_constant__ TensorMap tma_a, const __grid_constant__ TensorMap tma_b, const __grid_constant__ TensorMap tma_sa,
     const __grid_constant__ TensorMap tma_d, const float* __restrict__ sb, int M, int N, int K)
{
  extern __shared__ __align__(1024) u8 smem[];
  const u32 base = smem_addr(smem);
  const u32 full = base + OFF_BAR, empty = full + STAGES * 8;
  const u32 tid = threadIdx.x, warp = __shfl_sync(0xffffffff, tid / 32, 0), lane = tid % 32;
#if CLUSTER > 1
  u32 rank; asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#else
  const u32 rank = 0;
#endif
  if (warp == 0 && elect_one()) {
    asm volatile("prefetch.tensormap [%0];" :: "l"(&tma_a) : "memory");
    for (int s = 0; s < STAGES; ++s) { mbar_init(full + s * 8, 1); mbar_init(empty + s * 8, 8 * CLUSTER); }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }
#if CLUSTER > 1
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
  const int num_k = (K + BK - 1) / BK;
  const int tiles_m = (M + BM - 1) / BM, tiles_n = (N + BN - 1) / BN;
#if PERSIST
  const int num_tiles = tiles_m * tiles_n;
  #define FOR_TILES for (int tile = blockIdx.x; tile < num_tiles; tile += gridDim.x)
#else
  #define FOR_TILES for (int tile = blockIdx.x, once = 1; once; once = 0)
#endif
  if (warp < 4) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (warp == 0 && elect_one()) {
      u32 s = 0, ph = 1;
      FOR_TILES {
        const int tm = tile % tiles_m, tn = tile / tiles_m;
        for (int k = 0; k < num_k; ++k) {
          mbar_wait(empty + s * 8, ph);
          mbar_expect(full + s * 8, A_BYTES + B_BYTES + SA_BYTES);
          tma_load(base + s * A_BYTES, &tma_a, full + s * 8, k * BK, tm * BM);
#if CLUSTER > 1
          tma_load_mc(base + OFF_B + s * B_BYTES + rank * (B_BYTES / CLUSTER), &tma_b, full + s * 8, k * BK, tn * BN + rank * (BN / CLUSTER), (1 << CLUSTER) - 1);
#else
          tma_load(base + OFF_B + s * B_BYTES, &tma_b, full + s * 8, k * BK, tn * BN);
#endif
          tma_load(base + OFF_SA + s * SA_BYTES, &tma_sa, full + s * 8, tm * BM, k);
          if (++s == STAGES) { s = 0; ph ^= 1; }
        }
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const u32 wg = warp / 4 - 1, w = warp % 4;
    u32 s = 0, ph = 0;
    FOR_TILES {
      const int tm = tile % tiles_m, tn = tile / tiles_m;
      float sum[64];
      #pragma unroll
      for (int i = 0; i < 64; ++i) sum[i] = 0.f;
      for (int k = 0; k < num_k; ++k) {
        const float scale_b = __ldg(sb + (long long)tn * num_k + k);
        mbar_wait(full + s * 8, ph);
        float d[64];
        const u32 row = wg * 64 + w * 16 + lane / 4;
        float sa0, sa1;
        asm volatile("ld.shared.f32 %0, [%1];" : "=f"(sa0) : "r"(base + OFF_SA + s * SA_BYTES + row * 4));
        asm volatile("ld.shared.f32 %0, [%1];" : "=f"(sa1) : "r"(base + OFF_SA + s * SA_BYTES + row * 4 + 32));
        #pragma unroll
        for (int i = 0; i < 64; ++i) asm volatile("" : "+f"(d[i]) :: "memory");
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        u64 da = make_desc(base + s * A_BYTES + wg * 64 * 128), db = make_desc(base + OFF_B + s * B_BYTES);
        #pragma unroll
        for (int kk = 0; kk < 4; ++kk) wgmma_n128(d, da + kk * 2, db + kk * 2, kk);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        #pragma unroll
        for (int i = 0; i < 64; ++i) asm volatile("" : "+f"(d[i]) :: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        #pragma unroll
        for (int i = 0; i < 64; ++i) asm volatile("" : "+f"(d[i]) :: "memory");
#if CLUSTER > 1
        if (lane < CLUSTER) mbar_arrive_remote(empty + s * 8, lane);
#else
        if (lane == 0) mbar_arrive(empty + s * 8);
#endif
        const float s0 = sa0 * scale_b, s1 = sa1 * scale_b;
        #pragma unroll
        for (int i = 0; i < 64; ++i) sum[i] += d[i] * ((i & 2) ? s1 : s0);
        if (++s == STAGES) { s = 0; ph ^= 1; }
      }
      // epilogue
      if (w == 0 && lane == 0) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
      asm volatile("bar.sync %0, 128;" :: "r"(wg + 1) : "memory");
      #pragma unroll
      for (int half = 0; half < 2; ++half) {
        const u32 tile_base = base + OFF_D + wg * (64 * BN * 2) + half * (64 * 128);
        #pragma unroll
        for (int j = 0; j < 4; ++j) {
          const u32 r = w * 16 + (lane & 15), ch = 2 * j + lane / 16;
          const u32 addr = tile_base + r * 128 + ((ch ^ (r & 7)) << 4);
          const float* q = sum + half * 32 + 8 * j;
          u32 x0 = pack_bf16(q[0], q[1]), x1 = pack_bf16(q[2], q[3]), x2 = pack_bf16(q[4], q[5]), x3 = pack_bf16(q[6], q[7]);
          asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" :: "r"(addr), "r"(x0), "r"(x1), "r"(x2), "r"(x3) : "memory");
        }
      }
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      asm volatile("bar.sync %0, 128;" :: "r"(wg + 1) : "memory");
      if (w == 0 && lane == 0) {
        for (int half = 0; half < 2; ++half)
          tma_store(&tma_d, base + OFF_D + wg * (64 * BN * 2) + half * (64 * 128), tn * BN + half * 64, tm * BM + wg * 64);
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
      }
    }
    if (w == 0 && lane == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  }
#if CLUSTER > 1
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
