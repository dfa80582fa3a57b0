//! Writes a loss by hand on the tape, differentiates it, and compares with central differences.
//!
//! The loss is the squared *modality gap* of a batch (Liang et al., arXiv 2203.02053), the distance between the mean image
//! feature and the mean text feature:
//!
//! ```text
//! L = ‖ 1/n Σ_i v_i − 1/n Σ_i s_i ‖²,     v, s unit rows
//! ```
//!
//! Everything but the last square is made of operations whose backward passes exist. The square is a node of its own,
//! with its backward written here.
//!
//! ```text
//! cargo run --release --example custom_loss
//! ```

use clip_distill::autodiff::{Result, Tape, Var};
use clip_distill::backend::{Backend, cpu::Cpu};
use clip_distill::ops;
use clip_distill::tensor::rng::{Philox, Purpose};
use std::sync::Arc;

/// Pairs and width of the features.
const SHAPE: [usize; 2] = [5, 8];

/// The squared modality gap of features that need not be unit vectors, `[n, d]` each → `[1]`.
fn modality_gap(tape: &Tape, images: &Var, texts: &Var) -> Result<Var> {
    let v = ops::l2_normalize(tape, images)?;
    let s = ops::l2_normalize(tape, texts)?;
    let difference = ops::weighted_sum(tape, &[(&v, 1.0), (&s, -1.0)])?;
    // A row of 1/n times the rows is their mean, [1, n] by [n, d].
    let n = v.shape()[0];
    let row = tape.backend().upload(&[1, n], &vec![1.0 / n as f32; n])?;
    let mean = ops::matmul(tape, &Var::constant(row), &difference)?;
    squared_length(tape, &mean)
}

/// y = Σ x², `[1]`.
fn squared_length(tape: &Tape, x: &Var) -> Result<Var> {
    let n = x.value().len() as f32;
    // The kernel gives the mean of (x − 0)².
    let zeros = tape.backend().zeros(x.shape())?;
    let mean = tape.backend().mse(x.value(), &zeros)?;
    let y = tape.backend().weighted_sum(&[(&mean, n)])?;
    // dx = 2 dy x: n times what the mean's backward adds.
    let kept = x.clone();
    Ok(tape.record(y, &[x], move |tape, grads, dy| {
        // The slot of x: None if nobody wants its gradient, empty or a sum begun by others. The kernel adds to it.
        let mut dx = grads.take(&kept);
        let dy = tape.backend().weighted_sum(&[(&dy, n)])?;
        tape.backend()
            .mse_backward(&dy, kept.value(), &zeros, dx.as_mut())?;
        grads.put(&kept, dx);
        Ok(())
    }))
}

/// The loss of these numbers.
fn value(backend: &Arc<dyn Backend>, images: &[f32], texts: &[f32]) -> Result<f32> {
    let tape = Tape::frozen(backend.clone());
    let images = tape.leaf(backend.upload(&SHAPE, images)?);
    let texts = tape.leaf(backend.upload(&SHAPE, texts)?);
    let loss = modality_gap(&tape, &images, &texts)?;
    Ok(backend.download(loss.value())?[0])
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let backend: Arc<dyn Backend> = Arc::new(Cpu::new());
    let mut rng = Philox::new(0, Purpose::Test, 0, 0);
    let mut draw = || -> Vec<f32> { (0..SHAPE[0] * SHAPE[1]).map(|_| rng.normal()).collect() };
    let (images, texts) = (draw(), draw());

    let tape = Tape::new(backend.clone());
    let v = tape.leaf(backend.upload(&SHAPE, &images)?);
    let s = tape.leaf(backend.upload(&SHAPE, &texts)?);
    let loss = modality_gap(&tape, &v, &s)?;
    println!("loss {:.6}", backend.download(loss.value())?[0]);
    let grads = tape.backward(&loss)?;
    let gradient = grads.get(&v).ok_or("the images have no gradient")?;
    let gradient = backend.download(gradient)?;

    // (L(x + h) − L(x − h)) / 2h errs by h² times the third derivative and by the rounding of L over h.
    let h = 1e-2;
    let mut worst = 0.0f32;
    for (i, ours) in gradient.iter().enumerate() {
        let moved = |by: f32| {
            let mut images = images.clone();
            images[i] += by;
            value(&backend, &images, &texts)
        };
        let numeric = (moved(h)? - moved(-h)?) / (2.0 * h);
        if i < 4 {
            println!("∂L/∂v[{i}]: backward {ours:+.6}, central difference {numeric:+.6}");
        }
        worst = worst.max((ours - numeric).abs());
    }
    println!(
        "largest difference of {} entries: {worst:.1e}",
        gradient.len()
    );
    if worst > 1e-4 {
        return Err("the gradient is wrong".into());
    }
    Ok(())
}
