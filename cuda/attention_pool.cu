// Attention of one query an image: p = softmax(s K q), o = Σ_t p_t v_t; backward: dv_t = p_t do,
// dl = p ∘ (V do − Σ_t p_t (do·v_t)), dk_t = s dl_t q, dq = s Σ_t dl_t k_t, with s = 1/√dim.
//
// Memory-bound: 4 FLOP an element of K and V forward, 8 backward, against 2 or 4 bytes read (and as many written
// backward), once each. A block takes a head of an image: RN50's 50 tokens of 64 columns are 2 · 6.4 KB in bf16, many
// blocks an SM, so that their loads overlap. A token's columns go to as few lanes as hold them 16 bytes each, and a
// warp takes as many tokens at a time; wider heads go by in chunks.
#include "reduce.cuh"
#include "vector.cuh"

constexpr int THREADS = 128;
constexpr int WARPS = THREADS / 32;

struct AttentionPoolArguments {
  const void* q;
  const void* k;
  const void* v;
  void* out;
  // [batch, heads, tokens]
  float* probabilities;
  int tokens;
  int heads;
  int dim;
  // 1/√dim
  float scale;
};

// Lanes around a token, and what of it is this thread's.
template <class T>
struct Share {
  static constexpr int N = Lanes<T>::n;
  int lanes, lane;
  // First token, and tokens that the block takes at a time.
  int first, step;

  __device__ __forceinline__ explicit Share(int dim) {
    lanes = 1;
    while (lanes < 32 && lanes * N < dim) lanes *= 2;
    lane = threadIdx.x % lanes;
    first = threadIdx.x / lanes;
    step = THREADS / lanes;
  }

  // Σ v over a token's lanes.
  __device__ __forceinline__ float sum(float v) const {
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1) {
      const float other = __shfl_xor_sync(0xffffffffu, v, mask);
      if (mask < lanes) v += other;
    }
    return v;
  }

  // to[column] = factor Σ x over the block's tokens, for columns that the first token's lanes hold. The next call
  // takes other scratch, and the one after it comes past the next one's barrier: one barrier a call is enough.
  __device__ __forceinline__ void gather(T* to, float (&x)[N], int count, bool wide, bool add, float factor,
                                         float (*scratch)[32 * N]) const {
#pragma unroll
    for (int i = 0; i < N; i++) {
#pragma unroll
      for (int mask = 16; mask > 0; mask >>= 1) {
        const float other = __shfl_xor_sync(0xffffffffu, x[i], mask);
        if (mask >= lanes) x[i] += other;
      }
      if (threadIdx.x % 32 < lanes) scratch[threadIdx.x / 32][lane * N + i] = x[i];
    }
    __syncthreads();
    if (threadIdx.x < lanes && count > 0) {
#pragma unroll
      for (int i = 0; i < N; i++) {
        float total = 0;
        for (int warp = 0; warp < WARPS; warp++) total += scratch[warp][lane * N + i];
        x[i] = factor * total;
      }
      contribute(to, x, count, wide, add);
    }
  }
};

template <class T>
__device__ __forceinline__ void attention_pool(const AttentionPoolArguments& a) {
  constexpr int N = Lanes<T>::n;
  __shared__ float scratch[2][WARPS][32 * N];
  SHARED_DYNAMIC(float, logits);
  const Share<T> share(a.dim);
  const bool wide = a.dim % N == 0;
  const int head = blockIdx.x % a.heads, width = a.heads * a.dim;
  const long long image = blockIdx.x / a.heads;
  const long long column = image * width + head * a.dim, tokens = image * a.tokens * width + head * a.dim;
  const T* q = static_cast<const T*>(a.q) + column;
  const T* k = static_cast<const T*>(a.k) + tokens;
  const T* v = static_cast<const T*>(a.v) + tokens;
  for (int base = 0; base < a.tokens; base += share.step) {
    const int token = base + share.first;
    float dot = 0;
    for (int at = share.lane * N; at < a.dim && token < a.tokens; at += share.lanes * N) {
      float x[N], y[N];
      load(x, q + at, a.dim - at, wide);
      load(y, k + token * static_cast<long long>(width) + at, a.dim - at, wide);
#pragma unroll
      for (int i = 0; i < N; i++) dot += x[i] * y[i];
    }
    dot = share.sum(dot);
    if (share.lane == 0 && token < a.tokens) logits[token] = dot * a.scale;
  }
  __syncthreads();
  // Every warp makes the same maximum and sum.
  float most = __uint_as_float(0xff800000u), sum = 0;
  for (int token = threadIdx.x % 32; token < a.tokens; token += 32) most = max(most, logits[token]);
#pragma unroll
  for (int mask = 16; mask > 0; mask >>= 1) most = max(most, __shfl_xor_sync(0xffffffffu, most, mask));
  for (int token = threadIdx.x % 32; token < a.tokens; token += 32) sum += expf(logits[token] - most);
  const float inverse = 1.f / warp_sum(sum);
  float* probabilities = a.probabilities + static_cast<long long>(blockIdx.x) * a.tokens;
  for (int token = threadIdx.x; token < a.tokens; token += THREADS) {
    probabilities[token] = expf(logits[token] - most) * inverse;
  }
  for (int chunk = 0; chunk < a.dim; chunk += share.lanes * N) {
    const int at = chunk + share.lane * N;
    float o[N] = {};
    if (at < a.dim) {
      for (int token = share.first; token < a.tokens; token += share.step) {
        const float p = expf(logits[token] - most);
        float x[N];
        load(x, v + token * static_cast<long long>(width) + at, a.dim - at, wide);
#pragma unroll
        for (int i = 0; i < N; i++) o[i] += p * x[i];
      }
    }
    share.gather(static_cast<T*>(a.out) + column + at, o, a.dim - at, wide, false, inverse,
                 scratch[chunk / (share.lanes * N) % 2]);
  }
}

KERNEL(attention_pool_f32, AttentionPoolArguments, THREADS) { attention_pool<float>(a); }
KERNEL(attention_pool_bf16, AttentionPoolArguments, THREADS) { attention_pool<bf16>(a); }

struct AttentionPoolBackwardArguments {
  const void* dout;
  const void* q;
  const void* k;
  const void* v;
  const float* probabilities;
  // Null if not wanted.
  void* dq;
  void* dk;
  void* dv;
  int tokens;
  int heads;
  int dim;
  float scale;
  int add_dq;
  int add_dk;
  int add_dv;
  int padding;
};

template <class T>
__device__ __forceinline__ void attention_pool_backward(const AttentionPoolBackwardArguments& a) {
  constexpr int N = Lanes<T>::n;
  __shared__ float scratch[2][WARPS][32 * N];
  SHARED_DYNAMIC(float, products);  // do·v_t
  const Share<T> share(a.dim);
  const bool wide = a.dim % N == 0;
  const int head = blockIdx.x % a.heads, width = a.heads * a.dim;
  const long long image = blockIdx.x / a.heads;
  const long long column = image * width + head * a.dim, tokens = image * a.tokens * width + head * a.dim;
  const T* q = static_cast<const T*>(a.q) + column;
  const T* dout = static_cast<const T*>(a.dout) + column;
  const float* probabilities = a.probabilities + static_cast<long long>(blockIdx.x) * a.tokens;
  for (int base = 0; base < a.tokens; base += share.step) {
    const int token = base + share.first;
    const long long row = tokens + token * static_cast<long long>(width);
    float dot = 0;
    for (int at = share.lane * N; at < a.dim && token < a.tokens; at += share.lanes * N) {
      float d[N], x[N];
      load(d, dout + at, a.dim - at, wide);
      load(x, static_cast<const T*>(a.v) + row + at, a.dim - at, wide);
      const float p = probabilities[token];
#pragma unroll
      for (int i = 0; i < N; i++) {
        dot += d[i] * x[i];
        x[i] = p * d[i];
      }
      if (a.dv) contribute(static_cast<T*>(a.dv) + row + at, x, a.dim - at, wide, a.add_dv);
    }
    dot = share.sum(dot);
    if (share.lane == 0 && token < a.tokens) products[token] = dot;
  }
  if (a.dq == nullptr && a.dk == nullptr) return;
  __syncthreads();
  float mean = 0;
  for (int token = threadIdx.x % 32; token < a.tokens; token += 32) mean += probabilities[token] * products[token];
  mean = warp_sum(mean);
  for (int chunk = 0; chunk < a.dim; chunk += share.lanes * N) {
    const int at = chunk + share.lane * N;
    float dq[N] = {};
    if (at < a.dim) {
      float query[N];
      load(query, q + at, a.dim - at, wide);
      for (int token = share.first; token < a.tokens; token += share.step) {
        const long long row = tokens + token * static_cast<long long>(width);
        const float dl = a.scale * probabilities[token] * (products[token] - mean);
        float x[N];
        if (a.dq) {
          load(x, static_cast<const T*>(a.k) + row + at, a.dim - at, wide);
#pragma unroll
          for (int i = 0; i < N; i++) dq[i] += dl * x[i];
        }
        if (a.dk) {
#pragma unroll
          for (int i = 0; i < N; i++) x[i] = dl * query[i];
          contribute(static_cast<T*>(a.dk) + row + at, x, a.dim - at, wide, a.add_dk);
        }
      }
    }
    if (a.dq) share.gather(static_cast<T*>(a.dq) + column + at, dq, a.dim - at, wide, a.add_dq, 1.f,
                           scratch[chunk / (share.lanes * N) % 2]);
  }
}

KERNEL(attention_pool_backward_f32, AttentionPoolBackwardArguments, THREADS) { attention_pool_backward<float>(a); }
KERNEL(attention_pool_backward_bf16, AttentionPoolBackwardArguments, THREADS) { attention_pool_backward<bf16>(a); }
