// SPDX-License-Identifier: Apache-2.0
// The expert's attention: all tokens of a candidate over a shared prefix, its tail and each other, heads of 128.
//
// A block takes three units of 64 queries (64 tokens of a candidate, a head), all of one key-value head, and a
// piece of the prefix; the last piece is followed by the tails and own tokens of the block's candidates. One thread
// asks for tiles of 64 tokens; three groups of four warps attend, a unit each, so that a tile is read once for 192
// queries. While a group weighs the scores of a tile, the matrix unit mixes the values of the tile before. What
// comes of a piece is stored with the logarithm of its sum of weights, and put together by the kernel behind.
//
// HEADS: queries' heads of a key-value head. PER_HEAD: units of a candidate's head.
#include "parts.cuh"
#include "products.cuh"

constexpr int DIM = 128, QUERIES = 64, GROUPS = 3, KEYS = 64, STAGES = 5;
constexpr int WAYPOINTS = PER_HEAD * QUERIES, PER_CANDIDATE = PER_HEAD * HEADS;
constexpr int OWN_TILES = (WAYPOINTS + KEYS - 1) / KEYS;
// Tiles that are asked for before the queries, which the kernel before makes. Of more, the queries would come later.
constexpr int EARLY = 1;
// Two slabs of 64 columns: queries, later the results, or keys or values.
constexpr u32 QUERY_SLAB = QUERIES * 128, QUERY_BYTES = 2 * QUERY_SLAB, SLAB = KEYS * 128, TILE = 2 * SLAB;
constexpr u32 KEYS_AT = GROUPS * QUERY_BYTES, VALUES_AT = KEYS_AT + STAGES * TILE;
constexpr u32 BARRIERS_AT = VALUES_AT + STAGES * TILE;
// Scores are powers of two here. BOUND: of the weights that a thread has of a tile, whose level is the first tile's.
constexpr float BOUND = 1e9f, BELOW_ALL = -1e30f;

struct Work {
    int tail_start, tail_room, capacity, candidates;
    int sequence_words, length_words;  // 2 where whole numbers have 64 bits
    float scale;                       // times log2(e)
};

// Where things are in shared memory.
struct Places {
    u32 base;
    __device__ __forceinline__ u32 queries(int group) const { return base + group * QUERY_BYTES; }
    __device__ __forceinline__ u32 keys(int stage) const { return base + KEYS_AT + stage * TILE; }
    __device__ __forceinline__ u32 values(int stage) const { return base + VALUES_AT + stage * TILE; }
    // Barriers.
    __device__ __forceinline__ u32 queries_came(int group) const { return base + BARRIERS_AT + 8 * group; }
    __device__ __forceinline__ u32 keys_came(int stage) const { return base + BARRIERS_AT + 8 * (GROUPS + stage); }
    __device__ __forceinline__ u32 values_came(int stage) const { return keys_came(stage) + 8 * STAGES; }
    __device__ __forceinline__ u32 free(int stage) const { return keys_came(stage) + 16 * STAGES; }
};

// A place in the ring of stages.
struct Spot {
    int stage = 0;
    u32 phase = 0;
    __device__ __forceinline__ void advance() {
        if (++stage == STAGES) stage = 0, phase ^= 1;
    }
};

// Those of a group.
struct Unit {
    int candidate, head, row;  // row: of its first query among all tokens
    __device__ __forceinline__ Unit(int group) {
        const int unit = blockIdx.x * GROUPS + group, pair = unit / PER_HEAD;
        candidate = pair / HEADS;
        head = blockIdx.y * HEADS + pair % HEADS;
        row = candidate * WAYPOINTS + unit % PER_HEAD * QUERIES;
    }
};

__device__ __forceinline__ int tiles_of(int tokens) { return (tokens + KEYS - 1) / KEYS; }

// Tiles of this block: those of its piece of the prefix, and those of its own candidates behind the last piece.
struct Share {
    int first_candidate, last_candidate, length, first, end;
    int tail;  // lane i: that of candidate first_candidate + i
    bool last_piece;

    __device__ __forceinline__ Share(const Work &work, const int *prefix_length, const int *tail_length) {
        const int unit = blockIdx.x * GROUPS, pieces = gridDim.z;
        first_candidate = unit / PER_CANDIDATE;
        last_candidate = min((unit + GROUPS - 1) / PER_CANDIDATE, work.candidates - 1);
        tail = tail_length[min(first_candidate + (int)threadIdx.x % 32, last_candidate) * work.length_words];
        length = prefix_length[0];
        // What is a candidate's own is work for its units alone, so that it costs a group less than is fetched.
        const int own = __reduce_max_sync(ALL_LANES, tiles_of(tail)) + OWN_TILES, tiles = tiles_of(length);
        const int piece = __fdividef(tiles + own + pieces - 0.5f, pieces);  // rounded up
        last_piece = blockIdx.z == pieces - 1;
        first = min((int)blockIdx.z * piece, tiles);
        end = last_piece ? tiles : min(first + piece, tiles);
    }
    __device__ __forceinline__ int tail_of(int candidate) const {
        return __shfl_sync(ALL_LANES, tail, candidate - first_candidate);
    }
};

// ---- Who brings -------------------------------------------------------------------------------------------------

__device__ __forceinline__ void bring_tile(u32 to, u32 slab, const TensorMap *from, int x, int y, u32 came) {
    barrier_expect(came, 2 * slab);
    load_tile(to, from, x, y, came);
    load_tile(to + slab, from, x + 64, y, came);
}

// Rows behind the last candidate are zeros.
__device__ __forceinline__ void bring_queries(const TensorMap *queries, const Places &at) {
#pragma unroll 1
    for (int group = 0; group < GROUPS; group++) {
        const Unit unit(group);
        bring_tile(at.queries(group), QUERY_SLAB, queries, unit.head * DIM, unit.row, at.queries_came(group));
    }
}

// One thread. The prefix has long been there; queries, and the candidates' own tokens, are what the kernel before
// makes.
__device__ __forceinline__ void bring(const TensorMap *queries, const TensorMap *keys, const TensorMap *values,
                                      const TensorMap *own_keys, const TensorMap *own_values, const int *tail_sequence,
                                      const int *tail_length, const Work &work, const Share &share, const Places &at) {
    const int kv_head = blockIdx.y, row = kv_head * work.capacity, prefix = share.end - share.first;
    // Of a candidate: tiles of its tail, where it starts, the tile that is next.
    int candidate = share.first_candidate - 1, tail_tiles = 0, start = 0, i = OWN_TILES;
    Spot spot;
#pragma unroll 1
    for (int n = 0;; n++) {
        if (n == min(EARLY, prefix)) {
            wait_for_the_kernel_before();
            bring_queries(queries, at);
        }
        const bool of_prefix = n < prefix;
        if (!of_prefix) {
            if (!share.last_piece) return;
            if (i == tail_tiles + OWN_TILES) {
                if (++candidate > share.last_candidate) return;
                i = 0;
                tail_tiles = tiles_of(tail_length[candidate * work.length_words]);
                start = row + work.tail_start + tail_sequence[candidate * work.sequence_words] * work.tail_room;
            }
        }
        const bool own = !of_prefix && i >= tail_tiles;
        const int x = own ? kv_head * DIM : 0;
        const int y = of_prefix ? row + (share.first + n) * KEYS
                      : own     ? candidate * WAYPOINTS + (i - tail_tiles) * KEYS
                                : start + i * KEYS;
        if (!of_prefix) i++;
        barrier_wait(at.free(spot.stage), spot.phase ^ 1);
        bring_tile(at.keys(spot.stage), SLAB, own ? own_keys : keys, x, y, at.keys_came(spot.stage));
        bring_tile(at.values(spot.stage), SLAB, own ? own_values : values, x, y, at.values_came(spot.stage));
        spot.advance();
    }
}

// ---- Who attends ------------------------------------------------------------------------------------------------
//
// A thread has rows lane / 4 and 8 below of its warp's sixteen; of scores and sums, columns 8j + 2q and the next,
// with q = lane % 4: [4j], [4j + 1] of the upper row, [4j + 2], [4j + 3] of the lower.

// This warp no longer reads a stage.
__device__ __forceinline__ void release(u32 free) {
    if (threadIdx.x % 32 == 0) barrier_arrive(free);
}

// The products of a unit's queries with the keys of a tile.
__device__ __forceinline__ void score(float (&scores)[KEYS / 2], u64 queries, u64 keys) {
#pragma unroll
    for (int i = 0; i < DIM / 16; i++)
        product_64(scores, moved(queries, i / 4 * QUERY_SLAB + i % 4 * 32), moved(keys, i / 4 * SLAB + i % 4 * 32),
                   i > 0);
    products_commit();
}

// More values into the sums.
__device__ __forceinline__ void mix(float (&mixed)[DIM / 2], const u32 (&weights)[KEYS / 4], u64 values) {
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++)
        product_128_registers_transposed(mixed, weights + 4 * i, moved(values, i * 16 * 128), 1);
    products_commit();
}

// What a thread knows of its two rows.
struct Rows {
    float level[2] = {BELOW_ALL, BELOW_ALL};  // weights are 2^(score - level)
    float total[2] = {0.0f, 0.0f};            // this thread's part of their sum
    float fade[2] = {1.0f, 1.0f};             // what the sums so far are multiplied with, when the level has risen
};

// Weights of a tile's scores over the level, and this thread's part of their sums.
__device__ __forceinline__ void weights_of(u32 (&weights)[KEYS / 4], float (&sum)[2], const float (&scores)[KEYS / 2],
                                           float scale, const Rows &rows) {
    float parts[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int j = 0; j < KEYS / 4; j++) {
        float pair[2];
        for (int k = 0; k < 2; k++) {
            pair[k] = power_of_two(fmaf(scores[2 * j + k], scale, -rows.level[j % 2]));
            parts[j % 2 * 2 + k] += pair[k];
        }
        weights[j] = pack_bf16(pair[0], pair[1]);
    }
    for (int i = 0; i < 2; i++) sum[i] = parts[2 * i] + parts[2 * i + 1];
}

// Scores become weights over the level, of the `left` tokens that count. The level is the largest score of the first
// tile, and stays, however far scores rise, until weights come near what float32 holds: bfloat16 has the same
// exponents, and what is stored is divided by the weights' sum. So of later tiles no largest is looked for; that
// their sum is small says enough. Where it is not, or no number, the scores are still there: the level rises, and
// the values so far are to fade. Whether any of the warp's do.
__device__ __forceinline__ bool weigh(u32 (&weights)[KEYS / 4], float (&scores)[KEYS / 2], int left, float scale,
                                      Rows &rows, bool first) {
    if (left < KEYS) {
        const int column = threadIdx.x % 4 * 2;
#pragma unroll
        for (int j = 0; j < KEYS / 2; j++)
            if (j / 4 * 8 + j % 2 >= left - column) scores[j] = -__int_as_float(0x7F800000);  // minus infinity
    }
    float sum[2];
    bool rises = first;
    if (!first) {
        weights_of(weights, sum, scores, scale, rows);
        rises = __any_sync(ALL_LANES, !(sum[0] + sum[1] < BOUND));
    }
    if (rises) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float pair[2] = {scores[2 * i], scores[2 * i + 1]};
#pragma unroll
            for (int j = 1; j < KEYS / 8; j++)
                for (int k = 0; k < 2; k++) pair[k] = fmaxf(pair[k], scores[4 * j + 2 * i + k]);
            const float higher = fmaxf(rows.level[i], largest_of_row(fmaxf(pair[0], pair[1]) * scale));
            rows.fade[i] = power_of_two(rows.level[i] - higher);
            rows.level[i] = higher;
            rows.total[i] *= rows.fade[i];
        }
        weights_of(weights, sum, scores, scale, rows);
    }
    for (int i = 0; i < 2; i++) rows.total[i] += sum[i];
    return rises;
}

__device__ __forceinline__ void group_sync(int group) { barrier_named(1 + group, 128); }

// The values behind a tile's last token may be anything, and zero times not a number is not zero. All groups write
// the same; none reads before it has written.
__device__ __forceinline__ void clear_values(u32 values, int seen, int group) {
#pragma unroll 1
    for (u32 at = seen * 128 + threadIdx.x % 128 * 16; at < SLAB; at += 128 * 16)
        for (int i = 0; i < 2; i++)
            asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(values + i * SLAB + at), "r"(0) : "memory");
    shared_is_written();
    group_sync(group);
}

// A unit's part of the result, by way of where the queries were. A lane names the row of one of four small matrices.
__device__ __forceinline__ void store(const TensorMap *parts, float *log_sums, const float (&mixed)[DIM / 2],
                                      const Rows &rows, const Unit &unit, const Work &work, u32 room, int group) {
    const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32, heads = gridDim.y * HEADS;
    const int token = blockIdx.z * work.candidates * WAYPOINTS + unit.row;
    float *log_sum = log_sums + (token + warp * 16 + lane / 4) * heads + unit.head;
    float share[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float sum = sum_of_row(rows.total[i]);
        share[i] = reciprocal(fmaxf(sum, 0.5f));  // the level's own weight is 1, or nothing has been seen
        if (lane % 4 == 0) log_sum[i * 8 * heads] = rows.level[i] + logarithm(sum);
    }
    group_sync(group);  // no warp's queries are read any more
    const int row = warp * 16 + (lane >> 3 & 1) * 8 + lane % 8;
#pragma unroll
    for (int j = 0; j < DIM / 8; j += 2) {
        u32 packed[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int here = 4 * j + 2 * i;
            packed[i] = pack_f16(mixed[here] * share[i % 2], mixed[here + 1] * share[i % 2]);
        }
        const int piece = (j + (lane >> 4)) % 8;
        store_matrices(room + j / 8 * QUERY_SLAB + row * 128 + ((piece ^ row % 8) * 16), packed[0], packed[1],
                       packed[2], packed[3]);
    }
    shared_is_written();
    group_sync(group);
    if (thread == 0) {
        for (int i = 0; i < 2; i++) store_tile(parts, unit.head * DIM + i * 64, token, room + i * QUERY_SLAB);
        stores_are_done();
    }
}

__device__ __forceinline__ void attend(const TensorMap *parts, float *log_sums, const Work &work, const Share &share,
                                       const Places &at, int group) {
    const Unit unit(group);
    const u64 queries = matrix_at<128>(at.queries(group), 16, 1024);
    const u64 keys = matrix_at<128>(at.keys(0), 16, 1024), values = matrix_at<128>(at.values(0), SLAB, 1024);
    float scores[KEYS / 2], mixed[DIM / 2];
    u32 weights[KEYS / 4], next[KEYS / 4];  // of the tile that is mixed, and of the one behind it
    Rows rows;
    bool first = true;
#pragma unroll
    for (int i = 0; i < DIM / 2; i++) mixed[i] = 0.0f;

    Spot spot;
    barrier_wait(at.queries_came(group), 0);
    // The prefix, then what is the candidates' own, of which one is the unit's.
    const int passes = share.last_piece ? 2 + share.last_candidate - share.first_candidate : 1;
#pragma unroll 1
    for (int pass = 0; pass < passes; pass++) {
        // left: tokens from here on, of the prefix; of the tail, then own ones.
        int count = share.end - share.first, left = share.length - share.first * KEYS;
        bool mine = unit.candidate < work.candidates;
        if (pass > 0) {
            const int candidate = share.first_candidate + pass - 1, tail = share.tail_of(candidate);
            count = tiles_of(tail) + OWN_TILES;
            left = tail > 0 ? tail : WAYPOINTS;
            mine = candidate == unit.candidate;
        }
        if (!mine) {
            // Another group waits for the values before it lets the place be filled again.
#pragma unroll 1
            for (int i = 0; i < count; i++) {
                barrier_wait(at.keys_came(spot.stage), spot.phase);
                release(at.free(spot.stage));
                spot.advance();
            }
            continue;
        }
        if (count == 0) continue;
        barrier_wait(at.keys_came(spot.stage), spot.phase);
        products_begin();
        score(scores, queries, moved(keys, spot.stage * TILE));
        products_wait<0>();
        keep(scores);
        int stage_before = 0;
#pragma unroll 1
        for (int i = 0;; i++) {
            // Meanwhile the values of the tile before are mixed. The branch keeps the compiler from waiting for them
            // first and weighing then.
            const bool rises = weigh(next, scores, left, work.scale, rows, first);
            first = false;
            keep(next);
            if (rises) {
                products_wait<0>();
                keep(mixed);
#pragma unroll
                for (int j = 0; j < DIM / 2; j++) mixed[j] *= rows.fade[j / 2 % 2];
            }
            products_wait<0>();
            keep(mixed);
            keep(weights);
            if (i > 0) release(at.free(stage_before));
#pragma unroll
            for (int j = 0; j < KEYS / 4; j++) weights[j] = next[j];
            barrier_wait(at.values_came(spot.stage), spot.phase);
            if (left < KEYS) clear_values(at.values(spot.stage), left, group);
            if (i == count - 1) break;
            left -= KEYS;
            if (left <= 0) left = WAYPOINTS;
            stage_before = spot.stage;
            spot.advance();
            barrier_wait(at.keys_came(spot.stage), spot.phase);
            products_begin();
            score(scores, queries, moved(keys, spot.stage * TILE));
            mix(mixed, weights, moved(values, stage_before * TILE));
            products_wait<1>();
            keep(scores);
        }
        products_begin();
        mix(mixed, weights, moved(values, spot.stage * TILE));
        products_wait<0>();
        keep(mixed);
        keep(weights);
        release(at.free(spot.stage));
        spot.advance();
    }
    if (unit.candidate < work.candidates) store(parts, log_sums, mixed, rows, unit, work, at.queries(group), group);
}

extern "C" __global__ void __launch_bounds__(128 * (GROUPS + 1), 1)
    expert_attention(const __grid_constant__ TensorMap queries, const __grid_constant__ TensorMap keys,
                     const __grid_constant__ TensorMap values, const __grid_constant__ TensorMap own_keys,
                     const __grid_constant__ TensorMap own_values, const __grid_constant__ TensorMap parts,
                     const int *prefix_length, const int *tail_sequence, const int *tail_length, float *log_sums,
                     const Work work) {
    extern __shared__ __align__(1024) char room[];
    const Places at{address_of(room)};
    // The same for all threads of a warp, which the compiler would not know.
    const int group = __shfl_sync(ALL_LANES, threadIdx.x / 128, 0);
    start_the_next();
    if (threadIdx.x == 128 * GROUPS) {
        prefetch_map(&keys);
        prefetch_map(&values);
        prefetch_map(&queries);
        for (int i = 0; i < GROUPS; i++) barrier_init(at.queries_came(i), 1);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(at.keys_came(i), 1);
            barrier_init(at.values_came(i), 1);
            barrier_init(at.free(i), 4 * GROUPS);
        }
        barriers_are_there();
    }
    const Share share(work, prefix_length, tail_length);
    __syncthreads();
    if (group == GROUPS) {
        give_registers<32>();
        if (threadIdx.x == 128 * GROUPS)
            bring(&queries, &keys, &values, &own_keys, &own_values, tail_sequence, tail_length, work, share, at);
    } else {
        take_registers<160>();
        attend(&parts, log_sums, work, share, at, group);
    }
}
