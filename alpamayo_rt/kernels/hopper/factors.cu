// SPDX-License-Identifier: Apache-2.0
#include "parts.cuh"

// One over the root mean square of each row of x (rows, width); width divisible by 8. A warp takes a row.
//
// It waits before it lets the next kernel start. So that kernel starts when all that came before this one is done,
// x with it: it may read x at once, and need wait only for the factors.
extern "C" __global__ void __launch_bounds__(256) row_factors(const uint4 *x, float *factors, int rows, int width,
                                                              float eps) {
    wait_for_the_kernel_before();
    start_the_next();
    const int row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32, pieces = width / 8;
    if (row >= rows) return;
    float sum = 0.f;
#pragma unroll 8
    for (int i = lane; i < pieces; i += 32) {
        const uint4 values = x[(u64)row * pieces + i];
        const u32 words[4] = {values.x, values.y, values.z, values.w};
#pragma unroll
        for (u32 word : words) {
            sum = fmaf(low_bf16(word), low_bf16(word), sum);
            sum = fmaf(high_bf16(word), high_bf16(word), sum);
        }
    }
#pragma unroll
    for (int other = 16; other > 0; other /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, other);
    if (lane == 0) factors[row] = rsqrtf(sum / width + eps);
}
