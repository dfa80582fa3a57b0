// Σ (x − y)², in partial sums that `sum_finish` adds up, and dx = dy · factor (x − y).
#include "reduce.cuh"
#include "vector.cuh"

struct MseArguments {
  const float* x;
  const float* y;
  // One per block, which sums `chunk` elements, a multiple of 4.
  double* partials;
  long long n;
  long long chunk;
};

KERNEL(mse_f32, MseArguments, 256) {
  __shared__ double scratch[8];
  const long long first = blockIdx.x * a.chunk, last = first + a.chunk < a.n ? first + a.chunk : a.n;
  float sum = 0;
  for (long long i = first + threadIdx.x * 4; i < last; i += 256 * 4) {
    float x[4], y[4];
    load(x, a.x + i, last - i, true);
    load(y, a.y + i, last - i, true);
#pragma unroll
    for (int k = 0; k < 4; k++) sum += (x[k] - y[k]) * (x[k] - y[k]);
  }
  const double total = block_sum<256>(static_cast<double>(sum), scratch);
  if (threadIdx.x == 0) a.partials[blockIdx.x] = total;
}

struct MseBackwardArguments {
  const float* dy;
  const float* x;
  const float* y;
  float* dx;
  long long n;
  float factor;
  int add;
};

KERNEL(mse_backward_f32, MseBackwardArguments, 256) {
  const float factor = *a.dy * a.factor;
  for_each_vector<4, 256>(a.n, [&](long long i, long long count) {
    float x[4], y[4];
    load(x, a.x + i, count, true);
    load(y, a.y + i, count, true);
#pragma unroll
    for (int k = 0; k < 4; k++) x[k] = factor * (x[k] - y[k]);
    contribute(a.dx + i, x, count, true, a.add);
  });
}
