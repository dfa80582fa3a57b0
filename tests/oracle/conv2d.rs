//! Correlation of NHWC images with filters over a zero-padded border.

use super::Array;

/// `x` [B, H, W, C], `w` [O, k·k·C] with each filter in (y, x, channel) order → [B, H', W', O].
pub fn conv2d(x: &Array, w: &Array, kernel: usize, stride: usize, padding: usize) -> Array {
    let [batch, height, width, channels] = x.shape[..] else {
        panic!("conv2d wants [B, H, W, C], not {:?}", x.shape);
    };
    assert_eq!(w.width(), kernel * kernel * channels);
    let side = |n: usize| (n + 2 * padding - kernel) / stride + 1;
    let (rows, columns, outputs) = (side(height), side(width), w.rows());
    let pixel = |b: usize, y: usize, x_at: usize, c: usize| {
        let inside =
            (padding..padding + height).contains(&y) && (padding..padding + width).contains(&x_at);
        if inside {
            x.data[((b * height + y - padding) * width + x_at - padding) * channels + c]
        } else {
            0.0
        }
    };
    let mut out = Array::zeros(&[batch, rows, columns, outputs]);
    for b in 0..batch {
        for i in 0..rows {
            for j in 0..columns {
                for o in 0..outputs {
                    let mut sum = 0.0;
                    for u in 0..kernel {
                        for v in 0..kernel {
                            for c in 0..channels {
                                sum += w.row(o)[(u * kernel + v) * channels + c]
                                    * pixel(b, i * stride + u, j * stride + v, c);
                            }
                        }
                    }
                    out.data[((b * rows + i) * columns + j) * outputs + o] = sum;
                }
            }
        }
    }
    out
}
