// Pixels to values: y = (pixel/255 − mean) / std by channel, of which there are three. The divisions are IEEE's, so that
// f32 values are those of every other backend.
#include "vector.cuh"

struct ImagesArguments {
  const unsigned char* pixels;
  void* y;
  long long n;
  float mean[3];
  float std[3];
};

template <class T>
__device__ void images(const ImagesArguments& a) {
  for_each_vector<16, 256>(a.n, [&](long long i, long long count) {
    unsigned word[4] = {};
    if (count >= 16) {
      const uint4 v = *reinterpret_cast<const uint4*>(a.pixels + i);
      word[0] = v.x;
      word[1] = v.y;
      word[2] = v.z;
      word[3] = v.w;
    } else {
#pragma unroll
      for (int k = 0; k < 16; k++) {
        if (k < count) word[k / 4] |= static_cast<unsigned>(a.pixels[i + k]) << k % 4 * 8;
      }
    }
    const int first = i % 3;
    float x[16];
#pragma unroll
    for (int k = 0; k < 16; k++) {
      const int turn = (first + k) % 3;
      const float mean = turn == 0 ? a.mean[0] : turn == 1 ? a.mean[1] : a.mean[2];
      const float std = turn == 0 ? a.std[0] : turn == 1 ? a.std[1] : a.std[2];
      x[k] = (static_cast<float>(word[k / 4] >> k % 4 * 8 & 255u) / 255.f - mean) / std;
    }
    store(static_cast<T*>(a.y) + i, x, count, true);
  });
}

KERNEL(images_f32, ImagesArguments, 256) { images<float>(a); }
KERNEL(images_bf16, ImagesArguments, 256) { images<bf16>(a); }
