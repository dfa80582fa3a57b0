// The mean of an image's pixels before them, and positions onto all. A pixel's gradient: its own row of dy, and its
// share of the mean's.
#include "vector.cuh"

struct PrependMeanArguments {
  const void* x;
  const float* positions;
  void* y;
  int pixels;
  int width;
};

// One block per image (x) and tile of columns (y): warps take every eighth pixel, and what they summed is added in
// the warps' order.
template <class T>
__device__ void prepend_mean(const PrependMeanArguments& a) {
  constexpr int N = Lanes<T>::n, LINES = 8;
  __shared__ float shared[LINES][32 * N];
  const bool wide = a.width % N == 0;
  const int lane = threadIdx.x % 32, line = threadIdx.x / 32;
  const int tile = blockIdx.y * 32 * N, column = tile + lane * N;
  const T* x = static_cast<const T*>(a.x) + static_cast<long long>(blockIdx.x) * a.pixels * a.width;
  T* y = static_cast<T*>(a.y) + static_cast<long long>(blockIdx.x) * (a.pixels + 1) * a.width;
  float sum[N] = {};
  if (column < a.width) {
    const int count = a.width - column;
    for (int pixel = line; pixel < a.pixels; pixel += LINES) {
      float v[N], p[N];
      load(v, x + static_cast<long long>(pixel) * a.width + column, count, wide);
      load(p, a.positions + (pixel + 1ll) * a.width + column, count, wide);
#pragma unroll
      for (int i = 0; i < N; i++) {
        sum[i] += v[i];
        v[i] += p[i];
      }
      store(y + (pixel + 1ll) * a.width + column, v, count, wide);
    }
  }
#pragma unroll
  for (int i = 0; i < N; i++) shared[line][lane * N + i] = sum[i];
  __syncthreads();
  for (int i = threadIdx.x; i < 32 * N; i += 256) {
    if (tile + i >= a.width) continue;
    float total = 0;
    for (int l = 0; l < LINES; l++) total += shared[l][i];
    put(y + tile + i, total / a.pixels + a.positions[tile + i]);
  }
}

KERNEL(prepend_mean_f32, PrependMeanArguments, 256) { prepend_mean<float>(a); }
KERNEL(prepend_mean_bf16, PrependMeanArguments, 256) { prepend_mean<bf16>(a); }

struct PrependMeanBackwardArguments {
  const void* dy;
  void* dx;
  // Of x: all pixels.
  long long rows;
  int pixels;
  int width;
  int add;
  int padding;
};

// One warp per pixel.
template <class T>
__device__ void prepend_mean_backward(const PrependMeanBackwardArguments& a) {
  constexpr int N = Lanes<T>::n;
  const bool wide = a.width % N == 0;
  const int lane = threadIdx.x % 32;
  const float share = 1.f / a.pixels;
  for (long long row = blockIdx.x * 8ll + threadIdx.x / 32; row < a.rows; row += gridDim.x * 8ll) {
    const long long image = row / a.pixels;
    const T* mean = static_cast<const T*>(a.dy) + image * (a.pixels + 1) * a.width;
    const T* own = static_cast<const T*>(a.dy) + (row + image + 1) * a.width;
    for (int column = lane * N; column < a.width; column += 32 * N) {
      float x[N], m[N];
      load(x, own + column, a.width - column, wide);
      load(m, mean + column, a.width - column, wide);
#pragma unroll
      for (int i = 0; i < N; i++) x[i] += share * m[i];
      contribute(static_cast<T*>(a.dx) + row * a.width + column, x, a.width - column, wide, a.add);
    }
  }
}

KERNEL(prepend_mean_backward_f32, PrependMeanBackwardArguments, 256) { prepend_mean_backward<float>(a); }
KERNEL(prepend_mean_backward_bf16, PrependMeanBackwardArguments, 256) { prepend_mean_backward<bf16>(a); }
