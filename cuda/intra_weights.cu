// The weighted mean of per-anchor divergences and its derivatives. With S = Σd (or Σℓ), where ↯ marks a stopped
// gradient:
//
//   divergence  L = Σd²/S             g_i = 2 d_i/S − Σd²/S² = (2 d_i − L)/S
//   stable      L = Σd²/↯S            g_i = 2 d_i/S
//   detached    L = Σ ↯(d_i/S) d_i    g_i = d_i/S
//   uniform     L = Σd/n              g_i = 1/n
//   clip        L = Σℓd/S             g_i = ℓ_i/S,  h_i = d_i/S − Σℓd/S² = (d_i − L)/S
//
// One block, in f64: some 12 n bytes, less than a launch takes.
#include "reduce.cuh"

constexpr int WEIGHT_THREADS = 512;

// Below this a sum counts as this constant, whose derivative is zero: weights stay finite, and a
// student equal to its teacher gets loss 0 and gradient 0.
constexpr double FLOOR = 1e-12;

enum Weights { DIVERGENCE, STABLE, DETACHED, UNIFORM, CLIP };

struct IntraWeightsArguments {
  const float* d;
  // What the weights are made of: d itself, or ℓ.
  const float* l;
  float* loss;
  float* g;
  // Under `CLIP` alone.
  float* h;
  long long n;
  int weights;
  int padding;
};

KERNEL(intra_weights_f32, IntraWeightsArguments, WEIGHT_THREADS) {
  constexpr int WARPS = WEIGHT_THREADS / 32;
  __shared__ double totals[WARPS], products[WARPS];
  double total = 0., product = 0.;
  for (long long i = threadIdx.x; i < a.n; i += WEIGHT_THREADS) {
    const double l = a.l[i];
    total += l;
    product += l * a.d[i];
  }
  // Both sums after one barrier.
  total = warp_sum(total);
  product = warp_sum(product);
  if (threadIdx.x % 32 == 0) {
    totals[threadIdx.x / 32] = total;
    products[threadIdx.x / 32] = product;
  }
  __syncthreads();
  total = product = 0.;
  for (int warp = 0; warp < WARPS; warp++) {
    total += totals[warp];
    product += products[warp];
  }
  const bool floored = total < FLOOR;
  const double s = floored ? FLOOR : total, mean = 1. / (a.n > 1 ? a.n : 1);
  const double loss = a.weights == UNIFORM ? total * mean : product / s, own = floored ? 0. : loss;
  if (threadIdx.x == 0) *a.loss = static_cast<float>(loss);
  for (long long i = threadIdx.x; i < a.n; i += WEIGHT_THREADS) {
    const double d = a.d[i];
    double g = mean;
    if (a.weights == DIVERGENCE) g = (2. * d - own) / s;
    if (a.weights == STABLE) g = 2. * d / s;
    if (a.weights == DETACHED) g = d / s;
    if (a.weights == CLIP) {
      g = a.l[i] / s;
      // Cross-entropies of 0 everywhere say nothing about how to weigh: no pull on them.
      a.h[i] = static_cast<float>(floored ? 0. : (d - loss) / s);
    }
    a.g[i] = static_cast<float>(g);
  }
}
