// SPDX-License-Identifier: Apache-2.0
// Names for Hopper's instructions that C++ has none for. Sources: PTX ISA 8.5, chapters on mbarrier, bulk tensor
// copies, wgmma and griddepcontrol. Addresses in shared memory are 32-bit numbers.
#pragma once

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;

// CUtensorMap, which only the copy engine reads.
struct alignas(64) TensorMap {
    u64 words[16];
};

__device__ __forceinline__ u32 address_of(const void *shared) { return (u32)__cvta_generic_to_shared(shared); }

// ---- The kernels before and behind ------------------------------------------------------------------------------

// The next kernel of the stream may start; it waits for this one's results.
__device__ __forceinline__ void start_the_next() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// Until all that kernels before have written can be read.
__device__ __forceinline__ void wait_for_the_kernel_before() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// ---- Barriers in shared memory ----------------------------------------------------------------------------------

__device__ __forceinline__ void barrier_init(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

// Behind all barrier_init of a block, before other threads, blocks of the cluster or copies use them.
__device__ __forceinline__ void barriers_are_there() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// One arrival, and so many bytes of copies to come.
__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// The same barrier in another block of the cluster. Says nothing of what the thread wrote, only that it has read.
__device__ __forceinline__ void barrier_arrive_at(u32 barrier, u32 block) {
    asm volatile(
        "{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there]; }" ::"r"(barrier), "r"(block) : "memory");
}

// Until the phase of this parity is over; a new barrier is in phase 0, and the one before it counts as over.
__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    asm volatile(
        "{ .reg .pred done;\n"
        "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again; }" ::"r"(barrier), "r"(parity) : "memory");
}

// Among `threads` threads of a block; name: 1 to 15.
__device__ __forceinline__ void barrier_named(u32 name, u32 threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

// Count as one of those threads without waiting.
__device__ __forceinline__ void barrier_named_arrive(u32 name, u32 threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

// All threads of all blocks of the cluster.
__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

__device__ __forceinline__ u32 cluster_rank() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// ---- Tiles between global and shared memory ---------------------------------------------------------------------

// A tile from column x, row y; rows and columns outside are zeros. One thread.
__device__ __forceinline__ void load_tile(u32 to, const TensorMap *from, int x, int y, u32 barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            to),
        "l"(from), "r"(x), "r"(y), "r"(barrier)
        : "memory");
}

// The same into the same place of all blocks in `mask`, with a word to the barrier of each.
__device__ __forceinline__ void load_tile_for_all(u32 to, const TensorMap *from, int x, int y, u32 barrier, u16 mask) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
        " [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
        "l"(from), "r"(x), "r"(y), "r"(barrier), "h"(mask)
        : "memory");
}

// A tile out; what lies outside is left out. One thread, after shared_is_written and a barrier of the writers.
__device__ __forceinline__ void store_tile(const TensorMap *to, int x, int y, u32 from) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(to), "r"(x),
                 "r"(y), "r"(from)
                 : "memory");
}

// Until the thread's own stores are done, and others can see them.
__device__ __forceinline__ void stores_are_done() {
    asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;" ::: "memory");
}

__device__ __forceinline__ void prefetch_map(const TensorMap *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Between a thread's own writes to shared memory and what copies and matrix units read.
__device__ __forceinline__ void shared_is_written() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- Matrix units -----------------------------------------------------------------------------------------------

// Registers between threads of different kinds; all warps of a group of four, counts divisible by 8.
template <int COUNT> __device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT> __device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// Before the first product after other code has touched its registers.
__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Until at most PENDING groups of products are under way.
template <int PENDING> __device__ __forceinline__ void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// The compiler must not move reads of the sums before the wait for them.
template <int N> __device__ __forceinline__ void keep(float (&sums)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(sums[i])::"memory");
}

// Nor use registers that are a left matrix for something else.
template <int N> __device__ __forceinline__ void keep(u32 (&left)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+r"(left[i])::"memory");
}

// A matrix in shared memory, as tiles were loaded. SWIZZLE: bytes of a row, 32, 64 or 128. `leading` and `stride`
// in bytes; a matrix whose columns are what is summed over needs 8 rows' worth of bytes as `stride` alone.
template <int SWIZZLE> __device__ __forceinline__ u64 matrix_at(u32 address, u32 leading, u32 stride) {
    const u64 kind = SWIZZLE == 128 ? 1 : SWIZZLE == 64 ? 2 : SWIZZLE == 32 ? 3 : 0;
    return (u64)((address & 0x3FFFF) >> 4) | ((u64)(leading >> 4) << 16) | ((u64)(stride >> 4) << 32) | (kind << 62);
}

// A matrix so many bytes further on: what says how it lies stays.
__device__ __forceinline__ u64 moved(u64 matrix, u32 bytes) {
    return (matrix & 0xFFFFFFFF00000000ull) | (u32)((u32)matrix + (bytes >> 4));
}

// ---- Numbers ----------------------------------------------------------------------------------------------------

// Two float32 to two bfloat16, the first in the lower half.
__device__ __forceinline__ u32 pack_bf16(float first, float second) {
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
}
__device__ __forceinline__ float low_bf16(u32 both) { return __uint_as_float(both << 16); }
__device__ __forceinline__ float high_bf16(u32 both) { return __uint_as_float(both & 0xFFFF0000u); }

// The same for float16.
__device__ __forceinline__ u32 pack_f16(float first, float second) {
    u32 both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
}

// 2^x.
__device__ __forceinline__ float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The logarithm to the base 2.
__device__ __forceinline__ float logarithm(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1 / x.
__device__ __forceinline__ float reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Four 8 x 8 matrices of 16-bit numbers from registers to shared memory; lane l names row l % 8 of matrix l / 8.
__device__ __forceinline__ void store_matrices(u32 row, u32 a, u32 b, u32 c, u32 d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(a), "r"(b), "r"(c),
                 "r"(d)
                 : "memory");
}

// ---- The way out ------------------------------------------------------------------------------------------------

constexpr u32 ALL_LANES = 0xFFFFFFFFu;

// Among the four lanes that have parts of a row: lane l has part l of four pieces, and then all of piece l; or back.
__device__ __forceinline__ void turn(u32 (&parts)[4], int lane) {
    const bool odd = lane & 1, upper = lane & 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        const u32 other = __shfl_xor_sync(ALL_LANES, odd ? parts[i] : parts[i + 1], 1);
        parts[i] = odd ? other : parts[i];
        parts[i + 1] = odd ? parts[i + 1] : other;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const u32 other = __shfl_xor_sync(ALL_LANES, upper ? parts[i] : parts[i + 2], 2);
        parts[i] = upper ? other : parts[i];
        parts[i + 2] = upper ? parts[i + 2] : other;
    }
}

// Over the four lanes that share a row.
__device__ __forceinline__ float sum_of_row(float value) {
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

__device__ __forceinline__ float largest_of_row(float value) {
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
    return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
}
