// Products with packed weights. Compiled with BITS (4 or 8), BFLOAT (0 or 1) and ROWS of x at most.
//
//   y[m, n] = sum over groups g of scale[n, g] * (sum x[m, k] code[n, k] - zero[n, g] * sum x[m, k])
//
// Weights are [N, K * BITS / 8] bytes, inputs in order, so that a lane's 16 bytes are CHUNK inputs
// that lie together; every group is a multiple of CHUNK. No header is included: NVRTC alone must do.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

#define CHUNK (128 / BITS)
#define OUTPUTS 2  // rows of the weights that a warp computes with the same x

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

// A byte b becomes the float 2^23 + b by setting its exponent, which is cheaper than converting it.
__device__ __forceinline__ float from_byte(u32 word, u32 which) {
  return __uint_as_float(__byte_perm(word, 0x4B000000u, 0x7650u | which)) - 8388608.0f;
}

__device__ __forceinline__ void decode(u32 word, float* codes) {  // 32 / BITS codes
#if BITS == 4
  u32 even = word & 0x0F0F0F0Fu, odd = word >> 4 & 0x0F0F0F0Fu;
#pragma unroll
  for (u32 i = 0; i < 4; i++) {
    codes[2 * i] = from_byte(even, i);
    codes[2 * i + 1] = from_byte(odd, i);
  }
#else
#pragma unroll
  for (u32 i = 0; i < 4; i++) codes[i] = from_byte(word, i);
#endif
}

extern "C" __global__ void product(const u8* weight, const u16* scales, const u16* zeros,
                                   const u16* x, u16* y, int K, int N, int group, int groups,
                                   int rows, int has_zeros) {
  int lane = threadIdx.x & 31;
  int first = (blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5)) * OUTPUTS;
  if (first >= N) return;
  float sums[OUTPUTS][ROWS] = {};
  for (int k = lane * CHUNK; k < K; k += 32 * CHUNK) {
    float codes[OUTPUTS][CHUNK], scale[OUTPUTS], zero[OUTPUTS];
#pragma unroll
    for (int o = 0; o < OUTPUTS; o++) {
      int n = min(first + o, N - 1);
      uint4 packed = __ldcs((const uint4*)(weight + (size_t)n * (K / 8 * BITS) + k / 8 * BITS));
      decode(packed.x, codes[o]);
      decode(packed.y, codes[o] + 32 / BITS);
      decode(packed.z, codes[o] + 64 / BITS);
      decode(packed.w, codes[o] + 96 / BITS);
      int at = n * groups + k / group;
      scale[o] = half_wide(scales[at]);
      zero[o] = has_zeros ? half_wide(zeros[at]) : (float)(1 << (BITS - 1));
    }
#pragma unroll
    for (int m = 0; m < ROWS; m++) {
      if (m >= rows) break;
      const uint4* from = (const uint4*)(x + (size_t)m * K + k);
      float total = 0.0f, part[OUTPUTS] = {};
#pragma unroll
      for (int quarter = 0; quarter < CHUNK / 8; quarter++) {
        uint4 eight = from[quarter];
        const u16* halves = (const u16*)&eight;
#pragma unroll
        for (int i = 0; i < 8; i++) {
          float value = wide(halves[i]);
          total += value;
#pragma unroll
          for (int o = 0; o < OUTPUTS; o++) part[o] += codes[o][quarter * 8 + i] * value;
        }
      }
#pragma unroll
      for (int o = 0; o < OUTPUTS; o++) sums[o][m] += scale[o] * (part[o] - zero[o] * total);
    }
  }
#pragma unroll
  for (int o = 0; o < OUTPUTS; o++) {
#pragma unroll
    for (int m = 0; m < ROWS; m++) {
      float sum = sums[o][m];
#pragma unroll
      for (int step = 16; step; step >>= 1) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, step);
      if (lane == 0 && m < rows && first + o < N) y[(size_t)m * N + first + o] = narrow(sum);
    }
  }
}

// W [N, K] in the dtype of x, for a product of many rows; a thread makes eight of its weights.
extern "C" __global__ void dequantize(const u8* weight, const u16* scales, const u16* zeros,
                                      u16* out, int K, int N, int group, int groups,
                                      int has_zeros) {
  size_t eight = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (eight >= (size_t)N * (K / 8)) return;
  int n = eight / (K / 8), k = (eight % (K / 8)) * 8;
  int at = n * groups + k / group;
  float scale = half_wide(scales[at]);
  float zero = has_zeros ? half_wide(zeros[at]) : (float)(1 << (BITS - 1));
  float codes[8];
  const u32* words = (const u32*)(weight + eight * BITS);
#pragma unroll
  for (int w = 0; w < BITS / 4; w++) decode(words[w], codes + w * (32 / BITS));
  u32 pairs[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    u32 low = narrow((codes[2 * i] - zero) * scale), high = narrow((codes[2 * i + 1] - zero) * scale);
    pairs[i] = low | high << 16;
  }
  *(uint4*)(out + eight * 8) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}
