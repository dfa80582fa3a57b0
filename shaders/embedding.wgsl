// y_r = table[ids_r] + positions[pos_r]: f32 tables, y in the activations' type. Backward: a scatter into each table.
alias TABLE = f32;
#include scatter

// 32 invocations a row.
#kernel embedding_$T EmbeddingArguments 256
#buffer table array<f32>
#buffer positions array<f32>
#buffer ids array<i32>
#buffer pos array<i32>
#buffer y array<$T>
  let width = u32(a.width);
  for (var row = block.x * 8u + thread / 32u; row < a.rows; row += grid.x * 8u) {
    let token = u32(ids[row]) * width;
    let position = u32(pos[row]) * width;
    for (var column = thread % 32u; column < width; column += 32u) {
      y[row * width + column] = $T(table[token + column] + positions[position + column]);
    }
  }
#end

#kernel embedding_backward_$T ScatterArguments 256
#buffer dy array<$T>
#buffer table array<f32>
#buffer distinct array<i32>
  scatter(block, grid, thread);
#end
