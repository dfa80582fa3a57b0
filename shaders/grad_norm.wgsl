// Σ g² over all gradients, a partial sum a workgroup, which `sum_finish` adds up: 16 elements an invocation in f32, all
// beyond in pairs.
#include pairs
#include table

#kernel grad_norm_f32 GradNormArguments 256
#buffer table array<u32>
#buffer partials array<vec2<f32>>
#each K 0 1 2 3 4
#buffer buffers_$K array<u32>
#end
  // Words of an entry: its gradient, n, first, two each.
  let entry = entry_of(block.x, 6u, 4u);
  let first = (block.x - table[entry + 4u]) * TABLE_CHUNK;
  let last = min(first + TABLE_CHUNK, table[entry + 2u]);
  var sum = 0.0;
  for (var i = first + thread; i < last; i += 256u) {
    let g = load(entry, i);
    sum += g * g;
  }
  let total = pair_sum_of_256(thread, vec2<f32>(sum, 0.0));
  if (thread == 0u) { partials[a.partials / 8u + block.x] = total; }
#end
