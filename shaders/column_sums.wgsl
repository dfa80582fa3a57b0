// s_c = Σ_r x_rc over the first columns of x [rows, stride] in two stages of fixed order, and the second stage for the
// partial sums of other kernels.
#include columns

#kernel column_sums_$T ColumnSumsArguments 256
#buffer x array<$T>
#buffer partials array<f32>
  var sums: array<f32, OWN>;
  let first = block.x * COLUMNS + thread % 32u;
  let last = min((block.y + 1u) * a.chunk, a.rows);
  for (var row = block.y * a.chunk + thread / 32u; row < last; row += 8u) {
    for (var i = 0u; i < OWN; i++) {
      let column = first + i * 32u;
      if (column < u32(a.columns)) { sums[i] += f32(x[row * a.stride + column]); }
    }
  }
  let total = column_total(thread, &sums);
  let column = block.x * COLUMNS + thread;
  if (thread < COLUMNS && column < u32(a.columns)) {
    partials[block.y * u32(a.columns) + column] = total;
  }
#end

#if kernel column_sums_finish
var<workgroup> lines: array<f32, 256>;
#end

// A workgroup sums 32 columns, eight lines of partials at a time.
#kernel column_sums_finish FinishArguments 256
#buffer partials array<f32>
#buffer sums array<f32>
  let line = thread / 32u;
  let column = block.x * 32u + thread % 32u;
  let base = a.partials / 4u;
  var sum = 0.0;
  if (column < u32(a.columns)) {
    for (var k = line; k < u32(a.count); k += 8u) { sum += partials[base + k * a.stride + column]; }
  }
  lines[thread] = sum;
  workgroupBarrier();
  if (line == 0u && column < u32(a.columns)) {
    var total = 0.0;
    for (var l = 0u; l < 8u; l++) { total += lines[l * 32u + thread]; }
    sums[column] = select(total, sums[column] + total, a.add != 0);
  }
#end
