// Rows of a matrix summed into the rows of a table that an index names, in a fixed order and without atomics: the host
// sorts the index once, a workgroup sums the rows of one table row.
#include columns

// For k below distinct[0], row rows[k] of the table is named at order[starts[k] … starts[k + 1]). The four lie in one
// buffer, of which `distinct` is the first element. Without `add` the table holds zeros.
#if kernel embedding_backward_$T select_rows_backward_$T
fn from_index(at: u32) -> u32 { return u32(distinct[at / 4u]); }

fn scatter(block: vec3<u32>, grid: vec2<u32>, thread: u32) {
  let width = u32(a.width);
  let first = block.y * COLUMNS + thread % 32u;
  let column = block.y * COLUMNS + thread;
  // From a buffer, and so the same for all invocations: the barriers below are in uniform flow.
  let number = from_index(a.distinct);
  for (var k = block.x; k < number; k += grid.x) {
    let end = from_index(a.starts + 4u * (k + 1u));
    var sums: array<f32, OWN>;
    for (var at = from_index(a.starts + 4u * k) + thread / 32u; at < end; at += 8u) {
      let base = from_index(a.order + 4u * at) * width;
      for (var i = 0u; i < OWN; i++) {
        if (first + i * 32u < width) { sums[i] += f32(dy[base + first + i * 32u]); }
      }
    }
    let total = column_total(thread, &sums);
    if (thread < COLUMNS && column < width) {
      let to = from_index(a.rows + 4u * k) * width + column;
      table[to] = TABLE(select(total, f32(table[to]) + total, a.add != 0));
    }
    workgroupBarrier();
  }
}
#end
