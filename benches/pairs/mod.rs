//! Unit features of a batch of pairs, and the losses between them.

use clip_distill::autodiff::Tape;
use clip_distill::backend::Backend;
use clip_distill::loss::{
    Features, Intra, TeacherFeatures, Weights, affinity, clip, crd, gd, icl, intra,
};
use clip_distill::run::cost;
use clip_distill::tensor::Tensor;
use clip_distill::tensor::rng::{Philox, Purpose};
use std::sync::Arc;

const WIDTH: usize = 512;

/// The losses by name.
pub const LOSSES: [&str; 6] = ["intra", "clip", "crd", "icl", "affinity", "gd"];

/// Unit features, student's and teacher's.
pub struct Pairs {
    backend: Arc<dyn Backend>,
    n: usize,
    student: [Tensor; 2],
    scale: Tensor,
    teacher: TeacherFeatures,
}

impl Pairs {
    pub fn new(backend: Arc<dyn Backend>, n: usize) -> Self {
        let unit = |index| {
            let mut rng = Philox::new(1, Purpose::Test, 0, index);
            let x: Vec<f32> = (0..n * WIDTH).map(|_| rng.normal()).collect();
            let x = backend.upload(&[n, WIDTH], &x).expect("upload");
            backend.l2_normalize(&x).expect("l2_normalize").0
        };
        let scale = |x| backend.upload(&[1], &[x]).expect("upload");
        Self {
            n,
            student: [unit(0), unit(1)],
            scale: scale(14.3),
            teacher: TeacherFeatures {
                image: unit(2),
                text: unit(3),
                scale: scale(50.0),
            },
            backend,
        }
    }

    /// Loss and gradients of all variables once; a GPU may still be at it afterwards.
    pub fn step(&self, name: &str) -> Tensor {
        let tape = Tape::new(self.backend.clone());
        let [image, text] = self.student.clone().map(|x| tape.leaf(x));
        let (student, scale) = (Features { image, text }, tape.leaf(self.scale.clone()));
        let teacher = &self.teacher;
        let value = match name {
            "clip" => clip(&tape, &student, &scale),
            "crd" => crd(&tape, &student, &scale, teacher),
            "icl" => icl(&tape, &student, &scale, teacher),
            "affinity" => affinity(&tape, &student, &scale, teacher),
            "gd" => gd(&tape, &student, &scale, teacher),
            _ => intra(&tape, &student, &scale, teacher, &Intra::default(), &scale),
        }
        .expect("loss");
        tape.backward(&value).expect("backward");
        value.value().clone()
    }

    /// Floating-point operations of such a step.
    pub fn flop(&self, name: &str) -> f64 {
        let mut weights = Weights::default();
        *match name {
            "clip" => &mut weights.clip,
            "crd" => &mut weights.crd,
            "icl" => &mut weights.icl,
            "affinity" => &mut weights.affinity,
            "gd" => &mut weights.gd,
            _ => &mut weights.intra,
        } = 1.0;
        cost::losses(&weights, self.n as f64, WIDTH as f64, WIDTH as f64)
    }
}
