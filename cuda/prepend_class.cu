// The class token before each image's patches, and positions onto all. The patches' gradient: their rows of dy.
#include "vector.cuh"

struct PrependClassArguments {
  const void* patches;
  const float* cls;
  const float* positions;
  void* y;
  long long rows;
  // Of an image, with the class token.
  int tokens;
  int width;
};

// One warp per row of y.
template <class T>
__device__ void prepend_class(const PrependClassArguments& a) {
  constexpr int N = Lanes<T>::n;
  const bool wide = a.width % N == 0;
  const int lane = threadIdx.x % 32;
  for (long long row = blockIdx.x * 8ll + threadIdx.x / 32; row < a.rows; row += gridDim.x * 8ll) {
    const long long image = row / a.tokens;
    const int token = row % a.tokens;
    for (int column = lane * N; column < a.width; column += 32 * N) {
      const int count = a.width - column;
      float x[N], p[N];
      if (token == 0) load(x, a.cls + column, count, wide);
      else load(x, static_cast<const T*>(a.patches) + (row - image - 1) * a.width + column, count, wide);
      load(p, a.positions + static_cast<long long>(token) * a.width + column, count, wide);
#pragma unroll
      for (int i = 0; i < N; i++) x[i] += p[i];
      store(static_cast<T*>(a.y) + row * a.width + column, x, count, wide);
    }
  }
}

KERNEL(prepend_class_f32, PrependClassArguments, 256) { prepend_class<float>(a); }
KERNEL(prepend_class_bf16, PrependClassArguments, 256) { prepend_class<bf16>(a); }

struct PrependClassBackwardArguments {
  const void* dy;
  void* dpatches;
  // Of patches.
  long long rows;
  int len;
  int width;
  int add;
  int padding;
};

// One warp per row of patches.
template <class T>
__device__ void prepend_class_backward(const PrependClassBackwardArguments& a) {
  constexpr int N = Lanes<T>::n;
  const bool wide = a.width % N == 0;
  const int lane = threadIdx.x % 32;
  for (long long row = blockIdx.x * 8ll + threadIdx.x / 32; row < a.rows; row += gridDim.x * 8ll) {
    const long long from = row + row / a.len + 1;
    for (int column = lane * N; column < a.width; column += 32 * N) {
      float x[N];
      load(x, static_cast<const T*>(a.dy) + from * a.width + column, a.width - column, wide);
      contribute(static_cast<T*>(a.dpatches) + row * a.width + column, x, a.width - column, wide, a.add);
    }
  }
}

KERNEL(prepend_class_backward_f32, PrependClassBackwardArguments, 256) { prepend_class_backward<float>(a); }
KERNEL(prepend_class_backward_bf16, PrependClassBackwardArguments, 256) { prepend_class_backward<bf16>(a); }
