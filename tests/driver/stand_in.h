// A stand-in for NVIDIA's driver (`libcuda.so.1`) and cuBLASLt (`libcublasLt.so.12`): a software GPU.
//
// The emulated device replaces the backend's `Device`; this replaces what is below it, so that the code that
// calls NVIDIA's libraries runs where there is no GPU, in the program itself: loading, contexts, streams, events, pinned
// memory, pools, modules, CUDA graphs, descriptors of products. Kernels come as the cubins that NVRTC made for
// sm_90a, and run as the emulated device runs them: the same sources, compiled by g++.
//
// - What is put on a stream runs later, as late as the calls allow or any time before: a part of it at any call. So a
//   host that reads too early, or overwrites what a copy still reads, gets wrong numbers.
// - Fresh memory holds a pattern that is NaN. A freed block may be handed out again at once: its next user comes
//   after its last one on the stream.
// - What NVIDIA's manuals forbid, and what they allow but this backend must not do, is a *violation*: reported on
//   standard error, counted, and refused where a GPU would refuse it.
// - At the end the counts of calls, of violations and of what was not given back go to CLIP_DISTILL_STAND_IN_REPORT.
//
// | variable CLIP_DISTILL_STAND_IN_… | meaning |
// |---|---|
// | LIBRARIES | the modules compiled for the emulated device, with `:` between them |
// | REPORT | file for the counts |
// | MEMORY | bytes of the GPU; 64 GiB if unset |
// | DRIVER | its CUDA version; 12080 if unset |
// | CAPABILITY | its compute capability; 90 if unset |
// | SEED | another choice of what runs when |
// | FAIL | the name of a call that fails, without its version: cuMemAllocAsync |
// | CODE | the code that it fails with |
//
// Declarations are ours, after NVIDIA's manuals ("CUDA Driver API", "cuBLAS"): no toolkit is needed to compile this.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace stand_in {

// ---- CUresult

using Result = int;
constexpr Result SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_DEVICE = 101,
                 INVALID_IMAGE = 200, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600,
                 ILLEGAL_ADDRESS = 700, OUT_OF_RESOURCES = 701, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901,
                 CAPTURE_WRONG_THREAD = 908;
// A code that only this driver knows, as of a version later than the program.
constexpr Result LATER = 4711;

using Address = uint64_t;

// ---- the machine

// Never destroyed: threads may still call when the program ends.
std::recursive_mutex& machine();

// NaN as f32 and as two bf16, as the emulated device's.
void poison(void* at, size_t bytes);

uint64_t setting(const char* name, uint64_t otherwise);
uint64_t random_number();

// Adds to a number of the report.
void count(const char* what, int64_t by = 1);

// Reports a violation and returns `answer`.
Result violation(Result answer, const char* format, ...) __attribute__((format(printf, 2, 3)));

// What went wrong on the GPU: every later call returns it, as from a real one.
extern Result broken;

// The code that the environment chose for this call to fail with, or SUCCESS.
Result chosen_failure(const char* call);

// Whether a context is current on this thread.
bool current_context();

// ---- streams (stream.cpp)

struct Operation {
  const char* name;
  std::function<Result()> run;
};

struct Stream;
Result enqueue(Stream* stream, Operation operation);
// Whether this thread is capturing from a stream.
bool capturing();
// Spoils what is being captured.
void invalidate_capture();
// Whether no stream has unfinished work.
bool idle();
// Runs a part of the unfinished work.
void progress();

// ---- memory (memory.cpp)

// Whether these bytes are in memory that the stream may use now.
bool on_device(Address at, size_t bytes);
bool pinned(const void* at, size_t bytes);

// ---- calls

// Every call locks the machine; the GPU may have gone on since the last one.
struct Call {
  std::lock_guard<std::recursive_mutex> guard{machine()};
  // The code that the call returns at once, unless it is SUCCESS.
  Result refused;

  enum Needs { nothing, context, context_outside_capture };
  explicit Call(const char* name, Needs needs = context) : refused(SUCCESS) {
    count("calls");
    if ((refused = chosen_failure(name))) return;
    if (needs != nothing && !current_context()) {
      refused = violation(INVALID_CONTEXT, "%s without a current context", name);
      return;
    }
    if (needs == context_outside_capture && capturing()) {
      invalidate_capture();
      refused = violation(CAPTURE_UNSUPPORTED, "%s while a stream is captured", name);
      return;
    }
    if (needs != nothing) progress();
    refused = broken;
  }
};

}  // namespace stand_in
