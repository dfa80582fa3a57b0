// Means over tiles of pixels, and each pixel's share of their gradients. Of x every element is read (written) once, 16
// bytes at a time: what a memory-bound kernel may cost.
#include "vector.cuh"

struct AvgPoolArguments {
  // x; dy during backward.
  const void* source;
  // y, or dx.
  void* to;
  // Of y: rows of all images, pixels of a row.
  int rows;
  int width;
  int channels;
  int size;
  int add;
  int unused;
};

// Calls f(first element in y, the same in the first pixel of its tile in x, elements there) for every unit of y.
template <int N, class F>
__device__ __forceinline__ void for_each_tile(const AvgPoolArguments& a, F f) {
  const unsigned units = (a.channels + N - 1) / N, n = static_cast<unsigned>(a.rows) * a.width * units;
  for (unsigned i = blockIdx.x * 256u + threadIdx.x; i < n; i += gridDim.x * 256u) {
    const unsigned pixel = i / units, column = i % units * N;
    const unsigned row = pixel / a.width, x = pixel % a.width;
    const long long corner = (static_cast<long long>(row) * a.size * a.width + x) * a.size;
    f(static_cast<long long>(pixel) * a.channels + column, corner * a.channels + column,
      a.channels - static_cast<int>(column));
  }
}

template <class T>
__device__ __forceinline__ void avg_pool(const AvgPoolArguments& a) {
  constexpr int N = Lanes<T>::n;
  const bool wide = a.channels % N == 0;
  const float share = 1.f / (a.size * a.size);
  for_each_tile<N>(a, [&](long long of_y, long long of_x, int count) {
    float sum[N] = {};
    for (int u = 0; u < a.size; u++) {
#pragma unroll 2
      for (int v = 0; v < a.size; v++) {
        float x[N];
        const long long pixel = static_cast<long long>(u) * a.width * a.size + v;
        load(x, static_cast<const T*>(a.source) + of_x + pixel * a.channels, count, wide);
#pragma unroll
        for (int k = 0; k < N; k++) sum[k] += x[k];
      }
    }
#pragma unroll
    for (int k = 0; k < N; k++) sum[k] *= share;
    store(static_cast<T*>(a.to) + of_y, sum, count, wide);
  });
}

template <class T>
__device__ __forceinline__ void avg_pool_backward(const AvgPoolArguments& a) {
  constexpr int N = Lanes<T>::n;
  const bool wide = a.channels % N == 0;
  const float share = 1.f / (a.size * a.size);
  for_each_tile<N>(a, [&](long long of_y, long long of_x, int count) {
    float dy[N];
    load(dy, static_cast<const T*>(a.source) + of_y, count, wide);
#pragma unroll
    for (int k = 0; k < N; k++) dy[k] *= share;
    for (int u = 0; u < a.size; u++) {
      for (int v = 0; v < a.size; v++) {
        const long long pixel = static_cast<long long>(u) * a.width * a.size + v;
        float x[N];
#pragma unroll
        for (int k = 0; k < N; k++) x[k] = dy[k];
        contribute(static_cast<T*>(a.to) + of_x + pixel * a.channels, x, count, wide, a.add);
      }
    }
  });
}

KERNEL(avg_pool_f32, AvgPoolArguments, 256) { avg_pool<float>(a); }
KERNEL(avg_pool_bf16, AvgPoolArguments, 256) { avg_pool<bf16>(a); }
KERNEL(avg_pool_backward_f32, AvgPoolArguments, 256) { avg_pool_backward<float>(a); }
KERNEL(avg_pool_backward_bf16, AvgPoolArguments, 256) { avg_pool_backward<bf16>(a); }
