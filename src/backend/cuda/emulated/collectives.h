// Operations of a warp or a block together: what threads say when they arrive, and what the scheduler does once
// all are there.
#pragma once

namespace emulator {

inline float bf16_of(unsigned pair, int half) {
  const unsigned bits = (pair >> (16 * half)) << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

// D += A B for A 16 × 16 (row-major) and B 16 × 8, on fragments in PTX's layout: lane l holds, with g = ⌊l/4⌋ and
// t = l mod 4, D at rows g and g + 8, columns 2t and 2t + 1.
inline void multiply(Thread* lanes, const float (&a)[16][16], const float (&b)[16][8]) {
  float d[16][8];
  for (int l = 0; l < 32; l++) {
    const float* mine = static_cast<const float*>(lanes[l].operand[0]);
    for (int i = 0; i < 4; i++) d[l / 4 + 8 * (i / 2)][2 * (l % 4) + i % 2] = mine[i];
  }
  for (int r = 0; r < 16; r++) {
    for (int k = 0; k < 16; k++) {
      for (int c = 0; c < 8; c++) d[r][c] += a[r][k] * b[k][c];
    }
  }
  for (int l = 0; l < 32; l++) {
    float* mine = static_cast<float*>(lanes[l].operand[0]);
    for (int i = 0; i < 4; i++) mine[i] = d[l / 4 + 8 * (i / 2)][2 * (l % 4) + i % 2];
  }
}

inline void mma_bf16(Thread* lanes) {
  float a[16][16], b[16][8];
  for (int l = 0; l < 32; l++) {
    const int g = l / 4, t = l % 4;
    const unsigned* pa = static_cast<const unsigned*>(lanes[l].operand[1]);
    const unsigned* pb = static_cast<const unsigned*>(lanes[l].operand[2]);
    for (int i = 0; i < 4; i++) {
      for (int h = 0; h < 2; h++) a[g + 8 * (i % 2)][2 * t + 8 * (i / 2) + h] = bf16_of(pa[i], h);
    }
    for (int i = 0; i < 2; i++) {
      for (int h = 0; h < 2; h++) b[2 * t + 8 * i + h][g] = bf16_of(pb[i], h);
    }
  }
  multiply(lanes, a, b);
}

inline void ldmatrix(Thread* lanes, bool transposed) {
  for (unsigned j = 0; j < 4; j++) {
    unsigned short m[8][8];
    for (int row = 0; row < 8; row++) memcpy(m[row], lanes[8 * j + row].row, 16);
    for (int l = 0; l < 32; l++) {
      const int g = l / 4, t = 2 * (l % 4);
      const unsigned low = transposed ? m[t][g] : m[g][t], high = transposed ? m[t + 1][g] : m[g][t + 1];
      static_cast<unsigned*>(lanes[l].operand[0])[j] = low | high << 16;
    }
  }
}

// All lanes of `mask` are in the same collective.
inline void perform(Thread* lanes, unsigned mask, Collective what) {
  switch (what) {
    case Collective::shuffle: {
      uint64_t given[32];
      for (int l = 0; l < 32; l++) {
        given[l] = uint64_t{POISON} << 32 | POISON;
        if (mask >> l & 1) given[l] = lanes[l].value;
      }
      for (int l = 0; l < 32; l++) {
        if (mask >> l & 1) lanes[l].value = given[lanes[l].source % 32];
      }
      break;
    }
    case Collective::ballot: {
      uint64_t votes = 0;
      for (int l = 0; l < 32; l++) {
        if ((mask >> l & 1) && lanes[l].value) votes |= uint64_t{1} << l;
      }
      for (int l = 0; l < 32; l++) {
        if (mask >> l & 1) lanes[l].value = votes;
      }
      break;
    }
    case Collective::ldmatrix:
    case Collective::ldmatrix_trans:
      ldmatrix(lanes, what == Collective::ldmatrix_trans);
      break;
    case Collective::mma_bf16:
      mma_bf16(lanes);
      break;
    default:
      break;
  }
}

inline bool of_warp(Collective c) { return c >= Collective::syncwarp; }

// Completes the collectives of a warp none of whose threads can run; tells whether there was one. All lanes that
// a mask names must be in the same one at the same line.
inline bool complete_warp(Block& b, unsigned first, unsigned end) {
  Thread* lanes = &b.threads[first];
  const unsigned count = end - first, exist = count == 32 ? ~0u : (1u << count) - 1;
  unsigned open = 0;
  for (unsigned l = 0; l < count; l++) {
    if (of_warp(lanes[l].waits)) open |= 1u << l;
  }
  bool any = false;
  while (open) {
    const unsigned l = static_cast<unsigned>(__builtin_ctz(open));
    const Thread& one = lanes[l];
    const unsigned mask = one.mask & exist;
    const bool whole = one.waits >= Collective::ldmatrix;
    if (!(mask >> l & 1)) {
      b.fault(int(one.linear), "%s at %s:%d with a mask %08x that lacks the calling lane", name_of(one.waits), one.place.file,
              one.place.line, one.mask);
      return any;
    }
    if (whole && count < 32) {
      b.fault(int(one.linear), "%s at %s:%d in a warp of %u threads", name_of(one.waits), one.place.file, one.place.line,
              count);
      return any;
    }
    unsigned late = 0;
    for (unsigned i = 0; i < count; i++) {
      if (!(mask >> i & 1)) continue;
      const Thread& other = lanes[i];
      if (other.waits == Collective::spin) {
        late |= 1u << i;
      } else if (other.waits != one.waits || !(other.place == one.place) || other.mask != one.mask) {
        if (other.waits == Collective::exited) {
          b.fault(int(one.linear), "divergent collective: %s at %s:%d while thread %u has exited", name_of(one.waits),
                  one.place.file, one.place.line, other.linear);
        } else {
          b.fault(int(one.linear), "divergent collective: %s at %s:%d (mask %08x) while thread %u is in %s at %s:%d (mask %08x)",
                  name_of(one.waits), one.place.file, one.place.line, one.mask, other.linear, name_of(other.waits),
                  other.place.file, other.place.line, other.mask);
        }
        return any;
      }
    }
    open &= ~mask;
    if (late) continue;
    perform(lanes, mask, one.waits);
    if (b.faulty()) return any;
    for (unsigned i = 0; i < count; i++) {
      if (mask >> i & 1) lanes[i].waits = Collective::none;
    }
    any = true;
  }
  return any;
}

// Nobody of the block can run: all must be at one barrier.
inline bool complete_block(Block& b) {
  const Thread* one = nullptr;
  const Thread* exited = nullptr;
  uint64_t votes = 0;
  for (const Thread& t : b.threads) {
    if (t.waits == Collective::exited) {
      exited = &t;
      continue;
    }
    if (!one) one = &t;
    if (t.waits != one->waits || !(t.place == one->place)) {
      b.fault(int(t.linear), "deadlock: %s at %s:%d while thread %u is in %s at %s:%d", name_of(t.waits), t.place.file,
              t.place.line, one->linear, name_of(one->waits), one->place.file, one->place.line);
      return false;
    }
    votes += t.value != 0;
  }
  if (exited) {
    b.fault(int(exited->linear), "this thread has exited, and thread %u waits for it in %s at %s:%d", one->linear,
            name_of(one->waits), one->place.file, one->place.line);
    return false;
  }
  for (Thread& t : b.threads) {
    t.waits = Collective::none;
    t.value = votes;
  }
  return true;
}

template <class T>
inline T shuffle(unsigned mask, T value, unsigned from, Place place) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>, "a shuffle moves 32 or 64 bits");
  Thread& t = self();
  t.value = 0;
  memcpy(&t.value, &value, sizeof value);
  t.source = from;
  wait(Collective::shuffle, mask, place);
  memcpy(&value, &t.value, sizeof value);
  return value;
}

inline unsigned vote(unsigned mask, bool value, Place place) {
  self().value = value;
  wait(Collective::ballot, mask, place);
  return static_cast<unsigned>(self().value);
}

inline unsigned lane() { return self().linear % 32; }

}  // namespace emulator

// Where a collective was called, caught by its default arguments.
#define EMULATOR_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define EMULATOR_PLACE (emulator::Place{file, line})

inline void __syncthreads(EMULATOR_CALLER) {
  emulator::self().value = 0;
  emulator::wait(emulator::Collective::syncthreads, ~0u, EMULATOR_PLACE);
}
inline int __syncthreads_count(int predicate, EMULATOR_CALLER) {
  emulator::self().value = predicate != 0;
  emulator::wait(emulator::Collective::syncthreads_count, ~0u, EMULATOR_PLACE);
  return static_cast<int>(emulator::self().value);
}
inline int __syncthreads_or(int predicate, EMULATOR_CALLER) { return __syncthreads_count(predicate, file, line) != 0; }
inline int __syncthreads_and(int predicate, EMULATOR_CALLER) { return __syncthreads_count(!predicate, file, line) == 0; }
inline void __syncwarp(unsigned mask = ~0u, EMULATOR_CALLER) {
  emulator::wait(emulator::Collective::syncwarp, mask, EMULATOR_PLACE);
}

// Lanes fall into groups of `width`; a lane that would read outside its group reads itself.
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, EMULATOR_CALLER) {
  const unsigned l = emulator::lane(), w = static_cast<unsigned>(width);
  return emulator::shuffle(mask, value, l / w * w + static_cast<unsigned>(from) % w, EMULATOR_PLACE);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, EMULATOR_CALLER) {
  const unsigned l = emulator::lane(), w = static_cast<unsigned>(width), from = l ^ static_cast<unsigned>(lanes);
  return emulator::shuffle(mask, value, from < (l / w + 1) * w ? from : l, EMULATOR_PLACE);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32, EMULATOR_CALLER) {
  const unsigned l = emulator::lane(), w = static_cast<unsigned>(width);
  return emulator::shuffle(mask, value, l % w + lanes < w ? l + lanes : l, EMULATOR_PLACE);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32, EMULATOR_CALLER) {
  const unsigned l = emulator::lane(), w = static_cast<unsigned>(width);
  return emulator::shuffle(mask, value, l % w >= lanes ? l - lanes : l, EMULATOR_PLACE);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATOR_CALLER) {
  return emulator::vote(mask, predicate != 0, EMULATOR_PLACE);
}
inline int __any_sync(unsigned mask, int predicate, EMULATOR_CALLER) {
  return emulator::vote(mask, predicate != 0, EMULATOR_PLACE) != 0;
}
inline int __all_sync(unsigned mask, int predicate, EMULATOR_CALLER) {
  return emulator::vote(mask, predicate == 0, EMULATOR_PLACE) == 0;
}

inline void mma_m16n8k16_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], EMULATOR_CALLER) {
  emulator::Thread& t = emulator::self();
  t.operand[0] = d;
  t.operand[1] = const_cast<unsigned*>(a);
  t.operand[2] = const_cast<unsigned*>(b);
  emulator::wait(emulator::Collective::mma_bf16, ~0u, EMULATOR_PLACE);
}
