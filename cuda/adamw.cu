// AdamW over all parameters in one launch: moments, f32 master and, where there is one, its bf16 copy, each read
// and written once. Also clamping into bounds.
#include "table.cuh"
#include "vector.cuh"

struct AdamWEntry {
  float* param;
  const float* grad;
  float* m;
  float* v;
  // The bf16 copy, or null.
  bf16* low;
  long long n;
  long long first;
  float weight_decay;
  int padding;
};

struct AdamWArguments {
  const AdamWEntry* table;
  // lr, lr / (1 − β₁ᵗ), 1 / √(1 − β₂ᵗ), the gradients' factor and whether the step is taken: in memory, since they
  // change at every step.
  const float* numbers;
  // The gradients' norm; null where nothing is clipped.
  const float* norm;
  // For kernels that cannot follow the table's addresses.
  const void* buffers[5];
  int count;
  float beta1;
  float beta2;
  float eps;
  // The largest norm that stays as it is.
  float max_norm;
  int padding;
};

KERNEL(adamw_f32, AdamWArguments, 256) {
  if (a.numbers[4] == 0.f) return;
  const AdamWEntry& e = entry_of(a.table, a.count, blockIdx.x);
  const long long first = (blockIdx.x - e.first) * TABLE_CHUNK;
  const long long last = first + TABLE_CHUNK < e.n ? first + TABLE_CHUNK : e.n;
  // fminf(1, NaN) is 1: NaN gradients show in the parameters.
  const float grad_scale = a.norm ? fminf(1.f, a.max_norm / (*a.norm + 1e-6f)) : a.numbers[3];
  const float step_size = a.numbers[1], inverse_correction2 = a.numbers[2];
  const float keep = 1.f - a.numbers[0] * e.weight_decay;
  for (long long i = first + threadIdx.x * 4; i < last; i += 256 * 4) {
    const long long count = last - i;
    float p[4], g[4], m[4], v[4];
    load(p, e.param + i, count, true);
    load(g, e.grad + i, count, true);
    load(m, e.m + i, count, true);
    load(v, e.v + i, count, true);
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const float scaled = g[k] * grad_scale;
      m[k] = fmaf(a.beta1, m[k], (1.f - a.beta1) * scaled);
      v[k] = fmaf(a.beta2, v[k], (1.f - a.beta2) * scaled * scaled);
      const float denominator = fmaf(sqrtf(v[k]), inverse_correction2, a.eps);
      p[k] = fmaf(p[k], keep, -step_size * (m[k] / denominator));
    }
    store(e.param + i, p, count, true);
    store(e.m + i, m, count, true);
    store(e.v + i, v, count, true);
    if (e.low) store(e.low + i, p, count, true);
  }
}

struct ClampArguments {
  float* x;
  long long n;
  float low;
  float high;
};

// A NaN stays NaN.
KERNEL(clamp_f32, ClampArguments, 256) {
  for_each_vector<4, 256>(a.n, [&](long long i, long long count) {
    float x[4];
    load(x, a.x + i, count, true);
#pragma unroll
    for (int k = 0; k < 4; k++) x[k] = x[k] < a.low ? a.low : (x[k] > a.high ? a.high : x[k]);
    store(a.x + i, x, count, true);
  });
}
