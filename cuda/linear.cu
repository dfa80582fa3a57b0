// What a linear layer does beside its products: y = act(pre) + residual, and dpre = dy ∘ act′(pre) with the
// partial sums of its columns, which make the bias's gradient.
#include "columns.cuh"

// Of `Activation`, by number. GELU is the exact one: x Φ(x), Φ(x) = (1 + erf(x/√2)) / 2, Φ′(x) = exp(−x²/2) / √2π.
// QuickGELU is x σ(1.702 x), σ′ = σ (1 − σ).
constexpr unsigned GELU = 1;
constexpr float QUICK = 1.702f;

__device__ __forceinline__ float normal_cdf(float x) { return 0.5f + 0.5f * erff(x * 0.70710678f); }
__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

__device__ __forceinline__ float activation(unsigned kind, float x) {
  return x * (kind == GELU ? normal_cdf(x) : sigmoid(QUICK * x));
}

__device__ __forceinline__ float derivative(unsigned kind, float x) {
  if (kind == GELU) return normal_cdf(x) + x * 0.39894228f * expf(-0.5f * x * x);
  const float s = sigmoid(QUICK * x);
  return s + QUICK * x * s * (1.f - s);
}

struct ActivateArguments {
  const void* pre;
  // Null without a residual.
  const void* residual;
  // May be `pre`.
  void* y;
  long long n;
  unsigned activation;
  int padding;
};

template <class T>
__device__ void activate(const ActivateArguments& a) {
  constexpr int N = Lanes<T>::n;
  for_each_vector<N, 256>(a.n, [&](long long i, long long count) {
    float x[N], residual[N] = {};
    load(x, static_cast<const T*>(a.pre) + i, count, true);
    if (a.residual) load(residual, static_cast<const T*>(a.residual) + i, count, true);
#pragma unroll
    for (int k = 0; k < N; k++) x[k] = activation(a.activation, x[k]) + residual[k];
    store(static_cast<T*>(a.y) + i, x, count, true);
  });
}

KERNEL(activate_f32, ActivateArguments, 256) { activate<float>(a); }
KERNEL(activate_bf16, ActivateArguments, 256) { activate<bf16>(a); }

struct ActivateBackwardArguments {
  const void* pre;
  const void* dy;
  void* dpre;
  // [chunks, columns], or null if not wanted.
  float* partials;
  long long rows;
  long long chunk;
  int columns;
  unsigned activation;
};

template <class T>
__device__ void activate_backward(const ActivateBackwardArguments& a) {
  constexpr int N = Lanes<T>::n;
  const bool wide = a.columns % N == 0;
  column_partials<T>(a.rows, a.columns, a.chunk, a.partials, [&](long long row, int column, float(&d)[N]) {
    const long long at = row * a.columns + column;
    const int count = a.columns - column;
    float x[N];
    load(x, static_cast<const T*>(a.pre) + at, count, wide);
    load(d, static_cast<const T*>(a.dy) + at, count, wide);
#pragma unroll
    for (int i = 0; i < N; i++) d[i] *= derivative(a.activation, x[i]);
    store(static_cast<T*>(a.dpre) + at, d, count, wide);
  });
}

KERNEL(activate_backward_f32, ActivateBackwardArguments, 256) { activate_backward<float>(a); }
KERNEL(activate_backward_bf16, ActivateBackwardArguments, 256) { activate_backward<bf16>(a); }
