//! y_ij = r_i c_j x[rows_i, columns_j].

use super::Array;

pub fn submatrix(x: &Array, rows: &[usize], columns: &[usize], r: &Array, c: &Array) -> Array {
    let mut y = Array::zeros(&[rows.len(), columns.len()]);
    for (i, &row) in rows.iter().enumerate() {
        for (j, &column) in columns.iter().enumerate() {
            y.row_mut(i)[j] = r.data[i] * c.data[j] * x.row(row)[column];
        }
    }
    y
}
