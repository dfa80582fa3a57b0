// x_i = value.
#include "common.cuh"

struct FillArguments {
  float* x;
  long long n;
  float value;
};

KERNEL(fill_f32, FillArguments, 256) {
  for (long long i = blockIdx.x * 256ll + threadIdx.x; i < a.n; i += gridDim.x * 256ll) {
    a.x[i] = a.value;
  }
}
