// y_r = x[index_r]. Backward: a scatter.
#include "scatter.cuh"

struct SelectRowsArguments {
  const void* x;
  const int* index;
  void* y;
  long long rows;
  int width;
  int padding;
};

// One warp per row.
template <class T>
__device__ void select_rows(const SelectRowsArguments& a) {
  constexpr int N = Lanes<T>::n;
  const bool wide = a.width % N == 0;
  const int lane = threadIdx.x % 32;
  for (long long row = blockIdx.x * 8ll + threadIdx.x / 32; row < a.rows; row += gridDim.x * 8ll) {
    const T* from = static_cast<const T*>(a.x) + static_cast<long long>(a.index[row]) * a.width;
    for (int column = lane * N; column < a.width; column += 32 * N) {
      float x[N];
      load(x, from + column, a.width - column, wide);
      store(static_cast<T*>(a.y) + row * a.width + column, x, a.width - column, wide);
    }
  }
}

KERNEL(select_rows_f32, SelectRowsArguments, 256) { select_rows<float>(a); }
KERNEL(select_rows_bf16, SelectRowsArguments, 256) { select_rows<bf16>(a); }
KERNEL(select_rows_backward_f32, ScatterArguments, 256) { scatter<float, float>(a); }
KERNEL(select_rows_backward_bf16, ScatterArguments, 256) { scatter<bf16, bf16>(a); }
