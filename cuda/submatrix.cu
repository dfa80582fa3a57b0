// y_ij = r_i c_j x[rows_i, columns_j], and the gradients of x and both factors, in f32, for weights. Null factors are
// ones.
#include "columns.cuh"
#include "reduce.cuh"

struct SubmatrixArguments {
  // The matrix, and its submatrix or that one's gradient.
  const float* x;
  const float* dy;
  const int* rows;
  const int* columns;
  const float* r;
  const float* c;
  // y; dx, whose named entries gather; dr; or the partial sums of dc.
  float* out;
  // Columns of x.
  long long width;
  // Of the submatrix.
  long long height;
  int n;
  int add;
  long long chunk;
};

__device__ __forceinline__ float factor(const float* factors, long long i) { return factors == nullptr ? 1.f : factors[i]; }

__device__ __forceinline__ long long place(const SubmatrixArguments& a, long long i, int j) {
  return a.rows[i] * a.width + a.columns[j];
}

KERNEL(submatrix_f32, SubmatrixArguments, 256) {
  for_each_vector<1, 256>(a.height * a.n, [&](long long e, long long) {
    const long long i = e / a.n;
    const int j = static_cast<int>(e % a.n);
    a.out[e] = factor(a.r, i) * factor(a.c, j) * a.x[place(a, i, j)];
  });
}

// Rows and columns are named once each, so every entry of dx has one writer.
KERNEL(submatrix_backward_x_f32, SubmatrixArguments, 256) {
  for_each_vector<1, 256>(a.height * a.n, [&](long long e, long long) {
    const long long i = e / a.n;
    const int j = static_cast<int>(e % a.n);
    a.out[place(a, i, j)] += factor(a.r, i) * factor(a.c, j) * a.dy[e];
  });
}

// One block per row.
KERNEL(submatrix_backward_r_f32, SubmatrixArguments, 256) {
  __shared__ float scratch[8];
  for (long long i = blockIdx.x; i < a.height; i += gridDim.x) {
    float sum = 0;
    for (int j = threadIdx.x; j < a.n; j += 256) sum += factor(a.c, j) * a.dy[i * a.n + j] * a.x[place(a, i, j)];
    sum = block_sum<256>(sum, scratch);
    if (threadIdx.x == 0) a.out[i] = a.add ? a.out[i] + sum : sum;
  }
}

KERNEL(submatrix_backward_c_f32, SubmatrixArguments, 256) {
  constexpr int N = Lanes<float>::n;
  column_partials<float>(a.height, a.n, a.chunk, a.out, [&](long long i, int column, float(&x)[N]) {
#pragma unroll
    for (int k = 0; k < N; k++) {
      const int j = column + k;
      x[k] = j < a.n ? factor(a.r, i) * a.dy[i * a.n + j] * a.x[place(a, i, j)] : 0.f;
    }
  });
}
