// Rows of logits a_ij = α x_i·y_j, never stored: each row's softmax, and its divergence from a teacher's row or its
// cross-entropy.
//
// A workgroup takes 128 rows and runs along some of their tiles of 64 columns; each tile's part of a row is merged into
// that row's statistics, by the invocation of the row's number, and a second kernel merges the workgroups' shares, from
// left to right. Columns are split by the shape alone, so that the sums have one order on every GPU.
#include similarity
#values X f32 teacher_f32

#if kernel relation_$X
#include features
#end

// Statistics of a row over some of its columns, each sum relative to the largest logit of those columns.
struct Partial {
  // Σ e^{a − max a}, the teacher's, and Σ e^{b − max b} ((b − max b) − (a − max a)): around the maxima, where the weight
  // is, these differences are small and lose nothing.
  sum: vec2<f32>,
  teacher_sum: vec2<f32>,
  cross: vec2<f32>,
  most: f32,
  teacher_most: f32,
}

fn no_columns() -> Partial { return Partial(vec2<f32>(), vec2<f32>(), vec2<f32>(), LOWEST, LOWEST); }

// `cross` of a part when its maxima give way to larger ones, before the shrinking of its weights: each difference moves
// by how much further b's maximum is off than a's.
fn moved(p: Partial, most: f32, teacher_most: f32) -> vec2<f32> {
  let drift = pair_sub(two_sum(p.teacher_most, -teacher_most), two_sum(p.most, -most));
  return pair_add(p.cross, pair_mul(p.teacher_sum, drift));
}

// Student and teacher go through the same operations in the same order: equal logits give equal sums to the bit, and so
// a divergence of exactly 0.
fn merge(p: Partial, q: Partial) -> Partial {
  if (q.sum.x == 0.0) { return p; }
  if (p.sum.x == 0.0) { return q; }
  let most = max(p.most, q.most);
  let ps = exponential(p.most - most);
  let qs = exponential(q.most - most);
  var both = no_columns();
  both.most = most;
  both.sum = pair_add(pair_scale(p.sum, ps), pair_scale(q.sum, qs));
  if (p.teacher_sum.x == 0.0 && q.teacher_sum.x == 0.0) { return both; }
  let teacher_most = max(p.teacher_most, q.teacher_most);
  let pt = exponential(p.teacher_most - teacher_most);
  let qt = exponential(q.teacher_most - teacher_most);
  both.teacher_most = teacher_most;
  both.teacher_sum = pair_add(pair_scale(p.teacher_sum, pt), pair_scale(q.teacher_sum, qt));
  both.cross = pair_add(pair_scale(moved(p, most, teacher_most), pt), pair_scale(moved(q, most, teacher_most), qt));
  return both;
}

// A Partial is stored as eight f32: the size of CUDA's, which has three f64 and two f32.
#if kernel relation_finish_f32
fn partial_at(at: u32) -> Partial {
  return Partial(
    vec2<f32>(partials[at], partials[at + 1u]), vec2<f32>(partials[at + 2u], partials[at + 3u]),
    vec2<f32>(partials[at + 4u], partials[at + 5u]), partials[at + 6u], partials[at + 7u]);
}
#end

#kernel relation_$X RelationArguments 256
#buffer student_x array<f32>
#buffer student_y array<f32>
#buffer student_scale array<f32>
#if X == teacher_f32
#buffer teacher_x array<f32>
#buffer teacher_y array<f32>
#buffer teacher_scale array<f32>
#else
#buffer own array<f32>
#end
#buffer partials array<f32>
  let line = thread / 16u * 8u;
  let lane = thread % 16u;
  let row = block.x * TILE_ROWS;
  let n = u32(a.n);
  let scale = student_scale[0];
#if X == teacher_f32
  let scale_of_teacher = teacher_scale[0];
#end
  let start = block.y * u32(a.tiles) * TILE_COLUMNS;
  let end = min(u32(a.m), start + u32(a.tiles) * TILE_COLUMNS);
  var known = no_columns();
  for (var column = start; column < end; column += TILE_COLUMNS) {
    var s: array<vec4<f32>, 8>;
    cosines(STUDENT, thread, row, n, column, end, &s);
#if X == teacher_f32
    var t: array<vec4<f32>, 8>;
    cosines(TEACHER, thread, row, n, column, end, &t);
#end
    // Each row's largest logits, first of the invocation's columns, then of all.
    for (var r = 0u; r < 8u; r++) {
      let i = row + line + r;
      var most = LOWEST;
      for (var c = 0u; c < 4u; c++) {
        let j = column + lane * 4u + c;
        let of_student = logit(scale, s[r][c]);
        s[r][c] = of_student;
        if (j < end && !(a.skip_diagonal != 0 && i == j)) { most = max(most, of_student); }
#if X == f32
        if (i == j && i < n && j < end) { own[i] = of_student; }
#end
      }
      put_statistic(line + r, lane, most);
    }
    workgroupBarrier();
    var most = LOWEST;
    var teacher_most = LOWEST;
    if (thread < TILE_ROWS) { most = largest_of_row(thread); }
    workgroupBarrier();
#if X == teacher_f32
    for (var r = 0u; r < 8u; r++) {
      let i = row + line + r;
      var teacher_most = LOWEST;
      for (var c = 0u; c < 4u; c++) {
        let j = column + lane * 4u + c;
        let of_teacher = logit(scale_of_teacher, t[r][c]);
        t[r][c] = of_teacher;
        if (j < end && !(a.skip_diagonal != 0 && i == j)) { teacher_most = max(teacher_most, of_teacher); }
      }
      put_statistic(line + r, lane, teacher_most);
    }
    workgroupBarrier();
    if (thread < TILE_ROWS) { teacher_most = largest_of_row(thread); }
#end
    if (thread < TILE_ROWS) { of_rows[thread] = vec2<f32>(most, teacher_most); }
    workgroupBarrier();
    // The largest logits are counted, the others summed apart: beside a 1 they would lose their last bits, of which a
    // divergence between two rows that are nearly certain consists.
    var tops: array<f32, 8>;
    var rest: array<f32, 8>;
#if X == teacher_f32
    var teacher_tops: array<f32, 8>;
    var teacher_rest: array<f32, 8>;
    var cross: array<f32, 8>;
#end
    for (var r = 0u; r < 8u; r++) {
      let i = row + line + r;
      let largest = of_rows[line + r];
      for (var c = 0u; c < 4u; c++) {
        let j = column + lane * 4u + c;
        if (j < end && !(a.skip_diagonal != 0 && i == j)) {
          let da = s[r][c] - largest.x;
          let p = exponential(da);
          tops[r] += select(0.0, 1.0, da == 0.0);
          rest[r] += select(p, 0.0, da == 0.0);
#if X == teacher_f32
          let db = t[r][c] - largest.y;
          let q = exponential(db);
          teacher_tops[r] += select(0.0, 1.0, db == 0.0);
          teacher_rest[r] += select(q, 0.0, db == 0.0);
          cross[r] += q * (db - da);
#end
        }
      }
    }
    var part = no_columns();
    part.most = most;
    part.teacher_most = teacher_most;
#each S tops rest
    for (var r = 0u; r < 8u; r++) { put_statistic(line + r, lane, $S[r]); }
    workgroupBarrier();
    if (thread < TILE_ROWS) { part.sum = pair_add(part.sum, vec2<f32>(sum_of_row(thread), 0.0)); }
    workgroupBarrier();
#end
#if X == teacher_f32
#each S teacher_tops teacher_rest
    for (var r = 0u; r < 8u; r++) { put_statistic(line + r, lane, $S[r]); }
    workgroupBarrier();
    if (thread < TILE_ROWS) { part.teacher_sum = pair_add(part.teacher_sum, vec2<f32>(sum_of_row(thread), 0.0)); }
    workgroupBarrier();
#end
    for (var r = 0u; r < 8u; r++) { put_statistic(line + r, lane, cross[r]); }
    workgroupBarrier();
    if (thread < TILE_ROWS) { part.cross = vec2<f32>(sum_of_row(thread), 0.0); }
    workgroupBarrier();
#end
    if (thread < TILE_ROWS) { known = merge(known, part); }
  }
  if (thread < TILE_ROWS && row + thread < n) {
    let at = (block.y * n + row + thread) * 8u;
    partials[at] = known.sum.x;
    partials[at + 1u] = known.sum.y;
    partials[at + 2u] = known.teacher_sum.x;
    partials[at + 3u] = known.teacher_sum.y;
    partials[at + 4u] = known.cross.x;
    partials[at + 5u] = known.cross.y;
    partials[at + 6u] = known.most;
    partials[at + 7u] = known.teacher_most;
  }
#end

#kernel relation_finish_f32 RelationFinishArguments 256
#buffer partials array<f32>
#buffer softmax array<f32>
#buffer teacher_softmax array<f32>
#buffer value array<f32>
  let i = block.x * 256u + thread;
  let n = u32(a.n);
  if (i >= n) { return; }
  var row = no_columns();
  for (var split = 0u; split < u32(a.splits); split++) { row = merge(row, partial_at((split * n + i) * 8u)); }
  // A row without candidates (a lone anchor without its diagonal) knows nothing.
  if (row.sum.x == 0.0) {
    softmax[i] = 0.0;
    softmax[n + i] = 0.0;
    value[i] = 0.0;
    if (a.teacher_softmax != NONE) {
      teacher_softmax[i] = 0.0;
      teacher_softmax[n + i] = 0.0;
    }
    return;
  }
  let one = vec2<f32>(1.0, 0.0);
  softmax[i] = row.most;
  softmax[n + i] = pair_div(one, row.sum).x;
  if (a.teacher_softmax != NONE) {
    // KL(q ‖ p) = Σ q (b − a) − B + A, from which both maxima cancel before anything is rounded.
    let logs = pair_log(pair_div(row.sum, row.teacher_sum));
    let divergence = pair_add(pair_div(row.cross, row.teacher_sum), logs);
    teacher_softmax[i] = row.teacher_most;
    teacher_softmax[n + i] = pair_div(one, row.teacher_sum).x;
    // A NaN must stay one.
    value[i] = select(divergence.x, 0.0, divergence.x < 0.0);
  } else {
    // A − a_ii with the large parts subtracted first.
    value[i] = pair_add(two_sum(row.most, -value[i]), pair_log(row.sum)).x;
  }
#end
