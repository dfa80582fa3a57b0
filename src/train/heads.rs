//! The parameters that losses have of their own, beside the student's: projections to the teacher's width,
//! the heads of `afd`, learned scales. All are called `heads.…`, begin from the seed, are trained and
//! checkpointed like any other parameter, and are not part of the model that a run exports.

use crate::autodiff::{Tape, Var};
use crate::backend::Backend;
use crate::loss::{Features, Fusion, FusionHead, Head, Heads, Inputs, Objective, TeacherFeatures};
use crate::model::{Bound, Parameters, Spec, draw};
use crate::ops;
use crate::settings::error::{Result, failed};
use crate::tensor::Tensor;

/// Weight decay of every head under `--clip-kd-compat`: PyTorch's default of AdamW, which CLIP-KD's code
/// leaves to the parameters of its loss module, biases and scales included (`main_kd.py`).
const COMPAT_DECAY: f32 = 0.01;

/// Which heads an objective has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LossHeads {
    /// d_S and d_T.
    widths: (usize, usize),
    /// Linear(d_S → d_T) of both modalities.
    projects: bool,
    /// The scale of `icl` and `cross_kd`.
    interacts: bool,
    /// Linear(d_S + d_T → d_S) of both modalities, and the scale of `afd`.
    fuses: bool,
    /// `--clip-kd-compat`: scales are used as they are, without exp; `gd` divides by the student's.
    compat: bool,
}

impl LossHeads {
    /// The heads of `objective` for a student's and a teacher's embedding width.
    pub(crate) fn new(objective: &Objective, student: usize, teacher: usize) -> Self {
        let weights = &objective.weights;
        Self {
            widths: (student, teacher),
            projects: weights.need_projection() && student != teacher,
            interacts: weights.need_interactive_scale(),
            fuses: weights.afd != 0.0,
            compat: objective.clip_kd_compat,
        }
    }

    /// Name of a learned scale. A log-scale ends with `logit_scale`, by which the optimiser knows what to
    /// clamp to [0, ln 100]; CLIP-KD's code clamps none of those that it uses as they are.
    fn scale_name(&self, loss: &str) -> String {
        match self.compat {
            false => format!("heads.{loss}_logit_scale"),
            true => format!("heads.{loss}_scale"),
        }
    }

    /// Names, shapes and beginnings of all heads, in order. Linear layers begin as torch's do: uniform in
    /// ±1/√fan_in. Scales begin at ln(1/0.07), with or without an exp to come.
    fn plan(&self) -> Vec<(String, Vec<usize>, Spec)> {
        let mut plan = Vec::new();
        let (own, other) = self.widths;
        let uniform = |fan_in: usize| Spec::Uniform((fan_in as f32).sqrt().recip());
        for modality in ["image", "text"].into_iter().filter(|_| self.projects) {
            let spec = uniform(own);
            let weight = format!("heads.{modality}.weight");
            plan.push((weight, vec![other, own], spec));
            plan.push((format!("heads.{modality}.bias"), vec![other], spec));
        }
        let scale = Spec::Constant((1.0f32 / 0.07).ln());
        if self.interacts {
            plan.push((self.scale_name("icl"), vec![1], scale));
        }
        if self.fuses {
            for modality in ["image", "text"] {
                let spec = uniform(own + other);
                for (part, shape) in [
                    ("student.weight", vec![own, own]),
                    ("teacher.weight", vec![own, other]),
                    ("bias", vec![own]),
                ] {
                    plan.push((format!("heads.afd.{modality}.{part}"), shape, spec));
                }
            }
            plan.push((self.scale_name("afd"), vec![1], scale));
        }
        plan
    }

    /// Numbers in all heads.
    pub(crate) fn elements(&self) -> usize {
        let plan = self.plan();
        plan.iter()
            .map(|(_, s, _)| s.iter().product::<usize>())
            .sum()
    }

    /// Appends the heads to `parameters`.
    pub(crate) fn add(
        &self,
        backend: &dyn Backend,
        parameters: &mut Parameters,
        seed: u64,
    ) -> Result<()> {
        for (name, shape, spec) in self.plan() {
            let values = draw(seed, &name, shape.iter().product(), spec);
            let tensor = backend.upload(&shape, &values).map_err(failed)?;
            parameters.push(name.clone(), tensor);
            if self.compat
                && let Some(head) = parameters.get_mut(&name)
            {
                head.own_decay = Some(COMPAT_DECAY);
            }
        }
        Ok(())
    }

    /// The heads on `tape`, and the student's scale α = exp(logit_scale).
    pub(crate) fn bind(&self, tape: &Tape, bound: &Bound) -> Result<BoundHeads> {
        let var = |name: &str| bound.var(name).cloned().map_err(failed);
        let exp = |x: &Var| ops::exp(tape, x).map_err(failed);
        let scale_of = |loss: &str| -> Result<Var> {
            let parameter = var(&self.scale_name(loss))?;
            match self.compat {
                false => exp(&parameter),
                true => Ok(parameter),
            }
        };
        let head = |modality: &str| -> Result<Head> {
            Ok(Head {
                weight: var(&format!("heads.{modality}.weight"))?,
                bias: var(&format!("heads.{modality}.bias"))?,
            })
        };
        let fusion = |modality: &str| -> Result<FusionHead> {
            let part = |name: &str| var(&format!("heads.afd.{modality}.{name}"));
            Ok(FusionHead {
                student: part("student.weight")?,
                teacher: part("teacher.weight")?,
                bias: part("bias")?,
            })
        };
        let log = var("logit_scale")?;
        let mut heads = BoundHeads {
            scale: exp(&log)?,
            projections: None,
            icl_scale: None,
            fusion: None,
            afd_scale: None,
            inverse: None,
        };
        if self.projects {
            heads.projections = Some(Heads {
                image: head("image")?,
                text: head("text")?,
            });
        }
        if self.interacts {
            heads.icl_scale = Some(scale_of("icl")?);
        }
        if self.fuses {
            heads.fusion = Some(Fusion {
                image: fusion("image")?,
                text: fusion("text")?,
            });
            heads.afd_scale = Some(scale_of("afd")?);
        }
        if self.compat {
            // 1/α = exp(−logit_scale).
            let negative = ops::weighted_sum(tape, &[(&log, -1.0)]).map_err(failed)?;
            heads.inverse = Some(exp(&negative)?);
        }
        Ok(heads)
    }
}

/// Scales and heads on a tape.
pub(crate) struct BoundHeads {
    /// α of the student.
    pub(crate) scale: Var,
    projections: Option<Heads>,
    icl_scale: Option<Var>,
    fusion: Option<Fusion>,
    afd_scale: Option<Var>,
    inverse: Option<Var>,
}

impl BoundHeads {
    /// What the losses read: `student`'s features, those of masked images if any, the teacher's, and
    /// 1/α_T.
    pub(crate) fn inputs<'a>(
        &'a self,
        student: &'a Features,
        masked_image: Option<&'a Var>,
        teacher: Option<(&'a TeacherFeatures, &'a Tensor)>,
    ) -> Inputs<'a> {
        Inputs {
            teacher: teacher.map(|(features, _)| features),
            heads: self.projections.as_ref(),
            icl_scale: self.icl_scale.as_ref(),
            masked_image,
            fusion: self.fusion.as_ref(),
            afd_scale: self.afd_scale.as_ref(),
            inverse_scales: self
                .inverse
                .as_ref()
                .zip(teacher.map(|(_, inverse)| inverse)),
            ..Inputs::new(student, &self.scale)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::io::{self, File};
    use crate::loss::{Method, Weights};
    use std::path::Path;
    use std::sync::Arc;

    fn read(name: &str) -> File {
        let path = format!("{}/tests/fixtures/torch/{name}", env!("CARGO_MANIFEST_DIR"));
        io::read(Path::new(&path)).unwrap()
    }

    /// The fixture's name of a parameter.
    fn published_name(ours: &str) -> String {
        let name = ours.trim_start_matches("heads.");
        let name = match name.strip_prefix("afd.") {
            Some(part) => format!("fusion_{}", part.trim_end_matches(".weight")),
            None if name.starts_with("image") || name.starts_with("text") => format!("head_{name}"),
            None => name.into(),
        };
        name.replace('.', "_")
    }

    /// `--clip-kd-compat` against CLIP-KD's losses as its code has them, each term, and the gradients of
    /// features, scales and heads.
    #[test]
    fn compatible_losses_are_the_published_ones() {
        for (case, teacher_width, afd) in [("equal", 8, 1.0), ("different", 11, 0.0)] {
            let file = read(&format!("clip_kd_published_{case}.safetensors"));
            let backend: Arc<dyn Backend> = Arc::new(Cpu::new());
            let tensor = |name: &str| {
                let entry = file.get(name).unwrap_or_else(|| panic!("no {name}"));
                let shape = match entry.shape.as_slice() {
                    [] => vec![1],
                    shape => shape.to_vec(),
                };
                backend.upload(&shape, entry.as_f32().unwrap()).unwrap()
            };
            let objective = Objective {
                weights: Weights {
                    cross_kd: 1.0,
                    gd: 1e6,
                    afd,
                    ..Method::ClipKd.into()
                },
                clip_kd_compat: true,
                ..Objective::from(Method::ClipKd)
            };
            let heads = LossHeads::new(&objective, 8, teacher_width);
            let mut parameters = Parameters::default();
            parameters.push("logit_scale", tensor("logit_scale"));
            heads.add(backend.as_ref(), &mut parameters, 1).unwrap();
            let count = parameters.elements();
            assert_eq!(count, 1 + heads.elements());
            for p in parameters.iter_mut() {
                let value = tensor(&published_name(&p.name));
                assert_eq!(value.shape(), p.tensor.shape(), "{}", p.name);
                if p.name.ends_with("scale") {
                    let ours = backend.download(&p.tensor).unwrap();
                    assert_eq!(ours, backend.download(&value).unwrap(), "{}", p.name);
                }
                let decay = (p.name != "logit_scale").then_some(0.01);
                assert_eq!(p.own_decay, decay, "{}", p.name);
                p.tensor = value;
            }

            let tape = Tape::new(backend.clone());
            let bound = parameters.bind(&tape);
            let features = Features {
                image: tape.leaf(tensor("v_raw")),
                text: tape.leaf(tensor("s_raw")),
            };
            let log = tensor("teacher_logit_scale");
            let power = |sign: f32| {
                let log = backend.weighted_sum(&[(&log, sign)]).unwrap();
                backend.exp(&log).unwrap()
            };
            let teacher = TeacherFeatures {
                image: tensor("V"),
                text: tensor("T"),
                scale: power(1.0),
            };
            let inverse = power(-1.0);
            let ready = heads.bind(&tape, &bound).unwrap();
            let inputs = ready.inputs(&features, None, Some((&teacher, &inverse)));
            let value = objective.evaluate(&tape, &inputs).unwrap();
            let number = |t: &Tensor| backend.download(t).unwrap()[0];
            for (name, term) in value.terms.iter().chain([&("total", value.total.clone())]) {
                let want = match *name {
                    "total" => "total".into(),
                    name => format!("term_{name}"),
                };
                let (got, want) = (number(term.value()), number(&tensor(&want)));
                // A loss's value; see tests/common/tolerance.rs.
                assert!(
                    (got - want).abs() <= 1e-5 * want.abs(),
                    "{name}: {got}, not {want}"
                );
            }
            assert_eq!(value.terms.len(), if afd == 0.0 { 6 } else { 7 });

            let grads = tape.backward(&value.total).unwrap();
            let of_features = [("v_raw", &features.image), ("s_raw", &features.text)];
            let of_parameters = parameters.iter().map(|p| {
                let var = bound.var(&p.name).unwrap();
                (published_name(&p.name), var)
            });
            let all = of_features
                .into_iter()
                .map(|(name, var)| (name.into(), var));
            for (name, var) in all.chain(of_parameters) {
                let got = backend.download(grads.get(var).unwrap()).unwrap();
                let want = backend.download(&tensor(&format!("grad_{name}"))).unwrap();
                let largest = want.iter().fold(0f32, |m, x| m.max(x.abs()));
                for (got, want) in got.iter().zip(&want) {
                    let off = (got - want).abs();
                    assert!(off <= 1e-4 * largest, "{case} {name}: {got}, not {want}");
                }
            }
        }
    }
}
