// Batch normalisation over all but the channels, with the residual and the ReLU after it.
//
// Memory-bound, so what counts is how often an element [rows, channels] moves. A workgroup takes a chunk of rows of a tile
// of columns; `lanes` invocations side by side hold a line of it, OWN columns each, and lines go by several at once.
#include common

#if T == f32
const OWN = 4u;
#else
const OWN = 8u;
#end
const THREADS = 256u;

// An invocation's i-th column: neighbours read neighbouring elements.
fn column_of(block: vec3<u32>, thread: u32, i: u32) -> u32 {
  let lanes = u32(a.split_lanes);
  return block.x * lanes * OWN + i * lanes + thread % lanes;
}

fn first_row(block: vec3<u32>, thread: u32) -> u32 { return block.y * a.split_chunk + thread / u32(a.split_lanes); }
fn last_row(block: vec3<u32>) -> u32 { return min((block.y + 1u) * a.split_chunk, a.split_rows); }
fn lines() -> u32 { return THREADS / u32(a.split_lanes); }

#if kernel batch_moments_$T batch_norm_sums_$T
var<workgroup> chunk_scratch: array<f32, 2048>;

// Sum number `which` of two over the chunk, to partials [chunk, 2, columns]; lines are added in their order.
fn chunk_sum(block: vec3<u32>, thread: u32, which: u32, sums: ptr<function, array<f32, OWN>>) {
  let lanes = u32(a.split_lanes);
  let width = lanes * OWN;
  workgroupBarrier();
  for (var i = 0u; i < OWN; i++) { chunk_scratch[thread / lanes * width + i * lanes + thread % lanes] = (*sums)[i]; }
  workgroupBarrier();
  for (var c = thread; c < width; c += THREADS) {
    let column = block.x * width + c;
    if (column < u32(a.split_columns)) {
      var total = 0.0;
      for (var at = c; at < THREADS * OWN; at += width) { total += chunk_scratch[at]; }
      partials[(2u * block.y + which) * u32(a.split_columns) + column] = total;
    }
  }
}
#end

// Second stages: a workgroup takes eight columns, an invocation every 32nd line of partial sums.
var<workgroup> line_scratch: array<f32, 256>;

// Σ v over the lines, for every invocation of the column.
fn line_sum(thread: u32, v: f32) -> f32 {
  workgroupBarrier();
  line_scratch[thread] = v;
  workgroupBarrier();
  var total = 0.0;
  for (var l = 0u; l < 32u; l++) { total += line_scratch[l * 8u + thread % 8u]; }
  return total;
}

// Σ d and Σ d² with d = x − K, where K is the first row of the chunk: a sample is about as far from the mean as the
// others, so little cancels in Σ d² − (Σ d)² / n, however far the mean is from zero.
#kernel batch_moments_$T MomentsArguments 256
#buffer x array<$T>
#buffer partials array<f32>
  let columns = u32(a.split_columns);
  var sum: array<f32, OWN>;
  var squares: array<f32, OWN>;
  for (var i = 0u; i < OWN; i++) {
    let column = column_of(block, thread, i);
    if (column < columns) {
      let shift = f32(x[block.y * a.split_chunk * columns + column]);
      for (var row = first_row(block, thread); row < last_row(block); row += lines()) {
        let d = f32(x[row * columns + column]) - shift;
        sum[i] += d;
        squares[i] = fma(d, d, squares[i]);
      }
    }
  }
  chunk_sum(block, thread, 0u, &sum);
  chunk_sum(block, thread, 1u, &squares);
#end

// Of chunk k with n rows and mean m (relative to the first chunk's shift, so that the difference of two shifts is all
// that is rounded): mean = Σ n m / Σ n, and Σ (x − mean)² = Σ over chunks of its own about m, + n (m − mean)² (Chan, Golub
// and LeVeque, The American Statistician 37(3), 1983).
#kernel batch_moments_finish_$T MomentsFinishArguments 256
#buffer x array<$T>
#buffer partials array<f32>
#buffer mean array<f32>
#buffer variance array<f32>
  let columns = u32(a.split_columns);
  let line = thread / 8u;
  let column = block.x * 8u + thread % 8u;
  let chunks = select(0u, u32(a.chunks), column < columns);
  var origin = 0.0;
  if (chunks > 0u) { origin = f32(x[column]); }
  var sum = 0.0;
  for (var k = line; k < chunks; k += 32u) {
    let n = f32(min(a.split_rows - k * a.split_chunk, a.split_chunk));
    let shift = f32(x[k * a.split_chunk * columns + column]) - origin;
    sum += fma(n, shift, partials[2u * k * columns + column]);
  }
  let all = f32(a.split_rows);
  let m = line_sum(thread, sum) / all;
  var squares = 0.0;
  for (var k = line; k < chunks; k += 32u) {
    let n = f32(min(a.split_rows - k * a.split_chunk, a.split_chunk));
    let shift = f32(x[k * a.split_chunk * columns + column]) - origin;
    let s = partials[2u * k * columns + column];
    let apart = shift - m + s / n;
    squares += partials[(2u * k + 1u) * columns + column] - s * s / n + n * apart * apart;
  }
  squares = line_sum(thread, squares);
  if (line == 0u && column < columns) {
    mean[column] = origin + m;
    variance[column] = max(squares / all, 0.0);
  }
#end

#kernel batch_norm_$T BatchNormArguments 256
#buffer x array<$T>
#buffer gamma array<f32>
#buffer beta array<f32>
#buffer mean array<f32>
#buffer variance array<f32>
#buffer residual array<$T>
#buffer y array<$T>
  let columns = u32(a.split_columns);
  for (var i = 0u; i < OWN; i++) {
    let column = column_of(block, thread, i);
    if (column < columns) {
      let scale = gamma[column] / sqrt(variance[column] + a.eps);
      for (var row = first_row(block, thread); row < last_row(block); row += lines()) {
        let at = row * columns + column;
        var v = fma(f32(x[at]) - mean[column], scale, beta[column]);
        if (a.residual != NONE) { v += f32(residual[at]); }
        if (a.relu != 0 && !(v > 0.0)) { v = 0.0; }
        y[at] = $T(v);
      }
    }
  }
#end

#if kernel batch_norm_sums_$T batch_norm_backward_$T
// dy where the ReLU passed, else 0.
fn passed(at: u32) -> f32 {
  if (a.y != NONE) {
    if (!(f32(y[at]) > 0.0)) { return 0.0; }
  }
  return f32(dy[at]);
}
#end

// Σ g (x − mean) and Σ g, g = dy where the ReLU passed.
#kernel batch_norm_sums_$T SumsArguments 256
#buffer dy array<$T>
#buffer x array<$T>
#buffer y array<$T>
#buffer mean array<f32>
#buffer g array<$T>
#buffer partials array<f32>
  let columns = u32(a.split_columns);
  var of_x: array<f32, OWN>;
  var of_g: array<f32, OWN>;
  for (var i = 0u; i < OWN; i++) {
    let column = column_of(block, thread, i);
    if (column < columns) {
      for (var row = first_row(block, thread); row < last_row(block); row += lines()) {
        let at = row * columns + column;
        let d = passed(at);
        of_x[i] = fma(d, f32(x[at]) - mean[column], of_x[i]);
        of_g[i] += d;
        if (a.g != NONE) { g[at] = $T(d); }
      }
    }
  }
  chunk_sum(block, thread, 0u, &of_x);
  chunk_sum(block, thread, 1u, &of_g);
#end

// With ρ = 1/√(variance + ε): dγ = ρ Σ g (x − μ), dβ = Σ g, and, with moments of the batch,
// dx = γ ρ (g − Σ g / n − (x − μ) ρ² Σ g (x − μ) / n); with given ones dx = γ ρ g. constants [3, columns]:
// dx = c₀ g + c₁ (x − mean) + c₂.
#kernel batch_norm_sums_finish SumsFinishArguments 256
#buffer partials array<f32>
#buffer gamma array<f32>
#buffer variance array<f32>
#buffer dgamma array<f32>
#buffer dbeta array<f32>
#buffer constants array<f32>
  let columns = u32(a.split_columns);
  let line = thread / 8u;
  let column = block.x * 8u + thread % 8u;
  var of_x = 0.0;
  var of_g = 0.0;
  if (column < columns) {
    for (var k = line; k < u32(a.chunks); k += 32u) {
      of_x += partials[2u * k * columns + column];
      of_g += partials[(2u * k + 1u) * columns + column];
    }
  }
  of_x = line_sum(thread, of_x);
  of_g = line_sum(thread, of_g);
  if (line == 0u && column < columns) {
    let rstd = 1.0 / sqrt(variance[column] + a.eps);
    let scale = gamma[column] * rstd;
    if (a.dgamma != NONE) { dgamma[column] = select(of_x * rstd, of_x * rstd + dgamma[column], a.add_dgamma != 0); }
    if (a.dbeta != NONE) { dbeta[column] = select(of_g, of_g + dbeta[column], a.add_dbeta != 0); }
    let share = select(0.0, scale / f32(a.split_rows), a.of_batch != 0);
    constants[column] = scale;
    constants[columns + column] = -share * rstd * rstd * of_x;
    constants[2u * columns + column] = -share * of_g;
  }
#end

#kernel batch_norm_backward_$T BatchNormBackwardArguments 256
#buffer dy array<$T>
#buffer x array<$T>
#buffer y array<$T>
#buffer mean array<f32>
#buffer constants array<f32>
#buffer dx array<$T>
  let columns = u32(a.split_columns);
  for (var i = 0u; i < OWN; i++) {
    let column = column_of(block, thread, i);
    if (column < columns) {
      for (var row = first_row(block, thread); row < last_row(block); row += lines()) {
        let at = row * columns + column;
        let rest = fma(constants[columns + column], f32(x[at]) - mean[column], constants[2u * columns + column]);
        let v = fma(constants[column], passed(at), rest);
        dx[at] = $T(select(v, f32(dx[at]) + v, a.add != 0));
      }
    }
  }
#end
