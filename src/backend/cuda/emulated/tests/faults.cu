// Kernels that do what no kernel may, one each; and what memory holds that nobody wrote.
#include "common.cuh"

struct Arguments {
  float* x;
  float* y;
  int n;
};

KERNEL(well, Arguments, 1024) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < a.n) a.y[i] = a.x[i];
}

KERNEL(half_a_warp_shuffles, Arguments, 128) {
  if (threadIdx.x < 48) a.y[threadIdx.x] = __shfl_xor_sync(~0u, a.x[threadIdx.x], 1);
  __syncthreads();
}

KERNEL(shuffles_with_exited, Arguments, 128) {
  if (threadIdx.x == 40) return;
  a.y[threadIdx.x] = __shfl_xor_sync(~0u, a.x[threadIdx.x], 1);
}

KERNEL(two_collectives, Arguments, 128) {
  if (threadIdx.x % 2) {
    a.y[threadIdx.x] = __shfl_xor_sync(~0u, a.x[threadIdx.x], 1);
  } else {
    a.y[threadIdx.x] = __any_sync(~0u, a.x[threadIdx.x] > 0);
  }
}

KERNEL(mask_without_caller, Arguments, 128) { a.y[threadIdx.x] = __shfl_xor_sync(0xffffu, a.x[threadIdx.x], 1); }

KERNEL(half_masks, Arguments, 128) {
  float x = a.x[threadIdx.x];
  if (threadIdx.x % 32 < 16) {
    x = __shfl_xor_sync(0x0000ffffu, x, 1);
  } else {
    x = __shfl_xor_sync(0xffff0000u, x, 2);
  }
  a.y[threadIdx.x] = x;
}

KERNEL(barrier_with_exited, Arguments, 128) {
  if (threadIdx.x == 70) return;
  __syncthreads();
}

KERNEL(two_barriers, Arguments, 128) {
  if (threadIdx.x < 64) {
    __syncthreads();
  } else {
    a.y[0] = 1;
    __syncthreads();
  }
}

KERNEL(spins, Arguments, 128) {
  while (atomicAdd(reinterpret_cast<int*>(a.x), 0) == 0) {
  }
}

KERNEL(traps, Arguments, 128) {
  if (threadIdx.x == 33) __trap();
}

KERNEL(writes_behind, Arguments, 128) {
  if (blockIdx.x == 2 && threadIdx.x == 65) a.y[a.n] = 1;
}

KERNEL(writes_before, Arguments, 128) {
  if (blockIdx.x == 2 && threadIdx.x == 65) a.y[-3] = 1;
}

KERNEL(writes_shared_behind, Arguments, 128) {
  SHARED_DYNAMIC(float, shared);
  shared[threadIdx.x] = 0;
}

KERNEL(mma_in_half_a_warp, Arguments, 16) {
  float d[4] = {};
  const unsigned fa[4] = {}, fb[2] = {};
  mma_m16n8k16_bf16(d, fa, fb);
  a.y[threadIdx.x] = d[0];
}

KERNEL(ldmatrix_from_global, Arguments, 32) {
  unsigned r[4];
  ldmatrix_x4(r, a.x);
  a.y[threadIdx.x] = r[0];
}

KERNEL(ldmatrix_unaligned, Arguments, 32) {
  __shared__ __align__(16) float tile[256];
  tile[threadIdx.x] = 0;
  __syncwarp();
  unsigned r[4];
  ldmatrix_x4(r, tile + (threadIdx.x == 9 ? 1 : 0));
  a.y[threadIdx.x] = r[0];
}

KERNEL(copies_unaligned, Arguments, 32) {
  __shared__ __align__(16) float tile[256];
  cp_async_16(tile + 4 * threadIdx.x, a.x + (threadIdx.x == 7 ? 2 : 0));
  cp_async_commit();
  cp_async_wait<0>();
  a.y[threadIdx.x] = tile[threadIdx.x];
}

KERNEL(copies_to_global, Arguments, 32) { cp_async_16(a.y, a.x); }

KERNEL(reads_behind, Arguments, 1) { a.y[0] = a.x[a.n]; }

KERNEL(reads_shared, Arguments, 32) {
  __shared__ float fixed[32];
  SHARED_DYNAMIC(float, dynamic);
  a.y[2 * threadIdx.x] = fixed[threadIdx.x];
  a.y[2 * threadIdx.x + 1] = dynamic[threadIdx.x];
  __syncwarp();
  // For the next block of this thread of the system.
  fixed[threadIdx.x] = 0;
  dynamic[threadIdx.x] = 0;
}
