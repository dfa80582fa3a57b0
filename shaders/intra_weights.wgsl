// The weighted mean of per-anchor divergences and its derivatives. With S = Σd (or Σℓ), where ↯ marks a stopped
// gradient:
//
//   0  divergence  L = Σd²/S             g_i = 2 d_i/S − Σd²/S² = (2 d_i − L)/S
//   1  stable      L = Σd²/↯S            g_i = 2 d_i/S
//   2  detached    L = Σ ↯(d_i/S) d_i    g_i = d_i/S
//   3  uniform     L = Σd/n              g_i = 1/n
//   4  clip        L = Σℓd/S             g_i = ℓ_i/S,  h_i = d_i/S − Σℓd/S² = (d_i − L)/S
//
// One workgroup, in pairs.
#include pairs

#kernel intra_weights_f32 IntraWeightsArguments 256
#buffer d array<f32>
#buffer l array<f32>
#buffer loss array<f32>
#buffer g array<f32>
#buffer h array<f32>
  var total = vec2<f32>();
  var product = vec2<f32>();
  for (var i = thread; i < a.n; i += 256u) {
    total = pair_add(total, vec2<f32>(l[i], 0.0));
    product = pair_add(product, two_product(l[i], d[i]));
  }
  total = pair_sum_of_256(thread, total);
  product = pair_sum_of_256(thread, product);
  // Below this a sum counts as this constant, whose derivative is zero: weights stay finite, and a student equal to its
  // teacher gets loss 0 and gradient 0.
  let floored = total.x < 1e-12;
  let s = select(total, vec2<f32>(1e-12, 0.0), floored);
  let n = vec2<f32>(f32(max(a.n, 1u)), 0.0);
  var value = pair_div(product, s);
  if (a.weights == 3) { value = pair_div(total, n); }
  let own = select(value, vec2<f32>(), floored);
  if (thread == 0u) { loss[0] = value.x; }
  for (var i = thread; i < a.n; i += 256u) {
    let one = vec2<f32>(d[i], 0.0);
    var slope = pair_div(vec2<f32>(1.0, 0.0), n);
    if (a.weights == 0) { slope = pair_div(pair_sub(2.0 * one, own), s); }
    if (a.weights == 1) { slope = pair_div(2.0 * one, s); }
    if (a.weights == 2) { slope = pair_div(one, s); }
    if (a.weights == 4) {
      slope = pair_div(vec2<f32>(l[i], 0.0), s);
      // Cross-entropies of 0 everywhere say nothing about how to weigh: no pull on them.
      h[i] = select(pair_div(pair_sub(one, value), s).x, 0.0, floored);
    }
    g[i] = slope.x;
  }
#end
