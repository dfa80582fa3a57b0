// s_c = Σ_r x_rc over the first columns of x [rows, stride] in two stages of fixed order, and the second stage for the partial sums of other kernels.
#include "columns.cuh"

struct ColumnSumsArguments {
  const void* x;
  float* partials;
  long long rows;
  long long chunk;
  long long stride;
  int columns;
  int padding;
};

template <class T>
__device__ void column_sums(const ColumnSumsArguments& a) {
  constexpr int N = Lanes<T>::n;
  const bool wide = a.stride % N == 0;
  column_partials<T>(a.rows, a.columns, a.chunk, a.partials, [&](long long row, int column, float(&x)[N]) {
    load(x, static_cast<const T*>(a.x) + row * a.stride + column, a.columns - column, wide);
  });
}

KERNEL(column_sums_f32, ColumnSumsArguments, 256) { column_sums<float>(a); }
KERNEL(column_sums_bf16, ColumnSumsArguments, 256) { column_sums<bf16>(a); }

struct FinishArguments {
  // [count, stride], of which the first `columns` columns are summed.
  const float* partials;
  float* sums;
  long long stride;
  int count;
  int columns;
  int add;
  int padding;
};

// A block sums 32 columns, eight lines of partials at a time.
KERNEL(column_sums_finish, FinishArguments, 256) {
  __shared__ float shared[8][32];
  const int lane = threadIdx.x % 32, line = threadIdx.x / 32;
  const int column = blockIdx.x * 32 + lane;
  float sum = 0;
  if (column < a.columns) {
    for (int k = line; k < a.count; k += 8) sum += a.partials[k * a.stride + column];
  }
  shared[line][lane] = sum;
  __syncthreads();
  if (line > 0 || column >= a.columns) return;
  float total = 0;
  for (int l = 0; l < 8; l++) total += shared[l][lane];
  a.sums[column] = a.add ? a.sums[column] + total : total;
}
