// The instructions of an NVIDIA GPU that C++ does not name, in PTX. Tensor cores with bf16 and asynchronous
// copies begin with sm_80: below, copies are plain ones, and the products are not declared.
#pragma once

#define KERNEL(name, Arguments, threads) \
  extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Arguments a)

#define SHARED_DYNAMIC(T, name)                                   \
  extern __shared__ __align__(128) unsigned char dynamic_shared[]; \
  T* name = reinterpret_cast<T*>(dynamic_shared)

// ---- conversions

__device__ __forceinline__ float bf16_value(unsigned short bits) {
  return __uint_as_float(static_cast<unsigned>(bits) << 16);
}

__device__ __forceinline__ unsigned short bf16_bits(float x) {
#if __CUDA_ARCH__ >= 800
  unsigned short bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
#else
  const unsigned u = __float_as_uint(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<unsigned short>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
#endif
}

// bf16_bits of two, the first in the lower half.
__device__ __forceinline__ unsigned bf16_pair(float low, float high) {
#if __CUDA_ARCH__ >= 800
  unsigned pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return bf16_bits(low) | static_cast<unsigned>(bf16_bits(high)) << 16;
#endif
}

// 2ˣ to 2⁻²², and 0 where that is less than 2⁻¹²⁶.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ---- shared memory

// The address that instructions with `.shared` take.
__device__ __forceinline__ unsigned shared_address(const void* p) {
  unsigned address;
  asm("{ .reg .u64 t; cvta.to.shared.u64 t, %1; cvt.u32.u64 %0, t; }" : "=r"(address) : "l"(p));
  return address;
}

__device__ __forceinline__ void cp_async_16(void* to, const void* from) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
#else
  *static_cast<uint4*>(to) = *static_cast<const uint4*>(from);
#endif
}

__device__ __forceinline__ void cp_async_16(void* to, const void* from, int valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid)
               : "memory");
#else
  for (int i = 0; i < 16; i++) {
    static_cast<char*>(to)[i] = i < valid ? static_cast<const char*>(from)[i] : 0;
  }
#endif
}

__device__ __forceinline__ void cp_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int N>
__device__ __forceinline__ void cp_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// The rows (16 bytes each) of 8 × 8 matrix j are where lanes 8j to 8j + 7 point; lane l gets the elements 2(l mod 4) and
// 2(l mod 4) + 1 of row ⌊l/4⌋ of each (with `_trans`: of each transposed).
__device__ __forceinline__ void ldmatrix_x4(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// ---- tensor cores

#if __CUDA_ARCH__ >= 800

// Fragments of lane l, with g = ⌊l/4⌋ and t = l mod 4: d = {D[g][2t], D[g][2t+1], D[g+8][2t], D[g+8][2t+1]};
// a holds pairs of A (16 × 16): rows g, g+8, g, g+8 at columns 2t, 2t, 2t+8, 2t+8; b pairs of B (16 × 8): rows
// 2t and 2t+8 of column g. The lower half of a register is the earlier element.
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif
