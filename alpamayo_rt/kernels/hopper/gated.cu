// SPDX-License-Identifier: Apache-2.0
// out = silu(f * x gate^T) * (f * x up^T), where f is a factor of each row: the gated linear unit of a decoder layer
// over a few hundred rows, behind a norm whose weights are part of gate and up.
//
// A block makes ROWS x COLUMNS of out. Two blocks, one above the other, share the weights that they need: each
// fetches half and sends it to both. One thread fetches, three groups of four warps multiply 64 rows each. So
// weights are read from memory once, and 384 rows of the expert take 130 of 132 multiprocessors once.
#include "parts.cuh"
#include "products.cuh"

constexpr int ROWS = 192, COLUMNS = 128, DEPTH = 64, STAGES = 4, GROUPS = 3;
constexpr u32 GROUP_BYTES = 64 * DEPTH * 2, X_BYTES = GROUPS * GROUP_BYTES, HALF_BYTES = COLUMNS * DEPTH * 2;
constexpr u32 STAGE_BYTES = X_BYTES + 2 * HALF_BYTES;

// Fetch all steps. Weights at once; rows of x when the kernel before has written them, or at once too if that kernel
// only makes factors of them: `row_factors` lets this one start when x is done, so that nobody waits for what is
// needed at the end. What a kernel that is done has written lies in L2, which is where the copy engine reads; what
// ordinary reads might find elsewhere, the factors, is read behind a wait. One thread.
__device__ __forceinline__ void fetch(const TensorMap *x, const TensorMap *weight, u32 room, u32 full, u32 empty,
                                      int steps, int row, int weight_row, u32 rank, bool x_is_there) {
    const u32 half = X_BYTES + rank * HALF_BYTES;
    const int ahead = min(steps, STAGES);
    for (int i = 0; i < ahead; i++) {
        barrier_expect(full + 8 * i, STAGE_BYTES);
        load_tile_for_all(room + i * STAGE_BYTES + half, weight, i * DEPTH, weight_row, full + 8 * i, 3);
    }
    if (!x_is_there) wait_for_the_kernel_before();
    for (int i = 0; i < ahead; i++) load_tile(room + i * STAGE_BYTES, x, i * DEPTH, row, full + 8 * i);
    for (int i = ahead; i < steps; i++) {
        const int stage = i % STAGES;
        const u32 place = room + stage * STAGE_BYTES, filled = full + 8 * stage;
        barrier_wait(empty + 8 * stage, (i / STAGES & 1) ^ 1);
        barrier_expect(filled, STAGE_BYTES);
        load_tile_for_all(place + half, weight, i * DEPTH, weight_row, filled, 3);
        load_tile(place, x, i * DEPTH, row, filled);
    }
}

// gate and up of two places become silu(gate) * up. The two share one division; where e^-gate is bounded, so that
// the product of both divisors does not overflow, silu is below 1e-16.
__device__ __forceinline__ u32 gated(float factor, const float *gate, const float *up) {
    const float first = factor * gate[0], second = factor * gate[1];
    const float a = 1.f + power_of_two(fminf(-1.44269504f * first, 62.f));
    const float b = 1.f + power_of_two(fminf(-1.44269504f * second, 62.f));
    const float share = factor * reciprocal(a * b);
    return pack_bf16(first * up[0] * (b * share), second * up[1] * (a * share));
}

extern "C" __global__ void __launch_bounds__(512, 1)
    gated_product(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weight,
                  const __grid_constant__ TensorMap out, const float *factors, int steps, int rows, int columns) {
    extern __shared__ __align__(1024) char room[];
    const u32 base = address_of(room), full = base + STAGES * STAGE_BYTES, empty = full + 8 * STAGES;
    const u32 rank = cluster_rank(), group = threadIdx.x / 128;
    const int row = (blockIdx.y * 2 + rank) * ROWS, column = blockIdx.x / 2 * COLUMNS;
    start_the_next();
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, 2 * GROUPS); // both blocks read what each of them fetches
        }
        barriers_are_there();
    }
    cluster_sync();
    if (group == GROUPS) {
        give_registers<32>();
        if (threadIdx.x % 128 == 0)
            fetch(&x, &weight, base, full, empty, steps, row, column + rank * columns, rank, factors != nullptr);
        return;
    }
    take_registers<160>();
    const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    const u32 own = base + group * GROUP_BYTES;
    float gates[64], ups[64];
#pragma unroll
    for (int i = 0; i < 64; i++) gates[i] = ups[i] = 0.f;
    // One step apart, so that one group's way out of the sums lies beside the others' last products.
    if (group > 0) barrier_named(group, 256);
    for (int i = 0; i < steps; i++) {
        const int stage = i % STAGES;
        barrier_wait(full + 8 * stage, i / STAGES & 1);
        const u32 left = own + stage * STAGE_BYTES, right = base + stage * STAGE_BYTES + X_BYTES;
        products_begin();
#pragma unroll
        for (int k = 0; k < DEPTH / 16; k++) {
            const u64 values = matrix_at<128>(left + k * 32, 16, 1024);
            product_128(gates, values, matrix_at<128>(right + k * 32, 16, 1024), 1);
            product_128(ups, values, matrix_at<128>(right + HALF_BYTES + k * 32, 16, 1024), 1);
        }
        products_commit();
        if (i == 0 && group < GROUPS - 1) barrier_named_arrive(group + 1, 256);
        // While these are under way those before are done, and both blocks may fill their place. Nobody waits for
        // word about the last ones, and this block might be gone when it came.
        products_wait<1>();
        if (i > 0 && i <= steps - STAGES && thread < 2) barrier_arrive_at(empty + 8 * ((i - 1) % STAGES), thread);
    }
    products_wait<0>();
    keep(gates);
    keep(ups);
    wait_for_the_kernel_before();
    // A lane has parts of two rows. What is behind the last row of x is never stored.
    const int first = row + group * 64 + warp * 16 + lane / 4;
    const float upper = factors ? factors[min(first, rows - 1)] : 1.f;
    const float lower = factors ? factors[min(first + 8, rows - 1)] : 1.f;
    // The result waits where this group's rows of x were, 64 columns in each of the first stages. A lane names the
    // row of one of four small matrices.
    const int in_tile = warp * 16 + (lane >> 3 & 1) * 8 + lane % 8;
#pragma unroll
    for (int j = 0; j < COLUMNS / 8; j += 2) {
        u32 packed[4];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int at = 4 * (j + half);
            packed[2 * half] = gated(upper, gates + at, ups + at);
            packed[2 * half + 1] = gated(lower, gates + at + 2, ups + at + 2);
        }
        const int piece = (j + (lane >> 4)) % 8;
        store_matrices(own + j / 8 * STAGE_BYTES + in_tile * 128 + ((piece ^ in_tile % 8) * 16), packed[0], packed[1],
                       packed[2], packed[3]);
    }
    shared_is_written();
    barrier_named(4 + group, 128);
    if (thread == 0) {
        for (int box = 0; box < COLUMNS / 64; box++)
            store_tile(&out, column + box * 64, row + group * 64, own + box * STAGE_BYTES);
        stores_are_done();
    }
}
