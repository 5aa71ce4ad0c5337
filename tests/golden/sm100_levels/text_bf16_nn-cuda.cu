// bf16_gemm_nn
// Written by gemmgen for sm_100a. [op] at a comment's end names the IR op that the lines come from.
// 320 threads per CTA, 1 CTAs per cluster, 128 x 96 of D per scheduler tile.
// Persistent: launch as many CTAs as SMs; each goes on to further tiles.

typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef long long int64_t;

// A CUtensorMap, opaque to the kernel.
struct alignas(64) TensorMap {
    uint64_t words[16];
};

// Shared memory of a CTA, in bytes: 225432 in all.
constexpr uint32_t kOffsetA = 0, kStageBytesA = 16384;  // tiles of a, 7 stages
constexpr uint32_t kOffsetB = 114688, kStageBytesB = 12288;  // tiles of b, 7 stages
constexpr uint32_t kOffsetStaging = 200704;  // output tile on its way out, once
constexpr uint32_t kOffsetFull = 225280;  // barriers: a stage is loaded, 7 stages
constexpr uint32_t kOffsetEmpty = 225336;  // barriers: a stage is free, 7 stages
constexpr uint32_t kOffsetPartFull = 225392;  // barriers: a partial sum is complete, 2 stages
constexpr uint32_t kOffsetPartEmpty = 225408;  // barriers: a partial sum has been read, 2 stages
constexpr uint32_t kOffsetTmemAddress = 225424;  // where tensor memory was allocated, once

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

__device__ __forceinline__ uint32_t load_shared_word(uint32_t address)
{
    uint32_t value;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
    return value;
}

__device__ __forceinline__ void mbarrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(barrier) : "memory");
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

// sum = a · bᵀ, or sum += a · bᵀ, in tensor memory; one thread starts it for the CTA.
__device__ __forceinline__ void mma_f16(uint32_t sum, uint64_t desc_a, uint64_t desc_b, uint32_t instruction, bool accumulate)
{
    asm volatile("{\n"
                 ".reg .pred accumulate;\n"
                 "setp.ne.b32 accumulate, %4, 0;\n"
                 "tcgen05.mma.cta_group::1.kind::f16 [%0], %1, %2, %3, accumulate;\n"
                 "}" :: "r"(sum), "l"(desc_a), "l"(desc_b), "r"(instruction), "r"(uint32_t(accumulate)) : "memory");
}

// Arrives at the barrier when everything that this thread has handed to the tensor core is complete.
__device__ __forceinline__ void mma_commit(uint32_t barrier)
{
    asm volatile("tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%0];" :: "r"(barrier) : "memory");
}

// A dense K-major tile of 128-byte rows, swizzled.
__device__ __forceinline__ uint64_t mma_descriptor(uint32_t address)
{
    return 0x4000404000010000ull | (address & 0x3FFFF) >> 4;
}

// A tile whose rows run along M or N, in slabs of 64-byte rows, swizzled; 4096 bytes from slab to slab.
__device__ __forceinline__ uint64_t mma_descriptor_transposed_64(uint32_t address)
{
    return 0x8000402001000000ull | (address & 0x3FFFF) >> 4;
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

__device__ __forceinline__ void store_shared_4(uint32_t address, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    asm volatile("st.shared.v4.b32 [%0], { %1, %2, %3, %4};" :: "r"(address), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

__device__ __forceinline__ void tma_load(uint32_t to, const TensorMap* map, uint32_t barrier, uint32_t col, uint32_t row)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, { %3, %4}], [%2];"
                 :: "r"(to), "l"(map), "r"(barrier), "r"(col), "r"(row) : "memory");
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

// Run by a whole warp; nobody in this CTA allocates again.
template <uint32_t kColumns>
__device__ __forceinline__ void tmem_alloc(uint32_t address)
{
    asm volatile("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%0], %1;" :: "r"(address), "n"(kColumns) : "memory");
    asm volatile("tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;");
}

__device__ __forceinline__ void tmem_fence_before()
{
    asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory");
}

__device__ __forceinline__ void tmem_fence_after()
{
    asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory");
}

template <uint32_t kColumns>
__device__ __forceinline__ void tmem_free(uint32_t tmem)
{
    asm volatile("tcgen05.dealloc.cta_group::1.sync.aligned.b32 %0, %1;" :: "r"(tmem), "n"(kColumns) : "memory");
}

// Reads 16 columns of this thread's lane. The values are defined only after the wait, so both are one statement.
__device__ __forceinline__ void tmem_load_16(float (&d)[16], uint32_t address)
{
    asm volatile("tcgen05.ld.sync.aligned.32x32b.x16.b32 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, [%16];\n"
                 "tcgen05.wait::ld.sync.aligned;"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3]), "=f"(d[4]), "=f"(d[5]), "=f"(d[6]), "=f"(d[7]), "=f"(d[8]), "=f"(d[9]), "=f"(d[10]), "=f"(d[11]), "=f"(d[12]), "=f"(d[13]), "=f"(d[14]), "=f"(d[15])
                 : "r"(address) : "memory");
}

extern "C" __global__ void __launch_bounds__(320, 1)
bf16_gemm_nn(const __grid_constant__ TensorMap tma_d, const __grid_constant__ TensorMap tma_a, const __grid_constant__ TensorMap tma_b, uint32_t M)
{
    extern __shared__ __align__(1024) unsigned char shared_memory[];
    const uint32_t smem = uint32_t(__cvta_generic_to_shared(shared_memory));
    const uint32_t warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    const uint32_t full = smem + kOffsetFull;  // one mbarrier per stage; 1 arrivals and all expected bytes end a phase [sm100.barriers]
    const uint32_t empty = smem + kOffsetEmpty;  // one mbarrier per stage; 1 arrivals and all expected bytes end a phase [sm100.barriers]
    const uint32_t part_full = smem + kOffsetPartFull;  // one mbarrier per stage; 1 arrivals and all expected bytes end a phase [sm100.barriers]
    const uint32_t part_empty = smem + kOffsetPartEmpty;  // one mbarrier per stage; 8 arrivals and all expected bytes end a phase [sm100.barriers]
    // One thread initialises the barriers; the fence shows them to the cluster and to the copy engine. [sm100.init_barriers]
    if (threadIdx.x == 0) {
        for (uint32_t stage = 0; stage < 7; ++stage) mbarrier_init(full + 8 * stage, 1);
        for (uint32_t stage = 0; stage < 7; ++stage) mbarrier_init(empty + 8 * stage, 1);
        for (uint32_t stage = 0; stage < 2; ++stage) mbarrier_init(part_full + 8 * stage, 1);
        for (uint32_t stage = 0; stage < 2; ++stage) mbarrier_init(part_empty + 8 * stage, 8);
        fence_barrier_init();
    }
    // One warp allocates 256 columns of tensor memory; it is the only allocation, and freed at the end. [sm100.tmem_alloc]
    if (warp == 9) tmem_alloc<256>(smem + kOffsetTmemAddress);
    __syncthreads();  // all threads of the CTA meet [sm100.sync]
    const uint32_t tmem = load_shared_word(smem + kOffsetTmemAddress);  // where the columns begin [sm100.tmem_address]
    if (warp < 8) {
        // ---- math: warps 0 to 7 [sm100.warps]
        RingCursor parts;  // this role's place in the ring [sm100.cursor]
        // A thread has one row of the tile, which is one lane of tensor memory; a warp reaches 32 of them. [sm100.thread_position]
        const uint32_t warpgroup = warp / 4;
        [[maybe_unused]] const uint32_t row = warp % 4 * 32 + lane;
        const uint32_t lanes = tmem + (warp % 4 * 32 << 16);
        // Output tiles of this CTA, 8 along m before the other axis advances, so that L2 is reused. [sm100.tile_loop]
        const uint32_t tiles_m = (M + 127u) / 128u, tiles_n = (264u + 95u) / 96u;
        for (uint32_t tile = blockIdx.x; tile < tiles_m * tiles_n; tile += gridDim.x) {
            const TilePosition position = rasterize<8>(tile, tiles_m, tiles_n);
            [[maybe_unused]] const uint32_t m0 = position.along * 128, n0 = position.across * 96;
            mbarrier_wait(part_full + 8 * parts.stage, parts.phase);  // until the partial sum is complete [sm100.wait]
            tmem_fence_after();  // what is done in tensor memory comes after that barrier [sm100.fence]
            // Read this row of the sum into registers. [sm100.fetch]
            float sum[48];
            #pragma unroll
            for (uint32_t column = 0; column < 48; column += 16) {
                float part[16];
                tmem_load_16(part, lanes + parts.stage * 96 + warpgroup * 48 + column);
            #pragma unroll
                for (uint32_t i = 0; i < 16; ++i) sum[column + i] = part[i];
            }
            tmem_fence_before();  // what was done in tensor memory comes before the next barrier [sm100.fence]
            __syncwarp();
            if (lane == 0) mbarrier_arrive(part_empty + 8 * parts.stage);  // this warp has read the partial sum [sm100.release]
            parts.advance<2>();  // next stage [sm100.advance]
            // The copy engine has read what this warpgroup staged before. [sm100.staging_wait]
            if (threadIdx.x % 128 == 0) tma_store_wait_read();
            named_barrier_sync(1 + warpgroup, 128);
            // Round to bf16 and write this row 16 bytes at a time, swizzled as the copy engine expects. [sm100.store_rows]
            #pragma unroll
            for (uint32_t column = 0; column < 48; column += 8) {
                const uint32_t line = row * 32;
                const uint32_t chunk = column % 16 / 8;
                const uint32_t slab = smem + kOffsetStaging + (warpgroup * 3 + column / 16) * 4096;
                store_shared_4(slab + line + ((chunk ^ (line >> 7 & 1)) << 4),
                               pack_bf16(sum[column + 0], sum[column + 1]),
                               pack_bf16(sum[column + 2], sum[column + 3]),
                               pack_bf16(sum[column + 4], sum[column + 5]),
                               pack_bf16(sum[column + 6], sum[column + 7]));
            }
            // Each thread publishes its writes to the copy engine; then one thread may store them. [sm100.staging_publish]
            fence_async_shared();
            named_barrier_sync(1 + warpgroup, 128);
            // One thread per warpgroup hands the boxes to the copy engine, which drops what lies outside of D. [sm100.tma_store]
            if (threadIdx.x % 128 == 0) {
                tma_store(&tma_d, smem + kOffsetStaging + warpgroup * 12288, n0 + warpgroup * 48, m0);
                tma_store(&tma_d, smem + kOffsetStaging + warpgroup * 12288 + 4096, n0 + warpgroup * 48 + 16, m0);
                tma_store(&tma_d, smem + kOffsetStaging + warpgroup * 12288 + 8192, n0 + warpgroup * 48 + 32, m0);
            }
            if (threadIdx.x % 128 == 0) tma_store_commit();  // these stores are one group [sm100.store_commit]
        }
        if (threadIdx.x % 128 == 0) tma_store_wait_read();  // shared memory lives until the stores have read it [sm100.store_drain]
    } else if (warp == 8 && elect_one()) {
        // ---- load: one thread of warp 8 [sm100.warps]
        RingCursor cursor;  // this role's place in the ring [sm100.cursor]
        // Output tiles of this CTA, 8 along m before the other axis advances, so that L2 is reused. [sm100.tile_loop]
        const uint32_t tiles_m = (M + 127u) / 128u, tiles_n = (264u + 95u) / 96u;
        for (uint32_t tile = blockIdx.x; tile < tiles_m * tiles_n; tile += gridDim.x) {
            const TilePosition position = rasterize<8>(tile, tiles_m, tiles_n);
            [[maybe_unused]] const uint32_t m0_1 = position.along * 128, n0_1 = position.across * 96;
            #pragma unroll 1  // a step is long enough; unrolled ones would only need more registers
            for (uint32_t k0_1 = 0; k0_1 < 272u; k0_1 += 64) {  // steps of K [sm100.k_loop]
                mbarrier_wait(empty + 8 * cursor.stage, cursor.phase ^ 1);  // until every reader has released the stage [sm100.wait]
                mbarrier_expect(full + 8 * cursor.stage, 28672);  // bytes that will land in this stage [sm100.expect]
                tma_load(smem + kOffsetA + cursor.stage * kStageBytesA, &tma_a, full + 8 * cursor.stage, k0_1, m0_1);  // 128 rows of a [sm100.tma_load]
                // 64 rows of b, 64 bytes wide, slab behind slab. [sm100.tma_load]
                tma_load(smem + kOffsetB + cursor.stage * kStageBytesB, &tma_b, full + 8 * cursor.stage, n0_1, k0_1);
                tma_load(smem + kOffsetB + cursor.stage * kStageBytesB + 4096, &tma_b, full + 8 * cursor.stage, n0_1 + 32, k0_1);
                tma_load(smem + kOffsetB + cursor.stage * kStageBytesB + 8192, &tma_b, full + 8 * cursor.stage, n0_1 + 64, k0_1);
                cursor.advance<7>();  // next stage [sm100.advance]
            }
        }
    } else if (warp == 9 && elect_one()) {
        // ---- mma: one thread of warp 9 [sm100.warps]
        RingCursor cursor_1;  // this role's place in the ring [sm100.cursor]
        RingCursor parts_1;  // this role's place in the ring [sm100.cursor]
        // Output tiles of this CTA, 8 along m before the other axis advances, so that L2 is reused. [sm100.tile_loop]
        const uint32_t tiles_m = (M + 127u) / 128u, tiles_n = (264u + 95u) / 96u;
        for (uint32_t tile = blockIdx.x; tile < tiles_m * tiles_n; tile += gridDim.x) {
            const TilePosition position = rasterize<8>(tile, tiles_m, tiles_n);
            [[maybe_unused]] const uint32_t m0_2 = position.along * 128, n0_2 = position.across * 96;
            mbarrier_wait(part_empty + 8 * parts_1.stage, parts_1.phase ^ 1);  // until the partial sum before it has been read [sm100.wait]
            tmem_fence_after();  // what is done in tensor memory comes after that barrier [sm100.fence]
            #pragma unroll 1  // a step is long enough; unrolled ones would only need more registers
            for (uint32_t k0_2 = 0; k0_2 < 272u; k0_2 += 64) {  // steps of K [sm100.k_loop]
                mbarrier_wait(full + 8 * cursor_1.stage, cursor_1.phase);  // until the stage is loaded [sm100.wait]
                // a and b of the stage, 32 bytes of K at a time: 128 x 96, bf16 by bf16. The first product of a tile overwrites. [sm100.mma]
                {
                    const uint64_t desc_a = mma_descriptor(smem + kOffsetA + cursor_1.stage * kStageBytesA);
                    const uint64_t desc_b = mma_descriptor_transposed_64(smem + kOffsetB + cursor_1.stage * kStageBytesB);
                    const uint32_t sum = tmem + parts_1.stage * 96;
                    mma_f16(sum, desc_a, desc_b, 0x08190490, k0_2 > 0);
                    mma_f16(sum, desc_a + 2, desc_b + 64, 0x08190490, true);
                    mma_f16(sum, desc_a + 4, desc_b + 128, 0x08190490, true);
                    mma_f16(sum, desc_a + 6, desc_b + 192, 0x08190490, true);
                }
                mma_commit(empty + 8 * cursor_1.stage);  // arrive when the products are complete [sm100.commit]
                cursor_1.advance<7>();  // next stage [sm100.advance]
            }
            mma_commit(part_full + 8 * parts_1.stage);  // arrive when the products are complete [sm100.commit]
            parts_1.advance<2>();  // next stage [sm100.advance]
        }
    }
    tmem_fence_before();  // what was done in tensor memory comes before the next barrier [sm100.fence]
    __syncthreads();  // all threads of the CTA meet [sm100.sync]
    tmem_fence_after();  // what is done in tensor memory comes after that barrier [sm100.fence]
    if (warp == 9) tmem_free<256>(tmem);  // the warp that allocated the columns gives them back [sm100.tmem_free]
}
