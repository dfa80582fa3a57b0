// Gradients of the similarity losses: tiles of logits are made again and turned into coefficients
//
//   C_ij = k_i (P_ij − T_ij) + k'_j (P'_ji − T'_ji),    ∂L/∂x_i = α Σ_j C_ij y_j,
//   ∂L/∂α = Σ_ij k_i (P_ij − T_ij) x_i·y_j,
//
// with P_ij = exp(a_ij − max_i) / Σ_i and the target T_ij (the teacher's softmax, or class i); primed, along columns. One
// tile of a serves both terms. α C goes to a panel of constant size, whose product with y is a matrix product like any
// other; nothing is added atomically.
//
// Where y is x and both directions are the same (the intra-modal losses), C is symmetric to the bit. Then only the
// elements with j ≥ i of a panel on the diagonal are made, and written twice.
#include similarity
#values X f32 teacher_f32

#include features

// One direction at one of its anchors.
struct Anchor {
  most: f32,
  inverse: f32,
  teacher_most: f32,
  teacher_inverse: f32,
  coef: f32,
  // c₀ = max/α. Both softmaxes sum to 1, so Σ (P − T)(c − c₀) is the same for any c₀; this one, the largest cosine, keeps
  // the rounding of the softmaxes' sums from multiplying cosines near 1.
  center: f32,
}

#each F row column
fn $F_anchor(i: u32, there: bool, inverse: f32) -> Anchor {
  if (!there) { return Anchor(); }
  let most = $F_softmax[i];
#if X == teacher_f32
  let teacher = vec2<f32>($F_teacher_softmax[i], $F_teacher_softmax[a.$F_n + i]);
#else
  let teacher = vec2<f32>();
#end
  return Anchor(most, $F_softmax[a.$F_n + i], teacher.x, teacher.y, $F_coef[i], most * inverse);
}
#end

// P − T of one element of the tile that is there.
fn difference(at: f32, teacher_at: f32, anchor: Anchor, kept: bool) -> f32 {
  if (!kept) { return 0.0; }
  let p = exponential(at - anchor.most) * anchor.inverse;
#if X == teacher_f32
  return p - exponential(teacher_at - anchor.teacher_most) * anchor.teacher_inverse;
#else
  return p;
#end
}

#kernel relation_backward_$X RelationBackwardArguments 256
#buffer student_x array<f32>
#buffer student_y array<f32>
#buffer student_scale array<f32>
#if X == teacher_f32
#buffer teacher_x array<f32>
#buffer teacher_y array<f32>
#buffer teacher_scale array<f32>
#buffer row_teacher_softmax array<f32>
#buffer column_teacher_softmax array<f32>
#else
#buffer row_value array<f32>
#buffer column_value array<f32>
#end
#buffer row_softmax array<f32>
#buffer row_coef array<f32>
#buffer column_softmax array<f32>
#buffer column_coef array<f32>
#buffer panel array<f32>
#buffer partials array<vec2<f32>>
  let row = u32(a.first_row) + block.y * TILE_ROWS;
  let column = u32(a.first_column) + block.x * TILE_COLUMNS;
  let row_end = u32(a.row_end);
  let column_end = u32(a.column_end);
  let partial = a.partials / 8u + block.y * grid.x + block.x;
  let mirrored = a.mirrored != 0;
  if (mirrored && column + TILE_COLUMNS <= row) {
    // All of it is mirrored from the other side.
    if (a.partials != NONE && thread == 0u) { partials[partial] = vec2<f32>(); }
    return;
  }
  var s: array<vec4<f32>, 8>;
  cosines(STUDENT, thread, row, row_end, column, column_end, &s);
#if X == teacher_f32
  var t: array<vec4<f32>, 8>;
  cosines(TEACHER, thread, row, row_end, column, column_end, &t);
  let scale_of_teacher = teacher_scale[0];
#end
  let scale = student_scale[0];
  let inverse = select(1.0 / scale, 0.0, scale == 0.0);
  let both = a.column_coef != NONE;
  let i0 = row + thread / 16u * 8u;
  let j0 = column + thread % 16u * 4u;
  var columns: array<Anchor, 4>;
  for (var c = 0u; c < 4u; c++) { columns[c] = column_anchor(j0 + c, both && j0 + c < column_end, inverse); }
  var slope = vec2<f32>();
  var column_slope = vec4<f32>();
  for (var r = 0u; r < 8u; r++) {
    let i = i0 + r;
    let mine = row_anchor(i, i < row_end, inverse);
    var row_slope = 0.0;
    for (var c = 0u; c < 4u; c++) {
      let j = j0 + c;
      let cosine = s[r][c];
      let at = logit(scale, cosine);
#if X == teacher_f32
      let teacher_at = logit(scale_of_teacher, t[r][c]);
#else
      let teacher_at = 0.0;
#end
      let there = i < row_end && j < column_end;
      let own = there && i == j;
      let kept = there && !(own && a.skip_diagonal != 0);
      var along = difference(at, teacher_at, mine, kept);
#if X == f32
      if (own) { along = residual_of(row_value[i]); }
#end
      var coefficient = mine.coef * along;
      if (!mirrored || j >= i) { row_slope += along * (cosine - mine.center); }
      if (both) {
        var across = difference(at, teacher_at, columns[c], kept);
#if X == f32
        if (own) { across = residual_of(column_value[j]); }
#end
        // Apart: the sum of two products is then the same from either side.
        coefficient = opaque(coefficient) + opaque(columns[c].coef * across);
        if (a.symmetric != 0 && (!mirrored || j > i)) { column_slope[c] += across * (cosine - columns[c].center); }
      }
      s[r][c] = scale * coefficient;
    }
    slope = pair_add(slope, two_product(mine.coef, row_slope));
  }
  for (var c = 0u; c < 4u; c++) { slope = pair_add(slope, two_product(columns[c].coef, column_slope[c])); }

  if (a.panel != NONE) {
    let stride = column_end - u32(a.first_column);
    for (var r = 0u; r < 8u; r++) {
      let i = i0 + r;
      for (var c = 0u; c < 4u; c++) {
        let j = j0 + c;
        if (i < row_end && j < column_end && (!mirrored || j >= i)) {
          panel[(i - u32(a.first_row)) * stride + (j - u32(a.first_column))] = s[r][c];
          // The panel is on the diagonal: its rows are its columns.
          if (mirrored && j > i) { panel[(j - u32(a.first_row)) * stride + (i - u32(a.first_column))] = s[r][c]; }
        }
      }
    }
  }
  if (a.partials != NONE) {
    let total = pair_sum_of_256(thread, slope);
    if (thread == 0u) { partials[partial] = total; }
  }
#end
