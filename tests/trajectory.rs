//! Twenty AdamW steps of the whole objective against PyTorch in f64 (fixture
//! `tests/fixtures/torch/trajectory`): every loss term at every step, and the final parameters.

use clip_distill::autodiff::Tape;
use clip_distill::backend::{Backend, Op};
use clip_distill::io::{self, Entry, File};
use clip_distill::loss::{
    Features, Head, Heads, Inputs, Method, Objective, ObjectiveValue, TeacherFeatures,
};
use clip_distill::model::{Bound, Clip, ClipConfig, Parameters};
use clip_distill::ops;
use clip_distill::optim::{self, AdamW, AdamWConfig, Schedule, ScheduleKind};
use common::*;
use std::path::Path;
use std::sync::Arc;

#[path = "common/check.rs"]
mod check;
mod common;
mod oracle;
#[path = "common/tolerance.rs"]
mod tolerance;

fn model(name: &str) -> Clip {
    let json = std::fs::read_to_string(fixture(name)).expect("config");
    Clip::new(ClipConfig::from_json(&json).expect("valid config"))
}

fn load(file: &File, prefix: &str, clip: &Clip, backend: &dyn Backend) -> Parameters {
    io::clip_from_entries(Path::new(prefix), part(file, prefix), clip, backend).expect("fits")
}

const HEADS: [&str; 5] = [
    "heads.image.weight",
    "heads.image.bias",
    "heads.text.weight",
    "heads.text.bias",
    "heads.icl_logit_scale",
];

fn head(bound: &Bound, modality: &str) -> Head {
    let var = |part: &str| {
        bound
            .var(&format!("heads.{modality}.{part}"))
            .expect("head")
            .clone()
    };
    Head {
        weight: var("weight"),
        bias: var("bias"),
    }
}

#[test]
fn twenty_steps_follow_pytorch() {
    for backend in check::backends(Op::ALL) {
        follows_pytorch(backend);
    }
}

fn follows_pytorch(backend: Arc<dyn Backend>) {
    let file = io::read(&fixture("trajectory.safetensors")).expect("fixture");
    let (student, teacher) = (
        model("trajectory_student.json"),
        model("trajectory_teacher.json"),
    );
    let frozen = load(&file, "teacher.", &teacher, backend.as_ref());
    let mut parameters = load(&file, "student.", &student, backend.as_ref());
    for name in HEADS {
        let entry = file.get(name).expect("head");
        let shape = if entry.shape.is_empty() {
            vec![1]
        } else {
            entry.shape.clone()
        };
        parameters.push(
            name,
            backend.upload(&shape, values(&file, name)).expect("upload"),
        );
    }
    let config = AdamWConfig {
        beta1: 0.9,
        beta2: 0.98,
        eps: 1e-6,
        weight_decay: 0.1,
    };
    let mut adamw = AdamW::new(config, backend.as_ref(), &parameters).expect("moments");
    let schedule = Schedule {
        kind: ScheduleKind::Cosine,
        base: 1e-3,
        warmup: 5,
        total: 20,
    };
    let objective = Objective::from(Method::IntraKd);

    for step in 0..20 {
        let (shape, pixels) =
            channels_last(file.get(&format!("step.{step}.image")).expect("images"));
        let images = backend.upload(&shape, &pixels).expect("upload");
        let texts = texts(file.get(&format!("step.{step}.text")).expect("texts"));
        let encode = |clip: &Clip, tape: &Tape, bound: &Bound| Features {
            image: clip
                .encode_image(tape, bound, &images)
                .expect("image tower"),
            text: clip.encode_text(tape, bound, &texts).expect("text tower"),
        };
        let tape = Tape::frozen(backend.clone());
        let bound = frozen.bind(&tape);
        let scale = ops::exp(&tape, bound.var("logit_scale").expect("scale")).expect("exp");
        let features = encode(&teacher, &tape, &bound);
        let unit = |x| ops::l2_normalize(&tape, x).expect("unit").value().clone();
        let teacher_features = TeacherFeatures {
            image: unit(&features.image),
            text: unit(&features.text),
            scale: scale.value().clone(),
        };

        let tape = Tape::new(backend.clone());
        let bound = parameters.bind(&tape);
        let features = encode(&student, &tape, &bound);
        let exp = |name| ops::exp(&tape, bound.var(name).expect("scale")).expect("exp");
        let (scale, icl_scale) = (exp("logit_scale"), exp("heads.icl_logit_scale"));
        let heads = Heads {
            image: head(&bound, "image"),
            text: head(&bound, "text"),
        };
        let inputs = Inputs {
            teacher: Some(&teacher_features),
            heads: Some(&heads),
            icl_scale: Some(&icl_scale),
            ..Inputs::new(&features, &scale)
        };
        let ObjectiveValue { total, terms, .. } = objective.evaluate(&tape, &inputs).expect("loss");
        let check = |name: &str, got: f32| {
            let want = values(&file, &format!("trace.{name}"))[step];
            let error = (got - want).abs();
            assert!(
                error <= tolerance::TRAJECTORY * want.abs().max(1.0),
                "step {step} {name}: {got}, not {want}"
            );
        };
        for (name, term) in &terms {
            check(name, backend.download(term.value()).expect("download")[0]);
        }
        assert_eq!(terms.len(), 5, "every term takes part");
        check(
            "total",
            backend.download(total.value()).expect("download")[0],
        );
        let mut grads = tape.backward(&total).expect("backward");
        let collected = optim::collect(&parameters, &bound, &mut grads);
        drop((tape, bound, features, heads));
        let lr = schedule.at(step as u64);
        let norm = adamw
            .step(backend.as_ref(), &mut parameters, &collected, lr, None)
            .expect("step");
        check("grad_norm", backend.download(&norm).expect("download")[0]);
        check("lr", lr as f32);
    }

    let last = part(&file, "final.");
    let heads = last
        .entries
        .iter()
        .filter(|e| e.name.starts_with("heads."))
        .cloned();
    let heads: Vec<Entry> = heads.collect();
    let rest = last
        .entries
        .into_iter()
        .filter(|e| !e.name.starts_with("heads."))
        .collect();
    let rest = File {
        entries: rest,
        ..File::default()
    };
    let want = io::clip_from_entries(Path::new("final"), rest, &student, backend.as_ref())
        .expect("final parameters fit");
    for p in parameters.iter() {
        let got = backend.download(&p.tensor).expect("download");
        let want = match want.get(&p.name) {
            Some(w) => backend.download(&w.tensor).expect("download"),
            None => {
                let e = heads.iter().find(|e| e.name == p.name).expect("final head");
                e.as_f32().expect("f32").to_vec()
            }
        };
        // The key bias's gradient is mathematically zero, and Adam turns its rounding noise into
        // steps of up to lr: nothing to compare there.
        let third = got.len() / 3;
        let key = if p.name.ends_with("in_proj_bias") {
            third..2 * third
        } else {
            0..0
        };
        let worst = (0..got.len())
            .filter(|i| !key.contains(i))
            .map(|i| (got[i] - want[i]).abs())
            .fold(0.0, f32::max);
        assert!(
            worst <= tolerance::FINAL_PARAMETERS,
            "{} ends {worst:e} away",
            p.name
        );
    }
}
