// Kernels over all parameters at once: a table with one entry a tensor, and blocks that take a chunk each.
#pragma once
#include "common.cuh"

// Elements of a chunk: a block's.
constexpr long long TABLE_CHUNK = 4096;

// The entry whose chunks begin last at or before `chunk`; `first` of an entry is its first chunk.
template <class Entry>
__device__ __forceinline__ const Entry& entry_of(const Entry* table, int count, long long chunk) {
  int low = 0, high = count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table[middle].first <= chunk) low = middle;
    else high = middle - 1;
  }
  return table[low];
}
