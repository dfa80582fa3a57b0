// Tiles of cosines x_i·y_j in f32, which the similarity losses use at once and never store.
//
// A workgroup of 256 makes 128 × 64 of them, an invocation 8 × 4: rows 8⌊t/16⌋ …, columns 4 (t mod 16) …. The width goes
// by in steps of 16, whose products are summed from zero before they are added: the sums of a sum of d products then
// round by 0.6 u c √(d/48) in the mean (u = 2⁻²⁴) and not by √(d/3), so that a logit at α = 100 is right to 1e-5.
//
// What is compared across kernels is made alike in all of them: by the same steps here, and α c behind `opaque`.
#include common

const TILE_ROWS = 128u;
const TILE_COLUMNS = 64u;
const DEPTH = 16u;

// Lines of x (32 vectors of four rows each), then lines of y (16 of four columns). Between tiles, room for statistics.
var<workgroup> tile: array<vec4<f32>, 768>;
// A number for each row.
var<workgroup> of_rows: array<vec2<f32>, TILE_ROWS>;

fn multiply_tile(thread: u32, c: ptr<function, array<vec4<f32>, 8>>) {
  let x = thread % 16u;
  let y = thread / 16u * 2u;
  var p0 = vec4<f32>();
  var p1 = vec4<f32>();
  var p2 = vec4<f32>();
  var p3 = vec4<f32>();
  var p4 = vec4<f32>();
  var p5 = vec4<f32>();
  var p6 = vec4<f32>();
  var p7 = vec4<f32>();
  for (var k = 0u; k < DEPTH; k++) {
    let l = tile[k * 32u + y];
    let m = tile[k * 32u + y + 1u];
    let r = tile[512u + k * 16u + x];
    p0 = fma(vec4<f32>(l.x), r, p0);
    p1 = fma(vec4<f32>(l.y), r, p1);
    p2 = fma(vec4<f32>(l.z), r, p2);
    p3 = fma(vec4<f32>(l.w), r, p3);
    p4 = fma(vec4<f32>(m.x), r, p4);
    p5 = fma(vec4<f32>(m.y), r, p5);
    p6 = fma(vec4<f32>(m.z), r, p6);
    p7 = fma(vec4<f32>(m.w), r, p7);
  }
  (*c)[0] += p0;
  (*c)[1] += p1;
  (*c)[2] += p2;
  (*c)[3] += p3;
  (*c)[4] += p4;
  (*c)[5] += p5;
  (*c)[6] += p6;
  (*c)[7] += p7;
}

// Into the tile: line `k` of x (of y), row (column) `i`.
fn stage_x(k: u32, i: u32, v: f32) { tile[k * 32u + i / 4u][i % 4u] = v; }
fn stage_y(k: u32, i: u32, v: f32) { tile[512u + k * 16u + i / 4u][i % 4u] = v; }

// The cosines of an invocation in the tile at (row, column), 0 beyond the ends, added to what `c` holds. `which` says which
// features: the kernel's file defines x_at(which, i), y_at(which, i) and width_of(which). Nobody reads the tile when this
// begins, nor when it has ended.
fn cosines(
  which: u32, thread: u32, row: u32, row_end: u32, column: u32, column_end: u32, c: ptr<function, array<vec4<f32>, 8>>,
) {
  let width = width_of(which);
  let line = thread / 4u;
  for (var depth = 0u; depth < width; depth += DEPTH) {
    for (var i = 0u; i < 4u; i++) {
      let k = thread % 4u * 4u + i;
      let at = depth + k;
      var first = 0.0;
      var second = 0.0;
      var other = 0.0;
      if (at < width) {
        if (row + line < row_end) { first = x_at(which, (row + line) * width + at); }
        if (row + line + 64u < row_end) { second = x_at(which, (row + line + 64u) * width + at); }
        if (column + line < column_end) { other = y_at(which, (column + line) * width + at); }
      }
      stage_x(k, line, first);
      stage_x(k, line + 64u, second);
      stage_y(k, line, other);
    }
    workgroupBarrier();
    multiply_tile(thread, c);
    workgroupBarrier();
  }
}

// Statistics of rows: number `lane` of 16 of row `i`.
fn put_statistic(i: u32, lane: u32, v: f32) { tile[i * 4u + lane / 4u][lane % 4u] = v; }
fn statistics(i: u32, n: u32) -> vec4<f32> { return tile[i * 4u + n]; }
fn largest_of_row(i: u32) -> f32 {
  let v = max(max(statistics(i, 0u), statistics(i, 1u)), max(statistics(i, 2u), statistics(i, 3u)));
  return max(max(v.x, v.y), max(v.z, v.w));
}
fn sum_of_row(i: u32) -> f32 {
  let v = (statistics(i, 0u) + statistics(i, 1u)) + (statistics(i, 2u) + statistics(i, 3u));
  return (v.x + v.y) + (v.z + v.w);
}
