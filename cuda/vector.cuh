// Elements in the types that tensors are kept in, and moves of several at once.
//
// Tensors begin at multiples of 256 bytes, so a row-major matrix whose width is a multiple of N has every row
// aligned to N elements: `wide` says so, and then N elements move 16 bytes at a time. Other widths move one
// element at a time.
#pragma once
#include "common.cuh"

struct bf16 {
  unsigned short bits;
};

__device__ __forceinline__ float value(float x) { return x; }
__device__ __forceinline__ float value(bf16 x) { return bf16_value(x.bits); }

__device__ __forceinline__ void put(float* to, float x) { *to = x; }
__device__ __forceinline__ void put(bf16* to, float x) { to->bits = bf16_bits(x); }

// Elements of T in 16 bytes.
template <class T>
struct Lanes {
  static constexpr int n = 16 / sizeof(T);
};

template <int N>
__device__ __forceinline__ void load_wide(float (&x)[N], const float* from) {
  static_assert(N % 4 == 0, "whole 16 bytes");
#pragma unroll
  for (int i = 0; i < N / 4; i++) {
    const float4 v = reinterpret_cast<const float4*>(from)[i];
    x[4 * i] = v.x;
    x[4 * i + 1] = v.y;
    x[4 * i + 2] = v.z;
    x[4 * i + 3] = v.w;
  }
}

template <int N>
__device__ __forceinline__ void load_wide(float (&x)[N], const bf16* from) {
  static_assert(N % 4 == 0, "whole 8 bytes");
  unsigned w[N / 2];
  if constexpr (N % 8 == 0) {
#pragma unroll
    for (int i = 0; i < N / 8; i++) {
      const uint4 v = reinterpret_cast<const uint4*>(from)[i];
      w[4 * i] = v.x;
      w[4 * i + 1] = v.y;
      w[4 * i + 2] = v.z;
      w[4 * i + 3] = v.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < N / 4; i++) {
      const uint2 v = reinterpret_cast<const uint2*>(from)[i];
      w[2 * i] = v.x;
      w[2 * i + 1] = v.y;
    }
  }
#pragma unroll
  for (int i = 0; i < N / 2; i++) {
    x[2 * i] = __uint_as_float(w[i] << 16);
    x[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
  }
}

template <int N>
__device__ __forceinline__ void store_wide(float* to, const float (&x)[N]) {
#pragma unroll
  for (int i = 0; i < N / 4; i++) {
    reinterpret_cast<float4*>(to)[i] = make_float4(x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]);
  }
}

template <int N>
__device__ __forceinline__ void store_wide(bf16* to, const float (&x)[N]) {
  unsigned w[N / 2];
#pragma unroll
  for (int i = 0; i < N / 2; i++) {
    w[i] = bf16_bits(x[2 * i]) | static_cast<unsigned>(bf16_bits(x[2 * i + 1])) << 16;
  }
  if constexpr (N % 8 == 0) {
#pragma unroll
    for (int i = 0; i < N / 8; i++) {
      reinterpret_cast<uint4*>(to)[i] = make_uint4(w[4 * i], w[4 * i + 1], w[4 * i + 2], w[4 * i + 3]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N / 4; i++) {
      reinterpret_cast<uint2*>(to)[i] = make_uint2(w[2 * i], w[2 * i + 1]);
    }
  }
}

// x = from[0 … N), with zeros from element `count` on.
template <int N, class T>
__device__ __forceinline__ void load(float (&x)[N], const T* from, long long count, bool wide) {
  if (wide && count >= N) {
    load_wide(x, from);
    return;
  }
#pragma unroll
  for (int i = 0; i < N; i++) x[i] = i < count ? value(from[i]) : 0.f;
}

// to[0 … min(N, count)) = x.
template <int N, class T>
__device__ __forceinline__ void store(T* to, const float (&x)[N], long long count, bool wide) {
  if (wide && count >= N) {
    store_wide(to, x);
    return;
  }
#pragma unroll
  for (int i = 0; i < N; i++) {
    if (i < count) put(to + i, x[i]);
  }
}

// As `store`, onto what is there when `add`: how a gradient goes to its slot.
template <int N, class T>
__device__ __forceinline__ void contribute(T* to, float (&x)[N], long long count, bool wide, bool add) {
  if (add) {
    float before[N];
    load(before, to, count, wide);
#pragma unroll
    for (int i = 0; i < N; i++) x[i] += before[i];
  }
  store(to, x, count, wide);
}

// Calls f(first element, how many of N are there) for all n elements, spread over the whole grid.
template <int N, int THREADS, class F>
__device__ __forceinline__ void for_each_vector(long long n, F f) {
  const long long step = static_cast<long long>(gridDim.x) * THREADS * N;
  for (long long i = (static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x) * N; i < n; i += step) f(i, n - i);
}
