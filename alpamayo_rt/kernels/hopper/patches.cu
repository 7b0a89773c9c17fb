// SPDX-License-Identifier: Apache-2.0
// Attention among the patches of an image, heads of 72 columns, from the joint product on.
//
// A block takes units: an image, a head, a part of its queries. All keys and values of the unit lie in shared
// memory, in chunks of 80 patches. One warp asks for tiles, three turn keys where they lie, and three groups of four
// warps attend, each for 64 queries at a time. Where a unit has too few queries for all three, the groups without
// turn keys as well.
//
// A chunk is nine slabs of 16 columns with 32-byte swizzle: values have the first five, keys the last five. The one
// in the middle has the last eight columns of both. There queries are zeros for what are values, so these add
// nothing to scores; were one of them not finite, no score would be. The keys' last columns first come to lie apart.
//
// Turned keys lie in another order than they came in, the same as that of queries in registers: lane q of four has
// the columns 4q.. and their partners 36 + 4q.. (two slabs), then 16 + 4q.. and 52 + 4q.. (two
// more), then 32 + q and 68 + q (the middle one). So a lane turns what it reads, whole 8 bytes at a time.
//
// Patches share angles: `table` has the distinct halves of their rows, `places` which two are a patch's. Both are
// copied to shared memory.
#include "parts.cuh"
#include "products.cuh"

namespace {

constexpr int DIM = 72, HALF = 36;
constexpr int CHUNK = 80, CHUNKS = 9;            // patches of a chunk; chunks that there is room for
constexpr int STEPS = 5;                         // of 16: columns of a head, and patches of a chunk
constexpr u32 SLAB_BYTES = CHUNK * 32;
constexpr u32 KEYS = 4 * SLAB_BYTES, APART = 9 * SLAB_BYTES;  // in a chunk; what lies apart has 16 bytes a patch
constexpr u32 CHUNK_BYTES = APART + SLAB_BYTES / 2;
constexpr int GROUPS = 3, QUERIES = 64;          // attending groups, and queries of each at a time
constexpr int THREADS = 128 * (1 + GROUPS);
constexpr int TURNERS = 3, TURNED = 8;           // turning warps, and keys of each at a time
constexpr int ROW_BYTES = HALF / 2 * 8, ROWS = 64;  // of the table: pairs of a cosine and a sine; room for rows
constexpr int REGISTERS_OF_THOSE_WHO_BRING = 80, REGISTERS_OF_THOSE_WHO_ATTEND = 144;
constexpr float SCALE = 0.17002828f;             // 72^-0.5 · log2(e)
constexpr float MARGIN = 8.0f;                   // weights stay below 2^MARGIN
constexpr float BELOW_ALL = -1e30f;              // scores

// Shared memory. Barriers of each chunk: all slabs of keys have come, keys are turned, the other slabs have come, all
// is free again.
struct Places {
    u32 chunks;
    __device__ __forceinline__ u32 chunk(int chunk) const { return chunks + chunk * CHUNK_BYTES; }
    __device__ __forceinline__ u32 barrier(int i) const { return chunks + CHUNKS * CHUNK_BYTES + i * 8; }
    __device__ __forceinline__ u32 came(int chunk) const { return barrier(chunk); }
    __device__ __forceinline__ u32 turned(int chunk) const { return barrier(CHUNKS + chunk); }
    __device__ __forceinline__ u32 value_came(int chunk) const { return barrier(2 * CHUNKS + chunk); }
    __device__ __forceinline__ u32 free(int chunk) const { return barrier(3 * CHUNKS + chunk); }
    __device__ __forceinline__ u32 table() const { return barrier(4 * CHUNKS); }
};

// The same for all blocks, see `patches.py`.
struct Work {
    int patches, heads, parts, size, units;  // size: queries of a part
    int chunks, groups, passes;              // groups that attend; how often, 64 queries each, until a part is done
    // At most one for each eight of a chunk.
    __device__ __forceinline__ int turners() const {
        return min(TURNERS + 4 * (GROUPS - groups), CHUNK / TURNED);
    }
    // Whether this block has an n-th unit.
    __device__ __forceinline__ bool has(int n) const { return blockIdx.x + n * gridDim.x < units; }
};

// The n-th unit of this block.
struct Unit {
    int row, head, first;  // first token of the image; first query
    __device__ __forceinline__ Unit(const Work &work, int n) {
        const int unit = blockIdx.x + n * gridDim.x, pair = unit / work.parts;
        first = (unit - pair * work.parts) * work.size;
        row = pair / work.heads * work.patches;
        head = pair % work.heads;
    }
    // Behind its last query.
    __device__ __forceinline__ int end(const Work &work) const { return min(first + work.size, work.patches); }
};

// ---- Memory, where the order of instructions is to stay ---------------------------------------------------------

// Queries, read once.
__device__ __forceinline__ void read_once_8(u32 &a, u32 &b, const char *at) {
    asm volatile("ld.global.L1::evict_first.v2.u32 {%0, %1}, [%2];" : "=r"(a), "=r"(b) : "l"(at) : "memory");
}
__device__ __forceinline__ void read_once_2(u32 &a, const char *at) {
    asm volatile("{ .reg .u16 v; ld.global.L1::evict_first.u16 v, [%1]; cvt.u32.u16 %0, v; }"
                 : "=r"(a)
                 : "l"(at)
                 : "memory");
}
__device__ __forceinline__ float4 read_shared_16(u32 at) {
    float4 v;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(at)
                 : "memory");
    return v;
}
__device__ __forceinline__ void read_shared_8(u32 &a, u32 &b, u32 at) {
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(a), "=r"(b) : "r"(at) : "memory");
}
__device__ __forceinline__ u32 read_shared_4(u32 at) {
    u32 v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
    return v;
}
__device__ __forceinline__ void read_shared_2(u32 &a, u32 at) {
    asm volatile("{ .reg .u16 v; ld.shared.u16 v, [%1]; cvt.u32.u16 %0, v; }" : "=r"(a) : "r"(at) : "memory");
}
__device__ __forceinline__ void write_shared_16(u32 at, const uint4 &v) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}
__device__ __forceinline__ void write_shared_4(u32 at, u32 v) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(at), "r"(v) : "memory");
}
__device__ __forceinline__ void write_global_16(char *at, const u32 (&v)[4]) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(at), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
                 : "memory");
}
__device__ __forceinline__ void write_global_4(char *at, u32 v) {
    asm volatile("st.global.u32 [%0], %1;" ::"l"(at), "r"(v) : "memory");
}
__device__ __forceinline__ void prefetch_global(const char *at) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at) : "memory");
}

// 0, which the compiler does not know. One that it knows it may make among products, which then wait for each other.
__device__ __forceinline__ u32 unknown_zero() {
    u32 y;
    asm volatile("mov.u32 %0, %%ctaid.y;" : "=r"(y));
    return y;
}

// ---- Rotary positions -------------------------------------------------------------------------------------------

// A lane's share of a row, in words: columns 4q.. (0, 1) and 16 + 4q.. (2, 3), their partners 36 further on (4 to 7);
// 32 + q (8) and 68 + q (9).
__device__ __forceinline__ void read_share(u32 *share, const char *row, int q) {
#pragma unroll
    for (int i = 0; i < 4; i++)
        read_once_8(share[2 * i], share[2 * i + 1], row + i / 2 * (2 * HALF) + i % 2 * 32 + 8 * q);
#pragma unroll
    for (int i = 0; i < 2; i++) read_once_2(share[8 + i], row + i * (2 * HALF) + 64 + 2 * q);
}

// The share's cosines and sines, one after the other.
struct Angles {
    float4 two[4];
    float2 last;
};

// In shared memory.
struct Tables {
    u32 table, places;
    __device__ __forceinline__ explicit Tables(const Places &at)
        : table(at.table()), places(at.table() + ROWS * ROW_BYTES) {}
    // All warps but the first; of a row, `places` then has what lies before it.
    __device__ __forceinline__ void copy(const uint4 *from_table, const int4 *from_places, int rows, int patches) {
        const int pieces = rows * (ROW_BYTES / 16), pairs = patches / 2;
#pragma unroll 1
        for (int i = threadIdx.x - 32; i < max(pieces, pairs); i += THREADS - 32) {
            const uint4 piece = i < pieces ? from_table[i] : uint4{};
            const int4 pair = i < pairs ? from_places[i] : int4{};
            if (i < pieces) write_shared_16(table + 16 * i, piece);
            if (i < pairs) {
                write_shared_4(places + 8 * i, pair.x * ROW_BYTES | pair.y * ROW_BYTES << 16);
                write_shared_4(places + 8 * i + 4, pair.z * ROW_BYTES | pair.w * ROW_BYTES << 16);
            }
        }
        barrier_named(1, THREADS - 32);
    }
    // A patch's two rows.
    __device__ __forceinline__ u32 of(int patch) const { return read_shared_4(places + 4 * patch); }
    __device__ __forceinline__ void read(Angles &angles, u32 rows, int q) const {
        const u32 one = table + (rows & 0xFFFF), other = table + (rows >> 16);
        angles.two[0] = read_shared_16(one + 32 * q);
        angles.two[1] = read_shared_16(one + 32 * q + 16);
        angles.two[2] = read_shared_16(q ? other + 32 * q - 16 : one + 128);
        angles.two[3] = read_shared_16(other + 32 * q);
        u32 last[2];
        read_shared_8(last[0], last[1], other + 112 + 8 * q);
        angles.last = make_float2(__uint_as_float(last[0]), __uint_as_float(last[1]));
    }
};

// The difference and the sum of products, each rounded as the twin rounds.
__device__ __forceinline__ float turned_first(float a, float b, float c, float s) {
    return __fsub_rn(__fmul_rn(a, c), __fmul_rn(b, s));
}
__device__ __forceinline__ float turned_second(float a, float b, float c, float s) {
    return __fadd_rn(__fmul_rn(b, c), __fmul_rn(a, s));
}

// words: two for each of the last four slabs (slots 2q.. and 8 + 2q..), and one for the middle one (8 + 2q..).
__device__ __forceinline__ void turn_share(const u32 *share, const Angles &angles, u32 (&words)[9]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float a0 = low_bf16(share[i]), a1 = high_bf16(share[i]);
        const float b0 = low_bf16(share[4 + i]), b1 = high_bf16(share[4 + i]);
        const float4 t = angles.two[i];
        const int at = i / 2 * 4 + i % 2;
        words[at] = pack_bf16(turned_first(a0, b0, t.x, t.y), turned_first(a1, b1, t.z, t.w));
        words[at + 2] = pack_bf16(turned_second(a0, b0, t.x, t.y), turned_second(a1, b1, t.z, t.w));
    }
    const float a = low_bf16(share[8]), b = low_bf16(share[9]);
    words[8] = pack_bf16(turned_first(a, b, angles.last.x, angles.last.y),
                         turned_second(a, b, angles.last.x, angles.last.y));
}

// ---- Who brings -------------------------------------------------------------------------------------------------

// One thread: keys and values of all units, each chunk as soon as it is free. The middle slab comes with the values'
// last columns and, where the keys' are to be, what lies behind them.
__device__ __forceinline__ void bring(const TensorMap *slabs, const TensorMap *last, const Work &work,
                                      const Places &at) {
    const int width = work.heads * DIM;
    for (int n = 0; work.has(n); n++) {
        const Unit unit(work, n);
        const int keys = width + unit.head * DIM, values = width + keys;
#pragma unroll 1
        for (int chunk = 0; chunk < work.chunks; chunk++) {
            const int row = unit.row + chunk * CHUNK;
            const u32 to = at.chunk(chunk), came = at.came(chunk), value_came = at.value_came(chunk);
            barrier_wait(at.free(chunk), (n + 1) & 1);
            barrier_expect(came, CHUNK_BYTES - KEYS);
#pragma unroll
            for (int i = 0; i < 4; i++) load_tile(to + KEYS + (1 + i) * SLAB_BYTES, slabs, keys + 16 * i, row, came);
            load_tile(to + APART, last, keys + 64, row, came);
            load_tile(to + KEYS, slabs, values + 64, row, came);
            barrier_expect(value_came, KEYS);
#pragma unroll
            for (int i = 0; i < 4; i++) load_tile(to + i * SLAB_BYTES, slabs, values + 16 * i, row, value_came);
        }
    }
}

// A warp of the turners: its share of the eights of keys of all units, where they lie.
__device__ __forceinline__ void turn_keys(const Work &work, const Places &at, const Tables &tables, int turner) {
    const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
    const u32 flip = (r >> 2) << 4;  // of the two halves of a slab's row
    const int turners = work.turners();
    if (turner >= turners) return;
    // Where column c of a row has come to lie, from the row's 32 bytes in the middle slab.
    auto place = [&](int column) {
        const u32 byte = 2 * column;
        return (1 + (byte >> 5)) * SLAB_BYTES + ((byte & 31) ^ flip) + r * 32;
    };
    auto apart = [&](int column) { return APART - KEYS + r * 16 + 2 * (column - 64); };
    const u32 columns[3] = {place(4 * q), place(16 + 4 * q), place(HALF + 4 * q)};
    const u32 fourth = q < 3 ? place(HALF + 16 + 4 * q) : apart(64), fourth_step = q < 3 ? TURNED * 32 : TURNED * 16;
    const u32 last[2] = {place(32 + q), apart(HALF + 32 + q)};
    const u32 low = r * 32 + flip + 4 * q, high = r * 32 + (flip ^ 16) + 4 * q;
    // Eights of a chunk, other ones in the next, as ten are no multiple of three.
    auto first = [&](int chunk) { return (turner + chunk) % turners; };
    int next_chunk = 0, next_inside = turner;
    auto next_rows = [&] {
        next_inside += turners;
        if (next_inside >= CHUNK / TURNED) {
            next_chunk = next_chunk + 1 < work.chunks ? next_chunk + 1 : 0;
            next_inside = first(next_chunk);
        }
        return tables.of(next_chunk * CHUNK + next_inside * TURNED + r);
    };
    Angles angles;
    tables.read(angles, tables.of(turner * TURNED + r), q);
    u32 rows = next_rows();  // of the next eight's angles
    for (int n = 0; work.has(n); n++) {
        for (int chunk = 0; chunk < work.chunks; chunk++) {
            barrier_wait(at.came(chunk), n & 1);
            for (int inside = first(chunk); inside < CHUNK / TURNED; inside += turners) {
                const u32 start = at.chunk(chunk) + KEYS, keys = start + inside * (TURNED * 32);
                u32 share[10], words[9];
#pragma unroll
                for (int i = 0; i < 3; i++) read_shared_8(share[2 * i], share[2 * i + 1], keys + columns[i]);
                read_shared_8(share[6], share[7], start + inside * fourth_step + fourth);
                read_shared_2(share[8], keys + last[0]);
                read_shared_2(share[9], start + inside * (TURNED * 16) + last[1]);
                turn_share(share, angles, words);
                tables.read(angles, rows, q);
                rows = next_rows();
                __syncwarp();  // all lanes have read their rows
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    write_shared_4(keys + (1 + i) * SLAB_BYTES + low, words[2 * i]);
                    write_shared_4(keys + (1 + i) * SLAB_BYTES + high, words[2 * i + 1]);
                }
                write_shared_4(keys + high, words[8]);
            }
            shared_is_written();
            __syncwarp();
            if (lane == 0) barrier_arrive(at.turned(chunk));
        }
    }
}

// ---- Who attends ------------------------------------------------------------------------------------------------

// A thread has rows lane / 4 and 8 below of its warp's sixteen; of scores and sums, columns 8j + 2q and the next:
// [4j], [4j + 1] of the upper row, [4j + 2], [4j + 3] of the lower.
struct Rows {
    int row[2];  // of qkv and out
    int patch[2];
    bool inside[2];
    int head, q;
    // Found anew each time, for registers are short in between.
    __device__ __forceinline__ Rows(const Work &work, const Unit &unit, int pass) {
        int thread;
        asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread), "+r"(pass));
        const int end = unit.end(work), first = unit.first + pass * (work.groups * QUERIES);
        const int lane = thread % 32;
        head = unit.head, q = lane % 4;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int here = first + (thread / 32 - 4) * 16 + lane / 4 + 8 * i;
            inside[i] = here < end;
            patch[i] = min(here, end - 1);
            row[i] = unit.row + patch[i];
        }
    }
    __device__ __forceinline__ const char *query(const char *qkv, const Work &work, int i) const {
        return qkv + ((long long)row[i] * (3 * work.heads) + head) * (2 * DIM);
    }
    __device__ __forceinline__ char *target(char *out, const Work &work, int i) const {
        return out + ((long long)row[i] * work.heads + head) * (2 * DIM);
    }
};

// The level rises only where a score lies far above it; then the sums so far are to `fade`. Whether any of the
// warp's does.
__device__ __forceinline__ bool raise(const float (&scores)[CHUNK / 2], float (&level)[2], float (&total)[2],
                                      float (&fade)[2]) {
    float most[2][2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        most[i][0] = scores[2 * i], most[i][1] = scores[2 * i + 1];
#pragma unroll
        for (int j = 1; j < CHUNK / 8; j++)
#pragma unroll
            for (int k = 0; k < 2; k++) most[i][k] = fmaxf(most[i][k], scores[4 * j + 2 * i + k]);
        most[i][0] = fmaxf(most[i][0], most[i][1]) * SCALE;
        fade[i] = 1.0f;
    }
    const bool rises = __any_sync(~0u, most[0][0] > level[0] + MARGIN || most[1][0] > level[1] + MARGIN);
    if (rises) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float higher = fmaxf(level[i], largest_of_row(most[i][0]));
            fade[i] = power_of_two(level[i] - higher);
            level[i] = higher;
            total[i] *= fade[i];
        }
    }
    return rises;
}

// Scores become weights over `level`; whether that rose.
__device__ __forceinline__ bool weigh(float (&scores)[CHUNK / 2], float (&level)[2], float (&total)[2],
                                      float (&fade)[2]) {
    const bool rises = raise(scores, level, total, fade);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float sum[2] = {0.0f, 0.0f};
#pragma unroll
        for (int j = 0; j < CHUNK / 8; j++)
#pragma unroll
            for (int k = 0; k < 2; k++) {
                float &x = scores[4 * j + 2 * i + k];
                x = power_of_two(fmaf(x, SCALE, -level[i]));
                sum[k] += x;
            }
        total[i] += sum[0] + sum[1];
    }
    return rises;
}

__device__ __forceinline__ void pack_weights(const float (&weights)[CHUNK / 2], u32 (&packed)[CHUNK / 4]) {
#pragma unroll
    for (int i = 0; i < CHUNK / 4; i++) packed[i] = pack_bf16(weights[2 * i], weights[2 * i + 1]);
}

__device__ __forceinline__ void score(float (&scores)[CHUNK / 2], const u32 (&queries)[4 * STEPS], u64 keys) {
#pragma unroll
    for (int i = 0; i < STEPS; i++)
        product_80_registers(scores, queries + 4 * i, keys + i * (SLAB_BYTES >> 4), i > 0);
    products_commit();
}

__device__ __forceinline__ void mix(float (&mixed)[DIM / 2], const u32 (&weights)[CHUNK / 4], u64 values, bool more) {
#pragma unroll
    for (int i = 0; i < STEPS; i++)
        product_72_registers_transposed(mixed, weights + 4 * i, values + i * (16 * 32 >> 4), i > 0 || more);
    products_commit();
}

// Scores that have come become weights, while products are under way; then those are at their end.
__device__ __forceinline__ void weigh_meanwhile(float (&scores)[CHUNK / 2], float (&level)[2], float (&total)[2],
                                                float (&mixed)[DIM / 2]) {
    keep(scores);  // products are asked for first
    float fade[2];
    const bool rises = weigh(scores, level, total, fade);
    keep(scores);
    // The branch keeps the compiler from waiting first and weighing then.
    if (rises) {
        products_wait<0>();
        keep(mixed);
#pragma unroll
        for (int i = 0; i < DIM / 2; i++) mixed[i] *= fade[i / 2 % 2];
    }
    products_wait<0>();
    keep(mixed);
}

__device__ __forceinline__ void write_rows(const float (&mixed)[DIM / 2], const float (&total)[2], const Rows &rows,
                                           char *out, const Work &work) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float share = reciprocal(sum_of_row(total[i]));
        char *target = rows.target(out, work, i);
        auto word = [&](int j) { return pack_bf16(mixed[4 * j + 2 * i] * share, mixed[4 * j + 2 * i + 1] * share); };
#pragma unroll
        for (int j = 0; j < 2; j++) {
            u32 parts[4] = {word(4 * j), word(4 * j + 1), word(4 * j + 2), word(4 * j + 3)};
            ::turn(parts, rows.q);
            if (rows.inside[i]) write_global_16(target + 64 * j + 16 * rows.q, parts);
        }
        if (rows.inside[i]) write_global_4(target + 128 + 4 * rows.q, word(8));
    }
}

// 64 queries of a group over all chunks of their unit. The last product is left under way. Once the last scores are
// there, `fetch` gets the next queries into the registers of these.
template <typename Fetch>
__device__ __forceinline__ void walk(float (&mixed)[DIM / 2], float (&total)[2], u32 (&weights)[CHUNK / 4],
                                     u32 (&queries)[4 * STEPS], const Places &at, const Work &work, int n, int pass,
                                     const Fetch &fetch) {
    // What is summed over for scores lies side by side in keys; in values, below one another.
    u64 keys = matrix_at<32>(at.chunk(0) + KEYS, 16, 256), values = matrix_at<32>(at.chunk(0), SLAB_BYTES, 256);
    constexpr int PER_CHUNK = CHUNK_BYTES >> 4;
    float scores[CHUNK / 2], level[2] = {BELOW_ALL, BELOW_ALL}, fade[2];
    total[0] = total[1] = 0.0f;
    if (pass == 0) barrier_wait(at.turned(0), n & 1);
    keep(queries);
    products_begin();
    score(scores, queries, keys);
    products_wait<0>();
    keep(scores);
    if (work.chunks == 1) fetch();
    weigh(scores, level, total, fade);
    pack_weights(scores, weights);
#pragma unroll 1
    for (int chunk = 1; chunk < work.chunks; chunk++) {
        keys += PER_CHUNK;
        if (pass == 0) {
            barrier_wait(at.turned(chunk), n & 1);
            barrier_wait(at.value_came(chunk - 1), n & 1);
        }
        products_begin();
        score(scores, queries, keys);
        mix(mixed, weights, values, chunk > 1);
        values += PER_CHUNK;
        products_wait<1>();
        keep(scores);
        if (chunk == work.chunks - 1) fetch();
        weigh_meanwhile(scores, level, total, mixed);
        keep(weights);
        if (pass == work.passes - 1 && threadIdx.x % 32 == 0) barrier_arrive(at.free(chunk - 1));
        pack_weights(scores, weights);
    }
    if (pass == 0) barrier_wait(at.value_came(work.chunks - 1), n & 1);
    products_begin();
    mix(mixed, weights, values, work.chunks > 1);
}

// A group of four warps: all units of the block, its share of the queries of each.
__device__ __forceinline__ void attend(const char *qkv, const Tables &tables, char *out, const Work &work,
                                       const Places &at, int group) {
    u32 queries[4 * STEPS];  // as `read_share` makes them, then as the matrix unit wants them
    Angles angles[2];
    auto fetch_queries = [&](const Unit &unit, int pass) {
        const Rows rows(work, unit, pass);
#pragma unroll
        for (int i = 0; i < 2; i++) read_share(queries + 10 * i, rows.query(qkv, work, i), rows.q);
    };
    auto fetch_angles = [&](const Unit &unit, int pass) {
        const Rows rows(work, unit, pass);
        const u32 places[2] = {tables.of(rows.patch[0]), tables.of(rows.patch[1])};
#pragma unroll
        for (int i = 0; i < 2; i++) tables.read(angles[i], places[i], rows.q);
    };
    Unit unit(work, 0), next = unit;
    fetch_queries(unit, 0);
    fetch_angles(unit, 0);
    for (int n = 0, pass = 0; work.has(n);) {
        u32 words[2][9];
#pragma unroll
        for (int i = 0; i < 2; i++) turn_share(queries + 10 * i, angles[i], words[i]);
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int j = 0; j < 8; j++) queries[4 + j / 2 * 4 + j % 2 * 2 + i] = words[i][j];
            queries[i] = unknown_zero(), queries[2 + i] = words[i][8];  // the middle slab: values, keys
        }
        // What comes after this; after the last, anything.
        const bool closes = pass == work.passes - 1;
        const int next_pass = closes ? 0 : pass + 1;
        if (closes && work.has(n + 1)) next = Unit(work, n + 1);
        const Rows ahead(work, next, next_pass);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            prefetch_global(ahead.query(qkv, work, i) + 32 * ahead.q);
            prefetch_global(ahead.query(qkv, work, i) + 128);
        }
        if (unit.first + (pass * work.groups + group) * QUERIES < unit.end(work)) {
            float mixed[DIM / 2], total[2];
            u32 weights[CHUNK / 4];
            walk(mixed, total, weights, queries, at, work, n, pass, [&] { fetch_queries(next, next_pass); });
            products_wait<0>();
            keep(mixed);
            keep(weights);
            if (closes && threadIdx.x % 32 == 0) barrier_arrive(at.free(work.chunks - 1));
            fetch_angles(next, next_pass);
            write_rows(mixed, total, Rows(work, unit, pass), out, work);
        } else {  // the others only
            for (int chunk = 0; chunk < work.chunks; chunk++) {
                if (!closes) continue;
                barrier_wait(at.turned(chunk), n & 1);
                if (threadIdx.x % 32 == 0) barrier_arrive(at.free(chunk));
            }
            fetch_queries(next, next_pass);
            fetch_angles(next, next_pass);
        }
        n += closes, pass = next_pass, unit = next;
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    patch_attention(const __grid_constant__ TensorMap slabs, const __grid_constant__ TensorMap last, const char *qkv,
                    const uint4 *table, const int4 *places, char *out, int rows, int patches, int heads, int parts,
                    int size, int units, int chunks, int groups, int passes) {
    extern __shared__ char shared[];
    const Places at{(address_of(shared) + 255) & ~255u};
    const Work work{patches, heads, parts, size, units, chunks, groups, passes};
    Tables tables(at);
    const int group = __shfl_sync(~0u, threadIdx.x / 128, 0), warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
    if (threadIdx.x == 0) {
        prefetch_map(&slabs);
        prefetch_map(&last);
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            barrier_init(at.came(chunk), 1);
            barrier_init(at.turned(chunk), work.turners());
            barrier_init(at.value_came(chunk), 1);
            barrier_init(at.free(chunk), 4 * groups);
        }
        barriers_are_there();
    }
    __syncthreads();
    wait_for_the_kernel_before();
    start_the_next();
    if (warp > 0) tables.copy(table, places, rows, patches);
    if (group == 0) {
        give_registers<REGISTERS_OF_THOSE_WHO_BRING>();
        if (warp > 0)
            turn_keys(work, at, tables, warp - 1);
        else if (threadIdx.x == 0)
            bring(&slabs, &last, work, at);
    } else {
        take_registers<REGISTERS_OF_THOSE_WHO_ATTEND>();
        if (group <= groups)
            attend(qkv, tables, out, work, at, group - 1);
        else
            turn_keys(work, at, tables, TURNERS + warp - 4 * (1 + groups));
    }
}
