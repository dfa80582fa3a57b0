// y = (x − μ) r ∘ γ + β with r = 1/√(σ² + ε), a row at a time; μ and r are kept for backward.
//
// GROUP threads hold a row in registers, up to CAPACITY elements each: a warp takes rows of up to 1024
// elements, a block those of up to 8192. So x is read once, and the variance is a sum of squared distances
// from the mean, which does not cancel.
#include "reduce.cuh"
#include "vector.cuh"

constexpr int THREADS = 256;

struct LayerNormArguments {
  const void* x;
  const float* gamma;
  const float* beta;
  void* y;
  float* mean;
  float* rstd;
  long long rows;
  int width;
  float eps;
};

template <int GROUP>
__device__ __forceinline__ float group_sum(float v, float* scratch) {
  if constexpr (GROUP == 32) return warp_sum(v);
  else return block_sum<GROUP>(v, scratch);
}

template <class T, int GROUP, int CAPACITY>
__device__ __forceinline__ void layer_norm(const LayerNormArguments& a) {
  constexpr int N = Lanes<T>::n, VECTORS = CAPACITY / N;
  __shared__ float scratch[THREADS / 32];
  const bool wide = a.width % N == 0;
  const int thread = threadIdx.x % GROUP;
  const long long row = static_cast<long long>(blockIdx.x) * (THREADS / GROUP) + threadIdx.x / GROUP;
  if (row >= a.rows) return;  // whole groups: no collective is missed
  const T* from = static_cast<const T*>(a.x) + row * a.width;
  float x[VECTORS][N];
  float sum = 0;
#pragma unroll
  for (int k = 0; k < VECTORS; k++) {
    const int column = (k * GROUP + thread) * N;
    if (column >= a.width) break;
    load(x[k], from + column, a.width - column, wide);
#pragma unroll
    for (int i = 0; i < N; i++) sum += x[k][i];
  }
  const float mean = group_sum<GROUP>(sum, scratch) / a.width;
  float squares = 0;
#pragma unroll
  for (int k = 0; k < VECTORS; k++) {
    const int column = (k * GROUP + thread) * N;
    if (column >= a.width) break;
#pragma unroll
    for (int i = 0; i < N; i++) {
      x[k][i] -= mean;
      if (column + i < a.width) squares += x[k][i] * x[k][i];
    }
  }
  const float rstd = 1.f / sqrtf(group_sum<GROUP>(squares, scratch) / a.width + a.eps);
  T* y = static_cast<T*>(a.y) + row * a.width;
#pragma unroll
  for (int k = 0; k < VECTORS; k++) {
    const int column = (k * GROUP + thread) * N;
    if (column >= a.width) break;
    float gamma[N], beta[N];
    load(gamma, a.gamma + column, a.width - column, wide);
    load(beta, a.beta + column, a.width - column, wide);
#pragma unroll
    for (int i = 0; i < N; i++) x[k][i] = x[k][i] * rstd * gamma[i] + beta[i];
    store(y + column, x[k], a.width - column, wide);
  }
  if (thread == 0) {
    a.mean[row] = mean;
    a.rstd[row] = rstd;
  }
}

struct LayerNormBackwardArguments {
  const void* dy;
  const void* x;
  const float* gamma;
  const float* mean;
  const float* rstd;
  // Null if not wanted.
  void* dx;
  // [blocks, 2, width]: each block's share of dγ and of dβ. Null if neither is wanted.
  float* partials;
  long long rows;
  int width;
  int add;
};

// dx = r (s − mean(s) − n mean(s ∘ n)) with s = dy ∘ γ and n = (x − μ) r; dγ = Σ dy ∘ n; dβ = Σ dy. A group
// takes every N-th row and keeps its share of the sums over rows in registers.
template <class T, int GROUP, int CAPACITY>
__device__ __forceinline__ void layer_norm_backward(const LayerNormBackwardArguments& a) {
  constexpr int N = Lanes<T>::n, VECTORS = CAPACITY / N, GROUPS = THREADS / GROUP;
  __shared__ float scratch[THREADS / 32];
  const bool wide = a.width % N == 0;
  const int thread = threadIdx.x % GROUP, group = threadIdx.x / GROUP;
  const float share = 1.f / a.width;
  float dgamma[VECTORS][N] = {}, dbeta[VECTORS][N] = {};
  for (long long row = static_cast<long long>(blockIdx.x) * GROUPS + group; row < a.rows;
       row += static_cast<long long>(gridDim.x) * GROUPS) {
    const long long at = row * a.width;
    const float mean = a.mean[row], rstd = a.rstd[row];
    float s[VECTORS][N], n[VECTORS][N];
    float along_one = 0, along_n = 0;
#pragma unroll
    for (int k = 0; k < VECTORS; k++) {
      const int column = (k * GROUP + thread) * N;
      if (column >= a.width) break;
      const int count = a.width - column;
      float gamma[N];
      load(s[k], static_cast<const T*>(a.dy) + at + column, count, wide);
      load(n[k], static_cast<const T*>(a.x) + at + column, count, wide);
      load(gamma, a.gamma + column, count, wide);
#pragma unroll
      for (int i = 0; i < N; i++) {
        n[k][i] = (n[k][i] - mean) * rstd;
        dgamma[k][i] += s[k][i] * n[k][i];
        dbeta[k][i] += s[k][i];
        s[k][i] *= gamma[i];
        along_one += s[k][i];
        along_n += s[k][i] * n[k][i];
      }
    }
    if (a.dx == nullptr) continue;
    along_one = group_sum<GROUP>(along_one, scratch) * share;
    along_n = group_sum<GROUP>(along_n, scratch) * share;
    T* dx = static_cast<T*>(a.dx) + at;
#pragma unroll
    for (int k = 0; k < VECTORS; k++) {
      const int column = (k * GROUP + thread) * N;
      if (column >= a.width) break;
#pragma unroll
      for (int i = 0; i < N; i++) s[k][i] = rstd * (s[k][i] - along_one - n[k][i] * along_n);
      contribute(dx + column, s[k], a.width - column, wide, a.add);
    }
  }
  if (a.partials == nullptr) return;
  float* partials = a.partials + static_cast<long long>(blockIdx.x) * 2 * a.width;
  if constexpr (GROUPS == 1) {
#pragma unroll
    for (int k = 0; k < VECTORS; k++) {
      const int column = (k * GROUP + thread) * N;
      if (column >= a.width) break;
      store(partials + column, dgamma[k], a.width - column, wide);
      store(partials + a.width + column, dbeta[k], a.width - column, wide);
    }
  } else {
    // The groups' shares of one vector of columns after another, added in the groups' order.
    __shared__ float shares[GROUPS][2][32 * N];
#pragma unroll
    for (int k = 0; k < VECTORS; k++) {
      if (k * GROUP * N >= a.width) break;
#pragma unroll
      for (int i = 0; i < N; i++) {
        shares[group][0][thread * N + i] = dgamma[k][i];
        shares[group][1][thread * N + i] = dbeta[k][i];
      }
      __syncthreads();
      for (int i = threadIdx.x; i < 2 * 32 * N; i += THREADS) {
        const int of = i / (32 * N), column = i % (32 * N);
        float total = 0;
        for (int g = 0; g < GROUPS; g++) total += shares[g][of][column];
        if (k * GROUP * N + column < a.width) partials[of * a.width + k * GROUP * N + column] = total;
      }
      __syncthreads();
    }
  }
}

#define LAYER_NORM(T, WIDTH, GROUP, CAPACITY)                                                  \
  KERNEL(layer_norm_##WIDTH##_##T, LayerNormArguments, THREADS) {                              \
    layer_norm<T##_element, GROUP, CAPACITY>(a);                                               \
  }                                                                                            \
  KERNEL(layer_norm_backward_##WIDTH##_##T, LayerNormBackwardArguments, THREADS) {             \
    layer_norm_backward<T##_element, GROUP, CAPACITY>(a);                                      \
  }

using f32_element = float;
using bf16_element = bf16;
LAYER_NORM(f32, 512, 32, 16)
LAYER_NORM(f32, 1024, 32, 32)
LAYER_NORM(f32, 8192, 256, 32)
LAYER_NORM(bf16, 512, 32, 16)
LAYER_NORM(bf16, 1024, 32, 32)
LAYER_NORM(bf16, 8192, 256, 32)
