// Images [batch, h, w, channels] into patches, each in (y, x, channel) order. A line of a patch is contiguous in both.
#include "vector.cuh"

struct PatchifyArguments {
  const void* images;
  void* y;
  long long n;
  // Of a patch.
  int side;
  // Patches across and down.
  int across;
  int down;
  int channels;
};

template <class T, int N>
__device__ __forceinline__ void patchify_by(const PatchifyArguments& a) {
  const int line = a.side * a.channels;
  for_each_vector<N, 256>(a.n, [&](long long i, long long) {
    const int within = i % line;
    const long long lines = i / line;
    const int y = lines % a.side;
    const long long patches = lines / a.side;
    const int gx = patches % a.across;
    const long long rows = patches / a.across;  // image · down + gy
    const long long at = ((rows * a.side + y) * a.across + gx) * line + within;
    if constexpr (N > 1) {
      float x[N];
      load_wide(x, static_cast<const T*>(a.images) + at);
      store_wide(static_cast<T*>(a.y) + i, x);
    } else {
      static_cast<T*>(a.y)[i] = static_cast<const T*>(a.images)[at];
    }
  });
}

template <class T>
__device__ void patchify(const PatchifyArguments& a) {
  if (a.side * a.channels % Lanes<T>::n == 0) patchify_by<T, Lanes<T>::n>(a);
  else patchify_by<T, 1>(a);
}

KERNEL(patchify_f32, PatchifyArguments, 256) { patchify<float>(a); }
KERNEL(patchify_bf16, PatchifyArguments, 256) { patchify<bf16>(a); }
