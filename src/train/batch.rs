//! What a step reads.

use crate::tensor::Normalisation;

/// A batch of pairs, on the host.
#[derive(Clone, Copy, Debug)]
pub struct StepBatch<'a> {
    /// `[B, S, S, 3]`.
    pub images: &'a [u8],
    /// What the images are normalised by.
    pub normalisation: Normalisation,
    /// Tokens for the student.
    pub texts: &'a [Vec<i32>],
    /// Tokens for the teacher, which may have another vocabulary or context.
    pub teacher_texts: &'a [Vec<i32>],
    /// Whose pairs these are: with the position, what names a pair's random draws.
    pub epoch: u32,
    /// Position of the first pair in its epoch.
    pub first: u64,
}
