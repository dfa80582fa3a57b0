// What every kernel may use.
//
// The same sources are compiled twice: by NVRTC for a GPU, where `nvidia.cuh` wraps the instructions in PTX, and
// by g++ for the emulated device (macro CLIP_DISTILL_EMULATED), where `emulator.h` does the same on the processor.
// Both halves define
//
//   KERNEL(name, Arguments, threads) { … a … }   an entry that takes one struct `a`, launched with at most
//                                                `threads` threads a block
//   SHARED_DYNAMIC(T, name);                     `T* name`: the block's dynamic shared memory, aligned to 128
//   bf16_bits(x), bf16_value(bits)               f32 → bf16 (to nearest, ties to even) and back
//   bf16_pair(low, high)                         two of them in a register
//   exp2_fast(x)                                 2ˣ by the GPU's own instruction
//   mma_m16n8k16_bf16(d, a, b)                   D += A B on a warp's fragments, f32 accumulators
//   ldmatrix_x4(r, row), ldmatrix_x4_trans(…)    four 8×8 tiles of 16-bit elements from shared memory
//   cp_async_16(to, from)                        16 bytes from global to shared memory, there after a wait;
//   cp_async_16(to, from, valid)                 of these only `valid`, and zeros after them
//   cp_async_commit(), cp_async_wait<N>()        close a group; wait until at most N groups are outstanding
//
// Shared arrays are of types without constructors: `__shared__` memory starts as it is.
#pragma once

#ifdef CLIP_DISTILL_EMULATED
#include "emulator.h"
#else
#include "nvidia.cuh"
#endif
