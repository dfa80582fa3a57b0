//! y = x / max(‖x‖, 1e-12) over the last axis.

use super::{Array, dot};

pub const FLOOR: f64 = 1e-12;

pub fn l2_normalize(x: &Array) -> Array {
    let mut y = x.clone();
    for i in 0..x.rows() {
        let norm = dot(x.row(i), x.row(i)).sqrt().max(FLOOR);
        y.row_mut(i).iter_mut().for_each(|v| *v /= norm);
    }
    y
}
