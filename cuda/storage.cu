// y = x in another element type, and sum += x.
#include "vector.cuh"

struct MoveArguments {
  const void* source;
  void* to;
  long long n;
};

template <class From, class To>
__device__ void cast(const MoveArguments& a) {
  for_each_vector<8, 256>(a.n, [&](long long i, long long count) {
    float x[8];
    load(x, static_cast<const From*>(a.source) + i, count, true);
    store(static_cast<To*>(a.to) + i, x, count, true);
  });
}

KERNEL(cast_f32_bf16, MoveArguments, 256) { cast<float, bf16>(a); }
KERNEL(cast_bf16_f32, MoveArguments, 256) { cast<bf16, float>(a); }

template <class From, class To>
__device__ void accumulate(const MoveArguments& a) {
  for_each_vector<8, 256>(a.n, [&](long long i, long long count) {
    float x[8];
    load(x, static_cast<const From*>(a.source) + i, count, true);
    contribute(static_cast<To*>(a.to) + i, x, count, true, true);
  });
}

KERNEL(accumulate_f32_f32, MoveArguments, 256) { accumulate<float, float>(a); }
KERNEL(accumulate_f32_bf16, MoveArguments, 256) { accumulate<float, bf16>(a); }
KERNEL(accumulate_bf16_f32, MoveArguments, 256) { accumulate<bf16, float>(a); }
KERNEL(accumulate_bf16_bf16, MoveArguments, 256) { accumulate<bf16, bf16>(a); }
