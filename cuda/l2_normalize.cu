// y = x / max(‖x‖, 1e-12), one row per warp: x in the activations' type, y and the factor in f32. A row is read
// again, from the caches, once its length is known.
#include "reduce.cuh"
#include "vector.cuh"

struct L2NormalizeArguments {
  const void* x;
  float* y;
  float* inverse;
  long long rows;
  int width;
  int padding;
};

template <class T>
__device__ void l2_normalize(const L2NormalizeArguments& a) {
  constexpr int N = Lanes<T>::n;
  const bool wide = a.width % N == 0;
  const long long row = blockIdx.x * 8ll + threadIdx.x / 32;
  if (row >= a.rows) return;  // whole warps: no collective is missed
  const int lane = threadIdx.x % 32;
  const T* from = static_cast<const T*>(a.x) + row * a.width;
  float squares = 0;
  for (int column = lane * N; column < a.width; column += 32 * N) {
    float x[N];
    load(x, from + column, a.width - column, wide);
#pragma unroll
    for (int i = 0; i < N; i++) squares += x[i] * x[i];
  }
  const float inverse = 1.f / fmaxf(sqrtf(warp_sum(squares)), 1e-12f);
  for (int column = lane * N; column < a.width; column += 32 * N) {
    float x[N];
    load(x, from + column, a.width - column, wide);
#pragma unroll
    for (int i = 0; i < N; i++) x[i] *= inverse;
    store(a.y + row * a.width + column, x, a.width - column, wide);
  }
  if (lane == 0) a.inverse[row] = inverse;
}

KERNEL(l2_normalize_f32, L2NormalizeArguments, 256) { l2_normalize<float>(a); }
KERNEL(l2_normalize_bf16, L2NormalizeArguments, 256) { l2_normalize<bf16>(a); }

struct L2NormalizeBackwardArguments {
  const float* dy;
  const float* y;
  const float* inverse;
  void* dx;
  long long rows;
  int width;
  int add;
};

// dx = (dy − (dy·y) y) / ‖x‖.
template <class T>
__device__ void l2_normalize_backward(const L2NormalizeBackwardArguments& a) {
  constexpr int N = Lanes<T>::n;
  const bool wide = a.width % N == 0;
  const long long row = blockIdx.x * 8ll + threadIdx.x / 32;
  if (row >= a.rows) return;
  const int lane = threadIdx.x % 32;
  const long long at = row * a.width;
  float along = 0;
  for (int column = lane * N; column < a.width; column += 32 * N) {
    float dy[N], y[N];
    load(dy, a.dy + at + column, a.width - column, wide);
    load(y, a.y + at + column, a.width - column, wide);
#pragma unroll
    for (int i = 0; i < N; i++) along += dy[i] * y[i];
  }
  along = warp_sum(along);
  const float inverse = a.inverse[row];
  for (int column = lane * N; column < a.width; column += 32 * N) {
    float dy[N], y[N];
    load(dy, a.dy + at + column, a.width - column, wide);
    load(y, a.y + at + column, a.width - column, wide);
#pragma unroll
    for (int i = 0; i < N; i++) dy[i] = inverse * (dy[i] - along * y[i]);
    contribute(static_cast<T*>(a.dx) + at + column, dy, a.width - column, wide, a.add);
  }
}

KERNEL(l2_normalize_backward_f32, L2NormalizeBackwardArguments, 256) { l2_normalize_backward<float>(a); }
KERNEL(l2_normalize_backward_bf16, L2NormalizeBackwardArguments, 256) { l2_normalize_backward<bf16>(a); }
