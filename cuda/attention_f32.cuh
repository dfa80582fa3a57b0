// Attention in f32: register tiles of FMAs, no tensor cores, whose TF32 would not be f32.
//
// 16 threads own four rows; each of them has the logits of every sixteenth streamed row, and D/16 columns of what
// is accumulated. So a warp's rows are its own: softmaxes are shuffles, and the weights go from their threads to
// their users through the warp's own lines of shared memory. Per four steps of a sum a thread loads eight times
// 16 bytes for 64 FMAs. Rows are padded by 16 bytes: the eight rows that a quarter-warp reads at once are in
// different banks. Tiles keep within 64 KiB, a block's limit on sm_75.
#pragma once
#include "attention.cuh"

template <int D>
struct Fma {
  static constexpr int ROWS = D > 64 ? 32 : 64, STREAM = D > 64 ? 16 : 32;
  static constexpr int THREADS = 4 * ROWS;
  static constexpr int STRIDE = D + 4, WEIGHTS = STREAM + 4;
  // Streamed rows and accumulated columns of a thread; of the columns, how many are neighbours.
  static constexpr int LOGITS = STREAM / 16, COLUMNS = D / 16, NEAR = COLUMNS < 4 ? COLUMNS : 4;

  static __device__ __forceinline__ int across() { return threadIdx.x % 16; }
  // The thread's first row.
  static __device__ __forceinline__ int down() { return threadIdx.x / 16 * 4; }
  static __device__ __forceinline__ int column(int c) { return (c / NEAR * 16 + across()) * NEAR + c % NEAR; }

  // Copies `count` rows of a tile, with zeros beyond `rows` and beyond `dim`, by `threads` threads.
  static __device__ __forceinline__ void fetch(float* tile, const float* from, int stride, int count, int rows,
                                               int dim, int thread, int threads) {
    const bool wide = dim % 4 == 0;
#pragma unroll 1
    for (int i = thread; i < count * (D / 4); i += threads) {
      const int row = i / (D / 4), column = i % (D / 4) * 4;
      float* to = tile + row * STRIDE + column;
      const int there = row < rows ? dim - column : 0;
      const float* source = there > 0 ? from + row * stride + column : from;
      if (wide) {
        cp_async_16(to, source, there > 0 ? 16 : 0);
      } else {
        float x[4];
        load(x, source, there, false);
        store_wide(to, x);
      }
    }
  }

  // The warp's eight rows of the block's tile: no other warp reads them.
  static __device__ __forceinline__ void fetch_own(float* tile, const float* from, int stride, int rows, int dim) {
    const int first = threadIdx.x / 32 * 8;
    fetch(tile + first * STRIDE, from + first * stride, stride, 8, rows - first, dim, threadIdx.x % 32, 32);
  }

  static __device__ __forceinline__ void fetch_streamed(float* tile, const float* from, int stride, int rows,
                                                        int dim) {
    fetch(tile, from, stride, STREAM, rows, dim, threadIdx.x, THREADS);
  }

  // s = own rows · streamed rows.
  static __device__ __forceinline__ void products(float (&s)[4][LOGITS], const float* own, const float* streamed) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
      for (int j = 0; j < LOGITS; j++) s[i][j] = 0;
    }
#pragma unroll 1
    for (int d = 0; d < D; d += 4) {
      float y[LOGITS][4];
#pragma unroll
      for (int j = 0; j < LOGITS; j++) load_wide(y[j], streamed + (across() + 16 * j) * STRIDE + d);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float x[4];
        load_wide(x, own + (down() + i) * STRIDE + d);
#pragma unroll
        for (int j = 0; j < LOGITS; j++) {
#pragma unroll
          for (int e = 0; e < 4; e++) s[i][j] += x[e] * y[j][e];
        }
      }
    }
  }

  // sum += w · streamed rows, by way of the warp's lines of `weights`. Between two calls is a barrier of the block, so
  // that the lines are no longer read.
  static __device__ __forceinline__ void weigh(float (&sum)[4][COLUMNS], const float (&w)[4][LOGITS], float* weights,
                                               const float* streamed) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
      for (int j = 0; j < LOGITS; j++) weights[(down() + i) * WEIGHTS + across() + 16 * j] = w[i][j];
    }
    __syncwarp();
#pragma unroll 1
    for (int k = 0; k < STREAM; k += 4) {
      float x[4][4];
#pragma unroll
      for (int i = 0; i < 4; i++) load_wide(x[i], weights + (down() + i) * WEIGHTS + k);
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const float* row = streamed + (k + e) * STRIDE;
        float y[COLUMNS];
#pragma unroll
        for (int c = 0; c < COLUMNS; c += NEAR) {
          if constexpr (NEAR == 4) {
            const float4 v = *reinterpret_cast<const float4*>(row + column(c));
            y[c] = v.x, y[c + 1] = v.y, y[c + 2] = v.z, y[c + 3] = v.w;
          } else {
            const float2 v = *reinterpret_cast<const float2*>(row + column(c));
            y[c] = v.x, y[c + 1] = v.y;
          }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
          for (int c = 0; c < COLUMNS; c++) sum[i][c] += x[i][e] * y[c];
        }
      }
    }
  }

  // The thread's rows, times `factor`, to a matrix, as far as it has rows.
  static __device__ __forceinline__ void give(float* to, int stride, int rows, int dim,
                                              const float (&sum)[4][COLUMNS], const float (&factor)[4], bool add) {
    const bool wide = dim % 4 == 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (down() + i >= rows) continue;
      float* row = to + (down() + i) * stride;
#pragma unroll
      for (int c = 0; c < COLUMNS; c += NEAR) {
        if constexpr (NEAR == 4) {
          float x[4];
#pragma unroll
          for (int e = 0; e < 4; e++) x[e] = factor[i] * sum[i][c + e];
          contribute(row + column(c), x, dim - column(c), wide, add);
        } else {
#pragma unroll
          for (int e = 0; e < NEAR; e++) {
            float* at = row + column(c + e);
            if (column(c + e) < dim) *at = factor[i] * sum[i][c + e] + (add ? *at : 0.f);
          }
        }
      }
    }
  }
};

// Over the 16 threads of a row.
__device__ __forceinline__ float row_sum(float v) {
#pragma unroll
  for (int mask = 8; mask > 0; mask >>= 1) v += __shfl_xor_sync(0xffffffffu, v, mask);
  return v;
}

__device__ __forceinline__ float row_max(float v) {
#pragma unroll
  for (int mask = 8; mask > 0; mask >>= 1) v = max(v, __shfl_xor_sync(0xffffffffu, v, mask));
  return v;
}

// Keys go by; maxima m, sums l and O are kept for those seen so far and scaled when m grows. While logits are made
// the values arrive, and while values are weighed the next keys: one buffer of each, two barriers a round.
template <int D>
__device__ __forceinline__ void attention_f32(const AttentionArguments& a) {
  using F = Fma<D>;
  SHARED_DYNAMIC(float, queries);
  float* keys = queries + F::ROWS * F::STRIDE;
  float* values = keys + F::STREAM * F::STRIDE;
  float* weights = values + F::STREAM * F::STRIDE;
  Place p;
  if (!find_place<F::ROWS>(a, p)) return;
  const int width = a.heads * a.dim;
  const int stride = 3 * width;
  const float* q = at_row(static_cast<const float*>(a.qkv), p.start, stride) + p.head * a.dim;
  const float* k = q + width;
  const float* v = k + width;
  const int rows = p.length - p.row, first_row = threadIdx.x / 32 * 8;
  const int end = p.visible(a.causal, p.row + F::ROWS - 1);
  const float scale = a.scale * LOG2_E;
  F::fetch_own(queries, at_row(q, p.row, stride), stride, rows, a.dim);
  F::fetch_streamed(keys, k, stride, end, a.dim);
  cp_async_commit();
  float m[4], l[4], o[4][F::COLUMNS] = {};
#pragma unroll
  for (int i = 0; i < 4; i++) m[i] = __uint_as_float(0xff800000u), l[i] = 0;
  for (int first = 0; first < end; first += F::STREAM) {
    // Whether the warp has rows, and one of them sees these keys.
    const bool busy = first_row < rows && p.visible(a.causal, p.row + first_row + 7) > first;
    cp_async_wait<0>();
    __syncthreads();  // the keys are there; the values before them have been weighed
    F::fetch_streamed(values, at_row(v, first, stride), stride, end - first, a.dim);
    cp_async_commit();
    float s[4][F::LOGITS];
    if (busy) {
      F::products(s, queries, keys);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int seen = p.visible(a.causal, p.row + F::down() + i) - first;
        float most = m[i];
#pragma unroll
        for (int j = 0; j < F::LOGITS; j++) {
          s[i][j] = F::across() + 16 * j < seen ? s[i][j] * scale : __uint_as_float(0xff800000u);
          most = max(most, s[i][j]);
        }
        most = row_max(most);
        const float shrink = exp2f(m[i] - most);
        m[i] = most;
        l[i] *= shrink;
#pragma unroll
        for (int j = 0; j < F::LOGITS; j++) {
          s[i][j] = exp2f(s[i][j] - most);
          l[i] += s[i][j];
        }
#pragma unroll
        for (int c = 0; c < F::COLUMNS; c++) o[i][c] *= shrink;
      }
    }
    cp_async_wait<0>();
    __syncthreads();  // the values are there; the keys have been read
    if (first + F::STREAM < end) {
      F::fetch_streamed(keys, at_row(k, first + F::STREAM, stride), stride, end - first - F::STREAM, a.dim);
      cp_async_commit();
    }
    if (busy) F::weigh(o, s, weights, values);
  }
  if (first_row >= rows) return;
  float inverse[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float sum = row_sum(l[i]);
    inverse[i] = 1.f / sum;
    if (F::across() == 0 && F::down() + i < rows) {
      a.lse[static_cast<long long>(p.head) * a.total + p.start + p.row + F::down() + i] = m[i] * LN_2 + logf(sum);
    }
  }
  float* out = at_row(static_cast<float*>(a.out), p.start + p.row, width) + p.head * a.dim;
  F::give(out, width, rows, a.dim, o, inverse, false);
}

// D and dQ: a block owns queries, keys and values go by.
template <int D>
__device__ __forceinline__ void attention_backward_queries_f32(const AttentionBackwardArguments& a) {
  using F = Fma<D>;
  SHARED_DYNAMIC(float, queries);
  float* douts = queries + F::ROWS * F::STRIDE;
  float* keys = douts + F::ROWS * F::STRIDE;
  float* values = keys + F::STREAM * F::STRIDE;
  float* weights = values + F::STREAM * F::STRIDE;
  Place p;
  if (!find_place<F::ROWS>(a, p)) return;
  const int width = a.heads * a.dim;
  const int stride = 3 * width, token = p.start + p.row;
  const long long plane = static_cast<long long>(p.head) * a.total;
  const float* q = at_row(static_cast<const float*>(a.qkv), p.start, stride) + p.head * a.dim;
  const float* k = q + width;
  const float* v = k + width;
  const int rows = p.length - p.row, first_row = threadIdx.x / 32 * 8;
  const int end = p.visible(a.causal, p.row + F::ROWS - 1);
  const float scale = a.scale * LOG2_E;
  F::fetch_own(queries, at_row(q, p.row, stride), stride, rows, a.dim);
  F::fetch_own(douts, at_row(static_cast<const float*>(a.dout), token, width) + p.head * a.dim, width, rows, a.dim);
  F::fetch_streamed(values, v, stride, end, a.dim);
  cp_async_commit();
  cp_async_wait<0>();
  __syncwarp();
  float lse[4], delta[4], dq[4][F::COLUMNS] = {};
  const float* out = at_row(static_cast<const float*>(a.out), token, width) + p.head * a.dim;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int row = F::down() + i;
    float sum = 0;
    if (row < rows) {
      for (int d = F::across(); d < a.dim; d += 16) sum += douts[row * F::STRIDE + d] * out[row * width + d];
    }
    delta[i] = row_sum(sum);
    lse[i] = row < rows ? a.lse[plane + token + row] * LOG2_E : 0.f;
    if (F::across() == 0 && row < rows) a.delta[plane + token + row] = delta[i];
  }
  for (int first = 0; first < end; first += F::STREAM) {
    const bool busy = first_row < rows && p.visible(a.causal, p.row + first_row + 7) > first;
    cp_async_wait<0>();
    __syncthreads();  // the values are there; the keys before them have been weighed
    F::fetch_streamed(keys, at_row(k, first, stride), stride, end - first, a.dim);
    cp_async_commit();
    float ds[4][F::LOGITS], s[4][F::LOGITS];
    if (busy) F::products(ds, douts, values);
    cp_async_wait<0>();
    __syncthreads();  // the keys are there; the values have been read
    if (first + F::STREAM < end) {
      F::fetch_streamed(values, at_row(v, first + F::STREAM, stride), stride, end - first - F::STREAM, a.dim);
      cp_async_commit();
    }
    if (!busy) continue;
    F::products(s, queries, keys);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int seen = p.visible(a.causal, p.row + F::down() + i) - first;
#pragma unroll
      for (int j = 0; j < F::LOGITS; j++) {
        const float probability = F::across() + 16 * j < seen ? exp2f(s[i][j] * scale - lse[i]) : 0.f;
        ds[i][j] = probability * (ds[i][j] - delta[i]);
      }
    }
    F::weigh(dq, ds, weights, keys);
  }
  const float factor[4] = {a.scale, a.scale, a.scale, a.scale};
  F::give(at_row(static_cast<float*>(a.dqkv), token, stride) + p.head * a.dim, stride, rows, a.dim, dq, factor, a.add);
}

// dK and dV: a block owns keys and values, queries and output gradients go by.
template <int D>
__device__ __forceinline__ void attention_backward_keys_f32(const AttentionBackwardArguments& a) {
  using F = Fma<D>;
  SHARED_DYNAMIC(float, keys);
  float* values = keys + F::ROWS * F::STRIDE;
  float* queries = values + F::ROWS * F::STRIDE;
  float* douts = queries + F::STREAM * F::STRIDE;
  float* weights = douts + F::STREAM * F::STRIDE;
  Place p;
  if (!find_place<F::ROWS>(a, p)) return;
  const int width = a.heads * a.dim;
  const int stride = 3 * width;
  const long long plane = static_cast<long long>(p.head) * a.total + p.start;
  const float* q = at_row(static_cast<const float*>(a.qkv), p.start, stride) + p.head * a.dim;
  const float* k = q + width;
  const float* dout = at_row(static_cast<const float*>(a.dout), p.start, width) + p.head * a.dim;
  const int rows = p.length - p.row, first_row = threadIdx.x / 32 * 8;
  const float scale = a.scale * LOG2_E;
  // A causal key is seen from its own query on.
  const int begin = a.causal ? p.row : 0;
  F::fetch_own(keys, at_row(k, p.row, stride), stride, rows, a.dim);
  F::fetch_own(values, at_row(k + width, p.row, stride), stride, rows, a.dim);
  F::fetch_streamed(douts, at_row(dout, begin, width), width, p.length - begin, a.dim);
  cp_async_commit();
  float dk[4][F::COLUMNS] = {}, dv[4][F::COLUMNS] = {};
  for (int first = begin; first < p.length; first += F::STREAM) {
    const bool busy = first_row < rows && !(a.causal && first + F::STREAM <= p.row + first_row);
    cp_async_wait<0>();
    __syncthreads();  // the output gradients are there; the queries before them have been weighed
    F::fetch_streamed(queries, at_row(q, first, stride), stride, p.length - first, a.dim);
    cp_async_commit();
    float ds[4][F::LOGITS], s[4][F::LOGITS], lse[F::LOGITS], delta[F::LOGITS];
#pragma unroll
    for (int j = 0; j < F::LOGITS; j++) {
      const int query = first + F::across() + 16 * j;
      const bool there = query < p.length;
      // Beyond the end Q and dO are zeros, and add nothing.
      lse[j] = there ? a.lse[plane + query] * LOG2_E : 0.f;
      delta[j] = there ? a.delta[plane + query] : 0.f;
    }
    if (busy) F::products(ds, values, douts);
    cp_async_wait<0>();
    __syncthreads();  // the queries are there
    if (busy) {
      F::products(s, keys, queries);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int key = p.row + F::down() + i;
#pragma unroll
        for (int j = 0; j < F::LOGITS; j++) {
          const bool seen = !a.causal || key <= first + F::across() + 16 * j;
          s[i][j] = seen ? exp2f(s[i][j] * scale - lse[j]) : 0.f;
          ds[i][j] = s[i][j] * (ds[i][j] - delta[j]);
        }
      }
      F::weigh(dv, s, weights, douts);
    }
    __syncthreads();  // the output gradients have been weighed
    if (first + F::STREAM < p.length) {
      const int next = first + F::STREAM;
      F::fetch_streamed(douts, at_row(dout, next, width), width, p.length - next, a.dim);
      cp_async_commit();
    }
    if (busy) F::weigh(dk, ds, weights, queries);
  }
  const float by_scale[4] = {a.scale, a.scale, a.scale, a.scale}, one[4] = {1.f, 1.f, 1.f, 1.f};
  float* to = at_row(static_cast<float*>(a.dqkv), p.start + p.row, stride) + p.head * a.dim + width;
  F::give(to, stride, rows, a.dim, dk, by_scale, a.add);
  F::give(to + width, stride, rows, a.dim, dv, one, a.add);
}
