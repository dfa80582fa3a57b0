// Σ (x − y)², in partial sums that `sum_finish` adds up, and dx = dy · factor (x − y).
#include pairs

#kernel mse_f32 MseArguments 256
#buffer x array<f32>
#buffer y array<f32>
#buffer partials array<vec2<f32>>
  let last = min((block.x + 1u) * a.chunk, a.n);
  var sum = 0.0;
  for (var i = block.x * a.chunk + thread; i < last; i += 256u) {
    let d = x[i] - y[i];
    sum += d * d;
  }
  let total = pair_sum_of_256(thread, vec2<f32>(sum, 0.0));
  if (thread == 0u) { partials[block.x] = total; }
#end

#kernel mse_backward_f32 MseBackwardArguments 256
#buffer dy array<f32>
#buffer x array<f32>
#buffer y array<f32>
#buffer dx array<f32>
  let factor = dy[0] * a.factor;
  for (var i = block.x * 256u + thread; i < a.n; i += grid.x * 256u) {
    let v = factor * (x[i] - y[i]);
    dx[i] = select(v, dx[i] + v, a.add != 0);
  }
#end
