// What attention's kernels share: their arguments, and which rows a block takes.
#pragma once
#include "vector.cuh"

constexpr float LOG2_E = 1.44269504f;
constexpr float LN_2 = 0.69314718f;

struct AttentionArguments {
  // [total, 3·heads·dim]: q, k and v side by side.
  const void* qkv;
  // [segments + 1]
  const int* offsets;
  // [total, heads·dim]
  void* out;
  // [heads, total]
  float* lse;
  int total;
  int segments;
  int heads;
  int dim;
  int causal;
  // 1/√dim
  float scale;
};

struct AttentionBackwardArguments {
  const void* dout;
  const void* qkv;
  const int* offsets;
  const void* out;
  const float* lse;
  // D_i = Σ dO_i ∘ O_i, [heads, total]: written by the queries' kernel, read by the keys'.
  float* delta;
  void* dqkv;
  int total;
  int segments;
  int heads;
  int dim;
  int causal;
  float scale;
  int add;
  int padding;
};

// Where a row of a matrix begins. Only here may offsets pass 32 bits: within a tile's rows they do not.
template <class T>
__device__ __forceinline__ T* at_row(T* matrix, int row, int stride) {
  return matrix + static_cast<long long>(row) * stride;
}

// The rows of one segment and head that a block owns.
struct Place {
  int head;
  // First token of the segment, and its number of tokens.
  int start, length;
  // First row, counted within the segment.
  int row;

  // How many keys the query in `row` of the segment sees.
  __device__ __forceinline__ int visible(int causal, int row) const {
    return causal && row < length ? row + 1 : length;
  }
};

// Block b·heads + h takes head h of tile b; heads are next to each other, so that blocks that run at once read
// whole rows of qkv. Segment s owns the tiles from ⌊offset_s / ROWS⌋ + s on: at least ⌈length / ROWS⌉, at most
// one more. So the grid is known from the total and the number of segments alone, no list of work goes to the
// device, and ragged segments waste at most a block each, which returns here. The segment is found by a search
// of 32 places at once: two loads deep for 1024 segments. False if there is nothing to do, for the whole block.
template <int ROWS, class Arguments>
__device__ __forceinline__ bool find_place(const Arguments& a, Place& place) {
  const int tile = blockIdx.x / a.heads, lane = threadIdx.x % 32;
  int low = 0, count = a.segments;
  while (count > 1) {
    const int step = (count + 31) / 32, skip = lane * step;
    const bool before = skip < count && a.offsets[low + skip] / ROWS + low + skip <= tile;
    const int last = (31 - __clz(__ballot_sync(0xffffffffu, before))) * step;
    low += last;
    count = min(step, count - last);
  }
  place.head = blockIdx.x % a.heads;
  place.start = a.offsets[low];
  place.length = a.offsets[low + 1] - place.start;
  place.row = (tile - place.start / ROWS - low) * ROWS;
  return place.row < place.length;
}
