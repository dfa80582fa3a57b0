// One GPU and its primary context; the report.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "stand_in.h"

namespace stand_in {

namespace {

bool initialised;
int retained;
// Its address is the context's handle.
char context_handle;
thread_local void* current;

std::map<std::string, int64_t>& counts() {
  static auto* const all = new std::map<std::string, int64_t>;
  return *all;
}

// Written when the program ends.
struct Report {
  ~Report() {
    const std::lock_guard guard(machine());
    const char* path = getenv("CLIP_DISTILL_STAND_IN_REPORT");
    FILE* file = path ? fopen(path, "w") : nullptr;
    if (!file) return;
    for (const auto& [name, n] : counts()) fprintf(file, "%s %lld\n", name.c_str(), static_cast<long long>(n));
    fclose(file);
  }
} report;

}  // namespace

std::recursive_mutex& machine() {
  static auto* const one = new std::recursive_mutex;
  return *one;
}

Result broken = SUCCESS;

void poison(void* at, size_t bytes) {
  const unsigned pattern = 0x7fbf7fbf;
  char* p = static_cast<char*>(at);
  for (; bytes >= 4; p += 4, bytes -= 4) memcpy(p, &pattern, 4);
  memcpy(p, &pattern, bytes);
}

uint64_t setting(const char* name, uint64_t otherwise) {
  const char* text = getenv((std::string("CLIP_DISTILL_STAND_IN_") + name).c_str());
  return text ? strtoull(text, nullptr, 10) : otherwise;
}

uint64_t random_number() {
  static uint64_t state = setting("SEED", 0);
  uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

void count(const char* what, int64_t by) {
  const std::lock_guard guard(machine());
  counts()[what] += by;
}

Result violation(Result answer, const char* format, ...) {
  count("violations");
  va_list values;
  va_start(values, format);
  fputs("stand-in: ", stderr);
  vfprintf(stderr, format, values);
  fputc('\n', stderr);
  va_end(values);
  return answer;
}

Result chosen_failure(const char* call) {
  static const char* const failing = getenv("CLIP_DISTILL_STAND_IN_FAIL");
  static const Result code = static_cast<Result>(setting("CODE", LATER));
  return failing && strcmp(call, failing) == 0 ? code : SUCCESS;
}

bool current_context() { return current == &context_handle && retained > 0; }

}  // namespace stand_in

using namespace stand_in;

API Result cuInit(unsigned flags) {
  Call call("cuInit", Call::nothing);
  if (call.refused) return call.refused;
  if (flags) return INVALID_VALUE;
  initialised = true;
  return SUCCESS;
}

API Result cuDriverGetVersion(int* version) {
  *version = static_cast<int>(setting("DRIVER", 12080));
  return SUCCESS;
}

// Both know a part of the codes; for others they write null.
API Result cuGetErrorName(Result error, const char** text) {
  switch (error) {
    case OUT_OF_MEMORY:
      *text = "CUDA_ERROR_OUT_OF_MEMORY";
      return SUCCESS;
    case LATER:
      *text = "CUDA_ERROR_OF_A_LATER_VERSION";
      return SUCCESS;
  }
  *text = nullptr;
  return INVALID_VALUE;
}

API Result cuGetErrorString(Result error, const char** text) {
  switch (error) {
    case OUT_OF_MEMORY:
      *text = "out of memory";
      return SUCCESS;
    case LATER:
      *text = "what a later driver says";
      return SUCCESS;
  }
  *text = nullptr;
  return INVALID_VALUE;
}

API Result cuDeviceGetCount(int* n) {
  Call call("cuDeviceGetCount", Call::nothing);
  if (call.refused) return call.refused;
  if (!initialised) return violation(NOT_INITIALIZED, "cuDeviceGetCount before cuInit");
  *n = 1;
  return SUCCESS;
}

API Result cuDeviceGet(int* device, int ordinal) {
  if (ordinal != 0) return INVALID_DEVICE;
  *device = 0;
  return SUCCESS;
}

API Result cuDeviceGetName(char* name, int length, int) {
  snprintf(name, length, "Stand-in, emulated");
  return SUCCESS;
}

API Result cuDeviceTotalMem_v2(size_t* bytes, int) {
  *bytes = setting("MEMORY", 64ull << 30);
  return SUCCESS;
}

API Result cuDeviceGetAttribute(int* value, int attribute, int) {
  const int capability = static_cast<int>(setting("CAPABILITY", 90));
  switch (attribute) {
    case 75:  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
      *value = capability / 10;
      return SUCCESS;
    case 76:  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
      *value = capability % 10;
      return SUCCESS;
    case 115:  // CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED
      *value = 1;
      return SUCCESS;
  }
  return violation(INVALID_VALUE, "device attribute %d is not known here", attribute);
}

API Result cuDevicePrimaryCtxRetain(void** context, int) {
  Call call("cuDevicePrimaryCtxRetain", Call::nothing);
  if (call.refused) return call.refused;
  retained++;
  count("contexts not given back");
  *context = &context_handle;
  return SUCCESS;
}

API Result cuDevicePrimaryCtxRelease_v2(int) {
  Call call("cuDevicePrimaryCtxRelease", Call::nothing);
  if (retained == 0) return violation(INVALID_CONTEXT, "the context was released once too often");
  if (--retained == 0 && !idle()) violation(SUCCESS, "the context is released before its work is finished");
  count("contexts not given back", -1);
  return SUCCESS;
}

API Result cuCtxSetCurrent(void* context) {
  if (context && context != &context_handle) return violation(INVALID_CONTEXT, "cuCtxSetCurrent with no context of ours");
  current = context;
  return SUCCESS;
}
