// y_ij = r_i c_j x[rows_i, columns_j], and the gradients of x and both factors, in f32, for weights. Factors that are not
// there are ones.
#include columns
#include reduce

fn row_factor(i: u32) -> f32 {
  if (a.r == NONE) { return 1.0; }
  return r[i];
}

fn column_factor(j: u32) -> f32 {
  if (a.c == NONE) { return 1.0; }
  return c[j];
}

fn place(i: u32, j: u32) -> u32 { return u32(rows[i]) * a.width + u32(columns[j]); }

#kernel submatrix_f32 SubmatrixArguments 256
#buffer x array<f32>
#buffer rows array<i32>
#buffer columns array<i32>
#buffer r array<f32>
#buffer c array<f32>
#buffer out array<f32>
  let n = u32(a.n);
  for (var e = block.x * 256u + thread; e < a.height * n; e += grid.x * 256u) {
    out[e] = row_factor(e / n) * column_factor(e % n) * x[place(e / n, e % n)];
  }
#end

// Rows and columns are named once each, so every entry of dx has one writer.
#kernel submatrix_backward_x_f32 SubmatrixArguments 256
#buffer dy array<f32>
#buffer rows array<i32>
#buffer columns array<i32>
#buffer r array<f32>
#buffer c array<f32>
#buffer out array<f32>
  let n = u32(a.n);
  for (var e = block.x * 256u + thread; e < a.height * n; e += grid.x * 256u) {
    out[place(e / n, e % n)] += row_factor(e / n) * column_factor(e % n) * dy[e];
  }
#end

// A workgroup a row.
#kernel submatrix_backward_r_f32 SubmatrixArguments 256
#buffer x array<f32>
#buffer dy array<f32>
#buffer rows array<i32>
#buffer columns array<i32>
#buffer r array<f32>
#buffer c array<f32>
#buffer out array<f32>
  let n = u32(a.n);
  for (var i = block.x; i < a.height; i += grid.x) {
    var sum = 0.0;
    for (var j = thread; j < n; j += 256u) { sum += column_factor(j) * dy[i * n + j] * x[place(i, j)]; }
    let total = sum_of_256(thread, sum);
    if (thread == 0u) { out[i] = select(total, out[i] + total, a.add != 0); }
  }
#end

#kernel submatrix_backward_c_f32 SubmatrixArguments 256
#buffer x array<f32>
#buffer dy array<f32>
#buffer rows array<i32>
#buffer columns array<i32>
#buffer r array<f32>
#buffer c array<f32>
#buffer out array<f32>
  let n = u32(a.n);
  var sums: array<f32, OWN>;
  let first = block.x * COLUMNS + thread % 32u;
  let last = min((block.y + 1u) * a.chunk, a.height);
  for (var i = block.y * a.chunk + thread / 32u; i < last; i += 8u) {
    for (var k = 0u; k < OWN; k++) {
      let j = first + k * 32u;
      if (j < n) { sums[k] += row_factor(i) * dy[i * n + j] * x[place(i, j)]; }
    }
  }
  let total = column_total(thread, &sums);
  let column = block.x * COLUMNS + thread;
  if (thread < COLUMNS && column < n) { out[block.y * n + column] = total; }
#end
