// y = x Wᵀ for up to 8 * NT rows of x, with W in tiles as product.py packs them.
//
//   y[m, n] = sum over groups j of scale[n, j] * sum over k in j of x[m, k] * (code[n, k] - zero[n, j])
//
// W is the left operand of the tensor cores (16 outputs of 16 inputs each) and x the right one (8
// rows), so that a single row uses them too: a product of floats takes some four instructions a
// weight, and this takes one and a half.
//
// There are as many blocks as the card holds at once, and each goes through its share of the
// outputs. A warp has 16 outputs at a time and a part of the inputs, and the parts are added up in
// shared memory. Its weights come through a ring of DEPTH tiles that copies on by itself, also
// from one 16 outputs to the next, and before the kernel waits for the one that makes x: so
// memory is never idle. x lies in shared memory, normalised where that is asked for, if it fits.
//
// With LORA, t Bᵀ is added before the epilogue: t [rows, 16 * chunks] is what shrink.cu makes, and B
// [outputs, 16 * chunks] lies as the tensor cores want it, so that it is a few inputs more.
//
// Compiled with BITS (4, 8), BFLOAT, NT (1, 2, 4), WN and WK (warps along outputs and inputs),
// DEPTH, SHARED_X, NORM (only with SHARED_X), EPILOGUE, ZEROS, BIAS, LORA, HEAD_DIM, and
// GROUP_TILES, the tiles of a group (0 where a group is half a tile).

typedef unsigned int u32;
typedef unsigned short u16;

#define PLAIN 0
#define ADD 1     // y += product
#define SWIGLU 2  // y[n / 2] = silu(gate) * up, of outputs that lie 8 apart
#define ROPE 3    // queries turned into y, keys turned and values as they are into the cache

#define WORDS (BITS / 4)  // 16-byte words of a tile for each lane
#define MIDDLE (1 << (BITS - 1))
#define TILE 64  // inputs of a tile
#if GROUP_TILES
#define GROUP_AT(tile, half) ((unsigned)(tile) / GROUP_TILES)
#else
#define GROUP_AT(tile, half) (2 * (tile) + (half))
#endif
#define BLOCK 16 // tokens of a block of the cache

__device__ __forceinline__ float wide(u16 half) {
#if BFLOAT
  return __uint_as_float((u32)half << 16);
#else
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
#endif
}

__device__ __forceinline__ float half_wide(u16 half) {  // scales and zero points are float16 always
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
}

__device__ __forceinline__ u16 narrow(float value) {
  u16 half;
#if BFLOAT
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(half) : "f"(value));
#else
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
#endif
  return half;
}

__device__ __forceinline__ u32 fma2(u32 a, u32 b, u32 c) {
  u32 d;
#if BFLOAT
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
#else
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
#endif
  return d;
}

__device__ __forceinline__ u32 mul2(u32 a, u32 b) { return fma2(a, b, 0x80008000u); }

__device__ __forceinline__ void mma(float* c, const u32* a, u32 b0, u32 b1) {
#if BFLOAT
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#else
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#endif
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// What decoding takes, in registers: left to itself, the compiler moves each constant there anew.
struct Constants {
  u32 low, high, magic, one, sixteenth, minus, minus_high;
  __device__ __forceinline__ Constants() {
#if BFLOAT
    low = 0x000F000Fu, magic = 0x43004300u, one = 0x3F803F80u, minus = 0xC308C308u;  // -136
#else
    low = 0x000F000Fu, high = 0x00F000F0u, magic = 0x64006400u;
    one = 0x3C003C00u, sixteenth = 0x2C002C00u;
    minus = BITS == 4 ? 0xE408E408u : 0xE480E480u, minus_high = 0xD480D480u;  // -1032 or -1152, -72
#endif
    asm volatile("" : "+r"(low), "+r"(high), "+r"(magic), "+r"(one), "+r"(sixteenth), "+r"(minus), "+r"(minus_high));
  }
};

__device__ __forceinline__ u32 masked(u32 word, u32 mask, u32 bits) {  // word & mask | bits
  u32 result;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(result) : "r"(word), "r"(mask), "r"(bits));
  return result;
}

// The eight codes of one step, less MIDDLE, as the four registers of the left operand.
#if BITS == 4
__device__ __forceinline__ void decode(const u32* words, int step, u32* a, const Constants& with) {
  u32 word = words[step];
#if BFLOAT  // 128 + code is exact; the exponent of 128 makes it
#pragma unroll
  for (int i = 0; i < 4; i++) a[i] = fma2(masked(word >> (4 * i), with.low, with.magic), with.one, with.minus);
#else  // 1024 + code, and 1024 + 16 code, are exact
  u32 high = word >> 8;
  a[0] = fma2(masked(word, with.low, with.magic), with.one, with.minus);
  a[1] = fma2(masked(word, with.high, with.magic), with.sixteenth, with.minus_high);
  a[2] = fma2(masked(high, with.low, with.magic), with.one, with.minus);
  a[3] = fma2(masked(high, with.high, with.magic), with.sixteenth, with.minus_high);
#endif
}
#else
__device__ __forceinline__ u32 two(u32 word, int first, const Constants& with) {
#if BFLOAT
  float low = __uint_as_float(__byte_perm(word, 0x4B000000u, 0x7540u | first)) - 8388736.0f;
  float high = __uint_as_float(__byte_perm(word, 0x4B000000u, 0x7540u | (first + 1))) - 8388736.0f;
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return fma2(__byte_perm(word, with.magic, 0x5050u | first | (first + 1) << 8), with.one, with.minus);
#endif
}

__device__ __forceinline__ void decode(const u32* words, int step, u32* a, const Constants& with) {
  u32 first = words[2 * step], second = words[2 * step + 1];
  a[0] = two(first, 0, with);
  a[1] = two(second, 0, with);
  a[2] = two(first, 2, with);
  a[3] = two(second, 2, with);
}
#endif

#define SCALES (GROUP_TILES ? 1 : 2)  // of a tile, for each output
#define STAGE (WORDS * 512 + SCALES * (1 + ZEROS) * 128)  // bytes of a tile in a warp's ring
#define WARPS (WN * WK)

__device__ __forceinline__ u32 address(const void* shared) {
  return (u32)__cvta_generic_to_shared(shared);
}

__device__ __forceinline__ void copy16(u32 to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

__device__ __forceinline__ void copy4(u32 to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}

__device__ __forceinline__ u32 load4(u32 from) {
  u32 value;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(from) : "memory");
  return value;
}

__device__ __forceinline__ uint4 load16(u32 from) {
  uint4 value;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w) : "r"(from) : "memory");
  return value;
}

// The argument `zeros` and others may be anything where the kernel is compiled without them.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
product(const uint4* __restrict__ weight, const u32* __restrict__ scales, const u32* __restrict__ zeros,
        const u16* __restrict__ bias, const u16* x, const u16* __restrict__ gamma, u16* y,
        const float* __restrict__ cos_sin, const int* positions, const int* slots, u16* keys, u16* values,
        const u16* lora_t, const uint4* __restrict__ lora_b,
        int K, int N, int groups, int rows, int heads, int kv_heads, int chunks, float eps) {
  extern __shared__ uint4 memory[];  // the rings, then the parts, then x
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int g = lane >> 2, q = lane & 3;
  const int along_n = warp % WN, along_k = warp / WN;
  const int tiles = K / TILE, all_n = N / 16;
  const int begin = tiles * along_k / WK, end = tiles * (along_k + 1) / WK;
  const int turns = ((all_n + WN - 1) / WN - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x;
  float (*parts)[WK][WN][NT][4][32] = (float (*)[WK][WN][NT][4][32])((char*)memory + WARPS * DEPTH * STAGE);
  uint4* shared_x = (uint4*)(parts + 2);

  // A warp copies its own part of the stage and reads it again, lane by lane. Everything moves on
  // by additions, since a product of addresses would be most of the work.
  u32 ring_at = address(memory) + warp * DEPTH * STAGE + lane * 16;
  u32 ring_scales = address(memory) + warp * DEPTH * STAGE + WORDS * 512 + lane * 4;
  asm volatile("" : "+r"(ring_at), "+r"(ring_scales));  // else they are computed for each tile
  int fetch_turn = 0, fetch_at = begin;
  const uint4* from = nullptr;
  const u32* from_scales = nullptr;
#if ZEROS
  const u32* from_zeros = nullptr;
#endif
  auto begin_turn = [&]() {
    int tile_n = min(((int)blockIdx.x + fetch_turn * (int)gridDim.x) * WN + along_n, all_n - 1);
    fetch_at = begin;
    if (begin == end) fetch_turn = turns;
    from = weight + ((size_t)tile_n * tiles + begin) * WORDS * 32 + lane;
    from_scales = scales + (size_t)tile_n * groups * 8 + g;
#if ZEROS
    from_zeros = zeros + (size_t)tile_n * groups * 8 + g;
#endif
  };
  auto fetch = [&](u32 offset) {
    if (fetch_turn < turns) {
#pragma unroll
      for (int i = 0; i < WORDS; i++) copy16(ring_at + offset + i * 512, from + i * 32);
#pragma unroll
      for (int i = 0; i < SCALES; i++) {
        u32 group = GROUP_AT(fetch_at, i) * 8;
        copy4(ring_scales + offset + i * 128, from_scales + group);
#if ZEROS
        copy4(ring_scales + offset + (SCALES + i) * 128, from_zeros + group);
#endif
      }
      from += WORDS * 32;
      if (++fetch_at == end) {
        fetch_turn++;
        begin_turn();
      }
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  };

  begin_turn();
#pragma unroll
  for (int d = 0; d < DEPTH; d++) fetch(d * STAGE);
#if NORM  // also before the wait: these are weights
  uint4 first_gamma = make_uint4(0, 0, 0, 0);
  if (threadIdx.x < K / 8) first_gamma = __ldg((const uint4*)gamma + threadIdx.x);
#endif

#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;");
#endif

#if SHARED_X
  __shared__ uint4 nothing;
  if (threadIdx.x == 0) nothing = make_uint4(0, 0, 0, 0);
#if NORM
  __shared__ float squares[8 * NT][WARPS];
#endif
  // Each thread writes the same eights of x that it reads again, so the barrier is for the sums.
  for (int m = 0; m < rows; m++) {
    float sum = 0.0f;
    for (int c = threadIdx.x; c < K / 8; c += WARPS * 32) {
      uint4 eight = *((const uint4*)(x + (size_t)m * K) + c);
      shared_x[((c >> 2) * rows + m) * 4 + (c & 3)] = eight;
#if NORM
      const u16* halves = (const u16*)&eight;
#pragma unroll
      for (int i = 0; i < 8; i++) sum += wide(halves[i]) * wide(halves[i]);
#endif
    }
#if NORM
#pragma unroll
    for (int step = 16; step; step >>= 1) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, step);
    if (lane == 0) squares[m][warp] = sum;
#endif
  }
  __syncthreads();
#if NORM
  for (int m = 0; m < rows; m++) {
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) sum += squares[m][w];
    float factor = rsqrtf(sum / K + eps);
    for (int c = threadIdx.x; c < K / 8; c += WARPS * 32) {
      uint4 weights = c < WARPS * 32 ? first_gamma : __ldg((const uint4*)gamma + c);
      uint4 eight = shared_x[((c >> 2) * rows + m) * 4 + (c & 3)];
      u16* halves = (u16*)&eight;
      const u16* gammas = (const u16*)&weights;
#pragma unroll
      for (int i = 0; i < 8; i++)
        halves[i] = narrow(wide(narrow(wide(halves[i]) * factor)) * wide(gammas[i]));
      shared_x[((c >> 2) * rows + m) * 4 + (c & 3)] = eight;
    }
  }
  __syncthreads();
#endif
#endif

  float total[NT][4] = {}, sums[NT][4] = {};
#if ZEROS
  float ones[NT][4] = {};
#endif

  auto flush = [&](u32 offset, int which) {
    u32 scale = load4(ring_scales + offset + which * 128);
    float low = half_wide(scale & 0xFFFFu), high = half_wide(scale >> 16);
#if ZEROS
    u32 zero = load4(ring_scales + offset + (SCALES + which) * 128);
    float low_zero = MIDDLE - half_wide(zero & 0xFFFFu), high_zero = MIDDLE - half_wide(zero >> 16);
#endif
#pragma unroll
    for (int t = 0; t < NT; t++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float sum = sums[t][i];
#if ZEROS
        sum += (i < 2 ? low_zero : high_zero) * ones[t][i];
        ones[t][i] = 0.0f;
#endif
        total[t][i] += (i < 2 ? low : high) * sum;
        sums[t][i] = 0.0f;
      }
    }
  };

  // Of each 32 inputs a lane has eight that lie together, for two steps of the tensor cores. Rows
  // that are not there are read from a place of zeros, which does not move on.
  const Constants with;
#if SHARED_X
  const u32 half_step = rows * 64, tile_step = rows * 128;
  u32 x_at[NT], x_half[NT], x_step[NT];
#pragma unroll
  for (int t = 0; t < NT; t++) {
    bool real = t * 8 + g < rows;
    u32 first = real ? address(shared_x) + begin * tile_step + ((t * 8 + g) * 4 + q) * 16 : address(&nothing);
    x_at[t] = first;
    x_half[t] = real ? half_step : 0;
    x_step[t] = real ? tile_step : 0;
  }
#endif

  u32 offset = 0;  // of the stage in the ring
  for (int turn = 0; turn < turns; turn++) {
#if LORA  // asked for before the weights are gone through, so that it is there after them
    const uint4* ranks = lora_b + lane +
        (size_t)min(((int)blockIdx.x + turn * (int)gridDim.x) * WN + along_n, all_n - 1) * chunks * 32;
    uint4 first_ranks = make_uint4(0, 0, 0, 0);
    if (along_k < chunks) first_ranks = __ldg(ranks + along_k * 32);
#endif
    for (int at = begin; at < end; at++) {
      uint4 eights[2][NT];
#pragma unroll
      for (int t = 0; t < NT; t++) {
#if SHARED_X
        eights[0][t] = load16(x_at[t]);
        eights[1][t] = load16(x_at[t] + x_half[t]);
        x_at[t] += x_step[t];
#else
        eights[0][t] = eights[1][t] = make_uint4(0, 0, 0, 0);
        if (t * 8 + g < rows) {
          const uint4* row = (const uint4*)(x + (size_t)(t * 8 + g) * K + at * TILE + q * 8);
          eights[0][t] = row[0];
          eights[1][t] = row[4];
        }
#endif
      }
      asm volatile("cp.async.wait_group %0;" ::"n"(DEPTH - 1) : "memory");
      uint4 tile[WORDS];
#pragma unroll
      for (int i = 0; i < WORDS; i++) tile[i] = load16(ring_at + offset + i * 512);
#pragma unroll
      for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int step = 2 * half; step < 2 * half + 2; step++) {
          u32 a[4];
          decode((const u32*)tile, step, a, with);
#pragma unroll
          for (int t = 0; t < NT; t++) {
            const u32* pairs = (const u32*)&eights[half][t] + 2 * (step & 1);
            mma(sums[t], a, pairs[0], pairs[1]);
#if ZEROS
            const u32 all[4] = {with.one, with.one, with.one, with.one};
            mma(ones[t], all, pairs[0], pairs[1]);
#endif
          }
        }
        if (GROUP_TILES == 0) flush(offset, half);
      }
      if (GROUP_TILES && ((unsigned)(at + 1) % (GROUP_TILES + !GROUP_TILES) == 0 || at + 1 == end)) flush(offset, 0);
      fetch(offset);
      offset = offset + STAGE == DEPTH * STAGE ? 0 : offset + STAGE;
    }
#if SHARED_X
#pragma unroll
    for (int t = 0; t < NT; t++) x_at[t] -= (end - begin) * x_step[t];
#endif
#if LORA
    for (int c = along_k; c < chunks; c += WK) {
      uint4 a = c == along_k ? first_ranks : __ldg(ranks + c * 32);
#pragma unroll
      for (int t = 0; t < NT; t++) {
        u32 low = 0, high = 0;
        if (t * 8 + g < rows) {
          const u32* pairs = (const u32*)(lora_t + ((size_t)(t * 8 + g) * chunks + c) * 16);
          low = pairs[q];
          high = pairs[q + 4];
        }
        mma(total[t], (const u32*)&a, low, high);
      }
    }
#endif
    // Two sets of parts in turn, so that one barrier is enough: who writes a set again has passed
    // the barrier after it was read.
    float (*mine)[WN][NT][4][32] = parts[turn & 1];
#pragma unroll
    for (int t = 0; t < NT; t++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        mine[along_k][along_n][t][i][lane] = total[t][i];
        total[t][i] = 0.0f;
      }
    __syncthreads();
    const int tile_n = ((int)blockIdx.x + turn * (int)gridDim.x) * WN + along_n;
    if (tile_n >= all_n) continue;
    // One warp has the outputs g and g + 8 of the rows that are 2 q + j of eight.
    for (int pair = along_k; pair < 2 * NT; pair += WK) {
      const int t = pair >> 1, j = pair & 1, m = t * 8 + 2 * q + j;
      if (m >= rows) continue;
      float low = 0.0f, high = 0.0f;
#pragma unroll
      for (int k = 0; k < WK; k++) {
        low += mine[k][along_n][t][j][lane];
        high += mine[k][along_n][t][j + 2][lane];
      }
      const int n = tile_n * 16 + g;
#if BIAS
      low += wide(bias[n]);
      high += wide(bias[n + 8]);
#endif
#if EPILOGUE == PLAIN
      y[(size_t)m * N + n] = narrow(low);
      y[(size_t)m * N + n + 8] = narrow(high);
#elif EPILOGUE == ADD
      u16* to = y + (size_t)m * N + n;
      to[0] = narrow(wide(to[0]) + wide(narrow(low)));
      to[8] = narrow(wide(to[8]) + wide(narrow(high)));
#elif EPILOGUE == SWIGLU
      float gate = wide(narrow(low)), up = wide(narrow(high));
      float silu = wide(narrow(gate / (1.0f + __expf(-gate))));
      y[(size_t)m * (N / 2) + tile_n * 8 + g] = narrow(silu * up);
#elif EPILOGUE == ROPE
      const int head = tile_n / (HEAD_DIM / 16), within = tile_n % (HEAD_DIM / 16);
      const int slot = slots[m];
      low = wide(narrow(low));
      high = wide(narrow(high));
      int dim = within * 8 + g, other = dim + HEAD_DIM / 2;
      if (head < heads + kv_heads) {
        const float* angles = cos_sin + (size_t)positions[m] * HEAD_DIM;
        float cosine = angles[dim], sine = angles[other];
        float turned = low * cosine - high * sine;
        high = high * cosine + low * sine;
        low = turned;
      } else {
        dim = within * 16 + g;
        other = dim + 8;
      }
      if (head < heads) {
        u16* to = y + ((size_t)m * heads + head) * HEAD_DIM;
        to[dim] = narrow(low);
        to[other] = narrow(high);
      } else if (slot >= 0) {
        bool key = head < heads + kv_heads;
        int kv_head = head - heads - (key ? 0 : kv_heads);
        size_t token = ((size_t)(slot / BLOCK) * kv_heads + kv_head) * BLOCK + slot % BLOCK;
        u16* to = (key ? keys : values) + token * HEAD_DIM;
        to[dim] = narrow(low);
        to[other] = narrow(high);
      }
#endif
    }
  }
}

// W [N, K] in the dtype of x, the inputs in order: for more rows than the product takes. A warp
// makes a tile; `pitch` is the distance between rows, GROUP_TILES and the others as above.
extern "C" __global__ void __launch_bounds__(256)
dequantize(const uint4* __restrict__ weight, const u32* __restrict__ scales, const u32* __restrict__ zeros,
           u16* out, int K, int N, int groups, int pitch) {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;");
#endif
  const int lane = threadIdx.x & 31, g = lane >> 2, q = lane & 3;
  const int tiles = K / TILE;
  const long long tile = (long long)blockIdx.x * 8 + (threadIdx.x >> 5);
  if (tile >= (long long)tiles * (N / 16)) return;
  const int at = tile % tiles;
  const long long tile_n = tile / tiles;
  const Constants with;
  uint4 words[WORDS];
#pragma unroll
  for (int i = 0; i < WORDS; i++) words[i] = __ldcs(weight + ((size_t)tile * WORDS + i) * 32 + lane);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    size_t group = (size_t)tile_n * groups + GROUP_AT(at, half);
    u32 scale = __ldg(scales + group * 8 + g);
    float scale_of[2] = {half_wide(scale & 0xFFFFu), half_wide(scale >> 16)};
    float zero_of[2] = {0.0f, 0.0f};
#if ZEROS
    u32 zero = __ldg(zeros + group * 8 + g);
    zero_of[0] = half_wide(zero & 0xFFFFu) - MIDDLE;
    zero_of[1] = half_wide(zero >> 16) - MIDDLE;
#endif
    u32 result[2][4];  // eight inputs in order, of the outputs g and g + 8
#pragma unroll
    for (int step = 0; step < 2; step++) {
      u32 a[4];
      decode((const u32*)words, 2 * half + step, a, with);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int which = i & 1;
        float low = (wide(a[i] & 0xFFFFu) - zero_of[which]) * scale_of[which];
        float high = (wide(a[i] >> 16) - zero_of[which]) * scale_of[which];
        result[which][2 * step + (i >> 1)] = narrow(low) | (u32)narrow(high) << 16;
      }
    }
#pragma unroll
    for (int which = 0; which < 2; which++) {
      size_t row = (size_t)tile_n * 16 + g + 8 * which;
      u16* to = out + row * pitch + at * TILE + half * 32 + q * 8;
      *(uint4*)to = make_uint4(result[which][0], result[which][1], result[which][2], result[which][3]);
    }
  }
}
