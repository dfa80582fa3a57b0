//! Automatic weight inheritance (TinyCLIP: Wu et al., arXiv 2309.12314; its `L0Module`): hard concrete gates on
//! the residual stream's channels, the heads, the hidden MLP channels and the blocks of a tower learn which
//! to keep, under the constraint that a share t of the blocks' weights goes:
//!
//! ```text
//! L = λ₁ |t − t̂| + λ₂ (t − t̂)²        t̂ = 1 − expected weights / all weights
//! ```
//!
//! TinyCLIP's published code has max(t − t̂, 0) for t − t̂: gates that have gone too far then stay there, and the
//! model becomes smaller than asked for. The multipliers begin at 10 and climb L; t grows from its start to its
//! target over a warm-up. Gates are few: they live on the host, are drawn there once a step, and reach the
//! device as factors of weights (`Gated`), whose gradients come back.

mod adam;
mod concrete;
mod gated;
#[cfg(test)]
mod tests;
mod tower;

pub(crate) use gated::Gated;

use crate::backend::Backend;
use crate::io::{Data, Entry};
use crate::model::inherit::{Gate, Inheritance, Tower, logit_scale, manual};
use crate::model::{Clip, ClipConfig, Layers, Parameters};
use crate::settings::error::{Result, failed, usage};
use crate::tensor::Tensor;
use crate::tensor::rng::{Philox, Purpose};
use adam::Adam;
use std::collections::BTreeMap;
use tower::{Opened, Sizes};

/// What the gates are to reach, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constraint {
    /// Share of the weights that is to go at the first step (`--start-sparsity`).
    pub start: f64,
    /// Share that is to go in the end (`--target-sparsity`).
    pub target: f64,
    /// Steps from the one to the other (`--sparsity-warmup`).
    pub warmup: u64,
    /// Whether both towers share one constraint (`--total-loss-flag`).
    pub joint: bool,
    /// Learning rate of the gates' logits.
    pub rate: f64,
    /// Rate at which the multipliers climb (`--l0lr`).
    pub multiplier_rate: f64,
}

impl Constraint {
    /// The share that is to go at the 0-based `step`.
    pub fn at(&self, step: u64) -> f64 {
        let progress = match self.warmup {
            0 => 1.0,
            n => (step as f64 / n as f64).min(1.0),
        };
        self.start + (self.target - self.start) * progress
    }
}

/// What the multipliers begin with.
const FIRST_MULTIPLIER: f32 = 10.0;

/// The gates of one tower in training.
#[derive(Clone, Debug, PartialEq)]
struct TowerGates {
    tower: Tower,
    sizes: Sizes,
    logits: Vec<f32>,
    adam: Adam,
    /// λ₁ and λ₂.
    multipliers: Vec<f32>,
    climbing: Adam,
}

/// All gates in training.
#[derive(Clone, Debug)]
pub struct Gates {
    towers: Vec<TowerGates>,
    constraint: Constraint,
    seed: u64,
    /// Steps taken.
    steps: u64,
}

/// The gates of one step.
pub(super) struct Drawn {
    opened: Vec<Opened>,
    pub(super) gated: Gated,
    leaves: Vec<(usize, Gate)>,
}

/// What a step says of the gates, by name.
pub type GateReport = Vec<(String, f64)>;

impl Gates {
    /// Gates on `towers` of a model.
    ///
    /// # Errors
    /// For a ResNet's image tower, which has no heads and residual stream of the kind.
    pub fn new(
        config: &ClipConfig,
        towers: &[Tower],
        constraint: Constraint,
        seed: u64,
    ) -> Result<Self> {
        if towers.contains(&Tower::Image) && config.vision_cfg.is_resnet() {
            return usage(
                "--prune-image: only a ViT has gates; inherit a smaller ResNet with --inherit-from",
            );
        }
        let gated = |&tower: &Tower| {
            let sizes = Sizes::of(config, tower);
            TowerGates {
                tower,
                sizes,
                logits: tower::beginning(sizes),
                adam: Adam::new(sizes.gates()),
                multipliers: vec![FIRST_MULTIPLIER; 2],
                climbing: Adam::new(2),
            }
        };
        Ok(Self {
            towers: towers.iter().map(gated).collect(),
            constraint,
            seed,
            steps: 0,
        })
    }

    /// Draws the next step's gates: what runs, and by what it is multiplied. Each tower's stream is named by
    /// seed, tower and step.
    pub(super) fn draw(&self, clip: &Clip, backend: &dyn Backend) -> Result<Drawn> {
        let opened: Vec<Opened> = self
            .towers
            .iter()
            .map(|t| {
                let mut rng = Philox::new(self.seed, Purpose::Gate, t.tower as u32, self.steps);
                Opened::draw(t.tower, t.sizes, &t.logits, &mut rng)
            })
            .collect();
        let gated = Gated::new(clip, &opened, backend).map_err(failed)?;
        let leaves = opened.iter().enumerate();
        let leaves = leaves.flat_map(|(i, o)| o.gates().into_iter().map(move |gate| (i, gate)));
        Ok(Drawn {
            leaves: leaves.collect(),
            opened,
            gated,
        })
    }

    /// One step of logits and multipliers, from the gradients by the factors of `drawn`, in their order.
    pub(super) fn update(
        &mut self,
        drawn: &Drawn,
        gradients: &[Option<Tensor>],
        backend: &dyn Backend,
    ) -> Result<GateReport> {
        let mut by_logit: Vec<Vec<f64>> = self
            .towers
            .iter()
            .map(|t| vec![0.0; t.logits.len()])
            .collect();
        for ((tower, gate), gradient) in drawn.leaves.iter().zip(gradients) {
            let Some(gradient) = gradient else { continue };
            let gradient = backend.download(gradient).map_err(failed)?;
            drawn.opened[*tower].gather(*gate, &gradient, &mut by_logit[*tower]);
        }
        let target = self.constraint.at(self.steps);
        let lagrangians = self.lagrangian(target);
        self.steps += 1;
        let (steps, constraint) = (self.steps, self.constraint);
        let mut report = vec![("sparsity_target".to_owned(), target)];
        for ((tower, by_logit), l) in self.towers.iter_mut().zip(&mut by_logit).zip(lagrangians) {
            for (sum, d) in by_logit.iter_mut().zip(&l.by_logit) {
                *sum += d;
            }
            tower
                .adam
                .step(&mut tower.logits, by_logit, constraint.rate, steps);
            for logit in &mut tower.logits {
                *logit = logit.clamp(-concrete::LIMIT, concrete::LIMIT);
            }
            let upwards = -constraint.multiplier_rate;
            let climbing = &mut tower.climbing;
            climbing.step(&mut tower.multipliers, &l.by_multiplier, upwards, steps);
            let word = tower.tower.word();
            report.push((format!("sparsity_{word}"), l.sparsity));
            for (i, multiplier) in (1..).zip(&tower.multipliers) {
                report.push((format!("lambda{i}_{word}"), f64::from(*multiplier)));
            }
        }
        Ok(report)
    }

    /// The expected sparsity of each tower and, of the constraint's loss, the gradients.
    fn lagrangian(&self, target: f64) -> Vec<Lagrangian> {
        let expected: Vec<(f64, Vec<f64>)> = self.towers.iter().map(TowerGates::expected).collect();
        let all = |part: &dyn Fn(usize) -> f64| (0..self.towers.len()).map(part).sum::<f64>();
        let whole = |i: usize| self.towers[i].sizes.weights();
        // A joint constraint sees the sums over the towers, and the means of their multipliers.
        let each = |i: usize| {
            let (left, of, share) = match self.constraint.joint {
                true => (
                    all(&|i| expected[i].0),
                    all(&whole),
                    1.0 / self.towers.len() as f64,
                ),
                false => (expected[i].0, whole(i), 1.0),
            };
            let multiplier = |k: usize| match self.constraint.joint {
                true => share * all(&|i| f64::from(self.towers[i].multipliers[k])),
                false => f64::from(self.towers[i].multipliers[k]),
            };
            // With t̂ = 1 − N/F:  ∂L/∂N = ±(λ₁ + 2 λ₂ |t − t̂|) / F, positive where too little has gone.
            let deficit = target - (1.0 - left / of);
            let size = deficit.abs();
            let by_left = deficit.signum() * (multiplier(0) + 2.0 * multiplier(1) * size) / of;
            Lagrangian {
                sparsity: 1.0 - expected[i].0 / whole(i),
                by_logit: expected[i].1.iter().map(|d| by_left * d).collect(),
                by_multiplier: [share * size, share * size * size],
            }
        };
        (0..self.towers.len()).map(each).collect()
    }

    /// The gates that stay: see [`Opened::for_good`].
    fn for_good(&self) -> Vec<Opened> {
        let each = |t: &TowerGates| {
            let (weights, _) = t.expected();
            Opened::for_good(t.tower, t.sizes, &t.logits, weights)
        };
        self.towers.iter().map(each).collect()
    }

    /// The really smaller model that the gates have arrived at, on `backend`, from the whole model's
    /// `parameters` there.
    ///
    /// # Errors
    /// If the device fails.
    pub fn export(
        &self,
        clip: &Clip,
        parameters: &Parameters,
        backend: &dyn Backend,
    ) -> Result<(Clip, Parameters)> {
        let opened = self.for_good();
        let whole = clip.config();
        let mut config = whole.clone();
        for opened in &opened {
            resize(&mut config, opened);
        }
        // Checks what a configuration file's reader would.
        let text = serde_json::to_string(&config).map_err(failed)?;
        let config = ClipConfig::from_json(&text).map_err(failed)?;
        let untouched = |t: &Tower| opened.iter().all(|o| o.tower != *t);
        let untouched: Vec<Tower> = Tower::ALL.into_iter().filter(untouched).collect();
        let mut rest = manual(whole, &config, &untouched).map_err(failed)?;
        rest.pieces.push(logit_scale());
        let clip = Clip::new(config);
        let mut smaller = clip.init(backend, self.seed).map_err(failed)?;
        let from = (backend, parameters);
        rest.apply(from, (backend, &mut smaller), |_, _| 1.0)
            .map_err(failed)?;
        for opened in &opened {
            let gates = opened.gates().into_iter();
            let factors: BTreeMap<_, _> = gates
                .map(|gate| (gated::leaf(opened.tower, gate), opened.factors(gate)))
                .collect();
            let factor = |gate: Gate, i: usize| {
                let factors = factors.get(&gated::leaf(opened.tower, gate));
                factors.and_then(|f| f.get(i)).copied().unwrap_or(1.0)
            };
            let part = Inheritance {
                pieces: gated::left(whole, opened),
                norms: Vec::new(),
            };
            part.apply(from, (backend, &mut smaller), factor)
                .map_err(failed)?;
        }
        Ok((clip, smaller))
    }

    /// What a resumed run needs of the gates.
    pub(super) fn state(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for tower in &self.towers {
            for (name, values) in tower.saved() {
                entries.push(Entry::f32(name, &[values.len()], values.clone()));
            }
        }
        entries
    }

    /// Takes over what [`Gates::state`] gave after `steps` steps, out of `tensors`; what is missing or
    /// misshapen goes to `problems`.
    pub(super) fn restore(
        &mut self,
        steps: u64,
        tensors: &mut BTreeMap<String, Entry>,
        problems: &mut Vec<String>,
    ) {
        self.steps = steps;
        for tower in &mut self.towers {
            for (name, values) in tower.saved_mut() {
                match tensors.remove(&name).map(|e| e.data) {
                    Some(Data::F32(data)) if data.len() == values.len() => *values = data,
                    Some(_) => problems.push(format!("{name} is of another size")),
                    None => problems.push(format!("{name} is missing")),
                }
            }
        }
    }
}

/// The tower's sizes in `config` as the gates leave them.
fn resize(config: &mut ClipConfig, opened: &Opened) {
    let (heads, mlp, layers) = opened.counts();
    let width = heads * opened.sizes.head_width;
    // The MLP's width is the whole part of width · ratio: half a channel more keeps rounding off it.
    let ratio = match mlp.is_multiple_of(width) {
        true => (mlp / width) as f64,
        false => (mlp as f64 + 0.5) / width as f64,
    };
    match opened.tower {
        Tower::Image => {
            let v = &mut config.vision_cfg;
            (v.width, v.layers, v.mlp_ratio) = (width, Layers::Blocks(layers), ratio);
        }
        Tower::Text => {
            let t = &mut config.text_cfg;
            (t.width, t.heads, t.layers, t.mlp_ratio) = (width, heads, layers, ratio);
        }
    }
}

/// What the constraint says of one tower.
struct Lagrangian {
    /// t̂ of the tower.
    sparsity: f64,
    by_logit: Vec<f64>,
    by_multiplier: [f64; 2],
}

impl TowerGates {
    /// The expected elements of the blocks' matrices, and their gradient by the logits.
    fn expected(&self) -> (f64, Vec<f64>) {
        let open = self.logits.iter().map(|&l| concrete::open(f64::from(l)));
        let (p, slope): (Vec<f64>, Vec<f64>) = open.unzip();
        let (left, by_p) = self.sizes.expected(&p);
        (left, by_p.iter().zip(slope).map(|(d, s)| d * s).collect())
    }

    fn name(&self, what: &str) -> String {
        format!("gates.{}.{what}", self.tower.word())
    }

    fn saved(&self) -> [(String, &Vec<f32>); 6] {
        [
            (self.name("logits"), &self.logits),
            (self.name("logits.m"), &self.adam.m),
            (self.name("logits.v"), &self.adam.v),
            (self.name("multipliers"), &self.multipliers),
            (self.name("multipliers.m"), &self.climbing.m),
            (self.name("multipliers.v"), &self.climbing.v),
        ]
    }

    fn saved_mut(&mut self) -> [(String, &mut Vec<f32>); 6] {
        let names = self.saved().map(|(name, _)| name);
        let [a, b, c, d, e, f] = names;
        [
            (a, &mut self.logits),
            (b, &mut self.adam.m),
            (c, &mut self.adam.v),
            (d, &mut self.multipliers),
            (e, &mut self.climbing.m),
            (f, &mut self.climbing.v),
        ]
    }
}

impl Drawn {
    /// The whole model's `parameters`, and after them every gate's factors.
    pub(super) fn beside(
        &self,
        parameters: &Parameters,
        backend: &dyn Backend,
    ) -> Result<Parameters> {
        let mut all = parameters.clone();
        for (i, gate) in &self.leaves {
            let opened = &self.opened[*i];
            let factors = opened.factors(*gate);
            let factors = backend.upload(&[factors.len()], &factors).map_err(failed)?;
            all.push(gated::leaf(opened.tower, *gate), factors);
        }
        Ok(all)
    }
}
