//! Means over k×k tiles of NHWC images.

use super::Array;

/// [B, H, W, C] → [B, H/k, W/k, C].
pub fn avg_pool(x: &Array, size: usize) -> Array {
    let [batch, height, width, channels] = x.shape[..] else {
        panic!("avg_pool wants [B, H, W, C], not {:?}", x.shape);
    };
    let (rows, columns) = (height / size, width / size);
    let mut y = Array::zeros(&[batch, rows, columns, channels]);
    for b in 0..batch {
        for i in 0..height {
            for j in 0..width {
                for c in 0..channels {
                    let tile = (b * rows + i / size) * columns + j / size;
                    y.data[tile * channels + c] += x.data
                        [((b * height + i) * width + j) * channels + c]
                        / (size * size) as f64;
                }
            }
        }
    }
    y
}
