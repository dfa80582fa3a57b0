// y = Σ_k w_k x_k, of up to six terms in one pass: the terms in their order, then, when `add`, what y holds.
// With one term it computes each term's gradient.
#include "vector.cuh"

struct WeightedSumArguments {
  const void* terms[6];
  float weights[6];
  void* y;
  long long n;
  int count;
  int add;
};

template <class T>
__device__ void weighted_sum(const WeightedSumArguments& a) {
  constexpr int N = Lanes<T>::n;
  for_each_vector<N, 256>(a.n, [&](long long i, long long count) {
    float sum[N] = {};
    for (int k = 0; k < a.count; k++) {
      float x[N];
      load(x, static_cast<const T*>(a.terms[k]) + i, count, true);
#pragma unroll
      for (int j = 0; j < N; j++) sum[j] += a.weights[k] * x[j];
    }
    contribute(static_cast<T*>(a.y) + i, sum, count, true, a.add);
  });
}

KERNEL(weighted_sum_f32, WeightedSumArguments, 256) { weighted_sum<float>(a); }
KERNEL(weighted_sum_bf16, WeightedSumArguments, 256) { weighted_sum<bf16>(a); }
