//! out[r] = table[ids[r]] + positions[pos[r]].

use super::Array;

pub fn embedding(table: &Array, positions: &Array, ids: &[usize], pos: &[usize]) -> Array {
    assert_eq!(ids.len(), pos.len());
    let mut out = Array::zeros(&[ids.len(), table.width()]);
    for (r, (&id, &p)) in ids.iter().zip(pos).enumerate() {
        for (e, value) in out.row_mut(r).iter_mut().enumerate() {
            *value = table.row(id)[e] + positions.row(p)[e];
        }
    }
    out
}
