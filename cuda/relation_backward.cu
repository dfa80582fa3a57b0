// Gradients of the similarity losses: tiles of logits are made again and turned into coefficients
//
//   C_ij = k_i (P_ij − T_ij) + k'_j (P'_ji − T'_ji),    ∂L/∂x_i = α Σ_j C_ij y_j,
//   ∂L/∂α = Σ_ij k_i (P_ij − T_ij) x_i·y_j,
//
// with P_ij = exp(a_ij − max_i) / Σ_i and the target T_ij (the teacher's softmax, or class i); primed, along columns. One tile
// of a serves both terms. α C goes to a panel of at most 4096 × 4096, whose product with y is a matrix product
// like any other: so every tile is a block of its own and the GPU is full at any batch, where a block that kept its
// rows of ∂L/∂x would have to be one of few; nothing is added atomically, and the panel's size is constant.
//
// Where y is x and both directions are the same (the intra-modal losses), C is symmetric to the bit, as
// x_i·x_j is summed in the order of x_j·x_i. Then only the elements with j ≥ i of a panel on the diagonal are made
// and written twice, and a panel right of it is multiplied twice, across the second time: each a_ij is made once for
// G_ij and G_ji, and each gradient's row gets its products in the order of the panels.
//
// Per element 2 (d + d_T) FLOP, 8 bytes to and from the panel and up to four exponentials; symmetric, per pair.
#include "reduce.cuh"
#include "similarity.cuh"

struct DirectionArgument {
  // [2, n]: each row's largest logit, and 1 / Σ exp(a − max).
  const float* softmax;
  const float* teacher_softmax;
  // Of each anchor, [n]; without a teacher its cross-entropy.
  const float* value;
  // k, [n].
  const float* coef;
  long long n;
};

struct RelationBackwardArguments {
  LogitsArgument student, teacher;
  // Without a second direction, `column.coef` is null.
  DirectionArgument row, column;
  // α C of this panel, [rows, columns], where wanted.
  float* panel;
  // Of each block: its part of ∂L/∂α, where wanted.
  double* partials;
  int first_row, row_end;
  int first_column, column_end;
  // Leaves j = i out.
  int skip_diagonal;
  // C is symmetric; `mirrored`: and this panel is on the diagonal.
  int symmetric, mirrored;
  int padding;
};

// One direction at one of its anchors.
struct Anchor {
  float max, inverse, teacher_max, teacher_inverse, coef;
  // c₀ = max/α. Both softmaxes sum to 1, so Σ (P − T)(c − c₀) is the same for any c₀; this one, the largest cosine,
  // keeps the rounding of the softmaxes' sums from multiplying cosines near 1.
  float center;
};

template <bool TEACHER>
__device__ __forceinline__ Anchor anchor(const DirectionArgument& side, int i, bool there, float inverse) {
  if (!there) return {};
  const float max = side.softmax[i];
  return {max,
          side.softmax[side.n + i],
          TEACHER ? side.teacher_softmax[i] : 0.f,
          TEACHER ? side.teacher_softmax[side.n + i] : 0.f,
          side.coef[i],
          max * inverse};
}

// P − T of one element; `own`: of an anchor with its own class, whose value is `*value`.
template <bool TEACHER>
__device__ __forceinline__ float difference(float a, float b, const Anchor& anchor, bool kept, bool own,
                                            const float* value) {
  if (!TEACHER && own) return residual(*value);
  const float p = kept ? expf(a - anchor.max) * anchor.inverse : 0.f;
  if (TEACHER) return kept ? p - expf(b - anchor.teacher_max) * anchor.teacher_inverse : 0.f;
  return p;
}

template <bool TEACHER>
__device__ __forceinline__ void relation_backward(const RelationBackwardArguments& a) {
  __shared__ Stages stages;
  __shared__ double scratch[TILE_THREADS / 32];
  const int row = a.first_row + blockIdx.y * TILE_ROWS, column = a.first_column + blockIdx.x * TILE_COLUMNS;
  const long long block = static_cast<long long>(blockIdx.y) * gridDim.x + blockIdx.x;
  if (a.mirrored && column + TILE_COLUMNS <= row) {
    if (a.partials && threadIdx.x == 0) a.partials[block] = 0.;
    return;  // all of it is mirrored from the other side
  }
  int buffer = 0;
  float s[ROWS][COLUMNS], t[ROWS][COLUMNS];
  cosines(s, a.student, row, a.row_end, column, a.column_end, stages, buffer);
  if (TEACHER) cosines(t, a.teacher, row, a.row_end, column, a.column_end, stages, buffer);

  const float scale = *a.student.scale, teacher_scale = TEACHER ? *a.teacher.scale : 0.f;
  const float inverse = scale == 0.f ? 0.f : 1.f / scale;
  const bool both = a.column.coef != nullptr;
  const int i0 = row + threadIdx.x / 16 * ROWS, j0 = column + threadIdx.x % 16 * COLUMNS;
  Anchor columns[COLUMNS];
#pragma unroll
  for (int c = 0; c < COLUMNS; c++) {
    columns[c] = anchor<TEACHER>(a.column, j0 + c, both && j0 + c < a.column_end, inverse);
  }
  double slope = 0.;
  float column_slope[COLUMNS] = {};
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    const int i = i0 + r;
    const Anchor mine = anchor<TEACHER>(a.row, i, i < a.row_end, inverse);
    float row_slope = 0.f;
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
      const int j = j0 + c;
      const float cosine = s[r][c], at = logit(scale, cosine);
      const float teacher_at = TEACHER ? logit(teacher_scale, t[r][c]) : 0.f;
      const bool there = i < a.row_end && j < a.column_end, own = there && i == j;
      const bool kept = there && !(own && a.skip_diagonal);
      const float along = difference<TEACHER>(at, teacher_at, mine, kept, own, a.row.value + i);
      float coefficient = mine.coef * along;
      if (!a.mirrored || j >= i) row_slope += along * (cosine - mine.center);
      if (both) {
        const float across = difference<TEACHER>(at, teacher_at, columns[c], kept, own, a.column.value + j);
        coefficient += columns[c].coef * across;
        if (a.symmetric && (!a.mirrored || j > i)) column_slope[c] += across * (cosine - columns[c].center);
      }
      s[r][c] = scale * coefficient;
    }
    slope += static_cast<double>(mine.coef) * row_slope;
  }
#pragma unroll
  for (int c = 0; c < COLUMNS; c++) slope += static_cast<double>(columns[c].coef) * column_slope[c];

  if (a.panel) {
    const int stride = a.column_end - a.first_column;
    const bool wide = stride % 4 == 0;
    float* const panel = a.panel + static_cast<long long>(i0 - a.first_row) * stride + (j0 - a.first_column);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      if (i0 + r >= a.row_end) continue;
      float* const to = panel + static_cast<long long>(r) * stride;
      if (!a.mirrored || j0 >= i0 + r) {
        store(to, s[r], a.column_end - j0, wide);
        continue;
      }
#pragma unroll
      for (int c = 0; c < COLUMNS; c++) {
        if (j0 + c >= i0 + r && j0 + c < a.column_end) to[c] = s[r][c];
      }
    }
    if (a.mirrored) {
#pragma unroll
      for (int c = 0; c < COLUMNS; c++) {
        const int j = j0 + c;
        if (j >= a.column_end) continue;
        float mirror[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) mirror[r] = s[r][c];
        store(a.panel + static_cast<long long>(j - a.first_row) * stride + (i0 - a.first_column), mirror, j - i0, wide);
      }
    }
  }
  if (a.partials) {
    slope = warp_sum(slope);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = slope;
    __syncthreads();
    if (threadIdx.x > 0) return;
    double total = 0.;
    for (int warp = 0; warp < TILE_THREADS / 32; warp++) total += scratch[warp];
    a.partials[block] = total;
  }
}

KERNEL(relation_backward_f32, RelationBackwardArguments, TILE_THREADS) { relation_backward<false>(a); }
KERNEL(relation_backward_teacher_f32, RelationBackwardArguments, TILE_THREADS) { relation_backward<true>(a); }
