// Rows of logits a_ij = α x_i·y_j, never stored: each row's softmax, and its divergence from a teacher's row or its
// cross-entropy.
//
// A block takes 128 rows and runs along some of their tiles of 64 columns; each tile's part of a row is merged into
// that row's statistics, and a second kernel merges the blocks' shares, from left to right. Columns are split
// by the shape alone, so that the sums have one order on every GPU.
//
// Per call 2 n m (d + d_T) FLOP and, at n = m = 1024 and d = d_T = 512, 20 MB read, nearly all from the L2 cache:
// bound by arithmetic. The exponentials are 2 an element, beside 1024 FMA.
#include "similarity.cuh"

// Statistics of a row over some of its columns, each sum relative to the largest logit of those columns.
struct Partial {
  // Σ e^{a − max a}, the teacher's, and Σ e^{b − max b} ((b − max b) − (a − max a)): around the maxima, where the
  // weight is, these differences are small and lose nothing.
  double sum, teacher_sum, cross;
  float max, teacher_max;
};

// −∞: the largest of no logits.
__device__ __forceinline__ float nothing() { return __uint_as_float(0xff800000u); }

__device__ __forceinline__ Partial no_columns() { return {0., 0., 0., nothing(), nothing()}; }

// `cross` of a part when its maxima give way to larger ones, before the shrinking of its weights: each difference
// moves by how much further b's maximum is off than a's.
__device__ __forceinline__ double moved(const Partial& p, float max, float teacher_max) {
  const double drift = (static_cast<double>(p.teacher_max) - teacher_max) - (static_cast<double>(p.max) - max);
  return p.cross + p.teacher_sum * drift;
}

// Student and teacher go through the same operations in the same order: equal logits give equal sums to the bit, and
// so a divergence of exactly 0.
__device__ __forceinline__ Partial merge(const Partial& p, const Partial& q) {
  if (q.sum == 0.) return p;
  if (p.sum == 0.) return q;
  const float max = fmaxf(p.max, q.max), teacher_max = fmaxf(p.teacher_max, q.teacher_max);
  const double ps = expf(p.max - max), qs = expf(q.max - max);
  Partial both{p.sum * ps + q.sum * qs, 0., 0., max, teacher_max};
  if (teacher_max == nothing()) return both;
  const double pt = expf(p.teacher_max - teacher_max), qt = expf(q.teacher_max - teacher_max);
  both.teacher_sum = p.teacher_sum * pt + q.teacher_sum * qt;
  both.cross = pt * moved(p, max, teacher_max) + qt * moved(q, max, teacher_max);
  return both;
}

// A tile's sums over one of its rows, the same in all of the row's lanes; `kept` says which of a thread's columns
// take part.
template <bool TEACHER>
__device__ __forceinline__ Partial row_part(const float (&a)[COLUMNS], const float (&b)[COLUMNS],
                                            const bool (&kept)[COLUMNS]) {
  float max = nothing(), teacher_max = nothing();
#pragma unroll
  for (int c = 0; c < COLUMNS; c++) {
    if (!kept[c]) continue;
    max = fmaxf(max, a[c]);
    if (TEACHER) teacher_max = fmaxf(teacher_max, b[c]);
  }
  max = row_max(max);
  if (TEACHER) teacher_max = row_max(teacher_max);
  // The largest logits are counted, the others summed apart: beside a 1 they would lose their last bits, of which a
  // divergence between two rows that are nearly certain consists.
  float tops = 0.f, teacher_tops = 0.f, rest = 0.f, teacher_rest = 0.f, cross = 0.f;
#pragma unroll
  for (int c = 0; c < COLUMNS; c++) {
    if (!kept[c]) continue;
    const float da = a[c] - max, p = expf(da);
    tops += da == 0.f ? 1.f : 0.f;
    rest += da == 0.f ? 0.f : p;
    if (TEACHER) {
      const float db = b[c] - teacher_max, q = expf(db);
      teacher_tops += db == 0.f ? 1.f : 0.f;
      teacher_rest += db == 0.f ? 0.f : q;
      cross += q * (db - da);
    }
  }
  const double sum = static_cast<double>(row_sum(tops)) + row_sum(rest);
  double teacher_sum = 0.;
  if (TEACHER) {
    teacher_sum = static_cast<double>(row_sum(teacher_tops)) + row_sum(teacher_rest);
    cross = row_sum(cross);
  }
  return {sum, teacher_sum, cross, max, teacher_max};
}

struct RelationArguments {
  LogitsArgument student, teacher;
  // [splits, n].
  Partial* partials;
  // a_ii of each row.
  float* own;
  int n, m;
  // Tiles of columns that a block takes.
  int tiles;
  // Leaves j = i out.
  int skip_diagonal;
};

template <bool TEACHER>
__device__ __forceinline__ void relation(const RelationArguments& a) {
  __shared__ Stages stages;
  const int line = threadIdx.x / 16 * ROWS, lane = threadIdx.x % 16;
  const int row = blockIdx.x * TILE_ROWS, mine = row + line + lane % ROWS;
  const float scale = *a.student.scale, teacher_scale = TEACHER ? *a.teacher.scale : 0.f;
  const int first = blockIdx.y * a.tiles * TILE_COLUMNS;
  const int end = min(a.m, first + a.tiles * TILE_COLUMNS);
  int buffer = 0;
  Partial known = no_columns();
#pragma unroll 1
  for (int column = first; column < end; column += TILE_COLUMNS) {
    float s[ROWS][COLUMNS], t[ROWS][COLUMNS];
    cosines(s, a.student, row, a.n, column, end, stages, buffer);
    if (TEACHER) cosines(t, a.teacher, row, a.n, column, end, stages, buffer);
    Partial part = no_columns();
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const int i = row + line + r;
      bool kept[COLUMNS];
#pragma unroll
      for (int c = 0; c < COLUMNS; c++) {
        const int j = column + lane * COLUMNS + c;
        s[r][c] = logit(scale, s[r][c]);
        if (TEACHER) t[r][c] = logit(teacher_scale, t[r][c]);
        kept[c] = j < end && !(a.skip_diagonal && i == j);
        if (!TEACHER && i == j && i < a.n && j < end) a.own[i] = s[r][c];
      }
      const Partial of_row = row_part<TEACHER>(s[r], TEACHER ? t[r] : s[r], kept);
      if (lane % ROWS == r) part = of_row;
    }
    known = merge(known, part);
  }
  if (lane < ROWS && mine < a.n) a.partials[static_cast<long long>(blockIdx.y) * a.n + mine] = known;
}

// Without a teacher: the target of row i is class i.
KERNEL(relation_f32, RelationArguments, TILE_THREADS) { relation<false>(a); }
KERNEL(relation_teacher_f32, RelationArguments, TILE_THREADS) { relation<true>(a); }

struct RelationFinishArguments {
  const Partial* partials;
  // [2, n]: each row's largest logit, and 1 / Σ exp(a − max).
  float* softmax;
  // Null without a teacher.
  float* teacher_softmax;
  // Without a teacher, a_ii before.
  float* value;
  int n;
  int splits;
};

KERNEL(relation_finish_f32, RelationFinishArguments, 256) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= a.n) return;
  Partial row = no_columns();
  for (int split = 0; split < a.splits; split++) row = merge(row, a.partials[static_cast<long long>(split) * a.n + i]);
  // A row without candidates (a lone anchor without its diagonal) knows nothing.
  if (row.sum == 0.) {
    a.softmax[i] = a.softmax[a.n + i] = a.value[i] = 0.f;
    if (a.teacher_softmax) a.teacher_softmax[i] = a.teacher_softmax[a.n + i] = 0.f;
    return;
  }
  const double log_sum = log(row.sum);
  a.softmax[i] = row.max;
  a.softmax[a.n + i] = static_cast<float>(1. / row.sum);
  if (a.teacher_softmax) {
    // KL(q ‖ p) = Σ q (b − a) − B + A, from which both maxima cancel before anything is rounded.
    const double teacher_log_sum = log(row.teacher_sum);
    const double divergence = row.cross / row.teacher_sum + (log_sum - teacher_log_sum);
    a.teacher_softmax[i] = row.teacher_max;
    a.teacher_softmax[a.n + i] = static_cast<float>(1. / row.teacher_sum);
    a.value[i] = divergence < 0. ? 0.f : static_cast<float>(divergence);  // no fmax: a NaN must stay one
  } else {
    // A − a_ii with the large parts subtracted first.
    a.value[i] = static_cast<float>((static_cast<double>(row.max) - a.value[i]) + log_sum);
  }
}
