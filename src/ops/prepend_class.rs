//! The input sequence of a ViT: row 0 of each image is class + positions[0], row 1 + i is patch i +
//! positions[1 + i]. patches `[batch·len, width]`, class `[width]`, positions `[1 + len, width]`,
//! out `[batch·(1 + len), width]`.

use super::{Result, shape_error, slot};
use crate::autodiff::{Tape, Var};

/// Prepends the class token and adds the positions.
///
/// # Errors
/// If the shapes do not fit, naming them.
pub fn prepend_class(tape: &Tape, patches: &Var, class: &Var, positions: &Var) -> Result<Var> {
    let (width, tokens) = (patches.value().width(), positions.value().rows());
    if class.shape() != [width]
        || positions.value().width() != width
        || tokens < 2
        || !patches.value().rows().is_multiple_of(tokens - 1)
    {
        let detail = format!(
            "patches {:?}, class {:?}, positions {:?}",
            patches.shape(),
            class.shape(),
            positions.shape()
        );
        return shape_error("prepend_class", detail);
    }
    let y = tape
        .backend()
        .prepend_class(patches.value(), class.value(), positions.value())?;
    // A move and two broadcasts: each patch gets its row of dy; the class token and each position
    // get the sum over the batch.
    let (x, c, p) = (patches.clone(), class.clone(), positions.clone());
    Ok(
        tape.record(y, &[patches, class, positions], move |tape, grads, dy| {
            let (mut dx, mut dc, mut dp) = (grads.take(&x), grads.take(&c), grads.take(&p));
            tape.backend().prepend_class_backward(
                &dy,
                tokens - 1,
                slot(&mut dx),
                slot(&mut dc),
                slot(&mut dp),
            )?;
            grads.put(&x, dx);
            grads.put(&c, dc);
            grads.put(&p, dp);
            Ok(())
        }),
    )
}
