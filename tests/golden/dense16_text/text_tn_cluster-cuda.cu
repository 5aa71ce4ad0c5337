// bf16_gemm_tn
// Written by gemmgen for sm_90a. [op] at a comment's end names the IR op that the lines come from.
// 384 threads per CTA, 2 CTAs per cluster, 256 x 96 of D per scheduler tile.
// Persistent: launch as many CTAs as SMs; each goes on to further tiles.

typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef long long int64_t;

// A CUtensorMap, opaque to the kernel.
struct alignas(64) TensorMap {
    uint64_t words[16];
};

// Shared memory of a CTA, in bytes: 139328 in all.
constexpr uint32_t kOffsetA = 0, kStageBytesA = 16384;  // tiles of a, 4 stages
constexpr uint32_t kOffsetB = 65536, kStageBytesB = 12288;  // tiles of b, 4 stages
constexpr uint32_t kOffsetStaging = 114688;  // output tile on its way out, once
constexpr uint32_t kOffsetFull = 139264;  // barriers: a stage is loaded, 4 stages
constexpr uint32_t kOffsetEmpty = 139296;  // barriers: a stage is free, 4 stages

__device__ __forceinline__ uint32_t cluster_rank()
{
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

__device__ __forceinline__ void cluster_sync()
{
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// True in one thread of a converged warp, always the same.
__device__ __forceinline__ bool elect_one()
{
    uint32_t elected;
    asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(elected));
    return elected;
}

__device__ __forceinline__ void fence_async_shared()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void fence_barrier_init()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void grid_dependency_wait()
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

__device__ __forceinline__ void grid_dependency_launch()
{
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_arrive_cluster(uint32_t barrier, uint32_t cta)
{
    asm volatile("{\n"
                 ".reg .b32 remote;\n"
                 "mapa.shared::cluster.u32 remote, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
                 "}" :: "r"(barrier), "r"(cta) : "memory");
}

__device__ __forceinline__ void mbarrier_expect(uint32_t barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void mbarrier_init(uint32_t barrier, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(barrier), "r"(arrivals));
}

__device__ __forceinline__ void mbarrier_wait(uint32_t barrier, uint32_t parity)
{
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "AGAIN:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra AGAIN;\n"
                 "}" :: "r"(barrier), "r"(parity) : "memory");
}

__device__ __forceinline__ void named_barrier_sync(uint32_t id, uint32_t threads)
{
    asm volatile("bar.sync %0, %1;" :: "r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high)
{
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

struct TilePosition {
    uint32_t along, across;
};

// Groups of kGroup tiles of one axis run through the whole other axis; the last group may be smaller.
template <uint32_t kGroup>
__device__ __forceinline__ TilePosition rasterize(uint32_t tile, uint32_t tiles_along, uint32_t tiles_across)
{
    const uint32_t group = tile / (kGroup * tiles_across), inside = tile % (kGroup * tiles_across);
    const uint32_t left = tiles_along - group * kGroup, size = left < kGroup ? left : kGroup;
    return {group * kGroup + inside % size, inside / size};
}

// A stage of a ring, and the parity of the phase its barriers are in.
struct RingCursor {
    uint32_t stage = 0, phase = 0;

    template <uint32_t kStages>
    __device__ __forceinline__ void advance()
    {
        if (++stage == kStages) {
            stage = 0;
            phase ^= 1;
        }
    }
};

template <uint32_t kCount>
__device__ __forceinline__ void take_registers()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(kCount));
}

template <uint32_t kCount>
__device__ __forceinline__ void give_registers()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(kCount));
}

__device__ __forceinline__ void stmatrix_4(uint32_t address, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], { %1, %2, %3, %4};"
                 :: "r"(address), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

// Where a tile starts. The last one ends with D, if D is that large: boxes that reach beyond an operand load slowly.
// Starts are multiples of 8, since the copy engine wants 16 bytes of alignment along a map's innermost axis.
template <uint32_t kTile>
__device__ __forceinline__ uint32_t tile_start(uint32_t index, uint32_t extent)
{
    const uint32_t start = index * kTile, last = (extent - kTile + 7) / 8 * 8;
    return extent > kTile && start > last ? last : start;
}

__device__ __forceinline__ void tma_load(uint32_t to, const TensorMap* map, uint32_t barrier, uint32_t col, uint32_t row)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, { %3, %4}], [%2];"
                 :: "r"(to), "l"(map), "r"(barrier), "r"(col), "r"(row) : "memory");
}

__device__ __forceinline__ void tma_load_multicast(uint32_t to, const TensorMap* map, uint32_t barrier, uint32_t col,
                                                   uint32_t row, uint16_t ctas)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1, { %3, %4}], [%2], %5;"
                 :: "r"(to), "l"(map), "r"(barrier), "r"(col), "r"(row), "h"(ctas) : "memory");
}

__device__ __forceinline__ void tma_store(const TensorMap* map, uint32_t from, uint32_t col, uint32_t row)
{
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, { %2, %3}], [%1];"
                 :: "l"(map), "r"(from), "r"(col), "r"(row) : "memory");
}

__device__ __forceinline__ void tma_store_commit()
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Shared memory of all groups has been read; it may be written again, or go.
__device__ __forceinline__ void tma_store_wait_read()
{
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

// d += a · bᵀ
__device__ __forceinline__ void wgmma_add_m64n96k16_bf16_bf16_at_bt(float (&d)[48], uint64_t desc_a, uint64_t desc_b)
{
    asm volatile("{\n"
                 ".reg .pred accumulate;\n"
                 "setp.eq.b32 accumulate, 0, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, "
                 "%48, %49, accumulate, 1, 1, 1, 1;\n"
                 "}"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
                 : "l"(desc_a), "l"(desc_b));
}

// A tile whose rows run along M or N, in slabs of 128-byte rows, swizzled: 1024 bytes from 8 of K to the next 8,
// 8192 bytes from slab to slab.
__device__ __forceinline__ uint64_t wgmma_descriptor_transposed_128(uint32_t address)
{
    return uint64_t(1) << 62 | uint64_t(1024 >> 4) << 32 | uint64_t(8192 >> 4) << 16 | (address & 0x3FFFF) >> 4;
}

// A tile whose rows run along M or N, in slabs of 64-byte rows, swizzled: 512 bytes from 8 of K to the next 8,
// 4096 bytes from slab to slab.
__device__ __forceinline__ uint64_t wgmma_descriptor_transposed_64(uint32_t address)
{
    return uint64_t(2) << 62 | uint64_t(512 >> 4) << 32 | uint64_t(4096 >> 4) << 16 | (address & 0x3FFFF) >> 4;
}

__device__ __forceinline__ void wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// The values are defined only after the wait, so the compiler must not use them earlier.
template <uint32_t kPending, uint32_t kCount>
__device__ __forceinline__ void wgmma_wait(float (&values)[kCount])
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(kPending) : "memory");
#pragma unroll
    for (uint32_t i = 0; i < kCount; ++i) asm volatile("" : "+f"(values[i]));
}

extern "C" __global__ void __launch_bounds__(384, 1)
bf16_gemm_tn(const __grid_constant__ TensorMap tma_d, const __grid_constant__ TensorMap tma_a, const __grid_constant__ TensorMap tma_b, uint32_t M)
{
    extern __shared__ __align__(1024) unsigned char shared_memory[];
    const uint32_t smem = uint32_t(__cvta_generic_to_shared(shared_memory));
    const uint32_t warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    const uint32_t rank = cluster_rank();
    const uint32_t full = smem + kOffsetFull;  // one mbarrier per stage; 1 arrivals and all expected bytes end a phase [sm90.barriers]
    const uint32_t empty = smem + kOffsetEmpty;  // one mbarrier per stage; 16 arrivals and all expected bytes end a phase [sm90.barriers]
    // One thread initialises the barriers; the fence shows them to the cluster and to the copy engine. [sm90.init_barriers]
    if (threadIdx.x == 0) {
        for (uint32_t stage = 0; stage < 4; ++stage) mbarrier_init(full + 8 * stage, 1);
        for (uint32_t stage = 0; stage < 4; ++stage) mbarrier_init(empty + 8 * stage, 16);
        fence_barrier_init();
    }
    cluster_sync();  // all threads of the cluster meet [sm90.sync]
    grid_dependency_wait();  // the kernels before this one have written what it reads [sm90.grid_wait]
    grid_dependency_launch();  // the next kernel may start [sm90.grid_launch]
    if (warp < 8) {
        // ---- math: warps 0 to 7 [sm90.warps]
        take_registers<232>();  // take the registers that the loading warps gave up [sm90.set_registers]
        // Element i of a thread's fragment is row + 8 * (i / 2 % 2), column 8 * (i / 4) + 2 * quad + i % 2. [sm90.thread_position]
        const uint32_t warpgroup = warp / 4;
        [[maybe_unused]] const uint32_t row = warp % 4 * 16 + lane / 4;
        [[maybe_unused]] const uint32_t quad = lane % 4;
        const uint64_t desc_a = wgmma_descriptor_transposed_128(smem + kOffsetA + warpgroup * 64 * 128);  // this warpgroup's 64 rows of a, in stage 0 [sm90.descriptor]
        const uint64_t desc_b = wgmma_descriptor_transposed_64(smem + kOffsetB);  // all of b, in stage 0 [sm90.descriptor]
        RingCursor cursor;  // this role's place in the ring [sm90.cursor]
        // Output tiles of this CTA, 8 along m before the other axis advances, so that L2 is reused. [sm90.tile_loop]
        const uint32_t tiles_m = (M + 255u) / 256u, tiles_n = (512u + 95u) / 96u;
        for (uint32_t tile = blockIdx.x / 2; tile < tiles_m * tiles_n; tile += gridDim.x / 2) {
            const TilePosition position = rasterize<8>(tile, tiles_m, tiles_n);
            [[maybe_unused]] const uint32_t m0 = tile_start<128>((position.along * 2 + rank), M), n0 = tile_start<96>(position.across, 512u);
            float sum[48] = {};  // FP32 registers of this thread [sm90.zero]
            for (uint32_t k0 = 0; k0 < 1024u; k0 += 64) {  // steps of K [sm90.k_loop]
                const uint64_t a_at = desc_a + cursor.stage * (kStageBytesA >> 4);  // in this stage; it does not wait for the loads [sm90.stage_descriptor]
                const uint64_t b_at = desc_b + cursor.stage * (kStageBytesB >> 4);  // in this stage; it does not wait for the loads [sm90.stage_descriptor]
                mbarrier_wait(full + 8 * cursor.stage, cursor.phase);  // until the stage is loaded [sm90.wait]
                // Products of this warpgroup's 64 rows of a, all of b, 16 elements of K at a time. [sm90.wgmma]
                wgmma_fence();
                wgmma_add_m64n96k16_bf16_bf16_at_bt(sum, a_at, b_at);
                wgmma_add_m64n96k16_bf16_bf16_at_bt(sum, a_at + 128, b_at + 64);
                wgmma_add_m64n96k16_bf16_bf16_at_bt(sum, a_at + 256, b_at + 128);
                wgmma_add_m64n96k16_bf16_bf16_at_bt(sum, a_at + 384, b_at + 192);
                wgmma_commit();
                wgmma_wait<0>(sum);  // the products are in registers [sm90.wgmma_wait]
                __syncwarp();
                if (lane < 2) mbarrier_arrive_cluster(empty + 8 * cursor.stage, lane);  // this warp has read the stage: tell every CTA [sm90.release]
                cursor.advance<4>();  // next stage [sm90.advance]
            }
            // The copy engine has read what this warpgroup staged before. [sm90.staging_wait]
            if (threadIdx.x % 128 == 0) tma_store_wait_read();
            named_barrier_sync(1 + warpgroup, 128);
            // Round to bf16 and write 16 columns at a time; 16-byte chunks are swizzled as the copy engine expects. [sm90.store_rows]
            #pragma unroll
            for (uint32_t group = 0; group < 6; ++group) {
                const uint32_t line = (warp % 4 * 16 + lane % 16) * 64;
                const uint32_t chunk = 16 * group % 32 / 8 + lane / 16;
                const uint32_t slab = smem + kOffsetStaging + warpgroup * 12288 + 16 * group / 32 * 4096;
                stmatrix_4(slab + line + ((chunk ^ (line >> 7 & 3)) << 4),
                           pack_bf16(sum[8 * group + 0], sum[8 * group + 1]),
                           pack_bf16(sum[8 * group + 2], sum[8 * group + 3]),
                           pack_bf16(sum[8 * group + 4], sum[8 * group + 5]),
                           pack_bf16(sum[8 * group + 6], sum[8 * group + 7]));
            }
            // Each thread publishes its writes to the copy engine; then one thread may store them. [sm90.staging_publish]
            fence_async_shared();
            named_barrier_sync(1 + warpgroup, 128);
            // One thread per warpgroup hands the boxes to the copy engine, which drops what lies outside of D. [sm90.tma_store]
            if (threadIdx.x % 128 == 0) {
                tma_store(&tma_d, smem + kOffsetStaging + warpgroup * 12288, n0, m0 + warpgroup * 64);
                tma_store(&tma_d, smem + kOffsetStaging + warpgroup * 12288 + 4096, n0 + 32, m0 + warpgroup * 64);
                tma_store(&tma_d, smem + kOffsetStaging + warpgroup * 12288 + 8192, n0 + 64, m0 + warpgroup * 64);
            }
            if (threadIdx.x % 128 == 0) tma_store_commit();  // these stores are one group [sm90.store_commit]
        }
        if (threadIdx.x % 128 == 0) tma_store_wait_read();  // shared memory lives until the stores have read it [sm90.store_drain]
    } else if (warp >= 8 && warp <= 11) {
        // ---- load: warps 8 to 11 [sm90.warps]
        give_registers<40>();  // give registers to the multiplying warps [sm90.set_registers]
        if (warp == 8 && elect_one()) {
            // ---- load: one thread of warp 8 [sm90.warps]
            RingCursor cursor_1;  // this role's place in the ring [sm90.cursor]
            // Output tiles of this CTA, 8 along m before the other axis advances, so that L2 is reused. [sm90.tile_loop]
            const uint32_t tiles_m = (M + 255u) / 256u, tiles_n = (512u + 95u) / 96u;
            for (uint32_t tile = blockIdx.x / 2; tile < tiles_m * tiles_n; tile += gridDim.x / 2) {
                const TilePosition position = rasterize<8>(tile, tiles_m, tiles_n);
                [[maybe_unused]] const uint32_t m0_1 = tile_start<128>((position.along * 2 + rank), M), n0_1 = tile_start<96>(position.across, 512u);
                for (uint32_t k0_1 = 0; k0_1 < 1024u; k0_1 += 64) {  // steps of K [sm90.k_loop]
                    mbarrier_wait(empty + 8 * cursor_1.stage, cursor_1.phase ^ 1);  // until every reader has released the stage [sm90.wait]
                    mbarrier_expect(full + 8 * cursor_1.stage, 28672);  // bytes that will land in this stage [sm90.expect]
                    // 64 rows of a, 128 bytes wide, slab behind slab. [sm90.tma_load]
                    tma_load(smem + kOffsetA + cursor_1.stage * kStageBytesA, &tma_a, full + 8 * cursor_1.stage, m0_1, k0_1);
                    tma_load(smem + kOffsetA + cursor_1.stage * kStageBytesA + 8192, &tma_a, full + 8 * cursor_1.stage, m0_1 + 64, k0_1);
                    // The cluster's first CTA loads 64 rows of b and writes them to all 2 CTAs. [sm90.tma_load]
                    if (rank == 0) {
                        tma_load_multicast(smem + kOffsetB + cursor_1.stage * kStageBytesB, &tma_b, full + 8 * cursor_1.stage, n0_1, k0_1, 0x3);
                        tma_load_multicast(smem + kOffsetB + cursor_1.stage * kStageBytesB + 4096, &tma_b, full + 8 * cursor_1.stage, n0_1 + 32, k0_1, 0x3);
                        tma_load_multicast(smem + kOffsetB + cursor_1.stage * kStageBytesB + 8192, &tma_b, full + 8 * cursor_1.stage, n0_1 + 64, k0_1, 0x3);
                    }
                    cursor_1.advance<4>();  // next stage [sm90.advance]
                }
            }
        }
    }
    if (warp < 8) {
        // ---- end: warps 0 to 7 [sm90.warps]
        cluster_sync();  // all threads of the cluster meet [sm90.sync]
    }
}
