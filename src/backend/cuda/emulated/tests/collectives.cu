// What lanes get of each collective, written out.
#include "common.cuh"

struct Arguments {
  unsigned* out;
};

KERNEL(shuffles, Arguments, 64) {
  const int t = threadIdx.x;
  const unsigned value = 100 + t;
  unsigned* out = a.out + 10 * t;
  out[0] = __shfl_sync(~0u, value, 5);
  out[1] = __shfl_sync(~0u, value, t + 1, 8);
  out[2] = __shfl_xor_sync(~0u, value, 3);
  out[3] = __shfl_up_sync(~0u, value, 3);
  out[4] = __shfl_down_sync(~0u, value, 3);
  out[5] = __shfl_down_sync(~0u, value, 3, 16);
  out[6] = __ballot_sync(~0u, t % 3 == 0);
  out[7] = __any_sync(~0u, t == 40);
  out[8] = __all_sync(~0u, t < 40);
  out[9] = __syncthreads_count(t % 5 == 0);
}

// Four matrices of 8 × 8 elements, 64 j + 8 row + column, with rows 48 bytes apart.
__device__ void matrices(unsigned short (&tile)[32][24]) {
  for (int i = threadIdx.x; i < 256; i += 32) tile[i / 8][i % 8] = i;
  __syncwarp();
}

KERNEL(ldmatrices, Arguments, 32) {
  __shared__ __align__(16) unsigned short tile[32][24];
  matrices(tile);
  const int l = threadIdx.x;
  unsigned* out = a.out + 8 * l;
  unsigned r[4];
  ldmatrix_x4(r, tile[l]);
  for (int i = 0; i < 4; i++) out[i] = r[i];
  ldmatrix_x4_trans(r, tile[l]);
  for (int i = 0; i < 4; i++) out[4 + i] = r[i];
}

struct MmaArguments {
  const float* a;
  const float* b;
  float* d;
};

// d += a b for a 16 × 16 and b 16 × 8 of bf16 numbers: fragments by PTX's table.
KERNEL(mma_bf16, MmaArguments, 32) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  const auto pair = [](float low, float high) { return bf16_bits(low) | static_cast<unsigned>(bf16_bits(high)) << 16; };
  unsigned fa[4], fb[2];
  float fd[4];
  for (int i = 0; i < 4; i++) {
    const float* from = a.a + (g + (i % 2) * 8) * 16 + 2 * t + (i / 2) * 8;
    fa[i] = pair(from[0], from[1]);
  }
  for (int i = 0; i < 2; i++) {
    const float* from = a.b + (2 * t + 8 * i) * 8 + g;
    fb[i] = pair(from[0], from[8]);
  }
  for (int i = 0; i < 4; i++) fd[i] = a.d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2];
  mma_m16n8k16_bf16(fd, fa, fb);
  for (int i = 0; i < 4; i++) a.d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = fd[i];
}

KERNEL(indices, Arguments, 64) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  unsigned* out = a.out + 4 * (block * blockDim.x + threadIdx.x);
  out[0] = blockIdx.x, out[1] = blockIdx.y, out[2] = blockIdx.z, out[3] = threadIdx.x;
}
