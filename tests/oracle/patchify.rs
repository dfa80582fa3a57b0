//! An NHWC image [B, H, W, C] cut into p×p patches: [B·(H/p)·(W/p), p·p·C], patches row by row,
//! the values of a patch ordered by (y, x, channel).

use super::Array;

pub fn patchify(images: &Array, patch: usize) -> Array {
    let [batch, height, width, channels] = images.shape[..] else {
        panic!("patchify wants [B, H, W, C], not {:?}", images.shape);
    };
    assert!(height % patch == 0 && width % patch == 0);
    let mut data = Vec::with_capacity(images.data.len());
    for b in 0..batch {
        for top in (0..height).step_by(patch) {
            for left in (0..width).step_by(patch) {
                for y in top..top + patch {
                    for x in left..left + patch {
                        for c in 0..channels {
                            data.push(images.data[((b * height + y) * width + x) * channels + c]);
                        }
                    }
                }
            }
        }
    }
    let patches = batch * (height / patch) * (width / patch);
    Array::new(&[patches, patch * patch * channels], data)
}
