// mxfp8_gemm_nt
// Written by gemmgen for sm_100a. [op] at a comment's end names the IR op that the lines come from.
// 384 threads per CTA, 1 CTAs per cluster, 128 x 192 of D per scheduler tile.
// Persistent: launch as many CTAs as SMs; each goes on to further tiles.

typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef long long int64_t;

// A CUtensorMap, opaque to the kernel.
struct alignas(64) TensorMap {
    uint64_t words[16];
};

// Shared memory of a CTA, in bytes: 181384 in all.
constexpr uint32_t kOffsetA = 0, kStageBytesA = 16384;  // tiles of a, 3 stages
constexpr uint32_t kOffsetSa = 176640, kStageBytesSa = 512;  // tiles of sa, 3 stages
constexpr uint32_t kOffsetB = 49152, kStageBytesB = 24576;  // tiles of b, 3 stages
constexpr uint32_t kOffsetSb = 178176, kStageBytesSb = 1024;  // tiles of sb, 3 stages
constexpr uint32_t kOffsetSaWords = 172032, kStageBytesSaWords = 512;  // tiles of sa_words, 3 stages
constexpr uint32_t kOffsetSbWords = 173568, kStageBytesSbWords = 1024;  // tiles of sb_words, 3 stages
constexpr uint32_t kOffsetStaging = 122880;  // output tile on its way out, once
constexpr uint32_t kOffsetFull = 181248;  // barriers: a stage is loaded, 3 stages
constexpr uint32_t kOffsetEmpty = 181272;  // barriers: a stage is free, 3 stages
constexpr uint32_t kOffsetWordsFull = 181296;  // barriers: scales have landed, 3 stages
constexpr uint32_t kOffsetWordsEmpty = 181320;  // barriers: scales have been arranged, 3 stages
constexpr uint32_t kOffsetPartFull = 181344;  // barriers: a partial sum is complete, 2 stages
constexpr uint32_t kOffsetPartEmpty = 181360;  // barriers: a partial sum has been read, 2 stages
constexpr uint32_t kOffsetTmemAddress = 181376;  // where tensor memory was allocated, once

// 128 words of scales from shared memory, four to a row of 16 bytes, to 4 columns of all lanes.
__device__ __forceinline__ void copy_scale_factors(uint32_t columns, uint64_t descriptor)
{
    asm volatile("tcgen05.cp.cta_group::1.32x128b.warpx4 [%0], %1;" :: "r"(columns), "l"(descriptor) : "memory");
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

// Rows of 16 bytes, one behind the other.
__device__ __forceinline__ uint64_t scale_descriptor(uint32_t address)
{
    return 0x400800000000ull | (address & 0x3FFFF) >> 4;
}

// As a product without scales; those of a and b lie in tensor memory, and the instruction says where in their words.
__device__ __forceinline__ void mma_mxf8f6f4(uint32_t sum, uint64_t desc_a, uint64_t desc_b, uint32_t instruction,
                                             uint32_t scale_a, uint32_t scale_b, bool accumulate)
{
    asm volatile("{\n"
                 ".reg .pred accumulate;\n"
                 "setp.ne.b32 accumulate, %6, 0;\n"
                 "tcgen05.mma.cta_group::1.kind::mxf8f6f4.block_scale [%0], %1, %2, %3, [%4], [%5], accumulate;\n"
                 "}" :: "r"(sum), "l"(desc_a), "l"(desc_b), "r"(instruction), "r"(scale_a), "r"(scale_b),
                        "r"(uint32_t(accumulate)) : "memory");
}

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

// Reads 32 columns of this thread's lane. The values are defined only after the wait, so both are one statement.
__device__ __forceinline__ void tmem_load_32(float (&d)[32], uint32_t address)
{
    asm volatile("tcgen05.ld.sync.aligned.32x32b.x32.b32 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, [%32];\n"
                 "tcgen05.wait::ld.sync.aligned;"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3]), "=f"(d[4]), "=f"(d[5]), "=f"(d[6]), "=f"(d[7]), "=f"(d[8]), "=f"(d[9]), "=f"(d[10]), "=f"(d[11]), "=f"(d[12]), "=f"(d[13]), "=f"(d[14]), "=f"(d[15]), "=f"(d[16]), "=f"(d[17]), "=f"(d[18]), "=f"(d[19]), "=f"(d[20]), "=f"(d[21]), "=f"(d[22]), "=f"(d[23]), "=f"(d[24]), "=f"(d[25]), "=f"(d[26]), "=f"(d[27]), "=f"(d[28]), "=f"(d[29]), "=f"(d[30]), "=f"(d[31])
                 : "r"(address) : "memory");
}

extern "C" __global__ void __launch_bounds__(384, 1)
mxfp8_gemm_nt(const __grid_constant__ TensorMap tma_d, const __grid_constant__ TensorMap tma_sa, const __grid_constant__ TensorMap tma_sb, const __grid_constant__ TensorMap tma_a, const __grid_constant__ TensorMap tma_b, uint32_t M)
{
    extern __shared__ __align__(1024) unsigned char shared_memory[];
    const uint32_t smem = uint32_t(__cvta_generic_to_shared(shared_memory));
    const uint32_t warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    const uint32_t full = smem + kOffsetFull;  // one mbarrier per stage; 2 arrivals and all expected bytes end a phase [sm100.barriers]
    const uint32_t empty = smem + kOffsetEmpty;  // one mbarrier per stage; 1 arrivals and all expected bytes end a phase [sm100.barriers]
    const uint32_t words_full = smem + kOffsetWordsFull;  // one mbarrier per stage; 1 arrivals and all expected bytes end a phase [sm100.barriers]
    const uint32_t words_empty = smem + kOffsetWordsEmpty;  // one mbarrier per stage; 1 arrivals and all expected bytes end a phase [sm100.barriers]
    const uint32_t part_full = smem + kOffsetPartFull;  // one mbarrier per stage; 1 arrivals and all expected bytes end a phase [sm100.barriers]
    const uint32_t part_empty = smem + kOffsetPartEmpty;  // one mbarrier per stage; 8 arrivals and all expected bytes end a phase [sm100.barriers]
    // One thread initialises the barriers; the fence shows them to the cluster and to the copy engine. [sm100.init_barriers]
    if (threadIdx.x == 0) {
        for (uint32_t stage = 0; stage < 3; ++stage) mbarrier_init(full + 8 * stage, 2);
        for (uint32_t stage = 0; stage < 3; ++stage) mbarrier_init(empty + 8 * stage, 1);
        for (uint32_t stage = 0; stage < 3; ++stage) mbarrier_init(words_full + 8 * stage, 1);
        for (uint32_t stage = 0; stage < 3; ++stage) mbarrier_init(words_empty + 8 * stage, 1);
        for (uint32_t stage = 0; stage < 2; ++stage) mbarrier_init(part_full + 8 * stage, 1);
        for (uint32_t stage = 0; stage < 2; ++stage) mbarrier_init(part_empty + 8 * stage, 8);
        fence_barrier_init();
    }
    // One warp allocates 512 columns of tensor memory; it is the only allocation, and freed at the end. [sm100.tmem_alloc]
    if (warp == 10) tmem_alloc<512>(smem + kOffsetTmemAddress);
    __syncthreads();  // all threads of the CTA meet [sm100.sync]
    const uint32_t tmem = load_shared_word(smem + kOffsetTmemAddress);  // where the columns begin [sm100.tmem_address]
    if (warp < 8) {
        // ---- math: warps 0 to 7 [sm100.warps]
        take_registers<232>();  // take the registers that the loading warps gave up [sm100.set_registers]
        RingCursor parts;  // this role's place in the ring [sm100.cursor]
        // A thread has one row of the tile, which is one lane of tensor memory; a warp reaches 32 of them. [sm100.thread_position]
        const uint32_t warpgroup = warp / 4;
        [[maybe_unused]] const uint32_t row = warp % 4 * 32 + lane;
        const uint32_t lanes = tmem + (warp % 4 * 32 << 16);
        // Output tiles of this CTA, 8 along m before the other axis advances, so that L2 is reused. [sm100.tile_loop]
        const uint32_t tiles_m = (M + 127u) / 128u, tiles_n = (264u + 191u) / 192u;
        for (uint32_t tile = blockIdx.x; tile < tiles_m * tiles_n; tile += gridDim.x) {
            const TilePosition position = rasterize<8>(tile, tiles_m, tiles_n);
            [[maybe_unused]] const uint32_t m0 = position.along * 128, n0 = position.across * 192;
            mbarrier_wait(part_full + 8 * parts.stage, parts.phase);  // until the partial sum is complete [sm100.wait]
            tmem_fence_after();  // what is done in tensor memory comes after that barrier [sm100.fence]
            // Read this row of the sum into registers. [sm100.fetch]
            float sum[96];
            #pragma unroll
            for (uint32_t column = 0; column < 96; column += 32) {
                float part[32];
                tmem_load_32(part, lanes + parts.stage * 192 + warpgroup * 96 + column);
            #pragma unroll
                for (uint32_t i = 0; i < 32; ++i) sum[column + i] = part[i];
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
            for (uint32_t column = 0; column < 96; column += 8) {
                const uint32_t line = row * 64;
                const uint32_t chunk = column % 32 / 8;
                const uint32_t slab = smem + kOffsetStaging + (warpgroup * 3 + column / 32) * 8192;
                store_shared_4(slab + line + ((chunk ^ (line >> 7 & 3)) << 4),
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
                tma_store(&tma_d, smem + kOffsetStaging + warpgroup * 24576, n0 + warpgroup * 96, m0);
                tma_store(&tma_d, smem + kOffsetStaging + warpgroup * 24576 + 8192, n0 + warpgroup * 96 + 32, m0);
                tma_store(&tma_d, smem + kOffsetStaging + warpgroup * 24576 + 16384, n0 + warpgroup * 96 + 64, m0);
            }
            if (threadIdx.x % 128 == 0) tma_store_commit();  // these stores are one group [sm100.store_commit]
        }
        if (threadIdx.x % 128 == 0) tma_store_wait_read();  // shared memory lives until the stores have read it [sm100.store_drain]
    } else if (warp >= 8 && warp <= 11) {
        // ---- load and scales and mma: warps 8 to 11 [sm100.warps]
        give_registers<40>();  // give registers to the multiplying warps [sm100.set_registers]
        if (warp == 8 && elect_one()) {
            // ---- load: one thread of warp 8 [sm100.warps]
            RingCursor words_cursor;  // this role's place in the ring [sm100.cursor]
            RingCursor cursor;  // this role's place in the ring [sm100.cursor]
            // Output tiles of this CTA, 8 along m before the other axis advances, so that L2 is reused. [sm100.tile_loop]
            const uint32_t tiles_m = (M + 127u) / 128u, tiles_n = (264u + 191u) / 192u;
            for (uint32_t tile = blockIdx.x; tile < tiles_m * tiles_n; tile += gridDim.x) {
                const TilePosition position = rasterize<8>(tile, tiles_m, tiles_n);
                [[maybe_unused]] const uint32_t m0_1 = position.along * 128, n0_1 = position.across * 192;
                #pragma unroll 1  // a step is long enough; unrolled ones would only need more registers
                for (uint32_t k0_1 = 0; k0_1 < 400u; k0_1 += 128) {  // steps of K [sm100.k_loop]
                    mbarrier_wait(words_empty + 8 * words_cursor.stage, words_cursor.phase ^ 1);  // until every reader has released the stage [sm100.wait]
                    mbarrier_expect(words_full + 8 * words_cursor.stage, 1536);  // bytes that will land in this stage [sm100.expect]
                    tma_load(smem + kOffsetSaWords + words_cursor.stage * kStageBytesSaWords, &tma_sa, words_full + 8 * words_cursor.stage, m0_1, k0_1 / 128);  // 128 scales of one block of K; the map runs along rows first [sm100.tma_load_scales]
                    tma_load(smem + kOffsetSbWords + words_cursor.stage * kStageBytesSbWords, &tma_sb, words_full + 8 * words_cursor.stage, n0_1, k0_1 / 128);  // 256 scales of one block of K; the map runs along rows first [sm100.tma_load_scales]
                    mbarrier_wait(empty + 8 * cursor.stage, cursor.phase ^ 1);  // until every reader has released the stage [sm100.wait]
                    mbarrier_expect(full + 8 * cursor.stage, 40960);  // bytes that will land in this stage [sm100.expect]
                    tma_load(smem + kOffsetA + cursor.stage * kStageBytesA, &tma_a, full + 8 * cursor.stage, k0_1, m0_1);  // 128 rows of a [sm100.tma_load]
                    tma_load(smem + kOffsetB + cursor.stage * kStageBytesB, &tma_b, full + 8 * cursor.stage, k0_1, n0_1);  // 192 rows of b [sm100.tma_load]
                    words_cursor.advance<3>();  // next stage [sm100.advance]
                    cursor.advance<3>();  // next stage [sm100.advance]
                }
            }
        } else if (warp == 9) {
            // ---- scales: warp 9 [sm100.warps]
            RingCursor cursor_1;  // this role's place in the ring [sm100.cursor]
            RingCursor words_cursor_1;  // this role's place in the ring [sm100.cursor]
            // Output tiles of this CTA, 8 along m before the other axis advances, so that L2 is reused. [sm100.tile_loop]
            const uint32_t tiles_m = (M + 127u) / 128u, tiles_n = (264u + 191u) / 192u;
            for (uint32_t tile = blockIdx.x; tile < tiles_m * tiles_n; tile += gridDim.x) {
                const TilePosition position = rasterize<8>(tile, tiles_m, tiles_n);
                [[maybe_unused]] const uint32_t m0_2 = position.along * 128, n0_2 = position.across * 192;
                #pragma unroll 1  // a step is long enough; unrolled ones would only need more registers
                for (uint32_t k0_2 = 0; k0_2 < 400u; k0_2 += 128) {  // steps of K [sm100.k_loop]
                    mbarrier_wait(words_full + 8 * words_cursor_1.stage, words_cursor_1.phase);  // until the stage is loaded [sm100.wait]
                    mbarrier_wait(empty + 8 * cursor_1.stage, cursor_1.phase ^ 1);  // until every reader has released the stage [sm100.wait]
                    // Words of sa_words in the tensor core's order: of 128 rows, a lane puts its own, 32, 64 and 96 further on side by side. [sm100.arrange_scales]
                    {
                        const uint32_t kept = k0_2 < 384 ? 0xffffffff : 0x000000ff;  // what lies behind K has no scales
                    #pragma unroll
                        for (uint32_t group = 0; group < 1; ++group) {
                            uint32_t words[4];
                    #pragma unroll
                            for (uint32_t i = 0; i < 4; ++i) words[i] = load_shared_word(smem + kOffsetSaWords + words_cursor_1.stage * kStageBytesSaWords + group * 512 + 4 * (32 * i + lane)) & kept;
                            store_shared_4(smem + kOffsetSa + cursor_1.stage * kStageBytesSa + group * 512 + 16 * lane, words[0], words[1], words[2], words[3]);
                        }
                    }
                    // Words of sb_words in the tensor core's order: of 128 rows, a lane puts its own, 32, 64 and 96 further on side by side. [sm100.arrange_scales]
                    {
                        const uint32_t kept = k0_2 < 384 ? 0xffffffff : 0x000000ff;  // what lies behind K has no scales
                    #pragma unroll
                        for (uint32_t group = 0; group < 2; ++group) {
                            uint32_t words[4];
                    #pragma unroll
                            for (uint32_t i = 0; i < 4; ++i) words[i] = load_shared_word(smem + kOffsetSbWords + words_cursor_1.stage * kStageBytesSbWords + group * 512 + 4 * (32 * i + lane)) & kept;
                            store_shared_4(smem + kOffsetSb + cursor_1.stage * kStageBytesSb + group * 512 + 16 * lane, words[0], words[1], words[2], words[3]);
                        }
                    }
                    __syncwarp();
                    if (lane == 0) mbarrier_arrive(words_empty + 8 * words_cursor_1.stage);  // this warp has read the stage [sm100.release]
                    // Each lane publishes its writes to the tensor core; then the warp arrives. [sm100.publish_scales]
                    fence_async_shared();
                    __syncwarp();
                    if (lane == 0) mbarrier_arrive(full + 8 * cursor_1.stage);
                    cursor_1.advance<3>();  // next stage [sm100.advance]
                    words_cursor_1.advance<3>();  // next stage [sm100.advance]
                }
            }
        } else if (warp == 10 && elect_one()) {
            // ---- mma: one thread of warp 10 [sm100.warps]
            RingCursor cursor_2;  // this role's place in the ring [sm100.cursor]
            RingCursor parts_1;  // this role's place in the ring [sm100.cursor]
            // Output tiles of this CTA, 8 along m before the other axis advances, so that L2 is reused. [sm100.tile_loop]
            const uint32_t tiles_m = (M + 127u) / 128u, tiles_n = (264u + 191u) / 192u;
            for (uint32_t tile = blockIdx.x; tile < tiles_m * tiles_n; tile += gridDim.x) {
                const TilePosition position = rasterize<8>(tile, tiles_m, tiles_n);
                [[maybe_unused]] const uint32_t m0_3 = position.along * 128, n0_3 = position.across * 192;
                mbarrier_wait(part_empty + 8 * parts_1.stage, parts_1.phase ^ 1);  // until the partial sum before it has been read [sm100.wait]
                tmem_fence_after();  // what is done in tensor memory comes after that barrier [sm100.fence]
                #pragma unroll 1  // a step is long enough; unrolled ones would only need more registers
                for (uint32_t k0_3 = 0; k0_3 < 400u; k0_3 += 128) {  // steps of K [sm100.k_loop]
                    mbarrier_wait(full + 8 * cursor_2.stage, cursor_2.phase);  // until the stage is loaded [sm100.wait]
                    // Words of sa to tensor memory, 4 columns for every 128 rows. [sm100.scale_factors]
                    copy_scale_factors(tmem + 384 + cursor_2.stage * 12, scale_descriptor(smem + kOffsetSa + cursor_2.stage * kStageBytesSa));
                    // Words of sb to tensor memory, 4 columns for every 128 rows. [sm100.scale_factors]
                    copy_scale_factors(tmem + 388 + cursor_2.stage * 12, scale_descriptor(smem + kOffsetSb + cursor_2.stage * kStageBytesSb));
                    copy_scale_factors(tmem + 388 + cursor_2.stage * 12 + 4, scale_descriptor(smem + kOffsetSb + cursor_2.stage * kStageBytesSb + 512));
                    // a and b of the stage, 32 elements of K at a time, each with its scales: 128 x 192, e4m3 by e4m3. The first product of a tile overwrites. [sm100.scaled_mma]
                    {
                        const uint64_t desc_a = mma_descriptor(smem + kOffsetA + cursor_2.stage * kStageBytesA);
                        const uint64_t desc_b = mma_descriptor(smem + kOffsetB + cursor_2.stage * kStageBytesB);
                        const uint32_t sum = tmem + parts_1.stage * 192;
                        const uint32_t scale_a = tmem + 384 + cursor_2.stage * 12, scale_b = tmem + 388 + cursor_2.stage * 12;
                        const uint32_t instruction = 0x08b00000;  // of each word of four scales, products take the one of their elements of K
                        mma_mxf8f6f4(sum, desc_a, desc_b, instruction, scale_a, scale_b, k0_3 > 0);
                        mma_mxf8f6f4(sum, desc_a + 2, desc_b + 2, instruction + 0x20000010, scale_a, scale_b, true);
                        mma_mxf8f6f4(sum, desc_a + 4, desc_b + 4, instruction + 0x40000020, scale_a, scale_b, true);
                        mma_mxf8f6f4(sum, desc_a + 6, desc_b + 6, instruction + 0x60000030, scale_a, scale_b, true);
                    }
                    mma_commit(empty + 8 * cursor_2.stage);  // arrive when the products are complete [sm100.commit]
                    cursor_2.advance<3>();  // next stage [sm100.advance]
                }
                mma_commit(part_full + 8 * parts_1.stage);  // arrive when the products are complete [sm100.commit]
                parts_1.advance<2>();  // next stage [sm100.advance]
            }
        }
    }
    tmem_fence_before();  // what was done in tensor memory comes before the next barrier [sm100.fence]
    __syncthreads();  // all threads of the CTA meet [sm100.sync]
    tmem_fence_after();  // what is done in tensor memory comes after that barrier [sm100.fence]
    if (warp == 10) tmem_free<512>(tmem);  // the warp that allocated the columns gives them back [sm100.tmem_free]
}
