// y = exp x, and dx = dy ∘ y.
#include "vector.cuh"

struct ExpArguments {
  const float* x;
  float* y;
  long long n;
};

KERNEL(exp_f32, ExpArguments, 256) {
  for_each_vector<4, 256>(a.n, [&](long long i, long long count) {
    float x[4];
    load(x, a.x + i, count, true);
#pragma unroll
    for (int k = 0; k < 4; k++) x[k] = expf(x[k]);
    store(a.y + i, x, count, true);
  });
}

struct ExpBackwardArguments {
  const float* dy;
  const float* y;
  float* dx;
  long long n;
  int add;
  int padding;
};

KERNEL(exp_backward_f32, ExpBackwardArguments, 256) {
  for_each_vector<4, 256>(a.n, [&](long long i, long long count) {
    float dy[4], y[4];
    load(dy, a.dy + i, count, true);
    load(y, a.y + i, count, true);
#pragma unroll
    for (int k = 0; k < 4; k++) y[k] *= dy[k];
    contribute(a.dx + i, y, count, true, a.add);
  });
}
