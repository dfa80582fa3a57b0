// CUDA on the processor: what a kernel's source finds instead of the GPU's own declarations.
//
// A module (one `.cu` file) is compiled with these headers into a shared library. Each thread of a block is a
// fiber; a collective operation is a point where fibers wait for each other, and between two such points they run
// one after another in an order that is shuffled anew each time, so that a missing barrier shows. What no GPU
// would do reliably is a fault that stops the launch and is reported with its place.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <link.h>
#include <type_traits>
#include <vector>

#include "fibers.h"
#include "block.h"
#include "collectives.h"
#include "shared_memory.h"
#include "intrinsics.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
// A block stays on one thread of the system, whose own copy this is.
#define __shared__ static thread_local

#define threadIdx (emulator::self().index)
#define blockIdx (emulator::current->block_index)
#define blockDim (emulator::current->block_size)
#define gridDim (emulator::current->grid_size)
constexpr int warpSize = 32;

#define KERNEL(name, Arguments, threads)                                                                  \
  static void name(const Arguments& a);                                                                   \
  static void name##_call(const void* a) { name(*static_cast<const Arguments*>(a)); }                     \
  extern "C" __attribute__((visibility("default"))) const emulator::Entry name##_entry = {                \
      name##_call, sizeof(Arguments), threads, #Arguments};                                               \
  static void name(const Arguments& a)

#define SHARED_DYNAMIC(T, name) T* name = reinterpret_cast<T*>(emulator::current->run->dynamic_shared)

// What the launching side calls: takes blocks until none is left.
extern "C" __attribute__((visibility("default"))) void emulator_run(const emulator::Entry* entry, emulator::Run* run) {
  emulator::run_blocks(*entry, *run);
}
