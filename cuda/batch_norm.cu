// Batch normalisation over all but the channels, with the residual and the ReLU after it.
//
// Memory-bound, so what counts is how often an element [rows, channels] moves: once for the moments; x, residual
// and y for the result; backward, g and the sums take dy, x and y (and write g where the residual wants it), dx takes
// g (or dy and y) and x. With its 3 to 8 FLOPs an element nothing is gained by tiles: a block takes a chunk of
// rows of up to 32 units of 16 bytes, a thread one of them, whose constants stay in its registers; of narrower
// rows the block takes several at once, so that a warp always reads 512 neighbouring bytes.
#include "vector.cuh"

constexpr int THREADS = 256;

// How a kernel divides a matrix: `lanes` (a power of two, at most 32) threads side by side hold a line.
struct Split {
  long long rows;
  long long chunk;
  int columns;
  int lanes;
};

// Calls f(row) for every N-th row of the block's chunk, from the thread's row on.
template <class F>
__device__ __forceinline__ void for_each_row(const Split& s, F f) {
  const int lines = THREADS / s.lanes;
  const long long first = blockIdx.y * s.chunk, last = first + s.chunk < s.rows ? first + s.chunk : s.rows;
#pragma unroll 4
  for (long long row = first + threadIdx.x / s.lanes; row < last; row += lines) f(row);
}

template <int N>
__device__ __forceinline__ int column_of(const Split& s) {
  return (blockIdx.x * s.lanes + threadIdx.x % s.lanes) * N;
}

// Two sums over the chunk of what the threads hold of each, to partials [chunk, 2, columns]; lines are added in
// their order.
template <int N>
__device__ __forceinline__ void chunk_sums(const Split& s, const float (&one)[N], const float (&two)[N], float* partials) {
  __shared__ __align__(16) float shared[2][THREADS * N];
  store_wide(&shared[0][threadIdx.x * N], one);
  store_wide(&shared[1][threadIdx.x * N], two);
  __syncthreads();
  const int width = s.lanes * N;
  for (int i = threadIdx.x; i < 2 * width; i += THREADS) {
    const int which = i / width, c = i % width, column = blockIdx.x * width + c;
    if (column >= s.columns) continue;
    float total = 0;
    for (int at = c; at < THREADS * N; at += width) total += shared[which][at];
    partials[(2ll * blockIdx.y + which) * s.columns + column] = total;
  }
}

// Second stages: a block takes eight columns, a thread every 32nd line of partial sums.
constexpr int FINISH_COLUMNS = 8, FINISH_LINES = THREADS / FINISH_COLUMNS;

// Σ v over the lines, for every thread of the column. `scratch` is used once.
__device__ __forceinline__ float line_sum(float v, float (&scratch)[FINISH_LINES][FINISH_COLUMNS]) {
  const int c = threadIdx.x % FINISH_COLUMNS;
  scratch[threadIdx.x / FINISH_COLUMNS][c] = v;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int l = 0; l < FINISH_LINES; l++) total += scratch[l][c];
  return total;
}

// ---- moments

struct MomentsArguments {
  Split split;
  const void* x;
  // [chunk, 2, columns]
  float* partials;
};

// Σ d and Σ d² with d = x − K, where K is the first row of the chunk: a sample is about as far from the mean as
// the others, so little cancels in Σ d² − (Σ d)² / n, however far the mean is from zero.
template <class T>
__device__ __forceinline__ void moments(const MomentsArguments& a) {
  constexpr int N = Lanes<T>::n;
  const int columns = a.split.columns, column = column_of<N>(a.split), count = columns - column;
  const bool wide = columns % N == 0;
  const T* x = static_cast<const T*>(a.x) + column;
  float sum[N] = {}, squares[N] = {};
  if (count > 0) {
    float shift[N];
    load(shift, x + blockIdx.y * a.split.chunk * columns, count, wide);
    for_each_row(a.split, [&](long long row) {
      float d[N];
      load(d, x + row * columns, count, wide);
#pragma unroll
      for (int i = 0; i < N; i++) {
        d[i] -= shift[i];
        sum[i] += d[i];
        squares[i] = fmaf(d[i], d[i], squares[i]);
      }
    });
  }
  chunk_sums(a.split, sum, squares, a.partials);
}

KERNEL(batch_moments_f32, MomentsArguments, THREADS) { moments<float>(a); }
KERNEL(batch_moments_bf16, MomentsArguments, THREADS) { moments<bf16>(a); }

struct MomentsFinishArguments {
  Split split;
  const void* x;
  const float* partials;
  float* mean;
  float* variance;
  int chunks;
  int unused;
};

// Of chunk k with n rows and mean m (relative to the first chunk's shift, so that the difference of two shifts is
// all that is rounded): mean = Σ n m / Σ n, and Σ (x − mean)² = Σ over chunks of its own about m, + n (m − mean)²
// (Chan, Golub and LeVeque, The American Statistician 37(3), 1983).
template <class T>
__device__ __forceinline__ void moments_finish(const MomentsFinishArguments& a) {
  __shared__ float scratch[2][FINISH_LINES][FINISH_COLUMNS];
  const int columns = a.split.columns, line = threadIdx.x / FINISH_COLUMNS;
  const int column = blockIdx.x * FINISH_COLUMNS + threadIdx.x % FINISH_COLUMNS;
  const T* x = static_cast<const T*>(a.x) + column;
  const int chunks = column < columns ? a.chunks : 0;
  const float origin = chunks > 0 ? value(x[0]) : 0.f;
  const auto rows_of = [&](int k) {
    const long long left = a.split.rows - k * a.split.chunk;
    return static_cast<float>(left < a.split.chunk ? left : a.split.chunk);
  };
  const auto shift_of = [&](int k) { return value(x[k * a.split.chunk * columns]) - origin; };
  float sum = 0;
#pragma unroll 4
  for (int k = line; k < chunks; k += FINISH_LINES) {
    sum += fmaf(rows_of(k), shift_of(k), a.partials[2ll * k * columns + column]);
  }
  const float rows = static_cast<float>(a.split.rows), mean = line_sum(sum, scratch[0]) / rows;
  float squares = 0;
#pragma unroll 4
  for (int k = line; k < chunks; k += FINISH_LINES) {
    const float n = rows_of(k), s = a.partials[2ll * k * columns + column];
    const float apart = shift_of(k) - mean + s / n;
    squares += a.partials[(2ll * k + 1) * columns + column] - s * s / n + n * apart * apart;
  }
  squares = line_sum(squares, scratch[1]);
  if (line > 0 || column >= columns) return;
  a.mean[column] = origin + mean;
  a.variance[column] = fmaxf(squares / rows, 0.f);
}

KERNEL(batch_moments_finish_f32, MomentsFinishArguments, THREADS) { moments_finish<float>(a); }
KERNEL(batch_moments_finish_bf16, MomentsFinishArguments, THREADS) { moments_finish<bf16>(a); }

// ---- forward

struct BatchNormArguments {
  Split split;
  const void* x;
  const float* gamma;
  const float* beta;
  const float* mean;
  const float* variance;
  // Null without a residual.
  const void* residual;
  void* y;
  float eps;
  int relu;
};

template <class T>
__device__ __forceinline__ void batch_norm(const BatchNormArguments& a) {
  constexpr int N = Lanes<T>::n;
  const int columns = a.split.columns, column = column_of<N>(a.split), count = columns - column;
  const bool wide = columns % N == 0;
  if (count <= 0) return;
  float scale[N], mean[N], beta[N];
  load(scale, a.variance + column, count, wide);
  load(mean, a.gamma + column, count, wide);
#pragma unroll
  for (int i = 0; i < N; i++) scale[i] = mean[i] / sqrtf(scale[i] + a.eps);
  load(mean, a.mean + column, count, wide);
  load(beta, a.beta + column, count, wide);
  for_each_row(a.split, [&](long long row) {
    const long long at = row * columns + column;
    float x[N], residual[N] = {};
    load(x, static_cast<const T*>(a.x) + at, count, wide);
    if (a.residual) load(residual, static_cast<const T*>(a.residual) + at, count, wide);
#pragma unroll
    for (int i = 0; i < N; i++) {
      x[i] = fmaf(x[i] - mean[i], scale[i], beta[i]) + residual[i];
      if (a.relu) x[i] = x[i] > 0.f ? x[i] : 0.f;
    }
    store(static_cast<T*>(a.y) + at, x, count, wide);
  });
}

KERNEL(batch_norm_f32, BatchNormArguments, THREADS) { batch_norm<float>(a); }
KERNEL(batch_norm_bf16, BatchNormArguments, THREADS) { batch_norm<bf16>(a); }

// ---- backward

struct SumsArguments {
  Split split;
  const void* dy;
  const void* x;
  // Null without a ReLU.
  const void* y;
  const float* mean;
  // Where dy goes where the ReLU passed, zeros elsewhere; null if not wanted.
  void* g;
  // [chunk, 2, columns]: Σ g (x − mean), Σ g.
  float* partials;
};

// g = dy where the ReLU passed, else 0.
template <class T, int N>
__device__ __forceinline__ void load_passed(float (&g)[N], const void* dy, const void* y, long long at, int count, bool wide) {
  load(g, static_cast<const T*>(dy) + at, count, wide);
  if (y == nullptr) return;
  float passed[N];
  load(passed, static_cast<const T*>(y) + at, count, wide);
#pragma unroll
  for (int i = 0; i < N; i++) g[i] = passed[i] > 0.f ? g[i] : 0.f;
}

template <class T>
__device__ __forceinline__ void batch_norm_sums(const SumsArguments& a) {
  constexpr int N = Lanes<T>::n;
  const int columns = a.split.columns, column = column_of<N>(a.split), count = columns - column;
  const bool wide = columns % N == 0;
  float of_x[N] = {}, of_g[N] = {};
  if (count > 0) {
    float mean[N];
    load(mean, a.mean + column, count, wide);
    for_each_row(a.split, [&](long long row) {
      const long long at = row * columns + column;
      float g[N], x[N];
      load_passed<T>(g, a.dy, a.y, at, count, wide);
      load(x, static_cast<const T*>(a.x) + at, count, wide);
#pragma unroll
      for (int i = 0; i < N; i++) {
        of_x[i] = fmaf(g[i], x[i] - mean[i], of_x[i]);
        of_g[i] += g[i];
      }
      if (a.g) store(static_cast<T*>(a.g) + at, g, count, wide);
    });
  }
  chunk_sums(a.split, of_x, of_g, a.partials);
}

KERNEL(batch_norm_sums_f32, SumsArguments, THREADS) { batch_norm_sums<float>(a); }
KERNEL(batch_norm_sums_bf16, SumsArguments, THREADS) { batch_norm_sums<bf16>(a); }

struct SumsFinishArguments {
  Split split;
  const float* partials;
  const float* gamma;
  const float* variance;
  // Null if not wanted.
  float* dgamma;
  float* dbeta;
  // [3, columns]: dx = c₀ g + c₁ (x − mean) + c₂.
  float* constants;
  int chunks;
  float eps;
  int add_dgamma;
  int add_dbeta;
  int of_batch;
  int unused;
};

// With ρ = 1/√(variance + ε): dγ = ρ Σ g (x − μ), dβ = Σ g, and, with moments of the batch,
// dx = γ ρ (g − Σ g / n − (x − μ) ρ² Σ g (x − μ) / n); with given ones dx = γ ρ g.
KERNEL(batch_norm_sums_finish, SumsFinishArguments, THREADS) {
  __shared__ float scratch[2][FINISH_LINES][FINISH_COLUMNS];
  const int columns = a.split.columns, line = threadIdx.x / FINISH_COLUMNS;
  const int column = blockIdx.x * FINISH_COLUMNS + threadIdx.x % FINISH_COLUMNS;
  float of_x = 0, of_g = 0;
  if (column < columns) {
#pragma unroll 4
    for (int k = line; k < a.chunks; k += FINISH_LINES) {
      of_x += a.partials[2ll * k * columns + column];
      of_g += a.partials[(2ll * k + 1) * columns + column];
    }
  }
  of_x = line_sum(of_x, scratch[0]);
  of_g = line_sum(of_g, scratch[1]);
  if (line > 0 || column >= columns) return;
  const float rstd = 1.f / sqrtf(a.variance[column] + a.eps), scale = a.gamma[column] * rstd;
  if (a.dgamma) a.dgamma[column] = of_x * rstd + (a.add_dgamma ? a.dgamma[column] : 0.f);
  if (a.dbeta) a.dbeta[column] = of_g + (a.add_dbeta ? a.dbeta[column] : 0.f);
  const float share = a.of_batch ? scale / static_cast<float>(a.split.rows) : 0.f;
  a.constants[column] = scale;
  a.constants[columns + column] = -share * rstd * rstd * of_x;
  a.constants[2 * columns + column] = -share * of_g;
}

struct BatchNormBackwardArguments {
  Split split;
  const void* dy;
  const void* x;
  // Null without a ReLU, or where dy has passed it already.
  const void* y;
  const float* mean;
  const float* constants;
  void* dx;
  int add;
  int unused;
};

template <class T>
__device__ __forceinline__ void batch_norm_backward(const BatchNormBackwardArguments& a) {
  constexpr int N = Lanes<T>::n;
  const int columns = a.split.columns, column = column_of<N>(a.split), count = columns - column;
  const bool wide = columns % N == 0;
  if (count <= 0) return;
  float mean[N], of_g[N], of_x[N], fixed[N];
  load(mean, a.mean + column, count, wide);
  load(of_g, a.constants + column, count, wide);
  load(of_x, a.constants + columns + column, count, wide);
  load(fixed, a.constants + 2 * columns + column, count, wide);
  for_each_row(a.split, [&](long long row) {
    const long long at = row * columns + column;
    float g[N], x[N];
    load_passed<T>(g, a.dy, a.y, at, count, wide);
    load(x, static_cast<const T*>(a.x) + at, count, wide);
#pragma unroll
    for (int i = 0; i < N; i++) g[i] = fmaf(of_g[i], g[i], fmaf(of_x[i], x[i] - mean[i], fixed[i]));
    contribute(static_cast<T*>(a.dx) + at, g, count, wide, a.add);
  });
}

KERNEL(batch_norm_backward_f32, BatchNormBackwardArguments, THREADS) { batch_norm_backward<float>(a); }
KERNEL(batch_norm_backward_bf16, BatchNormBackwardArguments, THREADS) { batch_norm_backward<bf16>(a); }
