//! Every loss on every backend at hand against PyTorch in f64: `fixtures/torch/losses.json` lists the cases, and
//! the README beside it says what each tensor is.

use check::{Tenant, tenants_with};
use clip_distill::autodiff::{Grads, Tape, Var};
use clip_distill::backend::Activation;
use clip_distill::backend::IntraWeights;
use clip_distill::backend::Op;
use clip_distill::loss::{self, Features, Fusion, FusionHead, Intra, Modality, TeacherFeatures};
use clip_distill::ops;
use clip_distill::tensor::Tensor;
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

#[path = "common/check.rs"]
mod check;
mod oracle;
#[path = "common/tolerance.rs"]
mod tolerance;

/// By which `fixtures/loss_cases.py` multiplies CLIP-KD's published `gd`.
const PUBLISHED_GD_WEIGHT: f32 = 1e4;

struct Fixture<'a> {
    tape: Tape,
    file: SafeTensors<'a>,
    case: &'a str,
    tenant: String,
    leaves: HashMap<&'static str, Var>,
}

impl Fixture<'_> {
    fn values(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let view = self.file.tensor(&format!("{}.{name}", self.case)).unwrap();
        let bytes = view.data().as_chunks::<4>().0;
        (
            view.shape().to_vec(),
            bytes.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        )
    }

    fn tensor(&self, name: &str) -> Tensor {
        let (mut shape, values) = self.values(name);
        if shape.is_empty() {
            shape.push(1);
        }
        self.tape.backend().upload(&shape, &values).unwrap()
    }

    /// A leaf whose gradient will be compared.
    fn leaf(&mut self, name: &'static str) -> Var {
        let var = self.tape.leaf(self.tensor(name));
        self.leaves.insert(name, var.clone());
        var
    }

    fn projected(&mut self, raw: &'static str, weight: &'static str, bias: &'static str) -> Var {
        let (x, w, b) = (self.leaf(raw), self.leaf(weight), self.leaf(bias));
        let y = ops::linear(&self.tape, &x, &w, Some(&b), None, Activation::None).unwrap();
        ops::l2_normalize(&self.tape, &y).unwrap()
    }

    fn compare(&self, grads: &Grads) {
        for (name, leaf) in &self.leaves {
            let (_, want) = self.values(&format!("grad_{name}"));
            let got = match grads.get(leaf) {
                Some(g) => self.tape.backend().download(g).unwrap(),
                None => vec![0.0; want.len()],
            };
            let largest = want.iter().fold(0.0f32, |m, g| m.max(g.abs()));
            for (k, (got, want)) in got.iter().zip(&want).enumerate() {
                let error = (got - want).abs();
                assert!(
                    error
                        <= (tolerance::PARAMETER_GRADIENT * largest).max(tolerance::ZERO_GRADIENT),
                    "{} on {}: grad_{name}[{k}]: {got} for {want}, largest {largest}",
                    self.case,
                    self.tenant
                );
            }
        }
    }
}

fn intra_weights(name: &str) -> IntraWeights {
    match name {
        "divergence" => IntraWeights::Divergence,
        "stable" => IntraWeights::Stable,
        "detached" => IntraWeights::Detached,
        "uniform" => IntraWeights::Uniform,
        "clip" => IntraWeights::Clip,
        other => panic!("weights {other}"),
    }
}

impl Fixture<'_> {
    fn fusion_head(
        &mut self,
        student: &'static str,
        teacher: &'static str,
        bias: &'static str,
    ) -> FusionHead {
        FusionHead {
            student: self.leaf(student),
            teacher: self.leaf(teacher),
            bias: self.leaf(bias),
        }
    }

    /// exp(sign · a leaf).
    fn exp(&mut self, name: &'static str, sign: f32) -> Var {
        let log = self.leaf(name);
        let log = ops::weighted_sum(&self.tape, &[(&log, sign)]).unwrap();
        ops::exp(&self.tape, &log).unwrap()
    }
}

fn check(tenant: &Tenant, case: &Value, bytes: &[u8]) {
    let text = |key: &str| case[key].as_str().unwrap_or_default();
    let mut f = Fixture {
        tape: Tape::new(tenant.backend.clone()),
        file: SafeTensors::deserialize(bytes).unwrap(),
        case: text("case"),
        tenant: tenant.name(),
        leaves: HashMap::new(),
    };
    let student = if case["heads"] == true {
        Features {
            image: f.projected("v_raw", "head_image_weight", "head_image_bias"),
            text: f.projected("s_raw", "head_text_weight", "head_text_bias"),
        }
    } else {
        Features {
            image: f.leaf("v"),
            text: f.leaf("s"),
        }
    };
    let teacher = TeacherFeatures {
        image: f.tensor("V"),
        text: f.tensor("T"),
        scale: f.tensor("alpha_t"),
    };
    let scale = match text("loss") {
        "gd_published" => f.exp("logit_scale", -1.0),
        _ => f.leaf("alpha"),
    };
    let value = match text("loss") {
        "clip" => loss::clip(&f.tape, &student, &scale),
        "crd" => loss::crd(&f.tape, &student, &scale, &teacher),
        "affinity" => loss::affinity(&f.tape, &student, &scale, &teacher),
        "fd" => loss::fd(&f.tape, &student, &teacher),
        "cross_kd" => loss::cross_kd(&f.tape, &student, &scale, &teacher),
        "gd" => loss::gd(&f.tape, &student, &scale, &teacher),
        "gd_published" => {
            let inverse = 1.0 / f.values("alpha_t").1[0];
            let teacher = TeacherFeatures {
                scale: f.tape.backend().upload(&[1], &[inverse]).unwrap(),
                ..teacher
            };
            let value = loss::gd(&f.tape, &student, &scale, &teacher).unwrap();
            ops::weighted_sum(&f.tape, &[(&value, PUBLISHED_GD_WEIGHT)])
        }
        "afd" => {
            let mut head = |m: [&'static str; 3]| f.fusion_head(m[0], m[1], m[2]);
            let fusion = Fusion {
                image: head([
                    "fusion_image_student",
                    "fusion_image_teacher",
                    "fusion_image_bias",
                ]),
                text: head([
                    "fusion_text_student",
                    "fusion_text_teacher",
                    "fusion_text_bias",
                ]),
            };
            loss::afd(&f.tape, &student, &scale, &teacher, &fusion)
        }
        "icl" => loss::icl(&f.tape, &student, &scale, &teacher),
        "intra" => {
            let options = Intra {
                weights: intra_weights(text("weights")),
                modality: match text("modality") {
                    "image" => Modality::Image,
                    "text" => Modality::Text,
                    _ => Modality::Both,
                },
            };
            let own = match &case["scale"] {
                Value::Number(x) => {
                    let x = x.as_f64().unwrap() as f32;
                    Var::constant(f.tape.backend().upload(&[1], &[x]).unwrap())
                }
                name if name == "detached" => scale.detach(),
                _ => scale.clone(),
            };
            loss::intra(&f.tape, &student, &own, &teacher, &options, &scale)
        }
        other => panic!("loss {other}"),
    }
    .unwrap();
    let got = f.tape.backend().download(value.value()).unwrap()[0];
    let want = f.values("loss").1[0];
    assert!(
        (got - want).abs() <= tolerance::OUTPUT * want.abs().max(tolerance::SMALL_LOSS as f32),
        "{} on {}: {got} for {want}",
        f.case,
        f.tenant
    );
    let grads = f.tape.backward(&value).unwrap();
    f.compare(&grads);
}

#[test]
fn losses_match_pytorch() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&read("losses.json")).unwrap();
    let mut files = HashMap::new();
    for tenant in tenants_with(&[
        Op::Relation,
        Op::RelationCurvature,
        Op::IntraWeighting,
        Op::Linear,
        Op::L2Normalize,
    ]) {
        let mut compared = 0;
        for case in &cases {
            // Heads are matrix products, in bf16 there; losses are not.
            if tenant.low.is_some() && (case["heads"] == true || case["loss"] == "afd") {
                continue;
            }
            let name = case["file"].as_str().unwrap();
            let bytes = files.entry(name).or_insert_with(|| read(name));
            check(&tenant, case, bytes);
            compared += 1;
        }
        let all = cases.len();
        println!("{compared} of {all} cases compared on {}", tenant.name());
        let least = if tenant.low.is_some() { 90 } else { 110 };
        assert!(compared >= least, "only {compared} cases compared");
    }
}
