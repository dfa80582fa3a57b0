// Sums in a fixed order.
#pragma once
#include "common.cuh"

// Σ v over the warp, for every lane.
template <class V>
__device__ __forceinline__ V warp_sum(V v) {
#pragma unroll
  for (int mask = 16; mask > 0; mask >>= 1) v += __shfl_xor_sync(0xffffffffu, v, mask);
  return v;
}

// Σ v over a block of THREADS threads, for every thread. `scratch` holds THREADS / 32 values and is free again
// at the end.
template <int THREADS, class V>
__device__ __forceinline__ V block_sum(V v, V* scratch) {
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  V total = 0;
#pragma unroll
  for (int warp = 0; warp < THREADS / 32; warp++) total += scratch[warp];
  __syncthreads();
  return total;
}
