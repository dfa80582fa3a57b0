//! Every tolerance of the numeric tests, and why it is what it is. All references are f64; what the
//! engine computes is f32, ε = 6e-8.
//!
//! | what | allowed | relative to | why |
//! |---|---|---|---|
//! | an operation's value | 2e-5 | max(1, expected) | sums of up to a few hundred products of size about 1 lose a factor √n to n in ε |
//! | an operation's gradient | 1e-4 | max(1, expected) | a backward pass chains up to three such sums |
//! | a tower's value | 1e-5 | max(1, the largest entry) | a dozen operations on values that norms keep at size 1; ε times some hundred (PyTorch's own f32 is off by 5e-6 on the ResNets) |
//! | running statistics after a step | 1e-5 | – | a tenth of the batch's moments, which are values of the tower |
//! | a cosine | 8 u = 4.8e-7 | – | u = 2⁻²⁴; a sum over the width rounds by 2 u in the mean where 16 products are summed at a time (`cuda/similarity.cuh`), the worst of some hundred by four times that |
//! | a loss's value | 1e-5 | max(0.1, expected) | a logit is right to ε α, 6e-6 at α = 100, and averages over rows only lessen that |
//! | a tower's or a loss's gradient | 1e-4 | the tensor's largest entry | entries far below the largest are differences of sums of its size |
//! | a loss's gradient at drawn shapes | 1e-4 and 2e-7 α | the largest entry; – | a logit is right to ε α and the gradient multiplies softmaxes by α again: where student's and teacher's softmaxes cancel, only that is left |
//! | a tower's or a loss's gradient that is zero | 1e-7 | – | the attention's key bias moves all logits of a row alike: what is left is rounding, ε times entries of size 1 |
//! | a term of the loss over twenty AdamW steps | 1e-4 | max(1, expected) | the gradient's tolerance, carried on: a step moves along m/√v, whose error is the gradient's |
//! | a directional derivative of a channel's normalisation | 1e-4 | max(1, Σ of its terms' sizes) | the gradient's own tolerance |
//! | parameters after twenty steps | 2e-5 | – | the learning rates sum to 1e-2, and each step is at most lr long: 2e-3 of the way |
//!
//! A backend in bf16 keeps values between operations as bf16 numbers, unit roundoff u = 2⁻⁹ = 0.002. Checks
//! give it inputs and upstream gradients that are bf16 numbers already, so that only its own roundings count;
//! its formulas are those of f32, from the same sources, which the table above holds to account.
//!
//! | what, in bf16 | allowed | relative to | why |
//! |---|---|---|---|
//! | an operation's value | 8 u = 0.016 | max(1, expected) | one rounding of the result and one of what an activation reads, which a residual may cancel: 6 of a normal distribution's deviations at most |
//! | an operation's gradient | 32 u = 0.063 | max(1, expected) | a weight's gradient sums up to 33 products of size about 1, each off by some 0.8 u: what the activation's derivative reads was rounded, and so was its product. That is 5 u, and the worst of some thousand entries is five times it |
//! | a directional derivative of a channel's normalisation | 2⁻⁸ | max(1, Σ of its terms' sizes) | each entry of the gradient is rounded once, by half the distance of two neighbours, which is 2⁻⁸ of it at most |
//! | a term of the loss over four steps | 0.05 | max(1, expected) | features are off by a few u after a dozen roundings, logits by α = 14 times that, and a term is a mean over rows |
//!
//! A backend in f16 rounds as one in bf16 does, to eleven bits in place of eight: u = 2⁻¹². The same multiples of it hold.
//!
//! | what, in f16 | allowed | relative to |
//! |---|---|---|
//! | an operation's value | 8 u = 0.002 | max(1, expected) |
//! | an operation's gradient | 32 u = 0.0078 | max(1, expected) |
//! | a directional derivative of a channel's normalisation | 2⁻¹¹ | max(1, Σ of its terms' sizes) |
//! | a term of the loss over four steps | 0.05 / 8 | max(1, expected) |
#![allow(dead_code)] // each test crate uses a part

use clip_distill::tensor::DType;

/// An operation's value.
pub const FORWARD: f64 = 2e-5;
/// An operation's gradient.
pub const GRADIENT: f64 = 1e-4;
/// An operation's value on a backend in bf16.
pub const FORWARD_BF16: f64 = 8.0 / 512.0;
/// An operation's gradient on a backend in bf16.
pub const GRADIENT_BF16: f64 = 32.0 / 512.0;
/// An operation's value on a backend in f16.
pub const FORWARD_F16: f64 = 8.0 / 4096.0;
/// An operation's gradient on a backend in f16.
pub const GRADIENT_F16: f64 = 32.0 / 4096.0;
/// The cosine of two unit rows.
pub const COSINE: f64 = 8.0 / 16_777_216.0;
/// Losses smaller than this are compared as if they were this large.
pub const SMALL_LOSS: f64 = 0.1;
/// What rounding leaves of a loss's gradient, in units of the scale α.
pub const LOSS_GRADIENT_PER_SCALE: f64 = 2e-7;
/// The value of a tower or a loss.
pub const OUTPUT: f32 = 1e-5;
/// A gradient of a tower or a loss, relative to its tensor's largest entry.
pub const PARAMETER_GRADIENT: f32 = 1e-4;
/// A gradient of a tower or a loss where it is zero.
pub const ZERO_GRADIENT: f32 = 1e-7;
/// A term of the loss along a trajectory.
pub const TRAJECTORY: f32 = 1e-4;
/// Parameters at a trajectory's end.
pub const FINAL_PARAMETERS: f32 = 2e-5;
/// A directional derivative of one channel, relative to the sum of its terms' sizes.
pub fn directional(low: Option<DType>) -> f64 {
    match low {
        Some(DType::F16) => 1.0 / 2048.0,
        Some(_) => 1.0 / 256.0,
        None => 1e-4,
    }
}
/// A term of the loss over a few steps in f16.
pub const TERM_F16: f64 = 0.05 / 8.0;
/// A term of the loss over a few steps in bf16.
pub const TERM_BF16: f64 = 0.05;
