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
// First ρ, by workgroups that run along tiles of columns as in relation.wgsl; then panels of α D and α k E as in
// relation_backward.wgsl, each multiplied with four matrices: the panels serve both sides.
#include similarity

// Which products: x and y; u and y; x and z.
const FEATURES = 0u;
const LEFT = 1u;
const RIGHT = 2u;

#if kernel relation_curvature_mean_f32 relation_curvature_f32
#include cosines
fn x_at(which: u32, i: u32) -> f32 {
  if (which == LEFT) { return products_left_x[i]; }
  return products_features_x[i];
}

fn y_at(which: u32, i: u32) -> f32 {
  if (which == RIGHT) { return products_right_y[i]; }
  return products_features_y[i];
}

fn width_of(which: u32) -> u32 { return u32(a.products_features_width); }
#end

#kernel relation_curvature_mean_f32 RelationCurvatureMeanArguments 256
#buffer products_features_x array<f32>
#buffer products_features_y array<f32>
#buffer products_features_scale array<f32>
#buffer products_left_x array<f32>
#buffer products_right_y array<f32>
#buffer softmax array<f32>
#buffer partials array<vec2<f32>>
#buffer own array<f32>
  let line = thread / 16u * 8u;
  let lane = thread % 16u;
  let row = block.x * TILE_ROWS;
  let n = u32(a.n);
  let scale = products_features_scale[0];
  let start = block.y * u32(a.tiles) * TILE_COLUMNS;
  let end = min(u32(a.m), start + u32(a.tiles) * TILE_COLUMNS);
  var mean = vec2<f32>();
  for (var column = start; column < end; column += TILE_COLUMNS) {
    var c: array<vec4<f32>, 8>;
    var w: array<vec4<f32>, 8>;
    cosines(FEATURES, thread, row, n, column, end, &c);
    cosines(LEFT, thread, row, n, column, end, &w);
    cosines(RIGHT, thread, row, n, column, end, &w);
    for (var r = 0u; r < 8u; r++) {
      let i = row + line + r;
      var sum = 0.0;
      if (i < n) {
        for (var k = 0u; k < 4u; k++) {
          let j = column + lane * 4u + k;
          if (j < end && i == j) { own[i] = w[r][k]; }
          if (j < end && i != j) { sum += exponential(logit(scale, c[r][k]) - softmax[i]) * softmax[n + i] * w[r][k]; }
        }
      }
      put_statistic(line + r, lane, sum);
    }
    workgroupBarrier();
    if (thread < TILE_ROWS) { mean = pair_add(mean, vec2<f32>(sum_of_row(thread), 0.0)); }
    workgroupBarrier();
  }
  if (thread < TILE_ROWS && row + thread < n) { partials[block.y * n + row + thread] = mean; }
#end

#kernel relation_curvature_finish_f32 RelationCurvatureFinishArguments 256
#buffer partials array<vec2<f32>>
#buffer value array<f32>
#buffer own array<f32>
#buffer mean array<f32>
  let i = block.x * 256u + thread;
  if (i >= u32(a.n)) { return; }
  var sum = vec2<f32>();
  for (var split = 0u; split < u32(a.splits); split++) { sum = pair_add(sum, partials[split * u32(a.n) + i]); }
  mean[i] = pair_add(sum, two_product(residual_of(value[i]), own[i])).x;
#end

#kernel relation_curvature_f32 RelationCurvatureArguments 256
#buffer products_features_x array<f32>
#buffer products_features_y array<f32>
#buffer products_features_scale array<f32>
#buffer products_left_x array<f32>
#buffer products_right_y array<f32>
#buffer softmax array<f32>
#buffer value array<f32>
#buffer own array<f32>
#buffer mean array<f32>
#buffer curvature array<f32>
#buffer residual array<f32>
#buffer partials array<vec2<f32>>
  let row = u32(a.first_row) + block.y * TILE_ROWS;
  let column = u32(a.first_column) + block.x * TILE_COLUMNS;
  let row_end = u32(a.row_end);
  let column_end = u32(a.column_end);
  let n = u32(a.n);
  var c: array<vec4<f32>, 8>;
  var w: array<vec4<f32>, 8>;
  cosines(FEATURES, thread, row, row_end, column, column_end, &c);
  cosines(LEFT, thread, row, row_end, column, column_end, &w);
  cosines(RIGHT, thread, row, row_end, column, column_end, &w);
  let scale = products_features_scale[0];
  let inverse_scale = select(1.0 / scale, 0.0, scale == 0.0);
  let i0 = row + thread / 16u * 8u;
  let j0 = column + thread % 16u * 4u;
  let stride = column_end - u32(a.first_column);
  var slope = vec2<f32>();
  for (var r = 0u; r < 8u; r++) {
    let i = i0 + r;
    if (i < row_end) {
      let most = softmax[i];
      let inverse = softmax[n + i];
      // D's rows sum to 0, so that any c₀ taken from the cosines changes nothing but roundings: the largest one, as in
      // relation_backward.wgsl. E's rows sum to 0 as well, and Σ_j E_ij w_ij = ρ_i.
      let center = most * inverse_scale;
      var row_slope = 0.0;
      for (var k = 0u; k < 4u; k++) {
        let j = j0 + k;
        if (j < column_end) {
          let p = a.coef * (exponential(logit(scale, c[r][k]) - most) * inverse);
          var apart = (w[r][k] - own[i]) - mean[i];
          var e = p;
          if (i == j) {
            apart = -mean[i];
            row_slope += a.coef * mean[i];
            e = a.coef * residual_of(value[i]);
          }
          let d = scale * p * apart;
          row_slope += d * (c[r][k] - center);
          if (a.curvature != NONE) {
            let at = (i - u32(a.first_row)) * stride + (j - u32(a.first_column));
            curvature[at] = scale * d;
            residual[at] = scale * e;
          }
        }
      }
      slope = pair_add(slope, vec2<f32>(row_slope, 0.0));
    }
  }
  if (a.partials != NONE) {
    let total = pair_sum_of_256(thread, slope);
    if (thread == 0u) { partials[a.partials / 8u + block.y * grid.x + block.x] = total; }
  }
#end
