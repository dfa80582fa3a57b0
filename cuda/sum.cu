// Sums of all elements in two stages of fixed order, the second of which serves other kernels' partial sums too,
// and x times a number in device memory.
#include "reduce.cuh"
#include "vector.cuh"

struct SumArguments {
  const float* x;
  // One per block, which sums `chunk` elements.
  double* partials;
  long long n;
  long long chunk;
};

KERNEL(sum_f32, SumArguments, 256) {
  __shared__ double scratch[8];
  const long long first = blockIdx.x * a.chunk, last = first + a.chunk < a.n ? first + a.chunk : a.n;
  double sum = 0;
  for (long long i = first + threadIdx.x; i < last; i += 256) sum += a.x[i];
  sum = block_sum<256>(sum, scratch);
  if (threadIdx.x == 0) a.partials[blockIdx.x] = sum;
}

struct SumFinishArguments {
  const double* partials;
  float* sum;
  double factor;
  int count;
  // Whether it is the sum's square root that is wanted.
  int root;
};

// One block.
KERNEL(sum_finish, SumFinishArguments, 256) {
  __shared__ double scratch[8];
  double sum = 0;
  for (int i = threadIdx.x; i < a.count; i += 256) sum += a.partials[i];
  sum = block_sum<256>(sum, scratch) * a.factor;
  if (threadIdx.x > 0) return;
  *a.sum = static_cast<float>(a.root ? sqrt(sum) : sum);
}

struct ScaleByArguments {
  const float* scalar;
  // Null for ones.
  const float* x;
  float* y;
  long long n;
  float factor;
  int padding;
};

KERNEL(scale_by_f32, ScaleByArguments, 256) {
  const float factor = *a.scalar * a.factor;
  for_each_vector<4, 256>(a.n, [&](long long i, long long count) {
    float x[4] = {1.f, 1.f, 1.f, 1.f};
    if (a.x) load(x, a.x + i, count, true);
#pragma unroll
    for (int k = 0; k < 4; k++) x[k] *= factor;
    store(a.y + i, x, count, true);
  });
}
