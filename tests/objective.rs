//! The weighted sum of losses: what is computed, what it adds up to, and what it asks for.

use clip_distill::autodiff::{Tape, Var};
use clip_distill::backend::cpu::Cpu;
use clip_distill::loss::{
    Features, Head, Heads, Inputs, IntraScale, Method, Objective, TeacherFeatures, Weights,
};
use clip_distill::tensor::rng::{Philox, Purpose};
use std::sync::Arc;

const N: usize = 6;
const STUDENT: usize = 5;
const TEACHER: usize = 8;

struct World {
    tape: Tape,
    student: Features,
    scale: Var,
    icl_scale: Var,
    heads: Heads,
    teacher: TeacherFeatures,
}

fn world() -> World {
    let tape = Tape::new(Arc::new(Cpu::new()));
    let mut rng = Philox::new(7, Purpose::Test, 0, 0);
    let mut random = |shape: &[usize]| {
        let x: Vec<f32> = (0..shape.iter().product()).map(|_| rng.normal()).collect();
        tape.backend().upload(shape, &x).unwrap()
    };
    let unit = |x| tape.backend().l2_normalize(&x).unwrap().0;
    let number = |x| tape.backend().upload(&[1], &[x]).unwrap();
    let student = Features {
        image: tape.leaf(random(&[N, STUDENT])),
        text: tape.leaf(random(&[N, STUDENT])),
    };
    let mut head = || Head {
        weight: tape.leaf(random(&[TEACHER, STUDENT])),
        bias: tape.leaf(random(&[TEACHER])),
    };
    let heads = Heads {
        image: head(),
        text: head(),
    };
    let teacher = TeacherFeatures {
        image: unit(random(&[N, TEACHER])),
        text: unit(random(&[N, TEACHER])),
        scale: number(20.0),
    };
    let (scale, icl_scale) = (tape.leaf(number(14.3)), tape.leaf(number(10.0)));
    World {
        tape,
        student,
        scale,
        icl_scale,
        heads,
        teacher,
    }
}

impl World {
    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            student: &self.student,
            scale: &self.scale,
            teacher: Some(&self.teacher),
            heads: Some(&self.heads),
            icl_scale: Some(&self.icl_scale),
        }
    }

    fn number(&self, x: &Var) -> f32 {
        self.tape.backend().download(x.value()).unwrap()[0]
    }
}

#[test]
fn the_total_is_the_weighted_sum_of_the_terms() {
    let names = [
        (Method::Clip, &["clip"][..]),
        (Method::ClipKd, &["clip", "crd", "fd", "icl"]),
        (Method::IntraKd, &["clip", "crd", "fd", "icl", "intra"]),
    ];
    for (method, names) in names {
        let w = world();
        let value = Objective::from(method)
            .evaluate(&w.tape, &w.inputs())
            .unwrap();
        let got: Vec<_> = value.terms.iter().map(|(name, _)| *name).collect();
        assert_eq!(got, names);
        let weight = |name: &str| if name == "fd" { 2000.0 } else { 1.0 };
        let want: f32 = value
            .terms
            .iter()
            .map(|(name, x)| weight(name) * w.number(x))
            .sum();
        let total = w.number(&value.total);
        assert!(
            (total - want).abs() <= 1e-5 * want,
            "{method:?}: {total} for {want}"
        );
    }
}

#[test]
fn every_parameter_that_a_method_uses_gets_a_gradient() {
    let w = world();
    let value = Objective::from(Method::IntraKd)
        .evaluate(&w.tape, &w.inputs())
        .unwrap();
    let grads = w.tape.backward(&value.total).unwrap();
    let (image, text) = (&w.heads.image, &w.heads.text);
    for (name, x) in [
        ("image", &w.student.image),
        ("text", &w.student.text),
        ("scale", &w.scale),
        ("icl scale", &w.icl_scale),
        ("image weight", &image.weight),
        ("image bias", &image.bias),
        ("text weight", &text.weight),
        ("text bias", &text.bias),
    ] {
        let g = grads.get(x).unwrap_or_else(|| panic!("{name}: none"));
        assert_eq!(g.shape(), x.shape(), "{name}");
        let g = w.tape.backend().download(g).unwrap();
        assert!(
            g.iter().all(|g| g.is_finite()) && g.iter().any(|&g| g != 0.0),
            "{name}"
        );
    }
}

#[test]
fn the_intra_scale_says_whether_the_scale_learns() {
    let run = |intra_scale| {
        let w = world();
        let objective = Objective {
            weights: Weights {
                intra: 1.0,
                ..Weights::default()
            },
            intra_scale,
            ..Objective::from(Method::IntraKd)
        };
        let value = objective.evaluate(&w.tape, &w.inputs()).unwrap();
        let grads = w.tape.backward(&value.total).unwrap();
        (w.number(&value.total), grads.get(&w.scale).is_some())
    };
    let (shared, detached) = (run(IntraScale::Shared), run(IntraScale::Detached));
    assert_eq!((shared.0, shared.1, detached.1), (detached.0, true, false));
    assert_eq!(run(IntraScale::Fixed(14.3)), detached);
    assert_ne!(run(IntraScale::Fixed(30.0)).0, shared.0);
}

#[test]
fn what_is_missing_is_named() {
    let w = world();
    let message = |weights, inputs: &Inputs| {
        let objective = Objective {
            weights,
            ..Objective::from(Method::Clip)
        };
        objective.evaluate(&w.tape, inputs).unwrap_err().to_string()
    };
    let kd = Weights::from(Method::ClipKd);
    let no = w.inputs();
    assert!(
        message(
            kd,
            &Inputs {
                teacher: None,
                ..no.clone()
            }
        )
        .contains("teacher")
    );
    assert!(
        message(
            kd,
            &Inputs {
                icl_scale: None,
                ..no.clone()
            }
        )
        .contains("icl")
    );
    let text = message(
        kd,
        &Inputs {
            heads: None,
            ..no.clone()
        },
    );
    assert!(
        text.contains("width 5") && text.contains("width 8"),
        "{text}"
    );
    assert!(message(Weights::default(), &no).contains("every weight is 0"));
}
