// Attention in bf16 on tensor cores, m16n8k16 with f32 accumulators.
//
// A block of four warps owns 64 rows, a warp 16 of them, and 64 rows a round go by, two buffers of them: one
// barrier a round, and the next round's copies run under its products. What a product leaves in a warp's
// accumulators has the layout of the next product's left operand, so logits, probabilities and their gradients
// never leave the registers. Larger tiles would hold fewer blocks an SM; smaller ones would read K and V more
// often. In a tile the 16-byte chunks of a row are permuted by its number, so that the eight rows that ldmatrix
// reads at once are in different banks.
#pragma once
#include "attention.cuh"

constexpr int MMA_ROWS = 64;
constexpr int MMA_THREADS = 128;

template <int D>
struct Mma {
  static constexpr int TILE = MMA_ROWS * D, STEPS = D / 16;

  // Where a chunk of eight elements of a row is in a tile. Rows of 64 bytes fill the banks two by two.
  static __device__ __forceinline__ int at(int row, int chunk) {
    return row * D + (chunk ^ (D == 32 ? row / 2 % 4 : row % 8)) * 8;
  }

  // Copies `COUNT` rows of a tile, with zeros beyond `rows` and beyond `dim`, by THREADS threads.
  template <int COUNT, int THREADS>
  static __device__ __forceinline__ void fetch(bf16* tile, const bf16* from, int stride, int rows, int dim,
                                               int thread) {
    constexpr int CHUNKS = D / 8;
    if (dim % 8 == 0) {
#pragma unroll 1
      for (int i = 0; i < COUNT * CHUNKS / THREADS; i++) {
        const int row = (i * THREADS + thread) / CHUNKS, chunk = (i * THREADS + thread) % CHUNKS;
        const bool there = row < rows && chunk * 8 < dim;
        cp_async_16(tile + at(row, chunk), there ? from + row * stride + chunk * 8 : from, there ? 16 : 0);
      }
    } else {
#pragma unroll 1
      for (int i = thread; i < COUNT * CHUNKS; i += THREADS) {
        const int row = i / CHUNKS, chunk = i % CHUNKS;
        float x[8];
        load(x, from + row * stride + chunk * 8, row < rows ? dim - chunk * 8 : 0, false);
        store_wide(tile + at(row, chunk), x);
      }
    }
  }

  // The warp's 16 rows of the block's tile: no other warp reads them.
  static __device__ __forceinline__ void fetch_own(bf16* own, const bf16* from, int stride, int rows, int dim) {
    fetch<16, 32>(own, from, stride, rows, dim, threadIdx.x % 32);
  }

  static __device__ __forceinline__ void fetch_streamed(bf16* tile, const bf16* from, int stride, int rows,
                                                        int dim) {
    fetch<MMA_ROWS, MMA_THREADS>(tile, from, stride, rows, dim, threadIdx.x);
  }

  // Rows `row` … +16 and columns 16·step … +16 as a left operand, or, where rows are what is summed over,
  // transposed as two right operands.
  static __device__ __forceinline__ void left(unsigned (&x)[4], const bf16* tile, int row, int step) {
    const int lane = threadIdx.x % 32;
    ldmatrix_x4(x, tile + at(row + lane % 16, 2 * step + lane / 16));
  }
  static __device__ __forceinline__ void right_transposed(unsigned (&x)[4], const bf16* tile, int row, int step) {
    const int lane = threadIdx.x % 32;
    ldmatrix_x4_trans(x, tile + at(row + lane % 16, 2 * step + lane / 16));
  }
  // The same rows as the columns of two right operands.
  static __device__ __forceinline__ void right(unsigned (&x)[4], const bf16* tile, int row, int step) {
    const int lane = threadIdx.x % 32;
    ldmatrix_x4(x, tile + at(row + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2));
  }

  static __device__ __forceinline__ void multiply(float (&d)[2][4], const unsigned (&a)[4], const unsigned (&b)[4]) {
    const unsigned first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
    mma_m16n8k16_bf16(d[0], a, first);
    mma_m16n8k16_bf16(d[1], a, second);
  }

  // d = own · (rows `row` … +16 of `tile`)ᵀ
  static __device__ __forceinline__ void products(float (&d)[2][4], const unsigned (&own)[STEPS][4], const bf16* tile,
                                                  int row) {
#pragma unroll
    for (int i = 0; i < 8; i++) d[i / 4][i % 4] = 0;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      unsigned b[4];
      right(b, tile, row, step);
      multiply(d, own[step], b);
    }
  }

  // The same with the left operand still in its tile: for those that would not fit the registers.
  static __device__ __forceinline__ void products(float (&d)[2][4], const bf16* own, const bf16* tile, int row) {
#pragma unroll
    for (int i = 0; i < 8; i++) d[i / 4][i % 4] = 0;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      unsigned x[4], b[4];
      left(x, own, 0, step);
      right(b, tile, row, step);
      multiply(d, x, b);
    }
  }

  // sum += w · (rows `row` … +16 of `tile`), where w are accumulators of `products`.
  static __device__ __forceinline__ void weigh(float (&sum)[STEPS][2][4], const float (&w)[2][4], const bf16* tile,
                                               int row) {
    const unsigned x[4] = {bf16_pair(w[0][0], w[0][1]), bf16_pair(w[0][2], w[0][3]), bf16_pair(w[1][0], w[1][1]),
                           bf16_pair(w[1][2], w[1][3])};
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      unsigned b[4];
      right_transposed(b, tile, row, step);
      multiply(sum[step], x, b);
    }
  }

  // The warp's rows, times a factor for the upper and the lower eight, to a matrix, by way of `own`, so that 16
  // bytes move at once. With `add` they are rounded before and after the addition.
  static __device__ __forceinline__ void give(bf16* to, int stride, int rows, int dim,
                                              const float (&sum)[STEPS][2][4], const float (&factor)[2], bool add,
                                              bf16* own) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    __syncwarp();  // whatever was in `own` has been read
#pragma unroll
    for (int i = 0; i < D / 8; i++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float* x = sum[i / 2][i % 2] + 2 * half;
        *reinterpret_cast<unsigned*>(own + at(g + 8 * half, i) + 2 * t) =
            bf16_pair(factor[half] * x[0], factor[half] * x[1]);
      }
    }
    __syncwarp();
    const bool wide = dim % 8 == 0;
    constexpr int CHUNKS = D / 8;
    for (int i = lane; i < 16 * CHUNKS; i += 32) {
      const int row = i / CHUNKS, column = i % CHUNKS * 8;
      if (row >= rows || column >= dim) continue;
      float x[8];
      load_wide(x, own + at(row, i % CHUNKS));
      contribute(to + row * stride + column, x, dim - column, wide, add);
    }
  }
};

// How many of the rows from `first` on a round has for a warp: those that its last row sees.
__device__ __forceinline__ int seen_by_warp(const Place& p, int causal, int row, int first) {
  return row < p.length ? min(p.visible(causal, row + 15) - first, MMA_ROWS) : 0;
}

// Keys and values go by; maxima m, sums l and O are kept for those seen so far and scaled when m grows.
template <int D>
__device__ __forceinline__ void attention_bf16(const AttentionArguments& a) {
  using M = Mma<D>;
  SHARED_DYNAMIC(bf16, shared);
  bf16* keys = shared + M::TILE;
  bf16* values = keys + 2 * M::TILE;
  Place p;
  if (!find_place<MMA_ROWS>(a, p)) return;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, width = a.heads * a.dim;
  const int stride = 3 * width;
  const bf16* q = at_row(static_cast<const bf16*>(a.qkv), p.start, stride) + p.head * a.dim;
  const bf16* k = q + width;
  const bf16* v = k + width;
  // The warp's first row.
  const int row = p.row + threadIdx.x / 32 * 16, end = p.visible(a.causal, p.row + MMA_ROWS - 1);
  const float scale = a.scale * LOG2_E;
  const auto stage = [&](int first) {
    const int buffer = first / MMA_ROWS % 2 * M::TILE;
    M::fetch_streamed(keys + buffer, at_row(k, first, stride), stride, end - first, a.dim);
    M::fetch_streamed(values + buffer, at_row(v, first, stride), stride, end - first, a.dim);
    cp_async_commit();
  };
  bf16* own = shared + threadIdx.x / 32 * 16 * D;
  M::fetch_own(own, at_row(q, row, stride), stride, p.length - row, a.dim);
  cp_async_commit();
  stage(0);
  cp_async_wait<1>();
  __syncwarp();
  unsigned query[M::STEPS][4];
#pragma unroll
  for (int step = 0; step < M::STEPS; step++) M::left(query[step], own, 0, step);
  float o[M::STEPS][2][4] = {}, m[2], l[2] = {};
  m[0] = m[1] = __uint_as_float(0xff800000u);
  for (int first = 0; first < end; first += MMA_ROWS) {
    cp_async_wait<0>();
    __syncthreads();  // this round's tiles are there, and the last one's have been read
    if (first + MMA_ROWS < end) stage(first + MMA_ROWS);
    const int buffer = first / MMA_ROWS % 2 * M::TILE, seen = seen_by_warp(p, a.causal, row, first);
    if (seen <= 0) continue;
    float s[4][2][4];
#pragma unroll
    for (int c = 0; c < 4; c++) {
      if (16 * c < seen) M::products(s[c], query, keys + buffer, 16 * c);
    }
    // A row's neighbours in lanes 4g … 4g + 3 hold the rest of it.
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int visible = p.visible(a.causal, row + g + 8 * half) - first;
      float most = m[half];
#pragma unroll
      for (int c = 0; c < 4; c++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          float& x = s[c][i / 2][2 * half + i % 2];
          if (16 * c + 8 * (i / 2) + 2 * t + i % 2 >= visible) x = __uint_as_float(0xff800000u);
          most = max(most, x);
        }
      }
      most = max(most, __shfl_xor_sync(0xffffffffu, most, 1));
      most = max(most, __shfl_xor_sync(0xffffffffu, most, 2));
      const float shrink = exp2_fast((m[half] - most) * scale), shift = most * scale;
      m[half] = most;
      l[half] *= shrink;
#pragma unroll
      for (int c = 0; c < 4; c++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          float& x = s[c][i / 2][2 * half + i % 2];
          x = exp2_fast(x * scale - shift);
          l[half] += x;
        }
      }
#pragma unroll
      for (int step = 0; step < M::STEPS; step++) {
#pragma unroll
        for (int i = 0; i < 4; i++) o[step][i / 2][2 * half + i % 2] *= shrink;
      }
    }
#pragma unroll
    for (int c = 0; c < 4; c++) {
      if (16 * c < seen) M::weigh(o, s[c], values + buffer, 16 * c);
    }
  }
  if (row >= p.length) return;
  float inverse[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float sum = l[half] + __shfl_xor_sync(0xffffffffu, l[half], 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    inverse[half] = 1.f / sum;
    const int at = row + g + 8 * half;
    if (t == 0 && at < p.length) {
      a.lse[static_cast<long long>(p.head) * a.total + p.start + at] = m[half] * a.scale + logf(sum);
    }
  }
  bf16* out = at_row(static_cast<bf16*>(a.out), p.start + row, width) + p.head * a.dim;
  M::give(out, width, p.length - row, a.dim, o, inverse, false, own);
}

// D and dQ: a block owns queries, keys and values go by.
template <int D>
__device__ __forceinline__ void attention_backward_queries_bf16(const AttentionBackwardArguments& a) {
  using M = Mma<D>;
  SHARED_DYNAMIC(bf16, shared);
  bf16* keys = shared + 2 * M::TILE;
  bf16* values = keys + 2 * M::TILE;
  Place p;
  if (!find_place<MMA_ROWS>(a, p)) return;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, width = a.heads * a.dim;
  const int stride = 3 * width;
  const long long plane = static_cast<long long>(p.head) * a.total + p.start;
  const bf16* q = at_row(static_cast<const bf16*>(a.qkv), p.start, stride) + p.head * a.dim;
  const bf16* k = q + width;
  const bf16* v = k + width;
  const int row = p.row + threadIdx.x / 32 * 16, end = p.visible(a.causal, p.row + MMA_ROWS - 1);
  const long long of_out = static_cast<long long>(p.start + row) * width + p.head * a.dim;
  const float scale = a.scale * LOG2_E;
  const auto stage = [&](int first) {
    const int buffer = first / MMA_ROWS % 2 * M::TILE;
    M::fetch_streamed(keys + buffer, at_row(k, first, stride), stride, end - first, a.dim);
    M::fetch_streamed(values + buffer, at_row(v, first, stride), stride, end - first, a.dim);
    cp_async_commit();
  };
  bf16* own = shared + threadIdx.x / 32 * 16 * D;
  M::fetch_own(own, at_row(q, row, stride), stride, p.length - row, a.dim);
  M::fetch_own(own + M::TILE, static_cast<const bf16*>(a.dout) + of_out, width, p.length - row, a.dim);
  cp_async_commit();
  stage(0);
  cp_async_wait<1>();
  __syncwarp();
  unsigned query[M::STEPS][4], dout[M::STEPS][4];
#pragma unroll
  for (int step = 0; step < M::STEPS; step++) {
    M::left(query[step], own, 0, step);
    M::left(dout[step], own + M::TILE, 0, step);
  }
  // Two lanes make D of a row, then each lane takes those of its own two.
  float sum = 0;
#pragma unroll 1
  for (int chunk = lane % 2; chunk < D / 8 && row + lane / 2 < p.length; chunk += 2) {
    float x[8], y[8];
    load_wide(x, own + M::TILE + M::at(lane / 2, chunk));
    load(y, static_cast<const bf16*>(a.out) + of_out + lane / 2 * static_cast<long long>(width) + 8 * chunk,
         a.dim - 8 * chunk, a.dim % 8 == 0);
#pragma unroll
    for (int i = 0; i < 8; i++) sum += x[i] * y[i];
  }
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  if (lane % 2 == 0 && row + lane / 2 < p.length) a.delta[plane + row + lane / 2] = sum;
  float lse[2], delta[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    delta[half] = __shfl_sync(0xffffffffu, sum, 2 * g + 16 * half);
    const int at = row + g + 8 * half;
    lse[half] = at < p.length ? a.lse[plane + at] * LOG2_E : 0.f;
  }
  float dq[M::STEPS][2][4] = {};
  for (int first = 0; first < end; first += MMA_ROWS) {
    cp_async_wait<0>();
    __syncthreads();  // this round's tiles are there, and the last one's have been read
    if (first + MMA_ROWS < end) stage(first + MMA_ROWS);
    const int buffer = first / MMA_ROWS % 2 * M::TILE, seen = seen_by_warp(p, a.causal, row, first);
#pragma unroll 1
    for (int c = 0; c < 4; c++) {
      if (16 * c >= seen) break;
      float s[2][4], ds[2][4];
      M::products(s, query, keys + buffer, 16 * c);
      M::products(ds, dout, values + buffer, 16 * c);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const int half = i / 2 % 2, visible = p.visible(a.causal, row + g + 8 * half) - first;
        const bool hidden = 16 * c + 8 * (i / 4) + 2 * t + i % 2 >= visible;
        const float probability = hidden ? 0.f : exp2_fast(s[i / 4][i % 4] * scale - lse[half]);
        ds[i / 4][i % 4] = probability * (ds[i / 4][i % 4] - delta[half]);
      }
      M::weigh(dq, ds, keys + buffer, 16 * c);
    }
  }
  if (row >= p.length) return;
  const float factor[2] = {a.scale, a.scale};
  bf16* to = at_row(static_cast<bf16*>(a.dqkv), p.start + row, stride) + p.head * a.dim;
  M::give(to, stride, p.length - row, a.dim, dq, factor, a.add, own);
}

// dK and dV: a block owns keys and values, queries and output gradients go by, and with them lse and D. Transposed
// logits K Qᵀ and gradients V dOᵀ have a warp's keys as rows, so both sums stay in its registers.
template <int D>
__device__ __forceinline__ void attention_backward_keys_bf16(const AttentionBackwardArguments& a) {
  using M = Mma<D>;
  // With 128 columns, dK and dV alone fill half the registers.
  constexpr bool KEEP = D <= 64;
  SHARED_DYNAMIC(bf16, shared);
  bf16* queries = shared + 2 * M::TILE;
  bf16* douts = queries + 2 * M::TILE;
  // [2][lse, D][MMA_ROWS]
  float* statistics = reinterpret_cast<float*>(douts + 2 * M::TILE);
  Place p;
  if (!find_place<MMA_ROWS>(a, p)) return;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, width = a.heads * a.dim;
  const int stride = 3 * width;
  const long long plane = static_cast<long long>(p.head) * a.total + p.start;
  const bf16* q = at_row(static_cast<const bf16*>(a.qkv), p.start, stride) + p.head * a.dim;
  const bf16* k = q + width;
  const bf16* dout = at_row(static_cast<const bf16*>(a.dout), p.start, width) + p.head * a.dim;
  const int row = p.row + threadIdx.x / 32 * 16;
  const float scale = a.scale * LOG2_E;
  // A causal key is seen from its own query on.
  const int begin = a.causal ? p.row : 0;
  const auto stage = [&](int first) {
    const int buffer = first / MMA_ROWS % 2 * M::TILE;
    M::fetch_streamed(queries + buffer, at_row(q, first, stride), stride, p.length - first, a.dim);
    M::fetch_streamed(douts + buffer, at_row(dout, first, width), width, p.length - first, a.dim);
    cp_async_commit();
  };
  // A thread's one of a round's statistics; beyond the end Q and dO are zeros, and add nothing.
  const auto statistic = [&](int first) {
    const int query = first + threadIdx.x % MMA_ROWS;
    const bool is_lse = threadIdx.x < MMA_ROWS;
    if (query >= p.length) return 0.f;
    return is_lse ? a.lse[plane + query] * LOG2_E : a.delta[plane + query];
  };
  const auto keep = [&](int first, float x) { statistics[first / MMA_ROWS % 2 * MMA_THREADS + threadIdx.x] = x; };
  bf16* own = shared + threadIdx.x / 32 * 16 * D;
  M::fetch_own(own, at_row(k, row, stride), stride, p.length - row, a.dim);
  M::fetch_own(own + M::TILE, at_row(k + width, row, stride), stride, p.length - row, a.dim);
  cp_async_commit();
  stage(begin);
  keep(begin, statistic(begin));
  cp_async_wait<1>();
  __syncwarp();
  unsigned key[M::STEPS][4], value[M::STEPS][4];
  if constexpr (KEEP) {
#pragma unroll
    for (int step = 0; step < M::STEPS; step++) {
      M::left(key[step], own, 0, step);
      M::left(value[step], own + M::TILE, 0, step);
    }
  }
  float dk[M::STEPS][2][4] = {}, dv[M::STEPS][2][4] = {};
  for (int first = begin; first < p.length; first += MMA_ROWS) {
    cp_async_wait<0>();
    __syncthreads();  // this round's tiles and statistics are there, and the last one's have been read
    const int next = first + MMA_ROWS, buffer = first / MMA_ROWS % 2;
    float later = 0;
    if (next < p.length) {
      stage(next);
      later = statistic(next);
    }
    const float* lse = statistics + buffer * MMA_THREADS;
    const bf16 *q_tile = queries + buffer * M::TILE, *dout_tile = douts + buffer * M::TILE;
#pragma unroll 2
    for (int c = 0; c < 4; c++) {
      // Queries that there are, and of which the last sees the warp's first key.
      if (row >= p.length || first + 16 * c >= p.length || (a.causal && first + 16 * c + 15 < row)) continue;
      float s[2][4], ds[2][4];
      if constexpr (KEEP) {
        M::products(s, key, q_tile, 16 * c);
        M::products(ds, value, dout_tile, 16 * c);
      } else {
        M::products(s, own, q_tile, 16 * c);
        M::products(ds, own + M::TILE, dout_tile, 16 * c);
      }
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const int query = 16 * c + 8 * (i / 4) + 2 * t + i % 2;
        const bool hidden = a.causal && row + g + 8 * (i / 2 % 2) > first + query;
        float& x = s[i / 4][i % 4];
        x = hidden ? 0.f : exp2_fast(x * scale - lse[query]);
        ds[i / 4][i % 4] = x * (ds[i / 4][i % 4] - lse[MMA_ROWS + query]);
      }
      M::weigh(dv, s, dout_tile, 16 * c);
      M::weigh(dk, ds, q_tile, 16 * c);
    }
    if (next < p.length) keep(next, later);
  }
  if (row >= p.length) return;
  const float by_scale[2] = {a.scale, a.scale}, one[2] = {1.f, 1.f};
  bf16* to = at_row(static_cast<bf16*>(a.dqkv), p.start + row, stride) + p.head * a.dim + width;
  M::give(to, stride, p.length - row, a.dim, dk, by_scale, a.add, own);
  M::give(to + width, stride, p.length - row, a.dim, dv, one, a.add, own);
}
