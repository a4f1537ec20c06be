// What a Llama layer computes row by row in training, forward and backward. Compiled behind
// engine/worker/kernels/rows.cu, whose reading, writing and rounding it uses, with BFLOAT and with
// EIGHTS (eights of a row that a thread has) and ADDED for the norms, or HEAD (dimensions of a
// head, a multiple of 16) for the rotary embedding. rows.py has each formula in torch.
//
// `pitch` is the distance between rows of what is written: behind each there is room for the
// products of the LoRA with it, so that the next product takes them along (products.py).

#define WARPS 32

// The sums of two numbers over a block, in every thread.
__device__ __forceinline__ float2 summed(float a, float b) {
  __shared__ float2 parts[WARPS];
#pragma unroll
  for (int step = 16; step; step >>= 1) {
    a += __shfl_xor_sync(0xFFFFFFFFu, a, step);
    b += __shfl_xor_sync(0xFFFFFFFFu, b, step);
  }
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = make_float2(a, b);
  __syncthreads();
  float2 sum = make_float2(0.0f, 0.0f);
  for (int w = 0; w < blockDim.x / 32; w++) sum.x += parts[w].x, sum.y += parts[w].y;
  return sum;
}

#ifdef EIGHTS
// y = h / rms(h) * weight, a row for each block. h is x; ADDED: it is x + delta, written to `sum`.
extern "C" __global__ void __launch_bounds__(512)
    add_norm(const u16* x, const u16* delta, const u16* weight, u16* sum, u16* y, int hidden,
             int pitch, float eps) {
  wait_for_others();
  size_t row = (size_t)blockIdx.x * hidden;
  float values[EIGHTS][8], squares = 0.0f;
#pragma unroll
  for (int c = 0; c < EIGHTS; c++) {
    int at = (c * blockDim.x + threadIdx.x) * 8;
    if (at >= hidden) break;
    read8(values[c], x + row + at);
#if ADDED
    float more[8];
    read8(more, delta + row + at);
#pragma unroll
    for (int i = 0; i < 8; i++) values[c][i] = rounded(values[c][i] + more[i]);
    write8(sum + row + at, values[c]);
#endif
#pragma unroll
    for (int i = 0; i < 8; i++) squares += values[c][i] * values[c][i];
  }
  float scale = rsqrtf(summed(squares, 0.0f).x / hidden + eps);
#pragma unroll
  for (int c = 0; c < EIGHTS; c++) {
    int at = (c * blockDim.x + threadIdx.x) * 8;
    if (at >= hidden) break;
    float weights[8];
    read8(weights, weight + at);
#pragma unroll
    for (int i = 0; i < 8; i++) weights[i] *= rounded(values[c][i] * scale);
    write8(y + (size_t)blockIdx.x * pitch + at, weights);
  }
}

// dx = rest + scale * (dy * weight - x * scale^2 * mean(dy * weight * x)), a row for each block.
// `rest` is the gradient that goes past the norm, `rest_pitch` the distance between its rows. What
// the norm gave is written in the place of dy, as the gradient of a LoRA wants it.
extern "C" __global__ void __launch_bounds__(512)
    norm_backward(const u16* x, const u16* weight, u16* dy, const u16* rest, u16* dx, int hidden,
                  int rest_pitch, int pitch, float eps) {
  wait_for_others();
  size_t row = (size_t)blockIdx.x * hidden;
  float values[EIGHTS][8], grads[EIGHTS][8], squares = 0.0f, product = 0.0f;
#pragma unroll
  for (int c = 0; c < EIGHTS; c++) {
    int at = (c * blockDim.x + threadIdx.x) * 8;
    if (at >= hidden) break;
    float weights[8];
    read8(values[c], x + row + at);
    read8(grads[c], dy + row + at);
    read8(weights, weight + at);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      grads[c][i] *= weights[i];
      squares += values[c][i] * values[c][i];
      product += values[c][i] * grads[c][i];
    }
  }
  float2 sums = summed(squares, product);
  float scale = rsqrtf(sums.x / hidden + eps);
  float along = scale * scale * sums.y / hidden;
#pragma unroll
  for (int c = 0; c < EIGHTS; c++) {
    int at = (c * blockDim.x + threadIdx.x) * 8;
    if (at >= hidden) break;
    float more[8];
    read8(more, rest + (size_t)blockIdx.x * rest_pitch + at);
#pragma unroll
    for (int i = 0; i < 8; i++) more[i] += scale * (grads[c][i] - values[c][i] * along);
    write8(dx + (size_t)blockIdx.x * pitch + at, more);
    read8(more, weight + at);
#pragma unroll
    for (int i = 0; i < 8; i++) more[i] *= rounded(values[c][i] * scale);
    write8(dy + row + at, more);
  }
}
#endif

#ifdef HEAD
#define TILES (HEAD / 16)

// The first `turning` heads of qkv [rows, width] are turned in place. cos and sin [rows, HEAD]
// have the same in both halves. Grid (rows, blocks).
extern "C" __global__ void turn(u16* qkv, const u16* cos, const u16* sin, int turning, int width) {
  wait_for_others();
  int unit = blockIdx.y * blockDim.x + threadIdx.x;
  int head = unit / TILES, at = unit % TILES * 8;
  if (head >= turning) return;
  u16* place = qkv + (size_t)blockIdx.x * width + head * HEAD + at;
  float low[8], high[8], cosines[8], sines[8];
  read8(low, place);
  read8(high, place + HEAD / 2);
  read8(cosines, cos + (size_t)blockIdx.x * HEAD + at);
  read8(sines, sin + (size_t)blockIdx.x * HEAD + at);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    float x1 = low[i], x2 = high[i];
    low[i] = x1 * cosines[i] - x2 * sines[i];
    high[i] = x2 * cosines[i] + x1 * sines[i];
  }
  write8(place, low);
  write8(place + HEAD / 2, high);
}

// The gradients of queries, keys and values after turning, [rows, heads of each, HEAD], become
// that of qkv before it [rows, pitch]. Grid (rows, blocks).
extern "C" __global__ void turn_backward(const u16* dq, const u16* dk, const u16* dv,
                                         const u16* cos, const u16* sin, u16* dqkv, int heads,
                                         int kv_heads, int pitch) {
  wait_for_others();
  int unit = blockIdx.y * blockDim.x + threadIdx.x;
  int head = unit / TILES, at = unit % TILES * 8;
  if (head >= heads + 2 * kv_heads) return;
  size_t row = blockIdx.x;
  const u16* from;
  if (head < heads)
    from = dq + (row * heads + head) * HEAD;
  else if (head < heads + kv_heads)
    from = dk + (row * kv_heads + head - heads) * HEAD;
  else
    from = dv + (row * kv_heads + head - heads - kv_heads) * HEAD;
  float low[8], high[8];
  read8(low, from + at);
  read8(high, from + HEAD / 2 + at);
  if (head < heads + kv_heads) {
    float cosines[8], sines[8];
    read8(cosines, cos + row * HEAD + at);
    read8(sines, sin + row * HEAD + at);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      float d1 = low[i], d2 = high[i];
      low[i] = d1 * cosines[i] + d2 * sines[i];
      high[i] = d2 * cosines[i] - d1 * sines[i];
    }
  }
  u16* to = dqkv + row * pitch + head * HEAD + at;
  write8(to, low);
  write8(to + HEAD / 2, high);
}
#endif

#if !defined(EIGHTS) && !defined(HEAD)
// silu(gate) * up: gate_up [rows, 2 * middle] to y [rows, pitch], eight a thread. Grid (rows, .).
extern "C" __global__ void gate(const u16* gate_up, u16* y, int middle, int pitch) {
  wait_for_others();
  int at = (blockIdx.y * blockDim.x + threadIdx.x) * 8;
  if (at >= middle) return;
  const u16* from = gate_up + (size_t)blockIdx.x * 2 * middle + at;
  float gates[8], ups[8];
  read8(gates, from);
  read8(ups, from + middle);
#pragma unroll
  for (int i = 0; i < 8; i++) ups[i] *= rounded(gates[i] / (1.0f + __expf(-gates[i])));
  write8(y + (size_t)blockIdx.x * pitch + at, ups);
}

// The gradient of y becomes that of gate and up, in `grads` [rows, pitch], and y itself is written
// in its place, as the gradient of a LoRA wants it. Grid (rows, .).
extern "C" __global__ void gate_backward(const u16* gate_up, u16* dy, u16* grads, int middle,
                                         int pitch) {
  wait_for_others();
  int at = (blockIdx.y * blockDim.x + threadIdx.x) * 8;
  if (at >= middle) return;
  const u16* from = gate_up + (size_t)blockIdx.x * 2 * middle + at;
  u16* place = dy + (size_t)blockIdx.x * middle + at;
  u16* to = grads + (size_t)blockIdx.x * pitch + at;
  float gates[8], ups[8], outer[8], values[8];
  read8(gates, from);
  read8(ups, from + middle);
  read8(outer, place);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    float open = 1.0f / (1.0f + __expf(-gates[i]));
    float silu = gates[i] * open;
    values[i] = rounded(silu) * ups[i];
    gates[i] = outer[i] * ups[i] * open * (1.0f + gates[i] * (1.0f - open));
    ups[i] = outer[i] * silu;
  }
  write8(place, values);
  write8(to, gates);
  write8(to + middle, ups);
}

// Of logits [rows, pitch], of which `vocabulary` count: the cross entropy with `labels`, and in
// their place its gradient. A row for each block, which goes through it twice.
extern "C" __global__ void __launch_bounds__(512)
    cross_entropy(u16* logits, const long long* labels, float* losses, int vocabulary, int pitch) {
  __shared__ float tops[WARPS], sums[WARPS];
  wait_for_others();
  u16* row = logits + (size_t)blockIdx.x * pitch;
  int label = (int)labels[blockIdx.x];
  float top = -1e30f, sum = 0.0f;
  for (int at = threadIdx.x * 8; at < vocabulary; at += blockDim.x * 8) {
    float values[8], most = top;
    read8(values, row + at);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      values[i] = at + i < vocabulary ? values[i] : -1e30f;
      most = fmaxf(most, values[i]);
    }
    sum *= __expf(top - most);
    top = most;
#pragma unroll
    for (int i = 0; i < 8; i++) sum += at + i < vocabulary ? __expf(values[i] - top) : 0.0f;
  }
#pragma unroll
  for (int step = 16; step; step >>= 1) {
    float other_top = __shfl_xor_sync(0xFFFFFFFFu, top, step);
    float other_sum = __shfl_xor_sync(0xFFFFFFFFu, sum, step);
    float most = fmaxf(top, other_top);
    sum = sum * __expf(top - most) + other_sum * __expf(other_top - most);
    top = most;
  }
  if (threadIdx.x % 32 == 0) tops[threadIdx.x / 32] = top, sums[threadIdx.x / 32] = sum;
  __syncthreads();
  top = tops[0];
  for (int w = 1; w < blockDim.x / 32; w++) top = fmaxf(top, tops[w]);
  sum = 0.0f;
  for (int w = 0; w < blockDim.x / 32; w++) sum += sums[w] * __expf(tops[w] - top);
  if (threadIdx.x == 0) losses[blockIdx.x] = __logf(sum) + top - wide(row[label]);
  __syncthreads();
  float share = 1.0f / sum;
  for (int at = threadIdx.x * 8; at < vocabulary; at += blockDim.x * 8) {
    float values[8];
    read8(values, row + at);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      values[i] = __expf(values[i] - top) * share - (at + i == label ? 1.0f : 0.0f);
      values[i] = at + i < vocabulary ? values[i] : 0.0f;
    }
    write8(row + at, values);
  }
}
#endif
