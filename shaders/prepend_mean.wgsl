// The mean of an image's pixels before them, and positions onto all. A pixel's gradient: its own row of dy, and its
// share of the mean's.
#include columns

// A workgroup per image (x) and tile of columns (y): its eight lines take every eighth pixel.
#kernel prepend_mean_$T PrependMeanArguments 256
#buffer x array<$T>
#buffer positions array<f32>
#buffer y array<$T>
  let width = u32(a.width);
  let pixels = u32(a.pixels);
  let base = block.x * pixels * width;
  let to = block.x * (pixels + 1u) * width;
  let first = block.y * COLUMNS + thread % 32u;
  var sums: array<f32, OWN>;
  for (var pixel = thread / 32u; pixel < pixels; pixel += 8u) {
    for (var i = 0u; i < OWN; i++) {
      let column = first + i * 32u;
      if (column < width) {
        let v = f32(x[base + pixel * width + column]);
        sums[i] += v;
        let at = (pixel + 1u) * width + column;
        y[to + at] = $T(v + positions[at]);
      }
    }
  }
  let total = column_total(thread, &sums);
  let column = block.y * COLUMNS + thread;
  if (thread < COLUMNS && column < width) {
    y[to + column] = $T(total / f32(pixels) + positions[column]);
  }
#end

// 32 invocations a pixel.
#kernel prepend_mean_backward_$T PrependMeanBackwardArguments 256
#buffer dy array<$T>
#buffer dx array<$T>
  let width = u32(a.width);
  let share = 1.0 / f32(a.pixels);
  for (var row = block.x * 8u + thread / 32u; row < a.rows; row += grid.x * 8u) {
    let image = row / u32(a.pixels);
    let mean = image * (u32(a.pixels) + 1u) * width;
    let own = (row + image + 1u) * width;
    for (var column = thread % 32u; column < width; column += 32u) {
      let v = f32(dy[own + column]) + share * f32(dy[mean + column]);
      let at = row * width + column;
      dx[at] = $T(select(v, f32(dx[at]) + v, a.add != 0));
    }
  }
#end
