// Attention of single tokens over a paged cache, in shares that are merged (split-KV).
//
//   out[r, h] = sum over t < length[r] of softmax_t(scale * q[r, h] . k[t]) * v[t]
//
// Compiled with DIM (of a head; a multiple of 32, 256 at most), BFLOAT and CACHE8 (0 or 1) and
// WARPS. A block of threads has a row, up to eight query heads of one key head, and a share of the
// row's cache; its warps take the share's tiles, which are cache blocks of 16 tokens, in turns. The
// tensor cores multiply, since even one head of eight then costs fewer instructions than products
// of floats:
//
//   scores [16 tokens, 8 heads] = K [16, DIM] * q^T         out^T [DIM, 8] += V^T [DIM, 16] * p
//
// Both products may take their inner or outer dimensions in any order, so the order is one in
// which every lane reads 16 bytes of K and V straight from the cache: nothing passes through shared
// memory. In the names of the manual of mma.m16n8k16, `group` is lane / 4 and `member` lane % 4.
//
// With CACHE8 the cache holds int8 codes and a float scale for each token of each key head, and all
// products are of float16, which has every code exactly:
//
//   k[t] = key_scale[t] * code        v[t] = value_scale[t] * code
//
// The scale of a key is that of its score. That of a value goes into its weight before the second
// product; `attend` says why half precision is enough for that.

typedef unsigned int u32;
typedef unsigned short u16;

#define TILE 16                // tokens of a cache block
#define HEADS 8                // query heads that a block of threads computes at most
#define SHARES 32              // shares of a row at most
#define STEPS (DIM / 32)       // of the product over DIM, two mma each
#define PAIRS (DIM / 16)       // pairs of dimensions of V that a lane reads of one token
#define WIDE (DIM / 64 * 4)    // those of them in 16-byte reads; any others are read by 8 bytes
#define NOTHING (-__int_as_float(0x7F800000))
#define BFLOAT_INSIDE (BFLOAT && !CACHE8)  // what the tensor cores multiply

#if CACHE8
#define MOST 65504.0f          // that float16 has
typedef signed char number;  // of the cache
#else
typedef u16 number;
#endif

#define RESIDENT ((DIM > 128 ? 8 : 16) / WARPS)  // blocks of threads that are to fit at once

__device__ __forceinline__ u16 narrow(float value) {
  u16 half;
#if BFLOAT
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(half) : "f"(value));
#else
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
#endif
  return half;
}

__device__ __forceinline__ u32 narrow_pair(float low, float high) {
  u32 pair;
#if BFLOAT_INSIDE
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#else
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#endif
  return pair;
}

__device__ __forceinline__ float power_of_two(float exponent) {
  float value;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(exponent));
  return value;
}

__device__ __forceinline__ u32 transposed(u32 pair) {  // of the 8 x 8 halves of a warp
  u32 other;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(other) : "r"(pair));
  return other;
}

__device__ __forceinline__ void multiply(float* sums, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0,
                                         u32 b1) {
#if BFLOAT_INSIDE
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
      "{%0,%1,%2,%3};"
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
      "{%0,%1,%2,%3};"
#endif
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Zeros past the end of a row: what lies there may be no number, which no weight of zero removes.
__device__ __forceinline__ void read16(u32* words, const void* from, bool there) {
  asm volatile(
      "{ .reg .pred p; setp.ne.u32 p, %5, 0; mov.u32 %0, 0; mov.u32 %1, 0; mov.u32 %2, 0; "
      "mov.u32 %3, 0; @p ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4]; }"
      : "=&r"(words[0]), "=&r"(words[1]), "=&r"(words[2]), "=&r"(words[3])
      : "l"(from), "r"((u32)there));
}

__device__ __forceinline__ void read8(u32* words, const void* from, bool there) {
  asm volatile(
      "{ .reg .pred p; setp.ne.u32 p, %3, 0; mov.u32 %0, 0; mov.u32 %1, 0; "
      "@p ld.global.cg.v2.u32 {%0,%1}, [%2]; }"
      : "=&r"(words[0]), "=&r"(words[1])
      : "l"(from), "r"((u32)there));
}

#if CACHE8
__device__ __forceinline__ u32 read4(const void* from, bool there) {
  u32 word;
  asm volatile(
      "{ .reg .pred p; setp.ne.u32 p, %2, 0; mov.u32 %0, 0; @p ld.global.cg.u32 %0, [%1]; }"
      : "=&r"(word)
      : "l"(from), "r"((u32)there));
  return word;
}

__device__ __forceinline__ float log_of_two(float value) {
  float exponent;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(exponent) : "f"(value));
  return exponent;
}

// Bytes `first` and `first` + 1 of a word of codes + 128 as two codes: 1024 + byte is exact in
// float16, and made by its exponent alone.
__device__ __forceinline__ u32 two_codes(u32 word, int first) {
  u32 pair = __byte_perm(word, 0x64646464u, 0x4040u | first | (first + 1) << 8);
  asm("add.rn.f16x2 %0, %0, %1;" : "+r"(pair) : "r"(0xE480E480u));  // -1152
  return pair;
}

// The first of the eight dimensions of a query or a key that a lane multiplies in a step: two
// eights are one read of codes.
__device__ __forceinline__ int first_of_eight(int step, int member) {
  if (step < STEPS / 2 * 2) return step / 2 * 64 + member * 16 + step % 2 * 8;
  return step * 32 + member * 8;
}

// A pair of the query as float16, where bfloat16 reaches further.
__device__ __forceinline__ u32 pair_inside(u32 pair) {
#if BFLOAT
  float low = fminf(fmaxf(__uint_as_float(pair << 16), -MOST), MOST);
  float high = fminf(fmaxf(__uint_as_float(pair & 0xFFFF0000u), -MOST), MOST);
  return narrow_pair(low, high);
#else
  return pair;
#endif
}
#endif

__device__ __forceinline__ void wait_for_others() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ float largest_of_groups(float value) {
#pragma unroll
  for (int step = 4; step < 32; step <<= 1)
    value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFFu, value, step));
  return value;
}

__device__ __forceinline__ float sum_of_groups(float value) {
#pragma unroll
  for (int step = 4; step < 32; step <<= 1) value += __shfl_xor_sync(0xFFFFFFFFu, value, step);
  return value;
}

// The first of the two dimensions of V of which pair `pair` of a lane is.
__device__ __forceinline__ int dimension(int pair, int group) {
#if CACHE8  // a lane reads 16 bytes of each 128, and 8 and 4 of what is left
  int word = pair / 2, within = pair % 2 * 2;
  if (word < DIM / 128 * 4) return word / 4 * 128 + group * 16 + word % 4 * 4 + within;
  if (word < DIM / 64 * 2) return DIM / 128 * 128 + group * 8 + word % 2 * 4 + within;
  return DIM / 64 * 64 + group * 4 + within;
#else
  if (pair < WIDE) return pair / 4 * 64 + group * 8 + pair % 4 * 2;
  return WIDE * 16 + group * 4 + (pair - WIDE) * 2;
#endif
}

// What a warp has seen: for heads 2 * member and 2 * member + 1 the largest score and its lanes'
// sum of weights, and for pair i of dimensions d (first and second head) and d + 1 (again).
struct Seen {
  float largest[2], sum[2], out[PAIRS][4];
};

// Where a lane's part of a tile lies: its keys and values, and with CACHE8 their scales.
struct Tile {
  const number *keys, *values;
#if CACHE8
  const float *key_scales, *value_scales;
#endif
};

// One tile: `left` tokens of it are the row's.
__device__ __forceinline__ void attend(Seen& seen, const u32 (*q)[4], const Tile& tile, int left,
                                       int group, int member, float scale) {
#if CACHE8
  u32 near[STEPS][2], far[STEPS][2], v[4][PAIRS / 2];
#pragma unroll
  for (int s = 0; s < STEPS; s += 2) {
    const number* from = tile.keys + group * DIM + first_of_eight(s, member);
    if (s + 1 < STEPS) {
      read16(near[s], from, group < left);
      read16(far[s], from + 8 * DIM, group + 8 < left);
    } else {
      read8(near[s], from, group < left);
      read8(far[s], from + 8 * DIM, group + 8 < left);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
    int token = member * 2 + i / 2 * 8 + i % 2;
    const number* from = tile.values + token * DIM;
#pragma unroll
    for (int w = 0; w < DIM / 128 * 4; w += 4)
      read16(v[i] + w, from + dimension(2 * w, group), token < left);
    if (DIM % 128 >= 64)
      read8(v[i] + DIM / 128 * 4, from + dimension(DIM / 128 * 8, group), token < left);
    if (DIM % 64) v[i][PAIRS / 2 - 1] = read4(from + dimension(PAIRS - 2, group), token < left);
  }
  float key_scale[2], value_scale[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    int token = group + i * 8;
    key_scale[i] = __uint_as_float(read4(tile.key_scales + token, token < left)) * scale;
    value_scale[i] = __uint_as_float(read4(tile.value_scales + token, token < left));
  }
#else
  u32 near[STEPS][4], far[STEPS][4], v[4][PAIRS];
#pragma unroll
  for (int s = 0; s < STEPS; s++) {
    const number* from = tile.keys + group * DIM + s * 32 + member * 8;
    read16(near[s], from, group < left);
    read16(far[s], from + 8 * DIM, group + 8 < left);
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
    int token = member * 2 + i / 2 * 8 + i % 2;
    const number* from = tile.values + token * DIM;
#pragma unroll
    for (int w = 0; w < WIDE; w += 4)
      read16(v[i] + w, from + w * 16 + group * 8, token < left);
    if (WIDE < PAIRS) read8(v[i] + WIDE, from + WIDE * 16 + group * 4, token < left);
  }
#endif
  float scores[4] = {}, others[4] = {};  // two chains, since an mma waits for the one before it
#pragma unroll
  for (int s = 0; s < STEPS; s++) {
#if CACHE8
#pragma unroll
    for (int i = 0; i < 2; i++) {
      u32 here = near[s][i] ^ 0x80808080u, there = far[s][i] ^ 0x80808080u;
      multiply(i ? others : scores, two_codes(here, 0), two_codes(there, 0), two_codes(here, 2),
               two_codes(there, 2), q[s][2 * i], q[s][2 * i + 1]);
    }
#else
    multiply(scores, near[s][0], far[s][0], near[s][1], far[s][1], q[s][0], q[s][1]);
    multiply(others, near[s][2], far[s][2], near[s][3], far[s][3], q[s][2], q[s][3]);
#endif
  }
  // How heavy a token is in the second product, as a power of two: with CACHE8 its weight times the
  // scale of its value. All are relative to the heaviest, so that it is 1 whatever the scales are,
  // and what float16 cuts off is small beside it. (Relative to the largest weight, a token without
  // a value, which takes most of the attention in many models, would push the others below what
  // float16 has.) The weights themselves, whose sum is wanted, may be far from 1 then; they stay
  // float32.
  float heavy[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
#if CACHE8
    scores[i] = group + i / 2 * 8 < left ? (scores[i] + others[i]) * key_scale[i / 2] : NOTHING;
    heavy[i] = scores[i] + log_of_two(value_scale[i / 2]);
#else
    scores[i] = group + i / 2 * 8 < left ? (scores[i] + others[i]) * scale : NOTHING;
    heavy[i] = scores[i];
#endif
  }
  float fade[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    float largest = largest_of_groups(fmaxf(heavy[i], heavy[i + 2]));
    largest = fmaxf(seen.largest[i], largest);
    fade[i] = power_of_two(seen.largest[i] - largest);
    seen.largest[i] = largest;
    scores[i] = power_of_two(scores[i] - largest);
    scores[i + 2] = power_of_two(scores[i + 2] - largest);
    seen.sum[i] = seen.sum[i] * fade[i] + scores[i] + scores[i + 2];
#if CACHE8
    scores[i] *= value_scale[0];
    scores[i + 2] *= value_scale[1];
#endif
  }
  u32 first = transposed(narrow_pair(scores[0], scores[1]));
  u32 second = transposed(narrow_pair(scores[2], scores[3]));
#pragma unroll
  for (int w = 0; w < PAIRS; w++) {
    float* out = seen.out[w];
    out[0] *= fade[0], out[1] *= fade[1], out[2] *= fade[0], out[3] *= fade[1];
#if CACHE8
    u32 bytes = w % 2 ? 0x7362u : 0x5140u;  // of two tokens, in turns
    u32 near_two = __byte_perm(v[0][w / 2], v[1][w / 2], bytes) ^ 0x80808080u;
    u32 far_two = __byte_perm(v[2][w / 2], v[3][w / 2], bytes) ^ 0x80808080u;
    multiply(out, two_codes(near_two, 0), two_codes(near_two, 2), two_codes(far_two, 0),
             two_codes(far_two, 2), first, second);
#else
    multiply(out, __byte_perm(v[0][w], v[1][w], 0x5410), __byte_perm(v[0][w], v[1][w], 0x7632),
             __byte_perm(v[2][w], v[3][w], 0x5410), __byte_perm(v[2][w], v[3][w], 0x7632), first,
             second);
#endif
  }
}

// q, out [rows, heads, DIM]; keys, values [blocks, kv_heads, TILE, DIM]; tables [rows, stride];
// with CACHE8 key_scales and value_scales [blocks, kv_heads, TILE];
// grid (kv_heads * parts, rows, shares): the heads of a key head in `parts` of up to HEADS. A share
// is at least `least` tiles. partial [rows, heads, shares, DIM] and totals [rows, heads, shares]
// are what shares hand over, and `arrived` [rows, kv_heads * parts] counts them, zero in between.
extern "C" __global__ void __launch_bounds__(WARPS * 32, RESIDENT)
    attention(const u16* q, const number* keys, const number* values,
#if CACHE8
              const float* key_scales, const float* value_scales,
#endif
              const int* tables, const int* lengths, u16* out, float* partial, float2* totals,
              int* arrived, int stride, int heads, int kv_heads, int parts, int least,
              float scale) {
  extern __shared__ float merged[];  // [WARPS][each][DIM]
  __shared__ float2 seen_by[SHARES][HEADS];
  __shared__ int is_last;
  int row = blockIdx.y, kv_head = blockIdx.x / parts, part = blockIdx.x % parts;
  int share = blockIdx.z, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int group = lane / 4, member = lane % 4;
  int of_key = heads / kv_heads, each = (of_key + parts - 1) / parts;
  int count = min(each, of_key - part * each);
  size_t head = (size_t)row * heads + kv_head * of_key + part * each;  // the first one's place

  // Lengths and tables were written before the step's first kernel began, so they can be read before
  // the wait for the kernel before this one, which writes the queries and the last keys.
  int length = lengths[row];
  if (length <= 0) {
    wait_for_others();
    if (share == 0)
      for (int i = threadIdx.x; i < count * DIM; i += WARPS * 32) out[head * DIM + i] = 0;
    return;
  }
  int tiles = (length + TILE - 1) / TILE;
  int shares = max(1, min((int)gridDim.z, tiles / least));
  int tiles_each = (tiles + shares - 1) / shares;
  shares = (tiles + tiles_each - 1) / tiles_each;
  if (share >= shares) {
    wait_for_others();
    return;
  }
  int begin = share * tiles_each, end = min(begin + tiles_each, tiles);
  const int* table = tables + (size_t)row * stride;
  int block = begin + warp < end ? table[begin + warp] : 0;
  wait_for_others();

  u32 query[STEPS][4];
#pragma unroll
  for (int s = 0; s < STEPS; s++) {
#if CACHE8
    read16(query[s], q + (head + group) * DIM + first_of_eight(s, member), group < count);
#pragma unroll
    for (int i = 0; i < 4; i++) query[s][i] = pair_inside(query[s][i]);
#else
    read16(query[s], q + (head + group) * DIM + s * 32 + member * 8, group < count);
#endif
  }
  Seen seen = {{NOTHING, NOTHING}};
  for (int tile = begin + warp; tile < end; tile += WARPS) {
    int next = tile + WARPS < end ? table[tile + WARPS] : 0;
    size_t at = ((size_t)block * kv_heads + kv_head) * (TILE * DIM);
#if CACHE8
    Tile here = {keys + at, values + at, key_scales + at / DIM, value_scales + at / DIM};
#else
    Tile here = {keys + at, values + at};
#endif
    attend(seen, query, here, length - tile * TILE, group, member, scale);
    block = next;
  }
#pragma unroll
  for (int i = 0; i < 2; i++) {
    int which = member * 2 + i;
    float sum = sum_of_groups(seen.sum[i]);
    if (which >= count) continue;
    if (group == 0) seen_by[warp][which] = make_float2(seen.largest[i], sum);
#pragma unroll
    for (int w = 0; w < PAIRS; w++) {
      float2 two = make_float2(seen.out[w][i], seen.out[w][i + 2]);
      *(float2*)&merged[(warp * each + which) * DIM + dimension(w, group)] = two;
    }
  }
  __syncthreads();

  for (int i = threadIdx.x; i < count * DIM; i += WARPS * 32) {  // a warp without tiles has seen nothing
    int which = i / DIM;
    float largest = NOTHING, sum = 0.0f, value = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) largest = fmaxf(largest, seen_by[w][which].x);
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      float weight = power_of_two(seen_by[w][which].x - largest);
      sum += weight * seen_by[w][which].y;
      value += weight * merged[(w * each + which) * DIM + i % DIM];
    }
    if (shares == 1) {
      out[head * DIM + i] = narrow(value / sum);
    } else {
      size_t to = (head + which) * gridDim.z + share;
      partial[to * DIM + i % DIM] = value;
      if (i % DIM == 0) totals[to] = make_float2(largest, sum);
    }
  }
  if (shares == 1) return;

  // The share that arrives last merges all of them, in their order, so that sums are the same
  // whichever it is.
  __threadfence();
  __syncthreads();
  int* counter = arrived + row * gridDim.x + blockIdx.x;
  if (threadIdx.x == 0) is_last = atomicAdd(counter, 1) == shares - 1;
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  if (threadIdx.x == 0) *counter = 0;
  for (int i = threadIdx.x; i < count * shares; i += WARPS * 32)
    seen_by[i % shares][i / shares] = __ldcg(totals + (head + i / shares) * gridDim.z + i % shares);
  __syncthreads();
  for (int i = threadIdx.x; i < count * DIM; i += WARPS * 32) {
    int which = i / DIM;
    const float* from = partial + (head + which) * gridDim.z * DIM + i % DIM;
    float largest = NOTHING, sum = 0.0f, value = 0.0f;
    for (int s = 0; s < shares; s++) largest = fmaxf(largest, seen_by[s][which].x);
#pragma unroll 8
    for (int s = 0; s < shares; s++) {
      float weight = power_of_two(seen_by[s][which].x - largest);
      sum += weight * seen_by[s][which].y;
      value += weight * __ldcg(from + (size_t)s * DIM);
    }
    out[head * DIM + i] = narrow(value / sum);
  }
}
