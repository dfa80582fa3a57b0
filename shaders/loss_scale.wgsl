// Dynamic loss scaling, as torch.amp.GradScaler: one invocation decides whether the step is taken, and what the next loss
// is scaled by. Numbers and their order: `LossScaleState` and `LossScale::loss_scale`.
#include pairs

fn is_finite(x: f32) -> bool { return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u; }

// 1 − βᵗ of the next t, whose power is kept as a pair at `at`.
fn correction(at: u32, beta: f32) -> vec2<f32> {
  let product = pair_scale(vec2<f32>(counts[at], counts[at + 1u]), beta);
  counts[at] = product.x;
  counts[at + 1u] = product.y;
  return pair_sub(vec2<f32>(1.0, 0.0), product);
}

#kernel loss_scale_f32 LossScaleArguments 1
#buffer norm array<f32>
#buffer scale array<f32>
#buffer counts array<f32>
#buffer numbers array<f32>
#buffer unscaled array<f32>
  let own = norm[0] / scale[0];
  unscaled[0] = own;
  numbers[0] = a.lr;
  if (!is_finite(norm[0])) {
    for (var i = 1u; i < 5u; i++) { numbers[i] = 0.0; }
    counts[0] = 0.0;
    counts[2] += 1.0;
    scale[0] *= a.backoff;
    return;
  }
  numbers[1] = pair_div(vec2<f32>(a.lr, 0.0), correction(3u, a.beta1)).x;
  numbers[2] = pair_div(vec2<f32>(1.0, 0.0), pair_sqrt(correction(5u, a.beta2))).x;
  var factor = 1.0;
  if (a.clip != 0) { factor = min(1.0, a.max_norm / (own + 1e-6)); }
  numbers[3] = factor / scale[0];
  numbers[4] = 1.0;
  counts[1] += 1.0;
  counts[0] += 1.0;
  if (counts[0] >= a.interval) {
    let grown = scale[0] * a.growth;
    if (is_finite(grown)) { scale[0] = grown; }
    counts[0] = 0.0;
  }
#end
