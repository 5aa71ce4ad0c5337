// f16_gemm_nn
// Written by gemmgen for sm_90a. [op] at a comment's end names the IR op that the lines come from.
// 160 threads per CTA, 4 CTAs per cluster, 16 x 64 of D per scheduler tile.

typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef long long int64_t;

// A CUtensorMap, opaque to the kernel.
struct alignas(64) TensorMap {
    uint64_t words[16];
};

// Shared memory of a CTA, in bytes: 61536 in all.
constexpr uint32_t kOffsetA = 0, kStageBytesA = 2048;  // tiles of a, 6 stages
constexpr uint32_t kOffsetB = 12288, kStageBytesB = 8192;  // tiles of b, 6 stages
constexpr uint32_t kOffsetExchange = 0;  // partial sums, over the stages of the ring, once
constexpr uint32_t kOffsetFull = 61440;  // barriers: a stage is loaded, 6 stages
constexpr uint32_t kOffsetEmpty = 61488;  // barriers: a stage is free, 6 stages

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

// Reads 16 bytes at the same offset in the shared memory of another CTA of the cluster.
__device__ __forceinline__ float4 load_shared_cluster_4(uint32_t address, uint32_t cta)
{
    float4 value;
    asm volatile("{\n"
                 ".reg .b32 remote;\n"
                 "mapa.shared::cluster.u32 remote, %4, %5;\n"
                 "ld.shared::cluster.v4.f32 { %0, %1, %2, %3}, [remote];\n"
                 "}" : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w) : "r"(address), "r"(cta) : "memory");
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

__device__ __forceinline__ void named_barrier_sync(uint32_t id, uint32_t threads)
{
    asm volatile("bar.sync %0, %1;" :: "r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ uint32_t pack_f16(float low, float high)
{
    uint32_t packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
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

// Stores up to 4 f16 at column col of a row that ends at cols.
__device__ __forceinline__ void store_f16_4(uint16_t* to, uint32_t low, uint32_t high, uint32_t cols, uint32_t col)
{
    if (col + 3 < cols) {
        *reinterpret_cast<uint2*>(to) = make_uint2(low, high);
    } else {
        if (col + 0 < cols) to[0] = uint16_t(low);
        if (col + 1 < cols) to[1] = uint16_t(low >> 16);
        if (col + 2 < cols) to[2] = uint16_t(high);
    }
}

__device__ __forceinline__ void store_shared(uint32_t address, float value)
{
    asm volatile("st.shared.f32 [%0], %1;" :: "r"(address), "f"(value) : "memory");
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

// d += a · bᵀ
__device__ __forceinline__ void wgmma_add_m64n16k16_f16_f16_at(float (&d)[8], uint64_t desc_a, uint64_t desc_b)
{
    asm volatile("{\n"
                 ".reg .pred accumulate;\n"
                 "setp.eq.b32 accumulate, 0, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7}, "
                 "%8, %9, accumulate, 1, 1, 1, 0;\n"
                 "}"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
                 : "l"(desc_a), "l"(desc_b));
}

// A dense K-major tile of 128-byte rows, swizzled: 1024 bytes from 8 rows to the next 8.
__device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t address)
{
    return uint64_t(1) << 62 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 16 | (address & 0x3FFFF) >> 4;
}

// A tile whose rows run along M or N, in slabs of 128-byte rows, swizzled: 1024 bytes from 8 of K to the next 8,
// 8192 bytes from slab to slab.
__device__ __forceinline__ uint64_t wgmma_descriptor_transposed_128(uint32_t address)
{
    return uint64_t(1) << 62 | uint64_t(1024 >> 4) << 32 | uint64_t(8192 >> 4) << 16 | (address & 0x3FFFF) >> 4;
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

extern "C" __global__ void __launch_bounds__(160, 1)
f16_gemm_nn(const __grid_constant__ TensorMap tma_a, const __grid_constant__ TensorMap tma_b, uint16_t* __restrict__ d, int64_t d_stride_row, uint32_t M)
{
    extern __shared__ __align__(1024) unsigned char shared_memory[];
    const uint32_t smem = uint32_t(__cvta_generic_to_shared(shared_memory));
    const uint32_t warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    const uint32_t rank = cluster_rank();
    const uint32_t full = smem + kOffsetFull;  // one mbarrier per stage; 1 arrivals and all expected bytes end a phase [sm90.barriers]
    const uint32_t empty = smem + kOffsetEmpty;  // one mbarrier per stage; 4 arrivals and all expected bytes end a phase [sm90.barriers]
    // One thread initialises the barriers; the fence shows them to the cluster and to the copy engine. [sm90.init_barriers]
    if (threadIdx.x == 0) {
        for (uint32_t stage = 0; stage < 6; ++stage) mbarrier_init(full + 8 * stage, 1);
        for (uint32_t stage = 0; stage < 6; ++stage) mbarrier_init(empty + 8 * stage, 4);
        fence_barrier_init();
    }
    cluster_sync();  // all threads of the cluster meet [sm90.sync]
    grid_dependency_wait();  // the kernels before this one have written what it reads [sm90.grid_wait]
    grid_dependency_launch();  // the next kernel may start [sm90.grid_launch]
    if (warp < 4) {
        // ---- math: warps 0 to 3 [sm90.warps]
        // Element i of a thread's fragment is row + 8 * (i / 2 % 2), column 8 * (i / 4) + 2 * quad + i % 2. [sm90.thread_position]
        const uint32_t warpgroup = warp / 4;
        [[maybe_unused]] const uint32_t row = warp % 4 * 16 + lane / 4;
        [[maybe_unused]] const uint32_t quad = lane % 4;
        const uint64_t desc_a = wgmma_descriptor_transposed_128(smem + kOffsetB + warpgroup * 64 * 128);  // this warpgroup's 64 rows of b, in stage 0 [sm90.descriptor]
        const uint64_t desc_b = wgmma_descriptor(smem + kOffsetA);  // all of a, in stage 0 [sm90.descriptor]
        RingCursor cursor;  // this role's place in the ring [sm90.cursor]
        // Output tiles of this CTA, 8 along m before the other axis advances, so that L2 is reused. [sm90.tile_loop]
        const uint32_t tiles_m = (M + 15u) / 16u, tiles_n = (576u + 63u) / 64u;
        for (uint32_t tile = blockIdx.x / 4; tile < tiles_m * tiles_n; tile += gridDim.x / 4) {
            const TilePosition position = rasterize<8>(tile, tiles_m, tiles_n);
            [[maybe_unused]] const uint32_t m0 = tile_start<16>(position.along, M), n0 = tile_start<64>(position.across, 576u);
            float sum[8] = {};  // FP32 registers of this thread [sm90.zero]
            // The steps of K are dealt out to 4 CTAs in runs of equal length, up to one. [sm90.k_loop]
            const uint32_t k_blocks = (7168u + 63u) / 64u;
            const uint32_t k_end = k_blocks * (rank + 1) / 4 * 64;
            for (uint32_t k0 = k_blocks * rank / 4 * 64; k0 < k_end; k0 += 64) {
                const uint64_t a_at = desc_a + cursor.stage * (kStageBytesB >> 4);  // in this stage; it does not wait for the loads [sm90.stage_descriptor]
                const uint64_t b_at = desc_b + cursor.stage * (kStageBytesA >> 4);  // in this stage; it does not wait for the loads [sm90.stage_descriptor]
                mbarrier_wait(full + 8 * cursor.stage, cursor.phase);  // until the stage is loaded [sm90.wait]
                // Products of this warpgroup's 64 rows of b, all of a, 16 elements of K at a time. [sm90.wgmma]
                wgmma_fence();
                wgmma_add_m64n16k16_f16_f16_at(sum, a_at, b_at);
                wgmma_add_m64n16k16_f16_f16_at(sum, a_at + 128, b_at + 2);
                wgmma_add_m64n16k16_f16_f16_at(sum, a_at + 256, b_at + 4);
                wgmma_add_m64n16k16_f16_f16_at(sum, a_at + 384, b_at + 6);
                wgmma_commit();
                wgmma_wait<0>(sum);  // the products are in registers [sm90.wgmma_wait]
                __syncwarp();
                if (lane == 0) mbarrier_arrive(empty + 8 * cursor.stage);  // this warp has read the stage [sm90.release]
                cursor.advance<6>();  // next stage [sm90.advance]
            }
            named_barrier_sync(2, 128);  // all multiplying threads of the CTA meet [sm90.group_sync]
            // Partial sums go to shared memory, where the other CTAs of the tile can read them. [sm90.write_partial]
            #pragma unroll
            for (uint32_t i = 0; i < 8; ++i) {
                const uint32_t element_row = warpgroup * 64 + row + i / 2 % 2 * 8, element_col = i / 4 * 8 + 2 * quad + i % 2;
                store_shared(smem + kOffsetExchange + 4 * (element_row * 1 + element_col * 68), sum[i]);
            }
            named_barrier_sync(2, 128);  // all multiplying threads of the CTA meet [sm90.group_sync]
            cluster_sync();  // all threads of the cluster meet [sm90.sync]
            // Each CTA adds its slice of the 4 partial sums, always in order of rank, and stores it. [sm90.reduce_store]
            for (uint32_t i = rank * 128 + threadIdx.x; i < 256; i += 4 * 128) {
                const uint32_t element_row = i / 16, element_col = i % 16 * 4;
                float4 total = {0.0f, 0.0f, 0.0f, 0.0f};
            #pragma unroll
                for (uint32_t peer = 0; peer < 4; ++peer) {
                    const float4 part = load_shared_cluster_4(smem + kOffsetExchange + 4 * (element_row * 68 + element_col), peer);
                    total.x += part.x;
                    total.y += part.y;
                    total.z += part.z;
                    total.w += part.w;
                }
                if (m0 + element_row < M) {
                    store_f16_4(d + (m0 + element_row) * d_stride_row + n0 + element_col,
                                 pack_f16(total.x, total.y), pack_f16(total.z, total.w), 576u, n0 + element_col);
                }
            }
        }
    } else if (warp == 4 && elect_one()) {
        // ---- load: one thread of warp 4 [sm90.warps]
        RingCursor cursor_1;  // this role's place in the ring [sm90.cursor]
        // Output tiles of this CTA, 8 along m before the other axis advances, so that L2 is reused. [sm90.tile_loop]
        const uint32_t tiles_m = (M + 15u) / 16u, tiles_n = (576u + 63u) / 64u;
        for (uint32_t tile = blockIdx.x / 4; tile < tiles_m * tiles_n; tile += gridDim.x / 4) {
            const TilePosition position = rasterize<8>(tile, tiles_m, tiles_n);
            [[maybe_unused]] const uint32_t m0_1 = tile_start<16>(position.along, M), n0_1 = tile_start<64>(position.across, 576u);
            // The steps of K are dealt out to 4 CTAs in runs of equal length, up to one. [sm90.k_loop]
            const uint32_t k_blocks = (7168u + 63u) / 64u;
            const uint32_t k_end = k_blocks * (rank + 1) / 4 * 64;
            for (uint32_t k0_1 = k_blocks * rank / 4 * 64; k0_1 < k_end; k0_1 += 64) {
                mbarrier_wait(empty + 8 * cursor_1.stage, cursor_1.phase ^ 1);  // until every reader has released the stage [sm90.wait]
                mbarrier_expect(full + 8 * cursor_1.stage, 10240);  // bytes that will land in this stage [sm90.expect]
                tma_load(smem + kOffsetA + cursor_1.stage * kStageBytesA, &tma_a, full + 8 * cursor_1.stage, k0_1, m0_1);  // 16 rows of a [sm90.tma_load]
                tma_load(smem + kOffsetB + cursor_1.stage * kStageBytesB, &tma_b, full + 8 * cursor_1.stage, n0_1, k0_1);  // 64 rows of b [sm90.tma_load]
                cursor_1.advance<6>();  // next stage [sm90.advance]
            }
        }
    }
    if (warp == 4) {
        // ---- meet: warp 4 [sm90.warps]
        cluster_sync();  // all threads of the cluster meet [sm90.sync]
    }
    if (warp < 4) {
        // ---- end: warps 0 to 3 [sm90.warps]
        cluster_sync();  // all threads of the cluster meet [sm90.sync]
    }
}
