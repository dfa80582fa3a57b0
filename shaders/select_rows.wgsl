// y_r = x[index_r]. Backward: a scatter.
alias TABLE = $T;
#include scatter

// 32 invocations a row.
#kernel select_rows_$T SelectRowsArguments 256
#buffer x array<$T>
#buffer index array<i32>
#buffer y array<$T>
  let width = u32(a.width);
  for (var row = block.x * 8u + thread / 32u; row < a.rows; row += grid.x * 8u) {
    let base = u32(index[row]) * width;
    for (var column = thread % 32u; column < width; column += 32u) { y[row * width + column] = x[base + column]; }
  }
#end

#kernel select_rows_backward_$T ScatterArguments 256
#buffer dy array<$T>
#buffer table array<$T>
#buffer distinct array<i32>
  scatter(block, grid, thread);
#end
