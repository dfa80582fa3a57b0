// Sums of all elements in two stages of fixed order, the second of which serves other kernels' partial sums too, and x
// times a number in device memory.
#include pairs

#kernel sum_f32 SumArguments 256
#buffer x array<f32>
#buffer partials array<vec2<f32>>
  let last = min((block.x + 1u) * a.chunk, a.n);
  var sum = vec2<f32>();
  for (var i = block.x * a.chunk + thread; i < last; i += 256u) { sum = pair_add(sum, vec2<f32>(x[i], 0.0)); }
  let total = pair_sum_of_256(thread, sum);
  if (thread == 0u) { partials[block.x] = total; }
#end

// One workgroup.
#kernel sum_finish SumFinishArguments 256
#buffer partials array<vec2<f32>>
#buffer sum array<f32>
  var part = vec2<f32>();
  for (var i = thread; i < u32(a.count); i += 256u) { part = pair_add(part, partials[i]); }
  let total = pair_mul(pair_sum_of_256(thread, part), vec2<f32>(a.factor_high, a.factor_low));
  if (thread == 0u) {
    if (a.root != 0) { sum[0] = pair_sqrt(total).x; } else { sum[0] = total.x; }
  }
#end

#kernel scale_by_f32 ScaleByArguments 256
#buffer scalar array<f32>
#buffer x array<f32>
#buffer y array<f32>
  let factor = scalar[0] * a.factor;
  for (var i = block.x * 256u + thread; i < a.n; i += grid.x * 256u) {
    if (a.x != NONE) { y[i] = x[i] * factor; } else { y[i] = factor; }
  }
#end
