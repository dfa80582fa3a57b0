// Sums over the rows of a matrix, first stage: a workgroup sums a chunk of rows of a tile of columns into
// partials [chunk, columns]; `column_sums_finish` adds the chunks up. Invocations in eight lines of 32 take every eighth
// row, and every 32nd column of the tile.
#include common

// Columns of a tile, and of an invocation, as the launch counts them.
#if T == f32
const COLUMNS = 128u;
const OWN = 4u;
#else
const COLUMNS = 256u;
const OWN = 8u;
#end

var<workgroup> column_scratch: array<f32, 2048>;

// The chunk's total of column `thread` of the tile, if it has so many, of what all invocations hold.
fn column_total(thread: u32, sums: ptr<function, array<f32, OWN>>) -> f32 {
  for (var i = 0u; i < OWN; i++) { column_scratch[thread / 32u * COLUMNS + i * 32u + thread % 32u] = (*sums)[i]; }
  workgroupBarrier();
  var total = 0.0;
  if (thread < COLUMNS) {
    for (var line = 0u; line < 8u; line++) { total += column_scratch[line * COLUMNS + thread]; }
  }
  return total;
}
