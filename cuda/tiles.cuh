// Products of two tiles in shared memory, by a block of 128 threads: tensor cores for bf16, fused multiply-adds
// for f32. Used by the implicit products of convolutions.
//
// A tile holds the operand's elements for TILE_DEPTH steps of the sum, in units of 16 bytes. An operand that
// runs along the sum in memory has lines of four units, one line a row; one that runs across has one line a step.
// Units are exchanged within their line so that eight neighbouring lines at one place, as well as eight places of
// a line, fall on different banks.
#pragma once
#include "vector.cuh"

constexpr int TILE_THREADS = 128;

// Steps of the sum in a tile: 32 in bf16, 16 in f32.
template <class T>
constexpr int TILE_DEPTH = 64 / sizeof(T);

// Where unit `place` of line `line + more` is, of an operand with `ROWS` rows; `more` is a multiple of eight, on
// which the exchange does not depend: what does stays in a register.
template <class T, int ROWS, bool ALONG>
__device__ __forceinline__ const T* unit(const T* tile, int line, int more, int place) {
  constexpr int N = Lanes<T>::n, UNITS = ALONG ? 4 : ROWS / N;
  const int exchanged = ALONG ? place ^ ((line >> 1) & 3) : place ^ (line & 7);
  return tile + ((line + more) * UNITS + exchanged) * N;
}

template <class T, int ROWS, bool ALONG>
__device__ __forceinline__ T* unit(T* tile, int line, int more, int place) {
  return const_cast<T*>(unit<T, ROWS, ALONG>(static_cast<const T*>(tile), line, more, place));
}

// D [M, N] += A B in the registers of a block.
template <class T, int M, int N, bool A_ALONG, bool B_ALONG>
struct Accumulator;

// A thread holds 8 × 8 elements of D: of rows (columns) that run across, two runs of four; else every N-th.
// Four steps take 16 loads of 16 bytes for 256 multiply-adds.
template <int M, int N, bool A_ALONG, bool B_ALONG>
struct Accumulator<float, M, N, A_ALONG, B_ALONG> {
  static constexpr int X = N / 8, Y = M / 8;
  static_assert(X * Y == TILE_THREADS, "64 elements a thread");
  float d[8][8] = {};

  // Four rows, from the `half`th four on, at four steps.
  template <int ROWS, int THREADS, bool ALONG>
  __device__ __forceinline__ static void fetch(float (&to)[4][4], const float* tile, int thread, int quarter, int half) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if constexpr (ALONG) {
        load_wide(to[i], unit<float, ROWS, true>(tile, thread, THREADS * (4 * half + i), quarter));
      } else {
        float v[4];
        load_wide(v, unit<float, ROWS, false>(tile, 4 * quarter + i, 0, thread + THREADS * half));
#pragma unroll
        for (int e = 0; e < 4; e++) to[e][i] = v[e];
      }
    }
  }

  __device__ __forceinline__ void multiply(const float* a_tile, const float* b_tile) {
    const int x = threadIdx.x % X, y = threadIdx.x / X;
#pragma unroll 1
    for (int quarter = 0; quarter < 4; quarter++) {
      float a[2][4][4];
      fetch<M, Y, A_ALONG>(a[0], a_tile, y, quarter, 0);
      fetch<M, Y, A_ALONG>(a[1], a_tile, y, quarter, 1);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float b[4][4];
        fetch<N, X, B_ALONG>(b, b_tile, x, quarter, half);
#pragma unroll
        for (int k = 0; k < 4; k++) {
#pragma unroll
          for (int i = 0; i < 8; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
              d[i][4 * half + j] = fmaf(a[i / 4][i % 4][k], b[j][k], d[i][4 * half + j]);
            }
          }
        }
      }
    }
  }

  // D to rows of `stride` elements.
  __device__ __forceinline__ void spread(float* to, int stride) const {
    const int x = threadIdx.x % X, y = threadIdx.x / X;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const int row = A_ALONG ? y + Y * i : 4 * (y + Y * (i / 4)) + i % 4;
#pragma unroll
      for (int j = 0; j < 8; j++) {
        const int column = B_ALONG ? x + X * j : 4 * (x + X * (j / 4)) + j % 4;
        to[row * stride + column] = d[i][j];
      }
    }
  }
};

#if defined(CLIP_DISTILL_EMULATED) || __CUDA_ARCH__ >= 800

// Four warps, each with a quarter of D in fragments of 16 × 8. An operand that runs across is transposed by
// `ldmatrix`.
template <int M, int N, bool A_ALONG, bool B_ALONG>
struct Accumulator<bf16, M, N, A_ALONG, B_ALONG> {
  static constexpr int ROWS = M / 32, COLUMNS = N / 16;
  float d[ROWS][COLUMNS][4] = {};

  __device__ __forceinline__ void multiply(const bf16* a_tile, const bf16* b_tile) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first_row = warp / 2 * (M / 2), first_column = warp % 2 * (N / 2);
    // A lane points to row `inner` of one of four 8 × 8 matrices: of A in the order of rows, then steps; of B in
    // the order of steps, then columns.
    const int inner = lane % 8, low = lane / 8 % 2, high = lane / 16;
#pragma unroll
    for (int step = 0; step < 32; step += 16) {
      unsigned a[ROWS][4], b[COLUMNS / 2][4];
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
        const int row = first_row + 16 * i + 8 * low, k = step + 8 * high;
        if constexpr (A_ALONG) ldmatrix_x4(a[i], unit<bf16, M, true>(a_tile, inner, row, k / 8));
        else ldmatrix_x4_trans(a[i], unit<bf16, M, false>(a_tile, inner, k, row / 8));
      }
#pragma unroll
      for (int j = 0; j < COLUMNS / 2; j++) {
        const int column = first_column + 16 * j + 8 * high, k = step + 8 * low;
        if constexpr (B_ALONG) ldmatrix_x4(b[j], unit<bf16, N, true>(b_tile, inner, column, k / 8));
        else ldmatrix_x4_trans(b[j], unit<bf16, N, false>(b_tile, inner, k, column / 8));
      }
#pragma unroll
      for (int i = 0; i < ROWS; i++) {
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
          const unsigned pair[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
          mma_m16n8k16_bf16(d[i][j], a[i], pair);
        }
      }
    }
  }

  __device__ __forceinline__ void spread(float* to, int stride) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first_row = warp / 2 * (M / 2) + lane / 4, first_column = warp % 2 * (N / 2) + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
#pragma unroll
      for (int j = 0; j < COLUMNS; j++) {
        float* at = to + (first_row + 16 * i) * stride + first_column + 8 * j;
        *reinterpret_cast<float2*>(at) = make_float2(d[i][j][0], d[i][j][1]);
        *reinterpret_cast<float2*>(at + 8 * stride) = make_float2(d[i][j][2], d[i][j][3]);
      }
    }
  }
};

#endif

// Tiles of A and B under way at a time.
constexpr int TILE_STAGES = 3;

// Bytes of shared memory for a product's stages, and then for its result in f32, whose rows are eight elements
// apart so that the fragments' rows fall on different banks.
template <int M, int N>
constexpr int TILE_BYTES = TILE_STAGES * (M + N) * 64 > M * (N + 8) * 4 ? TILE_STAGES * (M + N) * 64 : M * (N + 8) * 4;

// D = Σ over `steps` tiles. fetch(a, b) starts the copies into the next pair of tiles. At the end D is in
// `memory`, in rows of N + 8 elements, for all threads.
template <class T, int M, int N, bool A_ALONG, bool B_ALONG, class Fetch>
__device__ __forceinline__ const float* tile_product(unsigned char* memory, int steps, Fetch fetch) {
  Accumulator<T, M, N, A_ALONG, B_ALONG> sum;
  const auto start = [&](int step) {
    unsigned char* stage = memory + step % TILE_STAGES * (M + N) * 64;
    if (step < steps) fetch(reinterpret_cast<T*>(stage), reinterpret_cast<T*>(stage + M * 64));
    cp_async_commit();
  };
#pragma unroll 1
  for (int step = 0; step < TILE_STAGES - 1; step++) start(step);
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    cp_async_wait<TILE_STAGES - 2>();
    // All copies of this step are there, and all threads are done with the tiles that the next copies replace.
    __syncthreads();
    start(step + TILE_STAGES - 1);
    const unsigned char* stage = memory + step % TILE_STAGES * (M + N) * 64;
    sum.multiply(reinterpret_cast<const T*>(stage), reinterpret_cast<const T*>(stage + M * 64));
  }
  __syncthreads();
  float* d = reinterpret_cast<float*>(memory);
  sum.spread(d, N + 8);
  __syncthreads();
  return d;
}
