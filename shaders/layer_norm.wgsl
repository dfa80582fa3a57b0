// y = (x − μ) r ∘ γ + β with r = 1/√(σ² + ε), a row at a time; μ and r are kept for backward.
//
// $G invocations take a row, up to COUNT elements each: 32 take rows of up to 1024 elements, the workgroup those of up to
// 8192. The variance is a sum of squared distances from the mean, which does not cancel. The row is read again, from the
// caches, where registers would not hold it.
#include reduce
#values W 512 1024 8192

#if W == 512
const GROUP = 32u;
const COUNT = 16u;
#end
#if W == 1024
const GROUP = 32u;
const COUNT = 32u;
#end
#if W == 8192
const GROUP = 256u;
const COUNT = 32u;
#end
const GROUPS = 256u / GROUP;

fn group_sum(thread: u32, v: f32) -> f32 {
#if W == 8192
  return sum_of_256(thread, v);
#else
  return sum_of_32(thread, v);
#end
}

#kernel layer_norm_$W_$T LayerNormArguments 256
#buffer x array<$T>
#buffer gamma array<f32>
#buffer beta array<f32>
#buffer y array<$T>
#buffer mean array<f32>
#buffer rstd array<f32>
  let lane = thread % GROUP;
  let row = block.x * GROUPS + thread / GROUP;
  // Beyond the last row nothing is read or written, but the sums need everybody.
  let width = select(0u, u32(a.width), row < a.rows);
  let at = row * u32(a.width);
  var sum = 0.0;
  for (var column = lane; column < width; column += GROUP) { sum += f32(x[at + column]); }
  let m = group_sum(thread, sum) / f32(a.width);
  var squares = 0.0;
  for (var column = lane; column < width; column += GROUP) {
    let d = f32(x[at + column]) - m;
    squares += d * d;
  }
  let r = 1.0 / sqrt(group_sum(thread, squares) / f32(a.width) + a.eps);
  for (var column = lane; column < width; column += GROUP) {
    y[at + column] = $T((f32(x[at + column]) - m) * r * gamma[column] + beta[column]);
  }
  if (lane == 0u && row < a.rows) {
    mean[row] = m;
    rstd[row] = r;
  }
#end

#if kernel layer_norm_backward_$W_$T
var<workgroup> shares: array<f32, 512>;
#end

// dx = r (s − mean(s) − n mean(s ∘ n)) with s = dy ∘ γ and n = (x − μ) r; dγ = Σ dy ∘ n; dβ = Σ dy. A group takes every
// N-th row and keeps its share of the sums over rows.
#kernel layer_norm_backward_$W_$T LayerNormBackwardArguments 256
#buffer dy array<$T>
#buffer x array<$T>
#buffer gamma array<f32>
#buffer mean array<f32>
#buffer rstd array<f32>
#buffer dx array<$T>
#buffer partials array<f32>
  let lane = thread % GROUP;
  let group = thread / GROUP;
  let wide = u32(a.width);
  var dgamma: array<f32, COUNT>;
  var dbeta: array<f32, COUNT>;
  for (var first = block.x * GROUPS; first < a.rows; first += grid.x * GROUPS) {
    let row = first + group;
    let width = select(0u, wide, row < a.rows);
    let at = row * wide;
    let place = min(row, a.rows - 1u);
    let m = mean[place];
    let r = rstd[place];
    var along_one = 0.0;
    var along_n = 0.0;
    for (var k = 0u; k < COUNT; k++) {
      let column = k * GROUP + lane;
      if (column < width) {
        let g = f32(dy[at + column]);
        let n = (f32(x[at + column]) - m) * r;
        dgamma[k] += g * n;
        dbeta[k] += g;
        let s = g * gamma[column];
        along_one += s;
        along_n += s * n;
      }
    }
    if (a.dx != NONE) {
      let one = group_sum(thread, along_one) / f32(a.width);
      let own = group_sum(thread, along_n) / f32(a.width);
      for (var column = lane; column < width; column += GROUP) {
        let n = (f32(x[at + column]) - m) * r;
        let v = r * (f32(dy[at + column]) * gamma[column] - one - n * own);
        dx[at + column] = $T(select(v, f32(dx[at + column]) + v, a.add != 0));
      }
    }
  }
  if (a.partials == NONE) { return; }
  let to = block.x * 2u * wide;
  for (var k = 0u; k < COUNT && k * GROUP < wide; k++) {
    shares[thread] = dgamma[k];
    shares[256u + thread] = dbeta[k];
    workgroupBarrier();
    // The groups' shares, added in the groups' order.
    for (var i = thread; i < 2u * GROUP; i += 256u) {
      let kind = i / GROUP;
      let column = k * GROUP + i % GROUP;
      var total = 0.0;
      for (var g = 0u; g < GROUPS; g++) { total += shares[kind * 256u + g * GROUP + i % GROUP]; }
      if (column < wide) { partials[to + kind * wide + column] = total; }
    }
    workgroupBarrier();
  }
#end
