//! y = eˣ, element by element.

use super::Array;

pub fn exp(x: &Array) -> Array {
    Array::new(&x.shape, x.data.iter().map(|v| v.exp()).collect())
}
