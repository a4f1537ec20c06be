// What LoRAs make of x before their second matrix:
//
//   t[m, r] = share[m, owner of r] * sum over k of x[m, k] * a[r, k]
//
// for x as it is, or normalised (NORM): x / rms(x) * gamma. A block has one rank and ROWS rows of x;
// its part of a is asked for before the kernel waits for the one that makes x.
//
// Compiled with BFLOAT, NORM, ROWS, THREADS, and CHUNKS, the eights of a row that a thread has.

typedef unsigned int u32;
typedef unsigned short u16;

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

extern "C" __global__ void __launch_bounds__(THREADS)
shrink(const u16* __restrict__ a, const int* __restrict__ owners, const u16* shares, const u16* x,
       const u16* __restrict__ gamma, u16* t, int K, int ranks, int rows, int pitch, float eps) {
  __shared__ float dots[ROWS][THREADS / 32], squares[ROWS][THREADS / 32];
  const int rank = blockIdx.x, first = blockIdx.y * ROWS;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  uint4 weights[CHUNKS];
#if NORM
  uint4 gammas[CHUNKS];
#endif
#pragma unroll
  for (int i = 0; i < CHUNKS; i++) {
    const int c = i * THREADS + threadIdx.x;
    weights[i] = make_uint4(0, 0, 0, 0);
    if (c < K / 8) weights[i] = __ldg((const uint4*)(a + (size_t)rank * K) + c);
#if NORM
    gammas[i] = make_uint4(0, 0, 0, 0);
    if (c < K / 8) gammas[i] = __ldg((const uint4*)gamma + c);
#endif
  }
  const int owner = __ldg(owners + rank);
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
#pragma unroll
  for (int m = 0; m < ROWS; m++) {
    float dot = 0.0f, square = 0.0f;
    if (first + m < rows) {
#pragma unroll
      for (int i = 0; i < CHUNKS; i++) {
        const int c = i * THREADS + threadIdx.x;
        if (c >= K / 8) break;
        uint4 eight = *((const uint4*)(x + (size_t)(first + m) * K) + c);
        const u16* halves = (const u16*)&eight;
        const u16* factors = (const u16*)&weights[i];
#pragma unroll
        for (int j = 0; j < 8; j++) {
          float value = wide(halves[j]);
#if NORM
          square += value * value;
          value *= wide(((const u16*)&gammas[i])[j]);
#endif
          dot += value * wide(factors[j]);
        }
      }
    }
#pragma unroll
    for (int step = 16; step; step >>= 1) {
      dot += __shfl_xor_sync(0xFFFFFFFFu, dot, step);
#if NORM
      square += __shfl_xor_sync(0xFFFFFFFFu, square, step);
#endif
    }
    if (lane == 0) {
      dots[m][warp] = dot;
      squares[m][warp] = square;
    }
  }
  __syncthreads();
  const int m = threadIdx.x;
  if (m >= ROWS || first + m >= rows) return;
  float dot = 0.0f, square = 0.0f;
#pragma unroll
  for (int w = 0; w < THREADS / 32; w++) {
    dot += dots[m][w];
    square += squares[m][w];
  }
#if NORM
  dot *= rsqrtf(square / K + eps);
#endif
  float share = wide(shares[(size_t)(first + m) * pitch + owner]);
  t[(size_t)(first + m) * ranks + rank] = narrow(wide(narrow(dot)) * share);
}
