// What a Llama layer computes row by row between its products. Compiled with BFLOAT (0 or 1), and
// for `rope_into_cache` with DIM (of a head, a multiple of 16), LANES (a power of two, at least
// DIM / 16, 32 at most), PAIRED, NORMED and CACHE8 (0 or 1); for `swiglu` with PAIRED; for
// `normalize` with CHUNKS (eights of a row that a thread has) and ADDED (0 or 1).
//
// Numbers are read and written in eights (16 bytes). They are rounded where transformers rounds
// them: rows.py has each formula in torch.

typedef unsigned int u32;
typedef unsigned short u16;

#define BLOCK 16  // tokens of a cache block

__device__ __forceinline__ float wide(u16 half) {
#if BFLOAT
  return __uint_as_float((u32)half << 16);
#else
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
#endif
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

__device__ __forceinline__ float rounded(float value) { return wide(narrow(value)); }

__device__ __forceinline__ void wait_for_others() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ void read8(float* values, const u16* from) {
  uint4 eight = *(const uint4*)from;
  u32 words[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    values[2 * i] = wide((u16)(words[i] & 0xFFFFu));
    values[2 * i + 1] = wide((u16)(words[i] >> 16));
  }
}

__device__ __forceinline__ void write8(u16* to, const float* values) {
  u32 words[4];
#pragma unroll
  for (int i = 0; i < 4; i++)
    words[i] = (u32)narrow(values[2 * i]) | (u32)narrow(values[2 * i + 1]) << 16;
  *(uint4*)to = make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ __forceinline__ void read_floats(float* values, const float* from) {
  float4 low = *(const float4*)from, high = *(const float4*)(from + 4);
  values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
  values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
}

#ifdef CHUNKS
// y = x / rms(x) * weight, a row for each block of threads. ADDED: x += delta comes before.
extern "C" __global__ void __launch_bounds__(1024)
    normalize(u16* x, const u16* delta, const u16* weight, u16* y, int hidden, float eps) {
  __shared__ float sums[32];
  wait_for_others();
  size_t row = (size_t)blockIdx.x * hidden;
  float values[CHUNKS][8], sum = 0.0f;
#pragma unroll
  for (int c = 0; c < CHUNKS; c++) {
    int at = (c * blockDim.x + threadIdx.x) * 8;
    if (at >= hidden) break;
    read8(values[c], x + row + at);
#if ADDED
    float more[8];
    read8(more, delta + row + at);
#pragma unroll
    for (int i = 0; i < 8; i++) values[c][i] = rounded(values[c][i] + more[i]);
    write8(x + row + at, values[c]);
#endif
#pragma unroll
    for (int i = 0; i < 8; i++) sum += values[c][i] * values[c][i];
  }
#pragma unroll
  for (int step = 16; step; step >>= 1) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, step);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0.0f;
  for (int w = 0; w < blockDim.x / 32; w++) sum += sums[w];
  float scale = rsqrtf(sum / hidden + eps);
#pragma unroll
  for (int c = 0; c < CHUNKS; c++) {
    int at = (c * blockDim.x + threadIdx.x) * 8;
    if (at >= hidden) break;
    float weights[8];
    read8(weights, weight + at);
#pragma unroll
    for (int i = 0; i < 8; i++) weights[i] *= rounded(values[c][i] * scale);
    write8(y + row + at, weights);
  }
}
#endif

#ifdef DIM
// The norm of a head, which LANES lanes hold: eight numbers of each of its halves a lane.
__device__ __forceinline__ void normalize_head(float* low, float* high, const u16* weight, int tile,
                                               float eps) {
  float sum = 0.0f, weights[8];
#pragma unroll
  for (int i = 0; i < 8; i++) sum += low[i] * low[i] + high[i] * high[i];
#pragma unroll
  for (int step = LANES / 2; step; step >>= 1) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, step);
  float scale = rsqrtf(sum / DIM + eps);
  read8(weights, weight + tile * 8);
#pragma unroll
  for (int i = 0; i < 8; i++) low[i] = rounded(weights[i] * rounded(low[i] * scale));
  read8(weights, weight + DIM / 2 + tile * 8);
#pragma unroll
  for (int i = 0; i < 8; i++) high[i] = rounded(weights[i] * rounded(high[i] * scale));
}

#if CACHE8
#define LEAST_SCALE 8.673617379884035e-19f  // 2^-60: of a token whose numbers are all 0

// Round the 16 numbers that a lane has of a head to int8 codes; returns the head's scale, for which
// every lane takes part.
__device__ __forceinline__ float quantize_head(uint2* low_codes, uint2* high_codes,
                                               const float* low, const float* high) {
  float values[16], largest = 0.0f;
#pragma unroll
  for (int i = 0; i < 16; i++) {
    values[i] = rounded(i < 8 ? low[i] : high[i - 8]);
    largest = fmaxf(largest, fabsf(values[i]));
  }
#pragma unroll
  for (int step = LANES / 2; step; step >>= 1)
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, step));
  float scale = fmaxf(largest * (1.0f / 127), LEAST_SCALE), inverse = 1.0f / scale;
  u32 words[4] = {};
#pragma unroll
  for (int i = 0; i < 16; i++) {
    int code = min(max(__float2int_rn(values[i] * inverse), -127), 127);
    words[i / 4] |= (u32)(code & 0xFF) << i % 4 * 8;
  }
  *low_codes = make_uint2(words[0], words[1]);
  *high_codes = make_uint2(words[2], words[3]);
  return scale;
}

typedef signed char number;  // of the cache
#else
typedef u16 number;
#endif

// qkv [rows, (heads + 2 * kv_heads) * DIM] to q [rows, heads, DIM] and the cache; a lane has tile
// `tile` of a head: dimensions 8 * tile and on, and those that turn with them. With CACHE8 the
// cache gets int8 codes and a scale for each token of each key head. Grid (blocks, rows).
extern "C" __global__ void rope_into_cache(const u16* qkv, const float* cos_sin,
                                           const int* positions, const int* slots, number* keys,
                                           number* values,
#if CACHE8
                                           float* key_scales, float* value_scales,
#endif
                                           const u16* q_norm, const u16* k_norm, u16* q, int heads,
                                           int kv_heads, float eps) {
  wait_for_others();
  int unit = blockIdx.x * blockDim.x + threadIdx.x;
  int row = blockIdx.y, head = unit / LANES, tile = unit % LANES;
  int all = heads + 2 * kv_heads, slot = slots[row];
  bool there = head < all && tile < DIM / 16;
  bool turns = head < heads + kv_heads;
  float low[8] = {}, high[8] = {};
  if (there && slot >= 0) {
    const u16* from = qkv + ((size_t)row * all + head) * DIM;
    bool apart = turns && !PAIRED;
    read8(low, from + tile * (apart ? 8 : 16));
    read8(high, from + (apart ? DIM / 2 + tile * 8 : tile * 16 + 8));
  }
#if NORMED
  // Every lane takes part in the sums, also those of values and those beyond the last head.
  float plain_low[8], plain_high[8];
#pragma unroll
  for (int i = 0; i < 8; i++) plain_low[i] = low[i], plain_high[i] = high[i];
  normalize_head(low, high, head < heads ? q_norm : k_norm, min(tile, DIM / 16 - 1), eps);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    low[i] = turns ? low[i] : plain_low[i];
    high[i] = turns ? high[i] : plain_high[i];
  }
#endif
#if CACHE8
  bool turned = there && turns && slot >= 0;  // no lane leaves before the largest number is found
#else
  if (!there || (slot < 0 && head >= heads)) return;
  bool turned = turns && slot >= 0;
#endif
  if (turned) {
    float cosines[8], sines[8];
    const float* angles = cos_sin + (size_t)positions[row] * DIM + tile * 8;
    read_floats(cosines, angles);
    read_floats(sines, angles + DIM / 2);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      float x1 = low[i], x2 = high[i];
      low[i] = x1 * cosines[i] - x2 * sines[i];
      high[i] = x2 * cosines[i] + x1 * sines[i];
    }
  }
#if CACHE8
  uint2 low_codes, high_codes;
  float scale = quantize_head(&low_codes, &high_codes, low, high);
  if (!there || (slot < 0 && head >= heads)) return;
#endif
  if (head < heads) {
    u16* to = q + ((size_t)row * heads + head) * DIM + tile * 8;
    write8(to, low);
    write8(to + DIM / 2, high);
    return;
  }
  int kv_head = turns ? head - heads : head - heads - kv_heads;
  size_t place = ((size_t)(slot / BLOCK) * kv_heads + kv_head) * BLOCK + slot % BLOCK;
  number* to = (turns ? keys : values) + place * DIM;
#if CACHE8
  *(uint2*)(to + tile * (turns ? 8 : 16)) = low_codes;
  *(uint2*)(to + (turns ? DIM / 2 + tile * 8 : tile * 16 + 8)) = high_codes;
  if (tile == 0) (turns ? key_scales : value_scales)[place] = scale;
#else
  write8(to + tile * (turns ? 8 : 16), low);
  write8(to + (turns ? DIM / 2 + tile * 8 : tile * 16 + 8), high);
#endif
}
#endif

#if defined(PAIRED) && !defined(DIM)
// silu(gate) * up: gate_up [rows, 2 * middle] to y [rows, middle], eight a thread. Grid (., rows).
extern "C" __global__ void swiglu(const u16* gate_up, u16* y, int middle) {
  wait_for_others();
  int at = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
  if (at >= middle) return;
  const u16* from = gate_up + (size_t)blockIdx.y * 2 * middle;
  float gate[8], up[8];
  read8(gate, from + (PAIRED ? 2 * at : at));
  read8(up, from + (PAIRED ? 2 * at + 8 : middle + at));
#pragma unroll
  for (int i = 0; i < 8; i++) up[i] *= rounded(gate[i] / (1.0f + __expf(-gate[i])));
  write8(y + (size_t)blockIdx.y * middle + at, up);
}
#endif
