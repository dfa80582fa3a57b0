// y = exp(x), dx = dy ∘ y. Memory-bound.
#include math

#kernel exp_f32 ExpArguments 256
#buffer x array<f32>
#buffer y array<f32>
  for (var i = block.x * 256u + thread; i < a.n; i += grid.x * 256u) {
    y[i] = exponential(x[i]);
  }
#end

#kernel exp_backward_f32 ExpBackwardArguments 256
#buffer dy array<f32>
#buffer y array<f32>
#buffer dx array<f32>
  for (var i = block.x * 256u + thread; i < a.n; i += grid.x * 256u) {
    let value = dy[i] * y[i];
    dx[i] = select(value, dx[i] + value, a.add != 0);
  }
#end
