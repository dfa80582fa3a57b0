// y = Σ_k w_k x_k, of up to six terms in one pass: the terms in their order, then, when `add`, what y holds. With one
// term it computes each term's gradient.

#kernel weighted_sum_$T WeightedSumArguments 256
#each K 0 1 2 3 4 5
#buffer terms_$K array<$T>
#end
#buffer y array<$T>
  for (var i = block.x * 256u + thread; i < a.n; i += grid.x * 256u) {
    var sum = 0.0;
#each K 0 1 2 3 4 5
    if (a.count > $K) { sum += a.weights_$K * f32(terms_$K[i]); }
#end
    y[i] = $T(select(sum, sum + f32(y[i]), a.add != 0));
  }
#end
