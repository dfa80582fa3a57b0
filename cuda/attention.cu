// O = softmax(s Q Kᵀ) V, s = 1/√dim, within each segment and head, causal or not; kept for backward: one
// log-sum-exp per row. With P = exp(s Q Kᵀ − lse) and D_i = Σ dO_i ∘ O_i:
//   dV = Pᵀ dO,   dS = P ∘ (dO Vᵀ − D),   dQ = s dS K,   dK = s dSᵀ Q.
//
// Blocks own rows and pass over the others once (Dao, arXiv 2307.08691); no L × L is stored. Backward has two
// kernels: one owns queries (D and dQ: three products), one owns keys (dK and dV: four). One kernel would make
// five, but its dQ would be summed over blocks, by atomics, in no fixed order.
//
// For a segment of L tokens and a head of width d: forward 4 L² d FLOP, backward 14 L² d (half of it if causal).
// Own rows are read once, the others once for each block of 64, which the L2 cache serves; from memory qkv once and
// out once forward (8 L d elements with their gradients backward): 200 tokens make some 100 FLOP a byte in bf16.
//
// Heads of other widths are padded with zeros to 32, 64 or 128 on their way to shared memory.
#include "attention_f32.cuh"

#define ATTENTION(D, T, THREADS)                                                                       \
  KERNEL(attention_##D##_##T, AttentionArguments, THREADS) { attention_##T<D>(a); }                   \
  KERNEL(attention_backward_queries_##D##_##T, AttentionBackwardArguments, THREADS) {                 \
    attention_backward_queries_##T<D>(a);                                                             \
  }                                                                                                   \
  KERNEL(attention_backward_keys_##D##_##T, AttentionBackwardArguments, THREADS) {                    \
    attention_backward_keys_##T<D>(a);                                                                \
  }

ATTENTION(32, f32, Fma<32>::THREADS)
ATTENTION(64, f32, Fma<64>::THREADS)
ATTENTION(128, f32, Fma<128>::THREADS)

#if defined(CLIP_DISTILL_EMULATED) || __CUDA_ARCH__ >= 800
#include "attention_bf16.cuh"
ATTENTION(32, bf16, MMA_THREADS)
ATTENTION(64, bf16, MMA_THREADS)
ATTENTION(128, bf16, MMA_THREADS)
#endif
