//! y = γ (x − mean) / √(var + 1e-5) + β over the last axis, var the biased variance.

use super::Array;

pub const EPS: f64 = 1e-5;

pub fn layer_norm(x: &Array, gamma: &Array, beta: &Array) -> Array {
    let width = x.width() as f64;
    let mut y = x.clone();
    for i in 0..x.rows() {
        let row = x.row(i);
        let mean = row.iter().sum::<f64>() / width;
        let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / width;
        for (j, out) in y.row_mut(i).iter_mut().enumerate() {
            *out = gamma.data[j] * (row[j] - mean) / (variance + EPS).sqrt() + beta.data[j];
        }
    }
    y
}
