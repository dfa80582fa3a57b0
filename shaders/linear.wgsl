// What a linear layer does beside its products: y = act(pre) + residual, and dpre = dy ∘ act′(pre) with the partial sums
// of its columns, which make the bias's gradient.
#include columns
#include activation

#kernel activate_$T ActivateArguments 256
#buffer pre array<$T>
#buffer residual array<$T>
#buffer y array<$T>
  for (var i = block.x * 256u + thread; i < a.n; i += grid.x * 256u) {
    var v = activation(a.activation, f32(pre[i]));
    if (a.residual != NONE) { v += f32(residual[i]); }
    y[i] = $T(v);
  }
#end

#kernel activate_backward_$T ActivateBackwardArguments 256
#buffer pre array<$T>
#buffer dy array<$T>
#buffer dpre array<$T>
#buffer partials array<f32>
  var sums: array<f32, OWN>;
  let columns = u32(a.columns);
  let first = block.x * COLUMNS + thread % 32u;
  let last = min((block.y + 1u) * a.chunk, a.rows);
  for (var row = block.y * a.chunk + thread / 32u; row < last; row += 8u) {
    for (var i = 0u; i < OWN; i++) {
      let column = first + i * 32u;
      if (column < columns) {
        let at = row * columns + column;
        let d = f32(dy[at]) * derivative(a.activation, f32(pre[at]));
        dpre[at] = $T(d);
        sums[i] += d;
      }
    }
  }
  if (a.partials == NONE) { return; }
  let total = column_total(thread, &sums);
  let column = block.x * COLUMNS + thread;
  if (thread < COLUMNS && column < columns) { partials[block.y * columns + column] = total; }
#end
