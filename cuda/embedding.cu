// y_r = table[ids_r] + positions[pos_r]: f32 tables, y in the activations' type. Backward: a scatter into each table.
#include "scatter.cuh"

struct EmbeddingArguments {
  const float* table;
  const float* positions;
  const int* ids;
  const int* pos;
  void* y;
  long long rows;
  int width;
  int padding;
};

// One warp per row.
template <class T>
__device__ void embedding(const EmbeddingArguments& a) {
  constexpr int N = Lanes<T>::n;
  const bool wide = a.width % N == 0;
  const int lane = threadIdx.x % 32;
  for (long long row = blockIdx.x * 8ll + threadIdx.x / 32; row < a.rows; row += gridDim.x * 8ll) {
    const float* token = a.table + static_cast<long long>(a.ids[row]) * a.width;
    const float* position = a.positions + static_cast<long long>(a.pos[row]) * a.width;
    for (int column = lane * N; column < a.width; column += 32 * N) {
      float x[N], p[N];
      load(x, token + column, a.width - column, wide);
      load(p, position + column, a.width - column, wide);
#pragma unroll
      for (int i = 0; i < N; i++) x[i] += p[i];
      store(static_cast<T*>(a.y) + row * a.width + column, x, a.width - column, wide);
    }
  }
}

KERNEL(embedding_f32, EmbeddingArguments, 256) { embedding<float>(a); }
KERNEL(embedding_bf16, EmbeddingArguments, 256) { embedding<bf16>(a); }
KERNEL(embedding_backward_f32, ScatterArguments, 256) { scatter<float, float>(a); }
KERNEL(embedding_backward_bf16, ScatterArguments, 256) { scatter<bf16, float>(a); }
