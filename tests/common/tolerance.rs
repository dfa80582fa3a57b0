//! Every tolerance of the numeric tests, and why it is what it is. All references are f64; what the
//! engine computes is f32, ε = 6e-8.
//!
//! | what | allowed | relative to | why |
//! |---|---|---|---|
//! | an operation's value | 2e-5 | max(1, expected) | sums of up to a few hundred products of size about 1 lose a factor √n to n in ε |
//! | an operation's gradient | 1e-4 | max(1, expected) | a backward pass chains up to three such sums |
//! | a tower's value | 1e-5 | max(1, the largest entry) | a dozen operations on values that norms keep at size 1; ε times some hundred (PyTorch's own f32 is off by 5e-6 on the ResNets) |
//! | running statistics after a step | 1e-5 | – | a tenth of the batch's moments, which are values of the tower |
//! | a loss's value | 1e-5 | max(0.1, expected) | a logit is right to ε α, 6e-6 at α = 100, and averages over rows only lessen that |
//! | a tower's or a loss's gradient | 1e-4 | the tensor's largest entry | entries far below the largest are differences of sums of its size |
//! | a loss's gradient at drawn shapes | 1e-4 and 2e-7 α | the largest entry; – | a logit is right to ε α and the gradient multiplies softmaxes by α again: where student's and teacher's softmaxes cancel, that is all left |
//! | a tower's or a loss's gradient that is zero | 1e-7 | – | the attention's key bias moves all logits of a row alike: what is left is rounding, ε times entries of size 1 |
//! | a term of the loss over twenty AdamW steps | 1e-4 | max(1, expected) | the gradient's tolerance, carried on: a step moves along m/√v, whose error is the gradient's |
//! | parameters after twenty steps | 2e-5 | – | the learning rates sum to 1e-2, and each step is at most lr long: 2e-3 of the way |
#![allow(dead_code)] // each test crate uses a part

/// An operation's value.
pub const FORWARD: f64 = 2e-5;
/// An operation's gradient.
pub const GRADIENT: f64 = 1e-4;
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
