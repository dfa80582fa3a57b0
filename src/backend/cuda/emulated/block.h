// A block of threads, and the scheduler that runs it.
#pragma once

struct uint3 {
  unsigned x, y, z;
};
using dim3 = uint3;

namespace emulator {

// NaN as f32 and as two bf16, absurd as an integer: what memory holds before it is written.
constexpr unsigned POISON = 0x7fbf7fbf;
// Bytes of poison on both sides of dynamic shared memory, checked after each block.
constexpr unsigned SHARED_GUARD = 1024;

inline void poison(void* at, size_t bytes) {
  char* p = static_cast<char*>(at);
  for (; bytes >= 4; p += 4, bytes -= 4) memcpy(p, &POISON, 4);
  memcpy(p, &POISON, bytes);
}

// Whether memory that begins at an even address is as `poison` left it.
inline bool poisoned(const char* at, size_t bytes) {
  for (; bytes >= 4; at += 4, bytes -= 4) {
    if (memcmp(at, &POISON, 4) != 0) return false;
  }
  return memcmp(at, &POISON, bytes) == 0;
}

// ---- what is shared with the launching side (`emulated/library.rs`)

struct Entry {
  void (*call)(const void* arguments);
  size_t argument_bytes;
  unsigned threads;  // the launch bound
  char takes[64];    // the argument struct's name
};

struct Fault {
  unsigned found;
  unsigned block[3];
  int thread;  // of the block; −1 where it is no single one
  char what[400];
};

struct Watched {
  const char* at;
  size_t bytes;
};

struct Run {
  const void* arguments;
  unsigned grid[3];
  unsigned block[3];
  unsigned dynamic_bytes;
  uint64_t seed;
  uint64_t* next;  // the first block not yet taken
  unsigned* stopped;
  char* stacks;  // one of `stack_bytes` for each thread of a block
  size_t stack_bytes;
  char* dynamic_shared;  // with a guard on both sides
  const Watched* watched;  // guard zones to be looked at after each step of a thread
  size_t watched_count;
  Fault fault;
};

// ---- threads

enum class Collective : unsigned char {
  none,
  exited,
  spin,
  syncthreads,
  syncthreads_count,
  syncwarp,
  shuffle,
  ballot,
  ldmatrix,
  ldmatrix_trans,
  mma_bf16,
};

inline const char* name_of(Collective c) {
  static const char* const names[] = {"running", "exited",  "spinning", "__syncthreads", "__syncthreads_count", "__syncwarp",
                                      "a shuffle", "a vote", "ldmatrix", "ldmatrix.trans", "mma m16n8k16"};
  return names[static_cast<int>(c)];
}

// A line of source, as default arguments catch the caller's.
struct Place {
  const char* file;
  int line;
  bool operator==(const Place& o) const { return line == o.line && (file == o.file || strcmp(file, o.file) == 0); }
};

struct AsyncCopy {
  char* to;
  const char* from;
  unsigned valid;
  unsigned group;
};

struct Thread {
  void* stack;
  Collective waits;  // none: ready to run
  Place place;
  unsigned mask;
  unsigned source;     // the lane that a shuffle reads
  uint64_t value;      // given to the collective, and its result
  void* operand[3];    // registers, which are on the thread's stack
  unsigned short row[8];  // of an ldmatrix
  uint3 index;
  unsigned linear;
  unsigned groups;     // closed groups of asynchronous copies
  std::vector<AsyncCopy> copies;
};

// splitmix64: the order of fibers.
struct Random {
  uint64_t state;
  uint64_t next() {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
};

// A permutation of 0 … size−1 for a power of two: i ↦ (odd·i + offset) mod size, and then bits flipped.
struct Order {
  unsigned mask, odd, offset, flip;
  Order(Random& random, unsigned size) : mask(size - 1) {
    const uint64_t r = random.next();
    odd = static_cast<unsigned>(r) | 1;
    offset = static_cast<unsigned>(r >> 32);
    flip = static_cast<unsigned>(r >> 48);
  }
  unsigned operator()(unsigned i) const { return ((odd * i + offset) ^ flip) & mask; }
};

struct Block {
  Run* run;
  const Entry* entry;
  uint3 block_index, block_size, grid_size;
  unsigned count;  // threads
  unsigned running;
  void* scheduler;
  char* tls;  // this library's thread-local memory: the `__shared__` variables
  size_t tls_bytes;
  std::vector<Thread> threads;

  bool faulty() const { return run->fault.found; }

  template <class... T>
  void fault(int thread, const char* format, T... values) {
    if (faulty()) return;
    Fault& f = run->fault;
    f.found = 1;
    f.block[0] = block_index.x, f.block[1] = block_index.y, f.block[2] = block_index.z;
    f.thread = thread;
    snprintf(f.what, sizeof f.what, format, values...);
  }
};

// The only thread-local variable beside the kernels' shared ones.
static thread_local Block* current;

inline Thread& self() { return current->threads[current->running]; }

// Back to the scheduler.
inline void pause() { emulator_switch(&self().stack, current->scheduler); }

// Waits for the others.
inline void wait(Collective what, unsigned mask, Place place) {
  Thread& t = self();
  t.waits = what;
  t.mask = mask;
  t.place = place;
  pause();
}

// A fault of the running thread, which never goes on.
template <class... T>
[[noreturn]] inline void fail(const char* format, T... values) {
  current->fault(static_cast<int>(current->running), format, values...);
  for (;;) pause();
}

inline void start() {
  current->entry->call(current->run->arguments);
  wait(Collective::exited, 0, {"", 0});
  for (;;) pause();
}

inline bool complete_warp(Block& b, unsigned first, unsigned end);
inline bool complete_block(Block& b);

inline void begin_block(Block& b) {
  Block* const keep = current;  // is in the memory that is poisoned
  poison(b.tls, b.tls_bytes);
  current = keep;
  poison(b.run->dynamic_shared - SHARED_GUARD, b.run->dynamic_bytes + 2 * SHARED_GUARD);
  for (Thread& t : b.threads) {
    // Tops spread over the cache: stacks a power of two apart would share its sets.
    char* top = b.run->stacks + (t.linear + 1) * b.run->stack_bytes - t.linear * 320 % 16384 / 64 * 64;
    t.stack = fresh_stack(top, start);
    t.waits = Collective::none;
    t.groups = 0;
    t.copies.clear();
  }
}

inline void look_at_guards(Block& b) {
  for (size_t i = 0; i < b.run->watched_count; i++) {
    const Watched& w = b.run->watched[i];
    if (!poisoned(w.at, w.bytes)) {
      b.fault(static_cast<int>(b.running), "wrote out of bounds of a buffer");
      return;
    }
  }
}

inline void run_block(Block& b) {
  begin_block(b);
  Random random{b.run->seed ^ (b.block_index.x + 0x10001u * b.block_index.y + 0x1000003ull * b.block_index.z) << 20};
  const unsigned warps = (b.count + 31) / 32;
  unsigned warps_rounded = 1;
  while (warps_rounded < warps) warps_rounded *= 2;
  unsigned idle = 0;
  for (;;) {
    bool progress = false;
    const bool ahead = random.next() % 2;
    const Order warp_order(random, warps_rounded);
    for (unsigned i = 0; i < warps_rounded; i++) {
      const unsigned warp = warp_order(i);
      if (warp >= warps) continue;
      const unsigned first = warp * 32, end = first + 32 < b.count ? first + 32 : b.count;
      // Every other pass a warp goes on until it waits for the others, as one may on a GPU: what it then
      // overwrites before they have read it lacks a barrier.
      bool moved;
      do {
        moved = false;
        const Order lane_order(random, 32);
        for (unsigned j = 0; j < 32; j++) {
          const unsigned at = first + lane_order(j);
          if (at >= end) continue;
          Thread& t = b.threads[at];
          if (t.waits == Collective::spin) t.waits = Collective::none;
          if (t.waits != Collective::none) continue;
          b.running = at;
          emulator_switch(&b.scheduler, t.stack);
          if (b.run->watched_count) look_at_guards(b);
          if (b.faulty()) return;
          moved |= t.waits != Collective::spin;
        }
        moved |= complete_warp(b, first, end);
        if (b.faulty()) return;
        progress |= moved;
      } while (ahead && moved);
    }
    if (progress) {
      idle = 0;
      continue;
    }
    bool all_exited = true, spinning = false;
    for (const Thread& t : b.threads) {
      all_exited &= t.waits == Collective::exited;
      spinning |= t.waits == Collective::spin;
    }
    if (all_exited) break;
    if (spinning) {
      // Another block may yet write what they wait for.
      if (++idle < 1000000) continue;
      b.fault(-1, "deadlock: threads spin on an atomic that nobody changes");
      return;
    }
    if (!complete_block(b)) return;
  }
  const char* guard = b.run->dynamic_shared;
  if (!poisoned(guard - SHARED_GUARD, SHARED_GUARD) || !poisoned(guard + b.run->dynamic_bytes, SHARED_GUARD)) {
    b.fault(-1, "wrote outside its %u bytes of dynamic shared memory", b.run->dynamic_bytes);
  }
}

// The thread-local memory of this library in this thread of the system.
inline int find_tls(dl_phdr_info* info, size_t, void* data) {
  Block& b = *static_cast<Block*>(data);
  const char* mark = reinterpret_cast<const char*>(&current);
  char* begin = static_cast<char*>(info->dlpi_tls_data);
  for (int i = 0; begin && i < info->dlpi_phnum; i++) {
    const auto& header = info->dlpi_phdr[i];
    if (header.p_type == PT_TLS && begin <= mark && mark < begin + header.p_memsz) {
      b.tls = begin;
      b.tls_bytes = header.p_memsz;
      return 1;
    }
  }
  return 0;
}

inline void run_blocks(const Entry& entry, Run& run) {
  Block b{};
  b.run = &run;
  b.entry = &entry;
  b.block_size = {run.block[0], run.block[1], run.block[2]};
  b.grid_size = {run.grid[0], run.grid[1], run.grid[2]};
  b.count = run.block[0] * run.block[1] * run.block[2];
  b.threads.resize(b.count);
  for (unsigned i = 0; i < b.count; i++) {
    b.threads[i].linear = i;
    b.threads[i].index = {i % run.block[0], i / run.block[0] % run.block[1], i / (run.block[0] * run.block[1])};
  }
  current = &b;
  dl_iterate_phdr(find_tls, &b);
  const uint64_t total = uint64_t{run.grid[0]} * run.grid[1] * run.grid[2];
  while (!__atomic_load_n(run.stopped, __ATOMIC_RELAXED)) {
    const uint64_t i = __atomic_fetch_add(run.next, 1, __ATOMIC_RELAXED);
    if (i >= total) break;
    b.block_index = {unsigned(i % run.grid[0]), unsigned(i / run.grid[0] % run.grid[1]),
                     unsigned(i / (uint64_t{run.grid[0]} * run.grid[1]))};
    run_block(b);
    if (b.faulty()) __atomic_store_n(run.stopped, 1, __ATOMIC_RELAXED);
  }
  current = nullptr;
}

}  // namespace emulator
