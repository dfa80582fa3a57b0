//! Feature distillation (CLIP-KD, Yang et al., arXiv 2307.12732, §3.3).
//!
//! ```text
//! L = 1/(n d) Σ_ik (v_ik − V_ik)² + 1/(n d) Σ_ik (s_ik − T_ik)²
//! ```
//! v, s `[n, d]` the student's unit rows, projected to the teacher's width if theirs differs; V, T
//! `[n, d]`; L `[1]`.

use super::{Features, TeacherFeatures, rows};
use crate::autodiff::{Result, Tape, Var};

/// Mean squared difference of the image features plus that of the text features, a scalar `[1]`.
///
/// # Errors
/// If a modality's shape differs between student and teacher.
pub fn fd(tape: &Tape, student: &Features, teacher: &TeacherFeatures) -> Result<Var> {
    rows("fd", student.image.shape(), teacher.image.shape(), true)?;
    rows("fd", student.text.shape(), teacher.text.shape(), true)?;
    let backend = tape.backend();
    let image = backend.mse(student.image.value(), &teacher.image)?;
    let text = backend.mse(student.text.value(), &teacher.text)?;
    let value = backend.weighted_sum(&[(&image, 1.0), (&text, 1.0)])?;
    let (student, teacher) = (student.clone(), teacher.clone());
    let inputs = [student.image.clone(), student.text.clone()];
    // ∂L/∂v_ik = ḡ · 2 (v_ik − V_ik)/(n d), and the same for the text.
    Ok(
        tape.record(value, &inputs.each_ref(), move |tape, grads, dy| {
            for (x, y) in [
                (&student.image, &teacher.image),
                (&student.text, &teacher.text),
            ] {
                let mut dx = grads.take(x);
                tape.backend()
                    .mse_backward(&dy, x.value(), y, dx.as_mut())?;
                grads.put(x, dx);
            }
            Ok(())
        }),
    )
}
