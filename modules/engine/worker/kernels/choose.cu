// The next token of each row, for the parameters that most requests have, in one pass over its logits.
//
//   scores: bans, then repetition, presence and frequency penalties of what was counted, over T
//   kept:   the k highest and those equal to the last of them; of these, without the lowest that
//           together have no more than 1 - top_p; of these, p >= min_p * max(p)
//   token:  in the order of ids the first whose cumulative weight is above `uniform` of the whole
//
// A block of 1024 threads has a row. Scores stay in shared memory where they fit. A bisection finds a
// bound that some hundred to CANDIDATES scores reach; these are sorted exactly. The reference is the
// chain in sampling/batch: weights are the whole numbers of `pick` in sampling/draws.py, so that the
// token is the same. Compiled with CACHED (scores of the vocabulary fit into shared memory).

typedef unsigned int u32;
typedef unsigned long long u64;

#define THREADS 1024  // and candidates, one each
#define NOTHING (-__int_as_float(0x7F800000))

// Floats as numbers whose order is theirs.
__device__ __forceinline__ u32 key_of(float value) {
  u32 bits = __float_as_uint(value);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float value_of(u32 key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7FFFFFFFu : ~key);
}

struct Params {  // one of each row
  float repetition, presence, frequency, divisor, dropped, min_p;  // dropped is 1 - top_p
  int top_k, banned;                                                // how many of `bans` are its
};

template <typename T, typename F>
__device__ __forceinline__ T of_block(T value, T* shared, F join) {
#pragma unroll
  for (int step = 16; step; step >>= 1) value = join(value, __shfl_xor_sync(0xFFFFFFFFu, value, step));
  __syncthreads();
  if ((threadIdx.x & 31) == 0) shared[threadIdx.x >> 5] = value;
  __syncthreads();
  value = shared[threadIdx.x & 31];
#pragma unroll
  for (int step = 16; step; step >>= 1) value = join(value, __shfl_xor_sync(0xFFFFFFFFu, value, step));
  return value;
}

// The sum of the values of all threads up to this one, and of all.
template <typename T>
__device__ __forceinline__ T running_sum(T value, T* shared, T& total) {
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
  for (int step = 1; step < 32; step <<= 1) {
    T other = __shfl_up_sync(0xFFFFFFFFu, value, step);
    if (lane >= step) value += other;
  }
  __syncthreads();
  if (lane == 31) shared[warp] = value;
  __syncthreads();
  T before = 0, all = 0;
  for (int w = 0; w < 32; w++) {
    if (w < warp) before += shared[w];
    all += shared[w];
  }
  total = all;
  return value + before;
}

// Ascending, one of each thread; `shared` has room for all.
__device__ __forceinline__ u64 sorted(u64 mine, u64* shared) {
  for (u32 size = 2; size <= THREADS; size <<= 1)
    for (u32 step = size >> 1; step; step >>= 1) {
      u64 other;
      if (step < 32) {
        other = __shfl_xor_sync(0xFFFFFFFFu, mine, step);
      } else {
        __syncthreads();
        shared[threadIdx.x] = mine;
        __syncthreads();
        other = shared[threadIdx.x ^ step];
      }
      bool first = (threadIdx.x & step) == 0, ascending = (threadIdx.x & size) == 0;
      mine = (first == ascending) == (mine < other) ? mine : other;
    }
  __syncthreads();
  return mine;
}

// logits [all rows, vocab], of which `places` [rows] (or the first ones) are these; counts begin at
// `begins` [rows] where `counted`; bans [rows, width]; uniforms and tokens [rows].
extern "C" __global__ void __launch_bounds__(THREADS, 1)
choose(const float* logits, const long long* places, const float* counts, const long long* begins,
       const Params* all_params, const long long* bans, const double* uniforms, long long* tokens,
       int vocab, int placed, int counted, int width) {
#if CACHED
  extern __shared__ float cache[];
#endif
  __shared__ u64 candidates[THREADS], scratch[THREADS];
  __shared__ u32 found;
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;");
#endif
  const int row = blockIdx.x;
  const Params with = all_params[row];
  const float* mine = logits + (placed ? places[row] : row) * (size_t)vocab;
  const float* seen = counts + (counted ? begins[row] : 0);
  const long long* banned = bans + (size_t)row * width;

  auto computed = [&](int i) {
    float score = mine[i];
    for (int b = 0; b < with.banned; b++)
      if (banned[b] == i) return NOTHING;
    if (counted) {
      float count = seen[i];
      if (count > 0.0f) score = fminf(score * with.repetition, score / with.repetition);
      if (count > 0.0f) score = score - with.presence;
      score = score - with.frequency * count;
    }
    return score / with.divisor;
  };
#if CACHED
#define SCORE(i) cache[i]
#else
#define SCORE(i) computed(i)
#endif

  float highest = NOTHING;
  for (int i = threadIdx.x; i < vocab; i += THREADS) {
    float score = computed(i);
#if CACHED
    cache[i] = score;
#endif
    highest = fmaxf(highest, score);
  }
  highest = of_block(highest, (float*)scratch, [](float a, float b) { return fmaxf(a, b); });
  const u32 wanted = min(with.top_k, vocab);

  // `low` is reached by at least as many as are wanted, or by all that are possible, and `high` by
  // fewer. The first guess is where a bound mostly is.
  u32 low = key_of(-3.4028235e38f), high = key_of(highest) + 1, guess = key_of(highest - 12.0f);
  u32 reached = 0;
  for (int tries = 0; tries < 34; tries++) {
    u32 bound = tries == 0 && guess > low && guess < high ? guess : low + (high - low) / 2;
    if (bound == low) break;
    u32 count = 0;
    for (int i = threadIdx.x; i < vocab; i += THREADS) count += key_of(SCORE(i)) >= bound;
    count = of_block(count, (u32*)scratch, [](u32 a, u32 b) { return a + b; });
    if (count >= wanted) {
      low = bound;
      reached = count;
      if (count <= THREADS) break;
    } else {
      high = bound;
    }
  }

  // Candidates, which in ascending order are the highest first, and of equal ones low ids.
  candidates[threadIdx.x] = ~0ull;
  if (threadIdx.x == 0) found = 0, tokens[row] = 0;
  __syncthreads();
  if (reached <= THREADS) {
    for (int i = threadIdx.x; i < vocab; i += THREADS) {
      u32 key = key_of(SCORE(i));
      if (key >= low) candidates[min(atomicAdd(&found, 1u), THREADS - 1u)] = (u64)~key << 32 | (u32)i;
    }
  } else {
    // More are equal than there is room for: those above the bound, then as many as fit, by ids.
    for (int round = 0; round < 2; round++)
      for (int from = 0; from < vocab; from += THREADS) {
        int i = from + threadIdx.x;
        u32 key = i < vocab ? key_of(SCORE(i)) : 0, total;
        u32 in = round == 0 ? key >= high : key >= low && key < high;
        u32 at = found + running_sum(in, (u32*)scratch, total) - in;
        if (in && at < THREADS) candidates[at] = (u64)~key << 32 | (u32)i;
        __syncthreads();
        if (threadIdx.x == 0) found += total;
        __syncthreads();
      }
  }
  __syncthreads();
  u64 candidate = sorted(candidates[threadIdx.x], scratch);
  candidates[threadIdx.x] = candidate;
  __syncthreads();

  // A thread has the candidate of its rank.
  const u32 key = ~(u32)(candidate >> 32), id = (u32)candidate;
  const u64 last = candidates[wanted - 1];
  bool kept = candidate != ~0ull && key >= ~(u32)(last >> 32);
  if (last == ~0ull) kept = candidate != ~0ull;
  const float likely = kept ? expf(value_of(key) - highest) : 0.0f;
  float total;
  float above = running_sum(likely, (float*)scratch, total) - likely;
  kept = kept && (threadIdx.x == 0 || ((total - above) / total > with.dropped && likely >= with.min_p));

  u64 weight = kept ? (u64)(likely * 1099511627776.0f) : 0;
  __syncthreads();
  candidates[threadIdx.x] = weight;
  __syncthreads();
  u64 by_id = sorted(kept ? (u64)id << 32 | threadIdx.x : ~0ull, scratch);
  weight = by_id == ~0ull ? 0 : candidates[(u32)by_id];
  u64 all;
  u64 end = running_sum(weight, scratch, all);
  u64 target = (u64)((double)all * uniforms[row]);
  if (end > target && end - weight <= target) tokens[row] = (long long)(by_id >> 32);
}
