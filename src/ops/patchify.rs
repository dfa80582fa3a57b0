//! Images as rows of patches: `[batch, h, w, 3]` → `[batch·(h/p)·(w/p), p·p·3]`, each patch in
//! (y, x, channel) order. A ViT's patch embedding (open_clip's `conv1`) is a linear layer on these.

use super::{Result, shape_error};
use crate::autodiff::Tape;
use crate::tensor::Tensor;

/// Cuts images into patches. Images are inputs, never variables, so there is no backward.
///
/// # Errors
/// If the images are not `[batch, h, w, channels]` with sides divisible by `patch`.
pub fn patchify(tape: &Tape, images: &Tensor, patch: usize) -> Result<Tensor> {
    match images.shape() {
        &[_, h, w, _] if patch > 0 && h % patch == 0 && w % patch == 0 => {
            Ok(tape.backend().patchify(images, patch)?)
        }
        shape => shape_error(
            "patchify",
            format!("images {shape:?} into patches of {patch}"),
        ),
    }
}
