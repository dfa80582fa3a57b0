//! y = γ (x − mean) / √(var + 1e-5) + β + r, then max(y, 0) if asked, channel by channel of the last axis.

use super::Array;

pub const EPS: f64 = 1e-5;

/// Mean and biased variance of each channel.
pub fn moments(x: &Array) -> (Vec<f64>, Vec<f64>) {
    let n = x.rows() as f64;
    let column = |c: usize| (0..x.rows()).map(move |i| x.row(i)[c]);
    (0..x.width())
        .map(|c| {
            let mean = column(c).sum::<f64>() / n;
            (mean, column(c).map(|v| (v - mean).powi(2)).sum::<f64>() / n)
        })
        .unzip()
}

pub fn batch_norm(
    x: &Array,
    gamma: &Array,
    beta: &Array,
    (mean, variance): (&[f64], &[f64]),
    residual: Option<&Array>,
    relu: bool,
) -> Array {
    let mut y = x.clone();
    for i in 0..x.rows() {
        for c in 0..x.width() {
            let normal = (x.row(i)[c] - mean[c]) / (variance[c] + EPS).sqrt();
            let sum = gamma.data[c] * normal + beta.data[c] + residual.map_or(0.0, |r| r.row(i)[c]);
            y.row_mut(i)[c] = if relu { sum.max(0.0) } else { sum };
        }
    }
    y
}
