// ldmatrix and asynchronous copies.
//
// An asynchronous copy may land at any time between its issue and the wait for its group. Here it lands as late
// as it may, and what it will replace becomes poison as soon as it is issued: a wait for too few groups, and an
// issue while others still read, both show.
#pragma once

namespace emulator {

inline bool in_shared_memory(const Block& b, const void* at, size_t bytes) {
  const char* p = static_cast<const char*>(at);
  const auto within = [&](const char* begin, size_t size) { return begin <= p && p + bytes <= begin + size; };
  return within(b.tls, b.tls_bytes) || within(b.run->dynamic_shared, b.run->dynamic_bytes);
}

inline void load_matrices(unsigned (&r)[4], const void* row, bool transposed, Place place) {
  Thread& t = self();
  t.operand[0] = r;
  // A lane's row is read when the lane comes: what others have still to write or to wait for is not there yet,
  // whatever order the hardware happens to keep.
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
    fail("ldmatrix at %s:%d from an address that is no multiple of 16", place.file, place.line);
  }
  if (!in_shared_memory(*current, row, 16)) {
    fail("ldmatrix at %s:%d from an address outside shared memory", place.file, place.line);
  }
  memcpy(t.row, row, 16);
  wait(transposed ? Collective::ldmatrix_trans : Collective::ldmatrix, ~0u, place);
}

}  // namespace emulator

inline void ldmatrix_x4(unsigned (&r)[4], const void* row, EMULATOR_CALLER) {
  emulator::load_matrices(r, row, false, EMULATOR_PLACE);
}
inline void ldmatrix_x4_trans(unsigned (&r)[4], const void* row, EMULATOR_CALLER) {
  emulator::load_matrices(r, row, true, EMULATOR_PLACE);
}

inline void cp_async_16(void* to, const void* from, int valid, EMULATOR_CALLER) {
  using namespace emulator;
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || (valid > 0 && reinterpret_cast<uintptr_t>(from) % 16 != 0)) {
    fail("cp_async_16 at %s:%d with an address that is no multiple of 16", file, line);
  }
  if (!in_shared_memory(*current, to, 16)) fail("cp_async_16 at %s:%d to an address outside shared memory", file, line);
  if (valid < 0 || valid > 16) fail("cp_async_16 at %s:%d of %d bytes", file, line, valid);
  Thread& t = self();
  t.copies.push_back({static_cast<char*>(to), static_cast<const char*>(from), static_cast<unsigned>(valid), t.groups});
  poison(to, 16);
}
inline void cp_async_16(void* to, const void* from, EMULATOR_CALLER) { cp_async_16(to, from, 16, file, line); }

inline void cp_async_commit() { emulator::self().groups++; }

template <int N>
inline void cp_async_wait() {
  emulator::Thread& t = emulator::self();
  size_t kept = 0;
  for (const emulator::AsyncCopy& copy : t.copies) {
    if (copy.group + N < t.groups) {
      memset(copy.to, 0, 16);
      if (copy.valid) memcpy(copy.to, copy.from, copy.valid);
    } else {
      t.copies[kept++] = copy;
    }
  }
  t.copies.resize(kept);
}
