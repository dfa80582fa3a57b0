// A tiled product and a pipelined copy, whole and with one synchronisation taken out.
#include "common.cuh"

struct ProductArguments {
  const float* a;
  const float* b;
  float* c;
  int n;
};

constexpr int TILE = 16;

// C = A B for n × n matrices, n a multiple of TILE.
template <bool before, bool after>
__device__ void product(const ProductArguments& a) {
  __shared__ float ta[TILE][TILE], tb[TILE][TILE];
  const int tx = threadIdx.x % TILE, ty = threadIdx.x / TILE;
  const int row = blockIdx.y * TILE + ty, column = blockIdx.x * TILE + tx;
  float sum = 0;
  for (int k = 0; k < a.n; k += TILE) {
    ta[ty][tx] = a.a[row * a.n + k + tx];
    tb[ty][tx] = a.b[(k + ty) * a.n + column];
    if (before) __syncthreads();
    for (int i = 0; i < TILE; i++) sum += ta[ty][i] * tb[i][tx];
    if (after) __syncthreads();
  }
  a.c[row * a.n + column] = sum;
}

KERNEL(product_whole, ProductArguments, 256) { product<true, true>(a); }
KERNEL(product_without_first, ProductArguments, 256) { product<false, true>(a); }
KERNEL(product_without_second, ProductArguments, 256) { product<true, false>(a); }

struct CopyArguments {
  const float* x;
  float* y;
  int tiles;
};

// y = sums over neighbouring lanes of tiles of x, two tiles in flight. Tiles hold 4 floats a lane.
template <int outstanding, bool barrier>
__device__ void pipeline(const CopyArguments& a) {
  SHARED_DYNAMIC(float, shared);
  const int t = threadIdx.x, width = 4 * blockDim.x;
  const auto issue = [&](int tile) {
    if (tile < a.tiles) cp_async_16(shared + tile % 2 * width + 4 * t, a.x + tile * width + 4 * t);
    cp_async_commit();
  };
  issue(0);
  for (int tile = 0; tile < a.tiles; tile++) {
    issue(tile + 1);
    cp_async_wait<outstanding>();
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < 4; i++) sum += shared[tile % 2 * width + (4 * t + 4 + i) % width];
    a.y[tile * blockDim.x + t] = sum;
    if (barrier) __syncthreads();
  }
}

KERNEL(pipeline_whole, CopyArguments, 128) { pipeline<1, true>(a); }
KERNEL(pipeline_waits_for_too_few, CopyArguments, 128) { pipeline<2, true>(a); }
KERNEL(pipeline_without_barrier, CopyArguments, 128) { pipeline<1, false>(a); }

struct SumArguments {
  const float* x;
  float* y;
  int n;
};

// Sums of rows of n, a block each.
KERNEL(row_sums, SumArguments, 256) {
  __shared__ float parts[8];
  float sum = 0;
  for (int i = threadIdx.x; i < a.n; i += 256) sum += a.x[blockIdx.x * a.n + i];
  for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x < 8) {
    sum = parts[threadIdx.x];
    for (int d = 4; d; d /= 2) sum += __shfl_xor_sync(0xffu, sum, d);
    if (threadIdx.x == 0) a.y[blockIdx.x] = sum;
  }
}

// Σ v and then Σ v² over rows of 256 values, a block each and for every thread, by the same shared memory.
template <bool after>
__device__ void two_sums(const SumArguments& a) {
  __shared__ float parts[8];
  const int at = blockIdx.x * 256 + threadIdx.x;
  float total = 0;
  for (int power = 1; power <= 2; power++) {
    float sum = power == 1 ? a.x[at] : a.x[at] * a.x[at];
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
    __syncthreads();
    for (int warp = 0; warp < 8; warp++) total += parts[warp];
    if (after) __syncthreads();
  }
  a.y[at] = total;
}

KERNEL(two_sums_whole, SumArguments, 256) { two_sums<true>(a); }
KERNEL(two_sums_without_second, SumArguments, 256) { two_sums<false>(a); }

struct ZeroFillArguments {
  const float* x;
  float* y;
  int valid;
};

KERNEL(copies_with_zeros, ZeroFillArguments, 1) {
  __shared__ __align__(16) float tile[4];
  cp_async_16(tile, a.x, a.valid);
  cp_async_commit();
  cp_async_wait<0>();
  for (int i = 0; i < 4; i++) a.y[i] = tile[i];
}

struct MatrixArguments {
  const float* x;
  unsigned* y;
};

// The registers of an ldmatrix of four matrices, whose 32 rows the lanes have copied from x, each its neighbour's.
template <bool barrier>
__device__ void matrices(const MatrixArguments& a) {
  __shared__ __align__(16) float rows[32][4];
  const int l = threadIdx.x, row = (l + 1) % 32;
  for (int i = 0; i < 4; i++) rows[row][i] = a.x[4 * row + i];
  if (barrier) __syncwarp();
  unsigned r[4];
  ldmatrix_x4(r, rows[l]);
  for (int i = 0; i < 4; i++) a.y[4 * l + i] = r[i];
}

KERNEL(matrices_whole, MatrixArguments, 32) { matrices<true>(a); }
KERNEL(matrices_without_syncwarp, MatrixArguments, 32) { matrices<false>(a); }
