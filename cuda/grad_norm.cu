// Σ g² over all gradients in one launch, a partial sum a block, which `sum_finish` adds up: 16 elements a thread
// in f32, all beyond in f64.
#include "reduce.cuh"
#include "table.cuh"
#include "vector.cuh"

struct GradNormEntry {
  const float* grad;
  long long n;
  long long first;
};

struct GradNormArguments {
  const GradNormEntry* table;
  double* partials;
  // For kernels that cannot follow the table's addresses.
  const void* buffers[5];
  int count;
  int padding;
};

KERNEL(grad_norm_f32, GradNormArguments, 256) {
  __shared__ double scratch[8];
  const GradNormEntry& e = entry_of(a.table, a.count, blockIdx.x);
  const long long first = (blockIdx.x - e.first) * TABLE_CHUNK;
  const long long last = first + TABLE_CHUNK < e.n ? first + TABLE_CHUNK : e.n;
  float sum = 0;
  for (long long i = first + threadIdx.x * 4; i < last; i += 256 * 4) {
    float g[4];
    load(g, e.grad + i, last - i, true);
#pragma unroll
    for (int k = 0; k < 4; k++) sum += g[k] * g[k];
  }
  const double total = block_sum<256>(static_cast<double>(sum), scratch);
  if (threadIdx.x == 0) a.partials[blockIdx.x] = total;
}
