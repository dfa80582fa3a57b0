//! The weighted sum of losses: what is computed, what it adds up to, and what it asks for.

use clip_distill::autodiff::{Tape, Var};
use clip_distill::backend::IntraWeights;
use clip_distill::backend::cpu::Cpu;
use clip_distill::loss::{
    Features, Fusion, FusionHead, Head, Heads, Inputs, Intra, IntraScale, Method, Modality,
    Objective, ObjectiveValue, TeacherFeatures, Weights,
};
use clip_distill::tensor::Tensor;
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
    masked_image: Var,
    fusion: Fusion,
    afd_scale: Var,
    inverse_scales: (Var, Tensor),
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
    let masked_image = tape.leaf(random(&[N, STUDENT]));
    let mut fusion_head = || FusionHead {
        student: tape.leaf(random(&[STUDENT, STUDENT])),
        teacher: tape.leaf(random(&[STUDENT, TEACHER])),
        bias: tape.leaf(random(&[STUDENT])),
    };
    let fusion = Fusion {
        image: fusion_head(),
        text: fusion_head(),
    };
    let teacher = TeacherFeatures {
        image: unit(random(&[N, TEACHER])),
        text: unit(random(&[N, TEACHER])),
        scale: number(20.0),
    };
    let (scale, icl_scale) = (tape.leaf(number(14.3)), tape.leaf(number(10.0)));
    let afd_scale = tape.leaf(number(5.0));
    let inverse_scales = (tape.leaf(number(1.0 / 14.3)), number(1.0 / 20.0));
    World {
        tape,
        student,
        scale,
        icl_scale,
        heads,
        masked_image,
        fusion,
        afd_scale,
        inverse_scales,
        teacher,
    }
}

/// Every loss, each with another weight.
fn every_loss(clip_kd_compat: bool) -> Objective {
    Objective {
        weights: Weights {
            clip: 1.0,
            crd: 2.0,
            fd: 3.0,
            icl: 4.0,
            cross_kd: 5.0,
            mfd: 6.0,
            gd: 7.0,
            afd: 8.0,
            affinity: 9.0,
            intra: 10.0,
        },
        clip_kd_compat,
        ..Objective::from(Method::Clip)
    }
}

impl World {
    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            teacher: Some(&self.teacher),
            heads: Some(&self.heads),
            icl_scale: Some(&self.icl_scale),
            masked_image: Some(&self.masked_image),
            fusion: Some(&self.fusion),
            afd_scale: Some(&self.afd_scale),
            inverse_scales: Some((&self.inverse_scales.0, &self.inverse_scales.1)),
            ..Inputs::new(&self.student, &self.scale)
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
        (Method::TinyClip, &["affinity"]),
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
        adds_up(&w, &value, weight);
    }
    let w = world();
    let value = every_loss(false).evaluate(&w.tape, &w.inputs()).unwrap();
    let names = [
        "clip", "crd", "fd", "icl", "cross_kd", "mfd", "gd", "afd", "affinity", "intra",
    ];
    assert_eq!(value.terms.len(), names.len());
    adds_up(&w, &value, |name| {
        1.0 + names.iter().position(|n| *n == name).unwrap() as f32
    });
}

fn adds_up(w: &World, value: &ObjectiveValue, weight: impl Fn(&str) -> f32) {
    let terms = value.terms.iter();
    let want: f32 = terms.map(|(name, x)| weight(name) * w.number(x)).sum();
    let total = w.number(&value.total);
    assert!((total - want).abs() <= 1e-5 * want, "{total} for {want}");
}

/// The anchors that are returned with the value are those of the value: Σ_i w_i d_i over the modalities
/// that take part, and g_i is the formula of each weighting.
#[test]
fn the_anchors_add_up_to_the_intra_term() {
    use IntraWeights::{Clip, Detached, Divergence, Stable, Uniform};
    let both = &["image", "text"][..];
    for (modality, names) in [
        (Modality::Both, both),
        (Modality::Image, &both[..1]),
        (Modality::Text, &both[1..]),
    ] {
        for weights in [Divergence, Stable, Detached, Uniform, Clip] {
            let w = world();
            let mut objective = Objective::from(Method::IntraKd);
            objective.intra = Intra { weights, modality };
            let value = objective.evaluate(&w.tape, &w.inputs()).unwrap();
            let got: Vec<_> = value.anchors.iter().map(|a| a.modality).collect();
            assert_eq!(got, names);
            let read = |t| -> Vec<f64> {
                let values = w.tape.backend().download(t).unwrap();
                values.into_iter().map(f64::from).collect()
            };
            let mut sum = 0.0;
            for anchors in &value.anchors {
                let d = read(&anchors.divergence);
                let raw = anchors.weight.as_ref().map_or_else(|| vec![1.0; N], read);
                let total: f64 = raw.iter().sum();
                let loss: f64 = raw.iter().zip(&d).map(|(w, d)| w / total * d).sum();
                sum += loss;
                assert_eq!(raw == d, matches!(weights, Divergence | Stable | Detached));
                for ((g, w), d) in read(&anchors.slope).iter().zip(&raw).zip(&d) {
                    let want = match weights {
                        Divergence => (2.0 * d - loss) / total,
                        Stable => 2.0 * d / total,
                        Detached | Uniform | Clip => w / total,
                    };
                    assert!((g - want).abs() <= 1e-5, "{weights:?}: {g}, not {want}");
                }
            }
            let (_, term) = value
                .terms
                .iter()
                .find(|(name, _)| *name == "intra")
                .unwrap();
            let term = f64::from(w.number(term));
            assert!(
                (term - sum).abs() <= 1e-5 * sum,
                "{weights:?}: {term} {sum}"
            );
        }
    }
    let w = world();
    let value = Objective::from(Method::ClipKd).evaluate(&w.tape, &w.inputs());
    assert!(value.unwrap().anchors.is_empty());
}

#[test]
fn every_parameter_that_a_loss_uses_gets_a_gradient() {
    let w = world();
    let value = every_loss(true).evaluate(&w.tape, &w.inputs()).unwrap();
    let grads = w.tape.backward(&value.total).unwrap();
    let (image, text) = (&w.heads.image, &w.heads.text);
    let fused = &w.fusion.text;
    for (name, x) in [
        ("masked image", &w.masked_image),
        ("fusion of student", &fused.student),
        ("fusion of teacher", &fused.teacher),
        ("fusion bias", &fused.bias),
        ("afd scale", &w.afd_scale),
        ("1/α", &w.inverse_scales.0),
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
fn compatible_gd_divides_by_the_scales() {
    let only = |gd, clip_kd_compat| Objective {
        weights: Weights {
            gd,
            ..Weights::default()
        },
        clip_kd_compat,
        ..Objective::from(Method::Clip)
    };
    let w = world();
    let value = only(1.0, true).evaluate(&w.tape, &w.inputs()).unwrap();
    let teacher = TeacherFeatures {
        scale: w.inverse_scales.1.clone(),
        ..w.teacher.clone()
    };
    let divided = Inputs {
        teacher: Some(&teacher),
        scale: &w.inverse_scales.0,
        ..w.inputs()
    };
    let same = only(1.0, false).evaluate(&w.tape, &divided).unwrap();
    let multiplied = only(1.0, false).evaluate(&w.tape, &w.inputs()).unwrap();
    assert_eq!(w.number(&value.total), w.number(&same.total));
    assert!(w.number(&value.total) < 1e-3 * w.number(&multiplied.total));
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
    let bare = Inputs {
        teacher: no.teacher,
        heads: no.heads,
        ..Inputs::new(&w.student, &w.scale)
    };
    let zero = Weights::default();
    for (weights, what) in [
        (Weights { mfd: 1.0, ..zero }, "masked images"),
        (Weights { afd: 1.0, ..zero }, "afd"),
        (
            Weights {
                cross_kd: 1.0,
                ..zero
            },
            "scale of its own",
        ),
    ] {
        let text = message(weights, &bare);
        assert!(text.contains(what), "{text}");
    }
}
