// Dynamic loss scaling, as torch.amp.GradScaler: one thread decides whether the step is taken, and what the next loss is
// scaled by.
#include "common.cuh"

struct LossScaleArguments {
  // Of the scaled gradients.
  const float* norm;
  float* scale;
  // Steps since the scale changed, taken, skipped; β₁ᵗ and β₂ᵗ, each as the sum of two.
  float* counts;
  // What adamw_f32 reads: lr, lr / (1 − β₁ᵗ), 1 / √(1 − β₂ᵗ), the gradients' factor, whether the step is taken.
  float* numbers;
  // The norm of the unscaled gradients.
  float* unscaled;
  float lr;
  float beta1;
  float beta2;
  float max_norm;
  float growth;
  float backoff;
  float interval;
  int clip;
};

// 1 − βᵗ of the next t, whose power is kept.
__device__ __forceinline__ double correction(float* power, float beta) {
  const double product = (static_cast<double>(power[0]) + power[1]) * beta;
  power[0] = static_cast<float>(product);
  power[1] = static_cast<float>(product - power[0]);
  return 1. - product;
}

KERNEL(loss_scale_f32, LossScaleArguments, 1) {
  const float norm = *a.norm, scale = *a.scale, unscaled = norm / scale;
  *a.unscaled = unscaled;
  a.numbers[0] = a.lr;
  // Infinite or NaN.
  if ((__float_as_uint(norm) & 0x7f800000u) == 0x7f800000u) {
    for (int i = 1; i < 5; i++) a.numbers[i] = 0.f;
    a.counts[0] = 0.f;
    a.counts[2] += 1.f;
    *a.scale = scale * a.backoff;
    return;
  }
  a.numbers[1] = static_cast<float>(a.lr / correction(a.counts + 3, a.beta1));
  a.numbers[2] = static_cast<float>(1. / sqrt(correction(a.counts + 5, a.beta2)));
  a.numbers[3] = (a.clip ? fminf(1.f, a.max_norm / (unscaled + 1e-6f)) : 1.f) / scale;
  a.numbers[4] = 1.f;
  a.counts[1] += 1.f;
  a.counts[0] += 1.f;
  if (a.counts[0] >= a.interval) {
    const float grown = scale * a.growth;
    if ((__float_as_uint(grown) & 0x7f800000u) != 0x7f800000u) *a.scale = grown;
    a.counts[0] = 0.f;
  }
}
