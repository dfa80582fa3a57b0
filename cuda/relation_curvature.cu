// Second derivatives of a relation's cross-entropies, applied to tangents u of x and z of y: with
//
//   P_ij = exp(a_ij − max_i) / Σ_i,   w_ij = u_i·y_j + x_i·z_j,   r_i = Σ_j P_ij w_ij,   E_ij = P_ij − [i=j],
//   D_ij = k α P_ij (w_ij − r_i) = k α P_ij ((w_ij − w_ii) − ρ_i),   ρ_i = r_i − w_ii,
//
//   dx_i = α Σ_j (D_ij y_j + k E_ij z_j),   dy_j = α Σ_i (D_ij x_i + k E_ij u_i),
//   dα = Σ_ij D_ij x_i·y_j + k Σ_ij E_ij w_ij.
//
// Where row i is nearly certain of its class, r_i − w_ii and E_ii are small differences of large numbers, and the whole
// gradient consists of them: ρ_i = Σ_{j≠i} P_ij w_ij + E_ii w_ii, with E_ii from the cross-entropy, loses nothing.
//
// First ρ, by blocks that run along tiles of columns as in relation.cu; then panels of α D and α k E as in
// relation_backward.cu, each multiplied with four matrices: the panels serve both sides.
//
// Per element 3 · 2 d FLOP for ρ and as many for the panels, 16 bytes to and from the panels and two exponentials.
#include "reduce.cuh"
#include "similarity.cuh"

// The three relations whose products make a tile: a without α, and w in two parts.
struct Products {
  // x and y, under α; u and y; x and z.
  LogitsArgument features, left, right;
};

// A thread's cosines and w in the tile at (row, column).
__device__ __forceinline__ void products(float (&c)[ROWS][COLUMNS], float (&w)[ROWS][COLUMNS], const Products& p,
                                         int row, int row_end, int column, int column_end, Stages& s, int& buffer) {
  cosines(c, p.features, row, row_end, column, column_end, s, buffer);
  cosines(w, p.left, row, row_end, column, column_end, s, buffer);
  cosines<true>(w, p.right, row, row_end, column, column_end, s, buffer);
}

struct RelationCurvatureMeanArguments {
  Products products;
  // [2, n]: each row's largest logit, and 1 / Σ exp(a − max).
  const float* softmax;
  // Σ_{j≠i} P_ij w_ij by parts of the columns, [splits, n].
  double* partials;
  // w_ii, [n].
  float* own;
  int n, m;
  // Tiles of columns that a block takes.
  int tiles;
  int padding;
};

KERNEL(relation_curvature_mean_f32, RelationCurvatureMeanArguments, TILE_THREADS) {
  __shared__ Stages stages;
  const int line = threadIdx.x / 16 * ROWS, lane = threadIdx.x % 16;
  const int row = blockIdx.x * TILE_ROWS, mine = row + line + lane % ROWS;
  const float scale = *a.products.features.scale;
  const int first = blockIdx.y * a.tiles * TILE_COLUMNS;
  const int end = min(a.m, first + a.tiles * TILE_COLUMNS);
  int buffer = 0;
  double mean = 0.;
#pragma unroll 1
  for (int column = first; column < end; column += TILE_COLUMNS) {
    float c[ROWS][COLUMNS], w[ROWS][COLUMNS];
    products(c, w, a.products, row, a.n, column, end, stages, buffer);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const int i = row + line + r;
      const float max = i < a.n ? a.softmax[i] : 0.f, inverse = i < a.n ? a.softmax[a.n + i] : 0.f;
      float sum = 0.f;
#pragma unroll
      for (int k = 0; k < COLUMNS; k++) {
        const int j = column + lane * COLUMNS + k;
        const bool there = i < a.n && j < end && i != j;
        if (i == j && i < a.n && j < end) a.own[i] = w[r][k];
        sum += there ? expf(logit(scale, c[r][k]) - max) * inverse * w[r][k] : 0.f;
      }
      sum = row_sum(sum);
      if (lane % ROWS == r) mean += sum;
    }
  }
  if (lane < ROWS && mine < a.n) a.partials[static_cast<long long>(blockIdx.y) * a.n + mine] = mean;
}

struct RelationCurvatureFinishArguments {
  const double* partials;
  // Each anchor's cross-entropy and w_ii, [n].
  const float* value;
  const float* own;
  // ρ, [n].
  float* mean;
  int n;
  int splits;
};

KERNEL(relation_curvature_finish_f32, RelationCurvatureFinishArguments, 256) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= a.n) return;
  double mean = 0.;
  for (int split = 0; split < a.splits; split++) mean += a.partials[static_cast<long long>(split) * a.n + i];
  a.mean[i] = static_cast<float>(mean + static_cast<double>(residual(a.value[i])) * a.own[i]);
}

struct RelationCurvatureArguments {
  Products products;
  const float* softmax;
  // Each anchor's cross-entropy, w_ii and ρ, [n].
  const float* value;
  const float* own;
  const float* mean;
  // α D and α k E of this panel, [rows, columns], where wanted.
  float* curvature;
  float* residual;
  // Of each block: its part of ∂φ/∂α, where wanted.
  double* partials;
  int first_row, row_end;
  int first_column, column_end;
  // Anchors of the whole relation.
  int n;
  float coef;
};

KERNEL(relation_curvature_f32, RelationCurvatureArguments, TILE_THREADS) {
  __shared__ Stages stages;
  __shared__ double scratch[TILE_THREADS / 32];
  const int row = a.first_row + blockIdx.y * TILE_ROWS, column = a.first_column + blockIdx.x * TILE_COLUMNS;
  int buffer = 0;
  float c[ROWS][COLUMNS], w[ROWS][COLUMNS];
  products(c, w, a.products, row, a.row_end, column, a.column_end, stages, buffer);

  const float scale = *a.products.features.scale, inverse_scale = scale == 0.f ? 0.f : 1.f / scale;
  const int i0 = row + threadIdx.x / 16 * ROWS, j0 = column + threadIdx.x % 16 * COLUMNS;
  const int stride = a.column_end - a.first_column;
  const bool wide = stride % 4 == 0;
  double slope = 0.;
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    const int i = i0 + r;
    if (i >= a.row_end) continue;
    const float max = a.softmax[i], inverse = a.softmax[a.n + i], own = a.own[i], mean = a.mean[i];
    // D's rows sum to 0, so that any c₀ taken from the cosines changes nothing but roundings: the largest one, as in
    // relation_backward.cu. E's rows sum to 0 as well, and Σ_j E_ij w_ij = ρ_i.
    const float center = max * inverse_scale;
    float row_slope = 0.f;
#pragma unroll
    for (int k = 0; k < COLUMNS; k++) {
      const int j = j0 + k;
      const bool there = j < a.column_end;
      const float p = there ? a.coef * (expf(logit(scale, c[r][k]) - max) * inverse) : 0.f;
      const float d = scale * p * (i == j ? -mean : (w[r][k] - own) - mean);
      row_slope += d * (c[r][k] - center);
      float e = p;
      if (there && i == j) {
        row_slope += a.coef * mean;
        e = a.coef * residual(a.value[i]);
      }
      c[r][k] = scale * d;
      w[r][k] = scale * e;
    }
    slope += row_slope;
    if (a.curvature) {
      const long long at = static_cast<long long>(i - a.first_row) * stride + (j0 - a.first_column);
      store(a.curvature + at, c[r], a.column_end - j0, wide);
      store(a.residual + at, w[r], a.column_end - j0, wide);
    }
  }
  if (a.partials) {
    slope = block_sum<TILE_THREADS>(slope, scratch);
    if (threadIdx.x == 0) a.partials[static_cast<long long>(blockIdx.y) * gridDim.x + blockIdx.x] = slope;
  }
}
