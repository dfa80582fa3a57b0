// y = x / max(‖x‖, 1e-12), 32 invocations a row: x in the activations' type, y and the factor in f32. A row is read
// again, from the caches, once its length is known.
#include reduce

#kernel l2_normalize_$T L2NormalizeArguments 256
#buffer x array<$T>
#buffer y array<f32>
#buffer inverse array<f32>
  let row = block.x * 8u + thread / 32u;
  let lane = thread % 32u;
  let at = row * u32(a.width);
  // Beyond the last row nothing is read or written, but the sum needs everybody.
  let width = select(0u, u32(a.width), row < a.rows);
  var squares = 0.0;
  for (var column = lane; column < width; column += 32u) {
    let v = f32(x[at + column]);
    squares += v * v;
  }
  let factor = 1.0 / max(sqrt(sum_of_32(thread, squares)), 1e-12);
  for (var column = lane; column < width; column += 32u) { y[at + column] = f32(x[at + column]) * factor; }
  if (lane == 0u && row < a.rows) { inverse[row] = factor; }
#end

// dx = (dy − (dy·y) y) / ‖x‖.
#kernel l2_normalize_backward_$T L2NormalizeBackwardArguments 256
#buffer dy array<f32>
#buffer y array<f32>
#buffer inverse array<f32>
#buffer dx array<$T>
  let row = block.x * 8u + thread / 32u;
  let lane = thread % 32u;
  let at = row * u32(a.width);
  let width = select(0u, u32(a.width), row < a.rows);
  var products = 0.0;
  for (var column = lane; column < width; column += 32u) { products += dy[at + column] * y[at + column]; }
  let along = sum_of_32(thread, products);
  let factor = inverse[min(row, a.rows - 1u)];
  for (var column = lane; column < width; column += 32u) {
    let v = factor * (dy[at + column] - along * y[at + column]);
    dx[at + column] = $T(select(v, f32(dx[at + column]) + v, a.add != 0));
  }
#end
