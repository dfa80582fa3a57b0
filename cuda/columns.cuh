// Sums over the rows of a matrix, first stage: each block sums a chunk of rows of a tile of columns into
// partials [chunk, columns]. `column_sums_finish` adds the chunks up.
#pragma once
#include "vector.cuh"

// Warps of a block, each taking every eighth row of the chunk.
constexpr int COLUMN_LINES = 8;

// values(row, column, x) gives the elements from `column` on, zeros beyond the matrix, and is called once for
// every element, so that it may write results of its own. partials may be null: then nothing is summed.
template <class T, class Values>
__device__ __forceinline__ void column_partials(long long rows, int columns, long long chunk, float* partials, Values values) {
  constexpr int N = Lanes<T>::n;
  __shared__ float shared[COLUMN_LINES][32 * N];
  const int lane = threadIdx.x % 32, line = threadIdx.x / 32;
  const int column = (blockIdx.x * 32 + lane) * N;
  const long long first = blockIdx.y * chunk, last = first + chunk < rows ? first + chunk : rows;
  float sum[N] = {};
  if (column < columns) {
#pragma unroll 4
    for (long long row = first + line; row < last; row += COLUMN_LINES) {
      float x[N];
      values(row, column, x);
#pragma unroll
      for (int i = 0; i < N; i++) sum[i] += x[i];
    }
  }
  if (partials == nullptr) return;
#pragma unroll
  for (int i = 0; i < N; i++) shared[line][lane * N + i] = sum[i];
  __syncthreads();
  for (int i = threadIdx.x; i < 32 * N; i += 32 * COLUMN_LINES) {
    const int c = blockIdx.x * 32 * N + i;
    if (c >= columns) continue;
    float total = 0;
    for (int l = 0; l < COLUMN_LINES; l++) total += shared[l][i];
    partials[static_cast<long long>(blockIdx.y) * columns + c] = total;
  }
}
