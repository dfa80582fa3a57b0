//! Images cut into patches.

use super::device::{Address, Launch};
use super::{Gpu, arguments, instance};
use crate::backend::{Patchify, Result, shape_error};
use crate::tensor::Tensor;

const OP: &str = "patchify";

arguments! {
    struct PatchifyArguments in "patchify" {
        images: Address,
        y: Address,
        n: i64,
        side: i32,
        across: i32,
        down: i32,
        channels: i32,
    }
}

impl Patchify for Gpu {
    fn patchify(&self, images: &Tensor, patch: usize) -> Result<Tensor> {
        let &[batch, height, width, channels] = images.shape() else {
            return shape_error(OP, format!("images {:?}", images.shape()));
        };
        if height % patch != 0 || width % patch != 0 {
            let detail = format!("images {:?} into patches of {patch}", images.shape());
            return shape_error(OP, detail);
        }
        let (n, dtype) = (images.len(), self.activations());
        let (down, across) = (height / patch, width / patch);
        let images = self.read(OP, images, dtype)?;
        let shape = [batch * down * across, patch * patch * channels];
        let (y, y_at) = self.empty(&shape, dtype)?;
        let arguments = PatchifyArguments {
            images: images.at(),
            y: y_at,
            n: n as i64,
            side: patch as i32,
            across: across as i32,
            down: down as i32,
            channels: channels as i32,
        };
        let launch = Launch::spread(n, 256 * 16 / dtype.size());
        self.launch(instance!("patchify", "patchify", dtype), launch, &arguments)?;
        Ok(y)
    }
}
