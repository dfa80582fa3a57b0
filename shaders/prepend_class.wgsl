// The class token before each image's patches, and positions onto all. The patches' gradient: their rows of dy.
// 32 invocations take a row.

#kernel prepend_class_$T PrependClassArguments 256
#buffer patches array<$T>
#buffer cls array<f32>
#buffer positions array<f32>
#buffer y array<$T>
  let width = u32(a.width);
  for (var row = block.x * 8u + thread / 32u; row < a.rows; row += grid.x * 8u) {
    let image = row / u32(a.tokens);
    let token = row % u32(a.tokens);
    for (var column = thread % 32u; column < width; column += 32u) {
      var v = positions[token * width + column];
      if (token == 0u) { v += cls[column]; } else { v += f32(patches[(row - image - 1u) * width + column]); }
      y[row * width + column] = $T(v);
    }
  }
#end

#kernel prepend_class_backward_$T PrependClassBackwardArguments 256
#buffer dy array<$T>
#buffer dpatches array<$T>
  let width = u32(a.width);
  for (var row = block.x * 8u + thread / 32u; row < a.rows; row += grid.x * 8u) {
    let base = row + row / u32(a.len) + 1u;
    for (var column = thread % 32u; column < width; column += 32u) {
      let v = f32(dy[base * width + column]);
      let at = row * width + column;
      dpatches[at] = $T(select(v, f32(dpatches[at]) + v, a.add != 0));
    }
  }
#end
