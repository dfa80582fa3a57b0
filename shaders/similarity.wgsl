// What the similarity losses' kernels share, beside the cosines.
#include pairs

// P_ii − 1 = e^{−ℓ} − 1 of an anchor whose cross-entropy is ℓ. The difference itself would lose what a nearly certain
// P_ii lacks of 1, and that is all of its gradient.
fn residual_of(cross_entropy: f32) -> f32 { return exponential_minus_1(-cross_entropy); }

// α c, rounded once: equal cosines and scales give equal logits.
fn logit(scale: f32, cosine: f32) -> f32 { return opaque(scale * cosine); }
