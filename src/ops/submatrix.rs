//! y_ij = r_i c_j x[rows_i, columns_j]: the part of a weight that a smaller model inherits, with gates r and c
//! on its rows and columns. x `[height, width]`, or `[width]` as one row; rows `[m]` and columns `[n]` (i32),
//! r `[m]`, c `[n]`; y `[m, n]`, or `[n]` of a vector.

use super::{Result, shape_error, slot};
use crate::autodiff::{Tape, Var};
use crate::backend::Selection;
use crate::tensor::Tensor;

/// What is taken of a matrix, and the factors of its rows and columns.
#[derive(Clone, Copy)]
pub struct Cut<'a> {
    /// Rows, none twice.
    pub rows: &'a Tensor,
    /// Columns, none twice.
    pub columns: &'a Tensor,
    /// Factors of the rows; ones if absent.
    pub row_gate: Option<&'a Var>,
    /// Factors of the columns; ones if absent.
    pub column_gate: Option<&'a Var>,
}

/// The rows and columns of x that `cut` names, times their gates.
///
/// # Errors
/// If nothing is taken, a gate is not as long as its axis, or an index is outside x.
pub fn submatrix(tape: &Tape, x: &Var, cut: Cut) -> Result<Var> {
    let (rows, columns) = (cut.rows.clone(), cut.columns.clone());
    let fits = |gate: Option<&Var>, index: &Tensor| {
        gate.is_none_or(|g| g.shape() == [index.len()]) && !index.is_empty()
    };
    let row_vector = x.shape().len() == 1;
    if x.shape().is_empty()
        || x.shape().len() > 2
        || !fits(cut.row_gate, &rows)
        || !fits(cut.column_gate, &columns)
        || (row_vector && rows.len() != 1)
    {
        let shape = |gate: Option<&Var>| gate.map(|g| g.shape().to_vec());
        let detail = format!(
            "{} rows with gates {:?} and {} columns with gates {:?} of x {:?}",
            rows.len(),
            shape(cut.row_gate),
            columns.len(),
            shape(cut.column_gate),
            x.shape()
        );
        return shape_error("submatrix", detail);
    }
    let value = |gate: Option<&'_ Var>| gate.map(|g| g.value().clone());
    let (r, c) = (value(cut.row_gate), value(cut.column_gate));
    let y = tape.backend().submatrix(Selection {
        x: x.value(),
        rows: &rows,
        columns: &columns,
        r: r.as_ref(),
        c: c.as_ref(),
    })?;
    // Linear in each of the three: an entry of dy goes back to its place in x, times both factors, and each
    // factor gathers the entries of its row or column, times what they multiply.
    let (xc, row_gate, column_gate) = (x.clone(), cut.row_gate.cloned(), cut.column_gate.cloned());
    let mut inputs = vec![x];
    inputs.extend(cut.row_gate);
    inputs.extend(cut.column_gate);
    Ok(tape.record(y, &inputs, move |tape, grads, dy| {
        let mut dx = grads.take(&xc);
        let mut dr = row_gate.as_ref().and_then(|g| grads.take(g));
        let mut dc = column_gate.as_ref().and_then(|g| grads.take(g));
        tape.backend().submatrix_backward(
            &dy,
            Selection {
                x: xc.value(),
                rows: &rows,
                columns: &columns,
                r: r.as_ref(),
                c: c.as_ref(),
            },
            slot(&mut dx),
            slot(&mut dr),
            slot(&mut dc),
        )?;
        grads.put(&xc, dx);
        if let Some(gate) = &row_gate {
            grads.put(gate, dr);
        }
        if let Some(gate) = &column_gate {
            grads.put(gate, dc);
        }
        Ok(())
    }))
}
