//! out[r] = x[rows[r]]; a row may be taken any number of times.

use super::Array;

pub fn select_rows(x: &Array, rows: &[usize]) -> Array {
    let data = rows.iter().flat_map(|&r| x.row(r).to_vec()).collect();
    Array::new(&[rows.len(), x.width()], data)
}
