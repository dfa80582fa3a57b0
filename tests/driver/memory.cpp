// The GPU's memory and its pool, pinned memory, and copies.
#include <cstdlib>
#include <cstring>
#include <map>

#include "stand_in.h"

namespace stand_in {

namespace {

// CUDA aligns to 256 bytes; blocks here are never aligned to more.
constexpr size_t ALIGNMENT = 256;

struct Block {
  size_t bytes;
  // Freed by the host; the stream may not have reached that yet.
  bool freed = false;
  // The stream has reached its end.
  bool gone = false;
  // How often it has been handed out.
  unsigned turn = 0;
};

std::map<Address, Block> blocks;
// Blocks to be handed out again, by size: each serves requests of exactly its size. The stream has reached
// their end, or will before their next use.
std::multimap<size_t, Address> pool;
size_t reserved, used;
std::map<const char*, size_t> pinned_blocks;
char pool_handle;

// The block that holds the address.
Block* around(Address at, size_t bytes) {
  auto next = blocks.upper_bound(at);
  if (next == blocks.begin()) return nullptr;
  --next;
  return at + bytes <= next->first + next->second.bytes ? &next->second : nullptr;
}

size_t rounded(size_t bytes) { return (bytes + 511) / 512 * 512; }

char* host(Address at) { return reinterpret_cast<char*>(at); }

// An address that the host names: it must not have given it back.
Result named(const char* call, Address at, size_t bytes) {
  const Block* block = around(at, bytes);
  if (!block) return violation(INVALID_VALUE, "%s: %zu bytes at %#zx are in no block", call, bytes, size_t(at));
  if (block->freed) return violation(INVALID_VALUE, "%s: %zu bytes at %#zx, which was freed", call, bytes, size_t(at));
  return SUCCESS;
}

// What a copy touches must be allocated when it runs.
Result there(const char* call, Address at, size_t bytes) {
  return on_device(at, bytes) ? SUCCESS : violation(ILLEGAL_ADDRESS, "%s ran on memory that was freed", call);
}

}  // namespace

bool on_device(Address at, size_t bytes) {
  const Block* block = around(at, bytes);
  return block && !block->gone;
}

bool pinned(const void* at, size_t bytes) {
  const char* p = static_cast<const char*>(at);
  auto next = pinned_blocks.upper_bound(p);
  if (next == pinned_blocks.begin()) return false;
  --next;
  return p + bytes <= next->first + next->second;
}

}  // namespace stand_in

using namespace stand_in;

// ---- the pool

API Result cuDeviceGetDefaultMemPool(void** handle, int) {
  *handle = &pool_handle;
  return SUCCESS;
}

API Result cuMemPoolSetAttribute(void* handle, int attribute, void*) {
  // CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
  if (handle != &pool_handle || attribute != 4) return violation(INVALID_VALUE, "pool attribute %d is not known", attribute);
  return SUCCESS;
}

API Result cuMemPoolGetAttribute(void* handle, int attribute, void* value) {
  Call call("cuMemPoolGetAttribute", Call::nothing);
  if (handle != &pool_handle) return INVALID_VALUE;
  uint64_t bytes;
  switch (attribute) {
    case 5:  // CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT
      bytes = reserved;
      break;
    case 7:  // CU_MEMPOOL_ATTR_USED_MEM_CURRENT
      bytes = used;
      break;
    default:
      return violation(INVALID_VALUE, "pool attribute %d is not known", attribute);
  }
  memcpy(value, &bytes, sizeof bytes);
  return SUCCESS;
}

API Result cuMemPoolTrimTo(void* handle, size_t keep) {
  Call call("cuMemPoolTrimTo", Call::context_outside_capture);
  if (call.refused) return call.refused;
  if (handle != &pool_handle || keep) return violation(INVALID_VALUE, "cuMemPoolTrimTo to %zu bytes", keep);
  for (const auto& [bytes, at] : pool) {
    // Its memory stays, as NaN, for those who still use it.
    blocks.erase(at);
    reserved -= rounded(bytes);
  }
  pool.clear();
  count("trims");
  return SUCCESS;
}

API Result cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
  Call call("cuMemGetInfo", Call::nothing);
  *total = setting("MEMORY", 64ull << 30);
  *free_bytes = *total - reserved;
  return SUCCESS;
}

API Result cuMemAllocAsync(Address* at, size_t bytes, Stream*) {
  // In a graph it would become a node, and the memory the graph's.
  Call call("cuMemAllocAsync", Call::context_outside_capture);
  if (call.refused) return call.refused;
  if (!bytes) return violation(INVALID_VALUE, "an allocation of no bytes");
  const auto found = pool.find(bytes);
  if (found != pool.end()) {
    *at = found->second;
    pool.erase(found);
    Block& block = blocks[*at];
    block.freed = block.gone = false;
    block.turn++;
  } else {
    if (reserved + rounded(bytes) > setting("MEMORY", 64ull << 30)) return OUT_OF_MEMORY;
    char* const base = static_cast<char*>(malloc(bytes + 3 * ALIGNMENT));
    if (!base) return OUT_OF_MEMORY;
    *at = (reinterpret_cast<Address>(base) + 2 * ALIGNMENT - 1) / (2 * ALIGNMENT) * (2 * ALIGNMENT) + ALIGNMENT;
    poison(host(*at), bytes);
    reserved += rounded(bytes);
    blocks[*at] = {bytes};
  }
  used += rounded(bytes);
  count("allocations");
  count("allocations not given back");
  return SUCCESS;
}

API Result cuMemFreeAsync(Address at, Stream* stream) {
  Call call("cuMemFreeAsync", Call::context_outside_capture);
  const auto found = blocks.find(at);
  if (found == blocks.end() || found->second.freed) return violation(INVALID_VALUE, "a free of an unknown block");
  Block& block = found->second;
  block.freed = true;
  used -= rounded(block.bytes);
  count("allocations not given back", -1);
  if (call.refused) return call.refused;
  const bool at_once = random_number() % 2;
  if (at_once) pool.insert({block.bytes, at});
  const unsigned turn = block.turn;
  return enqueue(stream, {"cuMemFreeAsync", [=] {
                            const auto found = blocks.find(at);
                            if (found == blocks.end()) return violation(ILLEGAL_ADDRESS, "a block was trimmed while in use");
                            Block& block = found->second;
                            poison(host(at), block.bytes);
                            block.gone = block.turn == turn;
                            if (!at_once) pool.insert({block.bytes, at});
                            return SUCCESS;
                          }});
}

// ---- pinned memory

API Result cuMemHostAlloc(void** at, size_t bytes, unsigned) {
  Call call("cuMemHostAlloc", Call::context_outside_capture);
  if (call.refused) return call.refused;
  *at = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  poison(*at, bytes);
  pinned_blocks[static_cast<char*>(*at)] = bytes;
  count("pinned blocks not given back");
  return SUCCESS;
}

API Result cuMemFreeHost(void* at) {
  Call call("cuMemFreeHost", Call::context_outside_capture);
  if (!pinned_blocks.erase(static_cast<char*>(at))) return violation(INVALID_VALUE, "cuMemFreeHost of an unknown block");
  if (!idle()) violation(SUCCESS, "pinned memory is freed before its work is finished");
  free(at);
  count("pinned blocks not given back", -1);
  return call.refused;
}

// ---- copies

API Result cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, Stream* stream) {
  // In a graph it would read the host's memory as it is at the launch.
  Call call("cuMemcpyHtoDAsync", Call::context_outside_capture);
  if (call.refused) return call.refused;
  if (!pinned(from, bytes)) return violation(INVALID_VALUE, "an upload of memory that is not pinned: the host would wait");
  if (const Result r = named("cuMemcpyHtoDAsync", to, bytes)) return r;
  count("uploads");
  return enqueue(stream, {"cuMemcpyHtoDAsync", [=] {
                            if (const Result r = there("cuMemcpyHtoDAsync", to, bytes)) return r;
                            memcpy(host(to), from, bytes);
                            return SUCCESS;
                          }});
}

API Result cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, Stream* stream) {
  Call call("cuMemcpyDtoHAsync", Call::context_outside_capture);
  if (call.refused) return call.refused;
  if (const Result r = named("cuMemcpyDtoHAsync", from, bytes)) return r;
  // Into memory of the program's own the copy may end before the call or only with the stream.
  count(pinned(to, bytes) ? "downloads" : "downloads that are waited for");
  return enqueue(stream, {"cuMemcpyDtoHAsync", [=] {
                            if (const Result r = there("cuMemcpyDtoHAsync", from, bytes)) return r;
                            memcpy(to, host(from), bytes);
                            return SUCCESS;
                          }});
}

API Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Stream* stream) {
  Call call("cuMemcpyDtoDAsync");
  if (call.refused) return call.refused;
  if (const Result r = named("cuMemcpyDtoDAsync", from, bytes)) return r;
  if (const Result r = named("cuMemcpyDtoDAsync", to, bytes)) return r;
  if (from < to + bytes && to < from + bytes) return violation(INVALID_VALUE, "a copy between ranges that overlap");
  return enqueue(stream, {"cuMemcpyDtoDAsync", [=] {
                            if (const Result r = there("cuMemcpyDtoDAsync", from, bytes)) return r;
                            if (const Result r = there("cuMemcpyDtoDAsync", to, bytes)) return r;
                            memcpy(host(to), host(from), bytes);
                            return SUCCESS;
                          }});
}

API Result cuMemsetD8Async(Address at, unsigned char value, size_t bytes, Stream* stream) {
  Call call("cuMemsetD8Async");
  if (call.refused) return call.refused;
  if (const Result r = named("cuMemsetD8Async", at, bytes)) return r;
  return enqueue(stream, {"cuMemsetD8Async", [=] {
                            if (const Result r = there("cuMemsetD8Async", at, bytes)) return r;
                            memset(host(at), value, bytes);
                            return SUCCESS;
                          }});
}
