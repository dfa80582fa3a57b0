//! The gates against naive formulas, and the export against the masked model.

use super::concrete;
use super::tower::{Opened, Sizes};
use super::*;
use crate::autodiff::{Tape, Var};
use crate::backend::cpu::Cpu;
use crate::model::Bound;
use std::sync::Arc;

fn config() -> ClipConfig {
    let json = r#"{"embed_dim": 12,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 24, "layers": 4, "head_width": 8},
        "text_cfg": {"context_length": 9, "vocab_size": 50, "width": 20, "heads": 5, "layers": 3, "mlp_ratio": 3}}"#;
    ClipConfig::from_json(json).unwrap()
}

const CONSTRAINT: Constraint = Constraint {
    start: 0.0,
    target: 0.5,
    warmup: 10,
    joint: false,
    rate: 0.02,
    multiplier_rate: 0.02,
};

/// Gates with drawn logits.
fn gates(joint: bool) -> Gates {
    let constraint = Constraint {
        joint,
        ..CONSTRAINT
    };
    let mut gates = Gates::new(&config(), &Tower::ALL, constraint, 3).unwrap();
    let mut rng = Philox::new(1, Purpose::Test, 0, 0);
    for tower in &mut gates.towers {
        for logit in &mut tower.logits {
            *logit = 1.5 * rng.normal();
        }
        tower.multipliers = vec![3.0 + rng.uniform(), 7.0 + rng.uniform()];
    }
    gates
}

/// 1 − t̂, and all weights, straight from the definition: every element of every matrix of every block is
/// there with the product of the probabilities of all gates that it needs.
fn naive(sizes: Sizes, logits: &[f64]) -> (f64, f64) {
    let p = |logit: f64| 1.0 / (1.0 + (-(logit - (2.0 / 3.0) * (0.1f64 / 1.1).ln())).exp());
    let (w, h, d) = (sizes.width(), sizes.heads, sizes.head_width);
    let (m, layers) = (sizes.mlp, sizes.layers);
    let (mut left, mut all) = (0.0, 0.0);
    for layer in 0..layers {
        let block = p(logits[w + layers * (h + m) + layer]);
        for channel in 0..w {
            let channel = p(logits[channel]);
            for head in 0..h {
                let head = p(logits[w + layer * h + head]);
                // Query, key, value and output.
                left += 4.0 * d as f64 * block * channel * head;
                all += 4.0 * d as f64;
            }
            for hidden in 0..m {
                let hidden = p(logits[w + layers * h + layer * m + hidden]);
                left += 2.0 * block * channel * hidden;
                all += 2.0;
            }
        }
    }
    (left, all)
}

#[test]
fn expected_sparsity_and_lagrangian_are_the_naive_ones() {
    // More is to go than goes, and less.
    for (joint, target) in [(false, 0.9), (true, 0.9), (false, 0.1), (true, 0.1)] {
        let gates = gates(joint);
        let logits: Vec<Vec<f64>> = gates
            .towers
            .iter()
            .map(|t| t.logits.iter().map(|&l| f64::from(l)).collect())
            .collect();
        let sizes: Vec<Sizes> = gates.towers.iter().map(|t| t.sizes).collect();
        // The constraint's loss of all towers, of all logits and multipliers.
        let loss = |logits: &[Vec<f64>], multipliers: &[[f64; 2]]| {
            let parts: Vec<_> = (0..2).map(|i| naive(sizes[i], &logits[i])).collect();
            let of = |left: f64, all: f64, [a, b]: [f64; 2]| {
                let deficit: f64 = (target - (1.0 - left / all)).abs();
                a * deficit + b * deficit * deficit
            };
            if joint {
                let mean = |k: usize| 0.5 * (multipliers[0][k] + multipliers[1][k]);
                let (left, all) = (parts[0].0 + parts[1].0, parts[0].1 + parts[1].1);
                of(left, all, [mean(0), mean(1)])
            } else {
                (0..2)
                    .map(|i| of(parts[i].0, parts[i].1, multipliers[i]))
                    .sum()
            }
        };
        let multipliers: Vec<[f64; 2]> = gates
            .towers
            .iter()
            .map(|t| [0, 1].map(|k| f64::from(t.multipliers[k])))
            .collect();
        let found = gates.lagrangian(target);
        let close = |got: f64, want: f64, what: &str| {
            let allowed = 1e-7 * want.abs().max(1e-3);
            assert!((got - want).abs() <= allowed, "{what}: {got}, not {want}");
        };
        for (i, l) in found.iter().enumerate() {
            let (left, all) = naive(sizes[i], &logits[i]);
            close(l.sparsity, 1.0 - left / all, "sparsity");
            close(sizes[i].weights(), all, "all weights");
            let step = 1e-5;
            for gate in 0..logits[i].len() {
                let at = |by: f64| {
                    let mut moved = logits.clone();
                    moved[i][gate] += by;
                    loss(&moved, &multipliers)
                };
                let want = (at(step) - at(-step)) / (2.0 * step);
                let error = (l.by_logit[gate] - want).abs();
                assert!(
                    error <= 1e-8,
                    "gate {gate}: {}, not {want}",
                    l.by_logit[gate]
                );
            }
            for k in 0..2 {
                let at = |by: f64| {
                    let mut moved = multipliers.clone();
                    moved[i][k] += by;
                    loss(&logits, &moved)
                };
                close(l.by_multiplier[k], at(0.5) - at(-0.5), "multiplier");
            }
        }
    }
}

#[test]
fn draws_have_the_distribution_and_the_slope_of_the_hard_concrete() {
    for logit in [-2.0, 0.3, 3.0] {
        let n = 20_000;
        let drawn: Vec<f64> = (0..n)
            .map(|i| concrete::draw(logit, (f64::from(i) + 0.5) / f64::from(n)).0)
            .collect();
        let open = drawn.iter().filter(|&&z| z > 0.0).count() as f64 / f64::from(n);
        assert!((open - concrete::open(logit).0).abs() < 1e-4, "{open}");
        assert!(drawn.iter().all(|z| (0.0..=1.0).contains(z)));
        assert!(drawn.contains(&1.0) && drawn.contains(&0.0));
        for u in [0.2, 0.5, 0.7] {
            let h = 1e-5;
            let value = |by: f64| concrete::draw(logit + by, u).0;
            let want = (value(h) - value(-h)) / (2.0 * h);
            let got = concrete::draw(logit, u).1;
            assert!((got - want).abs() < 1e-8, "{got}, not {want}");
        }
    }
}

/// Draws are named by seed, tower and step.
#[test]
fn a_step_draws_the_same_gates_again() {
    let draw = |gates: &Gates| {
        let drawn = gates.draw(&Clip::new(config()), &Cpu::new()).unwrap();
        drawn.opened.iter().map(|o| o.z.clone()).collect::<Vec<_>>()
    };
    let mut gates = gates(false);
    let first = draw(&gates);
    assert_eq!(first, draw(&gates));
    assert_ne!(first[0][..20], first[1][..20]);
    gates.steps = 1;
    assert_ne!(first, draw(&gates));
}

/// Everything that a masked model is run on.
struct Scene {
    backend: Arc<dyn Backend>,
    clip: Clip,
    parameters: Parameters,
    images: Tensor,
    texts: Vec<Vec<i32>>,
}

impl Scene {
    fn new() -> Self {
        let backend: Arc<dyn Backend> = Arc::new(Cpu::new());
        let clip = Clip::new(config());
        let mut rng = Philox::new(9, Purpose::Test, 0, 0);
        let mut parameters = Parameters::default();
        for (name, shape) in clip.parameter_shapes() {
            let n = shape.iter().product();
            let scale = if shape.len() == 2 { 0.25 } else { 0.5 };
            let values: Vec<f32> = (0..n).map(|_| scale * rng.normal()).collect();
            parameters.push(name, backend.upload(&shape, &values).unwrap());
        }
        let pixels: Vec<f32> = (0..3 * 16 * 16 * 3).map(|_| rng.normal()).collect();
        let images = backend.upload(&[3, 16, 16, 3], &pixels).unwrap();
        Self {
            clip,
            parameters,
            images,
            texts: vec![vec![48, 1, 49], vec![48, 7, 3, 20, 49], vec![48, 49]],
            backend,
        }
    }

    fn features(&self, clip: &Clip, tape: &Tape, bound: &Bound) -> [Var; 2] {
        let image = clip.encode_image(tape, bound, &self.images).unwrap();
        [image, clip.encode_text(tape, bound, &self.texts).unwrap()]
    }

    /// The features of the model that `opened` masks, and the gates' factors.
    fn masked(&self, tape: &Tape, opened: Vec<Opened>) -> ([Var; 2], Bound, Drawn) {
        let gated = Gated::new(&self.clip, &opened, self.backend.as_ref()).unwrap();
        let leaves = opened.iter().enumerate();
        let leaves = leaves.flat_map(|(i, o)| o.gates().into_iter().map(move |g| (i, g)));
        let drawn = Drawn {
            leaves: leaves.collect(),
            opened,
            gated,
        };
        let all = drawn
            .beside(&self.parameters, self.backend.as_ref())
            .unwrap();
        let whole = all.bind(tape);
        let bound = drawn.gated.bind(tape, &whole).unwrap();
        (
            self.features(drawn.gated.clip(), tape, &bound),
            whole,
            drawn,
        )
    }
}

#[test]
fn the_exported_model_has_the_masked_models_features() {
    let scene = Scene::new();
    for towers in [&Tower::ALL[..], &[Tower::Image], &[Tower::Text]] {
        let mut gates = gates(false);
        gates.towers.retain(|t| towers.contains(&t.tower));
        let tape = Tape::frozen(scene.backend.clone());
        let ([image, text], _, drawn) = scene.masked(&tape, gates.for_good());
        let (clip, parameters) = gates
            .export(&scene.clip, &scene.parameters, scene.backend.as_ref())
            .unwrap();
        for (name, shape) in clip.parameter_shapes() {
            assert_eq!(
                parameters.get(&name).unwrap().tensor.shape(),
                shape,
                "{name}"
            );
        }
        let own = scene.features(&clip, &tape, &parameters.bind(&tape));
        for (masked, own) in [image, text].iter().zip(&own) {
            let read = |v: &Var| scene.backend.download(v.value()).unwrap();
            let (masked, own) = (read(masked), read(own));
            let largest = own.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            assert!(largest > 0.1, "{largest}");
            for (a, b) in masked.iter().zip(&own) {
                assert!((a - b).abs() <= 1e-5 * largest.max(1.0), "{a}, not {b}");
            }
        }
        // As many weights as the gates expect, but for what equal blocks of whole heads cannot be.
        for (opened, t) in drawn.opened.iter().zip(&gates.towers) {
            let (heads, mlp, layers) = opened.counts();
            assert!(
                layers < t.sizes.layers || mlp < t.sizes.mlp,
                "nothing pruned"
            );
            let same =
                |b: &crate::model::inherit::KeptBlock| b.heads.len() == heads && b.mlp.len() == mlp;
            assert!(opened.kept.blocks.iter().all(same));
            let w = (heads * t.sizes.head_width) as f64;
            let left = layers as f64 * (4.0 * w * w + 2.0 * w * mlp as f64);
            let (expected, _) = t.expected();
            let error = (left - expected).abs() / t.sizes.weights();
            assert!(error < 0.02, "{left} weights, not {expected}");
        }
    }
}

/// The gradient by every logit against central differences through the whole masked model.
#[test]
fn gradients_reach_the_logits() {
    let scene = Scene::new();
    let gates = gates(false);
    // u of each gate, fixed.
    let draw = |logits: &[Vec<f32>]| -> Vec<Opened> {
        let towers = gates.towers.iter().zip(logits);
        towers
            .map(|(t, logits)| {
                let mut rng = Philox::new(5, Purpose::Test, t.tower as u32, 0);
                Opened::draw(t.tower, t.sizes, logits, &mut rng)
            })
            .collect()
    };
    let logits: Vec<Vec<f32>> = gates.towers.iter().map(|t| t.logits.clone()).collect();
    let tape = Tape::new(scene.backend.clone());
    let (features, whole, drawn) = scene.masked(&tape, draw(&logits));
    let mut rng = Philox::new(6, Purpose::Test, 0, 0);
    let seeds: Vec<Vec<f32>> = features
        .iter()
        .map(|f| (0..f.value().len()).map(|_| rng.normal()).collect())
        .collect();
    let upload = |f: &Var, seed: &[f32]| scene.backend.upload(f.shape(), seed).unwrap();
    let tensors: Vec<(&Var, Tensor)> = features
        .iter()
        .zip(&seeds)
        .map(|(f, seed)| (f, upload(f, seed)))
        .collect();
    let grads = tape.backward_from(&tensors).unwrap();
    let mut by_logit: Vec<Vec<f64>> = logits.iter().map(|l| vec![0.0; l.len()]).collect();
    for (tower, gate) in &drawn.leaves {
        let name = gated::leaf(drawn.opened[*tower].tower, *gate);
        let gradient = grads.get(whole.var(&name).unwrap()).expect("a gradient");
        let gradient = scene.backend.download(gradient).unwrap();
        drawn.opened[*tower].gather(*gate, &gradient, &mut by_logit[*tower]);
    }
    let value = |logits: &[Vec<f32>]| -> f64 {
        let tape = Tape::frozen(scene.backend.clone());
        let (features, ..) = scene.masked(&tape, draw(logits));
        let products = features.iter().zip(&seeds).map(|(f, seed)| {
            let values = scene.backend.download(f.value()).unwrap();
            let terms = values.iter().zip(seed).map(|(a, b)| f64::from(a * b));
            terms.sum::<f64>()
        });
        products.sum()
    };
    // A step that leaves the set of open gates as it is, unless one is at its edge: those are left out.
    let step = 1.0 / 256.0;
    let largest = by_logit
        .iter()
        .flatten()
        .fold(0.0f64, |m, x| m.max(x.abs()));
    let (mut checked, mut moving) = (0, 0);
    for tower in 0..2 {
        for gate in 0..logits[tower].len() {
            let at = |by: f32| {
                let mut moved = logits.clone();
                moved[tower][gate] += by;
                moved
            };
            let (above, below) = (at(step), at(-step));
            let z = |l: &[Vec<f32>]| draw(l)[tower].z[gate];
            let edge = |z: f64| z == 0.0 || z == 1.0;
            if edge(z(&above)) != edge(z(&below)) {
                continue;
            }
            let want = (value(&above) - value(&below)) / (2.0 * f64::from(step));
            let got = by_logit[tower][gate];
            let allowed = 2e-3 * largest;
            assert!(
                (got - want).abs() <= allowed,
                "{tower} {gate}: {got}, not {want}"
            );
            checked += 1;
            moving += usize::from(got != 0.0);
        }
    }
    assert!(checked > 150 && moving > 50, "{checked}, {moving}");
}

#[test]
fn a_resnet_has_no_gates_and_says_what_to_do() {
    let config = ClipConfig::named("RN50").unwrap();
    let error = Gates::new(&config, &[Tower::Image], CONSTRAINT, 0).unwrap_err();
    assert!(error.to_string().contains("--inherit-from"), "{error}");
    assert!(Gates::new(&config, &[Tower::Text], CONSTRAINT, 0).is_ok());
}

#[test]
fn what_is_saved_is_restored() {
    let gates = gates(true);
    let entries = gates.state();
    let mut tensors: BTreeMap<String, Entry> =
        entries.into_iter().map(|e| (e.name.clone(), e)).collect();
    let mut other = Gates::new(&config(), &Tower::ALL, gates.constraint, 3).unwrap();
    let mut problems = Vec::new();
    other.restore(7, &mut tensors, &mut problems);
    assert!(problems.is_empty() && tensors.is_empty());
    assert_eq!(other.towers, gates.towers);
    other.restore(7, &mut tensors, &mut problems);
    assert_eq!(problems.len(), 12);
}
