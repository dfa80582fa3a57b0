// Rows of a matrix summed into the rows of a table that an index names, in a fixed order and without atomics: the
// host sorts the index once, a block sums the rows of one table row.
#pragma once
#include "vector.cuh"

struct ScatterArguments {
  const void* dy;
  void* table;
  // For k below *distinct, row rows[k] of the table is named at order[starts[k] … starts[k + 1]). The number is
  // read from memory and is no argument: it changes with every batch.
  const int* distinct;
  const int* rows;
  const int* starts;
  const int* order;
  int width;
  // Without it, the table holds zeros.
  int add;
};

constexpr int SCATTER_LINES = 8;

// Warps take every eighth of the rows; their sums are added in the warps' order.
template <class From, class To>
__device__ __forceinline__ void scatter(const ScatterArguments& a) {
  constexpr int N = Lanes<From>::n;
  __shared__ float shared[SCATTER_LINES][32 * N];
  const bool wide = a.width % N == 0;
  const int lane = threadIdx.x % 32, line = threadIdx.x / 32;
  const int tile = blockIdx.y * 32 * N, column = tile + lane * N;
  const int distinct = *a.distinct;
  for (int k = blockIdx.x; k < distinct; k += gridDim.x) {
    const int end = a.starts[k + 1];
    float sum[N] = {};
    if (column < a.width) {
#pragma unroll 4
      for (int at = a.starts[k] + line; at < end; at += SCATTER_LINES) {
        float x[N];
        load(x, static_cast<const From*>(a.dy) + static_cast<long long>(a.order[at]) * a.width + column,
             a.width - column, wide);
#pragma unroll
        for (int i = 0; i < N; i++) sum[i] += x[i];
      }
    }
#pragma unroll
    for (int i = 0; i < N; i++) shared[line][lane * N + i] = sum[i];
    __syncthreads();
    To* row = static_cast<To*>(a.table) + static_cast<long long>(a.rows[k]) * a.width;
    for (int i = threadIdx.x; i < 32 * N; i += 32 * SCATTER_LINES) {
      if (tile + i >= a.width) continue;
      float total = 0;
      for (int l = 0; l < SCATTER_LINES; l++) total += shared[l][i];
      put(row + tile + i, a.add ? value(row[tile + i]) + total : total);
    }
    __syncthreads();
  }
}
