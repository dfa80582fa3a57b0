// Tiles of cosines x_i·y_j in f32, which the similarity losses use at once and never store.
//
// A block of 256 threads makes 128 × 64 of them, a thread 8 × 4: two 16-byte reads of x and one of y from shared
// memory feed 32 FMA, and at a batch of 1024 there are 128 tiles, as many as a GPU has multiprocessors. The next 16
// of the width are fetched while these are multiplied.
//
// Why FMA, and not tensor cores with each operand split into three TF32 numbers: those truncate when they
// accumulate, which alone costs 3·2⁻²³ a step of 8, always in one direction; it would have to be undone by adding
// up outside of them, and f32 FMA run on every GPU. At a batch of 1024 all losses of a step are some 20 GFLOP,
// beside 50 TFLOP of the towers.
//
// Why the error is small enough: the steps of a sum from 0 to c ≤ 1 over d products round partial sums that grow
// with the step, each by 0.6 u of it in the mean (u = 2⁻²⁴): 0.6 u c √(d/3), which is 8 u at d = 512. Hence 16
// products at a time are summed from zero, and then those sums: 0.6 u c √(d/48) = 2 u, so that a logit at α = 100
// is right to 1e-5, as if it had been rounded twice.
#pragma once
#include "vector.cuh"

constexpr int TILE_ROWS = 128, TILE_COLUMNS = 64, TILE_DEPTH = 16;
constexpr int TILE_THREADS = 256;
// Of a thread: rows 8⌊t/16⌋ …, columns 4 (t mod 16) ….
constexpr int ROWS = 8, COLUMNS = 4;

struct LogitsArgument {
  // [n, width] and [m, width]; x is null for a relation that is absent.
  const float* x;
  const float* y;
  // α.
  const float* scale;
  int width;
  int padding;
};

// Two stages of x's and y's tiles, transposed: rows of 16 bytes more than the tile, so that the writes of a warp
// meet in pairs at most.
struct Stages {
  float x[2][TILE_DEPTH][TILE_ROWS + 4];
  float y[2][TILE_DEPTH][TILE_COLUMNS + 4];
};

// What a thread fetches of 16 of the width: two fours of x, one of y.
struct Fetched {
  float x[2][4];
  float y[4];
};

__device__ __forceinline__ void fetch(Fetched& f, const LogitsArgument& r, int row, int row_end, int column, int column_end,
                                      int depth) {
  const int line = threadIdx.x / 4, k = depth + threadIdx.x % 4 * 4;
  const bool wide = r.width % 4 == 0;
  const auto four = [&](float(&to)[4], const float* from, int at, int end) {
    load(to, from + static_cast<long long>(at) * r.width + k, at < end ? r.width - k : 0, wide);
  };
  four(f.x[0], r.x, row + line, row_end);
  four(f.x[1], r.x, row + line + 64, row_end);
  four(f.y, r.y, column + line, column_end);
}

__device__ __forceinline__ void stage(Stages& s, int buffer, const Fetched& f) {
  const int line = threadIdx.x / 4, k = threadIdx.x % 4 * 4;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    s.x[buffer][k + i][line] = f.x[0][i];
    s.x[buffer][k + i][line + 64] = f.x[1][i];
    s.y[buffer][k + i][line] = f.y[i];
  }
}

// The cosines of a thread in the tile at (row, column), 0 beyond the ends; with ADD, added to what is there. `buffer`
// goes on from tile to tile: the last barrier has freed the one that is filled first.
template <bool ADD = false>
__device__ __forceinline__ void cosines(float (&c)[ROWS][COLUMNS], const LogitsArgument& r, int row, int row_end, int column,
                                        int column_end, Stages& s, int& buffer) {
  const int i = threadIdx.x / 16 * ROWS, j = threadIdx.x % 16 * COLUMNS;
  if (!ADD) {
#pragma unroll
    for (int k = 0; k < ROWS * COLUMNS; k++) c[k / COLUMNS][k % COLUMNS] = 0.f;
  }
  Fetched f;
  fetch(f, r, row, row_end, column, column_end, 0);
  stage(s, buffer, f);
#pragma unroll 1
  for (int depth = 0; depth < r.width; depth += TILE_DEPTH) {
    __syncthreads();
    const bool more = depth + TILE_DEPTH < r.width;
    if (more) fetch(f, r, row, row_end, column, column_end, depth + TILE_DEPTH);
    float part[ROWS][COLUMNS] = {};
#pragma unroll
    for (int k = 0; k < TILE_DEPTH; k++) {
      float x[ROWS], y[COLUMNS];
      load_wide(x, &s.x[buffer][k][i]);
      load_wide(y, &s.y[buffer][k][j]);
#pragma unroll
      for (int n = 0; n < ROWS * COLUMNS; n++) part[n / COLUMNS][n % COLUMNS] += x[n / COLUMNS] * y[n % COLUMNS];
    }
#pragma unroll
    for (int n = 0; n < ROWS * COLUMNS; n++) c[n / COLUMNS][n % COLUMNS] += part[n / COLUMNS][n % COLUMNS];
    buffer ^= 1;
    if (more) stage(s, buffer, f);
  }
}

// The maximum and the sum over the 16 lanes that share rows.
__device__ __forceinline__ float row_max(float v) {
#pragma unroll
  for (int mask = 8; mask > 0; mask >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, mask));
  return v;
}
__device__ __forceinline__ float row_sum(float v) {
#pragma unroll
  for (int mask = 8; mask > 0; mask >>= 1) v += __shfl_xor_sync(0xffffffffu, v, mask);
  return v;
}

// P_ii − 1 = e^{−ℓ} − 1 of an anchor whose cross-entropy is ℓ. The difference itself would lose what a nearly certain
// P_ii lacks of 1, and that is all of its gradient.
__device__ __forceinline__ float residual(float cross_entropy) { return expm1f(-cross_entropy); }

// α c, rounded once wherever it is made: equal cosines and scales give equal logits.
__device__ __forceinline__ float logit(float scale, float cosine) { return __fmul_rn(scale, cosine); }
