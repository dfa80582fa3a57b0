// AdamW over all parameters of a pack: moments, f32 master and, where there is one, its f16 copy, each read and written
// once. Also clamping into bounds.
#include common
#if kernel adamw_f32
#include table
#end

#kernel adamw_f32 AdamWArguments 256
#buffer table array<u32>
#buffer numbers array<f32>
#buffer norm array<f32>
#each K 0 1 2 3 4
#buffer buffers_$K array<u32>
#end
  // Words of an entry: param, grad, m, v, low, n, first, two each; weight decay.
  let entry = entry_of(block.x, 16u, 12u);
  let first = (block.x - table[entry + 12u]) * TABLE_CHUNK;
  let last = min(first + TABLE_CHUNK, table[entry + 10u]);
  if (numbers[4] == 0.0) { return; }
  var grad_scale = numbers[3];
  if (a.norm != NONE) {
    // NaN gradients are not scaled: they show in the parameters.
    let scale = a.max_norm / (norm[0] + 1e-6);
    if (scale < 1.0) { grad_scale = scale; }
  }
  let keep = 1.0 - numbers[0] * bitcast<f32>(table[entry + 14u]);
  for (var i = first + 2u * thread; i < last; i += 512u) {
    // Two at a time: a word of the f16 copy.
    var both = vec2<f32>();
    for (var k = 0u; k < 2u && i + k < last; k++) {
      let scaled = load(entry + 2u, i + k) * grad_scale;
      let m = fma(a.beta1, load(entry + 4u, i + k), (1.0 - a.beta1) * scaled);
      let v = fma(a.beta2, load(entry + 6u, i + k), (1.0 - a.beta2) * scaled * scaled);
      let denominator = fma(sqrt(v), numbers[2], a.eps);
      let p = fma(load(entry, i + k), keep, -numbers[1] * (m / denominator));
      store(entry + 4u, i + k, m);
      store(entry + 6u, i + k, v);
      store(entry, i + k, p);
      both[k] = p;
    }
    if (table[entry + 8u] != 0u) { store_word(table[entry + 8u], table[entry + 9u] + i / 2u, pack2x16float(both)); }
  }
#end

// A NaN stays NaN.
#kernel clamp_f32 ClampArguments 256
#buffer x array<f32>
  for (var i = block.x * 256u + thread; i < a.n; i += grid.x * 256u) {
    let v = x[i];
    if (v < a.low) { x[i] = a.low; } else if (v > a.high) { x[i] = a.high; }
  }
#end
